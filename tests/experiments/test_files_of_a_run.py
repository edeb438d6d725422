"""What a finished run leaves behind, in the work folder and on the screen."""

import json
import math
import os
import subprocess
import sys
import time

import pytest
from sklearn.datasets import load_digits

from tests.experiments.launcher import ROOT
from tests.experiments.tiny import (
    BASES,
    CUTS,
    FIGURES,
    FILES,
    FROZEN,
    NETWORKS,
    STEPS,
    TUNED,
    contents,
    curves,
    rows,
    tiny,
)


def test_files(finished):
    workdir, ended = finished
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert ended.out.strip() == (workdir / "report.md").read_text().strip()
    for name in FIGURES:
        assert (workdir / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    stored = json.loads((workdir / "config.json").read_text())
    config, data = stored["config"], stored["data"]
    assert (config["steps"], config["variant"]) == (STEPS, "digits")
    assert (data["name"], data["version"]) == ("digits", "")
    assert data["classes"] == list("0123456789")
    assert sum(data["sizes"].values()) == len(load_digits().target)
    assert set(data["sizes"]) == {"train", "validation", "test"}
    assert len(data["fingerprint"]) == 16 and int(data["fingerprint"], 16)


def test_results_have_a_row_for_each_network(finished):
    found = rows(finished[0])
    assert list(found[0]) == ["split", "seed", "direction", "treatment", "n", "accuracy"]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in found)
    names = [tuple(row.values())[:-1] for row in found]
    expected = [("random", "0", way, "base", "0") for way in ("AB", "BA")]
    for cut in map(str, range(1, CUTS + 1)):
        expected += [("random", "0", way, "AnB", cut) for way in ("AB", "BA")]
        expected += [("random", "0", "AB", "AnB+", cut)]
    assert sorted(names) == sorted(expected)


def test_curves_have_a_line_for_each_network_and_dispatch(finished):
    lines = curves(finished[0])
    assert len(lines) == NETWORKS * STEPS // 2
    keys = [(r["split"], r["seed"], r["direction"], r["treatment"], r["n"]) for r in lines]
    assert {keys.count(key) for key in keys} == {STEPS // 2}
    assert {record["step"] for record in lines} == set(range(2, STEPS + 1, 2))
    assert all(math.isfinite(record["loss"]) for record in lines)


def test_standard_error_has_a_progress_bar_and_little_else(finished):
    _, ended = finished
    assert "100%" in ended.err and "step/s" in ended.err
    assert ended.complaint == f"everything is in {finished[0]}"


def test_finished_run_is_reprinted_at_once(finished, start):
    workdir, first = finished
    before = contents(workdir)
    began = time.monotonic()
    again = start(workdir).wait()
    assert time.monotonic() - began < 15
    assert (again.code, again.out) == (0, first.out)
    assert contents(workdir) == before


def test_no_closed_stream_encoding_or_backend_of_a_notebook_costs_the_run(
    finished, environment, tmp_path
):
    """Standard error closed, a locale and an output that lack the report's letters, and a backend
    of matplotlib that is not installed."""
    workdir, bases = tmp_path / "run", tiny("--config.treatments=()")
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    poor |= {"PYTHONIOENCODING": "latin-1", "MPLBACKEND": "module://nowhere.backend_inline"}
    command = [sys.executable, "-m", "experiments.transferability", *bases, f"--workdir={workdir}"]
    for _ in range(2):  # the second time it prints what it reads
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
            cwd=ROOT,
            env=os.environ | environment | poor,
            stdout=subprocess.PIPE,
        )
        assert ended.returncode == 0
        report = (workdir / "report.md").read_text(encoding="utf-8")
        assert "±" in report and "\N{EN DASH}" in report
        shown = report.encode("latin-1", "replace")
        assert b"?" in shown and ended.stdout.strip() == shown.strip()
    assert {path.name for path in workdir.iterdir()} == FILES
    assert rows(workdir) == [row for row in rows(finished[0]) if row["treatment"] == "base"]


# Unusual runs.


def test_diverged_bases_are_named_and_reported(start, tmp_path):
    """Nothing but bases, and none survives."""
    workdir, rate = tmp_path, "--config.optimizer.learning_rate=1e6"
    ended = start(workdir, "--config.treatments=()", rate).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert [row["accuracy"] for row in rows(workdir)] == ["nan"] * BASES
    steps = [r["diverged_at"] for r in curves(workdir) if "diverged_at" in r]
    assert steps and all(0 <= step < STEPS for step in steps)
    for way in ("AB", "BA"):
        first = min(
            r["diverged_at"]
            for r in curves(workdir)
            if r["direction"] == way and "diverged_at" in r
        )
        assert f"{way}/base/0 at step {first}" in ended.out


@pytest.mark.parametrize(
    "treatment, gives",
    [("base", None), ("BnB+", "AB"), ("AnB", "BA"), ("AnB+", "BA"), ("random", None)],
)
def test_who_gives_a_network_its_first_layers(treatment, gives):
    """What falls with a base that diverges."""
    from experiments.transferability import Network, donor_of

    expected = gives and Network("random", 1, gives, "base", 0)
    assert donor_of(Network("random", 1, "AB", treatment, 3)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, networks",
    [
        (["--config.treatments=('AnB+',)"], BASES + TUNED),
        (["--config.treatments=('BnB',)"], BASES + FROZEN),
        (["--config.treatments=('random',)"], BASES + FROZEN),
        (["--config.fine_tuned_directions=('BA',)"], NETWORKS),
        (["--config.fine_tuned_directions=('AB','BA')"], NETWORKS + TUNED),
        (["--config.fine_tuned_splits=()"], BASES + FROZEN),
        (["--config.optimizer.learning_rate=1e6"], NETWORKS),
        (["--config.report_on=validation"], NETWORKS),
        (["--config.batch=1000"], NETWORKS),  # more than a task has: several epochs a step
    ],
    ids=lambda value: value[0].removeprefix("--config.") if isinstance(value, list) else "",
)
def test_grid(arguments, networks, start, tmp_path):
    ended = start(tmp_path, *arguments).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert len(rows(tmp_path)) == networks
    assert {path.name for path in tmp_path.iterdir()} == FILES
