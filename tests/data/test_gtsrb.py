"""GTSRB: a tiny archive in the official layout, written here, whole and with its faults."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdl.data.builders.gtsrb import CLASS_NAMES, GtsrbConfig, signs, view

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def picture(label, number):
    """Black, but for a region of interest whose colour tells class and number."""
    width, height = 30 + label % 7, 28 + number
    pixels = np.zeros((height, width, 3), np.uint8)
    roi = (5, 6, width - 5, height - 4)  # as GTSRB counts: the right and lower ends lie outside
    pixels[roi[1] : roi[3], roi[0] : roi[2]] = (5 * label, 100, 50 + number)
    return pixels, (width, height, *roi)


def line(name, numbers, label):
    return ";".join([name, *map(str, numbers), str(label)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """43 classes of a track of two frames and, in class 7, another; five test images."""
    root = tmp_path_factory.mktemp("whole") / "GTSRB"
    for label in range(43):
        folder = root / "Final_Training" / "Images" / f"{label:05d}"
        folder.mkdir(parents=True)
        lines = [HEADER]
        for number in range(3 if label == 7 else 2):
            name = f"{number // 2:05d}_{number % 2:05d}.ppm"
            pixels, numbers = picture(label, number)
            Image.fromarray(pixels).save(folder / name)
            lines.append(line(name, numbers, label))
        (folder / f"GT-{label:05d}.csv").write_text("\r\n".join(lines) + "\r\n")
    folder = root / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    lines = [HEADER]
    for number, label in enumerate((16, 1, 38, 33, 11)):
        pixels, numbers = picture(label, number)
        Image.fromarray(pixels).save(folder / f"{number:05d}.ppm")
        lines.append(line(f"{number:05d}.ppm", numbers, label))
    (folder / "GT-final_test.test.csv").write_text("Filename;Width;Height\r\n")
    (folder / "GT-final_test.csv").write_text("\r\n".join(lines) + "\r\n")
    return root


@pytest.fixture
def archive(whole, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "GTSRB"))


def test_class_names():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 43
    # Anchors of the official numbering.
    known = {0: "speed limit 20 km/h", 12: "priority road", 13: "yield", 14: "stop", 17: "no entry"}
    known |= {25: "road work", 38: "keep right", 40: "roundabout mandatory"}
    assert {i: CLASS_NAMES[i] for i in known} == known


def test_the_table_of_training(whole):
    found = signs(whole, "train")
    assert len(found) == 87 and [s.label for s in found] == sorted(s.label for s in found)
    assert sorted({s.track for s in found}) == sorted([*(100_000 * c for c in range(43)), 700_001])
    assert [s.file.name for s in found if s.track == 700_001] == ["00001_00000.ppm"]
    assert found[0].roi == picture(0, 0)[1][2:]


@pytest.mark.parametrize("place", ["Final_Test/Images", ".", ".."])
def test_the_table_of_test(archive, place):
    official = archive / "Final_Test" / "Images" / "GT-final_test.csv"
    shutil.move(official, archive / place / "GT-final_test.csv")
    found = signs(archive, "test")
    assert [s.label for s in found] == [16, 1, 38, 33, 11] and {s.track for s in found} == {-1}


def test_views(whole):
    for sign in (signs(whole, "train")[16], signs(whole, "test")[2]):
        assert sign.label in (7, 38)  # of each, the third picture
        pixels, (width, height, left, top, right, bottom) = picture(sign.label, 2)
        native = view(sign, roi=False, size=0)
        assert native.shape == (height, width, 3)
        np.testing.assert_array_equal(native, pixels)
        cut = view(sign, size=0)
        np.testing.assert_array_equal(cut, pixels[top:bottom, left:right])
        # One colour stays that colour: nothing of the black border gets in.
        scaled = view(sign)
        assert scaled.shape == (40, 40, 3) and (scaled == cut[0, 0]).all()
        assert (view(sign, roi=False, size=16)[[0, -1]] == 0).all()


def test_scaling_is_an_average(whole, tmp_path):
    """A ramp stays a ramp, at the new pixels' centres, and stripes of one pixel become grey."""
    sign = signs(whole, "test")[0]
    ramp = np.broadcast_to(2 * np.arange(80, dtype=np.uint8)[:, None], (80, 80, 3)).copy()
    ramp[..., 1] = 255 * (np.arange(80) % 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.ppm")
    sign = type(sign)(tmp_path / "ramp.ppm", (0, 0, 80, 80), 0, -1)
    scaled = view(sign).astype(float)
    centres = 2 * (np.arange(40) + 0.5) - 0.5
    np.testing.assert_allclose(scaled[5, 1:-1, 0], 2 * centres[1:-1], atol=1)
    np.testing.assert_allclose(scaled[:, 1:-1, 1], 127.5, atol=1)


def _break(archive, name, change):
    file = archive / name
    file.write_text(change(file.read_text()))


TRAIN = "Final_Training/Images/00003"
FAULTS = {
    "no folder": (
        lambda a: shutil.rmtree(a / "Final_Training"),
        FileNotFoundError,
        "no folder .*Final_Training/Images; unpack GTSRB_Final_Training_Images.zip",
    ),
    "no table": (
        lambda a: (a / TRAIN / "GT-00003.csv").unlink(),
        FileNotFoundError,
        "no table .*GT-00003.csv; unpack",
    ),
    "no image": (
        lambda a: (a / TRAIN / "00000_00001.ppm").unlink(),
        FileNotFoundError,
        "GT-00003.csv, line 3: no image .*00003/00000_00001.ppm",
    ),
    "wrong class": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace(";3\n", ";4\n")),
        ValueError,
        "line 2: ClassId is 4, in the folder of class 3",
    ),
    "no such class": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace(";3\n", ";43\n")),
        ValueError,
        r"line 2: ClassId is 43; expected 0\.\.42",
    ),
    "no number": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace(";28;", ";x;")),
        ValueError,
        "line 2: 00000_00000.ppm;33;x;.* is not a name and seven integers",
    ),
    "short line": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t + "00000_00002.ppm;3"),
        ValueError,
        "line 4: 00000_00002.ppm;3;None.* is not a name and seven integers",
    ),
    "other separator": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace(";", ",")),
        ValueError,
        "no column Filename, Width",
    ),
    "empty table": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: HEADER),
        ValueError,
        "GT-00003.csv: no lines",
    ),
    "no text": (
        lambda a: (a / TRAIN / "GT-00003.csv").write_bytes(b"\xff\xfe\x00"),
        ValueError,
        "GT-00003.csv: not a table",
    ),
    "other name": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace("00000_00000", "sign")),
        ValueError,
        "line 2: sign.ppm is not named TTTTT_FFFFF.ppm",
    ),
    "no test classes": (
        lambda a: (a / "Final_Test/Images/GT-final_test.csv").unlink(),
        FileNotFoundError,
        "no GT-final_test.csv in .*Final_Test/Images; unpack GTSRB_Final_Test_GT.zip",
    ),
    "truncated image": (
        lambda a: (a / TRAIN / "00000_00001.ppm").write_bytes(
            (a / TRAIN / "00000_00001.ppm").read_bytes()[:1000]
        ),
        ValueError,
        "00003/00000_00001.ppm: not a whole image",
    ),
    "empty image": (
        lambda a: (a / "Final_Test/Images/00002.ppm").write_bytes(b""),
        ValueError,
        "Final_Test/Images/00002.ppm: no image that Pillow knows",
    ),
    "region outside": (
        lambda a: _break(a, f"{TRAIN}/GT-00003.csv", lambda t: t.replace(";5;6;28;", ";5;6;34;")),
        ValueError,
        r"the region of interest \(5, 6, 34, 24\) does not lie in the image, 33 wide and 28 high",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_in_one_line(archive, tmp_path, fault):
    damage, kind, says = FAULTS[fault]
    damage(archive)
    config = GtsrbConfig(folder=archive)
    builder = tfds.builder(
        "gtsrb", config=config, data_dir=tmp_path / "tfds", file_format="array_record"
    )
    with pytest.raises(kind, match=says) as error:
        builder.download_and_prepare()
    assert "\n" not in str(error.value) and str(error.value).startswith("gtsrb: ")
    assert not builder.data_path.exists()
    assert not list(builder.data_path.parent.glob("*incomplete*"))


def test_what_is_asked_for_must_exist(whole):
    with pytest.raises(ValueError, match="unknown split 'validation'; choose one of train, test"):
        signs(whole, "validation")
    with pytest.raises(ValueError, match="size is -1"):
        GtsrbConfig(size=-1)


@pytest.mark.parametrize("options", [{}, {"roi": False, "size": 0}])
def test_the_builder(whole, tmp_path, options):
    config = GtsrbConfig(**options)
    builder = tfds.builder("gtsrb", config=config, data_dir=tmp_path, file_format="array_record")
    manual = tfds.download.DownloadConfig(manual_dir=whole.parent)
    builder.download_and_prepare(download_config=manual)
    assert tuple(builder.info.features["label"].names) == CLASS_NAMES
    for split in ("train", "test"):
        source = tfds.data_source(f"gtsrb/{config.name}", split=split, data_dir=tmp_path)
        found = sorted((e["label"], int(e["track"]), e["image"].tobytes()) for e in source)
        table = signs(whole, split)
        size = options.get("size", 40)
        images = [view(s, roi=options.get("roi", True), size=size) for s in table]
        expected = [(s.label, s.track, i.tobytes()) for s, i in zip(table, images, strict=True)]
        assert found == sorted(expected)
    # Slices hold many classes: the archive's order is not kept.
    train = builder.as_data_source("train[:20]")
    assert len({e["label"] for e in train}) > 10
    if options:
        assert len({e["image"].shape for e in train}) > 3


def test_names_of_settings(whole, tmp_path):
    names = {GtsrbConfig(roi=r, size=s).name for r in (True, False) for s in (0, 32, 40)}
    assert len(names) == 6
    assert GtsrbConfig(folder=whole).name == GtsrbConfig().name == "roi-40"
    builder = tfds.builder("gtsrb", data_dir=tmp_path, file_format="array_record")
    with pytest.raises(FileNotFoundError, match=r"gtsrb: no data; .*folder=…") as error:
        builder.download_and_prepare()
    assert "\n" not in str(error.value)
