"""The transferability study in tiny, which stands for all where studies are alike.

It runs on scikit-learn's digits for so few steps that it takes seconds, most of which are
compilation. Fixtures that start it are in ``conftest.py``.
"""

import csv
import json
from pathlib import Path

from jaxdl.train.interruption import StopFlag

CONFIG = "configs/transferability.py:digits"
SEEDS, STEPS, CUTS = 1, 12, 4
TINY = (
    f"--config.seeds={SEEDS}",
    f"--config.steps={STEPS}",
    "--config.steps_per_dispatch=2",
    "--config.schedule.warmup=0",
    "--config.members_per_round=2",
    "--config.seconds_between_saves=1e9",
    "--config.treatments=('AnB','AnB+')",
)
OFTEN = "--config.seconds_between_saves=0.0"
"""Saves at each dispatch, where a run is stopped; by default a population saves at its end."""
BASES, TUNED, FROZEN = 2 * SEEDS, CUTS * SEEDS, 2 * CUTS * SEEDS
NETWORKS = BASES + TUNED + FROZEN
POPULATIONS = ("bases-0", "fine-tuned-0", "fine-tuned-1", "frozen-0")
FIGURES = ("transferability.png", "curves.png", "samples.png")
RECORDS = ("config.json", "run.json", "metrics.jsonl", "report.md", "report.html")
FILES = {*RECORDS, "results.csv", "checkpoints", *FIGURES}

WATCH = """
    import json
    from jaxdl.data.source import Sealed
    whole = Sealed.open

    def watched(self):
        curves = workdir / "metrics.jsonl"
        files = [path.name for path in workdir.iterdir() if path.is_file()]
        checkpoints = [max(each.iterdir(), key=lambda step: int(step.name))
                       for each in (workdir / "checkpoints").iterdir()]
        files += [str(path.relative_to(workdir)) for path in checkpoints]
        seen = {"lines": curves.read_text().count(chr(10)), "files": sorted(files)}
        with (workdir.parent / "opened").open("a") as file:
            print(json.dumps(seen), file=file)
        return whole(self)

    Sealed.open = watched
"""
"""Writes down what is in the work folder whenever a test split is opened, beside that folder."""


def tiny(*arguments):
    """The arguments of the tiny study, and others that replace some of them."""
    return [f"--config={CONFIG}", *TINY, *arguments]


def contents(folder):
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def rows(workdir, table="results.csv"):
    with open(workdir / table, newline="") as file:
        return list(csv.DictReader(file))


def curves(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


class Stops(StopFlag):
    """Asked to stop within training."""

    def __enter__(self):
        self.received = 2
        return self


def logged(workdir, lines):
    """Whether so many lines of curves are written: so far it has trained."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def timeless(report):
    """A report without the line that says how long it took."""
    measured = ("- Time:", "- Speed:", "- Memory at most:")
    return [line for line in report.splitlines() if not line.startswith(measured)]


def assert_same_run(workdir, finished):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    ours, theirs = ((at / "report.md").read_text() for at in (workdir, finished))
    assert timeless(ours) == timeless(theirs)
    assert {path.name for path in workdir.iterdir()} == FILES
