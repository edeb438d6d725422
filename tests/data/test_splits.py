"""Halves of the classes against the published protocol, and tasks against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.data.splits import group_halves, make_task, random_halves


@settings(max_examples=40)
@given(half=st.integers(1, 60), seed=st.integers(0, 1000))
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


def test_an_odd_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="7 classes"):
        random_halves(7, 0)


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
