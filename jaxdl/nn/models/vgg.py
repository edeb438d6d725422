"""VGG16: thirteen convolutions of 3 x 3 in five groups, each with pooling at its end, and three
dense layers (Simonyan & Zisserman, ICLR 2015), in torchvision's layout."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxdl.nn.models.staged import ConvStage, DenseStage, Stage, Staged
from jaxdl.nn.weights.names import TRANSPOSED, Entry, conv, dense, flattened

GRID = 7  # pixels along a side before the dense layers


class VGG(Staged):
    """Stages: the convolutions one by one (a group's last with its pooling), the dense layers.

    Attributes:
      groups: the widths of each group's convolutions.
      hidden: widths of the dense layers before the logits.
      classes: number of logits.
      dropout: the rate before each dense layer but the first, in training.
      dtype: in which it computes.
    """

    groups: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]
    classes: int
    dropout: float = 0.5
    dtype: Any = jnp.float32

    def stages(self) -> Sequence[Stage]:
        """The convolutions and the dense layers."""
        convolutions = [
            ("conv", partial(ConvStage, width, pool=2 if i == len(group) else 1, dtype=self.dtype))
            for group in self.groups
            for i, width in enumerate(group, 1)
        ]
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
    names, place = iter(model.names()), 0
    for group in model.groups:
        for _ in group:
            entries |= conv(f"features.{place}", f"{next(names)}/conv", bias=True)
            place += 2
        place += 1
    for place, name in enumerate(names):
        layout = flattened(GRID, GRID) if place == 0 else TRANSPOSED
        entries |= dense(f"classifier.{3 * place}", f"{name}/dense", layout)
    return entries


def vgg16(classes: int = 1000, **options) -> VGG:
    """VGG16 (configuration D)."""
    groups = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    return VGG(groups, (4096, 4096), classes, **options)
