"""SYN NUMBERS against digits that PIL draws, and a linear probe; the promises of the builder."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from jaxdl.data.builders import syn_numbers as builder
from jaxdl.data.builders.syn_numbers import BLOCK, SynNumbersConfig, Variation, syn_numbers

FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif-Italic")
FONTS += ("DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic")
FONTS += ("STIXGeneralBol", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")
GREY = np.asarray([0.299, 0.587, 0.114])

# Digits of one size on plain grounds, and nothing else.
PLAIN = {
    "height": (20.0, 20.0),
    "aspect": (1.0, 1.0),
    "rotation": 0.0,
    "shear": 0.0,
    "shift": 0.0,
    "spacing": (1.1, 1.1),
    "contrast": (0.6, 0.6),
    "second": 0.0,
    "halo": 0.0,
    "light": 0.0,
    "blur": (0.015, 0.015),
    "noise": (0.0, 0.0),
}


def drawn_by_pil(digit, font, side, stroke=0):
    """The clean digit, `side` pixels tall where 0 is, centred: none of the builder's code."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    font = ImageFont.truetype(file, 100)
    zero, ink = font.getbbox("0"), Image.new("L", (200, 200))
    ImageDraw.Draw(ink).text((50, 30), digit, 255, font, stroke_width=stroke)
    ink = ink.crop(ink.getbbox())
    scale = side / (zero[3] - zero[1])
    ink = ink.resize([round(scale * length) for length in ink.size], Image.Resampling.BOX)
    image = Image.new("L", (32, 32))
    image.paste(ink, ((32 - ink.width) // 2, (32 - ink.height) // 2))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.5))) / 255


@pytest.fixture(scope="module")
def train():
    return syn_numbers("train", 4000)


def ink_of(images):
    """0 on a plain ground, 1 on a digit; the ground is what the first pixel shows."""
    away = np.abs((images - images[:, :1, :1].astype(float)) @ GREY)
    return away / away.max((1, 2), keepdims=True)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_label_is_the_digit_at_the_centre(length):
    """The nearest of PIL's drawings must be of that digit; neighbours are beyond the window."""
    images, labels = syn_numbers("test", 300, variation=Variation(**PLAIN, digits=(length,)))
    # The corner is ground: a line of digits, not turned, leaves the first row free.
    ink, window = ink_of(images), slice(8, 24)
    kinds = [(font, 20, stroke) for font in FONTS for stroke in (0, 2, 3)]
    clean = [drawn_by_pil(digit, *kind) for kind in kinds for digit in builder.CLASS_NAMES]
    nearest = KNeighborsClassifier(1, metric="cosine")
    nearest.fit(np.stack(clean)[:, :, window].reshape(480, -1), np.tile(np.arange(10), 48))
    named = nearest.predict(ink[:, :, window].reshape(300, -1))
    assert np.mean(named == labels) > 0.99
    sides = np.stack([(side > 0.5).any((1, 2)) for side in (ink[:, :, :7], ink[:, :, -7:])])
    neighbours = {1: {0}, 2: {1}, 3: {1, 2}}[length]
    assert np.isin(sides.sum(0), list(neighbours)).mean() > 0.97
    assert np.abs(sides.mean(1) - (length - 1) / length).max() < 0.1


def plain_ink(**changes):
    changes = PLAIN | {"digits": (1,), "height": (15.0, 45.0), "shift": 0.1} | changes
    return ink_of(syn_numbers("train", 1000, variation=Variation(**changes))[0])


def test_the_digit_is_whole():
    """However large it is asked for, under every map, it keeps off the edge."""
    ink = plain_ink(rotation=30.0, shear=0.25, aspect=(0.8, 1.6))
    tall = (ink > 0.4).any(2).sum(1)
    assert tall.min() < 18 and tall.max() > 26
    ink[:, 1:-1, 1:-1] = 0
    assert ink.max() < 0.25


def test_the_digit_is_near_the_centre():
    ink = plain_ink() > 0.25
    for axis in (1, 2):
        seen = ink.any(axis)
        first, last = seen.argmax(1), 31 - seen[:, ::-1].argmax(1)
        off = np.abs(first + last - 31) / 2
        assert 1.5 < off.max() <= 0.1 * 29 + 1 and off.mean() > 0.3  # a height is at most 29 here


def features(images):
    """Gradients by direction, blind to the sign of the contrast: |g|, |g| cos 2θ and |g| sin 2θ."""
    smooth = gaussian_filter(images @ GREY, (0, 0.7, 0.7))[:, 2:-2, 2:-2]
    dy, dx = np.gradient(smooth, axis=(1, 2))
    size = np.hypot(dx, dy) + 1e-9
    fields = np.stack([size, (dx**2 - dy**2) / size, 2 * dx * dy / size], -1)
    pooled = fields.reshape(len(images), 14, 2, 14, 2, 3).mean((2, 4))
    pooled /= pooled.std((1, 2, 3), keepdims=True)
    return pooled.reshape(len(images), -1)


def test_a_linear_probe_reads_every_digit(train):
    """Of held-out images, and of PIL's clean drawings, which know nothing of the builder."""
    images, labels = train
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features(images), labels)
    images, labels = syn_numbers("test", 1000)
    recall = np.bincount(labels, probe.predict(features(images)) == labels) / 100
    assert recall.min() > 0.6, recall
    kinds = [(font, side) for font in FONTS if "Mono" not in font for side in (16, 20, 24)]
    clean = np.stack([drawn_by_pil(d, *kind) for kind in kinds for d in builder.CLASS_NAMES])
    clean = np.repeat(255 * clean[..., None], 3, -1)
    right = probe.predict(features(clean)).reshape(-1, 10) == np.arange(10)
    assert right.mean(0).min() > 0.8, right.mean(0)


def test_shapes_types_balance_and_range(train):
    images, labels = train
    assert images.shape == (4000, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (4000,) and labels.dtype == np.int32
    np.testing.assert_array_equal(np.sort(labels.reshape(-1, 10)), np.tile(np.arange(10), (400, 1)))
    assert images.min() == 0 and images.max() == 255
    # Colour, not grey levels three times; and every image has contrast to read it by.
    assert np.mean(np.ptp(images.mean((1, 2)), 1) > 10) > 0.5
    low, high = np.quantile((images @ GREY).reshape(4000, -1), [0.02, 0.98], axis=1)
    assert (high - low).min() > 0.15 * 255


def test_digits_are_darker_and_lighter_than_their_ground():
    images, _ = syn_numbers("train", 500, variation=Variation(**PLAIN, digits=(1,)))
    grey = images @ GREY
    contrast = grey.reshape(500, -1).mean(1) - grey[:, 0, 0]
    assert 0.4 < np.mean(contrast > 0) < 0.6


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 3 * BLOCK), count=st.integers(1, 3 * BLOCK))
def test_any_stretch_is_a_part_of_the_whole(train, start, count):
    images, labels = syn_numbers("train", count, start=start)
    np.testing.assert_array_equal(images, train[0][start : start + count])
    np.testing.assert_array_equal(labels, train[1][start : start + count])


def test_same_bytes_in_another_process():
    """Python's hash is salted anew in each process, and the fonts are drawn anew."""
    code = "import sys; from jaxdl.data.builders.syn_numbers import syn_numbers as f; "
    code += "sys.stdout.buffer.write(f('test', 3, seed=2, start=99)[0].tobytes())"
    printed = subprocess.check_output(
        [sys.executable, "-c", code],
        cwd=Path(builder.__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert printed == syn_numbers("test", 3, seed=2, start=99)[0].tobytes()


def test_splits_seeds_and_blocks_draw_from_streams_of_their_own(train):
    draws = [train[0], syn_numbers("test", 500)[0], syn_numbers("train", 500, seed=1)[0]]
    rows = np.concatenate(draws).reshape(-1, 32 * 32 * 3)
    assert len(np.unique(rows, axis=0)) == len(rows)
    orders = {train[1][i : i + BLOCK].tobytes() for i in range(0, 4000, BLOCK)}
    assert len(orders) == 4000 // BLOCK


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"split": "validation", "count": 1}, "unknown split 'validation'; choose one of train"),
        ({"split": "train", "count": 0}, "count is 0 in split 'train'; ask for 1 or more"),
        ({"split": "test", "count": 1, "start": -1}, "start is -1 in split 'test'; ask for 0"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, says):
    with pytest.raises(ValueError, match=f"^syn_numbers: {says}"):
        syn_numbers(**arguments)


@pytest.mark.parametrize("field, value", [("train", 0), ("test", -1), ("seed", -1), ("train", 1e3)])
def test_bad_settings_are_one_clear_line(field, value, types_unchecked):
    says = rf"^syn_numbers: {field} is {value}; it must be a whole number, \d or more$"
    with pytest.raises(ValueError, match=says):
        SynNumbersConfig(**{field: value})


def test_a_missing_font_is_named(monkeypatch):
    monkeypatch.setattr(builder, "_FONTS", ("Nowhere",))
    with pytest.raises(FileNotFoundError, match=r"no font .*Nowhere\.ttf; reinstall matplotlib"):
        builder._atlas.__wrapped__()


def test_tfds_stores_what_the_function_draws(tmp_path):
    config = SynNumbersConfig(train=BLOCK + 20, test=40, seed=3)
    made = tfds.builder("syn_numbers", config=config, data_dir=tmp_path, file_format="array_record")
    made.download_and_prepare()
    assert made.info.features["label"].names == list("0123456789")
    for split, count in {"train": BLOCK + 20, "test": 40}.items():
        stored = tfds.data_source(f"syn_numbers/{config.name}", split=split, data_dir=tmp_path)
        images, labels = syn_numbers(split, count, seed=3)
        assert len(stored) == made.info.splits[split].num_examples == count
        np.testing.assert_array_equal([example["image"] for example in stored], images)
        np.testing.assert_array_equal([example["label"] for example in stored], labels)


def test_no_two_settings_share_a_folder(tmp_path):
    configs = [SynNumbersConfig(), SynNumbersConfig(train=7), SynNumbersConfig(seed=7)]
    configs.append(SynNumbersConfig(test=7))
    paths = [tfds.builder("syn_numbers", config=c, data_dir=tmp_path).data_dir for c in configs]
    assert len(set(paths)) == 4
    assert tfds.builder("syn_numbers", data_dir=tmp_path).data_dir == paths[0]
