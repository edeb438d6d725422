"""AlexNet in one column, without response normalization, as torchvision has it: Krizhevsky, "One
weird trick for parallelizing convolutional neural networks", 2014."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxdl.nn.models.staged import ConvStage, DenseStage, Stage, Staged
from jaxdl.nn.weights.names import Entry, conv, dense, flattened

GRID = 6  # pixels along a side before the dense layers


class AlexNet(Staged):
    """Stages: five convolutions, three dense layers."""

    widths: tuple[int, int, int, int, int]
    """Channels of the convolutions."""
    hidden: tuple[int, int]
    """Widths of the dense layers before the logits."""
    classes: int
    """Number of logits."""
    dropout: float = 0.5
    """Dropout rate before each hidden dense layer, in training."""
    dtype: Any = jnp.float32
    """Type of the computations."""

    def stages(self) -> Sequence[Stage]:
        """The convolutions and the dense layers."""
        first, second, *middle, last = self.widths
        layer = partial(ConvStage, dtype=self.dtype)
        dense_layer = partial(DenseStage, dtype=self.dtype)
        return [
            ("conv", partial(layer, first, 11, 4, padding=((2, 2), (2, 2)), pool=3)),
            ("conv", partial(layer, second, 5, pool=3)),
            *(("conv", partial(layer, width)) for width in middle),
            ("conv", partial(layer, last, pool=3)),
            ("fc", partial(dense_layer, self.hidden[0], grid=GRID, dropout=self.dropout)),
            ("fc", partial(dense_layer, self.hidden[1], dropout=self.dropout)),
            ("fc", partial(dense_layer, self.classes, last=True)),
        ]


def torchvision_names(model: AlexNet) -> dict[str, Entry]:
    """Names as torchvision has them: layers are counted with their ReLUs, poolings, dropouts."""
    names = iter(model.names())
    entries: dict[str, Entry] = {}
    for i in (0, 3, 6, 8, 10):
        entries |= conv(f"features.{i}", f"{next(names)}/conv", bias=True)
    entries |= dense("classifier.1", f"{next(names)}/dense", flattened(GRID, GRID))
    for i in (4, 6):
        entries |= dense(f"classifier.{i}", f"{next(names)}/dense")
    return entries


def alexnet(classes: int = 1000, **options) -> AlexNet:
    """AlexNet for images of 224 pixels."""
    return AlexNet((64, 192, 384, 256, 256), (4096, 4096), classes, **options)
