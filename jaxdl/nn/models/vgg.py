"""VGG16: thirteen convolutions of 3 x 3 in five groups, each with pooling at its end, and three
dense layers (Simonyan & Zisserman, ICLR 2015), in torchvision's layout; or without these."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxdl.nn.models.staged import ConvStage, DenseStage, Stage, Staged
from jaxdl.nn.weights.names import (
    EQUAL,
    REVERSED,
    TRANSPOSED,
    Entry,
    conv,
    dense,
    flattened,
)

GRID = 7  # pixels along a side before the dense layers


class VGG(Staged):
    """Stages: the convolutions one by one (a group's last with its pooling), the dense layers."""

    groups: tuple[tuple[int, ...], ...]
    """The widths of each group's convolutions."""
    hidden: tuple[int, ...]
    """Widths of the dense layers before the logits; with none there are no logits, and the last
    convolution's pooling is the output."""
    classes: int
    """Number of logits."""
    dropout: float = 0.5
    """Dropout rate before each dense layer but the first, in training."""
    dtype: Any = jnp.float32
    """Type of the computations."""

    def stages(self) -> Sequence[Stage]:
        """The convolutions and the dense layers."""
        convolutions = [
            ("conv", partial(ConvStage, width, pool=2 if i == len(group) else 1, dtype=self.dtype))
            for group in self.groups
            for i, width in enumerate(group, 1)
        ]
        if not self.hidden:
            return convolutions
        layer = partial(DenseStage, dtype=self.dtype)
        first, *others = self.hidden
        dense_layers = [
            partial(layer, first, grid=GRID),
            *(partial(layer, width, dropout=self.dropout) for width in others),
            partial(layer, self.classes, dropout=self.dropout, last=True),
        ]
        return [*convolutions, *(("fc", stage) for stage in dense_layers)]


def torchvision_names(model: VGG) -> dict[str, Entry]:
    """Names as torchvision has them: layers are counted with their ReLUs and poolings."""
    entries: dict[str, Entry] = {}
    names, index = iter(model.names()), 0
    for group in model.groups:
        for _ in group:
            entries |= conv(f"features.{index}", f"{next(names)}/conv", bias=True)
            index += 2
        index += 1
    for index, name in enumerate(names):
        layout = flattened(GRID, GRID) if index == 0 else TRANSPOSED
        entries |= dense(f"classifier.{3 * index}", f"{name}/dense", layout)
    return entries


def hed_names(model: VGG) -> dict[str, Entry]:
    """Names of the convolutions in the Keras file of HED, an edge detector on VGG's convolutions
    (Xie & Tu 2015), whose images have blue before red."""
    entries: dict[str, Entry] = {}
    names = iter(model.names())
    for i, group in enumerate(model.groups, 1):
        for j in range(len(group)):
            source = f"block{i}/layers/conv2d{f'_{j}' if j else ''}/vars"
            target = f"params/{next(names)}/conv"
            entries[f"{source}/0"] = Entry(f"{target}/kernel", EQUAL if entries else REVERSED)
            entries[f"{source}/1"] = Entry(f"{target}/bias", EQUAL)
    return entries


D = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
"""The widths of configuration D."""


def vgg16(classes: int = 1000, **options) -> VGG:
    """VGG16."""
    return VGG(D, (4096, 4096), classes, **options)


def vgg16_convolutions(**options) -> VGG:
    """VGG16 without its dense layers."""
    return VGG(D, (), 0, **options)
