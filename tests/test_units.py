"""Receptive fields against finite differences and known ones; peaks, patches, enlarged maps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.nn.models.resnet import ResNet
from jaxdl.nn.models.vit import ViT
from jaxdl.units import Field, enlarge, patch, peaks, receptive_fields, stage_activations

RNG = np.random.default_rng(0)
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)

NETWORKS = {
    "mixed": (
        ConvNet(
            (
                Conv(4, 6, stride=2, padding="VALID", response=True),
                Conv(3, 4, pool=3, pool_stride=2),
                Conv(4, 3, stride=2),  # its padding is below and to the right alone
            ),
            (),
            2,
        ),
        24,
    ),
    "residual": (ResNet((0, 1), 3, 2), 17),
}


def drawn(model, side):
    """Random variables without dead units: every path has something to say."""
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 2)))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape) if path[-1].key == "kernel" else np.ones(leaf.shape)
        return jnp.asarray(0.3 * value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, like)


@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_the_rows_and_columns_that_change_a_unit(name):
    """Against differences: rows, or columns, are changed at random one by one."""
    model, side = NETWORKS[name]
    fields = receptive_fields(model, (side, side, 2))
    assert list(fields) == model.names()[: len(fields)] and len(fields) >= 2
    variables, rng = drawn(model, side), np.random.default_rng(4)
    stages = jax.jit(lambda x: stage_activations(model, variables, x)[: len(fields)])
    changed = [np.zeros((2, side, 64), bool) for _ in fields]
    for _ in range(4):
        image = rng.normal(size=(side, side, 2)).astype(np.float32)
        batch = np.tile(image, (2 * side + 1, 1, 1, 1))
        for i in range(side):
            batch[i, i] = 5 * rng.normal(size=(side, 2))
            batch[side + i, :, i] = 5 * rng.normal(size=(side, 2))
        for seen, y in zip(changed, map(np.asarray, stages(batch)), strict=True):
            moved = np.abs(y[:-1] - y[-1]).max(-1) > 1e-6
            seen[0, :, : y.shape[1]] |= moved[:side].any(2)
            seen[1, :, : y.shape[2]] |= moved[side:].any(1)
    for field, seen in zip(fields.values(), changed, strict=True):
        for axis in (0, 1):
            pixels, units = np.arange(side)[:, None], np.flatnonzero(seen[axis].any(0))
            first = field.offset[axis] + field.stride[axis] * units
            inside = (pixels >= first) & (pixels < first + field.size[axis])
            np.testing.assert_array_equal(seen[axis][:, units], inside)


def test_fields_of_a_network_whose_convolutions_are_tiles():
    """By hand: tiles leave rounding where a derivative is 0."""
    fields = receptive_fields(MODELS["cifar_net"](10), (32, 32, 3))
    assert fields["conv2"] == Field((12, 12), (4, 4), (0, 0))
    assert fields["conv4"] == Field((32, 32), (8, 8), (-8, -8))


def test_fields_of_published_networks():
    """AlexNet's are 11 + 2 x 4 = 19 pixels after its first pooling, VGG16's 3 … 212."""
    wide = Conv(2, 11, stride=4, padding="VALID", pool=3, pool_stride=2)
    (field,) = receptive_fields(ConvNet((wide,), (), 2), (224, 224, 3)).values()
    assert field == Field((19, 19), (8, 8), (0, 0))
    conv, pooled = Field((3, 3), (1, 1), (-1, -1)), Field((4, 4), (2, 2), (-1, -1))
    field, sizes = conv, [3]
    for stage in [pooled, *[conv, pooled] * 1, *[conv, conv, pooled] * 3]:
        field = field.compose(stage)
        sizes.append(field.size[1])
    assert sizes == [3, 6, 10, 16, 24, 32, 44, 60, 76, 100, 132, 164, 212]
    assert field == Field((212, 212), (32, 32), (-90, -90))


def test_stages_that_see_all_of_an_image_have_no_field():
    assert receptive_fields(ViT(8, 2, 2, 3, patch=4), (12, 12, 3)) == {}


def test_activations_are_those_of_the_whole_network():
    model, side = NETWORKS["mixed"]
    variables = drawn(model, side)
    images = RNG.normal(size=(2, side, side, 2)).astype(np.float32)
    run = partial(stage_activations, model)
    outputs, whole = jax.jit(lambda *x: (run(*x), model.apply(*x)))(variables, images)
    assert [y.shape[1:3] for y in outputs] == [(10, 10), (4, 4), (2, 2), (2,)]
    close(outputs[3], whole, rtol=1e-3)


def test_maps_are_enlarged_by_the_middles_of_fields():
    """A ramp over the middles is the same ramp over pixels, but beyond the outermost."""
    field = Field((5, 3), (4, 2), (-2, 1))
    rows, columns = field.centres(4, 0), field.centres(5, 1)
    assert rows.tolist() == [0, 4, 8, 12] and columns.tolist() == [2, 4, 6, 8, 10]
    maps = (3 * rows[:, None] + columns)[None].astype(np.float32)
    expected = 3 * np.clip(np.arange(14), 0, 12)[:, None] + np.clip(np.arange(12), 2, 10)
    close(enlarge(maps, field, (14, 12))[0], expected)


def test_peaks_are_the_units_with_the_greatest_activation():
    maps = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)
    values, units = peaks(maps)
    assert values.shape == (3, 2) and units.shape == (3, 2, 2)
    for i, j in np.ndindex(3, 2):
        assert values[i, j] == maps[i, ..., j].max() == maps[i, *units[i, j], j]


def test_a_patch_has_what_a_unit_sees():
    """Its unit puts out the same for the patch alone, padded as the image was."""
    first, second = Conv(3, 3), Conv(2, 3, padding="VALID")
    model, field = ConvNet((first, second), (), 2), Field((5, 5), (1, 1), (-1, -1))
    alone = ConvNet((dataclasses.replace(first, padding="VALID"), second), (), 2)
    variables, image = drawn(model, 9), RNG.normal(size=(9, 9, 2)).astype(np.float32)
    outputs = jax.jit(partial(model.apply, stop=2))(variables, image[None])[0]
    cut, inside = patch(image, field, (3, 2))
    assert inside.all()
    output = jax.jit(partial(alone.apply, stop=2))(variables, cut[None])[0, 0, 0]
    close(output, outputs[3, 2])
    cut, inside = patch(image, field, (0, 6), fill=9)
    np.testing.assert_array_equal(cut[1:, :4], image[:4, 5:9])
    assert inside.sum() == 16 and inside[1:, :4].all() and (cut[~inside] == 9).all()
