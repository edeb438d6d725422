"""U-Nets: an encoder of stages, and a head that answers with classes, points or maps.

Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015. The encoder is any :class:`jaxdl.nn.models.staged.Staged` network, so that a pretrained
one serves (:func:`with_encoder`); the outputs of its stages at each resolution are the levels that
a head reads::

    UNet(Encoder((16, 32, 64)), Decoder(outputs=2))  # logits of two classes a pixel
    UNet(resnet18(), Coordinates(outputs=3))         # row, column, whether it is there

Images are of any size from ``2^(levels - 1)`` pixels: where pooling leaves out a last row, the
decoder fills it with copies of the one before.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxdl.nn import pooling
from jaxdl.nn.models.staged import Conv, DenseStage, Stage, Staged
from jaxdl.types import AnyArray, Variables

NORMALIZATIONS = ("batch", "group")
Levels = Sequence[Float[AnyArray, "b ..."]]
"""Activations [b, h, w, c] from the finest level to the coarsest."""


class ConvBlock(nn.Module):
    """``max_pool``, then twice ``relu(norm(conv(x)))`` with kernels of 3 x 3."""

    features: int
    pool: int = 1
    padding: str = "SAME"
    normalization: str = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"no normalization {self.normalization!r}: choose batch or group")
        x = pooling.max_pool(x, window=self.pool) if self.pool > 1 else jnp.asarray(x)
        for i in (1, 2):
            x = Conv(self.features, padding=self.padding, name=f"conv{i}")(x)
            if self.normalization == "batch":
                norm = nn.BatchNorm(
                    not train, momentum=0.9, axis_name=self.axis_name, name=f"norm{i}"
                )
                x = norm(x)
            else:
                x = nn.GroupNorm(math.gcd(8, self.features), name=f"norm{i}")(x)
            x = nn.relu(x)
        return x


class Encoder(Staged):
    """U-Net's own: a :class:`ConvBlock` a level, each on half the resolution of the one before."""

    widths: tuple[int, ...]
    """Channels of each level."""
    padding: str = "SAME"
    """Padding: "SAME", or "VALID", where each block loses 4 rows and 4 columns."""
    normalization: str = "batch"
    """Normalization: "batch", over devices of ``axis_name``, too; or "group", of 8 groups."""
    axis_name: str | None = None

    def stages(self) -> Sequence[Stage]:
        """The blocks."""
        options = self.padding, self.normalization, self.axis_name
        return [
            ("block", partial(ConvBlock, width, 2 if i else 1, *options))
            for i, width in enumerate(self.widths)
        ]


class Decoder(nn.Module):
    """A number, or several, for each pixel: logits of a mask, a density, a heat map.

    From the coarsest level up: enlarge, lay beside the next finer level, and a :class:`ConvBlock`
    of as many channels as that has, or of ``width``. Without padding the finer level is cropped,
    and the result is that of the image's middle: see :func:`crop_to`.
    """

    outputs: int
    width: int = 1
    padding: str = "SAME"
    normalization: str = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w o"]:
        *finer, x = levels
        for i, level in reversed(list(enumerate(finer, 1))):
            if self.padding == "VALID":
                x = enlarge(x, (2, 2))
                level = crop_to(level, x)
            else:
                sizes = zip(level.shape[1:3], x.shape[1:3], strict=True)
                factor = tuple(round(fine / coarse) for fine, coarse in sizes)
                x = _fit(enlarge(x, factor), level.shape[1:3])
            width, options = max(self.width, level.shape[-1]), (self.normalization, self.axis_name)
            block = ConvBlock(width, 1, self.padding, *options, name=f"block{i}")
            x = block(jnp.concatenate([level, x], -1), train)
        return Conv(self.outputs, 1, bias=True, name="conv")(x)


class ClassMap(nn.Module):
    """Logits of an image are the mean of a map of them, one for each pixel of the coarsest level:
    where an answer comes from is the map itself (Zhou et al. 2016)."""

    outputs: int

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w o"]:
        return Conv(self.outputs, 1, bias=True, name="conv")(levels[-1])


class Coordinates(nn.Module):
    """Some numbers an image, such as places or a count, by two dense layers from the coarsest
    level, which is averaged to ``grid x grid`` pixels."""

    outputs: int
    hidden: int = 64
    grid: int = 4

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b o"]:
        x = DenseStage(self.hidden, grid=self.grid, name="fc1")(levels[-1], train)
        return DenseStage(self.outputs, last=True, name="fc2")(x, train)


class UNet(nn.Module):
    """The outputs of a head for the levels of an encoder, whose last stages, called ``fc``, are
    left out: :class:`Decoder`, :class:`ClassMap`, :class:`Coordinates`, or another module."""

    encoder: Staged
    head: Any

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], *, train: bool = False) -> Array:
        names = [name for name in self.encoder.names() if not name.startswith("fc")]
        # Without padding each stage is a level, else the last one of each resolution, the image's
        # included, where the first stage leaves pixels out.
        valid = getattr(self.encoder, "padding", None) == "VALID"
        levels: list[AnyArray] = [] if valid else [jnp.asarray(x)]
        for i in range(len(names)):
            x = self.encoder(x, train=train, start=i, stop=i + 1)
            if levels and not valid and round(levels[-1].shape[1] / x.shape[1]) == 1:
                levels[-1] = x
            else:
                levels.append(x)
        return self.head(levels, train)


def with_encoder(variables: Variables, pretrained: Variables) -> Variables:
    """A :class:`UNet`'s variables with the encoder's stages of a network that is trained already.

    Raises:
      ValueError: if it lacks a stage.
    """

    def stages(kind: str, tree: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in tree if name not in pretrained.get(kind, {})]:
            raise ValueError(f"the pretrained network has no {kind} of stage {missing[0]}")
        return {name: pretrained[kind][name] for name in tree}

    return {
        kind: {**tree, "encoder": stages(kind, tree["encoder"])} if "encoder" in tree else tree
        for kind, tree in variables.items()
    }


def enlarge(x: Float[AnyArray, "b h w c"], factor: tuple[int, int]) -> Float[Array, "b oh ow c"]:
    """Repeat each pixel as a block of pixels."""
    (b, h, w, c), (down, right) = x.shape, factor
    blocks = jnp.broadcast_to(jnp.asarray(x)[:, :, None, :, None], (b, h, down, w, right, c))
    return blocks.reshape(b, h * down, w * right, c)


def crop_to(
    x: Shaped[AnyArray, "b h w *c"], template: Shaped[AnyArray, "b oh ow ..."]
) -> Shaped[AnyArray, "b oh ow *c"]:
    """The middle of images or masks, as large as others: what a network without padding sees."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:3], template.shape[1:3], strict=True))
    return x[:, top : top + template.shape[1], left : left + template.shape[2]]


def _fit(x: Float[Array, "b h w c"], shape: Sequence[int]) -> Float[Array, "b oh ow c"]:
    """Cropped below and to the right, or filled up there with copies of the last pixels."""
    x = x[:, : shape[0], : shape[1]]
    missing = [(0, size - length) for size, length in zip(shape, x.shape[1:3], strict=True)]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)), "edge") if any(map(any, missing)) else x
