"""Sources: digits against scikit-learn's arrays, the seal, the division, and what is refused."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_sample_images,
    load_wine,
)

from jaxdl.adaptation import check_domains
from jaxdl.data import sources
from jaxdl.data.builders import glyphs as builder
from jaxdl.data.encoded import Form, encoded
from jaxdl.data.source import Sealed, digest_arrays, divide, make_source
from jaxdl.data.sources import load

SPLITS = ("train", "validation", "test")
IMAGES, LABELS = np.zeros((3, 4, 5, 1), np.uint8), np.array([0, 1, 1], np.int32)


def split_of(images, labels):
    return {"image": images, "label": labels}


TINY = dict.fromkeys(SPLITS, split_of(IMAGES, LABELS))


def parts(source):
    """Images and labels by split."""
    splits = {**source.splits, "test": source.test.open()}
    return {split: (arrays["image"], arrays["label"]) for split, arrays in splits.items()}


# Built-in ones


def test_digits_are_sklearns_each_once():
    splits = parts(load("digits")).values()
    images, labels = (np.concatenate(arrays) for arrays in zip(*splits, strict=True))
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
    labels = parts(load("digits", seed=5))[split][1]
    assert np.abs(np.bincount(labels) - share * total).max() <= 1
    assert (np.diff(labels) != 0).mean() > 0.5  # classes are mixed, not one after another


def test_digits_split_follows_the_seed():
    of = [load("digits", seed=seed).fingerprint for seed in (1, 1, 2)]
    assert of[0] == of[1] != of[2]


@pytest.mark.parametrize("size", [8, 16, 5])
def test_digits_in_another_size_and_in_colour(size):
    plain, ours = (parts(load("digits", seed=3, **o)) for o in ({}, {"size": size, "channels": 3}))
    for split in SPLITS:
        images, labels = ours[split]
        grey, same = plain[split]
        np.testing.assert_array_equal(labels, same)
        assert images.shape == (len(labels), size, size, 3) and images.dtype == np.uint8
        assert (images == images[..., :1]).all()
        for image, small in zip(images[:20], grey[:20], strict=True):
            picture = Image.fromarray(small[..., 0]).resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image[..., 0], picture)


def test_digits_in_neighbouring_places():
    plain, ours = (parts(load("digits", **o)) for o in ({}, {"size": 16, "positions": 4}))
    for split in SPLITS:
        images, labels = ours[split]
        small, same = plain[split]
        assert images.shape == (4 * len(same), 16, 16, 1)
        np.testing.assert_array_equal(labels.reshape(-1, 4), np.stack([same] * 4, 1))
        for four, digit in zip(images.reshape(-1, 4, 16, 16)[:20], small[:20], strict=True):
            picture = Image.fromarray(digit[..., 0]).resize((13, 16), Image.Resampling.BILINEAR)
            for left, image in enumerate(four):
                np.testing.assert_array_equal(image[:, left : left + 13], picture)
                assert image.sum() == np.asarray(picture, int).sum()
    with pytest.raises(ValueError, match="positions=9: ask for 1 to size=8"):
        load("digits", positions=9)


def test_blended_digits_are_the_same_digits_on_photographs():
    """|photo - digit|: taking the digit off leaves one of the two photographs, up to its sign."""
    digits, source = load("digits", seed=4, size=12), load("digits_m", seed=4, size=12)
    assert source.name == "digits_m" and source.class_names == digits.class_names
    photos = [photo[: len(photo) // 2 * 2] for photo in load_sample_images().images]
    photos = [np.asarray(Image.fromarray(photo).reduce(2)).astype(int) for photo in photos]
    ours, theirs = parts(source), parts(digits)
    for split in SPLITS:
        (images, labels), (plain, same) = ours[split], theirs[split]
        np.testing.assert_array_equal(labels, same)
        assert images.shape == (len(labels), 12, 12, 3) and images.dtype == np.uint8
        shares = [
            found_in(photos, *pair) for pair in zip(images[:4], plain[:4, ..., 0], strict=True)
        ]
        assert shares == [1.0] * 4, split
    again = load("digits_m", seed=4, size=12)
    assert again.fingerprint == source.fingerprint != load("digits_m", seed=5, size=12).fingerprint


def found_in(photos, image, digit):
    """The best share of pixels that a place in a photograph explains, all places tried."""
    best = 0.0
    for photo in photos:
        patches = np.lib.stride_tricks.sliding_window_view(photo, (12, 12), (0, 1))
        patches = patches.transpose(0, 1, 3, 4, 2)
        # First by the corner, where there is no ink: few places are left.
        ink = np.argwhere(digit == 0)
        fits = np.ones(patches.shape[:2], bool)
        for row, column in ink[:6]:
            fits &= (patches[:, :, row, column] == image[row, column]).all(-1)
        for patch in patches[fits]:
            best = max(best, (np.abs(patch - digit[..., None].astype(int)) == image).mean())
    return best


def test_glyphs_are_the_builders(monkeypatch):
    def draw(split, per_class, *, seed):
        return np.full((2, 20, 20, 1), len(split) + per_class + seed, np.uint8), LABELS[:2]

    monkeypatch.setattr(builder, "glyphs", draw)
    source = load("glyphs", train=3, validation=1, test=2, seed=4)
    assert source.name == "glyphs" and source.version == str(builder.RECIPE)
    assert len(source.class_names) == len(source.class_groups) == 96
    for split, (images, labels) in parts(source).items():
        asked = {"train": 3, "validation": 1, "test": 2}[split]
        np.testing.assert_array_equal(images, draw(split, asked, seed=4)[0])
        np.testing.assert_array_equal(labels, [0, 1])


@pytest.mark.parametrize(
    "name, options, says",
    [
        (
            "mnist",
            {},
            "unknown data set 'mnist'; known ones are glyphs, fundus, cells, digits, "
            "digits_m, iris, wine, breast_cancer, diabetes, table, sinusoid, interlaced, "
            "imbalanced, latent, tfds, folder, npz, drive, bccd",
        ),
        ("digits", {"train": 5}, "unexpected keyword argument 'train'; its options are .*seed"),
        ("digits", {"channels": 2}, "channels=2"),
        ("digits", {"size": 0}, "size=0: ask for 1 to 256"),
        ("digits_m", {"size": 257}, "size=257: ask for 1 to 256"),
        ("glyphs", {"train": 5}, "missing a required argument: 'validation'"),
        ("glyphs", {"train": 0, "validation": 1, "test": 1}, "per_class is 0 in split 'train'"),
        ("folder", {}, "which folder"),
        ("npz", {}, "which file"),
        ("tfds", {}, "which data set"),
        ("fundus", {"test": 0}, "test=0: ask for 1 image or more"),
        ("cells", {"crowding": 5.0}, "crowding is 5"),
        ("drive", {}, "which folder"),
        ("bccd", {}, "which folder"),
    ],
)
def test_load_refuses_in_one_line(name, options, says):
    with pytest.raises(ValueError, match=says) as error:
        load(name, **options)
    assert "\n" not in str(error.value)


def test_import_is_light():
    """Neither matplotlib nor scikit-learn is paid for by those who bring their own arrays."""
    code = (
        "import sys, jaxdl.data.sources as s; heavy = {'matplotlib', 'sklearn', 'tensorflow',"
        " 'tensorflow_datasets'}; print(heavy & {*sys.modules})"
    )
    root = Path(sources.__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert printed.strip() == "set()"


# Their content


def test_digest_sees_every_pixel_label_and_name():
    before = digest_arrays(TINY)
    assert len(before) == 16 and int(before, 16) >= 0
    images, labels = IMAGES.copy(), LABELS.copy()
    for array in (images, labels):
        array.flat[-1] ^= 1
        assert digest_arrays({**TINY, "test": split_of(images, labels)}) != before
        array.flat[-1] ^= 1
    turned = np.ascontiguousarray(images[:, ::-1])[:, ::-1]
    assert digest_arrays({**TINY, "test": split_of(turned, labels)}) == before
    assert digest_arrays(dict(reversed(TINY.items()))) == before
    assert digest_arrays({"train": TINY["train"]}) != before
    assert digest_arrays({**TINY, "test": split_of(images.reshape(3, 5, 4, 1), labels)}) != before


def test_make_source_by_default_digests_the_arrays():
    assert make_source("t", ("a", "b"), TINY).fingerprint == digest_arrays(TINY)
    given = make_source("t", ("a", "b"), TINY, fingerprint="", version="1.0")
    assert given.fingerprint == "" and given.version == "1.0"


@pytest.mark.parametrize(
    "split, says",
    [
        ((IMAGES / 255, LABELS), r"images are float64\[3, 4, 5, 1\]; expected uint8"),
        ((IMAGES[:2], LABELS), r"labels are int32\[3\]; expected int32 \[2\]"),
        ((IMAGES, LABELS.astype(np.int64)), r"labels are int64\[3\]; expected int32"),
        ((IMAGES, LABELS + 1), r"labels are 1..2; 2 classes need 0..1"),
        ((IMAGES, LABELS - 1), r"labels are -1..0; 2 classes need 0..1"),
        ((IMAGES[:0], LABELS[:0]), "no images"),
    ],
)
def test_arrays_are_checked(split, says):
    for name in SPLITS:
        says_where = f"^data set 'tiny', split '{name}': {says}"
        with pytest.raises(ValueError, match=says_where) as error:
            make_source("tiny", ("a", "b"), {**TINY, name: split_of(*split)})
        assert "\n" not in str(error.value)


def test_the_whole_is_checked():
    with pytest.raises(ValueError, match="'tiny': 1 class_groups for 2 classes; give one each"):
        make_source("tiny", ("a", "b"), TINY, class_groups=("x",))
    with pytest.raises(ValueError, match="'tiny': two classes have one name, 'b'"):
        make_source("tiny", ("a", "b", "b"), TINY)
    with pytest.raises(ValueError, match="two classes have one name, '7'"):
        make_source("tiny", (*map(str, range(20_000)), "7"), TINY)
    with pytest.raises(ValueError, match="image shapes differ between splits"):
        make_source("tiny", ("a", "b"), {**TINY, "test": split_of(IMAGES[:, :2], LABELS)})
    with pytest.raises(ValueError, match=r"images are uint8\[3, 4, 5\]"):
        make_source("tiny", ("a", "b"), dict.fromkeys(SPLITS, split_of(IMAGES[..., 0], LABELS)))


def test_a_source_and_a_target_of_an_adaptation():
    source = make_source("a", ("x", "y"), TINY)
    blank = make_source("b", (), dict.fromkeys(SPLITS, split_of(IMAGES, np.full_like(LABELS, -1))))
    check_domains(source, source)
    check_domains(source, blank)
    coloured = dict.fromkeys(SPLITS, split_of(IMAGES.repeat(3, axis=3), LABELS))
    for domains, words in (
        ((blank, source), "the source, b, has no labels"),
        ((source, make_source("c", ("x", "z"), TINY)), "of the source is 'y', of the target 'z'"),
        ((source, make_source("c", ("x", "y", "z"), TINY)), "source has 2 classes, the target 3"),
        ((source, make_source("c", ("x", "y"), coloured)), r"\[4, 5, 1\], of the target \[4, 5, 3"),
    ):
        with pytest.raises(ValueError, match=words):
            check_domains(*domains)


TABLE = {
    "features": np.arange(12, dtype=np.float32).reshape(4, 3),
    "target": np.array([0.5, 1, 2, 4], np.float32),
}


def test_a_source_may_have_arrays_of_any_name():
    extra = {**TABLE, "mask": np.zeros((4, 2, 2), bool), "text": np.zeros((4, 9), np.uint8)}
    source = make_source("table", (), dict.fromkeys(SPLITS, extra))
    assert not source.labelled and source.test.size == 4 and source.test.counts.tolist() == []
    source.test.verify()
    changed = {**TABLE, "target": TABLE["target"] + 1}
    other = make_source("table", (), {**dict.fromkeys(SPLITS, extra), "test": {**extra, **changed}})
    assert source.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"target": TABLE["target"][:3]}, r"target is float32\[3\]; expected .* \[4, ...\], a row"),
        (
            {"target": TABLE["target"].astype(float)},
            r"target is float64\[4\]; expected bool",
        ),
        ({"target": np.array(list("abcd"))}, r"target is <U1\[4\]; expected"),
        ({"features": TABLE["features"].astype(np.float16)}, "features is float16"),
        ({"target": np.array([0, np.nan, 1, 2], np.float32)}, "target has NaN .*in example 1"),
    ],
)
def test_arrays_of_any_name_are_checked(changed, says):
    labelled = {**TABLE, "label": np.array([0, 1, 0, 1], np.int32)}
    splits = {**dict.fromkeys(SPLITS, labelled), "test": {**labelled, **changed}}
    with pytest.raises(ValueError, match=f"'table', split 'test': {says}"):
        make_source("table", ("a", "b"), splits)
    with pytest.raises(ValueError, match="the splits have other arrays each"):
        make_source("table", (), {**dict.fromkeys(SPLITS, TABLE), "test": labelled})


def test_labels_may_be_missing_where_that_is_said():
    some = split_of(IMAGES, np.array([0, -1, 1], np.int32))
    splits = {**TINY, "train": some}
    source = make_source("tiny", ("a", "b"), splits, unlabelled=True)
    assert source.labelled and source.splits["train"]["label"].tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match=r"labels are -1..1; 2 classes need 0..1"):
        make_source("tiny", ("a", "b"), splits)


@pytest.mark.parametrize(
    "name, loader",
    [("iris", load_iris), ("wine", load_wine), ("breast_cancer", load_breast_cancer)],
)
def test_tables_are_sklearns_each_row_once_and_stratified(name, loader):
    source, table = load(name, seed=3), loader()
    splits = {**source.splits, "test": source.test.open()}
    rows = Counter(
        (int(label), row.tobytes())
        for split in splits.values()
        for label, row in zip(split["label"], split["features"], strict=True)
    )
    features = table.data.astype(np.float32)
    assert rows == Counter(
        (int(label), row.tobytes()) for label, row in zip(table.target, features, strict=True)
    )
    assert source.class_names == tuple(table.target_names)
    total = np.bincount(table.target)
    for split, share in (("validation", 0.2), ("test", 0.2)):
        counts = np.bincount(splits[split]["label"])
        assert np.abs(counts - share * total).max() < 1.5


def test_diabetes_has_targets_and_no_labels():
    source, table = load("diabetes"), load_diabetes()
    splits = {**source.splits, "test": source.test.open()}
    assert {name: len(split["target"]) for name, split in splits.items()} == {
        "train": 266,
        "validation": 88,
        "test": 88,
    }
    pairs = {
        (target, row.tobytes())
        for split in splits.values()
        for target, row in zip(split["target"].tolist(), split["features"], strict=True)
    }
    features = table.data.astype(np.float32)
    assert pairs == {
        (target, row.tobytes()) for target, row in zip(table.target.tolist(), features, strict=True)
    }
    assert load("diabetes", seed=1).fingerprint != source.fingerprint


# The seal


def test_sealed_opens_once():
    sealed = Sealed(TINY["test"], 2)
    assert sealed.size == len(LABELS) and sealed.counts.tolist() == np.bincount(LABELS).tolist()
    assert sealed.size == 3
    opened = sealed.open()
    assert opened["image"] is IMAGES and opened["label"] is LABELS
    with pytest.raises(RuntimeError, match="for the final report alone"):
        sealed.open()
    assert sealed.size == 3


def test_nothing_else_leads_to_the_test_images():
    test = split_of(IMAGES.copy(), LABELS.copy())
    source = make_source("tiny", ("a", "b"), {**TINY, "test": test})
    assert set(source.splits) == {"train", "validation"}
    for split in source.splits.values():
        for name, array in split.items():
            assert not np.shares_memory(array, test[name])
    public = {name for name in dir(source.test) if not name.startswith("_")}
    assert public == {"open", "size", "counts", "verify", "changed"}
    assert source.test.open()["image"] is test["image"]


# The division


def numbered(count, classes=4):
    """Images whose pixel is their place, and labels in some order."""
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.random.default_rng(0).permutation(count).astype(np.int32) % classes
    return split_of(images, labels)


@settings(max_examples=40)
@given(
    count=st.integers(60, 250),
    validation=st.sampled_from([4, 11, 0.1, 0.25]),
    test=st.sampled_from([4, 9, 0.2, 0.3]),
    seed=st.integers(0, 5),
)
def test_divide(count, validation, test, seed):
    """Disjoint, all there, with its label, of the size that was asked for, and class by class."""
    train = numbered(count)
    labels = train["label"]
    done = divide({"train": train}, {"validation": validation, "test": test}, seed)
    places = {split: part["image"].ravel() for split, part in done.items()}
    assert sorted(np.concatenate(list(places.values()))) == list(range(count))
    for split, wanted in {"validation": validation, "test": test}.items():
        size = wanted if wanted >= 1 else round(wanted * count)
        np.testing.assert_array_equal(done[split]["label"], labels[places[split]])
        assert len(places[split]) == size
        exact = size * np.bincount(labels) / count
        assert np.abs(np.bincount(done[split]["label"], minlength=4) - exact).max() < 2


def test_divide_takes_only_what_is_missing():
    train, test = numbered(60), numbered(8)
    done = divide({"train": train, "test": test}, {"validation": 0.1, "test": 0.2}, 0)
    assert done["test"] is test
    assert len(done["validation"]["label"]) == 6 and len(done["train"]["label"]) == 54
    both = {"train": train, "test": test, "validation": test}
    assert divide(both, {"validation": 0.1, "test": 0.2}, 0) == both


def test_divide_follows_the_seed_and_takes_files():
    train = numbered(60)
    taken = [divide({"train": train}, {"test": 8}, seed)["test"]["image"] for seed in (1, 1, 2)]
    assert (taken[0] == taken[1]).all() and (taken[0] != taken[2]).any()
    contents = [b"P5 1 1 255\n" + bytes([place]) for place in range(60)]
    files = encoded(lambda place: (contents[place], "a file"), 60, Form(), "numbered")
    as_files = divide({"train": {**train, "image": files}}, {"test": 8}, 1)["test"]["image"]
    assert as_files.shape == (8, 1, 1, 1)
    np.testing.assert_array_equal(np.stack([as_files[i] for i in range(8)]), taken[0])


@pytest.mark.parametrize(
    "wanted, says",
    [
        ({"validation": 0}, "^validation=0: this data set has none, so take some: above 0"),
        ({"test": -1}, "^test=-1: this data set has none"),
        ({"test": float("nan")}, "^test=nan: this data set has none"),
        ({"test": 0.01}, "^test=0.01, out of the training images: 4 classes cannot"),
        ({"test": 58}, "^test=58, out of the training images: 4 classes cannot"),
        ({"test": 600}, "^test=600 would take all 60 training images"),
        ({"validation": 30, "test": 29}, "^test=29, out of the training images: 4 classes"),
    ],
)
def test_divide_refuses(wanted, says):
    with pytest.raises(ValueError, match=says) as error:
        divide({"train": numbered(60)}, wanted, 0)
    assert "\n" not in str(error.value)


def test_the_test_images_do_not_depend_on_how_many_are_for_validation():
    few, many = (
        divide({"train": numbered(60)}, {"test": 12, "validation": share}, 3) for share in (4, 20)
    )
    np.testing.assert_array_equal(few["test"]["image"], many["test"]["image"])


def test_divide_need_not_look_at_the_labels():
    images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
    labels = (np.arange(60) % 3).astype(np.int32)
    taken = [
        divide({"train": split_of(images, of)}, {"validation": 12}, 0, by_class=False)[
            "validation"
        ]["image"]
        for of in (labels, np.random.default_rng(0).permutation(labels), np.eye(60, dtype="i4")[7])
    ]
    assert len(np.unique(taken[0])) == 12
    np.testing.assert_array_equal(taken[1], taken[0])
    np.testing.assert_array_equal(taken[2], taken[0])


def test_divide_names_a_class_of_one():
    with pytest.raises(ValueError, match="class 2 has 1 example"):
        train = split_of(np.zeros((9, 1, 1, 1)), np.array([0] * 4 + [1] * 4 + [2]))
        divide({"train": train}, {"t": 3}, 0)
