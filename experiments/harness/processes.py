"""The processes of a run: how they join, and the folder that each writes to."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm


def connect() -> None:
    """Join the other processes of the run, if it has some.

    Raises:
      ValueError: if they cannot be joined.
    """
    options = flags.FLAGS
    explicit = (options.coordinator, options.processes, options.process)
    if not options.distributed and explicit == (None, None, None):
        return
    # JAX waits where Python hears no signals, and ends in words of its own if they do not come.
    print(f"waiting for the other processes, {PATIENCE} s at most", file=sys.stderr)
    try:
        # A process that dies ends the others within a minute.
        limits = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 20}
        jax.distributed.initialize(*explicit, initialization_timeout=PATIENCE, **limits)
    except Exception as error:  # of many kinds, for what environments lack
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"cannot join the other processes ({reason}): outside of SLURM, Open MPI and TPUs, set "
            "--coordinator=HOST:PORT --processes=NUMBER --process=WHICH"
        ) from None


PATIENCE = 300
"""Seconds."""


def agree(config: ConfigDict, workdir: Path) -> None:
    """Check that all processes of the run were started with the same settings.

    Raises:
      ValueError: if they were not, naming the settings that differ.
    """
    if is_alone():
        return
    settings = {"--workdir": str(workdir.resolve())} | config.to_dict()
    marks = np.array([zlib.crc32(repr(value).encode()) for value in settings.values()])
    gathered = multihost_utils.process_allgather(marks)
    by_setting = zip(settings, gathered.T, strict=True)
    if differ := [name for name, values in by_setting if len(set(values)) > 1]:
        raise ValueError(
            f"the processes differ in {', '.join(differ)}: start all of them with the same command "
            "but for --process"
        )


def lock(workdir: Path) -> None:
    """Lock the work folder against other runs, until the end of this process.

    Raises:
      ValueError: if another run holds the lock.
    """
    path, descriptor = workdir, os.open(workdir, os.O_RDONLY)
    for _ in range(50):  # what a killed run has started may take a moment to end
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # over a network only what is open for writing can be locked
            if path.name == ".lock":  # a file system without locks
                return
            path = workdir / ".lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    raise ValueError(
        f"another run is at work in {workdir}: wait for its end, or choose another --workdir"
    )


def is_alone() -> bool:
    """Whether this process is the only one of the run."""
    return jax.process_count() == 1


def first_process() -> bool:
    """Whether this process is the one that reports."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Print a line for the user, in the first process only."""
    if first_process():
        tqdm.write(line, file=sys.stderr)


@contextmanager
def own_folder(workdir: Path) -> Iterator[Path]:
    """The work folder; for processes other than the first, a copy that is thrown away.

    All processes compute the same files from the data that they exchange, so all may write. Only
    checkpoints have one folder, to which all write.
    """
    if is_alone():
        yield workdir
        return
    workdir, checkpoints = workdir.resolve(), workdir.resolve() / "checkpoints"
    with TemporaryDirectory(prefix="jaxdl-", ignore_cleanup_errors=True) as copy:
        if not first_process():
            for path in workdir.iterdir():
                with suppress(FileNotFoundError):  # what another tried whether it can write
                    if path.is_file():
                        shutil.copy(path, copy)
            workdir = Path(copy)
            (workdir / "checkpoints").symlink_to(checkpoints)
        multihost_utils.sync_global_devices("copies are made")
        yield workdir
