"""Orders of examples against counts, weights of classes against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.utils.class_weight import compute_class_weight

from jaxdl.data.sampling import (
    bootstrap,
    class_weights,
    in_turn,
    oversample,
    undersample,
    wrong_labels,
)

SEEDS = st.integers(0, 999)


def random_labels(seed):
    """Some classes of some sizes, and missing labels among them."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 20, rng.integers(1, 6))
    return rng.permutation(np.repeat(np.arange(-1, len(counts)), [3, *counts])).astype(np.int32)


def test_a_bootstrap_sample_is_as_large_and_every_id_is_as_likely():
    ids, rng = np.arange(100, 150, dtype=np.int32), np.random.default_rng(0)
    samples = np.stack([bootstrap(ids, rng) for _ in range(400)])
    assert samples.dtype == np.int32 and samples.shape == (400, 50)
    assert chisquare(np.bincount(samples.ravel())[100:]).pvalue > 1e-3
    shares = [len(set(sample)) / 50 for sample in samples]
    assert np.mean(shares) == pytest.approx(1 - (1 - 1 / 50) ** 50, abs=0.01)


@given(SEEDS)
def test_over_and_undersampled_classes_come_equally_often(seed):
    labels = random_labels(seed)
    all_ids = 1000 + np.random.default_rng(seed).permutation(len(labels))
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    for sample, times in ((oversample, counts.max()), (undersample, counts.min())):
        ids = sample(all_ids, labels, np.random.default_rng(seed))
        repeats = np.bincount(ids, minlength=1000 + len(labels))[all_ids]
        assert len(ids) == repeats.sum() and not repeats[labels < 0].any()
        for label, count in zip(classes, counts, strict=True):
            own = repeats[labels == label]
            assert own.sum() == times
            assert set(own) <= {times // count, -(-times // count)}
        again = sample(all_ids, labels, np.random.default_rng(seed))
        np.testing.assert_array_equal(ids, again)


def test_those_that_are_drawn_are_as_likely():
    labels, rng = np.repeat([0, 1], [20, 5]), np.random.default_rng(0)
    ids = np.concatenate([undersample(np.arange(25), labels, rng) for _ in range(400)])
    assert chisquare(np.bincount(ids)[:20]).pvalue > 1e-3


@given(SEEDS)
def test_class_weights_are_scikit_learns(seed):
    labels = random_labels(seed)
    known, classes = labels[labels >= 0], np.unique(labels[labels >= 0])
    ours = class_weights(labels, len(classes))
    theirs = compute_class_weight("balanced", classes=classes, y=known)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours.dtype == np.float32 and ours[known].mean() == pytest.approx(1, rel=1e-5)


def test_what_cannot_be_balanced_is_refused():
    with pytest.raises(ValueError, match="class 1 has no examples"):
        class_weights(np.array([0, 2, 2]), 3)
    for sample in (oversample, undersample):
        with pytest.raises(ValueError, match="no example has a label"):
            sample(np.arange(2), np.array([-1, -1]), np.random.default_rng(0))


def test_wrong_labels_are_other_classes_and_those_of_a_smaller_share_are_among_a_larger_ones():
    labels = np.random.default_rng(0).integers(-1, 5, 4000).astype(np.int32)
    ids, rng = np.arange(500, 3500), np.random.default_rng
    present = labels[ids] >= 0
    wrong = {}
    for share in (0, 0.2, 0.6, 1):
        noisy = wrong_labels(labels, ids, share, 5, rng(1))
        changed = np.flatnonzero(noisy != labels)
        assert noisy.dtype == np.int32 and {*changed} <= {*ids[present]}
        assert len(changed) == pytest.approx(share * present.sum(), rel=0.05)
        wrong[share] = {*changed}
        systematic = wrong_labels(labels, ids, share, 5, rng(1), systematic=True)
        assert {*np.flatnonzero(systematic != labels)} == wrong[share]
        np.testing.assert_array_equal(systematic[changed], (labels[changed] + 1) % 5)
    assert wrong[0] < wrong[0.2] < wrong[0.6] < wrong[1] == {*ids[present]}
    offsets = (noisy - labels)[ids[present]] % 5
    assert chisquare(np.bincount(offsets, minlength=5)[1:]).pvalue > 1e-3
    assert (wrong_labels(labels, ids, 1, 5, rng(2)) != noisy).any()
    with pytest.raises(ValueError, match="no other"):
        wrong_labels(labels, ids, 1, 1, rng(0))


@pytest.mark.parametrize("seed", range(3))
def test_classes_take_turns(seed):
    labels = random_labels(seed) + 1
    order = in_turn(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    whole = np.bincount(labels)
    for m in range(len(labels) + 1):
        counts = np.bincount(labels[order[:m]], minlength=len(whole))
        assert counts.max() <= counts[counts < whole].min(initial=len(labels)) + 1
