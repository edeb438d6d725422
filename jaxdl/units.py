"""Units of a network: receptive fields, peaks, and the patches of images that drive them.

A unit is a place (row, column) of a stage's output, in one of its channels. The stages are those of
a :class:`jaxdl.nn.models.staged.Staged`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from jaxdl.nn.models.staged import Staged
from jaxdl.nn.winograd import direct_convolutions
from jaxdl.types import AnyArray, Variables


def stage_activations(
    model: Staged, variables: Variables, images: Float[AnyArray, "b h w c"]
) -> list[Float[Array, "b ..."]]:
    """The outputs of each stage in evaluation, from the first to the last."""
    outputs: list[Array] = []
    for i in range(model.depth):
        x = outputs[-1] if outputs else images
        outputs.append(jnp.asarray(model.apply(variables, x, start=i, stop=i + 1)))
    return outputs


class Field(NamedTuple):
    """The receptive fields of a stage's units, rows and columns: unit i sees ``size`` pixels from
    ``offset + stride i`` on. Units at a border see less: some of these lie beyond the image."""

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]

    def compose(self, stage: "Field") -> "Field":
        """The fields, in pixels, of a stage's units whose inputs are units of these fields."""
        sides = zip(*self, *stage, strict=True)
        size, stride, offset = zip(
            *((n + (k - 1) * s, s * t, o + p * s) for n, s, o, k, t, p in sides), strict=True
        )
        return Field(size, stride, offset)

    def corner(self, unit: tuple[int, int] | Int[np.ndarray, "2"]) -> tuple[int, int]:
        """The first pixel, row and column, of a unit's field."""
        row, column = (
            o + s * int(i) for o, s, i in zip(self.offset, self.stride, unit, strict=True)
        )
        return row, column

    def centres(self, units: int, axis: int) -> Float[np.ndarray, " units"]:
        """The middles of ``units`` units along an axis, in pixels from the middle of the first
        pixel."""
        first = self.offset[axis] + (self.size[axis] - 1) / 2
        return first + self.stride[axis] * np.arange(units)


PIXEL = Field((1, 1), (1, 1), (0, 0))
"""The field of an image's pixels."""


def receptive_fields(model: Staged, shape: tuple[int, int, int]) -> dict[str, Field]:
    """The fields of each stage's units, by its name, for images [h, w, c]; without the stages whose
    units see all of the image and those behind them.

    They are measured, a stage at a time, in networks of the same modules with positive weights:
    what changes an output has a derivative there, whatever the module does inside.
    """
    fields, field, x = {}, PIXEL, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    for i, name in enumerate(model.names()):
        stage = _stage_field(model, i, x.shape[1:])
        if stage is None:
            break
        field = fields[name] = field.compose(stage)
        x = jax.eval_shape(lambda x, i=i: _apply_positive(model, i, x), x)
    return fields


CYCLE = 24
"""Padding may depend on the remainder of an image's side by the stride, which divides this."""


@direct_convolutions()
def _stage_field(model: Staged, i: int, shape: tuple[int, ...]) -> Field | None:
    """The fields of stage ``i + 1`` in its input; None if they are not local.

    The input is a ramp that rises along both axes, whose maximum in any window is the last pixel,
    and one that falls: the derivatives of a unit, through pooling too, reach to the end of its
    field in the first, from its beginning in the second. An input of another size that leaves the
    same remainder is padded likewise; it grows until the fields lie inside.
    """
    apply = partial(_apply_positive, model, i)

    @jax.jit
    def derivatives(
        x: Float[Array, "2 h w c"], unit: Int[Array, "2"]
    ) -> Float[Array, "units 2 h w c"]:
        y, pull = jax.vjp(apply, x)
        cotangents = (jnp.zeros_like(y).at[:, u[0], u[1]].set(1.0) for u in (unit, unit + 1))
        return jnp.stack([pull(cotangent)[0] for cotangent in cotangents])

    for side in (CYCLE, 2 * CYCLE, 4 * CYCLE, 8 * CYCLE):
        sides = np.array([side + size % CYCLE for size in shape[:2]])
        down, across = np.ix_(*(np.linspace(0, 0.5, n, dtype=np.float32) for n in sides))
        ramps = np.stack([1 + down + across, 2 - down - across])[..., None].repeat(shape[2], -1)
        if len(outputs := jax.eval_shape(apply, ramps).shape) != 4:
            return None
        unit = np.array(outputs[1:3]) // 2 - 1  # that and the next are in the middle
        if unit.min() < 0:
            continue
        slopes = np.abs(derivatives(ramps, unit))
        rows_and_columns = [np.asarray(slopes.max((axis, 4)) > 0) for axis in (3, 2)]
        start = np.stack([n[:, 1].argmax(-1) for n in rows_and_columns], -1)
        end = sides - np.stack([n[:, 0, ::-1].argmax(-1) for n in rows_and_columns], -1)
        size, stride = end[0] - start[0], start[1] - start[0]
        if (start[0] >= size).all() and (end[1] + size <= sides).all():  # far from the padding
            values = (size, stride, start[0] - stride * unit)
            return Field(*((int(row), int(column)) for row, column in values))
    return None


def _apply_positive(model: Staged, i: int, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Stage ``i + 1`` with kernels that take means, no biases, and normalization by 0 and 1."""

    def leaf(path: tuple[Any, ...], template: jax.ShapeDtypeStruct) -> Array:
        kind = path[-1].key
        value = 1 / math.prod(template.shape[:-1]) if kind == "kernel" else kind in ("scale", "var")
        return jnp.full(template.shape, value, template.dtype)

    template = jax.eval_shape(lambda: model.init(jax.random.key(0), x, start=i, stop=i + 1))
    variables = jax.tree_util.tree_map_with_path(leaf, template)
    return jnp.asarray(model.apply(variables, x, start=i, stop=i + 1))


def enlarge(
    maps: Float[AnyArray, "b oh ow"], field: Field, shape: tuple[int, int]
) -> Float[Array, "b h w"]:
    """A stage's maps on the pixels of the image: each unit's number at the middle of its field,
    linear between them, constant beyond the outermost."""
    rows, columns = (
        np.stack(
            [np.interp(np.arange(size), field.centres(n, axis), unit) for unit in np.eye(n)], 1
        )
        for axis, (size, n) in enumerate(zip(shape, maps.shape[1:], strict=True))
    )
    return jnp.einsum("hi,wj,bij->bhw", rows, columns, maps, precision=lax.Precision.HIGHEST)


def peaks(
    activations: Float[AnyArray, "b oh ow d"],
) -> tuple[Float[Array, "b d"], Int[Array, "b d 2"]]:
    """The greatest activation of each channel in each image, and the unit (row, column) that has
    it."""
    flat = activations.reshape(len(activations), -1, activations.shape[-1])
    units = jnp.stack(jnp.divmod(jnp.argmax(flat, 1), activations.shape[2]), -1)
    return jnp.max(flat, 1), units


def patch(
    image: Num[np.ndarray, "h w c"],
    field: Field,
    unit: tuple[int, int] | Int[np.ndarray, "2"],
    fill: float = 0,
) -> tuple[Num[np.ndarray, "ph pw c"], Bool[np.ndarray, "ph pw"]]:
    """The receptive field of a unit (row, column), cut out of the image, and where it lies inside
    of it; the rest is ``fill``."""
    cut = np.full((*field.size, image.shape[2]), fill, image.dtype)
    mask = np.zeros(field.size, bool)
    source_rows, target_rows = [], []
    for first, size, side in zip(field.corner(unit), field.size, image.shape, strict=False):
        start, stop = max(first, 0), min(first + size, side)
        source_rows.append(slice(start, stop))
        target_rows.append(slice(start - first, stop - first))
    cut[*target_rows], mask[*target_rows] = image[*source_rows], True
    return cut, mask


def view(
    image: Float[np.ndarray, "h w c"], field: Field, unit: tuple[int, int] | Int[np.ndarray, "2"]
) -> Float[np.ndarray, "ph pw c"]:
    """The part of an image of values 0 … 1 that a unit (row, column) sees, to be drawn:
    :func:`patch`, grey beyond the image; of a field larger than the image only what is inside."""
    cut, mask = patch(image, field, unit, fill=0.5)
    if max(field.size) <= max(image.shape[:2]):
        return cut
    return cut[mask.any(1)][:, mask.any(0)]
