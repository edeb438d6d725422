"""Drawn signs: colours counted, PIL's resizing, pinhole geometry by DLT, the TFDS builder."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from jaxdl.data.builders import sign_drawings
from jaxdl.data.builders import syn_signs as builder
from jaxdl.data.builders.syn_signs import (
    CLASS_NAMES,
    Distortion,
    SynSignsConfig,
    syn_signs,
    templates,
)

CLASSES = 43
NONE = Distortion(
    **{
        field.name: 0.0
        for field in dataclasses.fields(Distortion)
        if isinstance(field.default, float)
    },
    diameter=(0.9, 0.9),
    distance=(10.0, 10.0),
    exposure=(1.0, 1.0),
    resolution=(1.0, 1.0),
    noise=(0.0, 0.0),
)
# GTSRB's ClassId, by what a sign looks like.
LIMITS = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}
RED_RINGS = {*LIMITS, 9, 10, 15, 16}
WARNINGS = {11, *range(18, 32)}
BLUE = set(range(33, 41))
ENDS = {6, 32, 41, 42}


@pytest.fixture(scope="module")
def signs():
    return templates(64)


@pytest.fixture(scope="module")
def train():
    return syn_signs("train", 3 * CLASSES)


def shares(sign):
    """The part of a sign's opaque pixels of each colour, by hue, saturation and value."""
    hue, saturation, value = np.moveaxis(rgb_to_hsv(sign[..., :3] / 255), -1, 0)
    vivid, solid = saturation > 0.5, sign[..., 3] > 250
    hue = 360 * hue
    masks = {
        "red": vivid & ((hue < 20) | (hue > 340)),
        "yellow": vivid & (abs(hue - 45) < 15),
        "green": vivid & (abs(hue - 150) < 30),
        "blue": vivid & (abs(hue - 210) < 30),
        "white": ~vivid & (value > 0.9),
        "black": (value < 0.15),
        "grey": ~vivid & (abs(value - 0.4) < 0.1),
    }
    return {name: (mask & solid).sum() / solid.sum() for name, mask in masks.items()}


def test_names_are_in_the_order_of_gtsrb():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == CLASSES
    for label, number in LIMITS.items():
        assert CLASS_NAMES[label] == f"speed limit {number} km/h"
    assert tuple(sign_drawings._DRAWINGS) == CLASS_NAMES
    known = {13: "yield", 14: "stop", 17: "no entry", 25: "road work", 40: "roundabout mandatory"}
    assert {label: CLASS_NAMES[label] for label in known} == known


def test_templates_are_distinct(signs):
    assert signs.shape == (CLASSES, 64, 64, 4) and signs.dtype == np.uint8
    assert (
        max(signs[:, [0, -1], :, 3].max(), signs[:, :, [0, -1], 3].max()) < 80
    )  # a margin, near enough
    flat = signs.reshape(CLASSES, -1).astype(float)
    apart = np.abs(flat[:, None] - flat).mean(-1) + 99 * np.eye(CLASSES)
    assert apart.min() > 3  # the nearest, 60 and 80, differ by this over the whole square
    with pytest.raises(ValueError, match="4 pixels"):
        templates(4)
    with pytest.raises(ValueError, match="read-only"):
        signs[0] = 0


def test_mirror_images(signs):
    for one, other in ((19, 20), (33, 34), (36, 37), (38, 39)):
        np.testing.assert_array_equal(signs[one][:, ::-1], signs[other])
        assert (signs[one] != signs[other]).any(-1).mean() > 0.02


def test_colours(signs):
    for label in range(CLASSES):
        share = shares(signs[label])
        above = {name for name, part in share.items() if part > 0.02}
        if label in RED_RINGS | WARNINGS | {13}:
            assert {"red", "white"} <= above, CLASS_NAMES[label]
            assert share["red"] > 0.25 and share["white"] > 0.2
            assert ("black" in above) == (label not in {13, 15}), CLASS_NAMES[label]
        elif label in BLUE:
            assert above == {"blue", "white"} and 0.55 < share["blue"] < 0.85
        elif label in ENDS:
            assert share["white"] > 0.4 and share["black"] > 0.04 and not share["red"]
            assert label == 32 or share["grey"] > 0.1
        elif label == 12:
            assert above == {"yellow", "white"} and share["yellow"] > 0.35
        else:  # stop, no entry
            assert above == {"red", "white"} and 0.6 < share["red"] < 0.85
    lights = shares(signs[26])
    assert min(lights["green"], lights["yellow"], lights["black"]) > 0.02
    assert {i for i in range(CLASSES) if shares(signs[i])["green"] > 0.005} == {26}


def test_shapes(signs):
    """Areas of disc, triangle, square on its corner and octagon, as parts of the square."""
    areas = (signs[..., 3] / 255).mean((1, 2))
    disc, octagon = np.pi / 4, 2 * (np.sqrt(2) - 1)
    for label in RED_RINGS | BLUE | ENDS | {17}:
        assert areas[label] == pytest.approx(0.97**2 * disc, rel=0.01)
    assert areas[14] == pytest.approx(0.97**2 * octagon, rel=0.01)
    assert areas[12] == pytest.approx(0.97**2 / 2, rel=0.06)
    assert len({float(areas[label]) for label in WARNINGS}) == 1
    assert areas[11] == pytest.approx(areas[13], rel=0.02) and 0.35 < areas[13] < 0.5
    widths = (signs[..., 3] > 128).sum(2)
    assert widths[11].argmax() > 45 and widths[13].argmax() < 19  # one points up, one down


def test_undistorted_signs_are_pils():
    """The sampler against PIL's own resizing of the same drawings."""
    size, diameter = 40, 36
    images, _ = syn_signs("test", CLASSES, size=size, distortion=NONE)
    edge = (size - diameter) // 2
    drawn = []
    for sign, image in zip(templates(2 * diameter), images, strict=True):
        small = Image.fromarray(sign).resize((diameter, diameter), Image.Resampling.BILINEAR)
        ours = image[edge : edge + diameter, edge : edge + diameter].astype(float)
        theirs = np.asarray(small).astype(float)
        inside = theirs[..., 3] == 255
        assert np.abs(ours - theirs[..., :3])[inside].mean() < 5  # a shift by one pixel: 26
        drawn.append(np.where(inside[..., None], theirs[..., :3], 128))
    # Which of PIL's drawings is nearest, with what lies outside the sign left out?
    drawn = np.stack(drawn)
    solid = templates(diameter)[..., 3] == 255
    crops = images[:, edge : edge + diameter, edge : edge + diameter].astype(float)
    distance = np.abs(crops[:, None] - drawn).mean(-1)
    distance = (distance * solid).sum((2, 3)) / solid.sum((1, 2))
    np.testing.assert_array_equal(distance.argmin(1), np.arange(CLASSES))


def test_slightly_distorted_signs_are_nearest_to_their_templates():
    slight = dataclasses.replace(
        NONE,
        shift=0.01,
        roll=2.0,
        yaw=8.0,
        shade=0.1,
        exposure=(0.7, 1.0),
        cast=0.04,
        noise=(0, 0.01),
    )
    images, labels = syn_signs("test", 4 * CLASSES, distortion=slight)
    signs = templates(36).astype(float)
    solid = (signs[..., 3] == 255)[..., None].repeat(3, -1)
    best = []
    for image in images[:, 2:-2, 2:-2].astype(float):
        pairs = zip(signs[..., :3], solid, strict=True)
        scores = [np.corrcoef(image[mask], sign[mask])[0, 1] for sign, mask in pairs]
        best.append(np.argmax(scores))
    assert np.mean(best == labels) > 0.97


def test_the_camera_is_a_pinhole():
    """Pixels and sign are joined by a homography whose columns, undone, are those of a rotation."""
    far, side, n = 6.0, 16, 30
    d = dataclasses.replace(NONE, roll=9.0, yaw=38.0, pitch=15.0, distance=(far, far))
    axis = (np.arange(side) + 0.5 - side / 2).astype(np.float32) / 40
    shift = np.zeros((n, 1, 1, 2), np.float32)
    u, v = builder._sign_plane(np.random.default_rng(0), n, axis, shift, d)
    x, y = np.meshgrid(axis / 0.45, axis / 0.45)  # in half widths of the sign
    angles = []
    for a, b in zip(u.astype(float), v.astype(float), strict=True):
        # Direct linear transform: pixel ~ H (a, b, 1) is linear in H's nine entries.
        sign = np.stack([a, b, np.ones_like(a)], -1).reshape(-1, 3)
        none = np.zeros_like(sign)
        rows = np.concatenate(
            [
                np.hstack([sign, none, -x.reshape(-1, 1) * sign]),
                np.hstack([none, sign, -y.reshape(-1, 1) * sign]),
            ]
        )
        _, singular, vectors = np.linalg.svd(rows, full_matrices=False)
        assert singular[-1] < 1e-4 * singular[0]
        h = (vectors[-1] / vectors[-1, 8]).reshape(3, 3)
        np.testing.assert_allclose(h[:2, 2], 0, atol=1e-4)
        columns = h[:, :2] * np.array([[1], [1], [far]])
        np.testing.assert_allclose(columns.T @ columns, np.eye(2), atol=2e-3)
        angles.append(np.degrees(np.arccos(np.clip(np.linalg.det(columns[:2]), -1, 1))))
    assert 20 < max(angles) < 42  # the sign's normal against the camera's axis


def test_the_same_arguments_give_the_same_images(train):
    images, labels = train
    assert images.shape == (3 * CLASSES, 40, 40, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.tile(np.arange(CLASSES), 3))
    assert labels.dtype == np.int32
    for start, count in ((0, 5), (40, 50), (128, 1)):
        part, names = syn_signs("train", count, start=start)
        np.testing.assert_array_equal(part, images[start : start + count])
        np.testing.assert_array_equal(names, labels[start : start + count])
    for other in (syn_signs("test", 43), syn_signs("train", 43, seed=1)):
        assert (other[0] != images[:43]).any((1, 2, 3)).all()
    assert (images[:43] != images[43:86]).any((1, 2, 3)).all()


def test_the_same_in_another_process(train):
    code = (
        "from jaxdl.data.builders.syn_signs import syn_signs; import hashlib, sys;"
        "print(hashlib.sha256(syn_signs('train', 43)[0].tobytes()).hexdigest(),"
        "'tensorflow' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [hashlib.sha256(train[0][:43].tobytes()).hexdigest(), "False"]


def test_size_is_only_resolution():
    clear = Distortion(resolution=(1.0, 1.0), noise=(0.0, 0.0), motion=0.0)
    small, _ = syn_signs("train", CLASSES, distortion=clear)
    large, _ = syn_signs("train", CLASSES, size=80, distortion=clear)
    reduced = large.reshape(CLASSES, 40, 2, 40, 2, 3).mean((2, 4))
    error = np.abs(reduced - small).mean((1, 2, 3))
    wrong = np.abs(reduced - np.roll(small, 1, 0)).mean((1, 2, 3))
    assert error.mean() < 6 and (error < wrong).all()


def test_light_and_detail_vary(train):
    images = train[0].astype(float)
    means = images.mean((1, 2, 3))
    assert means.min() < 60 and means.max() > 150
    assert (images.std((1, 2, 3)) > 5).all()  # none is blank
    assert (means > 15).all() and (means < 245).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validation", 1, {}), "unknown split 'validation'; choose one of train, test"),
        (("train", 0, {}), "count is 0"),
        (("train", 1, {"size": 15}), "size is 15; it must be 16 or more"),
        (("train", 1, {"start": -1}), "start is -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    split, count, options = arguments
    with pytest.raises(ValueError, match=message):
        syn_signs(split, count, **options)


def test_tfds(tmp_path):
    config = SynSignsConfig(train=50, test=7, seed=5, size=24)
    made = tfds.builder("syn_signs", config=config, data_dir=tmp_path, file_format="array_record")
    made.download_and_prepare()
    assert made.info.features["label"].names == list(CLASS_NAMES)
    for split, count in (("train", 50), ("test", 7)):
        source = made.as_data_source(split)
        assert len(source) == count
        images, labels = syn_signs(split, count, seed=5, size=24)
        expected = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
        read = {(e["image"].tobytes(), e["label"]) for e in source}  # TFDS shuffles
        assert read == expected and len(read) == count
    again = tfds.data_source(
        "syn_signs", split="test", data_dir=tmp_path, builder_kwargs={"config": config}
    )
    assert len(again) == 7


def test_configs():
    names = {SynSignsConfig(**{field: 99}).name for field in ("train", "test", "seed", "size")}
    assert len(names | {SynSignsConfig().name}) == 5
    for field in ("train", "test", "size"):
        with pytest.raises(ValueError, match=f"{field} is 0"):
            SynSignsConfig(**{field: 0})


def test_a_config_that_equals_the_default_is_taken(tmp_path):
    default = tfds.builder("syn_signs", data_dir=tmp_path)
    same = tfds.builder("syn_signs", config=SynSignsConfig(), data_dir=tmp_path)
    assert default.data_dir == same.data_dir
