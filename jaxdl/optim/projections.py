"""Weights kept within bounds: projections that follow each update.

Weights are the arrays of :func:`is_weight`; others are left alone. A unit is an index of an
array's last axis: dense kernels are [in, out], convolution kernels [kh, kw, in, out].
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.types import PyTree, Scalar

WEIGHTS = ("kernel", "embedding")
"""Flax's names of weights: what multiplies the values of units, in all its layers."""


def named(params: PyTree, names: Sequence[str]) -> PyTree:
    """True for the arrays with one of the names, in any layer."""
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in names, params
    )


def is_weight(params: PyTree) -> PyTree:
    """True for the arrays called ``kernel`` or ``embedding``, which decay and are projected.

    Not for biases, scales of normalization, and position embeddings or class tokens (of a ViT,
    say), however many axes they have.
    """
    return named(params, WEIGHTS)


def project_max_norm(params: PyTree, radius: Scalar) -> PyTree:
    """Scale the incoming weights ``w`` of each unit to ``w min(1, radius / |w|_2)`` (Srivastava et
    al., "Dropout", JMLR 2014, section 5.1)."""

    def norm(w: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.square(w), axis=tuple(range(w.ndim - 1)), keepdims=True))

    return _shrunk(params, norm, radius)


def project_max_abs(params: PyTree, bound: Scalar) -> PyTree:
    """Scale each array ``w`` of weights to ``w min(1, bound / max |w|)``: where its greatest
    magnitude exceeds the bound, the whole array is divided by it and multiplied by the bound."""
    return _shrunk(params, lambda w: jnp.max(jnp.abs(w)), bound)


def _shrunk(params: PyTree, size: Callable[[Array], Array], bound: Scalar) -> PyTree:
    """Weights ``w min(1, bound / size(w))``."""

    def shrink(w: Array, weight: bool) -> Array:
        if not weight:
            return w
        # The size is 0 only where the weights are, so any positive divisor will do there.
        return w * jnp.minimum(1.0, bound / jnp.maximum(size(w), jnp.finfo(w.dtype).tiny))

    return jax.tree.map(shrink, params, is_weight(params))


def max_norm(radius: Scalar) -> optax.GradientTransformation:
    """Change updates so that the updated parameters obey :func:`project_max_norm`.

    Belongs at the end of a chain, where updates are what will be added to the parameters.

    Raises:
      ValueError: if ``radius`` is not positive, unless it is traced; on update, if no parameters
        are given.
    """
    _check_positive("max-norm radius", radius)
    return _projected("max_norm", lambda params: project_max_norm(params, radius))


def max_abs(bound: Scalar) -> optax.GradientTransformation:
    """:func:`project_max_abs` as a gradient transformation; raises as :func:`max_norm` does."""
    _check_positive("max-abs bound", bound)
    return _projected("max_abs", lambda params: project_max_abs(params, bound))


def _check_positive(name: str, number: Scalar) -> None:
    if not isinstance(number, jax.core.Tracer) and not number > 0:
        raise ValueError(f"the {name} must be positive, got {number}")


def _projected(name: str, project: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Updates that lead to the projected parameters."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        if params is None:
            raise ValueError(f"{name} needs the parameters: tx.update(grads, state, params)")
        projected = project(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, projected, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)
