"""Figures of merit against scikit-learn's, on random and on degenerate predictions."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from jaxdl.nn import metrics

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1, 2, 7, 40])  # few shapes: each is compiled once


def drawn(seed, n, classes):
    """Labels and predictions of few or of many of the classes, and a mask."""
    rng = np.random.default_rng(seed)
    some = rng.integers(1, classes + 1)  # 1: a single class occurs
    return rng.integers(0, some, n), rng.integers(0, some, n), rng.random(n) < 0.7


confusion_matrix = jax.jit(metrics.confusion_matrix, static_argnums=2)


@jax.jit
def figures_of(confusion):
    """All that is computed of a confusion matrix."""
    return {
        "accuracy": metrics.accuracy(confusion),
        "precision": metrics.precision(confusion),
        "recall": metrics.recall(confusion),
        **{f"f {beta}": metrics.f_beta(confusion, beta) for beta in (0.5, 1.0, 2.0)},
        "dice": metrics.dice(confusion),
        "iou": metrics.iou(confusion),
    }


@given(SEEDS, SIZES, st.sampled_from([2, 5]))
def test_figures_of_a_confusion_matrix_are_scikit_learns(seed, n, classes):
    labels, predictions, _ = drawn(seed, n, classes)
    every, nan = list(range(classes)), {"average": None, "zero_division": np.nan}
    confusion = confusion_matrix(predictions, labels, classes)
    theirs = sklearn_metrics.confusion_matrix(labels, predictions, labels=every)
    np.testing.assert_array_equal(confusion, theirs)
    assert confusion.dtype == jnp.int32
    ours = figures_of(confusion)
    expected = {"accuracy": sklearn_metrics.accuracy_score(labels, predictions)}
    for beta in (0.5, 1.0, 2.0):
        precision, recall, f, _ = sklearn_metrics.precision_recall_fscore_support(
            labels, predictions, beta=beta, labels=every, **nan
        )
        expected |= {"precision": precision, "recall": recall, f"f {beta}": f}
        if beta == 1:
            expected["dice"] = f
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sklearn_metrics.jaccard_score(
            labels, predictions, labels=every, average=None, zero_division=0
        )
    absent = ~np.isin(every, labels) & ~np.isin(every, predictions)
    expected["iou"] = np.where(absent, np.nan, theirs)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)


@given(SEEDS, st.sampled_from([6, 30]))
def test_matrices_of_masked_batches_add_up_and_missing_labels_do_not_count(seed, n):
    labels, predictions, mask = drawn(seed, n, 4)
    labels[::3] = -1
    predictions[::5] = 4
    parts = [
        np.asarray(confusion_matrix(predictions[some], labels[some], 4, mask[some]))
        for some in (slice(0, n // 3), slice(n // 3, n))
    ]
    counts = mask & (labels >= 0) & (predictions < 4)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (labels[counts], predictions[counts]), 1)
    np.testing.assert_array_equal(parts[0] + parts[1], expected)
    weights = np.random.default_rng(seed).random(n).astype(np.float32)
    weighted = confusion_matrix(predictions, labels, 4, weights)
    known = (labels >= 0) & (predictions < 4)
    if known.any():
        theirs = sklearn_metrics.confusion_matrix(
            labels[known], predictions[known], labels=range(4), sample_weight=weights[known]
        )
        np.testing.assert_allclose(weighted, theirs, rtol=1e-5)


correct_among = jax.jit(metrics.correct_among, static_argnums=2)


@given(SEEDS, st.integers(1, 5))
def test_top_k_is_scikit_learns_and_ties_go_to_the_lower_class(seed, top):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(24, 6)).astype(np.float32), rng.integers(0, 6, 24)
    hits = correct_among(logits, labels, top)
    theirs = sklearn_metrics.top_k_accuracy_score(labels, logits, k=top, labels=range(6))
    assert np.mean(hits) == pytest.approx(theirs)
    tied = np.round(logits)
    first = np.argsort(-tied, axis=1, kind="stable")[:, :top]
    hits = correct_among(tied, labels, top)
    np.testing.assert_array_equal(hits, (first == labels[:, None]).any(1))
    if top == 1:
        plain = jax.jit(metrics.correct)(tied, labels)
        np.testing.assert_array_equal(hits, plain)


def test_top_k_needs_so_many_classes():
    for top in (0, 4):
        with pytest.raises(ValueError, match=f"top={top} of 3 classes: choose from 1"):
            metrics.correct_among(np.zeros((2, 3), np.float32), np.zeros(2, int), top)


@jax.jit
def roc(*arrays):
    """The curve and the area under it."""
    return metrics.roc_curve(*arrays), metrics.roc_auc(*arrays)


@given(SEEDS, SIZES, st.booleans(), st.booleans())
@example(0, 40, True, True)
def test_roc_and_the_area_under_it_are_scikit_learns(seed, n, ties, weighted):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n).astype(np.float32)
    scores = np.round(scores) if ties else scores
    positive = rng.random(n) < rng.choice([0, 0.3, 1])
    weights = rng.random(n).astype(np.float32) + 0.1 if weighted else None
    curve, area = jax.device_get(roc(scores, positive, weights))
    if positive.all() or not positive.any():
        assert np.isnan(area)
        return
    theirs = sklearn_metrics.roc_curve(
        positive, scores, sample_weight=weights, drop_intermediate=False
    )
    at = np.unique(curve[2], return_index=True)[1][::-1]  # one of equal points
    for name, ours, values in zip(("false", "true", "thresholds"), curve, theirs, strict=True):
        np.testing.assert_allclose(ours[at], values, atol=1e-6, err_msg=name)
    expected = sklearn_metrics.roc_auc_score(positive, scores, sample_weight=weights)
    np.testing.assert_allclose(area, expected, rtol=1e-5)


def test_the_area_of_scores_that_are_not_numbers_is_not_one():
    scores, positive = np.array([0.1, np.nan], np.float32), np.array([False, True])
    assert np.isnan(roc(scores, positive, None)[1])


@partial(jax.jit, static_argnums=2)
def calibration(confidence, right, bins):
    """The bins and the error."""
    sums = metrics.calibration_bins(confidence, right, bins)
    return sums, metrics.calibration_error(sums)


@given(SEEDS, SIZES, st.sampled_from([1, 5, 10]))
def test_bins_are_those_of_scikit_learns_calibration_curve(seed, n, bins):
    rng = np.random.default_rng(seed)
    confidence = rng.choice([rng.random(n), np.round(rng.random(n), 1)]).astype(np.float32)
    confidence[0] = rng.choice([0, 1])
    right = rng.random(n) < confidence
    sums, error = jax.device_get(calibration(confidence, right, bins))
    np.testing.assert_allclose(sums.sum(0), [n, confidence.sum(), right.sum()], rtol=1e-5)
    edges = np.linspace(0, 1, bins + 1)
    # On an edge, but for rounding, float32 and float64 may choose different bins.
    inner = edges[1:-1]
    if len(inner) and np.min(np.abs(confidence[:, None] - inner)) < 1e-6:
        return
    used = sums[sums[:, 0] > 0]
    true, predicted = calibration_curve(right, confidence, n_bins=bins)
    np.testing.assert_allclose(used[:, 2] / used[:, 0], true, rtol=1e-5)
    np.testing.assert_allclose(used[:, 1] / used[:, 0], predicted, rtol=1e-5, atol=1e-7)
    weighted = np.sum(used[:, 0] / n * np.abs(true - predicted))
    np.testing.assert_allclose(error, weighted, rtol=1e-4, atol=1e-6)


def test_a_confidence_on_an_edge_is_in_the_lower_bin_and_a_mask_leaves_out():
    confidence = np.array([0, 0.5, 1, 0.75], np.float32)
    right, mask = np.array([True, False, True, True]), np.array([True, True, True, False])
    sums = jax.jit(metrics.calibration_bins, static_argnums=2)(confidence, right, 2, mask)
    np.testing.assert_array_equal(sums, [[2, 0.5, 1], [1, 1, 1]])


regression_sums = jax.jit(metrics.regression_sums)
rmse, mae, r2 = jax.jit(metrics.rmse), jax.jit(metrics.mae), jax.jit(metrics.r2)


@given(SEEDS, st.sampled_from([2, 7, 40]), st.sampled_from([0.0, 100.0]))
def test_errors_of_regression_are_scikit_learns_and_add_up(seed, n, mean):
    rng = np.random.default_rng(seed)
    targets = (mean + rng.normal(size=n)).astype(np.float32)
    predictions = (targets + rng.normal(size=n)).astype(np.float32)
    mask = rng.random(n) < 0.8
    mask[:2] = True
    predictions[~mask] = np.nan
    parts = [
        regression_sums(predictions[some], targets[some], mask[some], origin=mean)
        for some in (slice(0, n // 2), slice(n // 2, n))
    ]
    sums = jax.tree.map(np.add, *jax.device_get(parts))
    t, y = targets[mask].astype(float), predictions[mask].astype(float)
    for ours, theirs in (
        (rmse, sklearn_metrics.root_mean_squared_error),
        (mae, sklearn_metrics.mean_absolute_error),
        (r2, sklearn_metrics.r2_score),
    ):
        np.testing.assert_allclose(ours(sums), theirs(t, y), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_targets_have_the_coefficient_1_or_0(value):
    targets = np.full(7, value, np.float32)
    for offset, expected in ((0, 1), (1, 0)):
        sums = regression_sums(targets + offset, targets)
        assert r2(sums) == expected
        if value != 0.1:  # of which scikit-learn's own mean is rounded
            assert sklearn_metrics.r2_score(targets, targets + offset) == expected


def test_all_of_them_are_compiled_and_mapped_over_networks():
    """The same with a leading axis, under jit and vmap."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 12, 2)).astype(np.float32)
    labels, mask = jnp.asarray(rng.integers(0, 2, 12)), jnp.asarray(rng.random(12) < 0.7)

    def figures(logits):
        p = jax.nn.softmax(logits)
        confusion = metrics.confusion_matrix(p.argmax(-1), labels, 2, mask)
        right = metrics.correct(logits, labels)
        return {
            "f": metrics.f_beta(confusion),
            "top": metrics.correct_among(logits, labels, 2),
            "auc": metrics.roc_auc(p[:, 1], labels == 1, mask),
            "ece": metrics.calibration_error(metrics.calibration_bins(p.max(-1), right, 5, mask)),
            "r2": metrics.r2(metrics.regression_sums(p[:, 1], labels.astype(float), mask)),
        }

    together, alone = jax.jit(jax.vmap(figures))(logits), jax.jit(figures)
    for i, one in enumerate(logits):
        for name, value in alone(one).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-5, err_msg=name)
