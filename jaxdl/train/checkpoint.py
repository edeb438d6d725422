"""Checkpoints of a population in training, on Orbax."""

from __future__ import annotations

import errno
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

import jaxdl
from jaxdl.train.parallel import place, to_host
from jaxdl.types import DamagedFile, PyTree

STATE, ABOUT = "state", "about"
"""What a checkpoint consists of: the population, and what is known of it, as JSON."""


class Restored(NamedTuple):
    """Where training goes on."""

    states: PyTree
    step: int
    notes: Mapping[str, Any]
    """What was given to :meth:`Checkpoints.save`."""


class Checkpoints:
    """The checkpoints of one training run in one folder; use as a context manager.

    Saving is asynchronous and atomic: a process killed at any moment leaves the last whole
    checkpoint behind, and what it left half written is cleared away on the next start. Of every
    array a checksum is kept. Where several processes train, all of them save and restore.

    Args:
      keep: so many of the latest stay, and the one of the highest score.
      say: told, in a line, when a checkpoint turns out to be damaged.
    """

    def __init__(self, folder: Path, keep: int = 2, say: Callable[[str], None] = print):
        self._folder, self._say = folder.resolve(), say
        best = BestN(
            get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        # What could not be written is said once, by whoever is first.
        with nullcontext() if kind is None else suppress(Exception):
            self._written(self._manager.close)

    def restore(self, like: PyTree) -> Restored:
        """The latest checkpoint that is whole, or ``like`` and step 0 where there is none.

        A damaged one is told of, and set aside as ``STEP.damaged``. The members may be more or
        fewer than were saved, as on another number of devices: what only fills up the population,
        copies of the last member, is made anew or left out.

        Args:
          like: a population with the shapes, dtypes and shardings to restore to.

        Raises:
          DamagedFile: if the checkpoint holds other arrays, or is another version's.
          OSError: if it cannot be read for another reason than damage.
        """
        while (step := self._manager.latest_step()) is not None:
            reason = found = None
            try:
                found = self._read(step, like)
            except DamagedFile:
                raise
            # What decoders raise on bytes that mean nothing, and what is said of files gone. The
            # rest, such as too many open files or too little memory, is no fault of the files.
            except DAMAGE as error:
                reason = _reason(error)
            if not _any_process(reason is not None):
                saved, notes = found
                return Restored(jax.tree.map(_placed, saved, like), step, notes)
            self._set_aside(step)
            before = self._manager.latest_step()
            then = f"that at step {before} is used" if before else "training begins anew"
            where = self._folder / str(step)
            why = reason or "for another process"
            self._say(f"checkpoint {where} was damaged ({why}), now {step}.damaged: {then}")
        return Restored(like, 0, {})

    def _set_aside(self, step: int) -> None:
        damaged = self._folder / f"{step}.damaged"
        if jax.process_index() == 0:
            shutil.rmtree(damaged, ignore_errors=True)
            (self._folder / str(step)).rename(damaged)
        _any_process(False)  # wait for the first
        self._manager.reload()

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, Mapping[str, Any]]:
        """Arrays of the host, in the structure of ``like``, and the notes."""
        where = f"checkpoint {self._folder / str(step)}"
        otherwise = f"delete {self._folder} to train these networks again"
        read = ocp.args.Composite(**{ABOUT: ocp.args.JsonRestore()})
        about = self._manager.restore(step, args=read)[ABOUT]
        for name, version in _versions().items():
            if (other := about["versions"].get(name)) != version:
                raise DamagedFile(
                    f"{where} was written by {name} {other}, this is {version}: "
                    f"go on with that version, or {otherwise}"
                )
        known, wanted = about["arrays"], _described(like)
        for name in sorted(known.keys() | wanted.keys()):
            # But for the members, which may be more or fewer.
            there, now = (
                (of[name]["dtype"], *of[name]["shape"][1:]) if name in of else "none"
                for of in (known, wanted)
            )
            if there != now:
                raise DamagedFile(
                    f"{where} is of another program: its {name} is {there}, now it is {now}; "
                    f"{otherwise}"
                )
        empty = [np.empty(known[n]["shape"], known[n]["dtype"]) for n in wanted]
        target = jax.tree.unflatten(jax.tree.structure(like), empty)
        read = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)})
        saved = self._manager.restore(step, args=read)[STATE]
        for name, leaf in zip(wanted, jax.tree.leaves(saved), strict=True):
            if zlib.crc32(np.ascontiguousarray(leaf)) != known[name]["crc"]:
                raise ValueError(f"{name} is not what was saved")
        return saved, about["notes"]

    def save(
        self,
        step: int,
        states: PyTree,
        notes: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Begin to save; training may go on at once and may reuse the states' memory.

        Args:
          notes: what else is to be known when training goes on, as JSON has it.
          score: how good the networks are; the checkpoint of the highest stays.

        Raises:
          OSError: if this or the checkpoint before could not be written.
        """
        host = jax.tree.leaves(to_host(states))
        arrays = _described(states)
        for leaf, array in zip(host, arrays.values(), strict=True):
            array["crc"] = zlib.crc32(np.ascontiguousarray(leaf))
        about = {"arrays": arrays, "versions": _versions(), "notes": dict(notes or {})}
        # On CPU Orbax writes from the arrays' own memory, which the next dispatch will reuse.
        args = {
            STATE: ocp.args.StandardSave(jax.tree.map(jnp.copy, states)),
            ABOUT: ocp.args.JsonSave(about),
        }
        metrics = None if score is None else {"score": score}
        self._written(
            lambda: self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)
        )

    def wait(self) -> None:
        """Return when what was saved is on disk; raises as :meth:`save` does."""
        self._written(self._manager.wait_until_finished)

    def _written(self, what: Callable[[], object]) -> None:
        try:
            what()
        except jax.errors.JaxRuntimeError:  # another process is gone: no fault of the files
            raise
        # The file system's own, and TensorStore's, which has none of its own.
        except (OSError, ValueError, RuntimeError) as error:
            said = f"cannot save: {_reason(error)}"
            raise OSError(errno.EIO, said, str(self._folder)) from error


DAMAGE = (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError)


def _placed(leaf: np.ndarray, like: jax.Array) -> jax.Array:
    some = np.minimum(np.arange(len(like)), len(leaf) - 1)
    return place(leaf[some], like.sharding)


def _any_process(it_is: bool) -> bool:
    """Whether it is so on any process; returns when all have asked."""
    if jax.process_count() == 1:
        return it_is
    return bool(multihost_utils.process_allgather(np.array(it_is)).any())


def _reason(error: Exception) -> str:
    """What Orbax or TensorStore say, in a line: they repeat long paths before they come to it."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r'"/[^"]*/([^"/]*)"', r'"\1"', line)[:300]


def _versions() -> dict[str, str]:
    """Of the code that a checkpoint goes on under bit for bit."""
    return {"jaxdl": jaxdl.__version__, "jax": jax.__version__}


def _described(tree: PyTree) -> dict[str, dict[str, Any]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {
            "dtype": str(leaf.dtype),
            "shape": list(leaf.shape),
        }
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
