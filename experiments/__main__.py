"""The studies and all other commands, a line each: ``python -m experiments``."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from textwrap import fill

import configs
from experiments.harness.run import print_or_fail

INDENTED = {"initial_indent": "    ", "subsequent_indent": "    ", "width": 100}


def list_studies() -> str:
    """Name and first line of each module here that can be run, from its docstring: of studies with
    their variants, then of other commands, with how they are called; and how to run a study."""
    folder, studies, commands = Path(__file__).parent, [], []
    configured = {path.stem for path in Path(configs.__file__).parent.glob("[!_]*.py")}
    modules = {path.stem: path for path in folder.glob("[!_]*.py")}
    packages = {path.parent.name: path for path in folder.glob("*/__main__.py")}
    for name, path in sorted((modules | packages).items()):
        source = path.read_text(encoding="utf-8")
        line, *rest = (ast.get_docstring(ast.parse(source)) or name).split("\n")
        if name in configured and name in modules:
            variants = ", ".join(getattr(import_module(f"configs.{name}"), "VARIANTS", ["default"]))
            studies.append(f"{name}: {line}\n{fill(f'variants: {variants}', **INDENTED)}")
        elif 'if __name__ == "__main__":' in source:
            usage = (f"    {words}" for words in rest if words.startswith("python -m "))
            commands.append("\n".join([f"{name}: {line.rstrip(':')}", *usage]))
    return "\n".join([*studies, "", *commands, "", HOW])


HOW = """\
To run a study, here with two of its settings changed:

    python -m experiments.supervised --config configs/supervised.py:default \\
        --config.seeds=5 --config.base.steps=300

The default of each needs no download. configs/NAME.py has all settings."""


def main() -> str:
    """The list; ValueError if there are arguments."""
    if sys.argv[1:]:
        raise ValueError(f"what is {sys.argv[1]!r}? A study is run by python -m experiments.NAME")
    return list_studies()


if __name__ == "__main__":
    print_or_fail(main)
