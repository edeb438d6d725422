"""Losses, one number an example, in float32 at least; the caller takes the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer

from jaxdl.types import AnyArray, Scalar


def cross_entropy(
    logits: Float[AnyArray, "b k"],
    labels: Integer[AnyArray, " b"] | Float[AnyArray, "b k"],
    *,
    smoothing: Scalar = 0.0,
    class_weights: Float[AnyArray, " k"] | None = None,
) -> Float[Array, " b"]:
    """``-sum_j w_j q_j log softmax(logits)_j``, in nats, with ``q`` all on the label.

    Labels are 0 to k − 1, or soft targets: a distribution over the classes for each example.
    Under `jax.jit`, `jax.vmap` or `jax.grad` with respect to them labels cannot be checked: there
    any other label, also −1 for a missing one, gives NaN.

    Args:
      smoothing: ``s``: ``q`` becomes ``(1 - s) q + s / k`` (Szegedy et al. 2016). May be traced.
      class_weights: ``w``, by default 1. The mean over examples is not divided by their weights.

    Raises:
      ValueError: for labels out of range, where they are concrete.
    """
    logits = _float32(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        _check_labels(labels, logits.shape[-1])
        if class_weights is None and isinstance(smoothing, int | float) and not smoothing:
            # A negative one would count from the end.
            labels = jnp.where(labels < 0, logits.shape[-1], labels)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
        outside = (labels < 0) | (labels >= logits.shape[-1])
        labels = jnp.where(outside[:, None], jnp.nan, jnp.where(own, jnp.ones_like(logits), 0))
    targets = (1 - smoothing) * labels + smoothing / logits.shape[-1]
    if class_weights is not None:
        targets = targets * class_weights[None]
    return -jnp.sum(targets * jax.nn.log_softmax(logits), -1)


def binary_cross_entropy(
    logits: Float[AnyArray, " *b"], labels: Integer[AnyArray, " *b"] | Float[AnyArray, " *b"]
) -> Float[Array, " *b"]:
    """``-y log sigmoid(logit) - (1 - y) log sigmoid(-logit)``, in nats, with labels 0 … 1."""
    return optax.sigmoid_binary_cross_entropy(_float32(logits), labels.astype(jnp.float32))


def squared_error(
    predictions: Float[AnyArray, "b *d"], targets: Float[AnyArray, "b *d"]
) -> Float[Array, " b"]:
    """``sum_d (y - t)²``, over all outputs of an example.

    Raises:
      ValueError: for two shapes, which would be broadcast against each other.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions are {list(predictions.shape)}, targets {list(targets.shape)}: give both "
            "the same shape"
        )
    return jnp.sum((_float32(predictions) - targets) ** 2, axis=tuple(range(1, targets.ndim)))


def _float32(x: Float[AnyArray, " ..."]) -> Float[Array, " ..."]:
    """In float32 where its precision is less."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _check_labels(labels: Integer[AnyArray, " b"], classes: int) -> None:
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    odd = np.flatnonzero((values < 0) | (values >= classes))
    if len(odd):
        raise ValueError(
            f"label {values[odd[0]]} of example {odd[0]} is out of range: {classes} logits need "
            f"labels 0 to {classes - 1} ({len(odd)} of {len(values)} labels are not)"
        )
