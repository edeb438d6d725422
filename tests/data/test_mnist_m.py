"""MNIST-M: patches read back from photographs that spell out where each pixel comes from."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdl.data.builders.mnist_m import MnistMConfig, blend, frame, photo_files, read_photo

SHARED = Path(__file__).parents[3] / "shared" / "data"


def chart(number, height, width):
    """A photograph whose channels are row, column and its own number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


CHARTS = [chart(0, 40, 50), chart(1, 28, 28), chart(2, 90, 31)]
LARGE = [chart(0, 40, 50), chart(1, 32, 32), chart(2, 90, 35)]  # enough for a margin of 2


def test_a_patch_is_whole_and_from_one_photograph():
    blank = np.zeros((3000, 28, 28), np.uint8)
    images = blend(blank, CHARTS, np.random.default_rng(0))
    seen = [set(), set(), set()]
    for image in images:
        top, left, photo = image[0, 0]
        np.testing.assert_array_equal(image, CHARTS[photo][top : top + 28, left : left + 28])
        seen[photo].add((top, left))
    # Every corner of the small ones, and photographs equally often (3 standard deviations).
    assert seen[1] == {(0, 0)} and {top for top, _ in seen[0]} == set(range(13))
    assert {left for _, left in seen[2]} == set(range(4)) and max(seen[2])[0] == 62
    counts = np.bincount(images[:, 0, 0, 2])
    assert np.abs(counts - 1000).max() < 3 * np.sqrt(3000 * 2 / 9)


def test_the_difference_by_hand():
    rng = np.random.default_rng(1)
    digits = rng.integers(0, 256, (20, 11, 7), np.uint8)
    photos = [
        rng.integers(0, 256, (30, 9, 3), np.uint8),
        rng.integers(0, 256, (11, 7, 3), np.uint8),
    ]
    patches = blend(np.zeros_like(digits), photos, np.random.default_rng(5)).astype(int)
    images = blend(digits, photos, np.random.default_rng(5))
    assert images.dtype == np.uint8 and images.shape == (20, 11, 7, 3)
    np.testing.assert_array_equal(images, np.abs(patches - digits[..., None].astype(int)))
    inverted = blend(np.full_like(digits, 255), photos, np.random.default_rng(5))
    np.testing.assert_array_equal(inverted, 255 - patches)


def test_the_mean_is_that_of_the_formula():
    """Grey noise with a digit of one level d: E|U - d| = (d² + (255 - d)²) / 510, nearly."""
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (200, 200, 3), np.uint8)
    for level in (0, 60, 128, 255):
        images = blend(np.full((50, 28, 28), level, np.uint8), [photo], rng)
        np.testing.assert_allclose(images.mean(), (level**2 + (255 - level) ** 2) / 510, atol=2)


def test_images_do_not_depend_on_how_many_follow():
    digits = np.random.default_rng(3).integers(0, 256, (30, 28, 28), np.uint8)
    whole = blend(digits, CHARTS, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    parts = [blend(part, CHARTS, rng) for part in (digits[:1], digits[1:12], digits[12:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (blend(digits, CHARTS, np.random.default_rng(8)) != whole).any()
    assert blend(digits[:0], CHARTS, rng).shape == (0, 28, 28, 3)


@pytest.mark.parametrize(
    "digits, photos, says",
    [
        (np.zeros((2, 28, 28)), CHARTS, r"digits are float64\[2, 28, 28\]"),
        (np.zeros((2, 28, 28, 1), np.uint8), CHARTS, r"expected uint8 \[n, h, w\]"),
        (np.zeros((2, 28, 28), np.uint8), [], "no photographs"),
        (np.zeros((2, 29, 28), np.uint8), CHARTS, "photograph 1 has 28×28 pixels, fewer"),
        (np.zeros((2, 8, 8), np.uint8), [CHARTS[0][..., 0]], r"photograph 0 is uint8\[40, 50\]"),
        (np.zeros((2, 8, 8), np.uint8), [CHARTS[0] / 255], r"photograph 0 is float64"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_blend_refuses(digits, photos, says):
    with pytest.raises(ValueError, match=says) as error:
        blend(digits, photos, np.random.default_rng(0))
    assert "\n" not in str(error.value)


def test_digits_of_scikit_learn_on_its_photographs():
    from sklearn.datasets import load_digits, load_sample_images

    digits = np.rint(load_digits().images[:40] * (255 / 16)).astype(np.uint8)
    digits = digits.repeat(3, 1).repeat(3, 2)
    images = blend(digits, load_sample_images().images, np.random.default_rng(0))
    assert images.shape == (40, 24, 24, 3) and images.std() > 30


# --- The builder, on a small MNIST of our own -------------------------------------------------


class SmallMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """30 + 20 random images where TFDS's MNIST would be."""

    name = "mnist"
    VERSION = tfds.core.Version("3.0.1")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 30), "test": self._generate_examples(1, 20)}

    def _generate_examples(self, seed, count):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)
        for i, image in enumerate(images):
            yield i, {"image": Image.fromarray(image), "label": i % 10}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    SmallMnist(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, photo in enumerate(LARGE):
        Image.fromarray(photo).save(folder / f"{i}.{('png', 'PNG', 'png')[i]}")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def build(data_dir, **options):
    config = MnistMConfig(**options)
    builder = tfds.builder("mnist_m", config=config, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def built(data_dir, photos):
    return build(data_dir, train=25, test=20, seed=3, photos=photos)


def digits_of(data_dir, split):
    examples = list(tfds.data_source("mnist", split=split, data_dir=data_dir, download=False))
    return np.stack([e["image"] for e in examples]), [e["label"] for e in examples]


@pytest.mark.parametrize("split, count", [("train", 25), ("test", 20)])
def test_the_builder_blends_tfds_mnist(built, data_dir, photos, split, count):
    digits, labels = digits_of(data_dir, split)
    name = built.builder_config.name
    examples = list(tfds.data_source(f"mnist_m/{name}", split=split, data_dir=data_dir))
    assert len(examples) == count and [e["label"] for e in examples] == labels[:count]
    images = np.stack([e["image"] for e in examples])
    stream = hashlib.sha256(f"jaxdl mnist_m {split} 3".encode()).hexdigest()
    rng = np.random.default_rng(int(stream, 16))
    patches = blend(np.zeros((count, 32, 32), np.uint8), LARGE, rng)
    ink = np.pad(digits[:count] > 0, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(images, np.where(ink, 255 - patches, patches))


def test_digits_in_black_and_white():
    digits = np.array([[[0, 1], [128, 255]]], np.uint8)
    assert frame(digits, 1).tolist() == [
        [[0, 0, 0, 0], [0, 0, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]
    ]
    np.testing.assert_array_equal(frame(digits, 0, grey=True), digits)


def test_grey_levels_without_a_margin(data_dir, photos):
    builder = build(data_dir, train=4, test=2, photos=photos, padding=0, grey=True)
    digits, _ = digits_of(data_dir, "train")
    images = np.stack([e["image"] for e in builder.as_data_source("train")])
    rng = np.random.default_rng(int(hashlib.sha256(b"jaxdl mnist_m train 0").hexdigest(), 16))
    patches = blend(np.zeros((4, 28, 28), np.uint8), LARGE, rng).astype(int)
    np.testing.assert_array_equal(images, np.abs(patches - digits[:4]))


def test_fewer_examples_are_the_first_ones(built, data_dir, photos):
    less = build(data_dir, train=4, test=1, seed=3, photos=str(photos), mnist_dir=data_dir)
    assert less.data_dir != built.data_dir
    for few, many in zip(less.as_data_source("train"), built.as_data_source("train"), strict=False):
        np.testing.assert_array_equal(few["image"], many["image"])
    other = build(data_dir, train=4, test=1, seed=4, photos=photos).as_data_source("train")
    assert (other[0]["image"] != less.as_data_source("train")[0]["image"]).any()


def test_folders_are_no_part_of_the_name(data_dir, photos, tmp_path):
    """Not even where all else is as in the built-in configuration."""
    assert MnistMConfig().name == MnistMConfig(photos=photos, mnist_dir=tmp_path).name
    others = ({}, {"seed": 1}, {"train": 9}, {"test": 9}, {"padding": 0}, {"grey": True})
    assert len({MnistMConfig(**c).name for c in others}) == 6
    default = tfds.builder("mnist_m", data_dir=data_dir)
    named = tfds.builder("mnist_m", data_dir=data_dir, config=MnistMConfig(photos=photos))
    assert default.data_dir == named.data_dir and named.builder_config.photos == photos


def test_photographs_of_the_manual_dir(built, data_dir, photos, tmp_path):
    (tmp_path / "bsds500").symlink_to(photos)
    config = MnistMConfig(train=3, test=3, seed=3, mnist_dir=data_dir)
    builder = tfds.builder(
        "mnist_m", config=config, data_dir=tmp_path / "tfds", file_format="array_record"
    )
    manual = tfds.download.DownloadConfig(manual_dir=tmp_path)
    builder.download_and_prepare(download_config=manual)
    for ours, theirs in zip(
        builder.as_data_source("test"), built.as_data_source("test"), strict=False
    ):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_data_of_other_photographs_are_not_passed_off(built, data_dir, photos, tmp_path):
    assert build(data_dir, train=25, test=20, seed=3, photos=photos).data_dir == built.data_dir
    assert build(data_dir, train=25, test=20, seed=3, photos=tmp_path / "gone").data_path.exists()
    Image.fromarray(CHARTS[0]).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="was built from other photographs than"):
        build(data_dir, train=25, test=20, seed=3, photos=tmp_path)


@pytest.mark.parametrize(
    "options, kind, says",
    [
        (
            {"train": 31, "test": 1},
            ValueError,
            "train is 31, but MNIST in .* has 30 train examples",
        ),
        ({"mnist_dir": "nowhere"}, FileNotFoundError, "no MNIST in nowhere; to prepare it run py"),
        ({"train": 1, "test": 1, "photos": "nowhere"}, FileNotFoundError, "no folder nowhere; put"),
        ({"train": 1, "test": 1, "photos": None}, FileNotFoundError, "photos=….*manual/bsds500"),
        ({"train": 0}, ValueError, "train is 0"),
        ({"padding": -1}, ValueError, "padding is -1; choose 0 to 32 pixels"),
        ({"train": 1, "test": 1, "padding": 3}, ValueError, "1.PNG: 32×32 .* image's 34×34; rem"),
    ],
)
def test_the_builder_refuses(data_dir, photos, options, kind, says):
    with pytest.raises(kind, match=says) as error:
        build(data_dir, **{"photos": photos, **options})
    assert "\n" not in str(error.value)


def test_an_mnist_that_takes_tensorflow_to_read(data_dir, photos, tmp_path):
    shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="is not stored as array_record; remove it, then") as error:
        build(tmp_path, train=1, test=1, photos=photos)
    assert "\n" not in str(error.value)


def test_photographs_that_will_not_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no photographs \(\.jpg, \.jpeg, \.png\) in"):
        photo_files(tmp_path)
    file = tmp_path / "a.png"
    Image.fromarray(CHARTS[0][:20]).save(file)
    with pytest.raises(ValueError, match=r"a.png: 20×50 pixels, fewer than an image's 28×28"):
        read_photo(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a.png: not a whole image") as error:
        read_photo(file)
    assert "\n" not in str(error.value)
    Image.fromarray(CHARTS[0][..., 1]).save(file)
    np.testing.assert_array_equal(read_photo(file), CHARTS[0][..., [1, 1, 1]])


@pytest.mark.slow
def test_two_thousand_of_the_real_ones(tmp_path):
    """Some seconds. The authors' file, as far as it was compared: on a black patch it is MNIST's
    digit in white, wherever that has ink, with a margin of 2; elsewhere patches do not know it."""
    if not (SHARED / "bsds500").is_dir():
        pytest.skip("no photographs and no MNIST beside the repository")
    options = {"photos": SHARED / "bsds500", "mnist_dir": SHARED / "tfds"}
    builder = build(tmp_path, train=2000, test=10, **options)
    images = np.stack([e["image"] for e in builder.as_data_source("train")]).astype(int)
    mnist = tfds.data_source("mnist", split="train[:2000]", data_dir=SHARED / "tfds")
    digits = np.stack([e["image"][..., 0] for e in mnist]).astype(int)
    ink = np.pad(digits > 0, ((0, 0), (2, 2), (2, 2)))
    dark = [i for i in range(2000) if images[i][~ink[i]].max() <= 40]
    assert len(dark) > 3
    white = images[dark].min(-1) > 127
    assert np.mean(white == ink[dark]) > 0.995  # the patch may be bright under the ink alone
    photos = np.concatenate([read_photo(f).reshape(-1, 3) for f in photo_files(SHARED / "bsds500")])
    np.testing.assert_allclose(images[~ink].mean(0), photos.mean(0), atol=6)
    np.testing.assert_allclose(images[~ink].std(0), photos.std(0), atol=6)
    np.testing.assert_allclose(images[ink].mean(0), 255 - photos.mean(0), atol=6)
    assert [e["label"] for e in mnist] == [e["label"] for e in builder.as_data_source("train")]
    (tmp_path / "black").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "black" / "0.png")
    night = build(
        tmp_path / "night", train=100, test=10, **options | {"photos": tmp_path / "black"}
    )
    for example, i in zip(night.as_data_source("train"), ink, strict=False):
        np.testing.assert_array_equal(
            example["image"], np.where(i, 255, 0)[..., None].repeat(3, -1)
        )
