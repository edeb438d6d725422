"""Weights of the residuals: of each term of the loss, or of each point of a term."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.types import AnyArray

WEIGHTINGS = ("fixed", "gradient_norm", "causal", "attention")


def gradient_norm_weights(
    norms: Mapping[str, Float[Array, ""]],
) -> dict[str, Float[Array, ""]]:
    """Weights of terms that make the norms of their gradients equal (Wang, Teng & Perdikaris 2021;
    Wang et al. 2023)::

        w_i = sum_j |g_j| / |g_i|

    The weights are those of the present gradients; the papers average them over time. A term whose
    gradient is 0 has weight 1.
    """
    total = sum(norms.values())
    return {
        term: jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1), 1.0)
        for term, norm in norms.items()
    }


def causal_weights(
    residual: Float[AnyArray, " n"],
    time: Float[AnyArray, " n"],
    *,
    first: float,
    last: float,
    tolerance: float = 1.0,
    bins: int = 32,
) -> Float[Array, " n"]:
    """Weights that are small until earlier points are solved (Wang, Sankaran & Perdikaris 2024)::

        w(t) = exp(-e sum_(bins before t) mean r²)

    Args:
      first, last: the interval of the time.
      tolerance: e; larger values are stricter.
    """
    bin_ids = jnp.clip(((time - first) / (last - first) * bins).astype(int), 0, bins - 1)
    total = jax.ops.segment_sum(residual**2, bin_ids, bins)
    count = jax.ops.segment_sum(jnp.ones_like(residual), bin_ids, bins)
    mean = total / jnp.maximum(count, 1)
    before = jnp.cumsum(mean) - mean
    return jnp.exp(-tolerance * before)[bin_ids]


def attention_weights(
    weights: Float[AnyArray, " n"],
    residual: Float[AnyArray, " n"],
    *,
    decay: float = 0.999,
    rate: float = 0.01,
) -> Float[Array, " n"]:
    """Residual-based attention (Anagnostopoulos et al. 2024)::

        w <- g w + e |r| / max |r|

    The weights stay below ``e / (1 - g)``. They multiply residuals, not their squares.
    """
    size = jnp.abs(residual)
    largest = jnp.maximum(jnp.max(size), jnp.finfo(size.dtype).tiny)
    return decay * jnp.asarray(weights) + rate * size / largest
