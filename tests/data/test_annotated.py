"""Readers of DRIVE and BCCD, on files like theirs that the tests write."""

import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdl.data.sources import load
from jaxdl.types import DamagedFile

SUBS = {"images": "{}_{}", "1st_manual": "{}_manual1", "mask": "{}_{}_mask"}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def drive(tmp_path):
    """The folder, and the arrays by split and number."""
    rng, truth = np.random.default_rng(0), {}
    for split, numbers in {"training": range(21, 26), "test": range(1, 4)}.items():
        for number in numbers:
            image = rng.integers(0, 256, (6, 5, 3), np.uint8)
            masks = rng.integers(0, 2, (2, 6, 5), np.uint8)
            truth[split, number] = (image, *masks)
            for (sub, name), array in zip(SUBS.items(), (image, *(255 * masks)), strict=True):
                save(tmp_path / split / sub / f"{name.format(f'{number:02}', split)}.png", array)
    return tmp_path, truth


def test_drive_has_its_published_splits(drive):
    folder, truth = drive
    source = load("drive", path=str(folder), validation=2)
    test = source.test.open()
    expected = [truth["test", number] for number in (1, 2, 3)]
    for name, arrays in zip(
        ("image", "vessels", "field"), zip(*expected, strict=True), strict=True
    ):
        np.testing.assert_array_equal(test[name], arrays)
    training = [source.splits[split] for split in ("train", "validation")]
    assert [len(split["image"]) for split in training] == [3, 2]
    ours = {
        split["image"][i].tobytes(): (split["vessels"][i].tobytes(), split["field"][i].tobytes())
        for split in training
        for i in range(len(split["image"]))
    }
    theirs = {
        image.tobytes(): (vessels.tobytes(), field.tobytes())
        for (split, _), (image, vessels, field) in truth.items()
        if split == "training"
    }
    assert ours == theirs and test["vessels"].dtype == np.uint8
    assert not source.labelled


def test_drive_is_reduced_to_squares(drive):
    folder, _ = drive
    whole, reduced = (load("drive", path=str(folder), size=s).test.open() for s in (0, 3))
    image, vessels = (
        np.pad(whole[n], [(0, 0), (0, 0), (0, 1), (0, 0)][: whole[n].ndim])
        for n in ("image", "vessels")
    )
    blocks = image.reshape(3, 3, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(reduced["image"], blocks, atol=1)  # Pillow rounds rows, then columns
    covered = vessels.reshape(3, 3, 2, 3, 2).mean((2, 4))
    np.testing.assert_array_equal(reduced["vessels"], covered >= 1 / 3)


def replace(name, array):
    return lambda folder: save(folder / "training" / name, array)


def remove(name):
    def change(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


GREY = np.arange(30, dtype=np.uint8).reshape(6, 5)
MASK = "1st_manual/22_manual1.png"


@pytest.mark.parametrize(
    "change, says",
    [
        (remove("test"), "there is no folder .*test/images: set path to DRIVE's, with images"),
        (remove("training/mask"), "there is no folder .*training/mask"),
        (remove("training/" + MASK), "22_training.png has no mask: none in .*1st_manual begins"),
        (remove("training/images/23_training.png"), "23_manual1.png has no image: none in "),
        (replace("mask/24_again.png", GREY), "24_again.png both begin with 24"),
        (replace(MASK, GREY[:4]), "22_manual1.png: the mask is 5×4, its image 22_training.png 5×6"),
        (replace("images/22_training.png", np.zeros((6, 4, 3), np.uint8)),
         "22_training.png: the image is 4×6, 21_training.png 5×6; all must be of one size"),
        (replace(MASK, GREY), "22_manual1.png: a mask has two grey levels, one of them 0, .* 30"),
        (replace(MASK, 0 * GREY), "22_manual1.png: the mask is empty"),
        (lambda folder: (folder / "training" / MASK).write_bytes(b"no image"), "no image that"),
    ],
)  # fmt: skip
def test_drive_refuses_in_one_line(drive, change, says):
    folder, _ = drive
    change(folder)
    with pytest.raises((ValueError, DamagedFile), match=says) as error:
        load("drive", path=str(folder))
    assert "\n" not in str(error.value)


HEADER = "image,split,kind,left,top,right,bottom\n"
BOXES = (
    "a.png,train,RBC,1.0,2.0,5.0,4.0\n"
    "a.png,train,WBC,0,0,2,2\n"
    "a.png,train,RBC,0,0,1,2\n"
    "a.png,train,RBC,3,1,3,1\n"
    "b.png,val,Platelets,0,0,1,1\n"
    "c.png,test,RBC,2,2,4,4\n"
)


@pytest.fixture
def bccd(tmp_path):
    for value, name in enumerate("abcd"):
        save(tmp_path / f"{name}.png", np.full((6, 8, 3), value, np.uint8))
    (tmp_path / "boxes.csv").write_text(HEADER + BOXES, encoding="utf-8")
    return tmp_path


def test_bccd_has_the_middles_of_red_cells(bccd):
    source = load("bccd", path=str(bccd))
    train, validation, test = (*source.splits.values(), source.test.open())
    nan = np.nan
    np.testing.assert_array_equal(train["points"], [[[3, 3], [1, 0.5]]])
    np.testing.assert_array_equal(validation["points"], [[[nan, nan], [nan, nan]]])
    np.testing.assert_array_equal(test["points"], [[[3, 3], [nan, nan]]])
    assert [split["count"][0] for split in (train, validation, test)] == [2, 0, 1]
    assert [split["image"].max() for split in (train, validation, test)] == [0, 1, 2]
    assert source.omissions == "1 boxes with nothing in them, 1 images without a box"


def test_bccd_is_reduced_and_left_out(bccd):
    (bccd / "boxes.csv").write_text(HEADER + BOXES + "d.png,val,RBC,2,2,6,4\n")
    source = load("bccd", path=str(bccd), reduce=2, least=1)
    assert source.splits["train"]["image"].shape == (1, 3, 4, 3)
    validation = source.splits["validation"]
    assert validation["count"].tolist() == [1] and validation["image"].max() == 3
    # The middle of a box from 2 to 4 and from 2 to 6, whose pixels are 2 and 3, 2 to 5.
    np.testing.assert_array_equal(validation["points"][0, 0], [(3 + 0.5) / 2 - 0.5, 1.75])
    assert "1 images with fewer than 1 boxes of red cells" in source.omissions
    for options, says in (
        ({"least": 2}, "no image of split validation"),
        ({"reduce": 9}, "1 to 8"),
    ):
        with pytest.raises(ValueError, match=says):
            load("bccd", path=str(bccd), **options)


@pytest.mark.parametrize(
    "table, says",
    [
        (HEADER.replace("kind,", "") + BOXES, "boxes.csv: it has no column kind"),
        (HEADER + BOXES + "a.png,train,RBC,1,2,x,4\n", "line 8: left, top, right and bottom are"),
        (HEADER + BOXES + "a.png,train,RBC,1,2\n", "line 8: left, top, right and bottom are"),
        (HEADER + BOXES + "a.png,train,RBC,5,2,1,4\n", "line 8: 5, 2 to 1, 4 is no box"),
        (HEADER + BOXES + "a.png,train,rbc,1,2,5,4\n", "line 8: 'rbc' is none of RBC, WBC, Pla"),
        (HEADER + BOXES + "a.png,extra,RBC,1,2,5,4\n", "line 8: 'extra' is no split"),
        (HEADER + BOXES + "a.png,test,RBC,1,2,5,4\n", "line 8: a.png is in train, too"),
        (HEADER + BOXES + "e.png,test,RBC,1,2,5,4\n", "has boxes for e.png, and .* no such file"),
        (HEADER + BOXES.replace("val", "train"), "no image is in split validation"),
    ],
)
def test_bccd_refuses_in_one_line(bccd, table, says):
    (bccd / "boxes.csv").write_text(table, encoding="utf-8")
    with pytest.raises((ValueError, DamagedFile), match=says) as error:
        load("bccd", path=str(bccd))
    assert "\n" not in str(error.value)


def test_bccd_refuses_images_that_differ(bccd):
    save(bccd / "b.png", np.zeros((5, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b.png: the image is 8×5, a.png 8×6"):
        load("bccd", path=str(bccd))
    (bccd / "boxes.csv").unlink()
    with pytest.raises(ValueError, match=r"there is no boxes\.csv"):
        load("bccd", path=str(bccd))
