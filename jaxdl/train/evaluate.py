"""Accuracies of a population."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdl import trees
from jaxdl.nn.losses import correct
from jaxdl.train.parallel import shard_members
from jaxdl.train.population import Prepare, over_members
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper

Logits = Callable[[TrainState, Hyper, Float[Array, "b ..."]], Float[Array, "*networks b k"]]
"""A member's logits in evaluation; with a leading axis where a member is several networks."""

Fetch = Callable[[Int[np.ndarray, "m b"]], Batch]
"""Stored images and labels of every member, by place; of a :class:`jaxdl.train.feed.Feed`."""

Accuracy = Callable[
    [TrainState, Hyper, Sequence[Int[np.ndarray, " n"]], Fetch], Float[np.ndarray, "m *networks"]
]


def make_accuracy(logits: Logits, prepare: Prepare, mesh: Mesh, batch: int) -> Accuracy:
    """Compile ``accuracy(states, hypers, examples, fetch)``: the fraction each network gets right.

    ``examples`` are each member's own places in the data that ``fetch`` reads, of any length; what
    fills up the population and the last batch is not counted. NaN for a network that puts out NaN
    or infinities.
    """

    def count(
        state: TrainState, hyper: Hyper, stored: Batch, counts: Bool[Array, " b"], _: tuple
    ) -> Array:
        seen = prepare(stored, hyper, None)
        guesses = logits(state, hyper, seen["image"])
        hits = correct(guesses, seen["label"]).astype(jnp.float32)
        # A network that has diverged has no accuracy; whatever argmax makes of NaN is not one.
        hits = jnp.where(jnp.all(jnp.isfinite(guesses), axis=-1), hits, jnp.nan)
        return jnp.sum(jnp.where(counts, hits, 0), axis=-1)

    hits_of = over_members(count, mesh)

    def accuracy(states, hypers, examples, fetch):
        members, longest = trees.members(states), max(map(len, examples))
        shape = members, -(-longest // batch) * batch
        ids, counts = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for i in range(members):  # the last members may be copies that fill up the population
            places = examples[min(i, len(examples) - 1)]
            ids[i, : len(places)], ids[i, len(places) :] = places, places[0]
            counts[i, : len(places)] = True
        right = 0
        for start in range(0, shape[1], batch):
            some = slice(start, start + batch)
            mask = shard_members(counts[:, some], mesh)
            right += np.asarray(hits_of(states, hypers, fetch(ids[:, some]), mask, ()))
        right = right[: len(examples)]
        sizes = np.array([len(places) for places in examples])
        return right / sizes.reshape(-1, *[1] * (right.ndim - 1))

    return accuracy
