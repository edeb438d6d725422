"""Accuracies of a population."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxdl import trees
from jaxdl.nn.losses import correct
from jaxdl.train.population import Gather, over_members, population_of
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper, PyTree

Logits = Callable[[TrainState, Hyper, Float[Array, "b ..."]], Float[Array, "*networks b k"]]
"""A member's logits in evaluation; with a leading axis where a member is several networks."""

Accuracy = Callable[
    [TrainState, Hyper, Sequence[Int[np.ndarray, " n"]], PyTree], Float[np.ndarray, "m *networks"]
]


def make_accuracy(logits: Logits, gather: Gather, mesh: Mesh, batch: int) -> Accuracy:
    """Compile ``accuracy(states, hypers, examples, data)``: the fraction each network gets right.

    ``examples`` are each member's own places in ``data``, of any length; what fills up the
    population and the last batch is not counted. NaN for a network that puts out NaN or
    infinities.
    """

    def count(state: TrainState, hyper: Hyper, ids: Int[Array, " b"], data: PyTree) -> Array:
        seen = gather(data, hyper, jnp.maximum(ids, 0))
        guesses = logits(state, hyper, seen["image"])
        hits = correct(guesses, seen["label"]).astype(jnp.float32)
        # A network that has diverged has no accuracy; whatever argmax makes of NaN is not one.
        hits = jnp.where(jnp.all(jnp.isfinite(guesses), axis=-1), hits, jnp.nan)
        return jnp.sum(jnp.where(ids >= 0, hits, 0), axis=-1)

    counts = over_members(count, mesh)

    def accuracy(states, hypers, examples, data):
        longest = max(map(len, examples))
        ids = np.full((len(examples), -(-longest // batch) * batch), -1, np.int32)
        for row, places in zip(ids, examples, strict=True):
            row[: len(places)] = places
        ids = population_of(list(ids), trees.members(states), mesh)
        batches = jnp.split(ids, ids.shape[1] // batch, axis=1)
        right = sum(np.asarray(counts(states, hypers, some, data)) for some in batches)
        sizes = np.array([len(places) for places in examples])
        right = right[: len(examples)]
        return right / sizes.reshape(-1, *[1] * (right.ndim - 1))

    return accuracy
