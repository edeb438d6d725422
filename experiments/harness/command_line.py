"""The command line of a study: its configuration, flags, and checks of both."""

from __future__ import annotations

import ast
import re
import sys
import traceback
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import configs
from experiments.harness.settings import suggestion
from jaxdl.files import user_path

OPTIONS: dict[str, tuple[Callable, str]] = {
    "distributed": (flags.DEFINE_bool, "many processes, as SLURM, Open MPI or TPUs start them"),
    "coordinator": (flags.DEFINE_string, "HOST:PORT of the first of many processes"),
    "processes": (flags.DEFINE_integer, "how many these are"),
    "process": (flags.DEFINE_integer, "which of these this is, from 0"),
    "debug": (flags.DEFINE_bool, "stop at the first NaN and name the operation"),
    "tensorboard": (flags.DEFINE_bool, "write the curves for TensorBoard, too"),
    "profile": (flags.DEFINE_string, "FIRST:LAST steps for the profiler"),
}
"""Options beside the configuration: how each is defined, and what it means."""


EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "tuple": "a tuple such as \"(1, 2)\" or \"('a', 'b')\"",
    "string": "a section such as \"{'seed': 0}\"",  # text is never refused
}
"""Descriptions of an option's value, by the type of absl's parser."""

HELP = {"--help", "-h", "-help", "--helpfull"}
"""Words that ask for help."""


def parse(argv: list[str], name: str, default: ConfigDict, free: Collection[str]) -> list[str]:
    """Define and read the flags of the study ``name``; returns the remaining arguments.

    Args:
      free: sections, by their last name, that each configuration fills as it likes.

    Raises:
      ValueError: for a setting that ``default`` does not have, or a value that cannot be parsed.
    """
    if HELP & {*argv}:
        print(sys.modules["__main__"].__doc__)
        print(f"  --config FILE[:VARIANT]  default configs/{name}.py; comments say what is what")
        print('  --config.KEY=VALUE       another value of one setting; of a tuple: "(4,)"')
        print(f"  --workdir FOLDER         default runs/{name}-VARIANT")
        for option, (_, description) in OPTIONS.items():
            print(f"  --{option:<23}{description}")
        sys.exit(0)
    argv, default_file = _last_of_each(argv), _resolved(f"configs/{name}.py")
    requested = next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), None)
    prefix = "" if requested is None else f"--config={requested}: "  # to begin a message with
    file = _resolved(requested or "")
    if requested:
        if not Path(file.partition(":")[0]).exists():
            raise ValueError(f"{prefix}there is no such file")
        path = Path(file.partition(":")[0]).resolve()
        if path.parent == Path(configs.__file__).parent and path.stem != name:
            command = f"python -m experiments.{path.stem} --config={requested}"
            raise ValueError(f"{prefix}this is a configuration of {path.stem}: {command}")
        argv[argv.index(f"--config={requested}")] = f"--config={file}"
    names = sorted(_keys(default, free))
    for argument in argv:
        key = argument.split("=")[0].removeprefix("--config.")
        if argument.startswith("--config.") and not _is_setting(key, names):
            raise ValueError(_no_setting(key, names, name))
    try:
        flags.DEFINE_string("workdir", None, "Where everything is written.")
        for option, (define, description) in OPTIONS.items():
            define(option, None, description)
        check_methods(argv, default_file)
        # It looks into the arguments beforehand, for what settings there are.
        config_flags.DEFINE_config_file("config", default_file, "FILE[:variant].", sys_argv=argv)
        rest = flags.FLAGS(argv)
        config = flags.FLAGS.config
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f"there is no option --{error.flagname}: see --help") from None
    except flags.Error as error:
        if refusal := _refusal(error):
            raise ValueError(refusal) from None
        # The loader of configurations puts a whole traceback into its message.
        line = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        line = re.sub(r"\('(.*)', ('.*')\)$", r"\1 \2", line)  # the arguments of an exception
        cause = error.__context__ and error.__context__.__context__
        raise ValueError(f"{prefix}{_place(cause, file)}{line}") from None
    except ValueError as error:  # said for the user, as of an unknown variant
        raise ValueError(f"{prefix}{error}") from None
    except AttributeError as error:  # how a ConfigDict says that it has no such key
        key = next(iter(re.findall(r"\w+", str(error))), "")
        override = next((a for a in argv if re.match(rf"--config\.(.+\.)?{key}=", a)), None)
        if override is None:
            if place := _place(error, file):
                raise ValueError(f"{prefix}{place}AttributeError: {error}") from None
            if str(error).endswith("no attribute 'get_config'"):
                problem = "it has no function get_config(), which is to return the ConfigDict"
                raise ValueError(prefix + problem) from None
            raise ValueError(f"{prefix}{error}") from None
        section = override.partition("=")[0].rpartition(".")[0]
        paths = (f"--config.{path}".rpartition(".") for path in sorted(_keys(default, ())))
        siblings = [last for parent, _, last in paths if parent == section]
        hint = suggestion(key, siblings, f"{section}.")
        addition = ""
        if section.endswith(".options") and not hint:
            addition = f", or give all that is to be there, {section}=\"{{'{key}': VALUE, ...}}\""
        if section.startswith("--config.methods."):  # it may be one of config.base's
            method = section.rpartition(".")[2]
            if key in default.get("base", {}):
                example = f"--config.methods=\"{{'{method}': {{'{key}': VALUE, ...}}, ...}}\""
                raise ValueError(
                    f"{prefix}config.methods.{method} does not change {key!r}: --config.base.{key}="
                    "VALUE is for all methods that do not; for this one, name all methods with all "
                    f"that they change, {example}"
                ) from None
        remedy = f"{hint}configs/{name}.py has them all{addition}"
        raise ValueError(f"{prefix}there is no setting {key!r}: {remedy}") from None
    except KeyError as error:  # the same, of a section
        if place := _place(error, file):
            raise ValueError(f"{prefix}{place}KeyError: {error}") from None
        text = " ".join(str(error.args[0]).split()).replace(" Did you", ": did you")
        if below := re.search(r"does not support indexing.*lookup: (\S+)\.", text):
            setting = f"config.{below[1]}"
            reason = f"{setting} is a value and has no settings: --{setting}=VALUE"
            raise ValueError(prefix + reason) from None
        raise ValueError(f"{prefix}there is no {text}") from None
    except OSError as error:
        reason = re.search(r"\[Errno \d+\] ([^:]+)", str(error))
        raise ValueError(f"{prefix}cannot be read ({reason[1] if reason else error})") from None
    except Exception as error:  # whatever a configuration's own code may raise
        place = _place(error, file)
        raise ValueError(f"{prefix}{place}{type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{prefix}its get_config() returns no ConfigDict")
    check_options(flags.FLAGS)
    if rest[1:]:
        raise ValueError(
            f"what is {rest[1]!r}? Options begin with --; a config is given by --config"
        )
    if missing := sorted(_keys(default, free) - _keys(config, free)):
        rest_of = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        lacking = f"does not set {', '.join(missing[:5])}{rest_of}"
        for section in (a.partition("=")[0].removeprefix("--config.") for a in argv):
            if any(key.startswith(f"{section}.") for key in missing):
                raise ValueError(
                    f"--config.{section} replaces that whole section and {lacking}: for a single "
                    f"setting write --config.{section}.KEY=VALUE"
                )
        raise ValueError(f"{prefix}its get_config() {lacking}")
    for key in sorted(_keys(config, free) - _keys(default, free)):
        if not _has(default, key):
            raise ValueError(prefix + _no_setting(key, names, name))
    methods = config.get("methods") or {}
    for key in (m[1] for a in argv if (m := re.match(r"--config\.base\.(\w+)=", a))):
        if methods and all(isinstance(m, ConfigDict) and key in m for m in methods.values()):
            raise ValueError(
                f"--config.base.{key} would change nothing, since each method has its own: give "
                f"--config.methods.NAME.{key}=VALUE, NAME being {', '.join(methods)}"
            )
    return rest


def _refusal(error: flags.Error) -> str:
    """A message for an option whose value cannot be parsed; empty for other errors."""
    name = next(iter(re.findall(r"^flag --([^=]+)=", str(error))), "")
    kind = EXPECTED.get(flags.FLAGS[name].parser.flag_type()) if name in flags.FLAGS else None
    assignment = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
    value, fault = assignment.partition("=")[2], ""
    if value.startswith(("(", "[", "{")):
        try:
            ast.literal_eval(value)
        except SyntaxError as problem:  # a bracket that is not closed, and the like
            fault = f" ({problem.msg})"
        except ValueError:
            pass
    return f"{assignment}: give {kind}{fault}" if kind else ""


def _place(error: BaseException | None, file: str) -> str:
    """Of an exception of a configuration's own code, the line of the FILE[:VARIANT]; empty for
    other ones, and for a ValueError, which has words for the user."""
    if error is None or isinstance(error, ValueError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file.partition(":")[0]]
    return f"line {lines[-1]}: " if lines else ""


def check_methods(argv: list[str], default_file: str) -> None:
    """Raise ValueError where a setting is one of a method that the configuration has not."""
    overrides = (re.match(r"--config\.methods\.(\w+)", argument) for argument in argv)
    names = [override[1] for override in overrides if override]
    if not names:
        return
    values, plain = flags.FlagValues(), [argv[0], *(a for a in argv if a.startswith("--config="))]
    config_flags.DEFINE_config_file("config", default_file, flag_values=values, sys_argv=plain)
    values(plain)
    methods = list(values.config.get("methods", ()))
    if unknown := [name for name in names if name not in methods]:
        raise ValueError(
            f"there is no method {unknown[0]!r}, but {', '.join(methods)}; for others name all: "
            f"--config.methods=\"{{'{unknown[0]}': {{...}}, ...}}\""
        )


def check_options(values: flags.FlagValues) -> None:
    """Raise ValueError for wrong options beside the configuration."""
    explicit = values.coordinator, values.processes, values.process
    if None in explicit and explicit != (None, None, None) and not values.distributed:
        raise ValueError("--coordinator, --processes and --process go together")
    if values.coordinator and not re.fullmatch(r".+:[0-9]+", values.coordinator):
        raise ValueError(f"--coordinator={values.coordinator}: give HOST:PORT")
    if values.processes is not None and not 0 <= (values.process or 0) < values.processes:
        raise ValueError(
            f"--process={values.process}: these are 0 to {values.processes - 1} of "
            f"--processes={values.processes}"
        )
    if values.profile is not None:
        steps = re.fullmatch(r"([0-9]+):([0-9]+)", values.profile)
        if not steps or int(steps[1]) >= int(steps[2]):
            raise ValueError(f"--profile={values.profile}: give two steps, FIRST:LAST")
    if values.tensorboard and find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'")


def _last_of_each(argv: list[str]) -> list[str]:
    """The arguments with those for the configuration as --KEY=VALUE, the last of each key: of a
    tuple that is given twice one would otherwise be made that has both."""
    last, number = {}, 0
    while number < len(argv):
        name, text = None, argv[number]
        if option := re.fullmatch(r"--?(config(?:\.[^=]+)?)(=.*)?", text, re.DOTALL):
            name, value = option.groups()
            following = argv[number + 1 : number + 2]
            if value is None and following and not following[0].startswith("--"):
                number += 1
                value = f"={following[0]}"
            text = f"--{name}{value or ''}"
        last.pop(name, None)
        last[name or number] = text
        number += 1
    return list(last.values())


def _resolved(argument: str) -> str:
    """FILE[:VARIANT] with a resolved path: this project's configurations are found from any
    folder."""
    file, colon, variant = argument.partition(":")
    path, project_path = user_path(file), Path(configs.__file__).parents[1] / file
    if not path.exists() and path.parts[:1] == ("configs",) and project_path.exists():
        path = project_path
    return f"{path}{colon}{variant}"


def _keys(config: ConfigDict, free: Collection[str]) -> set[str]:
    """The names of all settings, ``optimizer.name`` and the like, none within a free section."""
    names = set()
    for key, value in config.items():
        inner = isinstance(value, ConfigDict) and key not in free
        names |= {f"{key}.{name}" for name in _keys(value, free)} if inner else {key}
    return names


def _has(config: ConfigDict, key: str) -> bool:
    """Whether a configuration has a setting, or an empty section for it, which variants fill."""
    section: Any = config
    for part in key.split("."):
        if part not in section:
            return False
        section = section[part]
        if isinstance(section, ConfigDict) and not section:
            return True
    return True


def _no_setting(key: str, names: Collection[str], study: str) -> str:
    """A message for a setting that there is not."""
    hint = suggestion(key, names, "config.")
    return f"there is no setting config.{key}: {hint}configs/{study}.py has them all"


def _is_setting(key: str, names: Collection[str]) -> bool:
    """Whether a key is a setting, a section, or within a data set's own options."""
    return any(n == key or n.startswith(f"{key}.") or key.startswith(f"{n}.") for n in names)
