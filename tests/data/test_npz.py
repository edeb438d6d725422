"""Archives of arrays, written here: what they may hold, and what is refused, in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdl.data.sources import load, npz
from jaxdl.types import DamagedFile

SHARED = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)
SIZES = {"train": 30, "validation": 6, "test": 9}
IMAGES = {split: RNG.integers(0, 256, (n, 5, 4, 3), np.uint8) for split, n in SIZES.items()}
LABELS = {split: np.arange(n) % 3 for split, n in SIZES.items()}
ALL = {f"{s}_images": IMAGES[s] for s in SIZES} | {f"{s}_labels": LABELS[s] for s in SIZES}
TRAIN = {"images": IMAGES["train"], "labels": LABELS["train"]}


@pytest.fixture
def write(tmp_path):
    def writer(arrays, name="some.npz", **changed):
        kept = {k: v for k, v in (arrays | changed).items() if v is not None}
        np.savez(tmp_path / name, **kept)
        return str(tmp_path / name)

    return writer


def refused(path, says, kind=ValueError, **options):
    with pytest.raises(kind, match=says) as error:
        npz(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_splits(write):
    source = load("npz", path=write(ALL, class_names=np.array(["ä", "b", "c"])))
    assert source.name == "some" and source.class_names == ("ä", "b", "c")
    for split, arrays in {**source.splits, "test": source.test.open()}.items():
        images, labels = arrays["image"], arrays["label"]
        np.testing.assert_array_equal(images, IMAGES[split])
        np.testing.assert_array_equal(labels, LABELS[split])
        assert labels.dtype == np.int32


def test_splits_that_are_missing_are_taken(write):
    source = npz(write(TRAIN), validation=0.1, test=9)
    parts = [source.splits["train"], source.splits["validation"], source.test.open()]
    assert [len(part["label"]) for part in parts] == [18, 3, 9]
    images = np.concatenate([part["image"] for part in parts])
    together = sorted(image.tobytes() for image in images)
    assert together == sorted(image.tobytes() for image in IMAGES["train"])
    with_test = npz(write(ALL, validation_images=None, validation_labels=None), validation=3)
    np.testing.assert_array_equal(with_test.test.open()["image"], IMAGES["test"])
    assert len(with_test.splits["train"]["label"]) == 27


@pytest.mark.parametrize("validation", ["val", "valid", "Valid", "dev", "VALIDATION"])
@pytest.mark.parametrize("train", ["train_", "Training_", ""])
@pytest.mark.parametrize("test", ["Test", "testing"])
def test_other_names_of_splits(write, train, test, validation):
    """Held-out images are used whatever they are called, and no training image in their place."""
    words = {"train": train, "test": f"{test}_", "validation": f"{validation}_"}
    arrays = {f"{words[s]}images": IMAGES[s] for s in SIZES}
    arrays |= {f"{words[s]}Labels": LABELS[s] for s in SIZES}
    source, same = npz(write(arrays)), npz(write(ALL, "same.npz"))
    assert source.fingerprint == same.fingerprint
    np.testing.assert_array_equal(source.test.open()["image"], IMAGES["test"])


def test_fingerprint_is_the_one_of_earlier_versions(write):
    images = {s: np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2) for s, n in SIZES.items()}
    whole = write(ALL | {f"{split}_images": array for split, array in images.items()})
    assert npz(whole).fingerprint == "7729d03d454e1a96"
    cut = write({"images": images["train"] / 255, "labels": LABELS["train"]}, "cut.npz")
    assert npz(cut, validation=3, test=3).fingerprint == "0561547e98362511"


@pytest.mark.parametrize(
    "name", ["holdout_images", "test2_images", "Images_test", "x_test", "val_image", "IMAGES"]
)
def test_images_that_would_be_ignored(write, name):
    says = rf"the array {name} would not be read: call it train_images, test_images or"
    if name == "IMAGES":
        says = "images and IMAGES are both its train split"
    refused(write(TRAIN, **{name: IMAGES["test"]}), says)


@pytest.mark.parametrize("name", ["test_files", "coarse_labels", "mean", "images_mean", "masks"])
def test_other_arrays_are_left_alone(write, name):
    shape = {"mean": (5, 4, 3), "images_mean": (5, 4, 3), "masks": (30, 5, 4)}.get(name, 30)
    source = npz(write(TRAIN, **{name: np.zeros(shape)}), validation=3, test=3)
    assert source.fingerprint == npz(write(TRAIN, "x.npz"), validation=3, test=3).fingerprint


@pytest.mark.parametrize("twin", ["Test_images", "testing_images"])
def test_two_arrays_of_one_split(write, twin):
    says = f"test_images and {twin} are both its test split, by their names: rename or remove one"
    refused(write(ALL, **{twin: IMAGES["test"]}), says)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_beyond_0_and_1_is_allowed(write, dtype):
    grey = IMAGES["train"].copy()
    grey[0, 0, 0] = 255, 0, 255
    fractions = (grey / 255).astype(dtype)
    fractions[0, 0, 0] = 1 + np.finfo(dtype).eps, -1e-7, 1
    assert fractions.max() > 1 and fractions.min() < 0
    source = npz(write(TRAIN, images=fractions), validation=3, test=3)
    same = npz(write(TRAIN, "same.npz", images=grey), validation=3, test=3)
    assert source.fingerprint == same.fingerprint
    refused(write(TRAIN, images=fractions * 1.01), "images spans .* to 1.01.*; fractions must lie")


def test_images_alone_are_taken_where_labels_are_not_needed(write):
    bare = {f"{split}_images": IMAGES[split] for split in SIZES}
    source = load("npz", unlabelled=True, path=write(bare))
    assert not source.labelled and source.class_names == ()
    assert source.test.size == SIZES["test"]
    for split, arrays in {**source.splits, "test": source.test.open()}.items():
        images, labels = arrays["image"], arrays["label"]
        np.testing.assert_array_equal(images, IMAGES[split])
        np.testing.assert_array_equal(labels, np.full(SIZES[split], -1))
    taken = npz(write({"images": IMAGES["train"]}), unlabelled=True, validation=0.1, test=9)
    assert [len(taken.splits[s]["label"]) for s in ("train", "validation")] == [18, 3]
    # With labels they are read as ever; and elsewhere they are needed.
    assert npz(write(ALL), unlabelled=True).labelled
    refused(write(bare), "has no array train_labels, but")
    refused(write(bare, names=LABELS["train"]), "has no array train_labels", unlabelled=True)
    refused(write(ALL, test_labels=None), "has no array test_labels", unlabelled=True)


MASKS = {f"{s}_masks": RNG.integers(0, 2, (n, 5, 4)) for s, n in SIZES.items()}
PICTURES = {f"{s}_images": IMAGES[s] for s in SIZES} | MASKS
ANSWERS = ("label", "mask", "field", "point", "points", "count", "instances")


def test_answers_that_are_no_labels(write):
    counts = {f"{s}_count": np.arange(n) for s, n in SIZES.items()}
    points = {f"{s}_POINTS": np.full((n, 2, 2), np.nan) for s, n in SIZES.items()}
    fields = {f"{s}_fields": np.ones((n, 5, 4), bool) for s, n in SIZES.items()}
    own = PICTURES | counts | points | fields
    source = load("npz", answers=ANSWERS, path=write(own))
    assert not source.labelled
    for split, arrays in {**source.splits, "test": source.test.open()}.items():
        dtypes = {name: array.dtype.name for name, array in arrays.items()}
        assert dtypes == {
            **{"image": "uint8", "mask": "int32", "field": "uint8"},
            **{"count": "float32", "points": "float32"},
        }
        np.testing.assert_array_equal(arrays["image"], IMAGES[split])
        np.testing.assert_array_equal(arrays["mask"], MASKS[f"{split}_masks"])
        np.testing.assert_array_equal(arrays["count"], np.arange(SIZES[split]))
    assert load("npz", answers=ANSWERS, path=write(own | ALL)).class_names == ("0", "1", "2")
    ones = {f"{s}_labels": np.ones(n, int) for s, n in SIZES.items()}
    assert load("npz", answers=ANSWERS, path=write(own | ones)).class_names == ("0", "1")
    # Splits that are missing are taken with their rows, and one name of one's own will do.
    few = {"image": IMAGES["train"], "Vessels": np.arange(30)}
    taken = npz(write(few), answers=("vessels",), validation=3, test=3)
    for arrays in (*taken.splits.values(), taken.test.open()):
        np.testing.assert_array_equal(arrays["image"], IMAGES["train"][arrays["vessels"]])


@pytest.mark.parametrize(
    "changed, says",
    [
        (
            {"train_count": np.array(3.0)},
            r"train_count is float64\[\]; expected numbers, a row an image",
        ),
        (
            {"train_images": IMAGES["train"][1:]},
            "split 'train' has 29 images and 30 masks; expected a row an image",
        ),
        ({"test_images": None}, "has no array test_images, but test_masks, train_images"),
        ({"test_masks": None}, "the splits have other arrays each"),
        ({"train_vessels": MASKS["train_masks"]}, "the array train_vessels would not be read: "),
        ({"holdout_masks": MASKS["test_masks"]}, "the array holdout_masks would not be read: "),
        ({"test2_images": IMAGES["test"]}, "the array test2_images would not be read: .* use imag"),
        ({"test_mask": MASKS["test_masks"]}, "test_mask and test_masks are both its test split"),
        ({"train_masks": MASKS["train_masks"] / 2}, r"_masks is float64\[30, 5, 4\]; expected in"),
        ({"train_masks": np.array("x")}, r"train_masks is <U1\[\]; expected integers, a row an im"),
        (
            {"train_masks": MASKS["train_masks"] * 2**40},
            "train_masks spans 0 to 10.*; expected",
        ),
    ],
)
def test_answers_that_are_refused(write, changed, says):
    refused(write(PICTURES, **changed), says, answers=ANSWERS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fractions_and_grey(write, dtype):
    grey = IMAGES["train"][..., 0]
    path = write(TRAIN, images=(grey / 255).astype(dtype), labels=LABELS["train"][:, None])
    source = npz(path, validation=3, test=3, seed=1)
    same = npz(write(TRAIN, "grey.npz", images=grey), validation=3, test=3, seed=1)
    assert source.splits["train"]["image"].shape == (24, 5, 4, 1)
    np.testing.assert_array_equal(source.splits["train"]["image"], same.splits["train"]["image"])
    assert source.fingerprint == same.fingerprint
    coloured = npz(path, validation=3, test=3, seed=1, channels=3)
    for ours, theirs in (
        (coloured.splits["train"], source.splits["train"]),
        (coloured.test.open(), source.test.open()),
    ):
        np.testing.assert_array_equal(ours["image"], theirs["image"] * np.ones(3, np.uint8))
        np.testing.assert_array_equal(ours["label"], theirs["label"])
    colour = npz(write(ALL), channels=3)
    assert colour.fingerprint == npz(write(ALL, "same.npz")).fingerprint
    refused(path, "channels=1 is not one of 0, 3", channels=1)


def test_names_and_groups(write):
    names, groups = np.array([b"x", b"y", b"z"]), np.array(["p", "q", "p"])
    source = npz(write(ALL, class_names=names, class_groups=groups))
    assert source.class_names == ("x", "y", "z") and source.class_groups == ("p", "q", "p")
    assert npz(write(ALL)).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"images": None}, "has no array images, but labels"),
        ({"images": None, "labels": None}, "has no array train_images, but none"),
        ({"labels": None}, "has no array labels, but images"),
        ({"images": IMAGES["train"][0, 0]}, r"images is \[4, 3\]; expected \[n, h, w\]"),
        ({"images": np.zeros((30, 5, 4, 2), np.uint8)}, r"images is \[30, 5, 4, 2\]; expected"),
        ({"images": IMAGES["train"].astype(np.int64)}, "images is int64; expected uint8"),
        ({"images": IMAGES["train"] > 9}, "images is bool; expected uint8"),
        ({"images": np.full((30, 5, 4), np.nan)}, "images has NaN or infinities, first in image 0"),
        ({"images": np.eye(30)[..., None] / [0.5]}, "images spans 0 to 2; fractions must lie in"),
        ({"images": np.full((30, 5, 4), -0.1)}, "images spans -0.1 to -0.1; fractions"),
        ({"images": np.full((30, 5, 4), -np.inf)}, "NaN or infinities, first in image 0"),
        ({"labels": LABELS["train"] / 1}, r"labels is float64\[30\]; expected integers"),
        ({"labels": LABELS["train"] - 1}, "labels spans -1 to 1; labels begin at 0"),
        ({"labels": LABELS["train"] + 2**40}, "labels begin at 0"),
        ({"labels": np.stack([LABELS["train"]] * 2, 1)}, r"int64\[30, 2\]; expected integers"),
        ({"labels": LABELS["train"][:-1]}, "30 images and 29 labels; expected a row an image"),
        ({"images": IMAGES["train"][:-1]}, "29 images and 30 labels; expected a row an image"),
        ({"labels": LABELS["train"] * 2}, "5 classes.*no training image has label 1"),
        ({"class_names": np.array(["a", "b", "a"])}, "two classes have one name, 'a'"),
        ({"class_names": np.array(["a", "b"])}, r"labels are 0..2; 2 classes need 0..1"),
        ({"class_names": np.array(list("abcd"))}, "4 classes.*no training image has label 3"),
        ({"class_names": np.array("abc")}, r"class_names is \[\]; expected one row, a string a"),
        ({"class_groups": np.array(["a", "b"])}, "2 class_groups for 3 classes; give one each"),
    ],
)
def test_what_is_refused(write, changed, says):
    path = write(TRAIN, **changed)
    assert "some" in refused(path, says)


def test_one_nan_is_found_by_its_image(write):
    images = IMAGES["train"] / 255
    images[17, 3, 2, 1] = np.nan
    refused(write(TRAIN, images=images), "images has NaN or infinities, first in image 17$")


def test_splits_must_agree(write):
    refused(write(ALL, test_labels=LABELS["test"] + 1), "split 'test': labels are 1..3; 3 classes")
    refused(write(ALL, test_images=IMAGES["test"][:, 1:]), "image shapes differ between splits")
    refused(write(ALL, test_labels=None), "has no array test_labels, but test_images")
    nobody = {"test_images": IMAGES["test"][:0], "test_labels": LABELS["test"][:0]}
    refused(write(ALL, **nobody), "split 'test': no images")
    none = {"images": IMAGES["train"][:0], "labels": LABELS["train"][:0]}
    refused(write(none), "would take all 0 training images")


def test_shares_that_cannot_be_had(write):
    path = write(TRAIN)
    refused(path, "^validation=0: this data set has none", validation=0)
    refused(path, "^validation=0.01, out of the training images: 3 classes", validation=0.01)
    refused(path, "^test=29, out of the training images: 3 classes cannot", test=29)


def test_objects_are_not_run(write, tmp_path):
    """An array of objects is a pickle, which could run any code."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = write(TRAIN, labels=np.array([Bomb()] * 30, object))
    refused(path, "some.npz: labels holds Python objects, which are not read since they could run")
    stray = write(TRAIN, about=np.array([{"author": "me"}]), class_names=np.array(["a"], object))
    refused(stray, "some.npz: about, class_names holds Python objects, .*: save numbers or strings")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives(tmp_path, save):
    """Cut anywhere or a bit flipped anywhere: whole arrays, or one line that names the file."""
    path = tmp_path / "some.npz"
    save(path, images=IMAGES["train"][:, :1, :1], labels=LABELS["train"])
    whole, options = path.read_bytes(), {"validation": 3, "test": 3}
    fingerprint, refusals = npz(str(path), **options).fingerprint, 0
    rng = np.random.default_rng(1)
    cuts = [whole[:n] for n in range(0, len(whole), 31)]
    places = rng.integers(len(whole), size=60)
    flips = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in places]
    for damaged in cuts + flips:
        path.write_bytes(damaged)
        try:
            assert npz(str(path), **options).fingerprint == fingerprint
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refusals += 1
    assert refusals > len(cuts)


def test_paths(write, tmp_path, monkeypatch):
    refused("", "which file. Set path to an .npz")
    with pytest.raises(FileNotFoundError) as error:
        npz(str(tmp_path / "none.npz"))
    assert error.value.filename == str(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        npz(str(tmp_path))
    np.save(tmp_path / "one.npy", IMAGES["train"])
    refused(str(tmp_path / "one.npy"), "one.npy: not a whole .npz", DamagedFile)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(ALL)
    assert npz("~/some.npz").name == "some"


@pytest.mark.slow
def test_usps():
    if not (SHARED / "usps.npz").is_file():
        pytest.skip(f"there is no {SHARED / 'usps.npz'}")
    source = load("npz", path=str(SHARED / "usps.npz"))
    train, validation = (source.splits[s]["label"] for s in ("train", "validation"))
    images, labels = source.test.open().values()
    assert len(train) + len(validation) == 7291 and images.shape == (2007, 16, 16, 1)
    # Le Cun's counts of each digit in the test set.
    counts = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    assert np.bincount(labels).tolist() == counts
    assert "tensorflow" not in sys.modules
