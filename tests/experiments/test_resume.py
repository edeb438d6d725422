"""A run that is stopped goes on to the same end, and so does one that is computed otherwise."""

import signal
import time

import pytest

from tests.experiments.launcher import USERS
from tests.experiments.tiny import (
    BASES,
    CUTS,
    FIGURES,
    FILES,
    NETWORKS,
    OFTEN,
    STEPS,
    TUNED,
    assert_same_run,
    contents,
    curves,
    logged,
    rows,
)


@pytest.mark.slow
def test_stopped_three_times_it_ends_as_if_it_had_not(finished, start, tmp_path):
    """A kill while bases train, SIGTERM and SIGINT while others do."""
    dispatches = STEPS // 2
    moments = (
        (signal.SIGKILL, 2 * BASES, -signal.SIGKILL),
        (signal.SIGTERM, BASES * dispatches + 2, 128 + signal.SIGTERM),
        (signal.SIGINT, (BASES + TUNED) * dispatches + CUTS, 128 + signal.SIGINT),
    )
    for number, lines, code in moments:
        study = start(tmp_path, OFTEN)
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
def test_killed_while_it_measures_and_draws_it_measures_again(finished, start, unreported):
    """Before the test images are opened, before and after their results are there, at a figure."""
    results = (unreported / "results.csv").read_bytes()
    (unreported / "results.csv").unlink()
    for function, moment in (
        ("jaxdl.data.source.Sealed.open", "before"),
        ("jaxdl.report.transferred.write_results", "before"),
        ("jaxdl.report.transferred.write_results", "after"),
        ("jaxdl.report.figures.samples", "before"),
    ):
        place, _, name = function.rpartition(".")
        study = start(unreported, prelude=DEADLY.format(place=place, name=name, moment=moment))
        assert study.wait().code == -signal.SIGKILL
        measured = moment == "after" or name == "samples"
        assert (unreported / "results.csv").exists() == measured
        assert not measured or (unreported / "results.csv").read_bytes() == results
        assert not (unreported / "report.md").exists()
    assert start(unreported).wait().code == 0
    assert_same_run(unreported, finished[0])


DEADLY = """
    from pkgutil import resolve_name
    place = resolve_name({place!r})
    whole = getattr(place, {name!r})

    def deadly(*arguments):
        if {moment!r} == "after":
            whole(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, {name!r}, deadly)
"""


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
        study = start(tmp_path, OFTEN)
        study.wait_until(logged(tmp_path, lines))
        lines = len(curves(tmp_path)) + 2
        study.kill(number)
        assert study.wait().code in ({-9} if number == signal.SIGKILL else {128 + number, 0})
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "checkpoints", *FIGURES, "report.md"])
def test_killed_when_a_file_appears(name, finished, start, tmp_path):
    study = start(tmp_path, OFTEN)
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


def on_devices(count):
    """What a study's process runs first, to compute on so many devices."""
    return f"import jax; jax.config.update('jax_num_cpu_devices', {count})"


@pytest.mark.slow
def test_another_division_of_the_work_gives_the_same_accuracies(finished, start, tmp_path):
    """One device, other rounds, fewer dispatches; bases only, for the time it takes to compile."""
    division = ("members_per_round=3", "steps_per_dispatch=6", "treatments=()")
    flags = [f"--config.{value}" for value in division]
    ended = start(tmp_path, *flags, prelude=on_devices(1)).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "1 x CPU core" in ended.out
    assert rows(tmp_path) == [row for row in rows(finished[0]) if row["treatment"] == "base"]


@pytest.mark.parametrize(
    "model, prelude",
    [
        ("tests.layered_networks:worded", ""),
        pytest.param("digit_net", USERS, marks=pytest.mark.slow),
    ],
)
def test_a_stream_gives_the_same_results_also_when_it_is_stopped(model, prelude, start, tmp_path):
    """Killed while bases train, stopped while frozen networks do."""
    whole, workdir, model = tmp_path / "whole", tmp_path / "run", f"--config.model={model}"
    assert start(whole, model, prelude=prelude).wait().code == 0
    trained = [line["population"] for line in curves(whole)].index("frozen-0")
    streamed = (model, "--config.data.feed=streamed")
    for number, lines in ((signal.SIGKILL, 2 * BASES), (signal.SIGTERM, trained + 1)):
        study = start(workdir, OFTEN, *streamed, prelude=prelude)
        assert study.wait_until(logged(workdir, lines))
        study.kill(number)
        ended = study.wait()
        assert ended.code in (-number, 128 + number), ended.err[-2000:]
        assert "Traceback" not in ended.err
    ended = start(workdir, *streamed, prelude=prelude).wait()
    assert ended.code == 0, ended.err[-2000:]
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in workdir.iterdir()} == FILES


@pytest.mark.slow
def test_processes_that_read_a_stream_give_the_same_results(start, tmp_path):
    whole, streamed = tmp_path / "whole", tmp_path / "streamed"
    arguments = ("--config.data.feed=streamed", "--config.data.workers=2")
    for ended in (start(whole, prelude=USERS), start(streamed, *arguments, prelude=USERS)):
        assert ended.wait().code == 0, ended.wait().err[-2000:]
    for name in ("results.csv", "metrics.jsonl"):
        assert (streamed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("devices, members, dispatch", [(1, 1, 12), (2, 5, 3), (4, 4, 4)])
def test_any_division_of_the_work_gives_the_same_accuracies(
    devices, members, dispatch, finished, start, tmp_path
):
    arguments = (f"--config.members_per_round={members}", f"--config.steps_per_dispatch={dispatch}")
    ended = start(tmp_path, *arguments, prelude=on_devices(devices)).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert rows(tmp_path) == rows(finished[0])


@pytest.mark.slow
def test_two_runs_are_identical(finished, start, tmp_path):
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])
