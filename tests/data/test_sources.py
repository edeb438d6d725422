"""Sources: digits against scikit-learn's own arrays, and what `load` and `check` refuse."""

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdl.data import sources
from jaxdl.data.builders.glyphs import glyphs as build_glyphs
from jaxdl.data.sources import Source, check, fingerprint, load

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny():
    """Two classes, three images a split."""
    images = np.zeros((3, 4, 5, 1), np.uint8)
    labels = np.array([0, 1, 1], np.int32)
    return Source("tiny", ("a", "b"), (), {split: (images, labels) for split in SPLITS})


def test_digits_are_sklearns_each_once():
    splits = load("digits").splits
    images = np.concatenate([splits[s][0] for s in SPLITS])
    labels = np.concatenate([splits[s][1] for s in SPLITS])
    grey = np.rint(images * (16 / 255)).astype(int)  # back to 0..16
    ours = Counter((label, image.tobytes()) for label, image in zip(labels, grey, strict=True))
    pixels, targets = load_digits(return_X_y=True)
    theirs = Counter(
        (label, image.tobytes())
        for label, image in zip(targets, pixels.astype(int).reshape(-1, 8, 8, 1), strict=True)
    )
    assert ours == theirs and ours.total() == 1797
    assert images.min() == 0 and images.max() == 255


@pytest.mark.parametrize("split, share", [("train", 0.6), ("validation", 0.2), ("test", 0.2)])
def test_digits_are_stratified(split, share):
    total = np.bincount(load_digits().target)
    labels = load("digits", seed=5).splits[split][1]
    assert np.abs(np.bincount(labels) - share * total).max() <= 1
    assert (np.diff(labels) != 0).mean() > 0.5  # classes are mixed, not one after another


def test_digits_split_follows_the_seed():
    assert fingerprint(load("digits", seed=1)) == fingerprint(load("digits", seed=1))
    assert fingerprint(load("digits", seed=1)) != fingerprint(load("digits", seed=2))


def test_glyphs_are_the_builders():
    source = load("glyphs", train=3, validation=1, test=2, seed=4)
    assert source.name == "glyphs" and len(source.class_names) == len(source.class_groups) == 96
    for split, per_class in {"train": 3, "validation": 1, "test": 2}.items():
        images, labels = build_glyphs(split, per_class, seed=4)
        np.testing.assert_array_equal(source.splits[split][0], images)
        np.testing.assert_array_equal(source.splits[split][1], labels)


def test_fingerprint_sees_every_pixel_and_label(tiny):
    before = fingerprint(tiny)
    assert len(before) == 16 and int(before, 16) >= 0
    images, labels = (array.copy() for array in tiny.splits["test"])
    for array in (images, labels):
        array.flat[-1] ^= 1
        changed = dataclasses.replace(tiny, splits={**tiny.splits, "test": (images, labels)})
        assert fingerprint(changed) != before
        array.flat[-1] ^= 1
    strided = images[:, ::-1][:, ::-1]
    same = dataclasses.replace(tiny, splits={**tiny.splits, "test": (strided, labels)})
    assert fingerprint(same) == before


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("mnist", {}, "unknown data set 'mnist'; known ones are glyphs, digits"),
        ("digits", {"train": 5}, "unexpected keyword argument 'train'; its options are .*seed"),
        ("glyphs", {"train": 5}, "missing a required argument: 'validation'"),
        ("glyphs", {"train": 0, "validation": 1, "test": 1}, "per_class is 0 in split 'train'"),
    ],
)
def test_load_refuses_in_one_line(name, options, says):
    with pytest.raises(ValueError, match=says) as error:
        load(name, **options)
    assert "\n" not in str(error.value)


IMAGES, LABELS = np.zeros((3, 4, 5, 1), np.uint8), np.array([0, 1, 1], np.int32)


@pytest.mark.parametrize(
    "split, says",
    [
        ((IMAGES / 255, LABELS), r"images are float64\[3, 4, 5, 1\]; expected uint8"),
        ((IMAGES[:2], LABELS), r"labels are int32\[3\]; expected int32 \[2\]"),
        ((IMAGES, LABELS.astype(np.int64)), r"labels are int64\[3\]; expected int32"),
        ((IMAGES, LABELS + 1), r"labels are 1..2; 2 classes need 0..1"),
        ((IMAGES, LABELS - 1), r"labels are -1..0; 2 classes need 0..1"),
    ],
)
def test_load_checks_the_arrays(monkeypatch, tiny, split, says):
    broken = dataclasses.replace(tiny, splits={**tiny.splits, "test": split})
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda: broken)
    with pytest.raises(ValueError, match=f"data set 'tiny', split 'test': {says}") as error:
        load("tiny")
    assert "\n" not in str(error.value)


def test_check_sees_the_whole(tiny):
    assert check(tiny) is tiny
    with pytest.raises(ValueError, match="1 class_groups for 2 classes"):
        check(dataclasses.replace(tiny, class_groups=("x",)))
    other = (IMAGES[:, :2], LABELS)
    with pytest.raises(ValueError, match="image shapes differ between splits"):
        check(dataclasses.replace(tiny, splits={**tiny.splits, "test": other}))
    grey = (IMAGES[..., 0], LABELS)
    with pytest.raises(ValueError, match=r"images are uint8\[3, 4, 5\]"):
        check(dataclasses.replace(tiny, splits=dict.fromkeys(SPLITS, grey)))


def test_import_is_light():
    """Neither matplotlib nor scikit-learn is paid for by those who bring their own arrays."""
    code = "import sys, jaxdl.data.sources; print({'matplotlib', 'sklearn'} & {*sys.modules})"
    root = Path(sources.__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert printed.strip() == "set()"
