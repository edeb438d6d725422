"""Small data sets that TFDS itself writes, by its own builders' names, against what went in."""

import ast
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdl.data import imagenet, prepared
from jaxdl.data.encoded import in_memory, statistics
from jaxdl.data.sources import load
from jaxdl.types import DamagedFile

ROOT = Path(prepared.__file__).parents[2]
TFDS = ROOT.parent / "shared" / "data" / "tfds"


class JaxdlSmall(tfds.core.GeneratorBasedBuilder):
    """A data set with whatever features and splits a test says."""

    VERSION = tfds.core.Version("1.2.0")
    features, splits = None, None

    def _info(self):
        features = tfds.features.FeaturesDict(self.features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return self.splits

    def _generate_examples(self):
        """TFDS wants one."""


def png(array):
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return io.BytesIO(stream.getvalue())


def array(split, place, shape):
    return np.random.default_rng([len(split), place]).integers(0, 256, shape, np.uint8)


def examples(features, split, count, classes=10, labelled=True):
    """Images of a random content that the split and the place fix, and the labels 0, 1, …"""
    shape = [side or 9 for side in features["image"].shape]
    for place in range(count):
        example = dict.fromkeys(features, str(place))
        example |= {
            "image": png(array(split, place, shape)),
            "label": place % classes if labelled else -1,
        }
        yield place, example


COUNTS = {
    "mnist": {"train": 120, "test": 20},
    "cifar10": {"train": 120},
    "svhn_cropped": {"train": 120, "test": 20, "extra": 30},
    "imagenet2012": {"train": 120, "validation": 20, "test": 10},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS's own data sets, prepared by :func:`prepared`, of images that are made here."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_online", lambda: True)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name, counts in COUNTS.items():

            def split_generators(self, _, counts=counts):
                public = {s: s != "test" or self.name != "imagenet2012" for s in counts}
                return {
                    split: examples(self.info.features, split, count, labelled=public[split])
                    for split, count in counts.items()
                }

            patch.setattr(tfds.builder_cls(name), "_split_generators", split_generators)
            prepared.prepared(name, data_dir=str(folder))
    yield folder
    tfds.enable_progress_bar()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "_online", lambda: False)


@pytest.fixture
def copy(data_dir, tmp_path):
    """A copy of the prepared data sets, to damage."""
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy"


def small(monkeypatch, features, splits):
    monkeypatch.setattr(JaxdlSmall, "features", features)
    monkeypatch.setattr(JaxdlSmall, "splits", splits)
    monkeypatch.setattr(prepared, "_online", lambda: True)


def refused(says, *given, kind=ValueError, **options):
    with pytest.raises(kind, match=says) as error:
        prepared.prepared(*given, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(split):
    images, labels = split["image"], split["label"]
    return sorted((int(y), x.tobytes()) for x, y in zip(in_memory(images), labels, strict=True))


def went_in(split, count, shape):
    return sorted((place % 10, array(split, place, shape).tobytes()) for place in range(count))


# What is there


@pytest.mark.parametrize("name", COUNTS)
def test_images_labels_and_splits(data_dir, name):
    source = load("tfds", dataset=name, data_dir=str(data_dir), validation=10, test=30)
    shape = {"mnist": (28, 28, 1), "imagenet2012": (9, 9, 3)}.get(name, (32, 32, 3))
    parts = {**source.splits, "test": source.test.open()}
    assert all(part["image"].shape[1:] == shape for part in parts.values())
    inside = {split: contents(part) for split, part in parts.items()}
    if name == "cifar10":  # has no test here: 30 are taken
        assert len(inside["test"]) == 30
        inside["train"] += inside.pop("test")
    else:  # ImageNet's test images have no labels, so those of its validation are the test
        of = "validation" if name == "imagenet2012" else "test"
        assert inside["test"] == went_in(of, 20, shape)
    assert np.bincount(parts["validation"]["label"]).tolist() == [1] * 10
    count = COUNTS[name]["train"]
    assert sorted(inside["train"] + inside["validation"]) == went_in("train", count, shape)


@pytest.mark.parametrize("names", ["train val", "train valid test", "Training dev Testing"])
def test_other_names_of_splits(monkeypatch, tmp_path, names):
    """Held-out images are used whatever they are called, and no training image in their place."""
    features = {"image": PICTURE, "label": LABEL}
    counts = dict(zip(names.split(), (20, 6, 4), strict=False)) | {"extra": 2}
    splits = {split: examples(features, split, count, 2) for split, count in counts.items()}
    small(monkeypatch, features, splits)
    source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path), validation=2)
    *validation, test = names.split()[1:]
    parts = {**source.splits, "test": source.test.open()}
    assert len(parts["train"]["label"]) == (20 if validation else 18)
    for split, name in zip(("test", "validation"), (test, *validation), strict=False):
        stored = sorted((i % 2, array(name, i, (4, 4, 3)).tobytes()) for i in range(counts[name]))
        assert contents(parts[split]) == stored
    assert source.omissions == "split extra"


def test_two_splits_of_one_kind(monkeypatch, tmp_path):
    features = {"image": PICTURE, "label": LABEL}
    splits = {split: examples(features, split, 4, 2) for split in ("train", "val", "dev")}
    small(monkeypatch, features, splits)
    says = "jaxdl_small: (dev and val|val and dev) are both its validation split, by their names"
    refused(says, "jaxdl_small", data_dir=str(tmp_path))


def test_a_split_of_the_usual_name_comes_before_others(monkeypatch, tmp_path):
    features = {"image": PICTURE, "label": LABEL}
    splits = {split: examples(features, split, 8, 2) for split in ("train", "dev", "validation")}
    small(monkeypatch, features, splits)
    source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path), validation=2, test=2)
    assert "dev" in source.omissions


def test_names_groups_and_versions(data_dir):
    found = {name: prepared.prepared(name, data_dir=str(data_dir)) for name in COUNTS}
    digits = tuple("0123456789")
    assert found["mnist"].class_names == found["svhn_cropped"].class_names == digits
    assert found["mnist"].class_groups == ()
    cifar = dict(zip(found["cifar10"].class_names, found["cifar10"].class_groups, strict=True))
    assert len(cifar) == 10 and list(cifar)[3] == "cat"
    assert {name for name, group in cifar.items() if group == "man-made"} == {
        *("airplane", "automobile", "ship", "truck")
    }
    assert imagenet.is_imagenet(found["imagenet2012"].class_names)
    assert found["imagenet2012"].class_groups == imagenet.GROUPS
    versions = {name: source.version for name, source in found.items()}
    assert versions["mnist"] == "3.0.1" and versions["cifar10"] == "3.0.2"
    assert len({source.fingerprint for source in found.values()}) == 4
    omissions = {name: source.omissions for name, source in found.items() if source.omissions}
    assert omissions == {"svhn_cropped": "split extra", "imagenet2012": "split test"}


def test_form_is_asked_for(data_dir):
    source = prepared.prepared("cifar10", data_dir=str(data_dir), size=8, channels=1)
    assert source.splits["train"]["image"].shape[1:] == (8, 8, 1)
    with Image.open(png(array("train", 0, (32, 32, 3)))) as one:
        small = np.asarray(one.convert("L").resize((8, 8), Image.Resampling.BILINEAR))
    assert any((image[..., 0] == small).all() for image in everything(source))
    refused("fit='no' is not one of", "cifar10", data_dir=str(data_dir), fit="no")


def everything(source):
    splits = [*source.splits.values(), source.test.open()]
    return np.concatenate([in_memory(split["image"]) for split in splits])


def test_second_start_reads_no_labels(data_dir, monkeypatch):
    first = prepared.prepared("mnist", data_dir=str(data_dir))
    read, real = [], prepared._read
    monkeypatch.setattr(prepared, "_read", lambda *of: read.append(of) or real(*of))
    second = prepared.prepared("mnist", data_dir=str(data_dir))
    assert len(read) <= 2  # the first of the test, for its label, and of all, for its shape
    assert second.fingerprint == first.fingerprint
    assert contents(second.splits["train"]) == contents(first.splits["train"])


def test_images_can_go_to_another_process(data_dir):
    images = prepared.prepared("mnist", data_dir=str(data_dir)).splits["train"]["image"]
    there = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(there[5], images[5])
    mean, _ = statistics(there)
    np.testing.assert_allclose(mean, in_memory(images).mean(0), rtol=1e-5)


def test_fingerprint_is_of_the_content(data_dir, copy):
    here = prepared.prepared("mnist", data_dir=str(data_dir)).fingerprint
    assert prepared.prepared("mnist", data_dir=str(copy)).fingerprint == here
    info = copy / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text() + "\n")
    assert prepared.prepared("mnist", data_dir=str(copy)).fingerprint != here


def test_without_tensorflow_and_silent(data_dir, tmp_path):
    """TensorFlow is not so much as looked for, and data that are there are not spoken of."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = (
        "import sys; from jaxdl.data.sources import load\n"
        f"source = load('tfds', dataset='imagenet2012', data_dir={str(data_dir)!r}, size=8)\n"
        "source.splits['train']['image'].array(); source.test.open()['image'].array()\n"
        "assert not {'tensorflow', 'torch'} & {*sys.modules}"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_data_set_that_only_its_files_tell_of(data_dir, tmp_path):
    """One that no installed code knows, as when a colleague prepared it."""
    folder = tmp_path / "elsewhere" / "jaxdl_unheard_of" / "3.0.1"
    shutil.copytree(data_dir / "mnist" / "3.0.1", folder)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("mnist-", "jaxdl_unheard_of-"))
    info = folder / "dataset_info.json"
    stored = json.loads(info.read_text()) | {"name": "jaxdl_unheard_of", "moduleName": "gone"}
    info.write_text(json.dumps(stored))
    source = prepared.prepared("jaxdl_unheard_of", data_dir=str(folder.parents[1]))
    assert source.name == "jaxdl_unheard_of" and source.version == "3.0.1"
    assert contents(source.test.open()) == went_in("test", 20, (28, 28, 1))


# What is not there, or not of use


def test_not_prepared_and_no_network(tmp_path):
    says = refused("is not in .*, and there is no network", "mnist", data_dir=str(tmp_path / "a b"))
    assert "mnist" in says and str(tmp_path / "a b") in says
    code = re.fullmatch(r'.* run python -c "(.*)"', says)[1]
    assert code.endswith(".download_and_prepare()")
    *imports, last = ast.parse(code.removesuffix(".download_and_prepare()")).body
    scope = {}
    exec(compile(ast.Module(imports, []), "", "exec"), scope)
    builder = eval(compile(ast.Expression(last.value), "", "eval"), scope)
    assert (builder.name, builder.info.file_format.value) == ("mnist", "array_record")
    assert Path(builder.data_path) == tmp_path / "a b" / "mnist" / "3.0.1"
    assert not (tmp_path / "a b").exists()


@pytest.mark.parametrize(
    "name, says",
    [
        ("", "which data set. Set dataset to a name that TFDS knows"),
        ("jaxdl_nothing", "TFDS knows no data set 'jaxdl_nothing', and .* holds none"),
        ("mnist:abc", "TFDS knows no data set 'mnist:abc'"),
        ("mnist:9.9.9", "data set 'mnist:9.9.9' in .*cannot be loaded at version 9.9.9, only"),
        ("mnist/foo", "data set 'mnist/foo' in .*BuilderConfig foo not found"),
        ("mn ist", "data set 'mn ist' in .*Parsing builder name string mn ist failed"),
        ("../mnist", "Parsing builder name string"),
    ],
)
def test_names_that_are_none(tmp_path, name, says):
    refused(says, name, data_dir=str(tmp_path))


@pytest.mark.parametrize("kind", ["tfrecord", None])
def test_prepared_for_tensorflow(copy, kind):
    info = copy / "mnist" / "3.0.1" / "dataset_info.json"
    stored = json.loads(info.read_text())
    stored.pop("fileFormat")  # as older versions of TFDS wrote it
    info.write_text(json.dumps(stored | ({"fileFormat": kind} if kind else {})))
    says = refused("is prepared as tfrecord, which takes Tens", "mnist", data_dir=str(copy))
    assert str(copy / "mnist" / "3.0.1") in says
    assert f"data_dir='{copy}-array_record', file_format='array_record'" in says
    assert says.endswith("and set data_dir to it")


def test_a_builder_that_fails(monkeypatch, tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}

    def fail():
        raise KeyError("the server\nwas moved")
        yield

    small(monkeypatch, features, {"train": fail()})
    says = refused(r"cannot be prepared in .* \(.*", "jaxdl_small", data_dir=str(tmp_path))
    assert "KeyError" in says and "to try it alone, run python -c" in says
    assert not (tmp_path / "jaxdl_small" / "1.2.0").exists()
    splits = {"train": examples(features, "train", 20, 2)}
    small(monkeypatch, features, splits)
    source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path))
    assert source.version == "1.2.0" and source.class_names == ("0", "1")


def test_our_builders_are_named_in_the_command(tmp_path):
    says = refused(r"usps.* cannot be prepared", "usps", data_dir=str(tmp_path))
    assert "import tensorflow_datasets as tfds, jaxdl.data.builders.usps; tfds.builder(" in says


def test_settings_are_for_our_builders_alone(data_dir, tmp_path):
    refused("mnist takes no train", "mnist", data_dir=str(data_dir), builder={"train": 3})
    refused("usps'?: .*unexpected", "usps", data_dir=str(tmp_path), builder={"colour": 3})


PICTURE = tfds.features.Image(shape=(4, 4, 3))
LABEL = tfds.features.ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    "features, says",
    [
        ({"image": PICTURE, "y": LABEL}, r"no label of type ClassLabel, but .*y \(ClassLabel\)"),
        ({"picture": PICTURE, "label": LABEL}, r"no image of type Image, but .*picture \(Image\)"),
        (
            {"image": PICTURE, "label": tfds.features.Text()},
            r"no label of type ClassLabel, but .*label \(Text\)",
        ),
    ],
)
def test_features_that_do_not_do(monkeypatch, tmp_path, features, says):
    example = {"image": png(array("", 0, (4, 4, 3))), "picture": png(array("", 0, (4, 4, 3)))}
    example = {key: ({"label": 0, "y": 0} | example)[key] for key in features}
    if "label" in features and features["label"] is not LABEL:
        example["label"] = "text"
    small(monkeypatch, features, {"train": iter([(0, example)])})
    refused(f"jaxdl_small: it has {says}", "jaxdl_small", data_dir=str(tmp_path))


def test_splits_that_do_not_do(monkeypatch, tmp_path):
    features = {"image": PICTURE, "label": LABEL}
    small(monkeypatch, features, {"test": examples(features, "test", 3, 2)})
    says = "jaxdl_small: it has no split train, but test"
    refused(says, "jaxdl_small", data_dir=str(tmp_path))


def test_kinds_that_do_not_do(monkeypatch, tmp_path):
    """Transparency is refused as in files, and dropped if that is asked for."""
    features = {"image": tfds.features.Image(shape=(4, 4, 4)), "label": LABEL}
    small(monkeypatch, features, {"train": examples(features, "train", 20, 2)})
    options = {"data_dir": str(tmp_path), "validation": 4, "test": 4}
    says = r"jaxdl_small/1.2.0, split train, record 0: the image's mode is RGBA.*set channels"
    refused(says, "jaxdl_small", **options)
    source = prepared.prepared("jaxdl_small", channels=3, **options)
    colours = array("train", 7, (4, 4, 4))[..., :3]
    assert any((image == colours).all() for image in everything(source))


def test_other_images_of_a_record_are_not_decoded(monkeypatch, tmp_path):
    features = {"image": PICTURE, "label": LABEL, "mask": tfds.features.Image(shape=(4, 4, 1))}
    splits = {
        "train": (
            (i, e | {"mask": png(np.zeros((4, 4, 1), np.uint8))})
            for i, e in examples(features, "train", 20, 2)
        )
    }
    small(monkeypatch, features, splits)
    monkeypatch.setattr(tfds.features.Image, "decode_example_np", lambda *_: pytest.fail("decoded"))
    source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path), validation=4, test=4)
    assert len(everything(source)) == 20


# Damage


def test_damaged_records(copy):
    shard = copy / "mnist" / "3.0.1" / "mnist-train.array_record-00000-of-00001"
    whole = shard.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], None):
        if damaged is None:
            shard.unlink()
        else:
            shard.write_bytes(damaged)
        says = r"mnist/3.0.1, split train: record 0 to 119 cannot be read \(.*delete the"
        refused(says, "mnist", data_dir=str(copy), kind=DamagedFile)
    flipped = bytearray(whole)
    flipped[whole.index(b"IHDR") + 60] ^= 1
    shard.write_bytes(flipped)
    refused(
        r"split train: record 0 to 119 cannot be read",
        "mnist",
        data_dir=str(copy),
        kind=DamagedFile,
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Files of records that take several of the format's blocks of 64 KiB."""
    folder = tmp_path_factory.mktemp("large")
    features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": LABEL}
    with pytest.MonkeyPatch.context() as patch:
        splits = {s: examples(features, s, n, 2) for s, n in {"train": 200, "test": 120}.items()}
        small(patch, features, splits)
        prepared.prepared("jaxdl_small", data_dir=str(folder))
    return folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_records_cut_or_changed_anywhere(monkeypatch, tmp_path, large, split):
    """What went in, or one line that names the split: at every power of two, the ends of blocks
    among them, from where half a copy goes on with zeros or not at all; and for flipped bits."""
    features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": LABEL}
    small(monkeypatch, features, {})
    shutil.copytree(large, tmp_path / "copy")
    name = f"jaxdl_small-{split}.array_record-00000-of-00001"
    shard = tmp_path / "copy" / "jaxdl_small" / "1.2.0" / name
    whole = shard.read_bytes()
    assert len(whole) >= 2**17
    blocks = range(2**16, len(whole), 2**16)
    ends = sorted({*(2**i + d for i in range(20) for d in (-1, 0, 1)), *blocks})
    ends = [end for end in ends if end < len(whole)]
    cuts = [whole[:end] for end in ends] + [whole[:end].ljust(len(whole), b"\0") for end in blocks]
    places = np.random.default_rng(0).integers(len(whole), size=12)
    flips = [whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in places]
    refusals = 0
    for damaged in cuts + flips:
        shard.write_bytes(damaged)
        try:
            source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path / "copy"))
            held_out = source.test.open()
            splits = *source.splits.values(), held_out
            images = np.concatenate([in_memory(split["image"]) for split in splits])
        except DamagedFile as error:
            assert f"jaxdl_small/1.2.0, split {split}" in str(error) and "\n" not in str(error)
            refusals += 1
        else:  # where nothing is kept
            inside = sorted(
                array(s, i, (16, 16, 3)).tobytes()
                for s, n in {"train": 200, "test": 120}.items()
                for i in range(n)
            )
            assert sorted(image.tobytes() for image in images) == inside
    assert refusals >= len(ends) - 1


def test_damaged_descriptions(copy):
    info = copy / "mnist" / "3.0.1" / "dataset_info.json"
    whole = info.read_text()
    for damaged in ("", whole[:200]):
        info.write_text(damaged)
        refused("data set 'mnist' in .*JSON", "mnist", data_dir=str(copy))
    info.write_text(whole.replace("{FILEFORMAT}", "{FILEFOROAT}"))
    says = r"mnist/3.0.1, split test: its files cannot be read \(.*FILEFOROAT.*: delete the folder"
    refused(says, "mnist", data_dir=str(copy), kind=DamagedFile)
    info.unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist/3.0.1/dataset_info.json"):
        prepared.prepared("mnist", data_dir=str(copy))


def test_a_damaged_image_in_a_record(monkeypatch, tmp_path):
    features = {"image": PICTURE, "label": LABEL}
    splits = dict(examples(features, "train", 20, 2))
    splits[11]["image"] = io.BytesIO(splits[11]["image"].getvalue()[:60])
    small(monkeypatch, features, {"train": iter(splits.items())})
    source = prepared.prepared("jaxdl_small", data_dir=str(tmp_path), validation=4, test=4)
    says = r"jaxdl_small/1.2.0, split train, record \d+: not a whole image"
    with pytest.raises(DamagedFile, match=says):
        everything(source)


def test_online(monkeypatch):
    monkeypatch.undo()  # the real one
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def connect(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(prepared.socket, "create_connection", connect)
    assert not prepared._online()
    monkeypatch.setattr(prepared.socket, "create_connection", lambda *_, **__: io.BytesIO())
    assert prepared._online()
    monkeypatch.setattr(prepared.socket, "create_connection", connect)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert prepared._online()


# Real data


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, test, mean",
    [("mnist", 10_000, [33.32]), ("cifar10", 10_000, [125.3, 123.0, 113.9])],
)
def test_real_data(monkeypatch, name, test, mean):
    if not (TFDS / name).is_dir():
        pytest.skip(f"there is no {TFDS / name}")
    import time

    begun = time.perf_counter()
    source = load("tfds", dataset=name, data_dir=str(TFDS), validation=5000)
    first, begun = time.perf_counter() - begun, time.perf_counter()
    load("tfds", dataset=name, data_dir=str(TFDS), validation=5000)
    assert time.perf_counter() - begun < first / 2
    train, validation = source.splits["train"], source.splits["validation"]
    side = 28 if name == "mnist" else 32
    total = 60_000 if name == "mnist" else 50_000
    assert train["image"].shape == (total - 5000, side, side, len(mean))
    assert source.test.size == test and len(source.class_names) == 10
    images = [part["image"] for part in (train, validation)]
    ours = [(part.shape[0], in_memory(part).mean((0, 1, 2))) for part in images]
    both = sum(count * part for count, part in ours) / total
    np.testing.assert_allclose(both, mean, atol=0.2)
    balance = np.bincount(train["label"]) / (total - 5000) - np.bincount(validation["label"]) / 5000
    assert np.abs(balance).max() < 2e-3
    held_out = np.bincount(source.test.open()["label"])
    expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert held_out.tolist() == (expected if name == "mnist" else [1000] * 10)
