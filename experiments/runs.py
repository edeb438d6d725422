"""What was run, and how runs differ:

python -m experiments.runs [FOLDER]        lists the runs below a folder, by default ``runs``
python -m experiments.runs RUN RUN ...     compares runs of one study with the first of them

The numbers are those of the study's ``headline``. Differences are paired: they are taken between
networks of the same name, seed included, and averaged over seeds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.harness import records
from experiments.harness.headline import Values, estimate
from experiments.harness.run import UserError, print_or_fail, user_input
from experiments.harness.study import COMPUTING, Study, shorten
from jaxdl.files import user_path
from jaxdl.report.comparisons import assemble, judged, minus, shows, warn_of_several
from jaxdl.report.tables import MISSING, Estimate, markdown_table
from jaxdl.types import DamagedFile

FILES = {"config.json", "run.json", "metrics.jsonl", "results.csv"}
"""Files by which a run's folder is recognized."""


def is_finished(folder: Path) -> bool:
    """Whether a run has ended, and so has its report."""
    return (folder / "report.md").exists()


class Run(NamedTuple):
    """A run, as its folder has it."""

    folder: Path
    record: records.Record
    content: dict[str, Any]
    """The content of ``config.json``."""
    kind: type[Study]
    values: Values
    """The study's headline numbers; empty before they are measured."""

    @property
    def variant(self) -> str:
        """The variant of the configuration."""
        return str(self.content["config"]["variant"])

    @property
    def state(self) -> str:
        """The state of the run, in a word: finished or not."""
        return "finished" if is_finished(self.folder) else "unfinished"

    @property
    def time(self) -> str:
        """The total time of all starts, without those that were killed or are running."""
        seconds, least = records.total_seconds(self.record.starts)
        return least + tqdm.format_interval(seconds)


def load(folder: Path) -> Run:
    """Read a run.

    Raises:
      OSError: if a file cannot be read.
      DamagedFile: if a file is damaged.
      ValueError: if it is no run of a study in ``experiments/``.
    """
    path = folder / "run.json"
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name the --workdir of a run")
    if not path.exists():
        raise ValueError(
            f"{path} is missing: this is no run of a study, or one of an earlier version"
        )
    record, path = records.read(path), folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = {"config": {"variant": "", **content["config"]}, "data": {**content["data"]}}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is no configuration of a run ({error})") from None
    kind, table = study_named(record.study), folder / "results.csv"
    values = kind.headline.read(table, kind.network) if table.exists() else {}
    return Run(folder, record, content, kind, values)


def study_named(name: str) -> type[Study]:
    """The study in ``experiments/NAME.py``, whose configurations are in ``configs/NAME.py``.

    Raises:
      ValueError: if there is none, or it has no headline.
    """
    module = f"experiments.{name}"
    if name.isidentifier() and find_spec(module) and find_spec(f"configs.{name}"):
        for kind in vars(import_module(module)).values():
            if isinstance(kind, type) and issubclass(kind, Study) and kind.__module__ == module:
                if hasattr(kind, "headline"):
                    return kind
                raise ValueError(f"{kind.__name__} in experiments/{name}.py has no headline")
    raise ValueError(f"there is no study {name!r}: no experiments/{name}.py and configs/{name}.py")


def find(folder: Path) -> list[Path]:
    """The folders of runs, among a folder and those below it.

    Raises:
      ValueError: if there is none.
    """
    runs = []
    for name, folders, files in os.walk(folder):
        if FILES & set(files):
            runs.append(Path(name))
            folders.clear()  # checkpoints have many
    if not runs:
        problem = "there is no run in" if folder.is_dir() else "there is no folder"
        raise ValueError(f"{problem} {folder}: name the --workdir of a run, or a folder above it")
    return sorted(runs)


def flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots, and values, of all settings in sections."""
    if not isinstance(settings, dict):
        yield name, settings
        return
    for key, value in settings.items():
        yield from flat(value, f"{name}.{key}" if name else key)


def describe_changes(run: Run) -> str:
    """The settings that differ from those of the variant, but how it was computed."""
    get_config = import_module(f"configs.{run.record.study}").get_config
    try:
        default = get_config(run.variant)
    except ValueError:  # of a configuration of the user's own
        default = get_config()
    usual = dict(flat(json.loads(json.dumps(default.to_dict()))))
    actual = dict(flat(run.content["config"]))
    computing = ("variant", *COMPUTING, *run.kind.settings.computing)
    changes = [
        f"{name}={shorten(actual[name])}" if name in actual else f"without {name}"
        for name in {**actual, **usual}
        if usual.get(name, MISSING) != actual.get(name, MISSING)
        and not any(name == section or name.startswith(f"{section}.") for section in computing)
    ]
    rest = [f"{len(changes) - 6} more"] if len(changes) > 6 else []
    return ", ".join([*changes[:6], *rest])


def describe_result(run: Run) -> str:
    """The mean over seeds with its method; of several methods the lowest and the highest."""
    if not run.values:
        return MISSING
    headline = run.kind.headline
    groups = headline.groups(headline.counted(run.values)).items()
    means = {", ".join(filter(None, name)): estimate(values) for name, values in groups}
    ordered = sorted((x.mean, name) for name, x in means.items() if x.used)
    if not ordered:
        return MISSING
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    cells = {name: f"{headline.format(means[name])}{headline.unit}" for _, name in ends}
    numbers = (f"{cell} ({name})" if name else cell for name, cell in cells.items())
    total = f", of {len(means)}" if len(means) > len(ends) else ""
    return f"{headline.name} {' to '.join(numbers)}{total}"


def list_runs(folder: Path) -> str:
    """A table of the runs below a folder."""
    rows = []
    for path in find(folder):
        try:
            with user_input():
                rows.append(row_of(load(path)))
        except UserError as error:
            reason = str(error).replace(f"{path}/", "")
            state = f"damaged: {reason}" if (path / "run.json").exists() else reason
            rows.append((path, *[MISSING] * 5, state, ""))
    return markdown_table(COLUMNS, rows, left=len(COLUMNS))


COLUMNS = ("run", "study", "variant", "result", "time", "commit", "state", "settings")


def row_of(run: Run) -> tuple:
    """The cells of :data:`COLUMNS`."""
    commits = ", ".join(dict.fromkeys(map(records.describe_commit, run.record.starts)))
    result, settings = describe_result(run), describe_changes(run)
    study = run.record.study
    return run.folder, study, run.variant, result, run.time, commits, run.state, settings


def compare(runs: Sequence[Run]) -> str:
    """Settings of all runs that differ, and each run's numbers beside those of the first.

    Raises:
      ValueError: if they are of several studies, or one has no results.
    """
    studies = {run.record.study: run.folder for run in runs}
    if len(studies) > 1:
        lines = (f"{folder} is of {name}" for name, folder in studies.items())
        raise ValueError(f"only runs of one study can be compared: {', '.join(lines)}")
    if empty := [run.folder for run in runs if not run.values]:
        raise ValueError(f"{empty[0]} has no results.csv yet: run it to its end first")
    numbers = [f"run {i + 1}" for i in range(len(runs))]
    facts = {
        f"{number.capitalize()}: {run.folder}": f"{run.variant}, {run.state}, {run.time}; "
        + records.describe_code(run.record.starts)
        for number, run in zip(numbers, runs, strict=True)
    }
    settings = [dict(flat(run.content)) for run in runs]
    rows = []
    for name in dict.fromkeys(name for values in settings for name in values):
        values = [values.get(name, MISSING) for values in settings]
        if any(value != values[0] for value in values):
            rows.append((name.removeprefix("config."), *map(shorten, values)))
    differ = markdown_table(("setting", *numbers), rows, len(runs) + 1) if rows else "None."
    sections = [("Settings that differ", differ), *paired(runs, numbers)]
    return assemble(f"Runs of {runs[0].record.study}", facts, sections)


def paired(runs: Sequence[Run], numbers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The section of the numbers, and notes on it."""
    headline, network = runs[0].kind.headline, runs[0].kind.network
    differences = [minus(run.values, runs[0].values) for run in runs[1:]]
    columns = [*(run.values for run in runs), *differences]
    grouped = [headline.groups(values) for values in columns]
    names = list(dict.fromkeys(name for groups in grouped for name in groups))
    cells = [[estimate(groups.get(name, {})) for groups in grouped] for name in names]
    used = [any(parts) for parts in zip(*names, strict=True)]
    fields = list(compress(headline.fields(network), used))
    names = [tuple(compress(name, used)) for name in names]
    header = (*fields, *numbers, *(f"{number} minus 1" for number in numbers[1:]))
    rows = [
        (
            *name,
            *map(headline.format, row[: len(runs)]),
            *(mark(headline.format(x, signed=True), x) for x in row[len(runs) :]),
        )
        for name, row in zip(names, cells, strict=True)
    ]
    yield headline.name + headline.unit, markdown_table(header, rows, len(fields))
    yield "", NOTE
    count = sum(judged(x) for row in cells for x in row[len(runs) :])
    yield "", "\n".join(warn_of_several(count))


def mark(text: str, difference: Estimate) -> str:
    """A text with a star where the interval of the difference excludes zero."""
    return f"{text} *" if shows(+1, difference) or shows(-1, difference) else text


NOTE = """\
Mean ± standard error over seeds. Differences are paired: between networks of the same name and
seed, averaged within a seed, then over seeds. A star stands where the two-sided 95% t interval over
seeds excludes zero. Seeds that only one run has, and networks that diverged in either, are in no
difference; a run's own column has all its seeds."""


def main(arguments: Sequence[str]) -> str:
    """The list or the comparison of runs, by the arguments.

    Raises:
      ValueError: for a folder without runs, and for runs that cannot be compared.
      OSError: if a file of a run that is compared cannot be read.
    """
    if any(word.startswith("-") for word in arguments):
        raise ValueError("usage: python -m experiments.runs [FOLDER] | RUN RUN ...")
    folders = [user_path(word) for word in arguments or ["runs"]]
    return compare(list(map(load, folders))) if len(folders) > 1 else list_runs(*folders)


if __name__ == "__main__":
    print_or_fail(lambda: main(sys.argv[1:]))
