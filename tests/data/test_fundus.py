"""Drawn fundi: what is said of them against what the pixels show, measured with SciPy."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import (
    binary_dilation,
    center_of_mass,
    distance_transform_edt,
    gaussian_filter,
)

from jaxdl.data.builders.fundus import CLASS_NAMES, MACULA_RADIUS, make_fundus
from jaxdl.data.sources import load

SIZE = 96


@pytest.fixture(scope="module")
def fundi():
    return make_fundus(64, seed=1, size=SIZE)


@pytest.fixture(scope="module")
def visible(fundi):
    """Those in which the macula is visible, with the radius of their mask in pixels."""
    chosen = fundi["label"] == 1
    arrays = {name: array[chosen] for name, array in fundi.items()}
    return arrays | {"radius": np.sqrt(arrays["mask"].sum((1, 2)) / np.pi)}


def distances(point):
    return np.hypot(*(np.indices((SIZE, SIZE)) - point[:, None, None]))


def discs(images):
    """Where images are brightest, by their green."""
    smooth = gaussian_filter(images[..., 1].astype(float), (0, 3, 3))
    return np.array([np.unravel_index(image.argmax(), image.shape) for image in smooth])


def test_arrays(fundi):
    kinds = {name: (array.dtype.name, array.shape) for name, array in fundi.items()}
    assert kinds == {
        "image": ("uint8", (64, SIZE, SIZE, 3)),
        "label": ("int32", (64,)),
        "point": ("float32", (64, 2)),
        "mask": ("uint8", (64, SIZE, SIZE)),
        "vessels": ("uint8", (64, SIZE, SIZE)),
        "field": ("uint8", (64, SIZE, SIZE)),
    }
    assert 20 <= fundi["label"].sum() <= 44
    for name in ("mask", "vessels", "field"):
        np.testing.assert_array_equal(np.unique(fundi[name]), [0, 1])
        assert (fundi[name] <= fundi["field"]).all()


def test_the_point_is_the_middle_of_the_mask_and_nan_without_one(fundi):
    for label, point, mask in zip(fundi["label"], fundi["point"], fundi["mask"], strict=True):
        assert mask.any() == label == np.isfinite(point).all()
        if label:
            np.testing.assert_allclose(center_of_mass(mask), point, atol=0.3)
            away = distances(point)
            assert away[mask == 1].max() < away[mask == 0].min() + 1e-3  # a disc
        else:
            assert np.isnan(point).all()


def test_vessels_are_darker_than_what_is_beside_them(fundi):
    differences = []
    for image, vessels, field in zip(fundi["image"], fundi["vessels"], fundi["field"], strict=True):
        near = binary_dilation(vessels, iterations=3) & ~binary_dilation(vessels) & (field == 1)
        green = image[..., 1].astype(float)
        differences.append(green[near].mean() - green[vessels == 1].mean())
    assert min(differences) > 0 and np.median(differences) > 12


def test_no_vessel_enters_the_fovea_and_it_is_darker(visible):
    contrasts = []
    for image, point, radius, vessels in zip(
        visible["image"], visible["point"], visible["radius"], visible["vessels"], strict=True
    ):
        away = distances(point) / radius  # of the mask
        assert not vessels[away < 0.35 / MACULA_RADIUS].any()
        green = image[..., 1].astype(float)
        beside = (away > 1.5) & (away < 1.8) & (vessels == 0)
        contrasts.append(green[beside].mean() - green[away < 0.4].mean())
    assert np.mean(np.array(contrasts) > 5) > 0.9


def test_macula_and_disc_lie_as_in_eyes(visible):
    """The disc, which is the brightest spot of most, is some 2.5 of its diameters away, to the
    left in half the images, and vessels are wider there than afar."""
    offsets = (discs(visible["image"]) - visible["point"]) * MACULA_RADIUS
    offsets /= visible["radius"][:, None]  # in disc diameters
    assert 2.2 < np.median(np.hypot(*offsets.T)) < 2.8
    assert np.median(np.abs(offsets[:, 0])) < 0.8
    assert 0.15 < (offsets[:, 1] < 0).mean() < 0.85
    near, far = [], []
    for vessels, disc, radius in zip(
        visible["vessels"], discs(visible["image"]), visible["radius"], strict=True
    ):
        width = distance_transform_edt(vessels)
        away = distances(disc) / radius * MACULA_RADIUS
        near.append((width > 1)[(vessels == 1) & (away < 1.5)].mean())
        far.append((width > 1)[(vessels == 1) & (away > 3.0)].mean())
    assert np.mean(near) > 2 * np.mean(far)


def test_around_the_field_it_is_dark(fundi):
    outside = fundi["image"][~binary_dilation(fundi["field"], iterations=2)]
    assert outside.mean() < 12 and fundi["image"][fundi["field"] == 1].mean() > 60


def test_an_image_depends_on_its_seed_and_index_alone(fundi):
    few, other = make_fundus(3, seed=1, size=SIZE), make_fundus(3, seed=2, size=SIZE)
    for name, array in few.items():
        np.testing.assert_array_equal(array, fundi[name][:3])
    assert (few["image"] != other["image"]).any()


@pytest.mark.parametrize("size", [32, 51, 256])
def test_another_size_is_the_same_picture(fundi, size):
    pictures = make_fundus(2, seed=1, size=size)
    scale = size / SIZE
    np.testing.assert_array_equal(pictures["label"], fundi["label"][:2])
    np.testing.assert_allclose(
        pictures["point"] + 0.5, (fundi["point"][:2] + 0.5) * scale, rtol=1e-4
    )
    for image, same in zip(pictures["image"], fundi["image"], strict=False):
        resized = Image.fromarray(same).resize((size, size), Image.Resampling.BOX)
        assert np.abs(image.astype(float) - resized).mean() < 10


def test_a_source_of_fundi():
    source = load("fundus", train=5, validation=2, test=3, size=32)
    assert source.class_names == CLASS_NAMES and source.labelled
    assert source.splits["train"]["image"].shape == (5, 32, 32, 3)
    splits = {**source.splits, "test": source.test.open()}
    firsts = {split["image"][0].tobytes() for split in splits.values()}
    assert len(firsts) == 3
    assert load("fundus", train=5, validation=2, test=3, size=32, seed=1).fingerprint != (
        source.fingerprint
    )


@pytest.mark.parametrize("options, says", [({"count": 0}, "count is 0"), ({"size": 8}, "size is")])
def test_refused_in_one_line(options, says):
    with pytest.raises(ValueError, match=f"^fundus: {says}"):
        make_fundus(**{"count": 1, **options})
