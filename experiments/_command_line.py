"""The command line of a study: its configuration, its flags, and what is wrong with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

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


def parse(argv: list[str], name: str, default: ConfigDict) -> list[str]:
    """Define and read the flags of the study ``name``; what is left over of ``argv``.

    Raises:
      ValueError: where something else was asked for than ``default`` has, or cannot be read.
    """
    if {"--help", "-h", "-help", "--helpfull"} & set(argv):
        print(sys.modules["__main__"].__doc__)
        print(f"  --config FILE[:VARIANT]  default configs/{name}.py; comments say what is what")
        print("  --config.KEY=VALUE       another value of one setting")
        print(f"  --workdir FOLDER         default runs/{name}-VARIANT")
        for option, (_, what) in OPTIONS.items():
            print(f"  --{option:<23}{what}")
        sys.exit(0)
    for argument in argv:
        key = argument.split("=")[0].removeprefix("--config.")
        if argument.startswith("--config.") and not _is_setting(key, _keys(default)):
            raise ValueError(f"there is no setting config.{key}: configs/{name}.py has them all")
    asked = _asked(argv)
    where = "" if asked is None else f"--config={asked}: "  # to begin a message with
    if asked and not Path(asked.split(":")[0]).exists():
        raise ValueError(f"{where}there is no such file")
    try:
        flags.DEFINE_string("workdir", None, "Where everything is written.")
        for option, (define, what) in OPTIONS.items():
            define(option, None, what)
        config_flags.DEFINE_config_file("config", f"configs/{name}.py", "FILE[:variant].")
        rest = flags.FLAGS(argv)
        config = flags.FLAGS.config
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f"there is no option --{error.flagname}: see --help") from None
    except flags.Error as error:
        # The loader of configurations puts a whole traceback into its message.
        line = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        of_another = re.match(r"flag --(?!config)", line)
        raise ValueError(line if of_another else where + line) from None
    except ValueError as error:  # said for the user, as of an unknown variant
        raise ValueError(f"{where}{error}") from None
    except AttributeError as error:  # how a ConfigDict says that it has no such key
        key = next(iter(re.findall(r"\w+", str(error))), "")
        given = next((a for a in argv if re.match(rf"--config\.(.+\.)?{key}=", a)), None)
        if given is None:
            raise ValueError(f"{where}{error}") from None
        section = given.partition("=")[0].rpartition(".")[0]
        whole = f", or give {section}=\"{{'{key}': VALUE}}\"" * section.endswith(".options")
        all_are = f"configs/{name}.py has them all"
        raise ValueError(f"{where}there is no setting {key!r}: {all_are}{whole}") from None
    except OSError as error:
        reason = re.search(r"\[Errno \d+\] ([^:]+)", str(error))
        raise ValueError(f"{where}cannot be read ({reason[1] if reason else error})") from None
    except Exception as error:  # whatever a configuration's own code may raise
        raise ValueError(f"{where}{type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{where}its get_config() returns no ConfigDict")
    check_options(flags.FLAGS)
    if rest[1:]:
        raise ValueError(
            f"what is {rest[1]!r}? Options begin with --; a config is given by --config"
        )
    if missing := sorted(_keys(default) - _keys(config)):
        rest_of = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{where}its get_config() does not set {', '.join(missing[:5])}{rest_of}")
    return rest


def check_options(given: flags.FlagValues) -> None:
    """Raise ValueError where an option beside the configuration is not what it has to be."""
    explicit = given.coordinator, given.processes, given.process
    if None in explicit and explicit != (None, None, None) and not given.distributed:
        raise ValueError("--coordinator, --processes and --process go together")
    if given.coordinator and not re.fullmatch(r".+:[0-9]+", given.coordinator):
        raise ValueError(f"--coordinator={given.coordinator}: give HOST:PORT")
    if given.processes is not None and not 0 <= (given.process or 0) < given.processes:
        raise ValueError(
            f"--process={given.process}: these are 0 to {given.processes - 1} of "
            f"--processes={given.processes}"
        )
    if given.profile is not None:
        steps = re.fullmatch(r"([0-9]+):([0-9]+)", given.profile)
        if not steps or int(steps[1]) >= int(steps[2]):
            raise ValueError(f"--profile={given.profile}: give two steps, FIRST:LAST")
    if given.tensorboard and find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'")


def _asked(argv: list[str]) -> str | None:
    """The configuration that was asked for, if one was."""
    for argument, value in zip(argv, [*argv[1:], ""], strict=True):
        if argument == "--config":
            return value
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
    return None


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
