"""Augmentations against SciPy, NumPy, Pillow and closed forms, and the laws all of them keep."""

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from jaxdl.data import augment
from jaxdl.train.parallel import make_placement

KEY = random.key(0)

AUGMENTS = {
    "crop_and_flip": augment.crop_and_flip(6, padding=1),
    "centre_crop": augment.centre_crop(5),
    "similarity": augment.similarity(15, (0.8, 1.2), (0.1, 0.2), edge="mirror"),
    "shear": augment.shear(0.1, 0.3, edge="nearest"),
    "elastic": augment.elastic(9, 2),
    "gaussian_noise": augment.gaussian_noise(9),
    "grey_levels": augment.grey_levels(0.2, 0.3),
    "colour": augment.colour(0.2, 0.3, 0.4, 0.1),
    "posterize": augment.posterize((1, 6)),
    "solarize": augment.solarize((50, 200)),
    "invert": augment.invert(0.5),
    "channel_levels": augment.channel_levels(0.3, 40),
    "autocontrast": augment.autocontrast(),
    "equalize": augment.equalize(),
    "cutout": augment.cutout(3),
    "augmix": augment.augmix((augment.autocontrast(), augment.solarize((50, 200)))),
}
NOT_RANDOM = {"centre_crop", "autocontrast", "equalize"}


def noise_images(seed, *shape):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def whole_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def places(batch, height, width):
    """Images of two channels whose values are their own row and column."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    return np.broadcast_to(grid.astype(np.float32), (batch, height, width, 2))


def assert_uniform(draws, low, high, slack=1e-4):
    assert np.all((draws >= low - slack) & (draws <= high + slack))
    assert stats.kstest(draws, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_chances(counts, chances):
    """Counts of what happened against how often each should, both by what it was."""
    share = np.asarray([chances[what] for what in counts]) * sum(counts.values())
    share = share / sum(chances.values())
    assert stats.chisquare(list(counts.values()), share).pvalue > 1e-3


def assert_even(counts):
    assert stats.chisquare(np.ravel(counts)).pvalue > 1e-3


# Laws


def all_of_them(key, images):
    return {name: fn(key, images) for name, fn in AUGMENTS.items()}


outputs = jax.jit(all_of_them)


def close(a, b):
    # A rounding more or less in a place changes what is read there by as little.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-3), a, b)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_vmap_is_a_loop_over_members_and_a_key_gives_the_same_again():
    images, keys = noise_images(0, 2, 4, 7, 7, 3), random.split(KEY)
    alone = [outputs(key, batch) for key, batch in zip(keys, images, strict=True)]
    close(jax.jit(jax.vmap(all_of_them))(keys, images), stacked(*alone))
    jax.tree.map(np.testing.assert_array_equal, outputs(keys[0], images[0]), alone[0])


def test_each_example_and_each_key_has_its_own_draw():
    one = noise_images(1, 1, 7, 7, 3)
    first, second = (outputs(key, np.tile(one, (4, 1, 1, 1))) for key in random.split(KEY))
    for name in AUGMENTS:
        both = np.concatenate([first[name], second[name]])
        distinct = len(np.unique(both.reshape(8, -1), axis=0))
        least = {"invert": 2}.get(name, 4)  # there is no more than this and its opposite
        assert distinct == 1 if name in NOT_RANDOM else distinct >= least, name


@pytest.mark.parametrize(
    "name", ["crop_and_flip", "cutout", pytest.param("augmix", marks=pytest.mark.slow)]
)
def test_jit_and_scan_change_nothing_and_draws_do_not_depend_on_the_batchs_size(name):
    augment, images, keys = AUGMENTS[name], noise_images(0, 2, 4, 7, 7, 3), random.split(KEY)
    alone = stacked(*(outputs(*at)[name] for at in zip(keys, images, strict=True)))
    if name != "augmix":  # whose many steps, one by one, take long
        close(augment(keys[0], jnp.asarray(images[0])), alone[0])
    close(jax.jit(augment)(keys[0], images[0, :2]), alone[0, :2])
    scan = jax.jit(lambda *of: lax.scan(lambda _, at: (None, augment(*at)), None, of)[1])
    close(scan(keys, images), alone)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_dtype_stays(dtype):
    images = jax.ShapeDtypeStruct((2, 7, 7, 3), dtype)
    sides = {"crop_and_flip": 6, "centre_crop": 5}
    for name, shape in jax.eval_shape(all_of_them, KEY, images).items():
        side = sides.get(name, 7)
        assert shape.dtype == dtype and shape.shape == (2, side, side, 3), name
    for mix in (augment.mixup, augment.cutmix):
        labels = jax.ShapeDtypeStruct((2, 5), jnp.float32)
        mixed, weights = jax.eval_shape(lambda *a: mix(*a, 0.5), KEY, images, labels)  # noqa: B023
        assert (mixed.shape, mixed.dtype) == (images.shape, dtype)
        assert (weights.shape, weights.dtype) == (labels.shape, jnp.float32)


def test_compose_is_one_after_the_other_with_keys_of_their_own():
    crop, cut = jax.jit(AUGMENTS["crop_and_flip"]), jax.jit(AUGMENTS["cutout"])
    images, masks = jnp.asarray(noise_images(2, 3, 7, 7, 1)), jnp.asarray(whole_images(2, 3, 7, 7))
    first, second = random.split(KEY)
    cropped, moved = crop(first, images, masks)
    both, both_masks = augment.compose(crop, cut)(KEY, images, masks)
    np.testing.assert_array_equal(both, cut(second, cropped, moved)[0])
    np.testing.assert_array_equal(both_masks, moved)
    twice, _ = augment.compose(cut, cut)(KEY, cropped, moved)
    once, _ = cut(first, cropped, moved)
    assert np.sum(np.asarray(twice) == 0) > np.sum(np.asarray(once) == 0)  # elsewhere
    assert augment.compose()(KEY, images) is images


def test_strengths_may_differ_between_members():
    images = places(800, 15, 21), np.full((40, 9, 9, 3), 100, np.float32)

    def weak_or_strong(s):
        return similar(images[0], 20 * s, (1 - s, 1 + s), (s, s)), noisy(images[1], s)

    strengths = 0.0, 0.4
    members = jax.jit(jax.vmap(weak_or_strong))(np.asarray(strengths, np.float32))
    close(members, stacked(*map(weak_or_strong, strengths)))
    for (weak, _), unchanged in zip(members, images, strict=True):
        np.testing.assert_allclose(weak, unchanged, atol=1e-3)


def test_augmix_in_a_shard_map_whose_devices_draw_for_themselves():
    """Batching a switch there fails in JAX where branches hold arrays; the paper's do not."""
    images = noise_images(4, 4, 6, 6, 3)
    mix = augment.augmix(augment.augmix_operations(0.3)[-1:], width=1, depth=1)

    def local(key, images):
        return mix(random.fold_in(key, lax.axis_index("data")), images)

    mesh = make_placement(member=1, data=2, devices=jax.devices()[:2]).mesh
    spec = jax.sharding.PartitionSpec
    divided = jax.shard_map(
        local, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec("data")
    )
    whole = jax.jit(mix)
    whole = [whole(random.fold_in(KEY, i), images[2 * i :][:2]) for i in range(2)]
    close(jax.jit(divided)(KEY, images), np.concatenate(whole))


# Crops


@jax.jit
def crops_by_edge(images):
    options = {"padding": 2, "fill": 99.0}
    return {e: augment.crop_and_flip(5, edge=e, **options)(KEY, images) for e in augment.EDGES}


@pytest.mark.parametrize("edge", augment.EDGES)
def test_crops_are_slices_of_the_padded_image_everywhere_alike_and_half_are_mirrored(edge):
    height, width, size, padding, batch = 6, 5, 5, 2, 3000
    image = np.arange(1, height * width + 1, dtype=np.uint8).reshape(height, width, 1)
    options = {"constant_values": 99} if edge == "constant" else {}
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), augment.EDGES[edge], **options)
    crops = np.asarray(crops_by_edge(np.tile(image, (batch, 1, 1, 1)))[edge])
    assert crops.dtype == np.uint8
    expected, counts = {}, {}
    for top, left, flip in np.ndindex(height + 2 * padding - 4, width + 2 * padding - 4, 2):
        piece = padded[top : top + size, left : left + size]
        piece = (piece[:, ::-1] if flip else piece).tobytes()
        expected[piece] = expected.get(piece, 0) + 1  # a reflection can be its own mirror image
        counts[piece] = 0
    for piece in crops:
        counts[piece.tobytes()] += 1
    assert_chances(counts, expected)


def test_crops_without_flip_and_of_the_whole_image():
    images = noise_images(5, 20, 6, 6, 2)
    whole = jax.jit(augment.crop_and_flip(6, flip=False))(KEY, images)
    np.testing.assert_array_equal(whole, images)
    flipped = np.asarray(jax.jit(augment.crop_and_flip(6))(KEY, images))
    for image, out in zip(images, flipped, strict=True):
        assert np.array_equal(out, image) or np.array_equal(out, image[:, ::-1])


def test_centre_crop():
    images = jnp.asarray(whole_images(6, 2, 9, 8, 3))
    np.testing.assert_array_equal(augment.centre_crop(5)(None, images), images[:, 2:7, 1:6])
    np.testing.assert_array_equal(augment.centre_crop(8)(None, images), images[:, 0:8])


# Warps


@jax.jit
def affine_by_edge(images, matrices, shifts):
    arguments = images, matrices, shifts
    return {edge: augment.affine(*arguments, edge=edge, fill=13.0) for edge in augment.EDGES}


@pytest.mark.parametrize("edge", augment.EDGES)
def test_affine_is_scipys(edge):
    rng = np.random.default_rng(7)
    images, fill = noise_images(7, 4, 9, 7, 2), 13.0
    matrices = np.eye(2) + rng.normal(0, 0.5, (4, 2, 2))
    shifts = rng.normal(0, 2, (4, 2))
    ours = np.asarray(affine_by_edge(images, matrices, shifts)[edge])
    mode = "grid-constant" if edge == "constant" else edge
    centre = np.asarray([4, 3])
    for image, matrix, shift, out in zip(images, matrices, shifts, ours, strict=True):
        offset = centre - matrix @ (centre + shift)
        for channel in range(2):
            plane = image[..., channel].astype(np.float64)
            theirs = ndimage.affine_transform(plane, matrix, offset, order=1, mode=mode, cval=fill)
            np.testing.assert_allclose(out[..., channel], theirs, rtol=0, atol=5e-3)


def test_quarter_turns_and_whole_shifts_are_exact():
    images = noise_images(8, 1, 6, 6, 3)
    turn = np.asarray([[[0.0, 1.0], [-1.0, 0.0]]])
    turned = jax.jit(augment.affine)(images, turn, np.zeros((1, 2)))
    np.testing.assert_array_equal(turned, np.rot90(images, axes=(1, 2)))  # anticlockwise
    by = np.asarray([[2.0, -1.0]])
    moved = jax.jit(lambda *of: augment.affine(*of, fill=7.0))(images, np.eye(2)[None], by)
    moved = np.asarray(moved)
    np.testing.assert_array_equal(moved[:, 2:, :-1], images[:, :-2, 1:])
    assert np.all(moved[:, :2] == 7) and np.all(moved[:, :, -1] == 7)


def map_of(images):
    """Of warped images of places: what the centre reads, and the derivative of that."""
    images = np.asarray(images, np.float64)
    row, column = images.shape[1] // 2, images.shape[2] // 2
    down = (images[:, row + 1, column] - images[:, row - 1, column]) / 2
    right = (images[:, row, column + 1] - images[:, row, column - 1]) / 2
    return images[:, row, column] - (row, column), np.stack([down, right], -1)


@jax.jit
def similar(images, *strengths):
    return augment.similarity(*strengths)(KEY, images)


def test_similarity_draws_what_it_says():
    """Bilinear interpolation of a linear function is exact, so the map can be read off."""
    at, slope = map_of(similar(places(800, 15, 21), 30.0, (0.8, 1.25), (0.1, 0.2)))
    zoom = 1 / np.sqrt(np.linalg.det(slope))
    angle = np.degrees(np.arctan2(slope[:, 0, 1], slope[:, 0, 0]))
    gram = np.einsum("nij,nik->njk", slope, slope) * zoom[:, None, None] ** 2
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-4)
    shift = -np.linalg.solve(slope, at[..., None])[..., 0]
    assert_uniform(angle, -30, 30)
    assert_uniform(zoom, 0.8, 1.25)
    assert_uniform(shift[:, 0], -1.5, 1.5)
    assert_uniform(shift[:, 1], -4.2, 4.2)
    drawn = np.corrcoef([angle, zoom, *shift.T])
    assert np.abs(drawn - np.eye(4)).max() < 0.12


@jax.jit
def sheared(images, *strengths):
    return augment.shear(*strengths)(KEY, images)


def test_shear_draws_what_it_says():
    at, slope = map_of(sheared(places(400, 11, 11), 0.2, 0.5))
    np.testing.assert_allclose(at, 0, atol=1e-5)
    np.testing.assert_allclose(slope[:, [0, 1], [0, 1]], 1, atol=1e-5)
    assert_uniform(slope[:, 0, 1], -0.2, 0.2)  # rows by columns: vertical
    assert_uniform(slope[:, 1, 0], -0.5, 0.5)


@jax.jit
def elastic_of_4(images, amplitude):
    return augment.elastic(amplitude, 4)(KEY, images)


def test_elastic_of_the_papers_strength_moves_pixels_by_1_4():
    images = places(100, 41, 41)
    moved = (np.asarray(elastic_of_4(images, 34.0)) - images)[:, 18:23, 18:23]
    size = np.sqrt(np.mean(np.square(moved)))
    assert size == pytest.approx(34 / np.sqrt(3) / (2 * 4 * np.sqrt(np.pi)), rel=0.1)
    assert size == pytest.approx(1.4, rel=0.1)


def test_warps_of_no_strength_are_the_identity():
    images = noise_images(9, 4, 9, 7, 2)
    for warped in affine_by_edge(images, np.tile(np.eye(2), (4, 1, 1)), np.zeros((4, 2))).values():
        np.testing.assert_array_equal(warped, images)
    images = noise_images(9, 800, 15, 21, 2)
    np.testing.assert_array_equal(similar(images, 0.0, (1.0, 1.0), (0.0, 0.0)), images)
    images = noise_images(9, 400, 11, 11, 2)
    np.testing.assert_array_equal(sheared(images, 0.0, 0.0), images)
    images = noise_images(9, 100, 41, 41, 2)
    np.testing.assert_array_equal(elastic_of_4(images, 0.0), images)


SMOOTHNESSES = 0.7, 2.0, 9.0


@jax.jit
def elastic_by_smoothness(images):
    """Of each smoothness the images moved, and the noise that all of them smooth."""
    moved = {s: augment.elastic(1.5, s)(KEY, images) for s in SMOOTHNESSES}
    keys = jax.vmap(lambda i: random.fold_in(KEY, i))(jnp.arange(len(images)))
    draw = jax.vmap(lambda key: random.uniform(key, (2, *images.shape[1:3]), minval=-1, maxval=1))
    return moved, draw(keys)


@pytest.mark.parametrize("smoothness", SMOOTHNESSES)
def test_elastic_displacement_is_uniform_noise_smoothed_as_by_scipy(smoothness):
    images = places(2, 16, 13)
    moved, noise = elastic_by_smoothness(images)
    for ours, drawn in zip(np.asarray(moved[smoothness]) - images, noise, strict=True):
        field = 1.5 * np.stack(
            [ndimage.gaussian_filter(n, smoothness, mode="constant") for n in np.asarray(drawn)], -1
        )
        assert np.abs(field).max() < 2  # so that no pixel below reads outside the image
        np.testing.assert_allclose(ours[2:-2, 2:-2], field[2:-2, 2:-2], atol=2e-5)


# Grey levels and colours


@jax.jit
def noisy(images, sd):
    return augment.gaussian_noise(sd)(KEY, images)


def test_noise_is_normal_and_independent():
    images = np.full((40, 9, 9, 3), 100, np.float32)
    noise = np.asarray(noisy(images, 3.0)) - 100
    assert stats.kstest(noise.ravel(), stats.norm(0, 3).cdf).pvalue > 1e-3
    between = np.corrcoef(noise.reshape(40, -1))
    assert np.abs(between - np.eye(40)).max() < 0.3
    np.testing.assert_array_equal(noisy(images, 0.0), images)


@jax.jit
def regrey(images, *strengths):
    return augment.grey_levels(*strengths)(KEY, images)


def copies(image):
    return np.tile(image.astype(np.float32), (300, 1, 1, 1))


def test_brightness_is_a_factor_and_is_clipped():
    levels = np.tile([10, 100, 250], (12, 4))[..., None]
    out = np.asarray(regrey(copies(levels), 0.3, 0.0))[..., 0]
    factor = out[:, 0, 1] / 100
    assert_uniform(factor, 0.7, 1.3)
    clipped = np.clip(factor[:, None, None] * levels[..., 0], 0, 255)
    np.testing.assert_allclose(out, clipped, atol=1e-3)
    assert np.sum(out[:, 0, 2] == 255) > 50


def factors(before, middle, after):
    """The factors of ``after = middle + factor (before - middle)``, where nothing was clipped."""
    inside = (after > 0.5) & (after < 254.5) & (np.abs(before - middle) > 20)
    ratio = np.where(inside, (after - middle) / np.where(inside, before - middle, 1), np.nan)
    return np.nanmedian(ratio, (1, 2, 3))


@jax.jit
def recolour(images, *strengths):
    return augment.colour(*strengths)(KEY, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_is_pillows(channels):
    image = whole_images(10, 12, 12, channels)
    if channels == 3:
        out = np.asarray(recolour(copies(image), 0.0, 0.6, 0.0, 0.0))
    else:
        out = np.asarray(regrey(copies(image), 0.0, 0.6))
    pillow = Image.fromarray(image if channels == 3 else image[..., 0])
    mean = np.asarray(pillow.convert("L"), np.float64).mean()
    factor = factors(image.astype(np.float64), mean, out)
    assert_uniform(factor, 0.4, 1.6, slack=0.02)
    for i in range(5):
        theirs = np.asarray(ImageEnhance.Contrast(pillow).enhance(float(factor[i])), np.float64)
        np.testing.assert_allclose(out[i], theirs.reshape(image.shape), atol=2)


def test_saturation_is_pillows():
    image = whole_images(11, 12, 12, 3)
    out = np.asarray(recolour(copies(image), 0.0, 0.0, 0.6, 0.0))
    pillow = Image.fromarray(image)
    grey = np.asarray(pillow.convert("L"), np.float64)[..., None]
    factor = factors(image.astype(np.float64), grey, out)
    assert_uniform(factor, 0.4, 1.6, slack=0.02)
    for i in range(5):
        theirs = np.asarray(ImageEnhance.Color(pillow).enhance(float(factor[i])), np.float64)
        np.testing.assert_allclose(out[i], theirs, atol=2.5)


def test_hue_turns_as_in_colorsys():
    image = whole_images(12, 12, 12, 3).astype(np.float64)
    image[0, :6] = [[0, 0, 0], [255] * 3, [90] * 3, [255, 0, 0], [9, 200, 200], [7, 7, 8]]
    out = np.asarray(recolour(copies(image), 0.0, 0.0, 0.0, 0.25), np.float64)

    def hue(pixel):
        return colorsys.rgb_to_hsv(*pixel / 255)[0]

    turns = np.asarray([(hue(o[1, 1]) - hue(image[1, 1]) + 0.5) % 1 - 0.5 for o in out])
    assert_uniform(turns, -0.25, 0.25)
    for i in range(5):
        for pixel, ours in zip(image.reshape(-1, 3), out[i].reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
            theirs = 255 * np.asarray(colorsys.hsv_to_rgb((h + turns[i]) % 1, s, v))
            np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_colour_of_no_strength_is_the_identity_and_of_great_strength_stays_in_range():
    image = whole_images(13, 12, 12, 3)
    same = recolour(copies(image), 0.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(same, copies(image), atol=1e-3)
    out = np.asarray(recolour(copies(image), 0.5, 0.5, 0.5, 0.5))
    assert out.min() >= -1e-3 and out.max() <= 255 + 1e-3
    # A factor below 0 would turn an image into its negative.
    out = np.asarray(recolour(copies(image), 3.0, 3.0, 0.0, 0.0)).reshape(300, -1)
    correlations = [np.corrcoef(image.ravel(), o)[0, 1] for o in out if np.std(o) > 1]
    assert len(correlations) > 100 and min(correlations) > 0


def test_posterize_solarize_autocontrast_and_equalize_are_pillows():
    # Half of the planes of few levels; 40 x 40 pixels are more than 255 and no multiple of it.
    planes = whole_images(0, 4, 40, 40)
    planes[2:] = planes[2:] // 40 * 9 + 20
    pairs = [
        *(
            (augment.posterize((bits, bits)), partial(ImageOps.posterize, bits=bits), 0)
            for bits in (1, 3, 8)
        ),
        (augment.solarize((128, 128)), partial(ImageOps.solarize, threshold=128), 0),
        (augment.autocontrast(), ImageOps.autocontrast, 1),  # Pillow rounds down
        (augment.equalize(), ImageOps.equalize, 0),
    ]
    all_of_ours = jax.jit(lambda images: [ours(KEY, images) for ours, _, _ in pairs])
    results = all_of_ours(planes[..., None].astype(np.float32))
    for result, (_, fn, off) in zip(results, pairs, strict=True):
        theirs = np.stack([np.asarray(fn(Image.fromarray(p))) for p in planes]).astype(float)
        np.testing.assert_allclose(result[..., 0], theirs, atol=off)


def test_equalize_and_autocontrast_of_few_pixels_and_of_one_level():
    flat = np.full((1, 4, 4, 3), 77, np.float32)
    plane = whole_images(15, 20, 20)  # a step of 1, where levels would pass 255
    equalize, autocontrast = AUGMENTS["equalize"], AUGMENTS["autocontrast"]

    @jax.jit
    def all_three(flat, images):
        return equalize(KEY, flat), autocontrast(KEY, flat), equalize(KEY, images)

    equalized, stretched, ours = all_three(flat, plane[None, ..., None].astype(np.float32))
    np.testing.assert_array_equal(equalized, flat)
    np.testing.assert_array_equal(stretched, flat)
    np.testing.assert_array_equal(
        ours[0, ..., 0], np.asarray(ImageOps.equalize(Image.fromarray(plane)))
    )


def test_posterize_and_solarize_draw_their_ends():
    white = np.full((600, 1, 1, 1), 255, np.float32)
    ramp = np.tile(np.arange(256, dtype=np.float32).reshape(1, 1, 256, 1), (300, 1, 1, 1))

    @jax.jit
    def both(white, ramp):
        return augment.posterize((2, 5))(KEY, white), augment.solarize((50, 200))(KEY, ramp)

    posterized, solarized = map(np.asarray, both(white, ramp))
    levels, counts = np.unique(posterized, return_counts=True)
    np.testing.assert_array_equal(levels, [256 - 2 ** (8 - bits) for bits in (2, 3, 4, 5)])
    assert_even(counts)
    kept = (solarized == ramp).sum((1, 2, 3))
    assert_uniform(kept - 0.5 + np.random.default_rng(0).uniform(-0.5, 0.5, 300), 49, 201)


# Erasing and mixing


def test_invert_is_255_minus_x_for_so_many_images():
    images = noise_images(3, 2000, 2, 2, 3)
    invert = jax.jit(lambda images, probability: augment.invert(probability)(KEY, images))
    for probability in (0.0, 0.2, 1.0):
        out = np.asarray(invert(images, probability))
        turned = (out == 255 - images).all((1, 2, 3))
        assert (turned != (out == images).all((1, 2, 3))).all()
        assert stats.binomtest(int(turned.sum()), 2000, probability).pvalue > 1e-3


@jax.jit
def relevel(images, *strengths):
    return augment.channel_levels(*strengths)(KEY, images)


def test_channel_levels_are_a_line_for_each_channel_of_each_image():
    """Of three levels per channel, slope and offset can be read off."""
    levels = np.asarray([100, 127.5, 140], np.float32)[None, :, None, None]
    images = np.broadcast_to(levels, (500, 3, 4, 3))
    out = np.asarray(relevel(images, 0.3, 20.0), np.float64)[:, :, 0]
    offset = out[:, 1] - 127.5
    slope = (out[:, 2] - out[:, 0]) / 40
    np.testing.assert_allclose(out[:, 0], 127.5 - 27.5 * slope + offset, atol=1e-3)
    for channel in range(3):
        assert_uniform(slope[:, channel], 0.7, 1.3)
        assert_uniform(offset[:, channel], -20, 20)
    both = np.concatenate([slope, offset], 1)
    assert np.abs(np.corrcoef(both.T) - np.eye(6)).max() < 0.2  # all six are drawn apart


def test_channel_levels_of_no_strength_and_of_great_strength():
    images = noise_images(4, 500, 3, 4, 3)
    np.testing.assert_allclose(relevel(images, 0.0, 0.0), images, atol=1e-4)
    out = np.asarray(relevel(images, 5.0, 300.0))
    assert out.min() == 0 and out.max() == 255
    flat = np.ptp(out.reshape(500, -1, 3), axis=1) == 0  # a slope of less than 0 becomes 0
    assert flat.mean() > 0.3


SIDES = 0, 1, 2, 3, 12


@jax.jit
def cut_by_side(images):
    return {side: augment.cutout(side, fill=-3.0)(KEY, images) for side in SIDES}


@pytest.mark.parametrize("size", SIDES)
def test_cutout_is_a_clipped_square_around_any_pixel(size):
    height, width, batch = 5, 4, 2000
    images = noise_images(16, batch, height, width, 2)
    out = np.asarray(cut_by_side(images)[size])
    holes = out == -3
    assert np.array_equal(holes[..., 0], holes[..., 1]) and np.all(holes | (out == images))
    expected = {}
    for row, column in np.ndindex(height, width):
        hole = np.zeros((height, width), bool)
        top, left = row - size // 2, column - size // 2
        hole[max(top, 0) : top + size, max(left, 0) : left + size] = True
        expected[hole.tobytes()] = expected.get(hole.tobytes(), 0) + 1
    counts = {hole: 0 for hole in expected}
    for hole in holes[..., 0]:
        counts[hole.tobytes()] += 1
    if len(counts) > 1:
        assert_chances(counts, expected)


mixup, cutmix = jax.jit(augment.mixup), jax.jit(augment.cutmix)


def labels_as_images(batch=600):
    """Images that are their labels, so that weights can be read off, and both must agree."""
    labels = np.eye(batch, dtype=np.float32)
    return np.tile(labels[:, None, None], (1, 2, 1, 1)), labels


def numbered_images(batch=400, height=9, width=14):
    numbers = np.arange(batch, dtype=np.float32)[:, None, None, None]
    return np.tile(numbers, (1, height, width, 1)), np.eye(batch, dtype=np.float32)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_convex_and_its_weights_are_betas(alpha):
    mixed, weights = map(np.asarray, mixup(KEY, *labels_as_images(), alpha))
    batch = len(weights)
    np.testing.assert_array_equal(mixed[:, 0, 0], weights)
    np.testing.assert_array_equal(mixed[:, 1, 0], weights)
    np.testing.assert_array_equal(weights.sum(1, dtype=np.float32), 1)
    np.testing.assert_array_equal(weights.sum(1, dtype=np.float64).astype(np.float32), 1)
    assert weights.min() >= 0 and np.sum(weights > 0, 1).max() <= 2
    keep = np.diag(weights)
    others = weights - np.diag(keep)
    # Partners are a permutation: none is used twice. (A weight can round to 0.)
    assert np.sum(others > 0, 0).max() <= 1 and np.sum(others > 0) > 0.8 * batch
    keep = keep[np.sum(others, 1) + (keep < 1) > 0]
    assert np.mean(keep) == pytest.approx(0.5, abs=0.05)
    assert np.var(keep) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert stats.kstest(keep, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_weighs_labels_by_the_pixels_that_were_pasted():
    images, labels = numbered_images()
    batch, height, width, _ = images.shape
    mixed, weights = map(np.asarray, cutmix(KEY, images, labels, 1.0))
    np.testing.assert_array_equal(weights.sum(1, dtype=np.float32), 1)
    shares = []
    for i, (image, weight) in enumerate(zip(mixed[..., 0], weights, strict=True)):
        pasted = image != i
        shares.append(pasted.mean())
        expected = np.zeros(batch)
        np.add.at(expected, image.astype(int).ravel(), 1 / (height * width))
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-6)
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        assert np.sum(pasted) == len(rows) * len(columns)  # a box, in one piece:
        assert all(len(a) == 0 or len(a) == a[-1] - a[0] + 1 for a in (rows, columns))
        assert len(np.unique(image[pasted])) <= 1
    # The same recipe, in NumPy and with numbers of its own.
    rng = np.random.default_rng(17)
    simulated = []
    for _ in range(4000):
        side = np.sqrt(1 - rng.beta(1, 1))
        area = 1
        for n in (height, width):
            length = int(side * n)
            start = rng.integers(n) - length // 2
            area *= max(0, min(n, start + length) - max(0, start))
        simulated.append(area / (height * width))
    assert stats.ks_2samp(shares, simulated).pvalue > 1e-3


@pytest.mark.parametrize(
    ("mix", "examples"), [(mixup, labels_as_images()), (cutmix, numbered_images())]
)
def test_mixing_under_vmap_is_a_loop_over_members(mix, examples):
    (images, labels), alphas = examples, (0.2, 1.0)
    members = random.split(KEY), np.stack([images, images[::-1]]), np.asarray(alphas, np.float32)

    def mix_member(key, images, alpha):
        return mix(key, images, labels, alpha)

    alone = [mix_member(*member) for member in zip(*members[:2], alphas, strict=True)]
    close(jax.jit(jax.vmap(mix_member))(*members), stacked(*alone))


def constant(value):
    return lambda key, images: jnp.full_like(images, value)


def plus(value):
    return lambda key, images: images + value


def test_augmix_is_a_convex_combination():
    """Of the image and of white: the same share of white everywhere, and white stays white."""
    images = noise_images(19, 200, 3, 3, 3)
    images[:, 1:] *= 0.8
    images[:, 0, 0] = 255
    mix = jax.jit(augment.augmix([augment.compose(), constant(255.0)]))
    out = np.asarray(mix(KEY, images), np.float64)
    np.testing.assert_allclose(out[:, 0, 0], 255, rtol=1e-6)  # all weights together are 1
    kept = (255 - out[:, 1:]) / (255 - images.astype(np.float64)[:, 1:])
    np.testing.assert_allclose(kept, kept[:, :1, :1, :1] * np.ones_like(kept), atol=1e-4)
    assert kept.min() >= -1e-4 and kept.max() <= 1 + 1e-4 and np.ptp(kept) > 0.9


def test_augmix_draws_its_weights_and_chains_as_in_the_paper():
    """Of two channels: the operations erase one, which leaves the image's share, and add up in the
    other."""

    def erase_and_add(value):
        return lambda key, images: (images + value).at[..., 0].set(0)

    operations = erase_and_add(1), erase_and_add(10)
    mix = jax.jit(augment.augmix(operations, width=1, depth=2, alpha=0.5))
    keep, total = np.asarray(mix(KEY, np.ones((800, 1, 1, 2), np.float32)))[:, 0, 0].T
    assert stats.kstest(keep, stats.beta(0.5, 0.5).cdf).pvalue > 1e-3
    changed = keep < 0.99
    sums = np.round((total - keep)[changed] / (1 - keep[changed]), 1) - 1
    values, counts = np.unique(sums, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 10, 11, 20])
    assert_chances(
        dict(zip(values, counts, strict=True)),
        {1: 1 / 4, 10: 1 / 4, 2: 1 / 8, 11: 1 / 4, 20: 1 / 8},
    )


def test_augmix_operations_stay_in_range():
    images = noise_images(20, 3, 6, 6, 3)
    operations = augment.augmix_operations(1.0)
    for out in jax.jit(lambda *of: [operation(*of) for operation in operations])(KEY, images):
        assert out.shape == images.shape
        assert np.asarray(out).min() >= -1e-3 and np.asarray(out).max() <= 255 + 1e-3
    assert len(augment.augmix_operations(0.0)) == 9


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.crop_and_flip(0), "crop of 0 pixels"),
        (lambda: augment.crop_and_flip(4, padding=-1), "padding is -1"),
        (lambda: augment.crop_and_flip(4, edge="wrap"), "edge 'wrap'; choose one of constant"),
        (lambda: augment.centre_crop(-2), "crop of -2 pixels"),
        (lambda: augment.similarity(-1, (1, 1), (0, 0)), "rotation is -1"),
        (lambda: augment.similarity(float("nan"), (1, 1), (0, 0)), "rotation is nan"),
        (lambda: augment.similarity(1, (0, 1), (0, 0)), "scale from 0"),
        (lambda: augment.similarity(1, (2, 1), (0, 0)), "scale from 2 to 1 is no range"),
        (lambda: augment.similarity(1, (1, 2), (0, -0.1)), "translation_right is -0.1"),
        (lambda: augment.similarity(1, (1, 2), (0, 0), edge="reflect"), "'reflect'"),
        (lambda: augment.shear(-0.1, 0), "vertical is -0.1"),
        (lambda: augment.elastic(-1, 4), "amplitude is -1"),
        (lambda: augment.elastic(1, 0), "smoothness of 0"),
        (lambda: augment.elastic(1, -1), "smoothness is -1"),
        (lambda: augment.gaussian_noise(-0.5), "sd is -0.5"),
        (lambda: augment.gaussian_noise(jnp.asarray(-0.5)), "sd is -0.5"),
        (lambda: augment.grey_levels(0, -1), "contrast is -1"),
        (lambda: augment.colour(0, 0, -1, 0), "saturation is -1"),
        (lambda: augment.colour(0, 0, 0, 0.6), "hue of ±0.6"),
        (lambda: augment.posterize((0, 4)), "0 to 4 bits"),
        (lambda: augment.posterize((5, 4)), "5 to 4 bits"),
        (lambda: augment.solarize((9, 4)), "threshold from 9 to 4"),
        (lambda: augment.invert(1.1), "probability is 1.1"),
        (lambda: augment.invert(-0.1), "probability is -0.1"),
        (lambda: augment.channel_levels(-0.1, 0), "contrast is -0.1"),
        (lambda: augment.channel_levels(0, -1), "brightness is -1"),
        (lambda: augment.cutout(-1), "size is -1"),
        (lambda: augment.augmix([]), "needs operations"),
        (lambda: augment.augmix([plus(1)], depth=0), "3 x 0 operations"),
        (lambda: augment.augmix([plus(1)], alpha=0), "alpha is 0"),
        (lambda: augment.augmix_operations(1.5), "severity of 1.5"),
        (lambda: augment.mixup(KEY, jnp.ones((2, 3, 3, 1)), jnp.eye(2), 0), "alpha is 0"),
        (lambda: augment.cutmix(KEY, jnp.ones((2, 3, 3, 1)), jnp.eye(2), -1), "alpha is -1"),
        (lambda: augment.mixup(KEY, jnp.ones((2, 3, 3, 1)), jnp.eye(3), 1), r"float32\[3, 3\]"),
        (lambda: augment.cutmix(KEY, jnp.ones((2, 3, 3, 1)), jnp.arange(2), 1), r"int32\[2\]"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_what_cannot_be_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fn", "shape", "message"),
    [
        (augment.crop_and_flip(6), (1, 5, 9, 1), "no crop of 6 pixels in images of 5 x 9"),
        (augment.crop_and_flip(8, padding=1), (1, 5, 9, 1), "in images of 7 x 11"),
        (augment.centre_crop(6), (1, 9, 5, 1), "no crop of 6"),
        (augment.colour(0, 0, 0, 0), (1, 5, 5, 1), "3 channels, got 1"),
        (augment.gaussian_noise(1), (5, 5, 1), r"float32\[5, 5, 1\]"),
        (augment.centre_crop(2), (5, 5, 1), r"float32\[5, 5, 1\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(fn, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(fn, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_whole_numbers_are_refused_where_they_would_be_rounded():
    for name in set(AUGMENTS) - {"crop_and_flip", "centre_crop"}:
        with pytest.raises(ValueError, match=r"uint8.*expected floats"):
            AUGMENTS[name](KEY, jnp.zeros((1, 7, 7, 3), jnp.uint8))


# Masks


MOVING = ("crop_and_flip", "centre_crop", "similarity", "shear", "elastic")


@pytest.mark.parametrize("name", MOVING)
def test_a_mask_moves_with_its_image(name):
    """An image of its own mask: they agree but at edges, where one is interpolated."""
    rows, columns = np.mgrid[:12, :12]
    blob = ((rows - 4) ** 2 + (columns - 7) ** 2 < 16).astype(int)
    masks = np.stack([blob, blob.T, 1 - blob] * 4)
    images = masks[..., None].astype(np.float32)
    change = AUGMENTS[name]

    @jax.jit
    def changes(images, *kinds):
        return change(KEY, images), [change(KEY, images, masks) for masks in kinds]

    alone, with_masks = changes(images, masks.astype(np.int32), masks.astype(np.uint8))
    for (moved, mask), dtype, missing in zip(
        with_masks, (np.int32, np.uint8), (-1, 255), strict=True
    ):
        np.testing.assert_array_equal(moved, alone)
        assert mask.dtype == dtype and mask.shape == moved.shape[:-1]
        known = np.asarray(mask) != missing
        assert known.mean() > 0.6
        agree = (np.asarray(moved[..., 0]) > 0.5) == (np.asarray(mask) == 1)
        exact = name in ("crop_and_flip", "centre_crop")
        assert agree[known].all() if exact else agree[known].mean() > 0.93
        assert set(np.unique(mask)) <= {0, 1, missing}


def test_what_changes_values_alone_leaves_a_mask():
    images, masks = noise_images(0, 4, 7, 7, 3), whole_images(1, 4, 7, 7)
    changes = {name: AUGMENTS[name] for name in sorted(AUGMENTS.keys() - {*MOVING, "augmix"})}

    @jax.jit
    def with_and_without(images, masks):
        return {n: (*fn(KEY, images, masks), fn(KEY, images)) for n, fn in changes.items()}

    for name, (changed, mask, alone) in with_and_without(images, masks).items():
        np.testing.assert_array_equal(mask, masks, name)
        np.testing.assert_array_equal(changed, alone, name)


def test_masks_that_cannot_follow_are_refused():
    images, masks = noise_images(0, 2, 8, 8, 3), jnp.zeros((2, 8, 8), jnp.int32)
    with pytest.raises(ValueError, match="mixed, and no mask can follow"):
        jax.eval_shape(AUGMENTS["augmix"], KEY, images, masks)
    for odd in (masks[:, :4], masks.astype(jnp.float32), masks[..., None]):
        with pytest.raises(ValueError, match=r"expected integers \[2, 8, 8\]"):
            jax.eval_shape(AUGMENTS["shear"], KEY, images, odd)
