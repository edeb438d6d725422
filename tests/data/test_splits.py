"""Halves of the classes against the published protocol, tasks and parts against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxdl.data.splits import (
    duplicates,
    folds,
    group_halves,
    grouped,
    make_task,
    random_halves,
    stratified,
)


@settings(max_examples=40)
@given(half=st.integers(2, 60), seed=st.integers(0, 1000))
def test_random_halves_partition_the_classes(half, seed):
    a, b = random_halves(2 * half, seed)
    assert len(a) == len(b) == half and a.dtype == b.dtype == np.int32
    assert sorted([*a, *b]) == list(range(2 * half))
    assert list(a) == sorted(a) and list(b) == sorted(b)
    again, _ = random_halves(2 * half, seed)
    np.testing.assert_array_equal(a, again)


@pytest.mark.parametrize("seed", range(4))
def test_random_halves_are_those_of_the_paper(seed):
    a, b = random_halves(1000, seed)
    published = np.random.RandomState([seed]).choice(1000, 500, replace=False)
    assert set(a) == set(published) and set(b) == set(range(1000)) - set(published)
    # The bare integer is another stream.
    assert set(a) != set(np.random.RandomState(seed).choice(1000, 500, replace=False))


def test_odd_numbers_of_classes_have_halves_that_differ_by_one():
    a, b = random_halves(7, 0)
    assert (len(a), len(b)) == (3, 4) and sorted([*a, *b]) == list(range(7))


def test_three_classes_have_no_halves():
    with pytest.raises(ValueError, match="3 classes"):
        random_halves(3, 0)


def test_group_halves():
    a, b = group_halves(["symbols", "letters", "letters", "symbols", "symbols"])
    np.testing.assert_array_equal(a, [1, 2])
    np.testing.assert_array_equal(b, [0, 3, 4])
    assert a.dtype == b.dtype == np.int32
    for groups in ([], ["x", "x"], ["x", "y", "z"]):
        with pytest.raises(ValueError, match="two groups"):
            group_halves(groups)


def test_group_halves_of_the_papers_dissimilar_split():
    natural = [*range(398), *range(936, 959), 970, *range(972, 999)]
    groups = ["natural" if i in set(natural) else "man-made" for i in range(1000)]
    made, grown = group_halves(groups)
    assert (len(made), len(grown)) == (551, 449)
    np.testing.assert_array_equal(grown, natural)


@settings(max_examples=40)
@given(data=st.data(), classes=st.integers(2, 9))
def test_a_task_is_its_classes_and_no_others(data, classes):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    chosen = rng.permutation(classes)[: data.draw(st.integers(1, classes))].astype(np.int32)
    # Every class once, the rest at random.
    labels = {
        split: np.concatenate([np.arange(classes), rng.integers(0, classes, n)]).astype(np.int32)
        for split, n in (("train", 7), ("validation", 0), ("test", 3))
    }
    task = make_task(labels, chosen, classes)
    together = np.concatenate(list(labels.values()))
    assert task.label_of.dtype == np.int32
    assert [task.label_of[c] for c in chosen] == list(range(len(chosen)))
    assert all(task.label_of[c] == -1 for c in range(classes) if c not in chosen)
    start = 0
    for split, of in labels.items():
        places = task.examples[split]
        expected = [start + i for i, label in enumerate(of) if label in chosen]
        np.testing.assert_array_equal(places, expected)
        assert set(together[places]) == set(chosen)
        start += len(of)


def random_labels(rng, classes, per_class):
    """Every class at least ``per_class[0]`` and at most ``per_class[1]`` times, in random order."""
    counts = rng.integers(per_class[0], per_class[1] + 1, classes)
    names = np.sort(rng.permutation(3 * classes)[:classes]) - 2  # not 0, 1, 2, …; some negative
    return rng.permutation(np.repeat(names, counts))


def assert_partition(parts, n):
    for part in parts:
        assert part.dtype == np.int32 and len(part) and list(part) == sorted(part)
    assert sorted(np.concatenate(parts)) == list(range(n))


def class_counts(labels, part):
    return np.asarray([np.sum(labels[part] == name) for name in np.unique(labels)])


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    classes=st.integers(1, 7),
    held=st.one_of(st.floats(0.25, 0.75), st.integers(0, 999)),
)
def test_stratified_parts_hold_each_classes_share(seed, classes, held):
    labels = random_labels(np.random.default_rng(seed), classes, (6, 30))
    if isinstance(held, int):
        third = len(labels) // 3  # so that no class's share is below one example, in either part
        count = held = third + held % third
    else:
        count = round(held * len(labels))
    parts = stratified(labels, held, seed)
    assert_partition(parts, len(labels))
    assert len(parts[1]) == count
    shares = count * class_counts(labels, np.arange(len(labels))) / len(labels)
    assert np.all(np.abs(class_counts(labels, parts[1]) - shares) < 1)
    for part, again in zip(parts, stratified(labels, held, seed), strict=True):
        np.testing.assert_array_equal(part, again)


def test_stratified_parts_depend_on_the_seed_and_each_example_may_be_held_out():
    labels = np.arange(40) % 2
    held = [tuple(stratified(labels, 10, seed)[1]) for seed in range(40)]
    assert len(set(held)) > 35
    times = np.bincount(np.concatenate(held), minlength=40)
    assert times.min() > 0 and times.sum() == 400
    assert chisquare(times).pvalue > 1e-3


@pytest.mark.parametrize(
    ("labels", "held", "message"),
    [
        ([0, 0, 0, 7], 0.5, "class 7 has 1 example"),
        ([*[0] * 96, *[5] * 4], 0.1, "class 5 has 4 examples and none in the validation"),
        ([*[0] * 96, *[5] * 4], 0.9, "class 5 has 4 examples and none in the training"),
        ([0, 0, 1, 1], 1, "2 classes cannot all be in both parts of 3 and 1"),
        ([0, 0, 1, 1], 3, "parts of 1 and 3"),
        ([0, 0, 1, 1], 4, "parts of 0 and 4"),
        ([0, 0, 1, 1], 0, "parts of 4 and 0"),
        ([0, 0, 1, 1], -1, "parts of 5 and -1"),
        ([0, 0, 1, 1], 0.0, "fraction of 0.0"),
        ([0, 0, 1, 1], 1.0, "fraction of 1.0"),
        ([0, 0, 1, 1], float("nan"), "fraction of nan"),
        ([], 0.5, "at least one integer"),
        ([[0, 0], [1, 1]], 0.5, "in one row"),
        ([0.0, 0.0, 1.0, 1.0], 0.5, "float64"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_stratified_refuses_what_cannot_be(labels, held, message):
    with pytest.raises(ValueError, match=message) as error:
        stratified(np.asarray(labels), held, 0)
    assert "\n" not in str(error.value)


def random_groups(rng, labels, pure):
    """Groups as strings; a pure one has examples of one class only."""
    groups = np.asarray([f"g{i}" for i in rng.integers(0, max(2, len(labels) // 4), len(labels))])
    return np.asarray([f"{c} {g}" for c, g in zip(labels, groups, strict=True)]) if pure else groups


def groups_per_class(labels, groups):
    return {name: len(set(groups[labels == name])) for name in np.unique(labels)}


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    classes=st.integers(1, 5),
    fraction=st.floats(0.05, 0.95),
    pure=st.booleans(),
)
def test_groups_never_straddle_and_classes_of_several_groups_are_on_both_sides(
    seed, classes, fraction, pure
):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, classes, (4, 25))
    groups = random_groups(rng, labels, pure)
    try:
        parts = grouped(labels, groups, fraction, seed)
    except ValueError as error:
        # No division: only where every group holds a class that is nowhere else, or groups are
        # entangled.
        assert not pure or max(groups_per_class(labels, groups).values()) == 1, error
        return
    assert_partition(parts, len(labels))
    train, validation = parts
    assert not set(groups[train]) & set(groups[validation])
    for name, several in groups_per_class(labels, groups).items():
        assert name in labels[train]
        assert (name in labels[validation]) or several == 1
    np.testing.assert_array_equal(grouped(labels, groups, fraction, seed)[1], validation)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_grouped_tracks_of_one_class_are_as_balanced_as_can_be(fraction):
    """Tracks of 30 frames each, as in GTSRB: no class is further off than half a track."""
    rng = np.random.default_rng(0)
    tracks = rng.integers(5, 40, 43)
    labels = np.repeat(np.repeat(np.arange(43), tracks), 30)
    groups = np.repeat(rng.permutation(tracks.sum()), 30)
    order = rng.permutation(len(labels))
    labels, groups = labels[order], groups[order]
    _, validation = grouped(labels, groups, fraction, 3)
    off = class_counts(labels, validation) - 30 * fraction * tracks
    assert np.abs(off).max() <= 15 + 1e-9
    assert set(groups[grouped(labels, groups, fraction, 4)[1]]) != set(groups[validation])


def test_grouped_mixed_groups_are_close_to_the_best_division():
    """Against all 2^12 divisions of twelve groups."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        groups, labels = rng.integers(0, 12, 120), rng.integers(0, 3, 120)
        table = np.zeros((12, 3))
        np.add.at(table, (groups, labels), 1)
        sides = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
        badness = np.sum((sides @ table / table.sum(0) - 0.3) ** 2, -1)
        held = grouped(labels, groups, 0.3, seed)[1]
        ours = np.sum((class_counts(labels, held) / table.sum(0) - 0.3) ** 2)
        assert ours <= np.quantile(badness, 0.01)


def test_grouped_keeps_a_class_of_one_group_for_training():
    labels = np.asarray([0, 0, 1, 1, 1, 2, 2])
    groups = np.asarray([0, 0, 1, 2, 3, 3, 3])
    train, validation = grouped(labels, groups, 0.4, 0)
    assert set(labels[train]) == {0, 1, 2} and set(labels[validation]) == {1}
    np.testing.assert_array_equal(train[-3:], [4, 5, 6])


@pytest.mark.parametrize(
    ("labels", "groups", "fraction", "message"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 0.5, "no group can be held out"),
        # Two of three groups share a side, and they share a class.
        ([0, 1, 1, 2, 2, 0], [0, 0, 1, 1, 2, 2], 0.5, "class [012] has 2 groups"),
        ([0, 0, 1, 1], [0, 1, 0], 0.5, "groups are .3. for 4 labels"),
        ([0, 0, 1, 1], [0, 1, 0, 1], 1.5, "fraction of 1.5"),
        ([], [], 0.5, "at least one integer"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_grouped_refuses_what_cannot_be(labels, groups, fraction, message):
    with pytest.raises(ValueError, match=message) as error:
        grouped(np.asarray(labels), np.asarray(groups), fraction, 0)
    assert "\n" not in str(error.value)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), classes=st.integers(1, 6), k=st.integers(2, 5))
def test_folds_partition_the_set_by_their_validation_parts(seed, classes, k):
    labels = random_labels(np.random.default_rng(seed), classes, (5, 30))
    pairs = folds(labels, k, seed)
    assert len(pairs) == k
    assert sorted(np.concatenate([held for _, held in pairs])) == list(range(len(labels)))
    for pair in pairs:
        assert_partition(pair, len(labels))
        shares = class_counts(labels, np.arange(len(labels))) / k
        assert np.all(np.abs(class_counts(labels, pair[1]) - shares) < 1)
    np.testing.assert_array_equal(folds(labels, k, seed)[0][1], pairs[0][1])


@settings(max_examples=25)
@given(seed=st.integers(0, 999), classes=st.integers(1, 4), k=st.integers(2, 4))
def test_grouped_folds_never_divide_a_group(seed, classes, k):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, classes, (12, 40))
    groups = random_groups(rng, labels, pure=True)
    if min(groups_per_class(labels, groups).values()) < k:
        with pytest.raises(ValueError, match=f"groups, too few for {k} folds"):
            folds(labels, k, seed, groups)
        return
    try:
        pairs = folds(labels, k, seed, groups)
    except ValueError as error:
        # Few large groups: scikit-learn's greedy choice may leave a class out of a fold.
        assert "try another seed" in str(error)
        return
    assert sorted(np.concatenate([held for _, held in pairs])) == list(range(len(labels)))
    for pair in pairs:
        assert_partition(pair, len(labels))
        assert not set(groups[pair[0]]) & set(groups[pair[1]])
        assert all(set(labels[part]) == set(labels) for part in pair)


def test_folds_depend_on_the_seed():
    labels, groups = np.repeat(np.arange(4), 60), np.repeat(np.arange(24), 10)
    for by in (None, groups):
        first = [tuple(folds(labels, 3, seed, by)[0][1]) for seed in range(4)]
        assert len(set(first)) == 4
    for _, held in folds(labels, 3, 0, groups):  # six equal groups a class: two in each fold
        np.testing.assert_array_equal(class_counts(labels, held), 20)


@pytest.mark.parametrize(
    ("labels", "k", "groups", "message"),
    [
        ([0, 0, 0, 4, 4], 3, None, "class 4 has 2 examples, too few for 3 folds"),
        ([0, 0, 0, 4, 4, 4], 3, [0, 1, 2, 3, 4, 4], "class 4 has 2 groups, too few for 3 folds"),
        ([0, 0, 0, 0], 1, None, "1 folds"),
        ([0, 0, 0, 0], 2, [0, 1], "groups are .2. for 4 labels"),
        (["a", "a"], 2, None, "integer"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_folds_refuse_what_cannot_be(labels, k, groups, message):
    with pytest.raises(ValueError, match=message) as error:
        folds(np.asarray(labels), k, 0, None if groups is None else np.asarray(groups))
    assert "\n" not in str(error.value)


@settings(max_examples=50)
@given(seed=st.integers(0, 999), n=st.integers(0, 12), m=st.integers(0, 12))
def test_duplicates_are_those_of_a_comparison_of_all_pairs(seed, n, m):
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 2, (k, 1, 2, 1)).astype(np.uint8) for k in (n, m))
    pairs = duplicates(first, second)
    brute = [(i, j) for i in range(n) for j in range(m) if np.array_equal(first[i], second[j])]
    assert pairs.dtype == np.int32 and pairs.shape == (len(brute), 2)
    assert [tuple(pair) for pair in pairs] == brute


def test_duplicates_in_views_and_large_sets():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3000, 16, 16, 3), dtype=np.uint8)
    second = images[::-1][:700, :, ::-1].copy()
    second[[5, 9]] = images[17]
    second[11] = images[17]
    second[11, 3, 3, 1] ^= 1
    np.testing.assert_array_equal(duplicates(images, second), [[17, 5], [17, 9]])
    np.testing.assert_array_equal(duplicates(images[:, ::2], second[:, ::2])[:1], [[17, 5]])


@pytest.mark.usefixtures("types_unchecked")
def test_duplicates_refuse_images_that_cannot_be_compared():
    zeros = np.zeros((2, 4, 4, 1), np.uint8)
    for other in (zeros.astype(np.int32), zeros[..., 0], zeros[:, :3], zeros.astype(np.float32)):
        for pair in ((zeros, other), (other, zeros)):
            with pytest.raises(ValueError, match="expected uint8"):
                duplicates(*pair)
