"""What every study shares: flags, the work folder, devices, and how a run ends.

A study is a function ``study(config, workdir, stop) -> report``. Wrong input, raised inside
:func:`user_input`, ends in one line and exit code 2; a signal in a saved state and the exit
code 128 + signal.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from jaxdl.data import cache
from jaxdl.data.encoded import cores
from jaxdl.data.source import Source
from jaxdl.report.tables import write_atomically
from jaxdl.train.loop import Interrupted, StopFlag, Workplace
from jaxdl.types import DamagedFile

Study = Callable[[ConfigDict, Path, StopFlag], str]


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


@contextmanager
def user_input() -> Iterator[None]:
    """Within, errors are taken to be the user's: what was asked for cannot be had."""
    try:
        yield
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except ValueError as error:
        fail(error)


def run(study: Study, name: str, default: ConfigDict) -> None:
    """The main program of a study's file; ``default`` has every setting that the study reads."""
    # Orbax narrates every save there, and ml_collections what it then raises.
    logging.getLogger("absl").disabled = True

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-h", "-help", "--helpfull"} & set(argv):
            print(sys.modules["__main__"].__doc__)
            print(
                f"  --config FILE[:VARIANT]  default configs/{name}.py; comments say what is what"
            )
            print("  --config.KEY=VALUE       another value of one setting")
            print(f"  --workdir FOLDER         default runs/{name}-VARIANT")
            for option, (_, what) in OPTIONS.items():
                print(f"  --{option:<23}{what}")
            sys.exit(0)
        for argument in argv:
            key = argument.split("=")[0].removeprefix("--config.")
            if argument.startswith("--config.") and not _is_setting(key, _keys(default)):
                fail(f"there is no setting config.{key}: configs/{name}.py has them all")
        try:
            flags.DEFINE_string("workdir", None, "Where everything is written.")
            for option, (define, what) in OPTIONS.items():
                define(option, None, what)
            config_flags.DEFINE_config_file("config", f"configs/{name}.py", "FILE[:variant].")
            rest = flags.FLAGS(argv)
            if flags.FLAGS.config is None:
                fail(f"{_asked(argv)}its get_config() returns nothing")
            missing = sorted(_keys(default) - _keys(flags.FLAGS.config))
        except flags.UnrecognizedFlagError as error:
            fail(f"there is no option --{error.flagname}: see --help")
        except flags.Error as error:
            # The loader of configurations puts a whole traceback into its message.
            fail(_asked(argv) + str(error).strip().splitlines()[-1].removeprefix("ValueError: "))
        except ValueError as error:  # said for the user, as of an unknown variant
            fail(f"{_asked(argv)}{error}")
        except AttributeError as error:  # how a ConfigDict says that it has no such key
            key = next(iter(re.findall(r"\w+", str(error))), "")
            given = next((a for a in argv if re.match(rf"--config\.(.+\.)?{key}=", a)), None)
            if given is None:
                fail(f"{_asked(argv)}{error}")
            where = given.partition("=")[0].rpartition(".")[0]
            whole = f", or give {where}=\"{{'{key}': VALUE}}\"" * where.endswith(".options")
            all_are = f"configs/{name}.py has them all"
            fail(f"{_asked(argv)}there is no setting {key!r}: {all_are}{whole}")
        except OSError as error:
            reason = re.search(r"\[Errno \d+\] ([^:]+)", str(error))
            fail(f"{_asked(argv)}cannot be read ({reason[1] if reason else error})")
        except Exception as error:  # whatever a configuration's own code may raise
            fail(f"{_asked(argv)}{type(error).__name__}: {error}")
        if rest[1:]:
            fail(f"what is {rest[1]!r}? Options begin with --; a config is given by --config")
        if missing:
            rest_of = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            fail(f"{_asked(argv)}its get_config() does not set {', '.join(missing[:5])}{rest_of}")
        return rest

    def main(_: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)  # JAX's messages, too, come through absl
        use_cores(1 if flags.FLAGS.debug else cores())
        keep_programs()
        with user_input():
            connect()
        config = flags.FLAGS.config
        if flags.FLAGS.debug and "parallel" in config:  # where operations can be told apart
            config.parallel.mode = "jit"
        workdir = Path(flags.FLAGS.workdir or f"runs/{name}-{config.variant}")
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=workdir):
                pass
        except OSError as error:
            fail(f"cannot write to {workdir} ({error.strerror}): choose another with --workdir")
        if first_process():
            lock(workdir)
        try:
            report = study(config, own_folder(workdir), StopFlag().install())
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
        except FloatingPointError as error:  # of --debug
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "site-packages" not in f.filename]
            where = f"{ours[-1].filename}, line {ours[-1].lineno}: {ours[-1].line}"
            fail(f"{str(error).strip().splitlines()[0]} ({where})")
        except Exception as error:
            if alone():
                raise
            try:
                if not isinstance(error, RuntimeError):
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
            print(report)
        say(f"everything is in {workdir}")

    app.run(main, flags_parser=parse)


OPTIONS: dict[str, tuple[Callable, str]] = {
    "distributed": (flags.DEFINE_bool, "many processes, as SLURM, Open MPI or TPUs start them"),
    "coordinator": (flags.DEFINE_string, "HOST:PORT of the first of many processes"),
    "processes": (flags.DEFINE_integer, "how many these are"),
    "process": (flags.DEFINE_integer, "which of these this is, from 0"),
    "debug": (flags.DEFINE_bool, "stop at the first NaN and name the operation"),
    "tensorboard": (flags.DEFINE_bool, "write the curves for TensorBoard, too"),
    "profile": (flags.DEFINE_string, "FIRST:LAST steps for the profiler"),
}
"""Of the command line, beside the configuration: what they define, what they mean."""


def connect() -> None:
    """Join the other processes of the run, if it has some.

    Raises:
      ValueError: if they cannot be joined.
    """
    import jax

    asked = flags.FLAGS
    explicit = (asked.coordinator, asked.processes, asked.process)
    if not asked.distributed and explicit == (None, None, None):
        return
    if not asked.distributed and None in explicit:
        raise ValueError("--coordinator, --processes and --process go together")
    try:
        # A process that dies ends the others within a minute.
        limits = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 20}
        jax.distributed.initialize(*explicit, **limits)
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"cannot join the other processes ({reason}): outside of SLURM, Open MPI and TPUs, set "
            "--coordinator=HOST:PORT --processes=NUMBER --process=WHICH"
        ) from None


def lock(workdir: Path) -> None:
    """See that no other run writes to the folder, until the end of this process."""
    folder = os.open(workdir, os.O_RDONLY)
    for _ in range(50):  # what a killed run has started may take a moment to end
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return
    fail(f"another run is at work in {workdir}: wait for its end, or choose another --workdir")


def alone() -> bool:
    """Whether the run is this process."""
    import jax

    return jax.process_count() == 1


def first_process() -> bool:
    """Whether this process is the one that reports."""
    import jax

    return jax.process_index() == 0


def say(line: str) -> None:
    """A line for the user, who needs it once."""
    if first_process():
        tqdm.write(line, file=sys.stderr)


def own_folder(workdir: Path) -> Path:
    """The work folder; to processes other than the first, a copy that is thrown away.

    All processes compute alike what is written, from what they exchange, so none needs to be told
    to keep quiet. Checkpoints alone have one folder, to which all write.
    """
    if alone():
        return workdir
    from jax.experimental import multihost_utils

    workdir, checkpoints = workdir.resolve(), workdir.resolve() / "checkpoints"
    if not first_process():
        copy = Path(tempfile.mkdtemp(prefix="jaxdl-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        for path in workdir.iterdir():
            if path.is_file():
                shutil.copy(path, copy)
        (copy / "checkpoints").symlink_to(checkpoints)
        workdir = copy
    multihost_utils.sync_global_devices("copies are made")
    return workdir


def workplace(
    config: ConfigDict, workdir: Path, stop: StopFlag, progress: Callable[[str, int], None]
) -> Workplace:
    """Where a study trains, with what configuration and command line say of it."""
    # A study that is called from Python has no command line.
    asked = {name: flags.FLAGS[name].value for name in OPTIONS if name in flags.FLAGS}
    first, _, last = (asked.get("profile") or "0:0").partition(":")
    if not (first.isdigit() and last.isdigit()):
        fail(f"--profile={asked['profile']}: give two steps, FIRST:LAST")
    if asked.get("tensorboard"):
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            fail("--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'")
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


def _asked(argv: list[str]) -> str:
    """The configuration that was asked for, to begin a message with."""
    for argument, value in zip(argv, [*argv[1:], ""], strict=True):
        if argument == "--config":
            return f"--config={value}: "
        if argument.startswith("--config="):
            return f"{argument}: "
    return ""


def _keys(config: ConfigDict) -> set[str]:
    """The names of all settings, ``optimizer.name`` and the like, but for sections of ``OWN``."""
    names = set()
    for key, value in config.items():
        inner = isinstance(value, ConfigDict) and key not in OWN
        names |= {f"{key}.{name}" for name in _keys(value)} if inner else {key}
    return names


OWN = ("options", "methods", "problems")
"""Sections that each configuration fills as it likes: options of a data set, what a study does."""


def _is_setting(key: str, names: set[str]) -> bool:
    """Whether a key is a setting, a section, or within a data set's own options."""
    return any(n == key or n.startswith(f"{key}.") or key.startswith(f"{n}.") for n in names)


def check_counts(config: ConfigDict, *names: str) -> None:
    """Raise ValueError where a setting is not a number of things, 1 or more."""
    for name in names:
        if not 1 <= config[name] < 2**31:
            raise ValueError(f"config.{name} must be at least 1 and below 2^31, got {config[name]}")


def use_cores(count: int) -> None:
    """Make so many CPU cores devices, unless the user said how many (`JAX_NUM_CPU_DEVICES`)."""
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", count)


def keep_programs() -> None:
    """Keep what took a second or more to compile for later runs, in the folder that JAX was told
    (`JAX_COMPILATION_CACHE_DIR`) or among this project's cached files, where these can be."""
    import jax

    programs = cache.folder() / "programs"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with suppress(OSError):
            programs.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(programs))


def claim(workdir: Path, config: ConfigDict, data: dict) -> None:
    """Write ``config.json``, or see that the one there is the same.

    Raises:
      ValueError: if the folder belongs to another configuration, with the keys that differ.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps({"config": config.to_dict(), "data": data}))
    restart = {key: new["config"][key] for key in COMPUTED if key in new["config"]}
    if path.exists():
        try:
            old = json.loads(path.read_text())
            if not isinstance(old["config"], dict):
                raise ValueError("it holds no configuration")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {workdir} to start anew"
            ) from None
        old["config"] |= restart
        if old != new:
            differ = sorted(_differences(old, new))
            more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
            raise ValueError(
                f"{workdir} holds a run with another {', '.join(differ[:5])}{more}: "
                "choose another --workdir, or delete it"
            )
    else:
        write_atomically(path, json.dumps(new, indent=2) + "\n")


COMPUTED = ("parallel", "workers", "checkpoints", "seconds_between_saves")
"""Settings that say how, and not what, is computed: a restart may have others."""


def _differences(old, new, path: str = "") -> Iterator[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield path.removeprefix("config.") + f" ({old} there, {new} now)"
        return
    for key in old.keys() | new.keys():
        yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))


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
    sizes = {split: len(labels) for split, (_, labels) in source.splits.items()}
    return {
        "name": source.name,
        "version": source.version,
        "classes": source.class_names,
        "sizes": sizes | {"test": source.test.size},
        "fingerprint": source.fingerprint,
    }


def describe_devices() -> str:
    """What is computed on."""
    import jax

    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU core"
    processes = "" if alone() else f" of {jax.process_count()} processes"
    return f"{len(devices)} x {kind}{processes}, jax {jax.__version__}"


def describe_run(place: Workplace) -> dict[str, str]:
    """What the run computed on and how long it took, for its report."""
    import jax

    clock = place.clock
    told = {
        "Device": describe_devices(),
        "Time": f"{time.time() - BEGAN:.0f} s, {clock.compilation:.0f} s of them compilation, "
        f"{clock.training:.0f} s training, {clock.evaluation:.0f} s evaluation, "
        f"{clock.saving:.1f} s waiting for checkpoints",
    }
    if clock.steps:
        rate = clock.steps / clock.training
        told["Speed"] = f"{rate:,.0f} steps of networks a second"
    before = sum(place.clock.of.values()) - clock.training
    if before > 1:
        told["Time"] += f"; before it was resumed, {before:.0f} s training"
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told["Memory at most"] = f"{host / 1e9:.1f} GB of the host" + (
        f", {max(peaks) / 1e9:.1f} GB of a device" if max(peaks) else ""
    )
    return told


BEGAN = time.time()
