"""The studies, a line each: ``python -m experiments``."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill

import configs
from experiments.harness.run import print_or_fail

INDENTED = {"initial_indent": "    ", "subsequent_indent": "    ", "width": 100}


def list_studies() -> str:
    """Name and question of each study, from its file's docstring; its variants; how to run it."""
    blocks = []
    for path in sorted(Path(configs.__file__).parent.glob("[!_]*.py")):
        name = path.stem
        study = find_spec(f"experiments.{name}")
        if study is None or name == "benchmark":  # no study, or a user's own configuration
            continue
        source = Path(study.origin).read_text(encoding="utf-8")
        question, _, _ = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        variants = ", ".join(getattr(import_module(f"configs.{name}"), "VARIANTS", ["default"]))
        blocks.append(f"{name}: {question}\n{fill(f'variants: {variants}', **INDENTED)}")
    return "\n".join([*blocks, "", HOW])


HOW = """\
To run one, here with two of its settings changed:

    python -m experiments.supervised --config configs/supervised.py:default \\
        --config.seeds=5 --config.base.steps=300

The default of each needs no download. configs/NAME.py has all settings. python -m experiments.runs
lists what was run, python -m experiments.benchmark measures how fast it is."""


def main() -> str:
    """The list; ValueError for arguments, of which there are none."""
    if sys.argv[1:]:
        raise ValueError(f"what is {sys.argv[1]!r}? A study is run by python -m experiments.NAME")
    return list_studies()


if __name__ == "__main__":
    print_or_fail(main)
