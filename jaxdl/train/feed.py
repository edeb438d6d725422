"""Feeds: examples are on the devices from the start, or come batch by batch during training.

A network sees the same examples in the same order with both.
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
from jaxtyping import Int

from jaxdl.data import streams
from jaxdl.data.encoded import cores, in_memory
from jaxdl.data.source import Split
from jaxdl.train.parallel import MEMBERS, STREAM, MeshPlacement, to_host
from jaxdl.train.population import Prepare, Training, order_keys, train_resident, train_streamed
from jaxdl.train.state import Step
from jaxdl.types import Batch, Hyper, PyTree


@runtime_checkable
class Feed(Protocol):
    """Splits laid end to end, and their way to the devices."""

    placement: MeshPlacement

    def program(self, step: Step, prepare: Prepare, *, steps: int, batch: int) -> Training:
        """``run(states, hypers, data)``: train a population ``steps`` steps a dispatch."""

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The ``data`` of each dispatch of ``steps`` steps, over a span of steps."""

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """Arrays [m, b, ...] by name: the examples of these indices, of each member of a
        population its own."""


class Resident:
    """All examples on every device, images as bytes; a step gathers its batch there.

    Args:
      splits: or a function that makes them when they are first needed, such as features of a
        network that is trained before.
    """

    def __init__(
        self,
        splits: Mapping[Any, Split] | Callable[[], Mapping[Any, Split]],
        placement: MeshPlacement,
    ):
        self._splits, self.placement = splits, placement
        self._gather = jax.jit(
            lambda data, ids: jax.tree.map(lambda leaf: leaf[ids], data),
            out_shardings=placement.sharding(MEMBERS),
        )
        if not callable(splits):
            self.data  # noqa: B018  # there is nothing to wait for

    @cached_property
    def data(self) -> Batch:
        """The examples of all splits end to end."""
        splits = self._splits() if callable(self._splits) else self._splits

        def join(name: str) -> np.ndarray:
            parts = [in_memory(split[name]) for split in splits.values()]
            return np.concatenate(parts) if len(parts) > 1 else parts[0]

        return self.placement.replicate({name: join(name) for name in next(iter(splits.values()))})

    def program(self, step: Step, prepare: Prepare, *, steps: int, batch: int) -> Training:
        """See :class:`Feed`."""
        return train_resident(step, prepare, self.placement, steps=steps, batch=batch)

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The same data for every dispatch: the program knows the order of the examples."""
        while True:
            yield self.data

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """See :class:`Feed`."""
        return self._gather(self.data, self.placement.shard_members(ids))


class Streamed:
    """Examples in files or in the host's memory; a batch comes to the devices when it is its turn.

    Each process reads the examples of its own devices.

    Args:
      workers: processes that read batches; 0 for threads.

    Raises:
      ValueError: if a process's devices are no equal part of the mesh.
    """

    def __init__(self, splits: Mapping[Any, Split], placement: MeshPlacement, workers: int = 0):
        self._data, self.placement = streams.joined(tuple(splits.values())), placement
        self._workers = workers
        self._rows, self._columns = placement.part_of_process()
        self._threads = ThreadPoolExecutor(cores())

    @property
    def example_size(self) -> int:
        """Bytes of an example."""
        return sum(
            prod(array.shape[1:]) * np.dtype(getattr(array, "dtype", np.uint8)).itemsize
            for array in self._data.values()
        )

    def program(self, step: Step, prepare: Prepare, *, steps: int, batch: int) -> Training:
        """See :class:`Feed`."""
        return train_streamed(step, prepare, self.placement)

    def dispatches(
        self, hypers: Hyper, span: range, *, steps: int, batch: int
    ) -> Generator[PyTree]:
        """The batches of each dispatch, [members, steps, batch, *streams, …]."""
        sharding = self.placement.sharding(STREAM)
        words = to_host(jax.vmap(lambda h: jax.random.key_data(order_keys(h)))(hypers))
        arrays = words, to_host(hypers["examples"]), to_host(hypers["count"])
        local = self._local_members(len(words))
        words, examples, counts = (array[local] for array in arrays)
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
            hosts=self.placement.data_devices // width,
        )
        with closing(reading):
            for _ in span[::steps]:
                chunk = [jax.tree.map(by_member, next(reading)) for _ in range(steps)]
                chunk = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *chunk)
                yield jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), chunk)

    def fetch(self, ids: Int[np.ndarray, "m b"]) -> Batch:
        """See :class:`Feed`."""
        ids = ids[self._local_members(len(ids))]
        batch = {name: streams.read(a, ids, self._threads) for name, a in self._data.items()}
        sharding = self.placement.sharding(MEMBERS)
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), batch)

    def _local_members(self, members: int) -> slice:
        """The members, among so many, on this process's devices."""
        share = members // self.placement.member_devices
        return slice(self._rows.start * share, self._rows.stop * share)


FEEDS = ("auto", "resident", "streamed")


def make_feed(
    kind: str, splits: Mapping[Any, Split], placement: MeshPlacement, workers: int = 0
) -> Feed:
    """The feed of a kind; "auto" is resident if the data take less than a quarter of each device's
    memory.

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
        kind = "resident" if size < device_memory(placement) / 4 else "streamed"
    if kind == "resident":
        return Resident(splits, placement)
    return Streamed(splits, placement, workers)


def check_stream(feed: Feed, *, members: int, steps: int, batch: int) -> None:
    """Raise ValueError where the images of one dispatch of a stream would fill the memory."""
    if not isinstance(feed, Streamed):
        return
    placement = feed.placement
    members = max(members, placement.member_devices)
    size = members * steps * batch * feed.example_size
    if size > device_memory(placement) * placement.mesh.size / 8:
        raise ValueError(
            f"steps_per_dispatch={steps} steps of {members} networks would stream "
            f"{size / 1e9:.1f} GB at a time: set a smaller number, 10 or so, or fewer "
            "members_per_round"
        )


def device_memory(placement: MeshPlacement) -> int:
    """Bytes a device; CPU devices share the machine's."""
    mesh = placement.mesh
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // mesh.local_mesh.size
