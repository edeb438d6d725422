"""The main program of a study: flags, devices, the work folder, and how a run ends.

A study is a function ``study(config, workdir, stop) -> report``, which can be called from Python,
too, in any thread. Wrong input, raised inside :func:`user_input`, is a :class:`UserError`, which
ends the program in one line and exit code 2; a signal ends it in a saved state and the exit code
128 + signal.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from experiments.harness import command_line, devices, processes
from experiments.harness.processes import first_process, is_alone, say
from jaxdl.data.encoded import cores
from jaxdl.files import user_path
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.verification import WrongNumbers
from jaxdl.types import DamagedFile

Study = Callable[[ConfigDict, Path, StopFlag], str]


class ProgramStop(StopFlag):
    """A second Ctrl-C ends the program at once: no handler of Python's is called before a compiled
    computation has ended."""

    def __enter__(self) -> StopFlag:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return super().__enter__()


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with code 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


class UserError(ValueError):
    """Wrong user input; the message is one line for the user."""


@contextmanager
def user_input() -> Iterator[None]:
    """A context in which every OSError and ValueError is due to wrong input and becomes
    :class:`UserError`."""
    try:
        yield
    except OSError as error:
        line = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        raise UserError(line) from error
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def run(
    study: Study,
    name: str,
    default: ConfigDict,
    *,
    members: Callable[[ConfigDict], int] = lambda _: cores(),
    free: Collection[str] = (),
) -> None:
    """The main program of a study's file.

    Args:
      default: has every setting that the study reads.
      members: how many networks a configuration trains at a time, at most: devices beyond that
        would have nothing to do.
      free: sections, by their last name, that each configuration fills as it likes.
    """
    # Orbax narrates every save there, and ml_collections what it then raises.
    logging.getLogger("absl").disabled = True
    # Of a save that fails, each array's task complains here of what the save itself will report.
    logging.getLogger("asyncio").disabled = True
    sys.unraisablehook = quietly
    replace_unprintable()
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook need not be installed here

    def parse(argv: list[str]) -> list[str]:
        with user_input():
            return command_line.parse(argv, name, default, free)

    def main(_: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)  # JAX's messages, too, come through absl
        config = flags.FLAGS.config
        with user_input():
            count = 1 if flags.FLAGS.debug else devices.device_count(config, members(config))
            devices.use_cores(count)
            processes.connect()
            devices.check_platform()
            devices.keep_programs()
        if flags.FLAGS.debug and "parallel" in config:  # where operations can be told apart
            config.parallel.mode = "jit"
        with user_input():
            workdir = user_path(flags.FLAGS.workdir or f"runs/{name}-{config.variant}")
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=workdir):
                pass
        except OSError as error:
            fail(f"cannot write to {workdir} ({error.strerror}): choose another with --workdir")
        with user_input():
            processes.agree(config, workdir)
            if first_process():
                processes.lock(workdir)
        try:
            with processes.own_folder(workdir) as folder:
                report = study(config, folder, ProgramStop())
        except UserError as error:
            with suppress(OSError):  # a folder that nothing was written to
                workdir.rmdir()
            fail(error)
        except DamagedFile as error:
            try:
                fail(error)
            finally:  # at once: reads still in flight would complain of the interpreter's shutdown
                sys.stderr.flush()
                os._exit(2)
        except OSError as error:
            reason = f"{error.strerror or error} ({error.filename or workdir})"
            fail(f"{reason}: when that is mended, the same command goes on where it stopped")
        except Interrupted as stopped:
            say(f"\nstopped, all training saved; to go on, run the same command again ({workdir})")
            sys.exit(128 + stopped.signal)
        except WrongNumbers as error:
            fail(error)
        except FloatingPointError as error:  # of --debug
            frames = traceback.extract_tb(error.__traceback__)
            own_frames = [f for f in frames if "site-packages" not in f.filename]
            line = f"{own_frames[-1].filename}, line {own_frames[-1].lineno}: {own_frames[-1].line}"
            fail(f"{str(error).strip().splitlines()[0]} ({line})")
        except Exception as error:
            if is_alone():
                raise
            try:
                if not any(sign in str(error) for sign in OTHERS_GONE):
                    traceback.print_exc()
                reason = next(iter(str(error).splitlines()), "")
                fail(
                    f"this process or another of the run has ended ({reason[:200]}): start all of "
                    "them again, and they go on from the last checkpoint"
                )
            finally:  # at once: JAX would wait for the other process
                sys.stderr.flush()
                os._exit(2)
        if first_process():
            show(report)
        say(f"everything is in {workdir}")

    try:
        app.run(main, flags_parser=parse)
    except UserError as error:
        fail(error)


def print_or_fail(make: Callable[[], str]) -> None:
    """The main program of a small command: print a text, or end in a line for wrong input; with
    ``--help``, print the program's docstring."""
    replace_unprintable()
    try:
        with user_input():
            text = sys.modules["__main__"].__doc__ if command_line.HELP & {*sys.argv} else make()
    except UserError as error:
        fail(error)
    show(text)


def replace_unprintable() -> None:
    """Let standard output and error replace characters that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(report: str) -> None:
    """Print the report, unless nobody reads standard output; it is in the work folder, too."""
    try:
        print(report, flush=True)
    except OSError:  # who read has gone (`| head`): nor is there to be a complaint at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


OTHERS_GONE = ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "Connection", "connection", "Gloo")
"""Words in the errors that follow when another process has ended."""


def quietly(unraisable: Any) -> None:
    """Python's ``sys.unraisablehook`` without TensorStore's long message about a failed save, which
    is reported where the save is waited for."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
