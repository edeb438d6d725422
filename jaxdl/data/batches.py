"""The order of examples in batches, the map from a step to a batch, the normalization of images.

The order of the data is a pure function of ``(key, step)``: epoch after epoch, each a permutation
of all examples, cut into batches as one endless sequence. So a run that is stopped and resumed,
or cut into other dispatches, sees the same examples in the same order.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Num, PRNGKeyArray, UInt32

from jaxdl.types import AnyArray, ArrayT


def shuffled(
    words: UInt32[ArrayT, " w"],
    epoch: Int[ArrayT, " *n"],
    position: Int[ArrayT, " *n"],
    examples: int | Int[Array, ""],
) -> Int[ArrayT, " *n"]:
    """The example at each position of an epoch: a permutation of ``0 … examples - 1`` an epoch.

    The "swap or not" shuffle (Hoang, Morris & Rogaway, CRYPTO 2012): in each of 32 rounds x is
    paired with ``K - x mod examples``, and a bit that depends on the pair decides whether the two
    change places. A position is looked up alone, with no list of the others; so an epoch of any
    length, also one known only to the running program, costs no memory and no sort.

    NumPy arrays are computed with NumPy, JAX's with JAX, with equal results.

    Args:
      words: a random key's data (``jax.random.key_data``).
      examples: below 2^31.
    """
    xp = position.__array_namespace__()
    u32 = xp.uint32
    n = xp.asarray(examples).astype(u32)
    seed = _mix(epoch.astype(u32) + u32(_GOLDEN))
    for i in range(len(words)):
        seed = _mix(seed ^ words[i].astype(u32))

    def swap_or_not(turn: Integer[AnyArray, "..."], x: UInt32[AnyArray, " *n"]):
        pivot = _mix(seed + turn * u32(2 * _GOLDEN % 2**32)) % n
        partner = xp.where(pivot >= x, pivot - x, pivot + n - x)
        salt = _mix(seed + turn * u32(2 * _GOLDEN % 2**32) + u32(_GOLDEN))
        coin = _mix(xp.maximum(x, partner) ^ salt)
        return xp.where(coin >> u32(31) == 1, partner, x)

    x = position.astype(u32)
    if xp is jnp:  # a loop compiles faster than its 32 rounds
        return lax.fori_loop(u32(0), u32(_ROUNDS), swap_or_not, x).astype(xp.int32)
    for turn in np.arange(_ROUNDS, dtype=u32)[:, None]:  # arrays wrap around, scalars complain
        x = swap_or_not(turn, x)
    return x.astype(xp.int32)


_ROUNDS = 32  # an example that no coin ever moved, one of 2^32, is the only one not at random
_GOLDEN = 0x9E3779B9


def _mix(x: UInt32[ArrayT, " *n"]) -> UInt32[ArrayT, " *n"]:
    """A one-to-one scrambling of 32 bits (the last step of Appleby's MurmurHash3)."""
    u32 = x.dtype.type
    x = (x ^ (x >> u32(16))) * u32(0x85EBCA6B)
    x = (x ^ (x >> u32(13))) * u32(0xC2B2AE35)
    return x ^ (x >> u32(16))


def batch_ids(
    key: PRNGKeyArray,
    first_step: int | np.integer | Int[AnyArray, ""],
    *,
    steps: int,
    batch: int,
    examples: int | np.integer | Int[AnyArray, ""],
) -> Int[Array, "steps batch"]:
    """The examples of ``steps`` consecutive batches, beginning with that of ``first_step``.

    Batch ``s`` holds positions ``s * batch … (s + 1) * batch - 1`` of the epochs laid end to
    end, each in the order of :func:`shuffled`: every example comes once an epoch, and a batch may
    end one epoch and begin the next.
    """
    count = lax.optimization_barrier(jnp.int32(examples))  # XLA:CPU cannot compile "% 1"
    # In int32 a position would overflow after 2^31 examples, so count in epochs and remainders.
    epochs_per_step, rest = jnp.divmod(batch, count)
    wraps, offset = _divmod_of_product(first_step, rest, count)
    epochs, positions = jnp.divmod(offset + jnp.arange(steps * batch), count)
    epochs = epochs + first_step * epochs_per_step + wraps
    return shuffled(jax.random.key_data(key), epochs, positions, count).reshape(steps, batch)


def host_batch_ids(
    words: UInt32[np.ndarray, " w"], step: int, *, batch: int, examples: int
) -> Int[np.ndarray, " batch"]:
    """Row ``step`` of :func:`batch_ids`, computed without JAX: for the workers that read files.

    Args:
      words: ``np.asarray(jax.random.key_data(key))``.
    """
    epochs, positions = np.divmod(step * batch + np.arange(batch), examples)
    return shuffled(words, epochs, positions, examples)


def _divmod_of_product(
    step: int | np.integer | AnyArray, factor: Array, divisor: Array
) -> tuple[Array, Array]:
    """``divmod(step * factor, divisor)`` where the product may not fit into 32 bits."""
    step, factor, divisor = (jnp.asarray(x).astype(jnp.uint32) for x in (step, factor, divisor))
    multiples, rest = jnp.divmod(step, divisor)

    def double_and_add(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, remainder = state
        bit = (rest >> jnp.uint32(30 - i)) & 1
        carry, remainder = jnp.divmod(2 * remainder + bit * factor, divisor)
        return 2 * quotient + carry, remainder

    # The schoolbook product, bit by bit of one factor; no number on the way exceeds 3 * divisor.
    zero = rest * 0
    quotient, remainder = lax.fori_loop(0, 31, double_and_add, (zero, zero))
    return (multiples * factor + quotient).astype(jnp.int32), remainder.astype(jnp.int32)


def normalize(
    images: Num[AnyArray, "b h w c"],
    mean: Float[AnyArray, "h w c"] | Float[AnyArray, " c"],
    deviation: Float[AnyArray, " c"],
) -> Float[Array, "b h w c"]:
    """``(images - mean) / deviation`` in float32: what the network sees."""
    mean, deviation = jnp.asarray(mean), jnp.asarray(deviation)[None, None, None]
    mean = mean[None] if mean.ndim == 3 else mean[None, None, None]
    return (jnp.asarray(images, jnp.float32) - mean) / deviation
