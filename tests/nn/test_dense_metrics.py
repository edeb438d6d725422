"""Masks, places and instances against SciPy, scikit-learn and counting by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from jaxdl.data.masks import depth_map
from jaxdl.nn import dense_metrics, metrics

RNG = np.random.default_rng(0)


def discs(*places, size=40):
    """Instances: discs at (row, column, radius), the later ones in front."""
    grid, labels = np.indices((size, size)), np.zeros((size, size), np.int32)
    for i, (row, column, radius) in enumerate(places, 1):
        labels[(grid[0] - row) ** 2 + (grid[1] - column) ** 2 < radius**2] = i
    return labels


def test_the_area_inside_a_field_of_view_is_scikit_learns():
    scores = RNG.normal(size=(30, 40)).astype(np.float32).round(1)
    truth, field = RNG.random((30, 40)) < 0.2, RNG.random((30, 40)) < 0.7
    flat = scores.ravel(), truth.ravel(), field.ravel()
    expected = truth[field], scores[field]
    assert float(metrics.roc_auc(*flat)) == pytest.approx(roc_auc_score(*expected), abs=1e-5)


def test_hausdorff_is_the_farthest_pixel():
    a, b = (RNG.random((12, 15)) < 0.1 for _ in range(2))
    far = cdist(np.argwhere(a), np.argwhere(b))
    expected = max(far.min(0).max(), far.min(1).max())
    assert dense_metrics.hausdorff(a, b) == pytest.approx(expected)
    nothing = np.zeros_like(a)
    assert dense_metrics.hausdorff(a, nothing) == np.inf
    assert dense_metrics.hausdorff(nothing, nothing) == 0


def test_point_errors_are_distances():
    points = np.array([[3, 4], [np.nan, np.nan]])
    errors = dense_metrics.point_errors(np.zeros((2, 2)), points)
    assert errors[0] == 5 and np.isnan(errors[1])


def test_a_centroid_is_that_of_the_peak_s_blob():
    scores = np.zeros((20, 20))
    scores[3:6, 10:15] = 1.0
    scores[15, 2] = 0.9  # another blob
    scores[4, 12] = 1.1
    assert dense_metrics.centroid(scores) == pytest.approx((4, 12))
    assert dense_metrics.centroid(0 * scores) == (9.5, 9.5)


def test_discs_that_touch_are_told_apart():
    truth = discs((12, 12, 8), (12, 25, 8), (30, 20, 7))
    ours = dense_metrics.instances(truth > 0, depth_map(truth))
    assert ours.max() == 3
    best = dense_metrics.overlaps(ours, truth).max(0)
    assert (best > 0.9).all()
    assert ((ours > 0) == (truth > 0)).all()
    nothing = np.zeros((5, 5), np.int32)
    assert (dense_metrics.instances(nothing > 0, nothing.astype(np.float32)) == 0).all()


def test_overlaps_are_scikit_learn_s_jaccard():
    ours, truth = discs((12, 12, 8), (20, 25, 8)), discs((13, 14, 8), (30, 30, 5), (20, 25, 7))
    expected = [
        [jaccard_score((ours == i).ravel(), (truth == j).ravel()) for j in (1, 2, 3)]
        for i in (1, 2)
    ]
    np.testing.assert_allclose(dense_metrics.overlaps(ours, truth), expected)


def test_average_precision_of_instances():
    truth = discs((10, 10, 6), (10, 28, 6), (30, 20, 6))
    ours = discs((10, 11, 6), (11, 28, 6), (28, 5, 4))  # two hits and a false alarm
    confidence = [0.9, 0.3, 0.6]
    value = dense_metrics.instance_average_precision([(ours, confidence, truth)])
    # scikit-learn's recall is of the positives that were found, 2 of 3.
    assert value == pytest.approx(average_precision_score([1, 1, 0], confidence) * 2 / 3)
    value = dense_metrics.instance_average_precision([(truth, [1, 2, 3], truth)] * 2)
    assert value == pytest.approx(1)
    twice = np.where(np.indices(truth.shape)[0] < 10, truth, truth + 3 * (truth > 0))
    assert dense_metrics.instance_average_precision([(twice, [1] * 6, truth)]) < 1
    nothing = np.zeros_like(truth)
    assert dense_metrics.instance_average_precision([(nothing, [], truth)]) == 0
    assert np.isnan(dense_metrics.instance_average_precision([(ours, confidence, nothing)]))
