"""Which examples make up which batch, and how a batch reaches the network.

The order of the data is a pure function of ``(key, step)``: epoch after epoch, each a permutation
of all examples, cut into batches as one endless sequence. So a run that is stopped and resumed,
or cut into other dispatches, sees the same examples in the same order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8


def epoch_order(key: PRNGKeyArray, epoch: Int[Array, ""], examples: int) -> Int[Array, " n"]:
    """A permutation of ``0 … examples - 1`` that depends on nothing but key and epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def batch_ids(
    key: PRNGKeyArray, first_step: Int[Array, ""], *, steps: int, batch: int, examples: int
) -> Int[Array, "steps batch"]:
    """The examples of ``steps`` consecutive batches, beginning with that of ``first_step``.

    Batch ``s`` holds positions ``s * batch … (s + 1) * batch - 1`` of the sequence
    ``epoch_order(key, 0), epoch_order(key, 1), …``: each example comes once an epoch, and a
    batch may end one epoch and begin the next.
    """
    # In int32 a position would overflow after 2^31 examples, so count in epochs and remainders.
    epochs_per_step, rest = divmod(batch, examples)
    wraps, offset = _divmod_of_product(first_step, rest, examples)
    epoch = first_step * epochs_per_step + wraps
    touched = -(-(steps * batch - 1) // examples) + 1
    orders = jax.vmap(lambda e: epoch_order(key, epoch + e, examples))(jnp.arange(touched))
    ids = lax.dynamic_slice_in_dim(orders.reshape(-1), offset, steps * batch)
    return ids.reshape(steps, batch)


def _divmod_of_product(step: Array, factor: int, divisor: int) -> tuple[Array, Array]:
    """``divmod(step * factor, divisor)`` where the product may not fit into 32 bits."""
    whole, rest = jnp.divmod(step, divisor)
    rest = rest.astype(jnp.uint32)

    def double_and_add(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, remainder = state
        bit = (rest >> (30 - i).astype(jnp.uint32)) & 1
        carry, remainder = jnp.divmod(2 * remainder + bit * factor, divisor)
        return 2 * quotient + carry, remainder

    # The schoolbook product, bit by bit of one factor; no number on the way exceeds 3 * divisor.
    zero = rest * 0
    quotient, remainder = lax.fori_loop(0, 31, double_and_add, (zero, zero))
    return whole * factor + quotient.astype(jnp.int32), remainder.astype(jnp.int32)


def channel_statistics(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean and standard deviation of each channel, of grey levels 0 … 255.

    A channel of one grey level is given the deviation 1, so that it becomes 0 and not NaN.
    """
    pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
    deviation = pixels.std(0)
    return pixels.mean(0).astype(np.float32), np.where(deviation, deviation, 1).astype(np.float32)


def normalize(
    images: UInt8[Array, "b h w c"], mean: Float[Array, " c"], deviation: Float[Array, " c"]
) -> Float[Array, "b h w c"]:
    """``(images - mean) / deviation`` in float32: what the network sees."""
    return (images.astype(jnp.float32) - mean) / deviation
