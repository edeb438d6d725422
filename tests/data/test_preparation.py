"""Images as a network sees them, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data.preparation import (
    augmentations,
    centred,
    domain_batches,
    draw_on_backgrounds,
    mirror,
    picture_batches,
    recolour,
    standardized,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3)).astype(np.uint8)
SEEN = jnp.asarray(IMAGES[:4])


def test_the_training_images_set_mean_and_deviation():
    see = standardized(IMAGES)
    expected = (IMAGES - IMAGES.mean((0, 1, 2))) / IMAGES.std((0, 1, 2))
    for key in (None, jax.random.key(0)):  # nothing is random
        np.testing.assert_allclose(see(SEEN, key), expected[:4], atol=1e-4)
    pixels = standardized(IMAGES, subtract="pixels")
    np.testing.assert_allclose(pixels(SEEN, None), IMAGES[:4] - IMAGES.mean(0), atol=1e-4)


def test_the_middle_is_that_of_black_and_white_whatever_the_images():
    see = standardized(IMAGES[:1], subtract="middle")
    expected = np.interp(IMAGES[:4].astype(float), (0, 255), (-1, 1))
    np.testing.assert_allclose(see(SEEN, None), expected, atol=1e-6)


def test_crops_are_random_in_training_and_in_the_middle_otherwise():
    see = standardized(IMAGES, crop=4, flip=True)
    whole = np.asarray(standardized(IMAGES)(SEEN, None))
    np.testing.assert_array_equal(see(SEEN, None), whole[:, 1:5, 1:5])
    seen = np.asarray(jax.jit(see)(SEEN, jax.random.key(1)))
    assert seen.shape == (4, 4, 4, 3)
    for image, full in zip(seen, whole, strict=True):
        pieces = [full[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
        pieces += [piece[:, ::-1] for piece in pieces]
        assert sum(np.array_equal(image, piece) for piece in pieces) == 1


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((2, 6, 6, 1), {"crop": 7}, "crop=7 does not fit images of 6 x 6"),
        ((2, 6, 6, 1), {"crop": 7, "padding": 1}, "crop=7 does not fit"),
        ((2, 6, 5, 1), {"flip": True}, "only square images .* these are 6 x 5"),
    ],
)
def test_images_that_do_not_fit(shape, options, words):
    with pytest.raises(ValueError, match=words):
        standardized(np.zeros(shape, np.uint8), **options)


@pytest.mark.parametrize(
    ("subtract", "mean"), [("common", [2, 3, 4]), ("own", [3, 4, 5]), ("none", [0, 0, 0])]
)
def test_centred_images_by_hand(subtract, mean):
    images = IMAGES[:4].astype(np.float32)
    means = np.array([[1, 2, 3], [3, 4, 5]], np.float32)
    hyper = {"means": means, "range": np.float32(2)}
    expected = (IMAGES[:4] - np.array(mean)) / 255 * 2
    np.testing.assert_allclose(centred(subtract)(images, hyper, 1), expected, atol=1e-6)
    assert centred(subtract, 3)(images, hyper, 1).shape == (4, 3, 3, 3)


def test_no_label_of_the_second_domain_is_in_a_batch():
    def see(images, hyper, domain):
        return images + 1000 * (domain + 1)

    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (5, 2, 4, 4, 3)).astype(np.uint8)
    stored = {"image": pair, "label": np.arange(10).reshape(5, 2)}
    prepare = jax.jit(domain_batches(see, paired=True, change=recolour(0.5)))
    batch = jax.device_get(prepare(stored, {}, jax.random.key(0)))
    assert set(batch["source"]) == {"image", "label"} and set(batch["target"]) == {
        *("image", "changed")
    }
    np.testing.assert_array_equal(batch["source"]["label"], [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(batch["source"]["image"], pair[:, 0] + 1000.0)
    np.testing.assert_array_equal(batch["target"]["image"], pair[:, 1] + 2000.0)
    assert (batch["target"]["changed"] != batch["target"]["image"]).any()
    alone = domain_batches(see, paired=False)
    stored = {"image": pair[:, 1], "label": stored["label"][:, 1]}
    seen = alone(stored, {"domain": 1}, None)
    np.testing.assert_array_equal(seen["image"], pair[:, 1] + 2000.0)
    np.testing.assert_array_equal(
        alone(stored, {"domain": 1}, jax.random.key(0))["source"]["image"], seen["image"]
    )


def test_a_share_of_the_labelled_images_has_backgrounds():
    rng = np.random.default_rng(0)
    strokes = (rng.random((400, 6, 6, 1)) < 0.3) * rng.integers(1, 256, (400, 6, 6, 1))
    # Unlabelled images of one colour: so are their pieces.
    ground = np.full((400, 6, 6, 3), (10, 20, 30))
    images = np.stack([np.broadcast_to(strokes, ground.shape), ground], 1).astype(np.uint8)
    stored = {"image": images, "label": np.zeros((400, 2), np.int32)}

    def see(images, hyper, domain):
        return images

    options = {"paired": True, "change": recolour(1.0)}
    prepares = domain_batches(see, backgrounds=0.25, **options), domain_batches(see, **options)
    both = jax.jit(lambda *a: [prepare(*a) for prepare in prepares])
    batch, without = jax.device_get(both(stored, {}, jax.random.key(0)))
    np.testing.assert_array_equal(batch["target"]["changed"], without["target"]["changed"])
    images = batch["source"]["image"]
    drawn = np.where(strokes > 0, 255 - ground, ground)
    is_drawn = np.all(np.abs(images - drawn) < 1e-3, (1, 2, 3))
    assert 70 < is_drawn.sum() < 130
    np.testing.assert_array_equal(images[~is_drawn], stored["image"][:, 0][~is_drawn])
    np.testing.assert_array_equal(batch["target"]["image"], ground)


def test_backgrounds_need_images_of_both_domains():
    with pytest.raises(ValueError, match="paired=True"):
        domain_batches(lambda images, hyper, domain: images, paired=False, backgrounds=0.5)


def test_backgrounds_are_magnified():
    """A square wave of 2 pixels has stripes of 4 to 8 in its pieces, in some direction."""
    wave = np.tile(np.repeat([0.0, 200.0], 2), 7)[None, :, None]
    stripes = np.broadcast_to(wave, (50, 28, 28, 1)).astype(np.float32)
    draw = jax.jit(draw_on_backgrounds)
    pieces = np.asarray(draw(jax.random.key(0), np.zeros_like(stripes), stripes))
    slope = np.sqrt(sum(np.diff(pieces, axis=axis)[:, :27, :27] ** 2 for axis in (1, 2)))
    before = np.abs(np.diff(stripes, axis=2)).mean()
    assert before / 4 < slope.mean() < before / 1.5


def test_answers_are_mirrored_with_their_images():
    """Bright pixels are the points, whichever way each image looks."""
    points = np.array([[[1, 0], [2, 3]]] * 40, np.float32)
    points[::2, 1] = np.nan  # one point alone
    image = np.zeros((40, 4, 6, 3), np.uint8)
    for i, j in zip(*np.nonzero(np.isfinite(points[..., 0])), strict=True):
        row, column = points[i, j].astype(int)
        image[i, row, column] = 255
    instances = (image[..., 0] > 0).astype(np.int32)
    count = np.arange(40, dtype=np.float32)
    batch = {"image": image, "points": points, "point": points[:, 0], "instances": instances}
    new = jax.device_get(jax.jit(mirror)(jax.random.key(0), {**batch, "count": count}))
    np.testing.assert_array_equal(new["count"], count)
    np.testing.assert_array_equal(new["instances"], new["image"][..., 0] > 0)
    np.testing.assert_array_equal(new["point"], new["points"][:, 0])
    swapped = new["point"][:, 1] == 5
    assert 10 < swapped.sum() < 30 and (new["point"][~swapped, 1] == 0).all()
    for i, pair in enumerate(new["points"]):
        expected = np.argwhere(new["instances"][i])
        np.testing.assert_array_equal(
            np.sort(pair[np.isfinite(pair[:, 0])], 0), np.sort(expected, 0)
        )


def bright_squares(b=6, h=20, w=24):
    """Images with a bright square, and two versions of its mask: the square, and nothing."""
    image = np.zeros((b, h, w, 3), np.uint8)
    for i in range(b):
        image[i, 5 + i : 12 + i, 3 + 2 * i : 10 + 2 * i] = 255
    return image, np.stack([image[..., 0] > 0, image[..., 0] < 0], 1).astype(np.uint8)


@pytest.mark.parametrize("changes", [(), ("similarity",)])
def test_masks_are_cut_mirrored_and_changed_with_their_images(changes):
    image, mask = bright_squares()
    change = augmentations(changes, 1.0, 16)
    prepare = jax.jit(picture_batches(image, patch=16, flip=True, change=change))
    stored, key = {"image": image, "mask": mask}, jax.random.key(0)
    batch, nothing = (
        jax.device_get(prepare(stored, {"mask": np.int32(number)}, key)) for number in (0, 1)
    )
    assert batch["image"].shape == (6, 16, 16, 3) and batch["mask"].shape == (6, 16, 16)
    low, high = (see.min() for see in (batch["image"], -batch["image"]))
    bright = batch["image"][..., 0] > (low - high) / 2
    assert np.sum(bright != batch["mask"]) <= (40 if changes else 0)  # of 1,536; some are mixed
    pieces = {x.tobytes() for x in batch["mask"]}
    assert len(pieces) == 6 and batch["mask"].any()
    assert not nothing["mask"].any()


def test_colours_change_without_masks_and_nothing_without_a_key():
    image = bright_squares()[0] // 4 + 96  # nothing is cut off at black or white
    points = np.zeros((6, 1, 2), np.float32)
    prepare = picture_batches(image, flip=True, change=augmentations(("colour",), 1.0, 20))
    stored = {"image": image, "points": points}
    plain = prepare(stored, {}, None)
    changed = jax.device_get(jax.jit(prepare)(stored, {}, jax.random.key(0)))
    np.testing.assert_array_equal(plain["image"], standardized(image)(image, None))
    np.testing.assert_array_equal(plain["points"], points)
    assert {*np.unique(changed["points"][..., 1]).tolist()} == {0, 23}
    levels = [np.unique(x[..., 0]) for x in changed["image"]]
    assert all(len(values) == 2 for values in levels) and len({v[0] for v in levels}) == 6
