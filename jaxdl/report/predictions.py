"""Analyses of trained networks' outputs: operating points of two classes, ensembles, bias and
variance, cross-validation.

``networks`` are NamedTuples of a method, a value and a seed, see
:class:`jaxdl.report.supervised.Result`; their predictions come by split: "train", "validation",
"test".
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from jaxdl.report.comparisons import compare, minus, over_seeds
from jaxdl.report.supervised import Point, Standing, label
from jaxdl.report.tables import Estimate, bullets, format_mean, format_number, markdown_table


class Prediction(NamedTuple):
    """A network's outputs for some examples, and the right answers."""

    outputs: Float[np.ndarray, "n k"]
    """Logits of k classes; or predicted numbers, k = 1, in the units of the answers."""
    answers: Num[np.ndarray, " n"]
    """Labels, integers; or numbers."""


Predictions = Mapping[Any, Mapping[str, Prediction]]
"""Predictions by network and split."""


def is_classes(prediction: Prediction) -> bool:
    """Whether the answers are classes."""
    return np.issubdtype(prediction.answers.dtype, np.integer)


def probabilities(logits: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "... k"]:
    """The softmax, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def score(prediction: Prediction) -> float:
    """Accuracy, or R²; NaN where outputs are not finite."""
    outputs, answers = prediction
    if not np.isfinite(outputs).all():
        return math.nan
    if is_classes(prediction):
        labelled = answers >= 0
        return float(np.mean(outputs.argmax(-1)[labelled] == answers[labelled]))
    errors, spread = answers - outputs[:, 0], answers - answers.mean()
    return float(1 - np.sum(errors**2) / np.sum(spread**2))


def loss(prediction: Prediction) -> float:
    """Mean cross-entropy in nats, or mean squared error."""
    outputs, answers = prediction
    if not np.isfinite(outputs).all():
        return math.nan
    if is_classes(prediction):
        labelled = np.flatnonzero(answers >= 0)
        logits = outputs[labelled].astype(np.float64)
        top = logits.max(-1)
        log_sums = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        return float(np.mean(log_sums - logits[np.arange(len(labelled)), answers[labelled]]))
    return float(np.mean((answers - outputs[:, 0]) ** 2))


def scores(parts: Mapping[str, Prediction], split: str) -> tuple[float, float, float, float]:
    """The last fields of a :class:`jaxdl.report.supervised.Result` that reports on a split."""
    by_split = {name: score(prediction) for name, prediction in parts.items()}
    return by_split[split], by_split["validation"], by_split["train"], loss(parts[split])


def by_point(predictions: Predictions) -> dict[Point, dict[int, Mapping[str, Prediction]]]:
    """Predictions by method and value, and by seed; without networks whose outputs are not
    finite."""
    points: dict[Point, dict[int, Mapping[str, Prediction]]] = {}
    for network, parts in predictions.items():
        seeds = points.setdefault((network.method, network.value), {})
        if all(np.isfinite(part.outputs).all() for part in parts.values()):
            seeds[network.seed] = parts
    return points


# Two classes, of which the second is looked for.


def operating_point(parts: Mapping[str, Prediction], split: str) -> dict[str, float]:
    """Precision, recall, F1 of the second of two classes, at probability .5 and at the threshold
    that is best on validation; areas under its ROC curve and under precision against recall."""
    from sklearn import metrics  # slow to import

    margins = {name: part.outputs[:, 1] - part.outputs[:, 0] for name, part in parts.items()}
    answers = parts[split].answers
    precision, recall, thresholds = metrics.precision_recall_curve(
        parts["validation"].answers, margins["validation"]
    )
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    threshold = float(thresholds[np.argmax(f1[:-1])])

    def measures(threshold: float) -> tuple[float, float, float]:
        positive = margins[split] >= threshold
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            answers, positive, average="binary", zero_division=0
        )
        return float(precision), float(recall), float(f1)

    names = ("precision", "recall", "F1")
    extra = dict(zip((f"{name} at threshold" for name in names), measures(threshold), strict=True))
    return {
        "accuracy": score(parts[split]),
        **dict(zip(names, measures(0.0), strict=True)),
        **extra,
        "ROC area": metrics.roc_auc_score(answers, margins[split]),
        "average precision": metrics.average_precision_score(answers, margins[split]),
    }


def two_classes(predictions: Predictions, split: str, baselines: Mapping[Point, Point]) -> str:
    """Operating points of every method in a table, and differences of F1 to the reference in words.

    Args:
      baselines: reference of each point, see :func:`jaxdl.report.supervised.references`; a point
        without one is a baseline, whose F1 at the threshold is compared with its own F1.
    """
    points = {
        point: {seed: operating_point(parts, split) for seed, parts in seeds.items()}
        for point, seeds in by_point(predictions).items()
        if seeds
    }
    if not points:
        return ""
    columns = list(next(iter(next(iter(points.values())).values())))

    def values(point: Point, column: str) -> dict[int, float]:
        return {seed: row[column] for seed, row in points[point].items()}

    rows = []
    for point in points:
        estimates = [over_seeds(values(point, column)) for column in columns]
        rows.append((label(point), *(format_mean(x.mean, x.se) for x in estimates)))
    sentences = []
    for column in ("F1", "F1 at threshold"):
        for point in points:
            baseline = baselines.get(point, point)
            if baseline in points and (point, column) != (baseline, "F1"):
                gain = over_seeds(minus(values(point, column), values(baseline, "F1")))
                subject = f"**{label(point)}**" + column.removeprefix("F1")
                sentences.append(compare(subject, gain, f"{label(baseline)}, by F1"))
    answers = next(iter(predictions.values()))[split].answers
    rest = format_number(1 - np.mean(answers == 1), 100)
    sentences.append(
        f"{rest} % of the examples are not of the class looked for: a classifier that never "
        "predicts it has that accuracy, and an F1 of 0. The threshold is the best by F1 on "
        "validation."
    )
    names = ("in %", *columns)
    return markdown_table(names, rows) + "\n\n" + bullets(sentences)


# Ensembles.


class Bags(NamedTuple):
    """Scores of bags of networks, by the number of the bag."""

    member: dict[int, float]
    """Mean score of a bag's networks."""
    mean: dict[int, float]
    """Score of their mean probabilities or, for regression, of their mean output."""
    vote: dict[int, float]
    """Score of the class that most networks predict; empty for regression."""


def score_bags(predictions: Predictions, split: str, bag: int) -> dict[Point, Bags]:
    """Scores of bags of ``bag`` networks of a method with consecutive seeds; a bag in which a
    network diverged is left out."""
    scores = {}
    for point, seeds in by_point(predictions).items():
        bags: dict[int, list[Prediction]] = {}
        for seed, by_split in seeds.items():
            bags.setdefault(seed // bag, []).append(by_split[split])
        bags = {i: parts for i, parts in bags.items() if len(parts) == bag}
        member, mean, vote = dict[int, float](), dict[int, float](), dict[int, float]()
        for i, parts in bags.items():
            outputs, answers = np.stack([part.outputs for part in parts]), parts[0].answers
            member[i] = float(np.mean([score(part) for part in parts]))
            if not is_classes(parts[0]):
                mean[i] = score(Prediction(outputs.mean(0), answers))
                continue
            mean[i] = score(Prediction(probabilities(outputs).mean(0), answers))
            votes = outputs.argmax(-1)[..., None] == np.arange(outputs.shape[-1])
            vote[i] = score(Prediction(votes.mean(0), answers))
        if bags:
            scores[point] = Bags(member, mean, vote)
    return scores


def ensembles(predictions: Predictions, split: str, bag: int) -> str:
    """:func:`score_bags` in a table, and in words; differences are paired by bag."""
    rows, sentences = [], []
    for point, (member, mean, vote) in score_bags(predictions, split, bag).items():
        estimates = [over_seeds(values) for values in (member, mean, vote)]
        rows.append(
            (label(point), *(format_mean(x.mean, x.se) if x.used else "" for x in estimates))
        )
        gain = over_seeds(minus(mean, member))
        sentence = compare(f"the mean of {bag} **{label(point)}**", gain, "its mean member")
        sentences.append(sentence.replace(" seeds", " bags"))
    if not rows:
        return ""
    header = ("method", "mean member, %", f"mean of {bag}, %", f"vote of {bag}, %")
    return markdown_table(header, rows) + "\n\n" + bullets(sentences)


def rank_ensembles(
    predictions: Predictions, split: str, bag: int, baseline: Point
) -> dict[str, Standing]:
    """Means and votes of bags beside the mean member of the baseline's, paired by bag."""
    scores = score_bags(predictions, split, bag)
    member = scores[baseline].member if baseline in scores else {}
    return {
        f"{label(point)}: {name} of {bag}": Standing(
            over_seeds(values), over_seeds(minus(values, member))
        )
        for point, bags in scores.items()
        for name, values in (("mean", bags.mean), ("vote", bags.vote))
        if values
    }


# Bias and variance, of numbers.


class Decomposition(NamedTuple):
    """Mean squared errors of S networks that were trained on different samples.

    ``test = bias + variance``: the mean over examples of ``v = sum_s (f_s - m)² / (S - 1)``, with
    the mean ``m`` of the networks, and of ``(m - y)² - v / S``, which has the noise of the answers
    in it. Neither depends on S but by chance.
    """

    train: float
    test: float
    bias: float
    variance: float


def decompose(seeds: Mapping[int, Mapping[str, Prediction]], split: str) -> Decomposition:
    """Bias and variance over the networks of a point (Geman, Bienenstock & Doursat 1992)."""
    parts = [predictions[split] for predictions in seeds.values()]
    outputs = np.stack([part.outputs[:, 0] for part in parts]).astype(np.float64)
    mean, answers = outputs.mean(0), parts[0].answers
    train = float(np.mean([loss(predictions["train"]) for predictions in seeds.values()]))
    test = float(np.mean((outputs - answers) ** 2))
    variance = float(np.mean(np.var(outputs, 0, ddof=1)))
    bias = float(np.mean((mean - answers) ** 2)) - variance / len(outputs)
    return Decomposition(train, test, bias, variance)


def diagnose(x: Decomposition, best: Decomposition) -> str:
    """Under- or over-fitting, by a rule: a network fits whose error is below 1.2 times that of the
    ``best`` one of its sweep; else it under-fits if it has a greater error in training, too, and
    over-fits if that is smaller."""
    if x.test < 1.2 * best.test:
        return "fits"
    return "under-fits" if x.train > best.train else "over-fits"


class FitDiagnosis(NamedTuple):
    """The errors of the networks of a point, and under- or over-fitting as their diagnosis."""

    parts: Decomposition
    error: Estimate
    """Mean squared error, over seeds."""
    word: str


def diagnoses(
    predictions: Predictions, split: str, samples: Collection[Point]
) -> dict[Point, FitDiagnosis]:
    """Diagnoses of regression, by point; the best point is chosen by validation.

    Args:
      samples: the points whose networks are trained on different samples.
    """
    networks = {
        point: seeds
        for point, seeds in by_point(predictions).items()
        if point in samples
        and len(seeds) > 1
        and not any(is_classes(p[split]) for p in seeds.values())
    }
    points = {point: decompose(seeds, split) for point, seeds in networks.items()}
    validation = {p: decompose(seeds, "validation").test for p, seeds in networks.items()}
    best = points.get(min(validation, key=lambda point: validation[point], default=("", "")))
    losses = {
        point: over_seeds({seed: loss(parts[split]) for seed, parts in seeds.items()})
        for point, seeds in networks.items()
    }
    return {p: FitDiagnosis(x, losses[p], diagnose(x, best or x)) for p, x in points.items()}


def bias_variance(points: Mapping[Point, FitDiagnosis]) -> str:
    """:func:`diagnoses` in a table."""
    rows = []
    for point, (x, error, word) in points.items():
        cells = (f"{x.train:.4f}", format_mean(error.mean, error.se, 1, 4))
        rows.append((label(point), *cells, f"{x.bias:.4f}", f"{x.variance:.4f}", word))
    if not rows:
        return ""
    header = ("method", "error in training", "error", "bias² + noise", "variance", "diagnosis")
    rule = (
        "Mean squared errors, ± the standard error over seeds; bias and variance over what seeds "
        "draw: sample, start, order. A network fits whose error is below 1.2 times that of the one "
        "with the least on validation; else it under-fits if its error in training is above that "
        "one's, too, and over-fits if it is below."
    )
    return markdown_table(header, rows) + "\n\n" + rule


def cross_validation(predictions: Predictions, split: str, folds: Mapping[Point, int]) -> str:
    """The score of the folds that networks were not trained on beside that of the split; a value
    of each repetition of all folds."""
    sentences = []
    for point, k in folds.items():
        seeds = by_point(predictions)[point]
        rounds: dict[int, list[int]] = {}
        for seed in seeds:
            rounds.setdefault(seed // k, []).append(seed)
        rounds = {i: numbers for i, numbers in rounds.items() if len(numbers) == k}

        def mean(numbers: Sequence[int], part: str, seeds: Mapping = seeds) -> float:
            return float(np.mean([score(seeds[number][part]) for number in numbers]))

        held_out = {r: mean(n, "validation") for r, n in rounds.items()}
        tested = {r: mean(n, split) for r, n in rounds.items()}
        estimate, difference = over_seeds(held_out), over_seeds(minus(held_out, tested))
        sentences.append(
            f"**{label(point)}**: {k}-fold estimate "
            f"{format_mean(estimate.mean, estimate.se)} %, which is "
            f"{format_mean(difference.mean, difference.se, signed=True)} points from the {split} "
            f"score of the same networks ({len(rounds)} repetitions)."
        )
    return bullets(sentences)
