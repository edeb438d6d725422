"""Representations: what a perfect network puts out is read as the truth, and costs least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from jaxdl import dense
from jaxdl.data.masks import depth_map
from jaxdl.nn import dense_losses
from jaxdl.supervised import make_loss

H, W = 24, 20
POINTS = np.array([[7, 12], [np.nan, np.nan], [15.5, 4]], np.float32)
GRID = np.indices((H, W))
NEAR = np.stack([np.hypot(*(GRID - p[:, None, None])) < 4 for p in POINTS])
INSTANCES = np.zeros((3, H, W), np.int32)
INSTANCES[0][NEAR[0]], INSTANCES[0, 18:23, 2:7], INSTANCES[2][NEAR[2]] = 1, 2, 1
ALL = np.full((3, 2, 2), np.nan, np.float32)
ALL[0], ALL[2, 0] = [[7, 12], [20, 4]], POINTS[2]
BATCH = {
    "image": np.zeros((3, H, W, 3), np.float32),
    "label": np.array([1, 0, 1], np.int32),
    "point": POINTS,
    "mask": NEAR.astype(np.uint8),
    "points": ALL,
    "count": np.array([2, 0, 1], np.float32),
    "instances": INSTANCES,
    "depth": np.stack([depth_map(x) for x in INSTANCES]),
}
OPTIONS = dense.Options(losses=("cross_entropy", "dice"), foreground=3.0, scale=2.0)


def perfect(name):
    """What a network would put out that has nothing to learn."""
    pixels = 20.0 * np.stack([~NEAR, NEAR], -1)
    match name:
        case "class":
            small = NEAR[:, 2::4, 2::4]
            spots = np.where(small.any((1, 2), keepdims=True), np.where(small, 600, 0), -20.0)
            return np.stack([-spots, spots], -1)
        case "coordinates":
            there = np.where(np.isfinite(POINTS), (POINTS / [H, W] - 0.5) / dense.SPREAD, 0)
            return np.c_[there, np.where(BATCH["label"], 20, -20)]
        case "mask" | "pixels":
            return pixels
        case "heat_map":
            return np.asarray(dense_losses.heat_map(POINTS[:, None], (H, W), 2.0))[..., None]
        case "number":
            return BATCH["count"][:, None] / 2
        case "density":
            return dense.DENSITY * np.asarray(dense_losses.density_map(ALL, (H, W), 2.0))[..., None]
        case "instances":
            mask = INSTANCES > 0
            return np.stack([-20.0 * mask + 10, 20.0 * mask - 10, BATCH["depth"]], -1)


@pytest.mark.parametrize("name", dense.REPRESENTATIONS)
def test_a_perfect_network_costs_nothing_and_answers_rightly(name):
    row, outputs = dense.REPRESENTATIONS[name], perfect(name).astype(np.float32)

    class Network:  # whose one parameter is beside the truth
        def apply(self, variables, x, mutable, rngs):
            return jnp.asarray(outputs) + variables["params"]["offset"], {}

    loss = make_loss(Network(), row.per_example(OPTIONS))
    keyed = ({}, BATCH, {}, jax.random.key(0))
    values = [float(loss({"offset": jnp.float32(x)}, *keyed)[0]) for x in (0, 0.3, -0.3)]
    assert values[0] < 2e-3
    if name not in ("class", "mask", "pixels"):  # whose softmax does not see an offset
        assert min(values[1:]) > 4 * values[0] + 1e-3
    answers = row.read(outputs, (H, W), OPTIONS)
    truth = {**BATCH, "mask": BATCH["mask"][:, None]}
    if row.question != "count":
        answers = answers._replace(limit=dense.decide(row.question, answers, truth))
    fields = dense.judge(row.question, answers, truth, tolerance=2.0)
    assert fields["score"] == pytest.approx(1, abs=1e-4)
    if "auc" in fields:
        assert fields["auc"] == 1
    if row.question == "locate":
        assert fields["error"] < 1
    assert fields.get("overlap", 1) == pytest.approx(1)


def test_sightings_are_judged_by_whether_and_where():
    points = np.array([[1, 1], [5, 5], [np.nan] * 2, [np.nan] * 2, [9, 9]], float)
    guesses = np.array([[1, 3], [5, 5], [0, 0], [4, 4], [9, 0]], float)
    answers = dense.Sightings(np.array([0.9, 0.4, 0.2, 0.7, 0.8]), guesses, limit=0.5)
    fields = dense.judge_sightings(answers, points, tolerance=2.0)
    # Right: the first and the third; the second is not seen, the fourth is not there, the last far.
    assert fields["score"] == pytest.approx(2 / 5)
    assert fields["error"] == pytest.approx((2 + 0 + 9) / 3)
    assert fields["auc"] == roc_auc_score([1, 1, 0, 0, 1], answers.scores)


def test_pixels_are_judged_where_they_are_known():
    rng = np.random.default_rng(0)
    scores, mask = rng.random((2, 6, 7)), rng.integers(0, 2, (2, 6, 7)).astype(np.uint8)
    mask[:, :2] = 255
    known, positive = scores[:, 2:].ravel(), mask[:, 2:].ravel()
    limit = dense.best_limit(scores, mask)
    fields = dense.judge_pixels(dense.Pixels(scores, limit), mask)
    assert fields["auc"] == pytest.approx(roc_auc_score(positive, known))
    assert fields["overlap"] == pytest.approx(average_precision_score(positive, known))
    f1 = [f1_score(positive, known >= t) for t in known]
    assert fields["score"] == pytest.approx(max(f1))


def test_counts_are_judged_by_their_errors():
    answers = dense.Counts(np.array([3.0, 5, 10]))
    fields = dense.judge_counts(answers, np.array([4.0, 4, 10]))
    assert fields == {
        "score": pytest.approx(1 - (2 / 3) / 6),
        "error": pytest.approx(2 / 3),
        "rmse": pytest.approx(np.sqrt(2 / 3)),
    }


def test_the_threshold_is_in_the_middle_of_the_best():
    assert dense.threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1], bool)) == 0.5
