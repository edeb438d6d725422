"""Residual networks: CIFAR's (He et al. 2016) and ImageNet's in torchvision's layout.

He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016. A block adds to its
input the output of two convolutions of 3 x 3 (or, as a bottleneck, of 1, 3 and 1). Where a group of
blocks begins, its first convolution of 3 x 3 halves images; a shortcut fits the input:

    pad    every second pixel; the new channels, half before and half after, are 0 (option A)
    conv   a convolution of 1 x 1 with a bias
    norm   a convolution of 1 x 1 and batch normalization (option B)
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.nn import ops, pooling
from jaxdl.nn.models.staged import Conv, DenseStage, Stage, Staged
from jaxdl.nn.weights.names import Entry, conv, dense, norm
from jaxdl.types import AnyArray


def _norm(train: bool, axis_name: str | None, dtype: Any, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
        name=name,
    )


class Stem(nn.Module):
    """The first convolution: of 3 x 3, or ImageNet's of 7 x 7 with stride 2 and pooling."""

    features: int
    imagenet: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        kernel, stride = (7, 2) if self.imagenet else (3, 1)
        x = Conv(self.features, kernel, stride, dtype=self.dtype, name="conv")(x)
        x = nn.relu(_norm(train, self.axis_name, self.dtype, "norm")(x))
        if self.imagenet:  # after a ReLU a border of zeros never wins
            x = pooling.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), window=3, stride=2)
        return x


class Block(nn.Module):
    """``relu(x' + norm(conv(… relu(norm(conv(x))))))``, with ``x'`` the input by the shortcut."""

    width: int
    stride: int
    bottleneck: bool
    shortcut: str
    padding: ops.Padding | None
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        convolution = partial(Conv, dtype=self.dtype, padding=self.padding)
        normalize = partial(_norm, train, self.axis_name, self.dtype)
        if self.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (features, kernel, stride) in enumerate(layers, 1):
            y = nn.relu(y) if i > 1 else y
            y = convolution(features, kernel, stride, name=f"conv{i}")(y)
            y = normalize(f"norm{i}")(y)
        features = layers[-1][0]
        if self.stride > 1 or x.shape[-1] != features:
            if self.shortcut == "pad":
                new = features - x.shape[-1]
                x = x[:, :: self.stride, :: self.stride]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
            else:
                bias = self.shortcut == "conv"
                x = convolution(features, 1, self.stride, bias=bias, name="shortcut_conv")(x)
                x = x if bias else normalize("shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(Staged):
    """Stages: the stem, the blocks one by one, the logits of the mean over pixels."""

    blocks: tuple[int, ...]
    """Number of blocks in each group."""
    width: int
    """Channels of the first group; the next ones have twice as many each."""
    classes: int
    """Number of logits."""
    bottleneck: bool = False
    """Whether blocks have three convolutions, with four times the width of outputs."""
    shortcut: str = "pad"
    """The kind of shortcut: "pad", "conv" or "norm", see above."""
    imagenet: bool = False
    """Whether the stem is that for large images."""
    padding: ops.Padding | None = None
    """Padding of the blocks' convolutions; None for PyTorch's, "SAME" for Flax's."""
    dtype: Any = jnp.float32
    """Type of the computations."""
    axis_name: str | None = None
    """The mesh axis over which batch statistics are averaged, under pmap and shard_map."""

    def stages(self) -> Sequence[Stage]:
        """The stem, the blocks and the logits."""
        options = {"dtype": self.dtype, "axis_name": self.axis_name}
        kind = (self.bottleneck, self.shortcut, self.padding)
        blocks = [
            ("block", partial(Block, self.width * 2**group, stride, *kind, **options))
            for group, size in enumerate(self.blocks)
            for stride in [2 if group else 1] + [1] * (size - 1)
        ]
        stem = ("conv", partial(Stem, self.width, self.imagenet, **options))
        head = ("fc", partial(DenseStage, self.classes, grid=1, last=True, dtype=self.dtype))
        return [stem, *blocks, head]


def torchvision_names(model: ResNet, head: str = "fc") -> dict[str, Entry]:
    """Names as torchvision has them, and He's CIFAR networks with ``head="linear"``."""
    starts = [0, *accumulate(model.blocks)]
    blocks = [
        f"layer{group}.{i}" for group, size in enumerate(model.blocks, 1) for i in range(size)
    ]
    parts = [(f"conv{i}", f"bn{i}") for i in range(1, 4 if model.bottleneck else 3)]
    shortcuts = [] if model.shortcut == "pad" else starts[0 if model.bottleneck else 1 : -1]
    return _names(model, ("conv1", "bn1"), blocks, parts, shortcuts, "downsample.0", head)


def uva_names(model: ResNet) -> dict[str, Entry]:
    """Names in PyTorch of the networks in the deep-learning course of the University of Amsterdam
    (Lippe 2022), ``shortcut="conv"``."""
    blocks = [f"model.blocks.{i}" for i in range(sum(model.blocks))]
    parts, starts = [("net.0", "net.1"), ("net.3", "net.4")], [*accumulate(model.blocks)][:-1]
    stem, head = ("model.input_net.0", "model.input_net.1"), "model.output_net.2"
    return _names(model, stem, blocks, parts, starts, "downsample", head)


def _names(
    model: ResNet,
    stem: tuple[str, str],
    blocks: list[str],
    parts: list[tuple[str, str]],
    shortcuts: list[int],
    shortcut: str,
    head: str,
) -> dict[str, Entry]:
    """A map of the source's words; ``shortcuts``: the blocks whose shortcut has parameters."""
    first, *targets, last = model.names()
    entries = conv(stem[0], f"{first}/conv") | norm(stem[1], f"{first}/norm")
    for i, (block, target) in enumerate(zip(blocks, targets, strict=True)):
        for j, (convolution, normalization) in enumerate(parts, 1):
            entries |= conv(f"{block}.{convolution}", f"{target}/conv{j}")
            entries |= norm(f"{block}.{normalization}", f"{target}/norm{j}")
        if i in shortcuts:
            bias = model.shortcut == "conv"
            entries |= conv(f"{block}.{shortcut}", f"{target}/shortcut_conv", bias)
            if not bias:
                entries |= norm(f"{block}.downsample.1", f"{target}/shortcut_norm")
    return entries | dense(head, f"{last}/dense")


def cifar_resnet(classes: int = 10, *, depth: int = 20, **options) -> ResNet:
    """ResNet-20, 32, 44 or 56 for images of 32 pixels: ``depth = 6 n + 2``.

    Raises:
      ValueError: for another depth.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a CIFAR ResNet has 6 n + 2 layers, not {depth}")
    return ResNet((blocks,) * 3, 16, classes, **options)


def resnet18(classes: int = 1000, **options) -> ResNet:
    """ResNet-18 as torchvision has it."""
    return ResNet((2, 2, 2, 2), 64, classes, shortcut="norm", imagenet=True, **options)


def resnet34(classes: int = 1000, **options) -> ResNet:
    """ResNet-34 as torchvision has it."""
    return ResNet((3, 4, 6, 3), 64, classes, shortcut="norm", imagenet=True, **options)


def resnet50(classes: int = 1000, **options) -> ResNet:
    """ResNet-50 as torchvision has it: the stride is in the convolution of 3 x 3."""
    return ResNet((3, 4, 6, 3), 64, classes, True, shortcut="norm", imagenet=True, **options)
