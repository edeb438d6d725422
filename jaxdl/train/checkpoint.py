"""Checkpoints of a population in training, on Orbax."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
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

        A damaged one is told of and deleted. The members may be more or fewer than were saved, as
        on another number of devices: what only fills up the population, copies of the last
        member, is made anew or left out.

        Args:
          like: a population with the shapes, dtypes and shardings to restore to.

        Raises:
          DamagedFile: if the checkpoint holds other arrays, or is another version's.
        """
        while (step := self._manager.latest_step()) is not None:
            try:
                return self._read(step, like)
            except DamagedFile:
                raise
            except Exception as error:  # Orbax raises whatever the file system or decoder did
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self._manager.delete(step)
                before = self._manager.latest_step()
                then = f"that at step {before} is used" if before else "training begins anew"
                self._say(
                    f"checkpoint {self._folder / str(step)} was damaged ({reason[:200]}): {then}"
                )
        return Restored(like, 0, {})

    def _read(self, step: int, like: PyTree) -> Restored:
        where = f"checkpoint {self._folder / str(step)}"
        otherwise = f"delete {self._folder} to train these networks again"
        read = ocp.args.Composite(**{ABOUT: ocp.args.JsonRestore()})
        about = self._manager.restore(step, args=read)[ABOUT]
        for name, version in _versions().items():
            if about["versions"][name] != version:
                raise DamagedFile(
                    f"{where} was written by {name} {about['versions'][name]}, this is {version}: "
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

        def placed(leaf: np.ndarray, as_in: jax.Array) -> jax.Array:
            some = np.minimum(np.arange(len(as_in)), len(leaf) - 1)
            return place(leaf[some], as_in.sharding)

        return Restored(jax.tree.map(placed, saved, like), step, about["notes"])

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
        if step in self._manager.all_steps():
            return
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
        except Exception as error:  # the file system's faults come in many classes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise OSError(f"cannot save to {self._folder} ({reason[:300]})") from error


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
