"""Losses, one number an example; the caller takes the mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """``-log softmax(logits)[label]``, in nats; labels are 0 to k − 1.

    Under `jax.jit`, `jax.vmap` or `jax.grad` with respect to them labels cannot be checked: there
    −k to −1 count from the end, so that −1 is the last class, and any other label gives NaN.

    Raises:
      ValueError: for labels out of range, where they are concrete.
    """
    _check_labels(labels, logits.shape[-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _check_labels(labels: Int[Array, " b"], classes: int) -> None:
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    odd = np.flatnonzero((values < 0) | (values >= classes))
    if len(odd):
        raise ValueError(
            f"label {values[odd[0]]} of example {odd[0]} is out of range: {classes} logits need "
            f"labels 0 to {classes - 1} ({len(odd)} of {len(values)} labels are not)"
        )
