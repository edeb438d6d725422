"""Class folders, written here in every layout, against what was written; and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdl.data import imagenet
from jaxdl.data.encoded import in_memory
from jaxdl.data.folder import SUFFIXES, folder
from jaxdl.data.sources import load
from jaxdl.types import DamagedFile


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def fill(root, counts, shape=(4, 5, 3), suffix=".png"):
    """So many images in each folder, each with bytes of its own; {path: pixels}."""
    written = {}
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            array = np.random.default_rng([place, i]).integers(0, 256, shape, np.uint8)
            path = root / name / f"{i:03d}{suffix}"
            Image.fromarray(array[..., 0] if shape[2] == 1 else array).save(path)
            written[path.relative_to(root).as_posix()] = array
    return written


def found(source):
    """{split: sorted [(label, pixels)]} of a source."""
    splits = {**source.splits, "test": source.test.open()}
    return {
        split: sorted(
            (int(y), x.tobytes())
            for x, y in zip(in_memory(arrays["image"]), arrays["label"], strict=True)
        )
        for split, arrays in splits.items()
    }


def expected(written, prefix, classes):
    return sorted(
        (classes.index(Path(path).parent.name), array.tobytes())
        for path, array in written.items()
        if path.startswith(prefix)
    )


def refused(path, says, kind=ValueError, **options):
    with pytest.raises(kind, match=says) as error:
        folder(str(path), **options)
    assert "\n" not in str(error.value)


# Layouts


def test_pictures_alone_are_taken_where_labels_are_not_needed(root, tmp_path):
    written = fill(root, {".": 20})
    source = load("folder", unlabelled=True, path=str(root), validation=0.2, test=6)
    assert not source.labelled and source.class_names == () and source.test.size == 6
    everything = [item for part in found(source).values() for item in part]
    assert sorted(everything) == sorted((-1, array.tobytes()) for array in written.values())
    refused(root, "has 0 class folders")
    split = tmp_path / "split"
    written = fill(split, {"train": 10, "test": 4, "val": 3})
    source = load("folder", unlabelled=True, path=str(split))
    for part, items in found(source).items():
        folder_of = {"validation": "val"}.get(part, part)
        own = [(-1, a.tobytes()) for path, a in written.items() if path.startswith(folder_of)]
        assert items == sorted(own)
    (tmp_path / "nothing").mkdir()
    refused(tmp_path / "nothing", "has 0 class folders", unlabelled=True)
    fill(root, {"cat": 3, "dog": 3})
    source = load("folder", unlabelled=True, path=str(root), validation=2, test=2)
    assert source.class_names == ("cat", "dog")


def test_flat(root):
    written = fill(root, {"zebra": 20, "ant": 30, "bee": 10})
    source = load("folder", path=str(root), validation=0.2, test=6, seed=3)
    assert source.name == "pictures" and source.class_names == ("ant", "bee", "zebra")
    assert source.class_groups == ()
    sizes = {s: np.bincount(arrays["label"]).tolist() for s, arrays in source.splits.items()}
    assert sizes == {"train": [21, 7, 14], "validation": [6, 2, 4]} and source.test.size == 6
    everything = [item for part in found(source).values() for item in part]
    assert sorted(everything) == expected(written, "", source.class_names)


LAYOUTS = {
    "train test": (None, "test"),
    "train val": (None, "val"),
    "train validation": (None, "validation"),
    "train val test": ("val", "test"),
    "train validation test": ("validation", "test"),
    "train Test": (None, "Test"),
    "Train testing": (None, "testing"),
    "TRAIN VALID": (None, "VALID"),
    "training dev test": ("dev", "test"),
    "train valid Testing": ("valid", "Testing"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_in_folders(root, layout):
    written = fill(
        root, {f"{split}/{name}": 10 for split in layout.split() for name in ("ant", "bee")}
    )
    source = folder(str(root), validation=4)
    assert source.class_names == ("ant", "bee")
    parts = found(source)
    validation, test = LAYOUTS[layout]
    assert parts["test"] == expected(written, f"{test}/", source.class_names)
    train = expected(written, layout.split()[0], source.class_names)
    assert source.omissions == ""
    if validation:
        assert parts["validation"] == expected(written, f"{validation}/", source.class_names)
        assert parts["train"] == train
    else:
        assert sorted(parts["train"] + parts["validation"]) == train
        assert len(parts["validation"]) == 4


def test_train_beside_other_classes_is_a_class(root):
    written = fill(root, {"car": 8, "train": 8, "bus": 8, "test": 8})
    source = folder(str(root), validation=4, test=4)
    assert source.class_names == ("bus", "car", "test", "train")
    everything = [item for part in found(source).values() for item in part]
    assert sorted(everything) == expected(written, "", source.class_names)


def test_what_is_not_an_image_is_left_alone(root):
    written = fill(root, {"ant": 8, "bee": 8})
    (root / "README.txt").write_text("of the whole")
    (root / ".hidden").mkdir()
    (root / "ant" / "Thumbs.db").write_text("what Windows leaves")
    (root / "ant" / "._000.png").write_text("what macOS leaves")
    (root / "ant" / "a.png").mkdir()
    (root / "bee" / "deeper").mkdir()
    (root / "bee" / "deeper" / "000.png").write_bytes(b"in no class")
    source = folder(str(root), validation=2, test=2)
    assert source.class_names == ("ant", "bee")
    everything = [item for part in found(source).values() for item in part]
    assert sorted(everything) == expected(written, "", source.class_names)
    assert source.omissions == "2 folders in class folders, 1 .db"


def test_what_is_passed_over_is_counted(root):
    fill(root, {f"{split}/{name}": 4 for split in ("train", "val") for name in ("ant", "bee")})
    (root / "test").mkdir()
    (root / "test" / "000.png").write_bytes(b"without a class, as in ImageNet")
    for place in range(1200):
        (root / "train" / "ant" / f"{place}.HEIC").write_text("")
    for name in ("1.heic", "a.txt", "b.txt", "README", "x.eps", "c.c", "d.d", "e.e", ".f.png"):
        (root / "val" / "bee" / name).write_text("")
    (root / "beside.txt").write_text("in no class folder")
    most, texts, *single, others, beside = folder(str(root), validation=2).omissions.split(", ")
    assert (most, texts, others) == ("1,201 .heic", "2 .txt", "2 others")
    assert {*single} < {"1 .eps", "1 .c", "1 .d", "1 .e", "1 without a suffix"}
    assert len(single) == 3 and beside == "folder test without class folders"


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ".Jpg"])
def test_kinds_of_files(root, suffix):
    fill(root, {"a": 4, "b": 4}, (4, 5, 1), suffix)
    channels = {".webp": 3, ".gif": 3}.get(suffix, 1)  # WebP has no grey, and GIF but palettes
    converted = {"channels": 3} if suffix == ".gif" else {}
    source = folder(str(root), validation=2, test=2, **converted)
    assert source.splits["train"]["image"].shape == (4, 4, 5, channels)
    assert len(in_memory(source.splits["train"]["image"])) == 4


def test_sizes_and_kinds_are_made_one(root):
    fill(root, {"a": 6}, (9, 12, 3))
    fill(root, {"b": 6}, (7, 5, 1))
    with pytest.raises(ValueError, match=r"/b/00..png: .* 7×5×1 where others are 9×12×3: set size"):
        found(folder(str(root), validation=2, test=2))
    source = folder(str(root), validation=2, test=2, size=4, fit="stretch", channels=3)
    assert source.splits["train"]["image"].shape == (8, 4, 4, 3)
    with Image.open(root / "b" / "000.png") as one:
        small = one.convert("RGB").resize((4, 4), Image.Resampling.BILINEAR)
    everything = [item for part in found(source).values() for item in part]
    assert everything.count((1, np.asarray(small).tobytes())) == 1


def test_seed_draws_the_splits(root):
    fill(root, {"a": 20, "b": 20})
    of = [folder(str(root), seed=seed).splits["validation"]["image"].ids for seed in (0, 0, 1)]
    assert (of[0] == of[1]).all() and (of[0] != of[2]).any()


def test_fingerprint(root, tmp_path, monkeypatch):
    """Of names and bytes, wherever the folder is."""
    fill(root, {"a": 8, "b": 8})
    before = folder(str(root), validation=2, test=2).fingerprint
    copy = tmp_path / "other" / "name"
    shutil.copytree(root, copy)
    assert folder(str(copy), validation=2, test=2).fingerprint == before
    monkeypatch.chdir(copy)
    here = folder(".", validation=2, test=2)
    assert here.fingerprint == before and here.name == "name"
    (copy / "a" / "000.png").rename(copy / "a" / "zzz.png")
    assert folder(str(copy), validation=2, test=2).fingerprint != before
    file = root / "b" / "007.png"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert folder(str(root), validation=2, test=2).fingerprint != before


def test_fingerprint_is_the_one_of_earlier_versions(root):
    """Runs that began before go on."""
    files = ("train/b/1.ppm", "train/a/ä.ppm", "train/a/B.ppm", "train/b/2.ppm", "val/a/1.ppm")
    for place, path in enumerate(files):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"P6 1 1 255\n" + bytes([place, 7, 9]))
    (root / "val" / "b").mkdir()
    shutil.copyfile(root / "val" / "a" / "1.ppm", root / "val" / "b" / "2.ppm")
    assert folder(str(root), validation=2).fingerprint == "70b43a68c93f29e4"


def test_names_that_are_no_utf_8(root):
    """As archives from elsewhere leave them; read, and printable in any report."""
    where = Path(os.fsdecode(b"caf\xe9"))
    try:
        (root / where).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    name = os.fsdecode(b"m\xfcll")
    written = fill(root / where, {name: 4, "plain": 4})
    (root / where / name / "000.png").rename(root / where / name / os.fsdecode(b"\xff.png"))
    (root / where / name / os.fsdecode(b"a.\xfe")).write_text("")
    source = folder(str(root / where), validation=2, test=2)
    assert source.class_names == ("m\\xfcll", "plain") and source.name == "caf\\xe9"
    assert source.omissions == "1 .\\xfe"
    everything = [item for part in found(source).values() for item in part]
    assert sorted(everything) == expected(written, "", (name, "plain"))
    (root / where / name / os.fsdecode(b"\xff.png")).write_bytes(b"damaged")
    with pytest.raises(DamagedFile, match=r"^[ -~]*/m\\xfcll/\\xff.png: no image that") as error:
        found(folder(str(root / where), validation=2, test=2))
    str(error.value).encode()


def test_imagenets_folders_have_its_groups(root):
    Image.new("L", (2, 2)).save(root / "one.png")
    for split, count in {"train": 2, "val": 1}.items():
        for place in range(1000):
            where = root / split / f"n{place:08d}"
            where.mkdir(parents=True)
            for i in range(count):
                shutil.copyfile(root / "one.png", where / f"{i}.png")
    source = folder(str(root), validation=1000)
    assert source.class_groups == imagenet.GROUPS and len(source.class_names) == 1000
    assert len(source.splits["train"]["label"]) == len(source.splits["validation"]["label"]) == 1000


# What is refused


def test_folders_that_are_none(root, tmp_path):
    refused("", "which folder. Set path to one with a sub-folder")
    refused(root / "no", r"there is no folder .*/no: set path to one")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "there is no folder")
    refused(root, r"pictures has 0 class folders: it takes 2 or more")
    fill(root, {"a": 3})
    refused(root, r"pictures has 1 class folders: it takes 2 or more")
    (root / "train").mkdir()
    refused(root, r"pictures/train has no images")
    fill(root, {"train": 3, "test": 3})
    shutil.rmtree(root / "a")
    refused(root, r"pictures/train has 0 class folders")


@pytest.mark.parametrize("twins", ["val validation", "test Test", "dev valid"])
def test_two_folders_of_one_split(root, twins):
    one, other = sorted(twins.split())
    fill(root, {f"{split}/{n}": 3 for split in ("train", "test", one, other) for n in "ab"})
    if len(os.listdir(root)) < len({"train", "test", one, other}):
        pytest.skip("this file system has one name for both")
    refused(root, rf"pictures: {one} and {other} are both its (test|validation) split, by their")


def test_folders_of_images_that_would_be_ignored(root):
    fill(root, {f"{split}/{n}": 3 for split in ("train", "holdout") for n in "ab"})
    says = "/{} has images that would not be read, .* train there are splits: rename it .test, vali"
    refused(root, says.format("holdout"))
    shutil.rmtree(root / "holdout")
    fill(root, {"c": 3})
    refused(root, says.format("c"))
    shutil.rmtree(root / "c")
    (root / "notes" / "deeper").mkdir(parents=True)
    (root / "notes" / "deeper" / "read.txt").write_text("no images")
    assert folder(str(root), validation=2, test=2).class_names == ("a", "b")


def test_empty_class(root):
    fill(root, {"a": 3, "b": 3, "c": 0})
    refused(root, r"pictures/c has no images \(.png, .*\): add some or remove it")
    (root / "c" / "x.txt").write_text("no image")
    refused(root, r"pictures/c has no images")


@pytest.mark.parametrize("twin", ["Ant", "ant ", "ANT"])
def test_two_classes_with_one_name(root, twin):
    fill(root, {"ant": 3, "bee": 3})
    if (root / twin).exists():
        pytest.skip("this file system has one name for both")
    fill(root, {twin: 3})
    refused(root, r"pictures: two classes with one name, '(ant|Ant|ANT)' and '(ant|Ant|ant )'")


def test_classes_differ_between_splits(root):
    fill(root, {"train/a": 3, "train/b": 3, "test/a": 3, "test/b": 3, "test/c": 3})
    refused(root, r"pictures/test: class 'c' is not among the training classes")
    shutil.rmtree(root / "test" / "c")
    fill(root, {"train/c": 3})
    refused(root, r"pictures/test: there is no folder for class 'c'")


def test_too_few_images(root):
    fill(root, {"a": 9, "b": 1})
    refused(root, "out of the training images: class 1 has 1 example", validation=2)


def test_damaged_images(root):
    fill(root, {"a": 4, "b": 4})
    options = {"validation": 2, "test": 2}
    whole = (root / "a" / "000.png").read_bytes()
    (root / "a" / "000.png").write_bytes(whole[:60])
    refused(root, r"pictures/a/000.png: not a whole image .*: replace or", DamagedFile, **options)
    (root / "a" / "000.png").write_bytes(whole)
    (root / "b" / "003.png").write_text("<html>404</html>")
    source = folder(str(root), **options)
    with pytest.raises(DamagedFile, match=r"pictures/b/003.png: no image that Pillow knows"):
        found(source)


def test_wrong_kind_first(root):
    fill(root, {"a": 4, "b": 4})
    Image.new("P", (4, 5)).save(root / "a" / "000.png")
    refused(root, r"a/000.png: the image's mode is P, neither .*: set channels to 1 or 3")
    refused(root, "size must not be negative", size=-3)


@pytest.mark.parametrize("where", [".", "b", "b/000.png"])
def test_no_permission(root, monkeypatch, where):
    """What the system refuses is passed on, with the name of what it refused."""
    fill(root, {"a": 3, "b": 3})
    closed = root / where
    if os.getuid():
        closed.chmod(0)
    else:  # nobody refuses root anything
        scandir, read_bytes = os.scandir, Path.read_bytes

        def guard(real):
            def guarded(path, *rest):
                if Path(path) == closed:
                    raise PermissionError(13, "Permission denied", str(path))
                return real(path, *rest)

            return guarded

        monkeypatch.setattr(os, "scandir", guard(scandir))
        monkeypatch.setattr(Path, "read_bytes", guard(read_bytes))
    try:
        with pytest.raises(PermissionError) as error:
            folder(str(root), validation=2, test=2)
    finally:
        closed.chmod(0o700)
    assert Path(error.value.filename) in (closed, closed / "train")
