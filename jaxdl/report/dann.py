"""The report of the domain-adaptation study (Ganin & Lempitsky 2015), for one pair of domains.

Seeds are the samples. The networks of one seed are compared with each other, so that a difference
or a covered gap is a value a seed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdl.report import criteria
from jaxdl.report.adapted import (
    BOUNDS,
    MINIMAL_GAP,
    Changes,
    Diagnosis,
    Networks,
    Result,
    Summary,
    gaps_of,
    join,
    name_of,
    sound_networks,
    summarize,
    target,
    unlabelled,
)
from jaxdl.report.comparisons import (
    assemble,
    compare,
    judged,
    list_seeds,
    minus,
    over_seeds,
    percent,
    reach,
    warn_of_several,
)
from jaxdl.report.tables import (
    MISSING,
    Estimate,
    bullets,
    confidence_interval,
    format_mean,
    format_number,
    markdown_table,
)

PAIRS = {
    "mnist_to_mnist_m": "MNIST → MNIST-M",
    "syn_numbers_to_svhn": "SYN NUMBERS → SVHN",
    "svhn_to_mnist": "SVHN → MNIST",
    "syn_signs_to_gtsrb": "SYN SIGNS → GTSRB",
}
CONTROLS = ("source_only", "source_recoloured", "source_on_target")
"""Methods whose loss has labelled images alone; those of the last are drawn on target images."""


class Published(NamedTuple):
    """A published target accuracy."""

    source: str
    pair: str
    method: str
    target_accuracy: float
    note: str = ""
    """Differences from the paper's networks that make it no match."""


def _adapted(method: str) -> bool:
    return method not in (*CONTROLS, "target_only")


def _control(method: str, networks: Networks, changes: Mapping[str, Changes]) -> str | None:
    """The method that a method is compared with; None without one.

    DANN, or else a control, with equally changed images if there is such a method: what these
    alone do is not the method's effect.
    """
    if method == "target_only":
        return None
    names = ("dann", *CONTROLS) if _adapted(method) else ("source_only",)
    controls = [m for m in names if m in networks and m != method]
    matches = [m for m in controls if changes.get(m, Changes()) == changes.get(method, Changes())]
    return next(iter(matches or controls), None)


def _compare_published(subject: str, x: Estimate, published: Sequence[Published]) -> str:
    if not judged(x):
        value = f"{percent(x.mean)} in each of {x.used} seeds, which gives no interval"
        value = value if x.used > 1 else "too few seeds"
        return f"It cannot be judged how {subject} compares with published numbers: {value}."
    low, high = confidence_interval(x)
    judgements = []
    for p in published:
        is_above, is_below = p.target_accuracy < low, p.target_accuracy > high
        side = "above" if is_above else "below" if is_below else "not shown to differ from"
        judgements.append(f"{side} {p.source}'s {name_of(p.method)} ({percent(p.target_accuracy)})")
    reach = f"{format_number(max(low, 0.0), 100)} to {percent(min(high, 1.0))}"
    interval = f"{reach} (95% interval, {x.used} seeds)"
    return f"{subject}, its mean in {interval}, is {'; '.join(judgements)}."


def findings(
    results: Iterable[Result],
    diagnoses: Iterable[Diagnosis],
    published: Sequence[Published],
    changes: Mapping[str, Changes],
) -> list[str]:
    """Each method against DANN, by seed, and against the published numbers, in words.

    DANN itself, every method of a run without DANN, and methods whose images are changed unlike
    DANN's are compared with source only, with equally changed images if there is such a method.
    Source only and train on target are compared with the published numbers of the same method,
    except on changed images, which none of the papers had; any other method with those of all
    other methods that have no note. Without target labels there is a single sentence.
    """
    counted = sound_networks(join(results, diagnoses))
    if unlabelled(counted):
        return [
            "The target has no labels: there is no target accuracy to judge a method by. The "
            "criteria below need none, and each of them can mislead."
        ]
    sentences, count = [], 0
    for method in counted:
        accuracies, name = target(counted, method), f"**{name_of(method)}**"
        if control := _control(method, counted, changes):
            gain = over_seeds(minus(accuracies, target(counted, control)))
            pair = (changes.get(m, Changes()) for m in (method, control))
            kinds = zip(Changes._fields, *pair, strict=True)
            differ = ", ".join(f"{kind} {a:g} against {b:g}" for kind, a, b in kinds if a != b)
            differ = f" ({differ})" if differ else ""
            sentences.append(compare(name, gain, f"{name_of(control)}{differ}, by target accuracy"))
            count += judged(gain)
        rows = [
            p
            for p in published
            if not p.note and (_adapted(p.method) if _adapted(method) else p.method == method)
        ]
        if rows and method in BOUNDS and any(changes.get(method, Changes())):
            sentences.append(
                f"{name} was trained on changed images, which no published number of it was: they "
                "are not compared."
            )
        elif rows:
            mean = over_seeds(accuracies)
            sentences.append(_compare_published(name, mean, rows))
            count += len(rows) * judged(mean)
    return sentences + warn_of_several(count)


def _published_gap(row: Published, published: Sequence[Published]) -> float:
    accuracies = {p.method: p.target_accuracy for p in published if p[:2] == row[:2]}
    low, high = (accuracies.get(m, math.nan) for m in BOUNDS)
    wide = high - low >= MINIMAL_GAP and row.method not in BOUNDS
    return (row.target_accuracy - low) / (high - low) if wide else math.nan


def table(summary: Sequence[Summary], published: Sequence[Published]) -> str:
    """Markdown: a row a method, then a row for each published number of this pair."""
    rows = []
    for s in summary:
        marks = [f"{s.networks} of {s.networks + len(s.collapsed) + len(s.diverged)}"]
        for seeds, word in ((s.collapsed, "collapsed"), (s.diverged, "diverged")):
            marks += [f"{list_seeds(seeds)} {word}"] * bool(seeds)
        estimates = (s.source_accuracy, s.target_accuracy, s.gap_covered)
        cells = (format_mean(x.mean, x.se, 100) for x in estimates)
        rows.append((name_of(s.method), *cells, "; ".join(marks)))
    notes = list(dict.fromkeys(p.note for p in published if p.note))
    for p in published:
        gap = format_number(_published_gap(p, published), 100)
        mark = f" [{notes.index(p.note) + 1}]" if p.note else ""
        label = f"{p.source}: {name_of(p.method)}{mark}"
        rows.append((label, MISSING, format_number(p.target_accuracy, 100), gap, "published"))
    header = ("method", "source accuracy, %", "target accuracy, %", "gap covered, %", "networks")
    footnotes = "; ".join(f"[{i}] {note}" for i, note in enumerate(notes, start=1))
    return markdown_table(header, rows) + f"\n\n{footnotes}." * bool(notes)


METHOD = """\
- Accuracies are of test images, mean ± standard error over seeds (standard deviation with m − 1,
  over √m). Seeds share the images: ± is the luck of initialization and order alone.
- Gap covered: (method − source only) / (train on target − source only), of target accuracies. Ours
  is computed in each seed and averaged; a published one from the printed accuracies.
- A finding "shows" where the two-sided 95% t interval over seeds excludes zero: {reach}.
  Nothing is corrected for there being several. A published number is taken as exact, though it has
  an error of its own that was not published.
- Networks that diverged, or that put .9 of the target images in one class (more where a class has
  more than .8 of the source), are in no mean, no finding and no criterion. This is decided without
  target labels, but a method that collapses in one seed of several has that risk: read the column
  of networks with its mean."""


LAST_STEP = "Our numbers are of the last step; an adapted network's loss has no target label."


def report(
    results: Sequence[Result],
    diagnoses: Sequence[Diagnosis],
    published: Sequence[Published],
    *,
    changes: Mapping[str, Changes],
    facts: Mapping[str, str],
) -> str:
    """The whole report in Markdown: findings, table, diagnostics, criteria, method.

    Args:
      results, diagnoses: results and diagnoses of all networks of the study, of one pair.
      published: published numbers, of any pairs.
      changes: how labelled images are changed, by method; not at all for others.
      facts: lines for the head, such as `{"Time": "94 s", "Device": "2 CPU cores"}`.
    """
    networks = join(results, diagnoses)
    counted, pair = sound_networks(networks), next((r.pair for r in results), "")
    published = [p for p in published if p.pair == pair]
    changed, no_gap = [m for m in networks if changes.get(m, Changes()).recolouring], ""
    drawn = [name_of(m) for m in networks if changes.get(m, Changes()).backgrounds]
    left = " The gap covered is the one that recolouring leaves."
    recoloured = f"Trained on recoloured images: {', '.join(map(name_of, changed))}."
    recoloured += left * ("source_only" in changed and not unlabelled(counted))
    gaps = gaps_of(counted)
    if gaps and min(gaps.values()) < MINIMAL_GAP:
        seed = min(gaps, key=gaps.__getitem__)
        no_gap = (
            f"No gap covered is given: in seed {seed} train on target minus source only is "
            f"{format_number(gaps[seed], 100, signed=True)} points, and a share of less than "
            f"{100 * MINIMAL_GAP:g} points means nothing."
        )
    sentences = criteria.diagnostics(networks) or [
        "Nothing to report: no domain classifier has won or lost, every λ rose, and no network "
        "collapsed or diverged."
    ]
    sections = [
        ("Findings", bullets(findings(results, diagnoses, published, changes))),
        ("Results", table(summarize(results, diagnoses), published)),
        ("", LAST_STEP),
        ("", recoloured * bool(changed)),
        ("", f"Labelled images partly drawn on target images: {', '.join(drawn)}." * bool(drawn)),
        ("", no_gap),
        ("", "There are no published numbers beside ours." * (not published)),
        ("Diagnostics", bullets(sentences)),
        ("Criteria that need no target labels", criteria.table(counted)),
        ("", bullets(criteria.choices(counted))),
        (
            "How the numbers are computed",
            METHOD.format(reach=reach(len({r.seed for r in results}))),
        ),
    ]
    title = f"Domain adaptation: {PAIRS.get(pair, pair.replace('_to_', ' → '))}"
    return assemble(title, {"Networks": str(len(results)), **facts}, sections)
