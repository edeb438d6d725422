"""Checkpoints of a population in training, on Orbax, and the trained networks in them."""

import errno
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import LatestN

from jaxdl import trees
from jaxdl.nn.weights import flatten, unflatten
from jaxdl.train.parallel import put, to_host
from jaxdl.types import DamagedFile, PyTree, Variables

STATE, ABOUT = "state", "about"
"""The two parts of a checkpoint: the population's arrays, and their description as JSON."""


class Restored(NamedTuple):
    """A population from which training goes on."""

    states: PyTree
    step: int
    notes: Mapping[str, Any]
    """Those of :meth:`Checkpoints.save`."""


class Checkpoints:
    """The checkpoints of one training run in one folder; use as a context manager.

    Saving is asynchronous and atomic: a process killed at any moment leaves the last whole
    checkpoint behind, and half-written ones are removed on the next start. Every array is saved
    with a checksum. Where several processes train, all of them save and restore.

    Args:
      keep: how many checkpoints are kept, the latest.
      say: called with a line for the user about a checkpoint that is damaged or of another version.
    """

    def __init__(self, folder: Path, keep: int = 2, say: Callable[[str], None] = print):
        self._folder, self._say = folder.resolve(), say
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._identity = self._folder.stat()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        # A failure to write is reported once: not again while another exception passes.
        with nullcontext() if kind is None else suppress(Exception):
            self._written(self._manager.close)

    def restore(self, like: PyTree) -> Restored:
        """The latest checkpoint that is whole, or ``like`` and step 0 where there is none.

        A damaged checkpoint is reported and renamed to ``STEP.damaged``. One of another version is
        reported and used; results then differ by rounding. The members may be more or fewer than
        were saved, as on another number of devices: the copies of the last member that fill up the
        population are made anew or left out.

        Args:
          like: a population with the shapes, dtypes and shardings to restore to.

        Raises:
          DamagedFile: if the checkpoint holds other arrays.
          OSError: if it cannot be read for another reason than damage.
        """
        while (step := self._manager.latest_step()) is not None:
            reason: str | None = None
            restored: Any = None
            try:
                restored = self._read(step, like)
            except DamagedFile:
                raise
            # Decoders raise these for meaningless bytes, and readers for missing files. Other
            # errors, such as too many open files or too little memory, are no fault of the files.
            except DAMAGE as error:
                reason = _reason(error)
            if not _any_process(reason is not None):
                saved, notes, written_by = restored
                if differences := _other_versions(written_by):
                    folder = self._folder / str(step)
                    self._say(f"checkpoint {folder} {differences}: results differ by rounding")
                return Restored(jax.tree.map(_put_like, saved, like), step, notes)
            self._set_aside(step)
            earlier = self._manager.latest_step()
            fallback = f"that at step {earlier} is used" if earlier else "training begins anew"
            damage = f"was damaged ({reason or 'for another process'}), now {step}.damaged"
            self._say(f"checkpoint {self._folder / str(step)} {damage}: {fallback}")
        return Restored(like, 0, {})

    def _set_aside(self, step: int) -> None:
        damaged = self._folder / f"{step}.damaged"
        if jax.process_index() == 0:
            shutil.rmtree(damaged, ignore_errors=True)
            (self._folder / str(step)).rename(damaged)
        _any_process(False)  # wait for the first
        self._manager.reload()

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, Mapping[str, Any], Mapping[str, str]]:
        """Arrays of the host, in the structure of ``like``, the notes, and the versions."""
        prefix = f"checkpoint {self._folder / str(step)}"
        remedy = f"delete {self._folder} to train these networks again"
        read = ocp.args.Composite(**{ABOUT: ocp.args.JsonRestore()})
        about = self._manager.restore(step, args=read)[ABOUT]
        stored, expected = about["arrays"], _describe(like)
        for name in sorted(stored.keys() | expected.keys()):
            # Without the first axis: the members may be more or fewer.
            old, new = (
                (arrays[name]["dtype"], *arrays[name]["shape"][1:]) if name in arrays else "none"
                for arrays in (stored, expected)
            )
            if old != new:
                raise DamagedFile(
                    f"{prefix} is of another program: its {name} is {old}, now it is {new}; "
                    f"{remedy}"
                )
        empty = [np.empty(stored[n]["shape"], stored[n]["dtype"]) for n in expected]
        target = jax.tree.unflatten(jax.tree.structure(like), empty)
        read = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)})
        saved = self._manager.restore(step, args=read)[STATE]
        for name, leaf in zip(expected, jax.tree.leaves(saved), strict=True):
            if zlib.crc32(np.ascontiguousarray(leaf).data) != stored[name]["crc"]:
                raise ValueError(f"{name} is not what was saved")
        return saved, about["notes"], about["versions"]

    def save(
        self,
        step: int,
        states: PyTree,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to save; training may go on at once and may reuse the states' memory.

        Args:
          notes: further numbers and words that training needs to go on, in types of JSON.

        Raises:
          OSError: if this or the checkpoint before could not be written.
        """
        host = jax.tree.leaves(to_host(states))
        arrays = _describe(states)
        for leaf, array in zip(host, arrays.values(), strict=True):
            array["crc"] = zlib.crc32(np.ascontiguousarray(leaf).data)
        about = {"arrays": arrays, "versions": _versions(), "notes": dict(notes or {})}
        # On CPU Orbax writes from the arrays' own memory, which the next dispatch will reuse.
        args = {
            STATE: ocp.args.StandardSave(jax.tree.map(jnp.copy, states)),
            ABOUT: ocp.args.JsonSave(about),
        }
        self._written(lambda: self._manager.save(step, args=ocp.args.Composite(**args)))

    def wait(self) -> None:
        """Return when the checkpoints are on disk; raises as :meth:`save` does."""
        self._written(self._manager.wait_until_finished)

    def _written(self, write: Callable[[], object]) -> None:
        try:
            write()
        except jax.errors.JaxRuntimeError:  # another process is gone: no fault of the files
            raise
        # The file system's errors, and TensorStore's, which has no class of its own.
        except (OSError, ValueError, RuntimeError) as error:
            reason = _reason(error) if self._is_there() else "the folder is gone: move it back"
            raise OSError(errno.EIO, f"cannot save: {reason}", str(self._folder)) from error

    def _is_there(self) -> bool:
        """Whether the folder is still the same: Orbax makes another where it was moved away."""
        try:
            return os.path.samestat(self._folder.stat(), self._identity)
        except OSError:
            return False


DAMAGE = (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError)


def _put_like(leaf: np.ndarray, like: jax.Array) -> jax.Array:
    rows = np.minimum(np.arange(len(like)), len(leaf) - 1)
    return put(leaf[rows], like.sharding)


def _any_process(value: bool) -> bool:
    """Logical OR over processes; blocks until all have called it."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def _reason(error: Exception) -> str:
    """The first line of a message of Orbax or TensorStore, its long paths shortened.

    TensorStore appends its whole specification and the system's error number in brackets.
    """
    line = next(iter(str(error).splitlines()), type(error).__name__)
    line = re.sub(r" \[\w+='.*", "", line)
    return re.sub(r'"/[^"]*/([^"/]*)"', r'"\1"', line)[:300]


def _versions() -> dict[str, str]:
    """The versions of the code under which training from a checkpoint goes on bit for bit."""
    # Of jaxdl's metadata: the module may be without its own, where a folder has its name.
    return {"jaxdl": version("jaxdl"), "jax": jax.__version__}


def _other_versions(versions: Mapping[str, str]) -> str:
    """In words, how the versions that wrote a checkpoint differ from these; empty if equal."""
    differences = [
        f"{name} {versions.get(name)}, this is {version}"
        for name, version in _versions().items()
        if versions.get(name) != version
    ]
    return "was written by " + " and ".join(differences) if differences else ""


def write_name(name: Mapping[str, Any]) -> str:
    """A network's name as commands take it, word by word, without empty columns."""
    return " ".join(f"{column}={value}" for column, value in name.items() if value != "")


def list_names(names: Sequence[Mapping[str, Any]]) -> str:
    """:func:`write_name` of the first three networks, and how many more there are."""
    listing = "; ".join(map(write_name, names[:3]))
    return f"{listing}; and {len(names) - 3} more" if len(names) > 3 else listing


def load_network(run: Path, **name: Any) -> Variables:
    """The variables of one network in a run's latest checkpoint, as arrays of the host::

        variables = load_network(Path("runs/dann-default"), method="dann", seed=0)
        logits = model.apply(variables, images)

    This takes neither optimizer, mesh nor configuration, on any devices and under any version of
    JAX. A network that shares a frozen prefix has only the layers above its cut here
    (:func:`jaxdl.transfer.join` puts those of its base below).

    Args:
      run: the work folder of a study.
      name: columns of the study's tables that name the network: enough to tell it from others.

    Raises:
      ValueError: if the run has no such network, or several.
      DamagedFile: if its checkpoint is damaged.
    """
    if not run.is_dir():
        raise ValueError(f"there is no folder {run}: name that of a run")
    matches, names = [], []
    for population in sorted((run / "checkpoints").glob("*")):
        steps = [int(path.name) for path in population.iterdir() if path.name.isdigit()]
        if not steps:
            continue
        folder = population / str(max(steps))
        about = _read_item(folder / ABOUT, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
        for i, network in enumerate(about["notes"].get("networks", [])):
            names.append(network)
            if all(key in network and network[key] == value for key, value in name.items()):
                matches.append((folder, about, i, network))
    if len(matches) != 1:
        description = ", ".join(f"{key}={value!r}" for key, value in name.items())
        if not names:
            raise ValueError(f"{run} has no checkpoints of named networks")
        count = "several networks" if matches else "no network"
        named = f" with {description}" if description else ""
        shown = [network for *_, network in matches] or names
        raise ValueError(f"{run} has {count}{named}: name one, as {list_names(shown)}")
    folder, about, i, _ = matches[0]
    arrays = about["arrays"]
    network_arrays = {
        n: a for n, a in arrays.items() if n.split("/")[0] in ("params", "collections")
    }
    empty = unflatten({n: np.empty(a["shape"], a["dtype"]) for n, a in network_arrays.items()})
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), empty)
    request = ocp.args.PyTreeRestore(empty, restore_args=as_numpy, partial_restore=True)
    saved = _read_item(folder / STATE, ocp.PyTreeCheckpointHandler(), request)
    for path, array in flatten(saved).items():
        if zlib.crc32(np.ascontiguousarray(array).data) != network_arrays[path]["crc"]:
            raise DamagedFile(f"checkpoint {folder} is damaged: {path} is not what was saved")
    # Where a member is several networks, they have parts of the collections, by these names.
    parts = sorted(n.removeprefix("alive/") for n in arrays if n.startswith("alive/"))
    member, part = divmod(i, max(1, len(parts)))
    variables = {"params": saved["params"], **saved.get("collections", {})}
    if parts:
        variables = {kind: tree[parts[part]] for kind, tree in variables.items()}
    return trees.member(variables, member)


def _read_item(folder: Path, handler: ocp.CheckpointHandler, args: Any) -> Any:
    """One of the two parts of a checkpoint."""
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            return checkpointer.restore(folder.resolve(), args=args)
    except DAMAGE as error:
        raise DamagedFile(f"checkpoint {folder.parent} is damaged: {_reason(error)}") from None


def _describe(tree: PyTree) -> dict[str, dict[str, Any]]:
    """The type and shape of each array, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {
            "dtype": str(leaf.dtype),
            "shape": list(leaf.shape),
        }
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
