"""Losses and accuracies, one number an example; the caller takes the mean."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """``-log softmax(logits)[label]``, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def correct(logits: Float[Array, "... b k"], labels: Int[Array, " b"]) -> Bool[Array, "... b"]:
    """Whether the largest logit is the label's."""
    return jnp.argmax(logits, -1) == labels
