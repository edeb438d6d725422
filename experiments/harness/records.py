"""``run.json``: what a run was started with, by which code; an entry for each start.

A run that was stopped and went on has several. Nothing in it is read to train: ``config.json`` is
what a restart is compared with.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, get_type_hints

from experiments.harness.processes import say
from jaxdl.report.tables import write_atomically
from jaxdl.types import DamagedFile

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Start(NamedTuple):
    """One start of a run."""

    command: str
    began: str
    """Time of the start in UTC, ISO 8601."""
    python: str
    versions: dict
    """Versions of packages, by name."""
    commit: str | None
    """None where the code is in no git repository of its own."""
    clean: bool | None
    """Whether the files that git tracks were those of the commit."""
    seconds: float | None = None
    """Duration of the start; None while it is running, or if it was killed."""


class Record(NamedTuple):
    """The content of ``run.json``."""

    study: str
    starts: list[Start]


def total_seconds(starts: Sequence[Start]) -> tuple[float, str]:
    """The total time of the starts, and "≥ " where one was killed, or is running, and has no
    time."""
    seconds = [start.seconds for start in starts]
    return sum(filter(None, seconds)), "≥ " * (None in seconds)


@contextmanager
def recorded(folder: Path, study: str, began: float) -> Iterator[list[Start]]:
    """Record this start in ``run.json`` on entry, and its duration on exit; yields all starts. A
    file that is damaged is set aside as ``run.json.damaged``: no run needs it.

    Args:
      began: ``time.monotonic()`` at the start.

    Raises:
      OSError: if it cannot be read or written.
    """
    path = folder / "run.json"
    starts = [make_start()]
    try:
        starts = [*(read(path).starts if path.exists() else ()), *starts]
    except DamagedFile as error:
        path.replace(path.with_name("run.json.damaged"))
        say(f"{error}: set aside as run.json.damaged")
    write(path, Record(study, starts))
    try:
        yield starts
    finally:
        starts[-1] = starts[-1]._replace(seconds=round(time.monotonic() - began, 1))
        with suppress(OSError):  # a full disk is an error of what is written within
            write(path, Record(study, starts))


def check_study(folder: Path, study: str) -> None:
    """Raise ValueError for a folder with a run of another study."""
    path = folder / "run.json"
    with suppress(DamagedFile):
        if path.exists() and (other := read(path).study) != study:
            raise ValueError(
                f"{folder} holds a run of {other}: choose another --workdir, or delete that folder"
            )


def make_start() -> Start:
    """A start of this process, now."""
    versions = {name: version(name) for name in ("jaxdl", *PACKAGES)}
    began = datetime.now(UTC).isoformat(timespec="seconds")
    command = shlex.join(sys.orig_argv)
    return Start(command, began, platform.python_version(), versions, *find_commit(CODE))


CODE = Path(__file__).parents[2]


def find_commit(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in a folder, and whether tracked files are unchanged; None,
    None where the folder is not the top of a git repository, or there is no git."""
    # Of git's own variables those that lead to another repository would be in the way (hooks).
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        options = {"capture_output": True, "check": True, "timeout": 30, "env": environment}
        return subprocess.run(command, encoding="utf-8", errors="replace", **options).stdout

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if not folder.samefile(top):
            return None, None
        changes = git("status", "--porcelain", "--untracked-files=no")
        # A study that was added is a change, too; runs and notes that are not tracked are none.
        untracked = git("ls-files", "--others", "--exclude-standard", "--", "*.py")
        return commit, not (changes or untracked)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, None


def write(path: Path, record: Record) -> None:
    """Write ``run.json`` in one piece."""
    content = {"study": record.study, "starts": [start._asdict() for start in record.starts]}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read(path: Path) -> Record:
    """Read ``run.json``.

    Raises:
      OSError: if it cannot be read.
      DamagedFile: if it is not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # A later version may record more than this one knows.
        starts = [{key: start[key] for key in Start._fields} for start in content["starts"]]
        record = Record(content["study"], [Start(**start) for start in starts])
        if not record.starts or not isinstance(record.study, str):
            raise ValueError("it has no start, or no study")
        for start in record.starts:
            for value, kind in zip(start, get_type_hints(Start).values(), strict=True):
                if not isinstance(value, kind):
                    raise ValueError(f"{value!r} is in the place of another kind of value")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is no record of a run ({error})") from None
    return record


def describe_commit(start: Start) -> str:
    """``"7216d5d2d553"``, ``"7216d5d2d553 + changes"``, ``"unknown"``."""
    if start.commit is None:
        return "unknown"
    return start.commit[:12] + " + changes" * (not start.clean)


def describe_code(starts: Sequence[Start]) -> str:
    """Commit and versions of every start, those that are alike once."""
    lines = []
    for start in starts:
        versions = (f"{name} {number}" for name, number in start.versions.items())
        line = (f"commit {describe_commit(start)}", *versions, f"Python {start.python}")
        lines.append(", ".join(line))
    return "; then ".join(dict.fromkeys(lines))
