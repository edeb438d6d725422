"""What every study shares: flags, the work folder, devices, and how a run ends.

A study is a function ``study(config, workdir, stop) -> report``, to be called from Python, too, in
any thread. Wrong input, raised inside :func:`user_input`, is a :class:`UserError`, which ends the
program in one line and exit code 2; a signal ends it in a saved state and the exit code 128 +
signal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import _command_line
from experiments._processes import agree, alone, connect, first_process, lock, own_folder, say
from jaxdl.data import cache
from jaxdl.data.encoded import cores
from jaxdl.data.source import Source, length
from jaxdl.files import user_path
from jaxdl.report import figures
from jaxdl.report.tables import write_atomically
from jaxdl.train.logs import Fault
from jaxdl.train.loop import Interrupted, StopFlag, Workplace
from jaxdl.train.verification import WrongNumbers
from jaxdl.types import DamagedFile

Study = Callable[[ConfigDict, Path, StopFlag], str]


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


class UserError(ValueError):
    """What was asked for cannot be had; the message is one line for the user."""


@contextmanager
def user_input() -> Iterator[None]:
    """Within, OSError and ValueError are taken to be the user's and become :class:`UserError`."""
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
    members: Callable[[ConfigDict], int] = lambda _: cores(),
) -> None:
    """The main program of a study's file.

    Args:
      default: has every setting that the study reads.
      members: how many networks a configuration trains at a time, at most: devices beyond that
        would have nothing to do.
    """
    # Orbax narrates every save there, and ml_collections what it then raises.
    logging.getLogger("absl").disabled = True
    sys.unraisablehook = quietly
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack what is printed
            stream.reconfigure(errors="replace")
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook need not be installed here

    def parse(argv: list[str]) -> list[str]:
        with user_input():
            return _command_line.parse(argv, name, default)

    def main(_: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)  # JAX's messages, too, come through absl
        config = flags.FLAGS.config
        with user_input():
            use_cores(1 if flags.FLAGS.debug else device_count(config, members(config)))
            connect()
            check_platform()
            keep_programs()
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
            if "checkpoints" in config:  # benchmarks have none
                check_counts(config, "checkpoints")
                if config.seconds_between_saves < 0:
                    raise ValueError("config.seconds_between_saves must not be negative")
            agree(config, workdir)
            if first_process():
                lock(workdir)
        try:
            with own_folder(workdir) as folder:
                report = study(config, folder, StopFlag())
        except UserError as error:
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
            say(f"\nsaved and stopped; to go on, run the same command again ({workdir})")
            sys.exit(128 + stopped.signal)
        except WrongNumbers as error:
            fail(error)
        except FloatingPointError as error:  # of --debug
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "site-packages" not in f.filename]
            where = f"{ours[-1].filename}, line {ours[-1].lineno}: {ours[-1].line}"
            fail(f"{str(error).strip().splitlines()[0]} ({where})")
        except Exception as error:
            if alone():
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


def show(report: str) -> None:
    """Print the report, which is in the work folder, too, where somebody reads."""
    try:
        print(report, flush=True)
    except OSError:  # who read has gone (`| head`): nor is there to be a complaint at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


OTHERS_GONE = ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "Connection", "connection", "Gloo")
"""How errors read that come of a process that has ended."""


def quietly(told: Any) -> None:
    """Python's hook for what threads cannot raise, but for what TensorStore's print, at length, of
    a save that has failed and is told of."""
    if str(told.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(told)


def workplace(
    config: ConfigDict, workdir: Path, stop: StopFlag, progress: Callable[[str, int], None]
) -> Workplace:
    """Where a study trains, with what configuration and command line say of it.

    Raises:
      UserError: if, after hours of training, no figure could be drawn.
    """
    with user_input():
        figures.check()
    # A study that is called from Python has no command line.
    asked = {name: flags.FLAGS[name].value for name in _command_line.OPTIONS if name in flags.FLAGS}
    first, _, last = (asked.get("profile") or "0:0").partition(":")
    return Workplace(
        workdir,
        stop,
        progress,
        config.seconds_between_saves,
        checkpoints=config.checkpoints,
        events=bool(asked.get("tensorboard")),
        profiled=range(int(first), int(last)),
        debug=bool(asked.get("debug")),
        say=say,
    )


def check_counts(config: ConfigDict, *names: str) -> None:
    """Raise ValueError where a setting is not a number of things, 1 or more."""
    for name in names:
        if not 1 <= config[name] < 2**31:
            raise ValueError(f"config.{name} must be at least 1 and below 2^31, got {config[name]}")


def device_count(config: ConfigDict, members: int) -> int:
    """How many CPU cores are made devices: all that this process may use, but no more than can
    share the work of so many networks."""
    parallel = config.get("parallel", {})  # benchmarks have none
    along_data = parallel.get("data", 1)
    if along_data < 1:  # a batch can be divided over any number
        return cores()
    along_member = parallel.get("member", -1)
    if along_member < 0:
        along_member = min(members, cores() // along_data)
    return min(cores(), max(1, along_member) * along_data)


def use_cores(count: int) -> None:
    """Make so many CPU cores devices, unless the user said how many (`JAX_NUM_CPU_DEVICES`).

    Raises:
      ValueError: if the user said so in a way that would be overruled, or asked for none.
    """
    asked = os.environ.get("JAX_NUM_CPU_DEVICES")
    if asked is None:
        option = "--xla_force_host_platform_device_count"
        if flag := re.search(rf"{option}=(\S*)", os.environ.get("XLA_FLAGS", "")):
            raise ValueError(
                f"XLA_FLAGS={flag[0]} is overruled here: set JAX_NUM_CPU_DEVICES={flag[1]} instead"
            )
        jax.config.update("jax_num_cpu_devices", count)
    elif int(asked) < 1:  # JAX itself sees that it is a number
        raise ValueError(f"JAX_NUM_CPU_DEVICES={asked}: there must be at least 1")


def keep_programs() -> None:
    """Keep what took a second or more to compile for later runs, in the folder that JAX was told
    (`JAX_COMPILATION_CACHE_DIR`) or among this project's cached files, where these can be.

    Raises:
      ValueError: a folder below the home of a user who has none.
    """
    asked, folder = os.environ.get("JAX_COMPILATION_CACHE_DIR"), cache.folder()
    if folder is None:
        say("no home folder, so nothing is kept for later runs: set XDG_CACHE_HOME to a folder")
    if asked is not None:
        if asked.startswith("~"):
            jax.config.update("jax_compilation_cache_dir", str(user_path(asked)))
    elif folder is not None:
        with suppress(OSError):
            (folder / "programs").mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))


def check_platform() -> None:
    """Raise ValueError where JAX has not the platform that it was told to compute on."""
    try:
        jax.devices()
    except Exception as error:  # also an AssertionError
        reason = next(iter(str(error).splitlines()), "it is not installed")
        asked = jax.config.jax_platforms or ""
        raise ValueError(
            f"JAX cannot compute on JAX_PLATFORMS={asked} ({reason}): unset it, or set it to cpu"
        ) from None


def claim(workdir: Path, config: ConfigDict, data: dict) -> None:
    """Write ``config.json``, or see that the one there is the same.

    Raises:
      ValueError: if the folder belongs to another configuration, with the keys that differ.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps({"config": config.to_dict(), "data": data}))
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(old["config"], dict):
                raise ValueError("it holds no configuration")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {workdir} to start anew"
            ) from None
        differ = sorted(_differences(old, new))
        differ.sort(key=lambda line: not line.startswith("variant "))  # which explains the rest
        if differ:
            more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
            raise ValueError(
                f"{workdir} holds a run with another {', '.join(differ[:5])}{more}: "
                "choose another --workdir, or delete it"
            )
    elif any((workdir / "checkpoints").glob("*/*")):
        raise ValueError(
            f"{path} is missing, which says what the checkpoints beside it are of: bring it back, "
            f"or delete {workdir} to start anew"
        )
    else:
        write_atomically(path, json.dumps(new, indent=2) + "\n")


COMPUTED = ("parallel", "workers", "data.workers", "checkpoints", "seconds_between_saves")
"""Settings that say how, and not what, is computed: a restart may have others."""


def _differences(old, new, path: str = "") -> Iterator[str]:
    if path.removeprefix("config.") in COMPUTED:
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield path.removeprefix("config.") + f" ({_short(old)} there, {_short(new)} now)"
        return
    for key in old.keys() | new.keys():
        inner = f"{path}.{key}".lstrip(".")
        yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), inner)


ABSENT = "nothing"


def _short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """What a workplace tells its progress; ``total`` are the steps of all networks."""
    bar = {"unit": "step", "unit_scale": True, "mininterval": 0.5, "disable": not first_process()}
    with tqdm(total=total, **bar) as bar:
        known = set()

        def progress(name: str, steps: int) -> None:
            bar.set_description(name, refresh=False)
            if name not in known and not bar.disable:
                known.add(name)
                bar.initial += steps  # what a run before this one did says nothing of the rate
            bar.update(steps)

        yield progress


def describe_source(source: Source) -> dict[str, Any]:
    """What ``config.json`` says of the data: for another data set the folder is refused."""
    sizes = {split: length(arrays) for split, arrays in source.splits.items()}
    return {
        "name": source.name,
        "version": source.version,
        "classes": source.class_names,
        "sizes": sizes | {"test": source.test.size},
        "fingerprint": source.fingerprint,
    }


def describe_omissions(*sources: Source) -> str:
    """What of the data sets' files was not read; empty if nothing."""
    return "; ".join(f"{source.name}: {source.omissions}" for source in sources if source.omissions)


def describe_devices() -> str:
    """What is computed on."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU core"
    processes = "" if alone() else f" of {jax.process_count()} processes"
    return f"{len(devices)} x {kind}{processes}, jax {jax.__version__}"


def describe_fault(network: tuple, fault: Fault) -> str:
    """Which network ceased to be finite, and where."""
    return f"{'/'.join(map(str, network))} at step {fault.step} in {fault.array}"


def describe_run(place: Workplace) -> dict[str, str]:
    """What the run computed on and how long it took, for its report."""
    clock = place.clock
    told = {
        "Device": describe_devices(),
        "Time": f"{time.time() - BEGAN:.0f} s, {clock.compilation:.0f} s of them compilation, "
        f"{clock.training:.0f} s training, {clock.evaluation:.0f} s evaluation, "
        f"{clock.verification:.1f} s checking first losses, "
        f"{clock.saving:.1f} s waiting for checkpoints",
    }
    if place.discrepancies:
        told["First losses"] = (
            f"of {len(place.discrepancies)} of {len(clock.by_population)} population(s), computed "
            f"again by a plain program, differ by {max(place.discrepancies.values()):.0e} at most"
        )
    if clock.steps:
        rate = clock.steps / clock.training
        told["Speed"] = f"{rate:,.0f} steps of networks a second"
    before = sum(clock.by_population.values()) - clock.training
    if before > 1:
        told["Time"] += f"; before it was resumed, {before:.0f} s training"
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told["Memory at most"] = f"{host / 1e9:.1f} GB of the host" + (
        f", {max(peaks) / 1e9:.1f} GB of a device" if max(peaks) else ""
    )
    return told


BEGAN = time.time()
