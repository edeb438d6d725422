"""The report of a study of dense answers: representations beside a baseline, over seeds.

Methods may have been trained at several values of one setting, the number of images above all; at
each value they are compared with the baseline, paired by seed.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdl.data.source import Split
from jaxdl.report.comparisons import (
    Comparison,
    assemble,
    compare,
    compare_all,
    judged,
    list_seeds,
    minus,
    over_seeds,
    warn_of_several,
)
from jaxdl.report.supervised import Point, by_point, label, value_order
from jaxdl.report.tables import (
    bullets,
    format_mean,
    markdown_table,
    mean_and_standard_error,
    read_rows,
    write_rows,
)

SCORES = {"locate": "right answers", "count": "1 − MAE / mean", "segment": "F1"}
"""What is compared, by question; see :class:`Result`."""


class Result(NamedTuple):
    """One trained network, a row of `results.csv`; NaN where it diverged, or has no such number.

    All are of the test split, or of that which the run reports on.
    """

    method: str
    value: str
    seed: int
    score: float
    """Of ``locate`` the share of right answers: whether it is there, and where, within the
    tolerance; of ``count`` 1 − mean absolute error / mean count; of ``segment`` F1."""
    auc: float = math.nan
    """Area under the ROC curve of images (is it there?) or of pixels."""
    overlap: float = math.nan
    """Dice of all masks; average precision of instances at an IoU of .5; or the area under the
    precision-recall curve of pixels."""
    error: float = math.nan
    """Mean distance in pixels, where it is there; or mean absolute error of counts."""
    rmse: float = math.nan
    """Root mean square error of counts."""
    shifted: float = math.nan
    """The score on shifted images."""
    shifted_error: float = math.nan
    """And the error."""


Column = tuple[str, str, float, int]
"""A field of :class:`Result`, its title, the factor and the decimals it is written with."""
COLUMNS: Mapping[str, Sequence[Column]] = {
    "locate": (
        ("score", "right, %", 100, 1),
        ("auc", "is it there? AUC, %", 100, 1),
        ("error", "where? mean distance, pixels", 1, 1),
        ("overlap", "Dice of masks, %", 100, 1),
    ),
    "count": (
        ("score", "1 − MAE / mean, %", 100, 1),
        ("error", "MAE", 1, 2),
        ("rmse", "RMSE", 1, 2),
        ("overlap", "instances, AP at IoU .5, %", 100, 1),
        ("shifted", "1 − MAE / mean on shifted images, %", 100, 1),
        ("shifted_error", "MAE on shifted images", 1, 2),
    ),
    "segment": (
        ("score", "F1, %", 100, 2),
        ("auc", "AUC, %", 100, 2),
        ("overlap", "precision-recall area, %", 100, 1),
        ("shifted", "F1 on shifted images, %", 100, 1),
    ),
}


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return read_rows(path, Result, key=3)


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results))


def points(results: Sequence[Result]) -> list[Point]:
    """Methods at their values, in the table's order: by value, then by score."""
    means = {point: over_seeds(seeds) for point, seeds in by_point(results).items()}
    scores = {point: -mean.mean if mean.used else math.inf for point, mean in means.items()}
    return sorted(means, key=lambda point: (value_order(point[1]), scores[point]))


def differences(
    results: Sequence[Result], baseline: str, field: str = "score"
) -> dict[Point, dict[int, float]]:
    """By method and value the scores, or another field, less those of the baseline at the same
    value, or at its only one, by seed; not where the baseline was not trained at the value."""
    scores = by_point(results, field)
    own = [point for point in scores if point[0] == baseline]
    pairs = {p: own[0] if len(own) == 1 else (baseline, p[1]) for p in scores}
    return {
        p: minus(scores[p], scores[pairs[p]])
        for p in points(results)
        if pairs[p] in scores and p != pairs[p]
    }


def table(results: Sequence[Result], question: str, baseline: str) -> str:
    """Markdown: a row a method and value; differences to the baseline are paired by seed."""
    columns = [
        c for c in COLUMNS[question] if any(not math.isnan(getattr(r, c[0])) for r in results)
    ]
    values = {field: by_point(results, field) for field, *_ in columns}
    gains, swept = differences(results, baseline), any(r.value for r in results)
    rows = []
    for point in points(results):
        gain = over_seeds(gains.get(point, {}))
        text = format_mean(gain.mean, gain.se, signed=True) if point in gains else ""
        count = sum((r.method, r.value) == point for r in results)
        row = [point[0], *([point[1]] if swept else [])]
        for field, _, scale, digits in columns:
            estimate = over_seeds(values[field][point])
            row.append(format_mean(estimate.mean, estimate.se, scale, digits))
        rows.append([*row, text, f"{len(values['score'][point])} of {count}"])
    titles = ["method", *(["value"] if swept else []), *(title for _, title, *_ in columns)]
    titles += [f"minus {baseline}, points", "networks"]
    return markdown_table(titles, rows, left=1 + swept)


def findings(
    results: Sequence[Result], question: str, baseline: str, guesses: Sequence[Comparison] = ()
) -> list[str]:
    """Each method against the baseline at the same value, in words: by the score, by the score on
    shifted images, and by the area under the ROC curve; and against a guess."""
    measures = {"score": SCORES[question], "shifted": f"{SCORES[question]} on shifted images"}
    area = "the area under the ROC curve of "
    measures |= {"auc": area + ("pixels" if question == "segment" else "whether it is there")}
    comparisons: list[Comparison] = []
    for field, name in measures.items():
        for (method, value), gain in differences(results, baseline, field).items():
            estimate = over_seeds(gain)
            if not math.isnan(estimate.mean):
                subject = f"**{method}**" + (f" at {value}" if value else "")
                comparisons.append((subject, estimate, f"{baseline}, by {name}"))
    sentences = [*compare_all(comparisons), *(compare(*own, unit="image") for own in guesses)]
    return sentences + warn_of_several(sum(judged(x) for _, x, _ in [*comparisons, *guesses]))


def against_guess(
    predictions: Mapping[tuple, Mapping[str, Any]], tests: Mapping[str, Split], guess: float
) -> list[Comparison]:
    """Each method's counts against one number for all images, paired by image.

    Args:
      guess: the median of the training images' counts, of which the MAE is least.
      predictions: :class:`jaxdl.dense.Counts` by method, value and seed, and by data set.
      tests: the truths, by data set; those without a ``count`` are left out.
    """
    comparisons: list[Comparison] = []
    for name, split in tests.items():
        if "count" not in split:
            continue
        counts = np.asarray(split["count"])
        errors: dict[Point, list[Float[np.ndarray, " n"]]] = {}
        for (method, value, _), answers in sorted(predictions.items()):
            errors.setdefault((method, value), []).append(np.abs(answers[name].counts - counts))
        own = np.abs(guess - counts)
        for point, seeds in errors.items():
            gain = (own - np.mean(np.stack(seeds), 0)) / np.mean(counts)
            reference = f"a guess of {guess:.1f} for all images, whose MAE is {np.mean(own):.2f}"
            reference += " on shifted images" if name == "shifted" else ""
            estimate = mean_and_standard_error(gain)
            networks = f"**{label(point)}**, on average over these {len(seeds)} networks,"
            comparisons.append((networks, estimate, f"{reference}, by {SCORES['count']}"))
    return comparisons


def describe_places(test: Split, tolerance: float) -> str:
    """When an answer is right, and in how many images the answer would be that it is not there.

    Args:
      test: the truth, with ``point``, NaN where it is not there.
      tolerance: pixels by which a place may be wrong.
    """
    absent = 100 * np.isnan(np.asarray(test["point"])).any(1).mean()
    guess = f"; the answer that it is never there would be right on {absent:.1f} %" * bool(absent)
    return f"a place is right within {tolerance:g} pixels{guess}"


METHOD = """\
- Means ± standard errors are over seeds (standard deviation with m − 1, over √m). A seed draws the
  initialization, the order, and which images a network is trained on: the same for all methods.
- Differences are taken within a seed, those to a guess within an image, of mean errors over seeds.
  A finding "shows" when the two-sided 95% t interval over seeds, or images, excludes zero.
- Thresholds of whether it is there, and of pixels, are chosen on the validation images, by each
  network for itself; test images choose nothing. A run that reports on validation images judges by
  the same that its thresholds are chosen on. Dice of masks, and instances, use .5.
- Networks that diverged, or went on from one that did, are left out of every mean."""


def report(
    results: Sequence[Result],
    question: str,
    baseline: str,
    facts: Mapping[str, str],
    guesses: Sequence[Comparison] = (),
) -> str:
    """The whole report in Markdown; ``guesses`` as :func:`against_guess` returns them."""
    lost = {
        point: sorted({r.seed for r in results if (r.method, r.value) == point} - set(seeds))
        for point, seeds in by_point(results).items()
    }
    parts = [
        ("Findings", bullets(findings(results, question, baseline, guesses))),
        ("Results", table(results, question, baseline)),
        (
            "Diverged networks",
            bullets(f"{label(p)}, {list_seeds(s)}" for p, s in lost.items() if s),
        ),
        ("How the numbers are computed", METHOD),
    ]
    return assemble("Answers that are pictures", {"Networks": str(len(results)), **facts}, parts)
