"""Accuracies of a population, and what else its networks put out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdl import trees
from jaxdl.nn.metrics import correct
from jaxdl.train.parallel import shard_members, to_host
from jaxdl.train.population import Prepare, over_members
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper, PyTree

Logits = Callable[[TrainState, Hyper, Float[Array, "b ..."]], Float[Array, "*networks b k"]]
"""A member's logits in evaluation; with a leading axis where a member is several networks."""

Outputs = Callable[[TrainState, Hyper, Float[Array, "b ..."]], PyTree]
"""Whatever a member makes of images in evaluation: arrays with a leading [b]."""

Fetch = Callable[[Int[np.ndarray, "m b"]], Batch]
"""Stored images and labels of every member, by place; of a :class:`jaxdl.train.feed.Feed`."""

Accuracy = Callable[
    [TrainState, Hyper, Sequence[Int[np.ndarray, " n"]], Fetch], Float[np.ndarray, "m *networks"]
]


def make_accuracy(
    logits: Logits, prepare: Prepare, mesh: Mesh, batch: int, mode: str = "shard_map"
) -> Accuracy:
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

    hits_of = over_members(count, mesh, mode=mode)

    def accuracy(states, hypers, examples, fetch):
        right = sum(
            to_host(hits_of(states, hypers, stored, shard_members(mask, mesh), ()))
            for stored, mask in _batches(trees.members(states), examples, batch, fetch)
        )[: len(examples)]
        sizes = np.array([len(places) for places in examples])
        return right / sizes.reshape(-1, *[1] * (right.ndim - 1))

    return accuracy


def make_outputs(
    outputs: Outputs, prepare: Prepare, mesh: Mesh, batch: int, mode: str = "shard_map"
) -> Callable[..., list[PyTree]]:
    """Compile ``run(states, hypers, examples, fetch)``: what each member makes of its examples.

    Arguments as those of :func:`make_accuracy`; the result is a member's ``outputs``, on the host,
    for all its places in their order.
    """

    def one(state: TrainState, hyper: Hyper, stored: Batch, _: tuple) -> PyTree:
        return outputs(state, hyper, prepare(stored, hyper, None)["image"])

    outputs_of = over_members(one, mesh, mode=mode)

    def run(states, hypers, examples, fetch):
        parts = [
            to_host(outputs_of(states, hypers, stored, ()))
            for stored, _ in _batches(trees.members(states), examples, batch, fetch)
        ]
        return [
            jax.tree.map(lambda *of, i=i, n=n: np.concatenate([b[i] for b in of])[:n], *parts)
            for i, n in enumerate(map(len, examples))
        ]

    return run


def _batches(
    members: int, examples: Sequence[Int[np.ndarray, " n"]], batch: int, fetch: Fetch
) -> Generator[tuple[Batch, Bool[np.ndarray, "m b"]]]:
    """Each member's examples, batch by batch, and which of a batch count."""
    shape = members, -(-max(map(len, examples)) // batch) * batch
    ids, counts = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i in range(members):  # the last members may be copies that fill up the population
        places = examples[min(i, len(examples) - 1)]
        ids[i, : len(places)], ids[i, len(places) :] = places, places[0]
        counts[i, : len(places)] = True
    for start in range(0, shape[1], batch):
        some = slice(start, start + batch)
        yield fetch(ids[:, some]), counts[:, some]
