"""The report of a fine-tuning study: accuracies against numbers of images and of frozen stages.

The networks of one seed share images, new layers and donor, so that a difference between methods,
or between numbers of frozen stages, is a value a seed.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from jaxdl.report.comparisons import (
    assemble,
    judged,
    minus,
    over_seeds,
    percent,
    reach,
    shows,
    warn_of_several,
)
from jaxdl.report.tables import (
    Estimate,
    bullets,
    format_mean,
    format_number,
    markdown_table,
    wilson_interval,
    write_rows,
)

DONOR = "donor"
"""The method of networks that give others their first stages."""


class Result(NamedTuple):
    """One trained network, a row of `results.csv`; NaN where training diverged."""

    method: str
    images: int  # that it was trained on; 0 for a donor
    frozen: int  # so many of the first stages
    seed: int
    accuracy: float  # a fraction, on the split that the run reports on; a donor's: on its own data
    validation: float
    train: float  # of the images that it was trained on
    loss: float  # cross-entropy in nats, where the accuracy is from


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results))


Condition = tuple[str, int, int]
"""Method, images, frozen stages."""


def by_condition(
    results: Iterable[Result], field: str = "accuracy"
) -> dict[Condition, dict[int, float]]:
    """Values by condition and seed, without diverged networks and donors."""
    values: dict[Condition, dict[int, float]] = {}
    for row in results:
        if row.method != DONOR:
            seeds = values.setdefault(row[:3], {})
            if row.accuracy == row.accuracy:
                seeds[row.seed] = getattr(row, field)
    return values


class Layout(NamedTuple):
    """The methods, references and counts by which a study's rows are compared."""

    frozen: Mapping[str, int]
    """The number of stages that each method freezes, in the order of the methods."""
    baseline: str
    """The method that others are compared with."""
    every_stage: str
    """The method that is also trained with other numbers of frozen stages; empty for none."""
    depth: int
    """The stages of a network."""
    evaluation_images: int
    """Number of images in the split that accuracies are measured on."""

    def condition(self, method: str, images: int) -> Condition:
        """The condition of a method on a number of images."""
        return method, images, self.frozen[method]

    def counts(self, results: Iterable[Result]) -> list[int]:
        """The numbers of images."""
        return sorted({row.images for row in results if row.method != DONOR})

    def stages(self, results: Iterable[Result]) -> list[int]:
        """The numbers of stages that are frozen of the one method; none if there is one only."""
        stages = sorted({row.frozen for row in results if row.method == self.every_stage})
        return stages if len(stages) > 1 else []


def best(results: Sequence[Result], layout: Layout) -> tuple[str, int, int, int] | None:
    """The first network of the method with the best mean validation accuracy on most images; None
    if all of those diverged."""
    most = layout.counts(results)[-1]
    validation = by_condition(results, "validation")
    conditions = [(method, most, n) for method, n in layout.frozen.items()]
    candidates = [c for c in conditions if validation[c]]
    choice = max(candidates, key=lambda c: over_seeds(validation[c]), default=None)
    return (*choice, min(validation[choice])) if choice else None


def verdict(subject: str, differences: Mapping[str, Estimate], reference: str) -> str:
    """Differences in words: "above with 10 (+3.1 ± 0.2); not shown to differ with 30"."""
    groups: dict[str, list[str]] = {}
    for condition, x in differences.items():
        word = "above" if shows(+1, x) else "below" if shows(-1, x) else "not shown to differ"
        groups.setdefault(word, []).append(f"{condition} ({_mean(x, signed=True)})")
    parts = "; ".join(f"{word} {', '.join(items)}" for word, items in groups.items())
    return f"{subject} against {reference}, in points: {parts}."


def findings(results: Sequence[Result], layout: Layout) -> list[str]:
    """Sentences on how many images a method is worth, on methods against the baseline and against
    ``every_stage``, and on numbers of frozen stages against that method's own."""
    accuracy, sentences, count = by_condition(results), [], 0
    counts, stages = layout.counts(results), layout.stages(results)
    references = dict.fromkeys(name for name in (layout.baseline, layout.every_stage) if name)
    for reference in references:
        for method in layout.frozen:
            if method in references and (method, reference) != (
                layout.every_stage,
                layout.baseline,
            ):
                continue
            differences = {
                f"with {images}": over_seeds(
                    minus(
                        accuracy[layout.condition(method, images)],
                        accuracy[layout.condition(reference, images)],
                    )
                )
                for images in counts
            }
            count += sum(map(judged, differences.values()))
            sentences.append(verdict(f"**{method}**", differences, reference))
    for images in counts if stages else ():
        own = layout.condition(layout.every_stage, images)
        differences = {
            f"n = {n}": over_seeds(minus(accuracy[layout.every_stage, images, n], accuracy[own]))
            for n in stages
            if (layout.every_stage, images, n) != own
        }
        count += sum(map(judged, differences.values()))
        subject = f"**{layout.every_stage}** with the first n of {layout.depth} stages frozen"
        reference = f"its own with {layout.frozen[layout.every_stage]}"
        sentences.append(verdict(f"{subject}, {images} images,", differences, reference))
    opening = [*uncertainty_of_images(results, layout), *image_counts(accuracy, layout, counts)]
    return [*opening, *sentences, *warn_of_several(count)]


def uncertainty_of_images(results: Sequence[Result], layout: Layout) -> list[str]:
    """Accuracy of the method that is best on validation, with Wilson's interval over images."""
    if not (network := best(results, layout)):
        return []
    method, images, *_ = network
    share = over_seeds(by_condition(results)[network[:3]]).mean
    low, high = wilson_interval(share, layout.evaluation_images)
    return [
        f"**{method}** with {images} images, the best by validation, has a mean accuracy of "
        f"{percent(share)} on {layout.evaluation_images:,} images. Standard errors over seeds do "
        "not include the choice of these images: Wilson's 95% interval for the accuracy on new "
        f"images is {format_number(low, 100)} to {percent(high)}."
    ]


def image_counts(
    accuracy: Mapping[Condition, Mapping[int, float]], layout: Layout, counts: Sequence[int]
) -> list[str]:
    """Sentences on how many images the baseline needs to reach, on average, the methods that are
    shown to be above it with the fewest images."""
    means = {condition: over_seeds(seeds).mean for condition, seeds in accuracy.items()}
    fewest, name, sentences = counts[0], layout.baseline, []
    for method in layout.frozen:
        value = means[layout.condition(method, fewest)]
        gain = minus(
            accuracy[layout.condition(method, fewest)], accuracy[layout.condition(name, fewest)]
        )
        if len(counts) == 1 or not shows(+1, over_seeds(gain)):
            continue
        sufficient = [c for c in counts if means[layout.condition(name, c)] >= value]
        text = f"needs {sufficient[0]} for that" if sufficient else f"has less with {counts[-1]}"
        sentences.append(
            f"**{method}** has {format_number(value, 100)} % with {fewest} images; {name}, by the "
            f"means of this run, {text}."
        )
    return sentences


def table(results: Sequence[Result], layout: Layout) -> str:
    """Markdown: a row a number of images and method; differences are paired by seed."""
    accuracy, train = by_condition(results), by_condition(results, "train")
    validation, rows = by_condition(results, "validation"), []
    for images in layout.counts(results):
        for method, n in layout.frozen.items():
            condition = method, images, n
            gain = minus(accuracy[condition], accuracy[layout.condition(layout.baseline, images)])
            values = (over_seeds(x[condition]) for x in (accuracy, validation, train))
            cells = [_mean(x) for x in values]
            networks = sum(row[:3] == condition for row in results)
            difference = "" if method == layout.baseline else _mean(over_seeds(gain), signed=True)
            networks_used = f"{len(accuracy[condition])} of {networks}"
            rows.append((images, method, n, cells[0], difference, *cells[1:], networks_used))
    header = (
        *("images", "method", "frozen stages", "accuracy, %", f"minus {layout.baseline}, points"),
        *("on validation, %", "in training, %", "networks"),
    )
    return markdown_table(header, rows, left=2)


def stage_table(results: Sequence[Result], layout: Layout) -> str:
    """Markdown: a row a number of images and of frozen stages of the one method."""
    accuracy, train, rows = by_condition(results), by_condition(results, "train"), []
    for images, n in product(layout.counts(results), layout.stages(results)):
        condition = layout.every_stage, images, n
        differences = (
            minus(accuracy[condition], accuracy[layout.condition(reference, images)])
            for reference in (layout.every_stage, layout.baseline)
        )
        cells = (_mean(over_seeds(x), signed=True) for x in differences)
        means = (_mean(over_seeds(x[condition])) for x in (accuracy, train))
        rows.append((images, n, next(means), *cells, *means))
    header = (
        "images",
        "n",
        "accuracy, %",
        "minus own",
        f"minus {layout.baseline}",
        "in training, %",
    )
    return markdown_table(header, rows) if rows else ""


def _mean(x: Estimate, signed: bool = False) -> str:
    return format_mean(x.mean, x.se, signed=signed)


METHOD = """\
- Means ± standard errors are over seeds (standard deviation with m − 1, over √m). A seed draws
  images, new layers and their order{donor}; all seeds share the test images.
- Differences are taken within a seed. One is called above or below where its two-sided 95% t
  interval over seeds excludes zero: {reach}.
- Every network is judged after its last step. Validation images choose nothing but the method of
  the first finding and the network of the page of predictions. For networks on few images there
  are more validation images than training images; with so few images in all, one could not choose
  by validation.
- That page, `predictions.png`, has the surest mistakes first, in red: what the network sees, with
  its probability, and what it is. The others are images at random.
- Every network, those from scratch too, sees images normalized by the donor's mean and deviation.
- "In training" is on the images that a network was given, unchanged.
- Networks that diverged, or went on from one that did, are left out of every mean."""

OWN_DONOR = """ and its own donor,
  whose initial parameters are those of the networks from scratch, but for the last stage: their
  difference is what the donor learnt. Initial values differ between seeds"""


def report(results: Sequence[Result], layout: Layout, facts: Mapping[str, str]) -> str:
    """The whole report in Markdown."""
    donors = {row.seed: row.accuracy for row in results if row.method == DONOR}
    lines = dict(facts)
    if donors:
        lines["Donors"] += f"; there they have {_mean(over_seeds(donors))} %"
    diverged = [" ".join(map(str, row[:4])) for row in results if row.accuracy != row.accuracy]
    donor_note = OWN_DONOR if donors else "; the donor is the same for all"
    method = METHOD.format(donor=donor_note, reach=reach(len({row.seed for row in results})))
    parts = [
        ("Findings", bullets(findings(results, layout))),
        ("Accuracy against images", table(results, layout)),
        (f"{layout.every_stage}, the first n stages frozen", stage_table(results, layout)),
        ("Diverged networks (method, images, frozen stages, seed)", bullets(diverged)),
        ("How the numbers are computed", method),
    ]
    return assemble("Fine-tuning", {"Networks": str(len(results)), **lines}, parts)
