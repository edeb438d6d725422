"""What every study shares: flags, the work folder, devices, and how a run ends.

A study is a function ``study(config, workdir, stop) -> report``. Wrong input, raised inside
:func:`user_input`, ends in one line and exit code 2; a signal in a saved state and the exit
code 128 + signal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdl.report.tables import write_atomically
from jaxdl.train.loop import Interrupted, StopFlag

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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fail(str(error.args[0]) if error.args else repr(error))


def run(study: Study, name: str) -> None:
    """The main program of a study's file."""
    config_file = config_flags.DEFINE_config_file(
        "config", f"configs/{name}.py", "The configuration, FILE[:variant]."
    )
    folder = flags.DEFINE_string(
        "workdir", None, f"Where everything is written; default runs/{name}-VARIANT."
    )

    def parse(argv: list[str]) -> list[str]:
        with user_input():
            try:
                rest = flags.FLAGS(argv)
            except flags.Error as error:
                fail(error)
            if rest[1:]:
                fail(f"what is {rest[1]!r}? Options begin with --; a config is given by --config")
            return rest

    def main(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every save at INFO
        use_all_cores()
        config = config_file.value
        workdir = Path(folder.value or f"runs/{name}-{config.variant}")
        with user_input():
            workdir.mkdir(parents=True, exist_ok=True)
            if not os.access(workdir, os.W_OK):
                fail(f"cannot write to {workdir}: choose another folder with --workdir")
        try:
            report = study(config, workdir, StopFlag().install())
        except Interrupted as stopped:
            print(f"\nstopped; to go on, run the same command again ({workdir})", file=sys.stderr)
            sys.exit(128 + stopped.signal)
        print(report)
        print(f"everything is in {workdir}", file=sys.stderr)

    app.run(main, flags_parser=parse)


def use_all_cores() -> None:
    """Make each CPU core a device, unless the user said how many (`JAX_NUM_CPU_DEVICES`)."""
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def claim(workdir: Path, config: ConfigDict, data: dict) -> None:
    """Write ``config.json``, or see that the one there is the same.

    Raises:
      ValueError: if the folder belongs to another configuration, with the keys that differ.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps({"config": config.to_dict(), "data": data}))
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {workdir} to start anew"
            ) from None
        if old != new:
            differ = sorted(_differences(old, new))
            raise ValueError(
                f"{workdir} holds a run with another {', '.join(differ)}: choose another --workdir, "
                "or delete it"
            )
    write_atomically(path, json.dumps(new, indent=2) + "\n")


def _differences(old, new, path: str = "") -> Iterator[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield path.removeprefix("config.") + f" ({old} there, {new} now)"
        return
    for key in old.keys() | new.keys():
        yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))


def describe_devices() -> str:
    """What the run computes on, for its report."""
    import jax

    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU core"
    return f"{len(devices)} x {kind}, jax {jax.__version__}"
