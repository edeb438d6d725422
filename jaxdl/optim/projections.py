"""Weights kept within bounds: projections that follow each update."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.types import PyTree, Scalar

WEIGHTS = ("kernel", "embedding")
"""Flax's names of weights: what multiplies the values of units, in all its layers."""


def is_weight(params: PyTree) -> PyTree:
    """True for the arrays called ``kernel`` or ``embedding``, which decay and are projected.

    Not for biases, scales of normalization, and position embeddings or class tokens (of a ViT,
    say), however many axes they have.
    """
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in WEIGHTS, params
    )


def project_max_norm(params: PyTree, radius: Scalar) -> PyTree:
    """Scale the incoming weights ``w`` of each unit to ``w min(1, radius / |w|_2)``.

    A unit is an index of the last axis of an array of weights, see :func:`is_weight` (dense
    kernels [in, out], convolution kernels [kh, kw, in, out]); others are left alone. Srivastava et
    al., "Dropout", JMLR 2014, section 5.1.
    """

    def project(w: Array, weight: bool) -> Array:
        if not weight:
            return w
        norm = jnp.sqrt(jnp.sum(jnp.square(w), axis=tuple(range(w.ndim - 1)), keepdims=True))
        # The norm is 0 only where the weights are, so any positive divisor will do there.
        return w * jnp.minimum(1.0, radius / jnp.maximum(norm, jnp.finfo(w.dtype).tiny))

    return jax.tree.map(project, params, is_weight(params))


def max_norm(radius: Scalar) -> optax.GradientTransformation:
    """Change updates so that the updated parameters obey :func:`project_max_norm`.

    Belongs at the end of a chain, where updates are what will be added to the parameters.

    Raises:
      ValueError: if ``radius`` is not positive, unless it is traced; on update, if no parameters
        are given.
    """
    if not isinstance(radius, jax.core.Tracer) and not radius > 0:
        raise ValueError(f"the max-norm radius must be positive, got {radius}")

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        if params is None:
            raise ValueError("max_norm needs the parameters: tx.update(grads, state, params)")
        projected = project_max_norm(optax.apply_updates(params, updates), radius)
        return jax.tree.map(jnp.subtract, projected, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)
