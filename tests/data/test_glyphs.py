"""Glyphs against PIL's drawings of the same characters and a linear probe."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxdl.data.builders import glyphs as builder
from jaxdl.data.builders.glyphs import CLASS_GROUPS, CLASS_NAMES, glyphs

CLASSES = len(CLASS_NAMES)
CHANCE = 1 / CLASSES


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of this module's own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "jaxdl"


@pytest.fixture(scope="module")
def train():
    return glyphs("train", 80)


@pytest.fixture(scope="module")
def held_out():
    return glyphs("test", 50)


def features(images):
    """Gradients by direction, blind to the sign of the contrast: |g|, |g| cos 2θ and |g| sin 2θ.

    The sign of the ink is random, so raw pixels average to nothing and no linear probe reads them.
    """
    smooth = gaussian_filter(images[..., 0].astype(float), (0, 0.7, 0.7))
    dy, dx = np.gradient(smooth, axis=(1, 2))
    size = np.hypot(dx, dy) + 1e-9
    fields = np.stack([size, (dx**2 - dy**2) / size, 2 * dx * dy / size], -1)
    pooled = fields.reshape(len(images), 10, 2, 10, 2, 3).mean((2, 4))
    pooled /= pooled.std((1, 2, 3), keepdims=True)
    return pooled.reshape(len(images), -1)


@pytest.fixture(scope="module")
def probe(train):
    images, labels = train
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features(images), labels)


def drawn_by_pil(character, font, side):
    """The clean character, its longer side `side` pixels, centred: none of the builder's code."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    canvas = Image.new("L", (300, 300))
    ImageDraw.Draw(canvas).text((80, 80), character, 255, ImageFont.truetype(file, 100))
    ink = canvas.crop(canvas.getbbox())
    width, height = (max(1, round(side / max(ink.size) * length)) for length in ink.size)
    image = Image.new("L", (20, 20))
    ink = ink.resize((width, height), Image.Resampling.BOX)
    image.paste(ink, ((20 - width) // 2, (20 - height) // 2))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.5)))[..., None]


def test_classes_are_half_letters():
    assert CLASSES == len(set(CLASS_NAMES)) == len(CLASS_GROUPS) == 96
    assert CLASS_GROUPS.count("letter") == CLASS_GROUPS.count("symbol") == 48
    for name, group in zip(CLASS_NAMES, CLASS_GROUPS, strict=True):
        assert name.isalpha() == (group == "letter"), name


def test_every_class_has_many_fonts():
    _, starts, counts = builder._atlas()
    assert counts.min() >= 12
    np.testing.assert_array_equal(starts[1:], np.cumsum(counts)[:-1])


def test_shapes_types_and_balance(train):
    images, labels = train
    assert images.shape == (80 * CLASSES, 20, 20, 1) and images.dtype == np.uint8
    assert labels.shape == (80 * CLASSES,) and labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(labels), np.full(CLASSES, 80))


def test_same_arguments_same_bytes_and_more_only_appends():
    few, again, some = (builder._draw("train", n, 7)["images"] for n in (2, 2, 3))
    np.testing.assert_array_equal(few, again)
    np.testing.assert_array_equal(few, some[: len(few)])


def test_same_bytes_in_another_process(tmp_path):
    """Python's hash is salted anew in each process, and the fonts are drawn anew."""
    code = "import sys; from jaxdl.data.builders.glyphs import glyphs as g; "
    code += "sys.stdout.buffer.write(g('test', 1, seed=2)[0].tobytes())"
    printed = subprocess.check_output(
        [sys.executable, "-c", code],
        cwd=Path(builder.__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "1", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert printed == glyphs("test", 1, seed=2)[0].tobytes()


def test_splits_and_seeds_draw_from_streams_of_their_own(train, held_out):
    """No image is in two of them, and each depends on its own arguments only."""
    draws = [train[0], held_out[0], glyphs("validation", 5)[0], glyphs("train", 5, seed=1)[0]]
    rows = np.concatenate(draws).reshape(-1, 400)
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(held_out[0][: 5 * CLASSES], glyphs("test", 5)[0])


def test_contrast(train):
    """Neither blank nor washed out: ink of either sign, at least a quarter of the range."""
    pixels = train[0].reshape(len(train[0]), -1).astype(float) / 255
    low, high = np.quantile(pixels, [0.02, 0.98], axis=1)
    assert (high - low).min() > 0.15 and 0.5 < (high - low).mean() < 0.9
    assert pixels.std(1).min() > 0.03
    ground = np.median(train[0][:, [0, 0, -1, -1], [0, -1, 0, -1], 0], axis=1) / 255
    dark_ink = np.mean(ground > pixels[:, np.arange(400)].mean(1))
    assert 0.4 < dark_ink < 0.6


def test_linear_probe_reads_every_class(probe, held_out):
    """Chance is 1/96 = .0104; at 50 test images a class, the worst recall must be 25 times that."""
    images, labels = held_out
    hits = probe.predict(features(images)) == labels
    recall = np.bincount(labels, hits) / 50
    assert recall.mean() > 0.65
    worst = np.argmin(recall)
    assert recall[worst] > 25 * CHANCE, (CLASS_NAMES[worst], recall[worst])


def test_no_two_classes_look_alike(probe, held_out):
    """Asked for one of two classes, the probe is right 2 times in 3; of two equal ones, 1 in 2."""
    images, labels = held_out
    scores = probe.decision_function(features(images))
    beats = scores[np.arange(len(labels)), labels][:, None] > scores  # its class before each other
    rate = np.stack([beats[labels == c].mean(0) for c in range(CLASSES)])
    pairs = (rate + rate.T) / 2 + np.eye(CLASSES)
    worst = np.unravel_index(pairs.argmin(), pairs.shape)
    assert pairs[worst] > 0.65, ([CLASS_NAMES[c] for c in worst], pairs[worst])


def test_what_a_class_shows_is_its_name(probe):
    """The probe, trained on glyphs, must name PIL's clean drawings of each character.

    This is what a class of blanks, of noise, of boxes or of another character cannot pass: a probe
    learns to tell such images too, but then it does not know the character by its name.
    """
    fonts = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
    kinds = [(font, side) for font in fonts for side in (11, 13, 15)]
    clean = np.stack([drawn_by_pil(c, *kind) for kind in kinds for c in CLASS_NAMES])
    right = probe.predict(features(clean)).reshape(len(kinds), CLASSES) == np.arange(CLASSES)
    recall = right.mean(0)
    assert recall.mean() > 0.9
    worst = np.argmin(recall)
    assert recall[worst] > 0.4, (CLASS_NAMES[worst], recall[worst])


def test_second_call_reads_the_cache(cache, monkeypatch):
    first = glyphs("validation", 2, seed=3)
    monkeypatch.setattr(builder, "_draw", lambda *_: pytest.fail("drew what the cache holds"))
    second = glyphs("validation", 2, seed=3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not list(cache.glob("*.tmp"))


CHANGED = {
    "RECIPE": builder.RECIPE + 1,
    "DISTORTION": builder.Distortion(shift=0.1),
    "CLASS_NAMES": (*CLASS_NAMES[1:], CLASS_NAMES[0]),
}


@pytest.mark.parametrize("change", CHANGED)
def test_cache_is_keyed_by_the_recipe(monkeypatch, change):
    """Images of another recipe are drawn, and do not take the place of the others."""
    kept, _ = glyphs("validation", 1)
    other = {"images": 255 - kept}
    monkeypatch.setattr(builder, "_draw", lambda *_: other)
    with monkeypatch.context() as patch:
        patch.setattr(builder, change, CHANGED[change])
        np.testing.assert_array_equal(glyphs("validation", 1)[0], 255 - kept)
    np.testing.assert_array_equal(glyphs("validation", 1)[0], kept)


@pytest.mark.parametrize("change", [("train", 1, 0), ("validation", 2, 0), ("validation", 1, 1)])
def test_cache_is_keyed_by_the_arguments(change):
    assert builder._recipe(*change) != builder._recipe("validation", 1, 0)


@pytest.mark.parametrize("split, per_class", [("dev", 1), ("", 1), ("train", 0), ("test", -3)])
def test_bad_input_is_one_clear_line(split, per_class):
    with pytest.raises(ValueError, match=r"^glyphs: .*(choose one of|ask for 1 or more)") as error:
        glyphs(split, per_class)
    assert "\n" not in str(error.value)
