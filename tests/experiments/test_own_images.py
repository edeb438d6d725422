"""Images from elsewhere: the same ones as files, as an archive, as a data set of TFDS."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.experiments.launcher import USERS, assert_refused
from tests.experiments.tiny import BASES, FILES, NETWORKS, STEPS, TINY, contents, curves, rows

CLASSES, COUNTS = ("ant", "bee", "cat", "dog"), {"train": 12, "test": 5}
PICTURES = (
    "--config.data.options.validation=0.25",
    "--config.model=tests.layered_networks:worded",
    "--config.image.flip=True",
    "--config.image.padding=1",
    "--config.batch=8",
    "--config.treatments=()",
)


class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The images of a folder."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, root, **options):
        self.root = root
        super().__init__(**options)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        for i, path in enumerate(sorted((self.root / split).glob("*/*.png"))):
            yield i, {"image": path, "label": path.parent.name}


def pictures(folder):
    """Bright quarters, one a class, under noise: the same images in three forms."""
    rng, arrays, root = np.random.default_rng(0), {}, folder / "pictures"
    for split, count in COUNTS.items():
        images = rng.integers(0, 160, (4, count, 8, 8)).astype(np.uint8)
        for i, name in enumerate(CLASSES):
            row, column = 4 * (i // 2), 4 * (i % 2)
            images[i, :, row : row + 4, column : column + 4] += 90
            (root / split / name).mkdir(parents=True)
            for j, image in enumerate(images[i]):
                Image.fromarray(image).save(root / split / name / f"{j:03}.png")
        arrays[f"{split}_images"] = images.reshape(-1, 8, 8)
        arrays[f"{split}_labels"] = np.repeat(np.arange(4), count)
    np.savez(folder / "pictures.npz", class_names=np.array(CLASSES), **arrays)
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("album"))
    TinyPictures(folder / "pictures", data_dir=folder).download_and_prepare(
        file_format="array_record"
    )
    return folder


def of_album(folder):
    """By variant, the settings that lead to the data."""
    return {
        "folder": [f"--config.data.options.path={folder / 'pictures'}"],
        "npz": [f"--config.data.options.path={folder / 'pictures.npz'}"],
        "tfds": [
            "--config.data.options.dataset=tiny_pictures",
            f"--config.data.options.data_dir={folder}",
        ],
    }


@pytest.fixture(scope="module")
def start_with(start):
    """Start a variant with data of one's own, in tiny."""

    def start_with(variant, workdir, *arguments, **options):
        config = f"configs/transferability.py:{variant}"
        return start(workdir, *TINY, *PICTURES, *arguments, config=config, **options)

    return start_with


@pytest.fixture(scope="module")
def archived(album, start_with, tmp_path_factory):
    """The workdir of a run on the archive."""
    workdir = tmp_path_factory.mktemp("archived")
    ended = start_with("npz", workdir, *of_album(album)["npz"]).wait()
    assert ended.code == 0, ended.err[-2000:]
    return workdir


def assert_same_pictures(workdir, archived):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (archived / name).read_bytes(), name
    assert {path.name for path in workdir.iterdir()} == FILES


def data_of(workdir):
    data = json.loads((workdir / "config.json").read_text())["data"]
    data.pop("fingerprint")
    return data


def test_images_in_an_archive(archived):
    assert {path.name for path in archived.iterdir()} == FILES
    assert data_of(archived) == {
        "name": "pictures",
        "version": "",
        "classes": list(CLASSES),
        "sizes": {"train": 36, "validation": 12, "test": 20},
    }
    assert len(rows(archived)) == BASES


def test_images_of_tfds_give_the_same_results(archived, album, start_with, tmp_path):
    ended = start_with("tfds", tmp_path, *of_album(album)["tfds"]).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_pictures(tmp_path, archived)
    data = {"name": "tiny_pictures", "version": "1.0.0"}
    assert data_of(tmp_path) == data_of(archived) | data


@pytest.mark.slow
def test_files_that_are_damaged_and_mended_meanwhile_give_the_same_results(
    album, start_with, tmp_path
):
    """Files in a stream: one line names the file that cannot be read; mended, it goes on."""
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    train = folder / "pictures" / "train"
    whole = {path: path.read_bytes() for path in train.rglob("*.png")}
    arguments = (*of_album(folder)["folder"], "--config.data.feed=streamed")
    prelude = f"""
        {USERS}
        from jaxdl.train import logs
        append = logs.append

        def damage(curves, records):
            if records and not curves.exists():
                for path in Path({str(train)!r}).rglob("*.png"):
                    path.write_bytes(path.read_bytes()[:-30])
            append(curves, records)

        logs.append = damage
    """
    ended = start_with("folder", workdir, *arguments, prelude=prelude).wait()
    assert_refused(ended, str(train), ".png", "not a whole image")
    assert 0 < len(curves(workdir)) < BASES * STEPS // 2
    assert not (workdir / "results.csv").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    archived = tmp_path / "archived"
    for ended in (
        start_with("folder", workdir, *arguments, prelude=USERS).wait(),
        start_with("npz", archived, *of_album(album)["npz"], prelude=USERS).wait(),
    ):
        assert ended.code == 0, ended.err[-2000:]
    assert_same_pictures(workdir, archived)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


def of_another_size(path):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(path)


@pytest.mark.parametrize("spoil", [truncated, of_another_size])
def test_a_bad_test_image_is_named_before_anything_is_trained(spoil, start_with, tmp_path):
    path = pictures(tmp_path) / "pictures" / "test" / "cat" / "003.png"
    spoil(path)
    ended = start_with("folder", tmp_path / "run", *of_album(tmp_path)["folder"]).wait()
    assert_refused(ended, str(path))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_five_classes_have_unequal_halves(start_with, tmp_path):
    pictures(tmp_path)
    five = {f"{split}_labels": lambda labels: np.arange(len(labels)) % 5 for split in COUNTS}
    change(tmp_path, **five, class_names=lambda names: np.append(names, "eel"))
    streamed = "--config.data.feed=streamed"
    for name, arguments in (("resident", ()), ("streamed", (streamed,))):
        arguments += (*of_album(tmp_path)["npz"], "--config.treatments=('AnB','AnB+')")
        arguments += ("--config.parallel.data=2",)
        ended = start_with("npz", tmp_path / name, *arguments, prelude=USERS).wait()
        assert ended.code == 0, ended.err[-2000:]
        assert "14 to 22 training images a task" in ended.out
    assert len(rows(tmp_path / "resident")) == NETWORKS
    for name in ("results.csv", "metrics.jsonl"):
        one, other = ((tmp_path / kind / name).read_bytes() for kind in ("resident", "streamed"))
        assert one == other, name


# What cannot be had.


def truncated_image(folder):
    path = folder / "pictures" / "train" / "bee" / "002.png"
    path.write_bytes(path.read_bytes()[:-30])
    return "folder", [str(path), "not a whole image"]


def truncated_image_of_a_stream(folder):
    truncated_image(folder)
    return "folder", ["002.png", "not a whole image"], "--config.data.feed=streamed"


def no_image(folder):
    path = folder / "pictures" / "train" / "ant" / "000.png"
    path.write_text("<html>not found</html>")
    return "folder", [str(path), "no image"]


def odd_size(folder):
    path = folder / "pictures" / "train" / "dog" / "007.png"
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(path)
    return "folder", [str(path), "8×9", "size"]


def odd_classes(folder):
    for split in COUNTS:
        shutil.rmtree(folder / "pictures" / split / "dog")
    return "folder", ["3 classes", "halves"]


def empty_class(folder):
    shutil.rmtree(folder / "pictures" / "train" / "dog")
    (folder / "pictures" / "train" / "dog").mkdir()
    return "folder", [str(folder / "pictures" / "train" / "dog"), "no images"]


def no_folder(folder):
    shutil.rmtree(folder / "pictures")
    return "folder", [str(folder / "pictures")]


def file_for_a_folder(folder):
    shutil.rmtree(folder / "pictures")
    (folder / "pictures").write_text("")
    return "folder", [str(folder / "pictures")]


def change(folder, **changed):
    with np.load(folder / "pictures.npz") as stored:
        arrays = dict(stored)
    for name, alter in changed.items():
        arrays[name] = alter(arrays[name])
    np.savez(folder / "pictures.npz", **arrays)


def not_a_number(folder):
    def spoil(images):
        images = images / 255
        images[7, 3, 3] = np.nan
        return images

    change(folder, train_images=spoil)
    return "npz", ["train_images", "NaN", "image 7"]


def class_without_test(folder):
    change(folder, test_labels=lambda labels: 0 * labels)
    return "npz", ["'test'"]


def unknown_label(folder):
    change(folder, test_labels=lambda labels: labels + 1)
    return "npz", ["'test'", "labels are 1..4"]


def truncated_archive(folder):
    path = folder / "pictures.npz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "npz", [str(folder / "pictures.npz")]


def no_archive(folder):
    (folder / "pictures.npz").unlink()
    return "npz", [str(folder / "pictures.npz")]


def unknown_dataset(folder):
    return "tfds", ["'cats_and_frogs'", str(folder)], "--config.data.options.dataset=cats_and_frogs"


def not_prepared(folder):
    return (
        "tfds",
        ["mnist", str(folder), "no network", "run python -c"],
        ("--config.data.options.dataset=mnist"),
    )


OFFLINE = """
    from jaxdl.data import prepared
    prepared._online = lambda: False
"""


@pytest.mark.parametrize(
    "spoil",
    [
        truncated_image,
        truncated_image_of_a_stream,
        no_image,
        odd_size,
        odd_classes,
        empty_class,
        no_folder,
        file_for_a_folder,
        not_a_number,
        unknown_label,
        pytest.param(
            class_without_test,
            marks=pytest.mark.xfail(reason="a task without test images is noticed at the end"),
        ),
        truncated_archive,
        no_archive,
        unknown_dataset,
        not_prepared,
    ],
)
def test_bad_data(spoil, start_with, tmp_path):
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    variant, words, *arguments = spoil(folder)
    arguments = (*of_album(folder)[variant], *arguments)
    ended = start_with(variant, workdir, *arguments, prelude=OFFLINE).wait()
    assert_refused(ended, *words)
    assert contents(workdir) == {}


def test_what_is_not_read_is_told_in_a_line(start_with, tmp_path):
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    (folder / "pictures" / "train" / "bee" / "0.heic").write_text("")
    workdir.mkdir()
    (workdir / "report.md").write_text("of a run that has ended")
    ended = start_with("folder", workdir, *of_album(folder)["folder"]).wait()
    assert (ended.code, ended.out) == (0, "of a run that has ended\n"), ended.err[-2000:]
    assert "not read: pictures: 1 .heic" in ended.err.splitlines()
