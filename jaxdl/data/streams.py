"""Batches read from files while a network trains, for data that does not fit on a device."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from multiprocessing import resource_tracker
from typing import NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Int, UInt32

from jaxdl.data.batches import host_batch_ids
from jaxdl.data.encoded import cores
from jaxdl.data.source import Images, Split


class Order(NamedTuple):
    """The arguments that determine a member's batches, see :func:`jaxdl.data.batches.batch_ids`."""

    words: UInt32[np.ndarray, " w"]
    """The data of the member's random key."""
    examples: Int[np.ndarray, " n"]
    """Indices of the member's examples in the data."""


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """The concatenation of several splits' arrays, without a copy."""

    parts: tuple[Images, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the joined array."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The type of the joined array."""
        return np.dtype(getattr(self.parts[0], "dtype", np.uint8))

    def __getitem__(self, index: int) -> np.ndarray:
        for part in self.parts:
            if index < part.shape[0]:
                return part[index]
            index -= part.shape[0]
        raise IndexError(index)


def joined(splits: Sequence[Split]) -> Split:
    """The concatenation of splits: images and masks are not copied, other arrays are."""

    def join(parts: tuple[Images, ...]) -> Images:
        if all(len(part.shape) < 3 for part in parts):
            return np.concatenate([np.asarray(part) for part in parts])
        return Joined(parts)

    return {name: join(tuple(split[name] for split in splits)) for name in splits[0]}


def read(
    array: Images,
    ids: Int[np.ndarray, " *b"],
    threads: Executor | None = None,
) -> np.ndarray:
    """Rows [*b, ...] by their indices, read by several threads if given, each once."""
    if isinstance(array, np.ndarray):
        return array[ids]
    unique, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    batch = np.empty((ids.size, *array.shape[1:]), getattr(array, "dtype", np.uint8))
    rows = (threads.map if threads else map)(array.__getitem__, unique.tolist())
    for position, row in zip(first, rows, strict=True):
        batch[position] = row
    batch = batch if len(unique) == ids.size else batch[first[inverse.reshape(-1)]]
    return batch.reshape(*ids.shape, *array.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class _ReadStep:
    """A function from a step to the batches of all members, or to the error in one of their rows.

    A worker process gets a copy of this.
    """

    data: Split
    orders: Sequence[Order]
    batch: int
    share: slice

    def __call__(self, step: int) -> dict[str, np.ndarray | Exception]:
        block, row = divmod(step, TOGETHER)
        ids = self._orders_of(block)[:, row]
        try:
            return {name: read(array, ids) for name, array in self.data.items()}
        except (ValueError, OSError) as error:
            return {"error": error}  # grain's own way would keep a batch alive, in a cycle

    @functools.cached_property
    def _orders_of(self) -> Callable[[int], Int[np.ndarray, "m steps b"]]:
        """The places of ``TOGETHER`` steps, which take hardly longer to compute than those of one:
        as of a batch that is so many times as large."""

        @functools.lru_cache(maxsize=2)  # reading ahead may be in the next block
        def orders_of(block: int) -> Int[np.ndarray, "m steps b"]:
            places = []
            for words, examples in self.orders:
                ids = host_batch_ids(
                    words, block, batch=TOGETHER * self.batch, examples=len(examples)
                )
                places.append(examples[ids.reshape(TOGETHER, self.batch)[:, self.share]])
            return np.stack(places)

        return orders_of


def stream(
    data: Split,
    orders: Sequence[Order],
    *,
    batch: int,
    steps: range,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Generator[dict[str, np.ndarray]]:
    """The batches of all members at each of ``steps``, [m, b, ...] of each array by its name.

    The sequence of examples is that of :func:`jaxdl.data.batches.batch_ids`, whatever reads it,
    and can be entered at any step. A few batches are read ahead. Close the iterator to end what
    reads; a row that cannot be read raises its error when its batch is due.

    Args:
      data: the examples, read by index; of several splits :func:`joined`.
      orders: one a member.
      batch: the size of a whole batch, of which this host reads its share.
      workers: processes that read; 0 for threads of this one, which is enough where decoding in
        Pillow takes the time: not of images of 28 x 28, say.
      host, hosts: the share to read; ``jax.process_index()`` and ``jax.process_count()``.

    Raises:
      ValueError: if the batch does not divide over the hosts.
    """
    if batch % hosts:
        raise ValueError(f"a batch of {batch} does not divide over {hosts} hosts")
    part = batch // hosts
    share = slice(host * part, (host + 1) * part)
    work = _ReadStep(data, list(orders), batch, share)
    dataset = grain.MapDataset.range(steps.start, steps.stop, steps.step).map(work)
    # Of small images Python takes most of the time, which threads only take from one another.
    large = any(len(a.shape) == 4 and min(a.shape[1:3]) >= 64 for a in data.values())
    threads = cores() if large else 1
    read_options = grain.ReadOptions(
        num_threads=0 if workers else threads, prefetch_buffer_size=AHEAD
    )
    batches = dataset.to_iter_dataset(read_options)
    if workers:
        if not flags.FLAGS.is_parsed():  # in a script without absl; grain reads its options there
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(workers, AHEAD), _begin_worker)
        return _delivered(_without_interrupts(iter(batches)))
    return _delivered(iter(batches))


def _delivered(items: grain.DatasetIterator | Generator) -> Generator[dict[str, np.ndarray]]:
    try:
        yield from map(_unpack, items)
    finally:
        items.close()


def _without_interrupts(items: grain.DatasetIterator) -> Generator[dict]:
    """A process begins with the blocked signals of the thread that starts it: worker processes,
    which any of the first calls may start, can so be interrupted at no time."""
    resource_tracker.ensure_running()  # it unblocks the signal where it is started
    with closing(items):
        while True:
            signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                item = next(items, None)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
            if item is None:
                return
            yield item


def _unpack(item: dict) -> dict[str, np.ndarray]:
    """A batch of our own: that of a worker lies in memory which grain frees when it is let go, but
    at the end of the process not without a warning."""
    if "error" in item:
        raise item["error"]
    return {k: v if type(v) is np.ndarray else np.array(v) for k, v in item.items()}


def _begin_worker(worker: int, workers: int) -> None:
    """Control-C goes to all processes of a terminal; the main one saves first, then closes this.

    Where it has no time to, being killed, its workers would wait for it for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


AHEAD, TOGETHER = 4, 32
