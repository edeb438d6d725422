"""Representations of an answer to a question: loss, head, and the answer read from the outputs.

"Is there something, and where?" can be answered by a class, by coordinates, by a mask or by a heat
map; "how many?" by a number, by a density or by instances. A representation has a head of
:mod:`jaxdl.nn.models.unet`, a loss for :func:`jaxdl.supervised.make_loss`, and a function that
reads the answer to the question from the network's outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from jaxdl.nn import dense_losses as losses
from jaxdl.nn import losses as example_losses
from jaxdl.nn.dense_metrics import (
    centroid,
    instance_average_precision,
    instances,
    point_errors,
)
from jaxdl.nn.models.unet import ClassMap, Coordinates, Decoder
from jaxdl.types import Batch, Metrics

Outputs = Float[np.ndarray, "n ..."]
"""The outputs of a network for n images, on the host."""
Shape = tuple[int, int]
"""Height and width of the images."""

MASK_LOSSES: Mapping[str, Callable[..., Array]] = {
    "cross_entropy": losses.cross_entropy,
    "focal": losses.focal,
    "dice": losses.dice,
    "tversky": lambda *masks: losses.tversky(*masks, alpha=0.3, beta=0.7),
}
"""Losses of a mask, which are added up; Tversky's with the weights of its paper, .3 and .7."""
SPREAD = 0.1
"""Coordinates are learnt from the image's middle in such parts of its sides, so that they are of
the order of 1."""
DENSITY = 100.0
"""Densities are learnt as multiples, since each pixel's is far below 1."""


class Options(NamedTuple):
    """Options of a representation's loss."""

    losses: Sequence[str] = ("cross_entropy",)
    """Names in :data:`MASK_LOSSES`, whose losses are added up."""
    foreground: float = 1.0
    """The weight of a pixel that is not background."""
    deviation: float = 2.0
    """Standard deviation of the Gaussian at each point, in pixels."""
    scale: float = 1.0
    """The number that counts are divided by."""


class Sightings(NamedTuple):
    """By image, a score that rises with the evidence for the object, and the object's point."""

    scores: Float[np.ndarray, " n"]
    points: Float[np.ndarray, "n 2"]
    """Row and column in pixels."""
    masks: Bool[np.ndarray, "n h w"] | None = None
    """The pixels of the object, where the answer is a mask."""
    limit: float = 0.5
    """The score from which the object is said to be there."""


class Pixels(NamedTuple):
    """By pixel, a score that rises with the evidence for the foreground."""

    scores: Float[np.ndarray, "n h w"]
    limit: float = 0.5
    """The score from which a pixel is said to be foreground."""


class Representation(NamedTuple):
    """A way to answer a question."""

    question: str
    """``locate``, ``count`` or ``segment``."""
    arrays: tuple[str, ...]
    """The arrays that it learns from, beside images."""
    head: Callable[..., Any]
    """``head(**options)``, with the options of a :class:`Decoder`, where it is one."""
    loss: Callable[[Array, Batch, Options], Array]
    """``loss(outputs, batch, options)``, [b]."""
    read: Callable[[Outputs, Shape, Options], Any]
    """:class:`Sightings`, :class:`Counts` or :class:`Pixels`."""

    def per_example(self, options: Options) -> Callable[[Array, Batch], tuple[Array, Metrics]]:
        """The loss as :func:`jaxdl.supervised.make_loss` takes it."""
        return lambda outputs, batch: (self.loss(outputs, batch, options), {})


def _mask_loss(logits: Float[Array, "b h w k"], batch: Batch, options: Options) -> Array:
    mask = batch["mask"]
    weights = jnp.where(mask == 0, 1.0, options.foreground)
    terms = [MASK_LOSSES[name](logits, mask, weights) for name in options.losses]
    return jnp.sum(jnp.stack(terms), 0)


def _class_loss(logits: Float[Array, "b h w k"], batch: Batch, options: Options) -> Array:
    return example_losses.cross_entropy(jnp.mean(logits, (1, 2)), batch["label"])


def _coordinate_loss(outputs: Float[Array, "b 3"], batch: Batch, options: Options) -> Array:
    size = jnp.array(batch["image"].shape[1:3], jnp.float32)
    visible = jnp.all(jnp.isfinite(batch["point"]), -1)
    point = jnp.where(visible[:, None], batch["point"] / size[None], 0.5)
    distances = jnp.sum((outputs[:, :2] - (point - 0.5) / SPREAD) ** 2, -1) / 2
    return example_losses.binary_cross_entropy(
        outputs[:, 2], visible.astype(jnp.float32)
    ) + jnp.where(visible, distances, 0)


def _heat_loss(outputs: Float[Array, "b h w 1"], batch: Batch, options: Options) -> Array:
    points, (_, h, w, _) = batch["point"][:, None], outputs.shape
    target = losses.heat_map(points, (h, w), options.deviation)
    return losses.map_error(outputs[..., 0], target, 1 + (options.foreground - 1) * target)


def _number_loss(outputs: Float[Array, "b 1"], batch: Batch, options: Options) -> Array:
    return (outputs[:, 0] - batch["count"] / options.scale) ** 2


def _density_loss(outputs: Float[Array, "b h w 1"], batch: Batch, options: Options) -> Array:
    _, h, w, _ = outputs.shape
    target = losses.density_map(batch["points"], (h, w), options.deviation)
    return losses.map_error(outputs[..., 0], DENSITY * target)


def _instance_loss(outputs: Float[Array, "b h w 3"], batch: Batch, options: Options) -> Array:
    mask = (batch["instances"] > 0).astype(jnp.int32)
    mask_error = losses.cross_entropy(outputs[..., :2], mask)
    return mask_error + losses.map_error(outputs[..., 2], batch["depth"])


def _foreground(logits: Float[np.ndarray, "n h w k"]) -> Float[np.ndarray, "n h w"]:
    """The probability of each pixel not to be background."""
    return 1 - softmax(logits, -1)[..., 0]


def _peaks(maps: Float[np.ndarray, "n h w"], shape: Shape) -> Float[np.ndarray, "n 2"]:
    """Centroids around the peaks of maps from 0, of any resolution, in pixels of the image."""
    factors = np.array(shape) / maps.shape[1:]
    places = [centroid(scores) for scores in maps]
    return (np.array(places).reshape(-1, 2) + 0.5) * factors - 0.5


def _read_class(outputs: Outputs, shape: Shape, options: Options) -> Sightings:
    evidence = outputs[..., 1] - outputs[..., 0]
    return Sightings(expit(evidence.mean((1, 2))), _peaks(np.maximum(evidence, 0), shape))


def _read_coordinates(outputs: Outputs, shape: Shape, options: Options) -> Sightings:
    return Sightings(expit(outputs[:, 2]), (0.5 + SPREAD * outputs[:, :2]) * np.array(shape))


def _read_mask(outputs: Outputs, shape: Shape, options: Options) -> Sightings:
    maps = _foreground(outputs)
    return Sightings(maps.max((1, 2)), _peaks(maps, shape), maps >= 0.5)


def _read_heat(outputs: Outputs, shape: Shape, options: Options) -> Sightings:
    maps = np.maximum(outputs[..., 0], 0)
    return Sightings(maps.max((1, 2)), _peaks(maps, shape))


class Counts(NamedTuple):
    """By image, the number of objects; with instances their pixels, labelled 1, 2, …, and scores;
    with a density the map itself."""

    counts: Float[np.ndarray, " n"]
    labels: Sequence[Integer[np.ndarray, "h w"]] = ()
    scores: Sequence[Sequence[float]] = ()
    maps: Float[np.ndarray, "n h w"] | None = None


def _read_number(outputs: Outputs, shape: Shape, options: Options) -> Counts:
    return Counts(outputs[:, 0] * options.scale)


def _read_density(outputs: Outputs, shape: Shape, options: Options) -> Counts:
    density = outputs[..., 0] / DENSITY
    return Counts(density.sum((1, 2)), maps=density)


def _read_instances(outputs: Outputs, shape: Shape, options: Options) -> Counts:
    foreground, labels, scores = _foreground(outputs[..., :2]), [], []
    for probability, depth in zip(foreground, outputs[..., 2], strict=True):
        instance_map = instances(probability > 0.5, depth)
        sizes = np.maximum(np.bincount(instance_map.ravel()), 1)
        labels.append(instance_map)
        scores.append((np.bincount(instance_map.ravel(), probability.ravel()) / sizes)[1:].tolist())
    return Counts(np.array([float(x.max()) for x in labels]), labels, scores)


def _read_pixels(outputs: Outputs, shape: Shape, options: Options) -> Pixels:
    return Pixels(_foreground(outputs))


def _decoder(outputs: int) -> Callable[..., Decoder]:
    return lambda **options: Decoder(outputs, **options)


REPRESENTATIONS: Mapping[str, Representation] = {
    "class": Representation(
        "locate", ("label",), lambda **_: ClassMap(2), _class_loss, _read_class
    ),
    "coordinates": Representation(
        "locate", ("point",), lambda **_: Coordinates(3), _coordinate_loss, _read_coordinates
    ),
    "mask": Representation("locate", ("mask",), _decoder(2), _mask_loss, _read_mask),
    "heat_map": Representation("locate", ("point",), _decoder(1), _heat_loss, _read_heat),
    "number": Representation(
        "count", ("count",), lambda **_: Coordinates(1), _number_loss, _read_number
    ),
    "density": Representation("count", ("points",), _decoder(1), _density_loss, _read_density),
    "instances": Representation(
        "count", ("instances", "depth"), _decoder(3), _instance_loss, _read_instances
    ),
    "pixels": Representation("segment", ("mask",), _decoder(2), _mask_loss, _read_pixels),
}
"""Representations by name."""


def common_question(paths: Mapping[str, str]) -> str:
    """The question that representations answer.

    Args:
      paths: by name, the setting that it comes from, for messages.

    Raises:
      ValueError: if they answer several.
    """
    questions = {REPRESENTATIONS[name].question: path for name, path in paths.items()}
    if len(questions) > 1:
        listing = ", ".join(f"{path}: {question}" for question, path in questions.items())
        raise ValueError(f"methods answer different questions ({listing}): choose one of them")
    return next(iter(questions))


def threshold(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """The threshold t for which "score >= t" is right for most images; of several the middle
    one."""
    ordered = np.sort(scores)
    candidates = np.r_[ordered[0] - 1, (ordered[1:] + ordered[:-1]) / 2, ordered[-1] + 1]
    right = [np.mean((scores >= t) == positive) for t in candidates]
    best = np.flatnonzero(np.isclose(right, max(right)))
    return float(candidates[best[len(best) // 2]])


def judge_sightings(
    answers: Sightings,
    points: Float[np.ndarray, "n 2"],
    tolerance: float,
) -> dict[str, float]:
    """Fields of a row of ``results.csv``.

    Args:
      points: the truth; NaN where it is not there.
      tolerance: pixels by which a place may be wrong.
    """
    visible = np.isfinite(points).all(1)
    distances = point_errors(answers.points, points)
    hits = np.where(visible, distances <= tolerance, True)
    right = ((answers.scores >= answers.limit) == visible) & hits
    mixed = 0 < visible.sum() < len(visible)
    return {
        "score": float(right.mean()),
        "auc": float(roc_auc_score(visible, answers.scores)) if mixed else math.nan,
        "error": float(distances[visible].mean()) if visible.any() else math.nan,
    }


def dice(predicted: Bool[np.ndarray, "..."], truth: Bool[np.ndarray, "..."]) -> float:
    """``2 TP / (2 TP + FP + FN)`` over all pixels, of booleans; NaN where both are empty."""
    total = predicted.sum() + truth.sum()
    return float(2 * (predicted & truth).sum() / total) if total else math.nan


def judge_counts(
    answers: Counts,
    counts: Float[np.ndarray, " n"],
    truth: Integer[np.ndarray, "n h w"] | None = None,
) -> dict[str, float]:
    """Fields of a row of ``results.csv``; of instances also their average precision."""
    errors = answers.counts - counts
    mae = float(np.abs(errors).mean())
    fields = {"score": 1 - mae / float(counts.mean()), "error": mae}
    fields["rmse"] = float(np.sqrt((errors**2).mean()))
    if len(answers.labels) and truth is not None:
        images = zip(answers.labels, answers.scores, truth, strict=True)
        fields["overlap"] = instance_average_precision(images)
    return fields


def best_limit(scores: Float[np.ndarray, "n h w"], mask: Integer[np.ndarray, "n h w"]) -> float:
    """The threshold of the greatest F1 over all pixels that are not missing."""
    valid = mask <= 1
    precision, recall, limits = precision_recall_curve(mask[valid] > 0, scores[valid])
    f1 = precision * recall / np.maximum(precision + recall, 1e-12)
    return float(limits[np.argmax(f1[:-1])])


def judge_pixels(answers: Pixels, mask: Integer[np.ndarray, "n h w"]) -> dict[str, float]:
    """Fields of a row of ``results.csv``, over all pixels that are not missing, 255."""
    valid = mask <= 1
    positive, values = mask[valid] > 0, answers.scores[valid]
    return {
        "score": dice(values >= answers.limit, positive),
        "auc": float(roc_auc_score(positive, values)),
        "overlap": float(average_precision_score(positive, values)),
    }


TRUTHS = {"locate": ("point",), "count": ("count",), "segment": ("mask",)}
"""The arrays that answers are compared with, by question."""


def decide(question: str, answers: Any, truth: Batch) -> float:
    """The limit that suits a network's answers for images, such as those for validation, best; to
    ``locate`` or ``segment``."""
    if question == "locate":
        return threshold(answers.scores, np.isfinite(truth["point"]).all(1))
    return best_limit(answers.scores, truth["mask"][:, 0])


def judge(question: str, answers: Any, truth: Batch, tolerance: float) -> dict[str, float]:
    """The fields of a network's row in ``results.csv`` for images.

    Args:
      tolerance: see :func:`judge_sightings`.
    """
    if question == "count":
        return judge_counts(answers, truth["count"], truth.get("instances"))
    if question == "segment":
        return judge_pixels(answers, truth["mask"][:, 0])
    fields = judge_sightings(answers, truth["point"], tolerance)
    if answers.masks is not None:
        mask = truth["mask"][:, 0]
        fields["overlap"] = dice(answers.masks & (mask <= 1), mask == 1)
    return fields
