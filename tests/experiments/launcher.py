"""Starts studies as processes of their own that need not import JAX again.

A server imports a study once, then forks a child for each run that is asked for. A child is what
``python -m experiments.<study>`` is: its own process, flags, signals, interpreter exit, exit code.
(Nothing may touch a JAX device before the fork, since its threads would be lost.)
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).parents[2]


def quick_environment(folder: Path) -> dict[str, str]:
    """For runs that are mostly compilation: one cache of programs for all, on two devices, besides
    the compiler of the tests, which is in the environment (see `conftest.py`)."""
    return {
        "XDG_CACHE_HOME": str(folder / "user"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes longer than training here
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
        "JAX_NUM_CPU_DEVICES": "2",
    }


USERS = "import os; os.environ['XLA_FLAGS'] = ''"
"""What a study's process runs first for a user's compiler: by that of the tests, a stream and a
resident data set go to other roundings where there are convolutions."""


def save_nothing(figure, file, **_) -> None:
    """In place of ``Figure.savefig``, which takes a third of a tiny run's time: one white pixel.
    Runs with a prelude, and those within the tests' own process, draw their figures."""
    Image.new("RGB", (1, 1), "white").save(file, "PNG")


class Ended(NamedTuple):
    """How a study ended; a negative code is the signal that killed it, as in subprocess."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What it says on standard error beside progress."""
        progress = re.compile(r"step\]|step/s\]|: goes on at step [\d,]+ of [\d,]+\s*$")
        lines = re.split(r"[\r\n]+", self.err)
        return "\n".join(line for line in lines if line.strip() and not progress.search(line))


class Launched:
    """A study that runs."""

    def __init__(self, launcher: Launcher, pid: int, files: tuple[Path, Path]):
        self.pid, self._launcher, self._files = pid, launcher, files
        self.ended: Ended | None = None

    def kill(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait_until(self, happened: Callable[[], bool], seconds: float = 300) -> bool:
        """Wait for something in the workdir, at most until the process ends; whether it came."""
        limit = time.monotonic() + seconds
        while not happened():
            if self._launcher.ask(poll=self.pid) or time.monotonic() > limit:
                return happened()
            time.sleep(0.003)
        return True

    def wait(self) -> Ended:
        """Wait for the end."""
        if self.ended is None:
            code = self._launcher.ask(wait=self.pid)
            self.ended = Ended(code, *(path.read_text(errors="replace") for path in self._files))
        return self.ended


class Launcher:
    """The server; use as a context manager.

    Args:
      folder: for what the studies print.
      environment: of all studies, beside this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self._folder, self._count = folder, 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_) -> None:
        self._server.communicate(timeout=60)

    def ask(self, **request):
        """One question to the server, one answer."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        study: str,
        arguments: Sequence[str],
        cwd: Path = ROOT,
        prelude: Path | None = None,
    ) -> Launched:
        """Start ``python -m experiments.<study> *arguments``.

        Args:
          prelude: a Python file that the process runs first, to watch the study from within.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{stream}" for stream in ("out", "err"))
        out.touch()
        err.touch()
        files = {"out": str(out), "err": str(err), "prelude": str(prelude or "")}
        pid = self.ask(start=study, arguments=list(arguments), cwd=str(cwd), **files)
        return Launched(self, pid, (out, err))


def serve() -> None:
    """Answer requests until standard input ends; in a forked child, return to become the study."""
    gc.set_threshold(50_000, 20, 50)  # most objects live as long as the process
    filters = warnings.filters[:]
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # no device was touched yet
    import sklearn.datasets  # noqa: F401, which studies import late, as they do matplotlib
    from matplotlib.figure import Figure

    from jaxdl.report import figures

    figures.check()  # for its imports and fonts

    known: set[str] = set()
    ended: dict[int, int] = {}

    def poll(pid: int, options: int) -> bool:
        if pid not in ended:
            done, status = os.waitpid(pid, options)
            if done:
                ended[pid] = os.waitstatus_to_exitcode(status)
        return pid in ended

    for line in iter(sys.stdin.readline, ""):
        match json.loads(line):
            case {"wait": pid}:
                poll(pid, 0)
                answer = ended[pid]
            case {"poll": pid}:
                answer = poll(pid, os.WNOHANG)
            case {"start": study, "arguments": arguments, "cwd": cwd, "prelude": prelude, **files}:
                module = f"experiments.{study}"
                if module not in known:
                    importlib.import_module(module)
                    del sys.modules[module]  # for each child to run it anew, as __main__
                    known.add(module)
                    gc.freeze()  # what is there stays shared between the processes
                answer = os.fork()
                if not answer:
                    for number, path in ((0, os.devnull), (1, files["out"]), (2, files["err"])):
                        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
                        file = os.open(path, flags if number else os.O_RDONLY)
                        os.dup2(file, number)
                        os.close(file)
                    os.chdir(cwd)
                    sys.argv = [str(ROOT / "experiments" / f"{study}.py"), *arguments]
                    warnings.filters[:] = filters
                    if prelude:
                        runpy.run_path(prelude)
                    else:
                        Figure.savefig = save_nothing
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
                    return
        print(json.dumps(answer), flush=True)


def assert_refused(ended, *words):
    """One clear line on standard error, and exit code 2."""
    assert "Traceback" not in ended.err, ended.err[-1500:]
    assert ended.code == 2, ended
    assert ended.out == ""
    (line,) = ended.complaint.splitlines()
    assert line.startswith("error: ") and len(line) < 600
    for word in words:
        assert word in line, line


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    serve()
