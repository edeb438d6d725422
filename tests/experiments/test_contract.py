"""The contract of a study, as a user meets it: arguments in, files and an exit code out.

The transferability study stands for all. It runs on scikit-learn's digits for so few steps that it
takes seconds, most of which are compilation: hence one cache of compiled programs for all runs.
"""

import csv
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.experiments.launcher import Launcher

CONFIG = "configs/transferability.py:digits"
SEEDS, STEPS, CUTS = 1, 12, 4
TINY = (
    f"--config.seeds={SEEDS}",
    f"--config.steps={STEPS}",
    "--config.steps_per_dispatch=2",
    "--config.schedule.warmup=0",
    "--config.members_per_round=2",
    "--config.seconds_between_saves=0.0",
    "--config.treatments=('AnB','AnB+')",
)
BASES, TUNED, FROZEN = 2 * SEEDS, CUTS * SEEDS, 2 * CUTS * SEEDS
NETWORKS = BASES + TUNED + FROZEN
FIGURES = ("transferability.png", "curves.png", "samples.png")
FILES = {"config.json", "results.csv", "metrics.jsonl", "report.md", "checkpoints", *FIGURES}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return {
        "XDG_CACHE_HOME": str(folder / "user"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes longer than training here
        "JAX_NUM_CPU_DEVICES": "2",
    }


@pytest.fixture(scope="module")
def launcher(environment, tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("streams"), environment) as launcher:
        yield launcher


def tiny(*arguments):
    """The arguments of the tiny study with some replaced: given twice, a tuple would grow."""
    last = {argument.partition("=")[0]: argument for argument in (*TINY, *arguments)}
    return [f"--config={CONFIG}", *last.values()]


@pytest.fixture(scope="module")
def start(launcher):
    """Start the tiny study with further arguments, or the study with another configuration."""

    def start(workdir, *arguments, config=None):
        arguments = tiny(*arguments) if config is None else [f"--config={config}", *arguments]
        return launcher.start("transferability", [*arguments, f"--workdir={workdir}"])

    return start


@pytest.fixture(scope="module")
def runs(start, environment, tmp_path_factory):
    """Workdirs and runs that no test disturbs, begun together: compiling takes one core each."""
    whole, alone, lost = (tmp_path_factory.mktemp(name) for name in ("whole", "alone", "lost"))
    # Bases only, for the time it takes to compile.
    division = ("members_per_round=3", "steps_per_dispatch=6", "treatments=()")
    division = [*tiny(*(f"--config.{value}" for value in division)), f"--workdir={alone}"]
    one = environment | {"JAX_NUM_CPU_DEVICES": "1"}
    with Launcher(tmp_path_factory.mktemp("streams"), one) as launcher:
        yield {
            "whole": (whole, start(whole)),
            "alone": (alone, launcher.start("transferability", division)),
            "lost": (
                lost,
                start(lost, "--config.treatments=()", "--config.optimizer.learning_rate=1e6"),
            ),
        }


@pytest.fixture(scope="module")
def finished(runs):
    """The workdir of an uninterrupted run, and how it ended."""
    workdir, study = runs["whole"]
    return workdir, study.wait()


@pytest.fixture
def unreported(finished, tmp_path):
    """A copy of the finished run's workdir as a kill before the report leaves it."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for name in ("report.md", *FIGURES):
        (workdir / name).unlink()
    return workdir


def contents(folder):
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def rows(workdir):
    with open(workdir / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def curves(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(workdir, lines):
    """Whether so many lines of curves are written: so far it has trained."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def timeless(report):
    """A report without the line that says how long it took."""
    return [line for line in report.splitlines() if not line.startswith("- Time:")]


def assert_same_run(workdir, finished):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    ours, theirs = ((at / "report.md").read_text() for at in (workdir, finished))
    assert timeless(ours) == timeless(theirs)
    assert {path.name for path in workdir.iterdir()} == FILES


def assert_refused(ended, *words):
    """One clear line on standard error, and exit code 2."""
    assert "Traceback" not in ended.err, ended.err[-1500:]
    assert ended.code == 2, ended
    assert ended.out == ""
    (line,) = ended.complaint.splitlines()
    assert line.startswith("error: ") and len(line) < 500
    for word in words:
        assert word in line, line


# What a finished run leaves behind.


def test_files(finished):
    workdir, ended = finished
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert ended.out.strip() == (workdir / "report.md").read_text().strip()
    for name in FIGURES:
        assert (workdir / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert (config["steps"], config["variant"]) == (STEPS, "digits")


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


# Stopping and going on.


def test_stopped_three_times_it_ends_as_if_it_had_not(finished, start, tmp_path):
    """A kill while bases train, SIGTERM and SIGINT while others do."""
    dispatches = STEPS // 2
    moments = (
        (signal.SIGKILL, 2 * BASES, -signal.SIGKILL),
        (signal.SIGTERM, BASES * dispatches + 2, 128 + signal.SIGTERM),
        (signal.SIGINT, (BASES + TUNED) * dispatches + CUTS, 128 + signal.SIGINT),
    )
    for number, lines, code in moments:
        study = start(tmp_path)
        assert study.wait_until(logged(tmp_path, lines))
        study.kill(number)
        ended = study.wait()
        assert ended.code == code, ended.err[-2000:]
        assert "Traceback" not in ended.err
        if number != signal.SIGKILL:
            assert "same command again" in ended.complaint and str(tmp_path) in ended.complaint
        assert not (tmp_path / "report.md").exists()
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_killed_before_the_report_it_only_reports(finished, start, unreported):
    checkpoints = contents(unreported / "checkpoints")
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_run(unreported, finished[0])
    assert contents(unreported / "checkpoints") == checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_stopped_at_any_moment_it_ends_as_if_it_had_not(number, part, finished, start, tmp_path):
    lines = max(1, round(part * NETWORKS * STEPS / 2))
    for _ in range(2):  # the second time, when it has been resumed and has gone on
        study = start(tmp_path)
        study.wait_until(logged(tmp_path, lines))
        lines = len(curves(tmp_path)) + 2
        study.kill(number)
        assert study.wait().code in ({-9} if number == signal.SIGKILL else {128 + number, 0})
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "checkpoints", *FIGURES, "report.md"])
def test_killed_when_a_file_appears(name, finished, start, tmp_path):
    study = start(tmp_path)
    study.wait_until((tmp_path / name).exists)
    study.kill(signal.SIGKILL)
    study.wait()
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_second_signal_ends_it_at_once(start, finished, tmp_path):
    study = start(tmp_path)
    study.wait_until((tmp_path / "config.json").exists)
    study.kill(signal.SIGINT)
    time.sleep(0.2)
    study.kill(signal.SIGINT)
    assert study.wait().code in (-signal.SIGINT, 130)
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


# The same results, however they are computed.


def test_another_division_of_the_work_gives_the_same_accuracies(finished, runs):
    """One device, other rounds, fewer dispatches."""
    workdir, study = runs["alone"]
    ended = study.wait()
    assert ended.code == 0, ended.err[-2000:]
    assert rows(workdir) == [row for row in rows(finished[0]) if row["treatment"] == "base"]


@pytest.fixture
def rows_computed(environment, tmp_path):
    """The rows of a run on so many devices."""

    def rows_computed(devices, *arguments):
        (tmp_path / "streams").mkdir()
        other = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
        with Launcher(tmp_path / "streams", other) as launcher:
            arguments = [*tiny(*arguments), f"--workdir={tmp_path / 'run'}"]
            ended = launcher.start("transferability", arguments).wait()
        assert ended.code == 0, ended.err[-2000:]
        return rows(tmp_path / "run")

    return rows_computed


@pytest.mark.slow
@pytest.mark.parametrize("devices, members, dispatch", [(1, 1, 12), (2, 5, 3), (4, 4, 4)])
def test_any_division_of_the_work_gives_the_same_accuracies(
    devices, members, dispatch, finished, rows_computed
):
    arguments = (f"--config.members_per_round={members}", f"--config.steps_per_dispatch={dispatch}")
    assert rows_computed(devices, *arguments) == rows(finished[0])


@pytest.mark.slow
def test_two_runs_are_identical(finished, start, tmp_path):
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


# Unusual grids.


def test_diverged_bases_are_named_and_reported(runs):
    """Nothing but bases, and none survives."""
    workdir, study = runs["lost"]
    ended = study.wait()
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


# What cannot be had.


@pytest.mark.parametrize(
    "arguments, words",
    [
        pytest.param("foo=1", ["config.foo"], id="unknown key"),
        pytest.param("data.foo=1", ["config.data.foo"], id="unknown inner key"),
        pytest.param("steps=abc", ["config.steps", "abc"], id="no number"),
        pytest.param("steps=1.5", ["config.steps", "1.5"], id="no integer"),
        pytest.param("steps=None", ["config.steps", "None"], id="none"),
        pytest.param("steps=0", ["config.steps"], id="no steps"),
        pytest.param("steps=-2", ["config.steps"], id="negative steps"),
        pytest.param("seeds=0", ["config.seeds"], id="no seeds"),
        pytest.param("batch=0", ["config.batch"], id="no batch"),
        pytest.param("members_per_round=0", ["config.members_per_round"], id="no members"),
        pytest.param("evaluation_batch=-1", ["config.evaluation_batch"], id="evaluation"),
        pytest.param("data=3", ["config.data"], id="a number for a section"),
        pytest.param("data.name=mnist", ["mnist", "digits"], id="unknown data"),
        pytest.param("data.options.train=3", ["train"], id="unknown option"),
        pytest.param("data.options.seed=-1", ["seed"], id="negative seed"),
        pytest.param("model=vgg", ["vgg", "digit_net"], id="unknown model"),
        pytest.param("model=glyph_net", ["glyph_net"], id="model too large"),
        pytest.param("optimizer.name=foo", ["optimizer", "foo", "adam"], id="optimizer"),
        pytest.param("schedule.name=foo", ["schedule", "foo", "cosine"], id="schedule"),
        pytest.param("splits=('random','foo')", ["config.splits", "foo"], id="split"),
        pytest.param("splits=()", ["config.splits"], id="no split"),
        pytest.param("splits=('dissimilar',)", ["digits", "splits"], id="no groups"),
        pytest.param("treatments=('AnC',)", ["treatments", "AnC", "AnB+"], id="treatment"),
        pytest.param("treatments=(5,)", ["treatments", "5", "AnB+"], id="treatment number"),
        pytest.param("treatments=('base',)", ["treatments", "base"], id="base a treatment"),
        pytest.param("fine_tuned_splits=('foo',)", ["fine_tuned_splits"], id="tuned split"),
        pytest.param("fine_tuned_directions=('AA',)", ["directions", "AA"], id="direction"),
        pytest.param("report_on=train", ["report_on", "train", "test"], id="report on"),
        pytest.param("optimizer.learning_rate=-1.0", ["learning_rate"], id="negative rate"),
        pytest.param("optimizer.learning_rate=nan", ["learning_rate"], id="rate nan"),
        pytest.param("optimizer.learning_rate=inf", ["learning_rate"], id="rate inf"),
        pytest.param("optimizer.weight_decay=-1.0", ["weight_decay"], id="negative decay"),
        pytest.param("optimizer.max_norm=-1.0", ["max-norm"], id="negative radius"),
        pytest.param("schedule.warmup=12", ["warm-up", "12"], id="long warm-up"),
        pytest.param("schedule.warmup=-1", ["warm-up", "-1"], id="negative warm-up"),
        pytest.param("steps_per_dispatch=5", ["12", "5"], id="dispatches"),
        pytest.param("steps_per_dispatch=24", ["12", "24"], id="a dispatch too long"),
        pytest.param("parallel.member=3", ["mesh", "3"], id="mesh"),
        pytest.param("parallel.member=0", ["mesh", "0"], id="empty mesh"),
        pytest.param("parallel.data=-1", ["mesh"], id="mesh of two unknowns"),
        pytest.param("parallel.data=2 batch=31", ["31", "2"], id="batch over devices"),
        pytest.param("seeds=99999999999999999999", ["config.seeds"], id="huge"),
    ],
)
def test_bad_setting(arguments, words, start, tmp_path):
    study = start(tmp_path / "run", *(f"--config.{argument}" for argument in arguments.split()))
    if study.wait_until((tmp_path / "run" / "config.json").exists):  # accepted: do not wait
        study.kill(signal.SIGKILL)
    assert_refused(study.wait(), *words)
    assert contents(tmp_path / "run") == {}


@pytest.mark.parametrize("argument", ["--foo", "stray", "--config.model", "--config="])
def test_bad_argument(argument, start, tmp_path):
    assert_refused(start(tmp_path, argument).wait(), argument.strip("-="))


@pytest.mark.parametrize(
    "text, words",
    [
        pytest.param("def get_config(:\n", ["line 1"], id="syntax"),
        pytest.param("x = 1\n", ["get_config"], id="no get_config"),
        pytest.param("import nonexistent\n", ["nonexistent"], id="import"),
        pytest.param("def get_config():\n    return 1 / 0\n", ["zero"], id="exception"),
        pytest.param(
            "def get_config():\n    return None\n",
            ["get_config"],
            id="none",
        ),
        pytest.param("def get_config():\n    return {'a': 1}\n", ["splits"], id="other study"),
    ],
)
def test_bad_config_file(text, words, start, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert_refused(start(tmp_path / "run", config=str(path)).wait(), "mine.py", *words)


@pytest.mark.parametrize(
    "config, words",
    [
        pytest.param("configs/missing.py", ["configs/missing.py"], id="missing"),
        pytest.param("configs", ["configs"], id="folder"),
        pytest.param("configs/transferability.py:foo", ["foo", "quick"], id="variant"),
    ],
)
def test_no_such_config(config, words, start, tmp_path):
    ended = start(tmp_path, config=config).wait()
    assert_refused(ended, *words)


@pytest.mark.parametrize("path", ["{file}", "{file}/under/it", "/proc/run", "/sys/run"])
def test_bad_workdir(path, start, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    workdir = path.format(file=file)
    assert_refused(start(workdir).wait(), "--workdir", workdir)
    assert file.read_text() == "mine"


def test_help(launcher):
    ended = launcher.start("transferability", ["--help"]).wait()
    assert "Traceback" not in ended.err and ended.code in (0, 1)
    assert "--workdir" in ended.out and "--config" in ended.out


# What is there already.


def test_changed_config_is_refused(finished, start):
    workdir, _ = finished
    before = contents(workdir)
    ended = start(workdir, "--config.steps=14", "--config.optimizer.learning_rate=0.5").wait()
    assert_refused(ended, "steps", "optimizer.learning_rate", "--workdir", str(workdir))
    assert "seeds" not in ended.complaint
    assert contents(workdir) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}', "\0\xff"], ids=range(5))
def test_damaged_config(text, start, unreported):
    (unreported / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(unreported)
    assert_refused(start(unreported).wait(), str(unreported))
    assert contents(unreported) == before


@pytest.mark.parametrize(
    "text", ["", "split,seed\n", "{good}random,0,AB,base,0\n", "{good}\0\xff"], ids=range(4)
)
def test_damaged_results(text, start, unreported):
    path = unreported / "results.csv"
    path.write_bytes(text.replace("{good}", path.read_text()).encode("latin-1"))
    before = contents(unreported)
    assert_refused(start(unreported).wait(), str(path))
    assert contents(unreported) == before


# Not strict: how many reads are in flight when the first one fails is a race.
TENSORSTORE = pytest.mark.xfail(reason="TensorStore's tracebacks beside our line")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "pattern, damage",
    [
        pytest.param("**/*", cut, id="all cut"),
        pytest.param("**/d/*", flip, id="a bit flipped", marks=TENSORSTORE),
        pytest.param(
            "*/*/default/manifest.ocdbt", Path.unlink, id="a file lost", marks=TENSORSTORE
        ),
    ],
)
def test_damaged_checkpoint(pattern, damage, finished, start, unreported):
    checkpoints = unreported / "checkpoints"
    for path in [path for path in checkpoints.glob(pattern) if path.is_file()]:
        damage(path)
    keep = {name: text for name, text in contents(unreported).items() if "/" not in name}
    assert_refused(start(unreported).wait(), str(checkpoints), "delete")
    assert keep.items() <= contents(unreported).items()


@pytest.mark.slow
def test_lost_checkpoint_is_trained_again(finished, start, unreported):
    """As the message about a damaged one advises: the same results, curves in another order."""
    first = min((unreported / "checkpoints").iterdir())
    shutil.rmtree(first / str(STEPS))
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert (unreported / "results.csv").read_bytes() == (finished[0] / "results.csv").read_bytes()
    ours, theirs = (sorted(map(str, curves(at))) for at in (unreported, finished[0]))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        "results.csv",
        "metrics.jsonl",
    ],
)
def test_lost_file_is_made_again_or_missed(missing, finished, start, unreported):
    """Without its curves or its table a run is completed, or refused in one line."""
    (unreported / missing).unlink()
    ended = start(unreported).wait()
    assert "Traceback" not in ended.err, ended.err[-1500:]
    if ended.code:
        assert_refused(ended, missing)
    else:
        assert_same_run(unreported, finished[0])


def test_damaged_curves(finished, start, unreported):
    """A line of garbage within the curves must not cost the lines behind it."""
    path = unreported / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], "garbage\n", *lines[5:]]))
    before = path.read_bytes()
    ended = start(unreported).wait()
    assert_refused(ended, str(path))
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk(start, unreported):
    """Where nothing more can be written, it says so."""
    (unreported / "metrics.jsonl.tmp").symlink_to("/dev/full")
    ended = start(unreported).wait()
    assert_refused(ended, "space")
