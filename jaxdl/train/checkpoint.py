"""Checkpoints of a population in training, on Orbax."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdl.types import DamagedFile, PyTree


class Checkpoints:
    """The checkpoints of one training run in one folder; use as a context manager.

    Saving is asynchronous and atomic: a process killed at any moment leaves the last whole
    checkpoint behind, and what it left half written is cleared away on the next start.
    """

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def restore(self, like: PyTree) -> tuple[PyTree, int]:
        """The latest checkpoint and its step, or ``(like, 0)`` where there is none.

        Args:
          like: a tree with the shapes, dtypes and shardings to restore to.

        Raises:
          DamagedFile: if the checkpoint is damaged or holds another tree.
        """
        step = self._manager.latest_step()
        if step is None:
            return like, 0
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # Orbax raises whatever the file system or the decoder did
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedFile(
                f"checkpoint {self._folder / str(step)} cannot be read ({reason[:200]}): "
                "delete that folder and run the same command again"
            ) from error
        return restored, step

    def save(self, step: int, tree: PyTree) -> None:
        """Begin to save; training may go on at once and may reuse the tree's memory."""
        if step in self._manager.all_steps():
            return
        # On CPU Orbax writes from the arrays' own memory, which the next dispatch will reuse.
        tree = jax.tree.map(jnp.copy, tree)
        self._manager.save(step, args=ocp.args.StandardSave(tree))

    def wait(self) -> None:
        """Return when what was saved is on disk."""
        self._manager.wait_until_finished()
