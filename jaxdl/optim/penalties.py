"""Penalties on the size of parameters, added to a loss: L1, L2 and both (elastic net).

An L2 penalty is weight decay that goes through the gradient: see
:func:`jaxdl.optim.make_optimizer` for the other kind, and why they differ under Adam.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.optim.projections import is_weight
from jaxdl.types import AnyArray, Batch, Collections, Hyper, LossFn, Metrics, Params, PyTree, Scalar

Select = Callable[[PyTree], PyTree]
"""A function from parameters to a tree of booleans of the same structure."""


def penalty(
    params: PyTree, l1: Scalar = 0.0, l2: Scalar = 0.0, *, select: Select = is_weight
) -> Float[Array, ""]:
    """``l1 sum |w| + l2/2 sum w²`` over the arrays that are selected; the numbers may be traced.

    ``l1`` alone is the lasso's, ``l2`` alone ridge regression's, and both are the elastic net's
    penalty (Zou & Hastie 2005). The gradient is ``l1 sign(w) + l2 w``, 0 at 0.
    """

    def size(w: AnyArray) -> Array:
        absolute = jnp.sign(w) * w  # has the gradient 0 at 0, where jnp.abs has 1
        return jnp.asarray(l1 * jnp.sum(absolute) + l2 / 2 * jnp.sum(w**2))

    sizes = jax.tree.map(lambda w, penalize: size(w) if penalize else 0.0, params, select(params))
    return jnp.asarray(sum(jax.tree.leaves(sizes)))


def penalized(loss_fn: LossFn, *, select: Select = is_weight) -> LossFn:
    """The loss plus the :func:`penalty` with ``hyper["l1"]`` and ``hyper["l2"]``.

    The metrics have the penalty as ``penalty``; training adds the whole as ``loss``, so that the
    loss without it is their difference. ``loss_fn`` returns one number.
    """

    def penalized_loss(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Collections, Metrics]]:
        loss, (new, metrics) = loss_fn(params, collections, batch, hyper, key)
        size = penalty(params, hyper["l1"], hyper["l2"], select=select)
        return loss + size, (new, {**metrics, "penalty": size})

    return penalized_loss
