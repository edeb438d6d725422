"""U-Nets: sizes, levels, encoders of any kind, and what a pixel's answer depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.nn.models.resnet import ResNet
from jaxdl.nn.models.unet import (
    ClassMap,
    Coordinates,
    Decoder,
    Encoder,
    UNet,
    crop_to,
    enlarge,
    with_encoder,
)
from jaxdl.nn.tiles import predict_tiled

SMALL = (2, 3, 4)


def output_shape(model, height, width, channels=3):
    x = jax.ShapeDtypeStruct((2, height, width, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.eval_shape(model.apply, variables, x).shape


@pytest.mark.parametrize("size", [(13, 22), (4, 4)])
@pytest.mark.parametrize(
    "encoder",
    [
        Encoder(SMALL, normalization="group"),
        ResNet((1, 1), 4, 10),  # the image's resolution, and a half of it
        ConvNet((Conv(3, kernel=3, stride=2), Conv(4)), (5,), 10),
    ],
)
def test_a_mask_has_its_image_s_size(encoder, size):
    assert output_shape(UNet(encoder, Decoder(2)), *size) == (2, *size, 2)


def test_heads_answer_for_pixels_or_for_the_image():
    encoder = Encoder(SMALL)
    assert output_shape(UNet(encoder, ClassMap(5)), 21, 16) == (2, 5, 4, 5)
    assert output_shape(UNet(encoder, Coordinates(3)), 21, 16) == (2, 3)


def test_without_padding_it_is_ronneberger_s():
    widths = 64, 128, 256, 512, 1024
    model = UNet(Encoder(widths, padding="VALID"), Decoder(2, padding="VALID"))
    assert output_shape(model, 572, 572, 1) == (2, 388, 388, 2)


def test_an_image_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="pooling window of 2 does not fit an image"):
        output_shape(UNet(Encoder(SMALL), Decoder(2)), 3, 8)
    with pytest.raises(ValueError, match="no normalization 'layer': choose batch or group"):
        output_shape(UNet(Encoder(SMALL, normalization="layer"), Decoder(2)), 8, 8)


def test_a_pretrained_encoder_takes_its_place():
    network = ResNet((1, 1), 4, 10, imagenet=True)
    x = jnp.zeros((1, 64, 64, 3))
    pretrained, own = (
        jax.tree.map(lambda leaf, v=v: np.full(leaf.shape, v, np.float32), jax.eval_shape(init, x))
        for v, init in (
            (1, lambda x: network.init(jax.random.key(0), x)),
            (0, lambda x: UNet(network, Decoder(1)).init(jax.random.key(0), x)),
        )
    )
    new = with_encoder(own, pretrained)
    stages = ["block2", "block3", "conv1"]
    for kind in ("params", "batch_stats"):
        assert sorted(new[kind]["encoder"]) == sorted(stages)
        assert all((leaf == 1).all() for leaf in jax.tree.leaves(new[kind]["encoder"]))
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(new[kind]["head"]))
    with pytest.raises(ValueError, match="no batch_stats of stage block2"):
        with_encoder(own, {"params": pretrained["params"]})


def test_levels_are_enlarged_and_cropped():
    x = np.arange(6.0, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(enlarge(x, (2, 3)), x.repeat(2, 1).repeat(3, 2))
    mask = np.arange(30).reshape(1, 5, 6)
    np.testing.assert_array_equal(crop_to(mask, x), mask[:, 1:3, 1:4])


@pytest.fixture(scope="module")
def trained():
    """A network whose statistics are not those it began with, and a prediction of it."""
    model = UNet(Encoder((4, 6)), Decoder(2))
    x = np.random.default_rng(1).normal(size=(2, 35, 30, 2)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)  # whose own values take compilation
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(-0.3, 0.4, leaf.shape).astype(np.float32), shapes
    )
    variables["batch_stats"] = jax.tree.map(lambda x: np.abs(x) + 0.1, variables["batch_stats"])
    return jax.jit(lambda x: model.apply(variables, x)), x


def test_tiles_with_a_wide_margin_are_the_whole(trained):
    predict, x = trained
    options = {"tile": 28, "margin": 10, "blend": 3, "stride": 2, "batch": 3}
    tiled = predict_tiled(predict, x[0], **options)
    np.testing.assert_allclose(tiled, predict(x[:1])[0], atol=1e-5)
    # A margin below that of the receptive field is not enough.
    narrow = predict_tiled(predict, x[0], **{**options, "margin": 0})
    assert np.abs(narrow - predict(x[:1])[0]).max() > 1e-3


def test_a_pixel_reads_what_the_margin_says(trained):
    predict, x = trained
    reads = jax.jit(jax.grad(lambda x: predict(x)[0, 20, 16:18].sum()))(x[:1])
    rows, columns = (np.flatnonzero(np.abs(reads).sum(axes)) for axes in ((0, 2, 3), (0, 1, 3)))
    assert 10 <= rows.min() < 20 < rows.max() <= 30
    assert 6 <= columns.min() < 16 < columns.max() <= 27


@pytest.mark.parametrize("side", [1, 5, 17, 30, 64])
def test_tiles_of_the_identity_are_the_image(side):
    image = np.random.default_rng(side).normal(size=(side, 23, 2)).astype(np.float32)
    tiled = predict_tiled(lambda x: x, image, tile=12, margin=2, blend=4, stride=4)
    np.testing.assert_allclose(tiled, image, rtol=1e-6)


def test_tiles_without_a_middle_are_refused():
    image = np.zeros((40, 40, 1), np.float32)
    with pytest.raises(ValueError, match="24 or larger"):
        predict_tiled(lambda x: x, image, tile=16, margin=8, blend=4, stride=4)
