"""Aliases that the whole project shares: what flows between the pieces."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

AnyArray = jax.Array | np.ndarray
"""An array of the devices or of the host."""

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)
"""An array of either kind, in functions that return the same kind."""

Scalar = float | np.floating | Float[AnyArray, ""]
"""A number, which may be traced."""

Integer = int | np.integer | Int[AnyArray, ""]
"""A whole number, which may be traced."""

PyTree = Any
"""Any nest of dicts, tuples and dataclasses with arrays at its leaves."""

Params = Mapping[str, PyTree]
"""One collection of a network: layer name -> that layer's arrays."""

Variables = Mapping[str, PyTree]
"""Flax's collections: ``{"params": ..., "batch_stats": ...}``."""

Collections = Mapping[str, PyTree]
"""Collections beside ``params`` that are carried from step to step: ``{"batch_stats": ...}``."""

Batch = Mapping[str, PyTree]
"""The arrays that one step sees: ``{"image": [b, h, w, c], "label": [b], ...}``."""

Metrics = Mapping[str, jax.Array]
"""Numbers that a step reports; a scalar, or a vector for networks that share a step."""

Hyper = Mapping[str, PyTree]
"""Hyper-parameters of a member, or other values in which the members of a population differ, as
arrays."""


class DamagedFile(ValueError):
    """A file that cannot be used; the message names it and the remedy."""


LossFn = Callable[
    [Params, Collections, Batch, Hyper, jax.Array], tuple[PyTree, tuple[Collections, Metrics]]
]
"""``loss(params, collections, batch, hyper, key) -> (loss, (new collections, metrics))``; see
:func:`jaxdl.train.state.make_step`."""
