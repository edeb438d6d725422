"""How examples reach the devices: all at once, before training, or batch by batch, during it.

Either way a network sees the same examples in the same order.
"""

import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from jaxdl.data import streams
from jaxdl.data.encoded import cores, in_memory
from jaxdl.data.source import Split
from jaxdl.train.parallel import part_of_process, replicate, shard_members, to_host
from jaxdl.train.population import Prepare, Training, order_keys, train_resident, train_streamed
from jaxdl.train.state import Step
from jaxdl.types import Batch, Hyper, PyTree


@runtime_checkable
class Feed(Protocol):
    """Splits laid end to end, and the way from there to the devices."""

    def program(
        self, step: Step, prepare: Prepare, *, steps: int, batch: int, mode: str = "shard_map"
    ) -> Training:
        """``run(states, hypers, data)``: train a population ``steps`` steps a dispatch."""

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The ``data`` of each dispatch of ``steps`` steps, over a span of steps."""

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """Arrays [m, b, ...] by name, for each member of a population its places."""


class Resident:
    """All examples on every device, images as bytes; a step gathers its batch there.

    Args:
      splits: or what makes them when they are first needed, as features of a network that is to be
        trained before.
    """

    def __init__(self, splits: Mapping[Any, Split] | Callable[[], Mapping[Any, Split]], mesh: Mesh):
        self._splits, self._mesh = splits, mesh
        members = NamedSharding(mesh, P("member"))
        self._gather = jax.jit(
            lambda data, ids: jax.tree.map(lambda leaf: leaf[ids], data), out_shardings=members
        )
        if not callable(splits):
            self.data  # noqa: B018  # there is nothing to wait for

    @cached_property
    def data(self) -> Batch:
        """The examples of all splits end to end."""
        splits = self._splits() if callable(self._splits) else self._splits

        def whole(name: str) -> np.ndarray:
            parts = [in_memory(split[name]) for split in splits.values()]
            return np.concatenate(parts) if len(parts) > 1 else parts[0]

        return replicate({name: whole(name) for name in next(iter(splits.values()))}, self._mesh)

    def program(
        self, step: Step, prepare: Prepare, *, steps: int, batch: int, mode: str = "shard_map"
    ) -> Training:
        """See :class:`Feed`."""
        return train_resident(step, prepare, self._mesh, steps=steps, batch=batch, mode=mode)

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The same data for every dispatch: what comes when is known to the program."""
        while True:
            yield self.data

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """See :class:`Feed`."""
        return self._gather(self.data, shard_members(ids, self._mesh))


class Streamed:
    """Examples in files or in the host's memory; a batch comes to the devices when it is its turn.

    Each process reads what its own devices need.

    Raises:
      ValueError: if these are no equal part of the mesh.
    """

    def __init__(self, splits: Mapping[Any, Split], mesh: Mesh, workers: int = 0):
        self._data, self._mesh = streams.joined(tuple(splits.values())), mesh
        self._workers = workers
        self._places, self._columns = part_of_process(mesh)
        self._threads = ThreadPoolExecutor(cores())

    @property
    def example_size(self) -> int:
        """Bytes of an example."""
        return sum(
            prod(array.shape[1:]) * np.dtype(getattr(array, "dtype", np.uint8)).itemsize
            for array in self._data.values()
        )

    def program(
        self, step: Step, prepare: Prepare, *, steps: int, batch: int, mode: str = "shard_map"
    ) -> Training:
        """See :class:`Feed`."""
        return train_streamed(step, prepare, self._mesh, mode=mode)

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The batches of each dispatch, [members, steps, batch, *streams, …]."""
        divided = NamedSharding(self._mesh, P("member", None, "data"))
        words = to_host(jax.vmap(lambda h: jax.random.key_data(order_keys(h)))(hypers))
        rows = self._members(len(words))
        words, examples, counts = (
            whole[rows] for whole in (words, to_host(hypers["examples"]), to_host(hypers["count"]))
        )
        orders = [
            streams.Order(words[i], examples[i][: counts[i]]) for i in np.ndindex(counts.shape)
        ]
        columns = self._columns
        width = columns.stop - columns.start

        def by_member(leaf: np.ndarray) -> np.ndarray:
            leaf = leaf.reshape(*counts.shape, *leaf.shape[1:])
            return np.moveaxis(leaf, 1, 2) if counts.ndim > 1 else leaf

        reading = streams.stream(
            self._data,
            orders,
            batch=batch,
            steps=span,
            workers=self._workers,
            host=columns.start // width,
            hosts=self._mesh.shape["data"] // width,
        )
        with closing(reading):
            for _ in span[::steps]:
                chunk = [jax.tree.map(by_member, next(reading)) for _ in range(steps)]
                chunk = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *chunk)
                yield jax.tree.map(partial(jax.make_array_from_process_local_data, divided), chunk)

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """See :class:`Feed`."""
        ids = ids[self._members(len(ids))]
        batch = {name: streams.read(a, ids, self._threads) for name, a in self._data.items()}
        members = NamedSharding(self._mesh, P("member"))
        return jax.tree.map(partial(jax.make_array_from_process_local_data, members), batch)

    def _members(self, members: int) -> slice:
        """Those of so many members that are on this process's devices."""
        per_place = members // self._mesh.shape["member"]
        return slice(self._places.start * per_place, self._places.stop * per_place)


FEEDS = ("auto", "resident", "streamed")


def make_feed(kind: str, splits: Mapping[Any, Split], mesh: Mesh, workers: int = 0) -> Feed:
    """The feed of that kind; "auto" is resident if the data take less than a quarter of each
    device's memory.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind not in FEEDS:
        raise ValueError(f"unknown feed {kind!r}: choose one of {', '.join(FEEDS)}")
    size = sum(
        prod(array.shape) * np.dtype(getattr(array, "dtype", np.uint8)).itemsize
        for split in splits.values()
        for array in split.values()
    )
    if kind == "auto":
        kind = "resident" if size < device_memory(mesh) / 4 else "streamed"
    return Resident(splits, mesh) if kind == "resident" else Streamed(splits, mesh, workers)


def check_stream(feed: Feed, mesh: Mesh, *, members: int, steps: int, batch: int) -> None:
    """Raise ValueError where the images of one dispatch of a stream would fill the memory."""
    if not isinstance(feed, Streamed):
        return
    members = max(members, mesh.shape["member"])
    size = members * steps * batch * feed.example_size
    if size > device_memory(mesh) * mesh.size / 8:
        raise ValueError(
            f"steps_per_dispatch={steps} steps of {members} networks would stream "
            f"{size / 1e9:.1f} GB at a time: set a smaller number, 10 or so, or fewer "
            "members_per_round"
        )


def device_memory(mesh: Mesh) -> int:
    """Bytes a device; CPU devices share the machine's."""
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // mesh.local_mesh.size
