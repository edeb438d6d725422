"""Any accident, any number of devices and processes: the same study ends with the same numbers.

Bases of the transferability study on scikit-learn's digits, and networks with frozen layers of
these, which train for a few steps, stand for all.
"""

import csv
import json
import shutil
import signal
import socket
import struct
import textwrap
import time
import warnings
from contextlib import suppress

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.experiments.launcher import assert_refused

STEPS, BASES = 12, 2
STUDY = (
    "--config=configs/transferability.py:digits",
    "--config.model=mlp",  # which is compiled sooner than convolutions
    "--config.seeds=1",
    f"--config.steps={STEPS}",
    "--config.steps_per_dispatch=2",
    "--config.schedule.warmup=0",
    "--config.seconds_between_saves=0.0",
    "--config.treatments=('AnB',)",
)


@pytest.fixture(scope="module")
def start(launcher, tmp_path_factory):
    """Start the study; ``prelude`` is code that its process runs first."""

    def start(workdir, *arguments, prelude=""):
        file = None
        if prelude:
            file = tmp_path_factory.mktemp("prelude") / "prelude.py"
            file.write_text(textwrap.dedent(prelude))
        arguments = [*STUDY, f"--workdir={workdir}", *arguments]
        return launcher.start("transferability", arguments, prelude=file)

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    ended = start(workdir).wait()
    assert ended.code == 0, ended.err[-2000:]
    return workdir


def curves(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def parameters(workdir):
    """Of the last checkpoints, as NumPy arrays."""
    with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided")
        return [
            jax.tree.map(
                np.asarray,
                checkpointer.restore(workdir / "checkpoints" / name / str(STEPS) / "state"),
            )
            for name in ("bases-0", "frozen-0")
        ]


def assert_same(workdir, expected):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
    ours, theirs = parameters(workdir), parameters(expected)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


# Killed when it has touched so many files of the work folder: also in the midst of a save, and
# between a checkpoint and the curves. Opening, renaming, making folders and removing count.
DEADLY = """
    import os, signal, sys
    left = {touches}

    def hook(event, arguments):
        global left
        if event.startswith(("open", "os.", "shutil.")) and {workdir!r} in str(arguments[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
"""


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param((12, 2.5, 140), id="three times"),
        pytest.param(
            (1.5, 12, 75, 2.5, 140, 35, 3.5, 100, 55), id="nine times", marks=pytest.mark.slow
        ),
    ],
)
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(moments, finished, start, tmp_path):
    """After so many touches, or seconds, since what writes arrays is not Python, nor heard of
    there."""
    kills, seen = 0, set()
    for moment in moments:
        if isinstance(moment, int):
            study = start(tmp_path, prelude=DEADLY.format(touches=moment, workdir=str(tmp_path)))
        else:
            study = start(tmp_path)
            study.wait_until(lambda: False, seconds=moment)
            with suppress(ProcessLookupError):  # it may have come to its end
                study.kill(signal.SIGKILL)
        ended = study.wait()
        assert ended.code in (0, -signal.SIGKILL), ended.err[-2000:]
        kills += ended.code != 0
        seen.add(len(curves(tmp_path)))
        if ended.code == 0:  # it came to its end before that moment: begin anew
            assert_same(tmp_path, finished)
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert kills >= 2 * len(moments) // 3 and len(seen) > len(moments) // 3  # all over the training
    assert start(tmp_path).wait().code == 0
    assert_same(tmp_path, finished)


# From then on no file may be larger: what the file system says is that of a full disk, but for the
# error's number. (What is said on standard error must still fit.)
FULL = """
    import resource
    from jaxdl.train import logs
    whole, calls = logs.append, 0

    def append(path, records):
        global calls
        calls += 1
        if calls == 2:
            limit = path.stat().st_size + {more}
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        whole(path, records)

    logs.append = append
"""

# Root may write to a folder whatever its permissions, but not to one that is a file.
GONE = """
    from pathlib import Path
    from jaxdl.train import logs
    whole, calls = logs.append, 0

    def append(path, records):
        global calls
        calls += 1
        if calls == 2:
            path.parent.rename({aside!r})
            path.parent.touch()
        whole(path, records)

    logs.append = append
"""


def test_accident_after_accident_it_goes_on_in_the_same_folder(finished, start, tmp_path):
    """A second run, two signals, two full disks, a folder that is gone, and a damaged checkpoint;
    its path is so long that messages are made which hide their reason."""
    workdir, aside = tmp_path / ("long" * 40), tmp_path / "aside"

    def assert_unfinished():
        assert (workdir / "checkpoints" / "bases-0").exists()
        assert not (workdir / "results.csv").exists()

    for number in (signal.SIGTERM, signal.SIGINT):
        study, lines = start(workdir), len(curves(workdir))
        assert study.wait_until(lambda lines=lines: len(curves(workdir)) >= lines + BASES)
        if not lines:
            study.kill(signal.SIGSTOP)
            assert_refused(start(workdir).wait(), "another run is at work", str(workdir))
            study.kill(signal.SIGCONT)
        study.kill(number)
        asked = time.monotonic()
        ended = study.wait()
        assert time.monotonic() - asked < 10
        assert ended.code == 128 + number
        assert "stopped, all training saved" in ended.complaint and str(workdir) in ended.complaint
        last = json.loads(curves(workdir)[-1])
        assert (workdir / "checkpoints" / last["population"] / str(last["step"])).exists()
        assert_unfinished()
    for more in (100, 3000):  # which is too little for the curves, and for a checkpoint
        ended = start(workdir, prelude=FULL.format(more=more)).wait()
        assert_refused(ended, str(workdir), "File too large", "the same command goes on")
        assert_unfinished()
    ended = start(workdir, prelude=GONE.format(aside=str(aside))).wait()
    assert_refused(ended, str(workdir), "the same command goes on")
    workdir.unlink()
    aside.rename(workdir)
    assert_unfinished()
    assert start(workdir).wait().code == 0
    assert_same(workdir, finished)

    for name in ("report.md", "results.csv"):
        (workdir / name).unlink()
    for file in (workdir / "checkpoints" / "frozen-0" / str(STEPS)).rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    ended = start(workdir).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert f"{STEPS} was damaged" in ended.complaint and "is used" in ended.complaint
    assert_same(workdir, finished)


@pytest.mark.slow
def test_debug_names_the_operation_that_makes_a_nan(start, tmp_path):
    ended = start(tmp_path, "--debug", "--config.optimizer.learning_rate=1e30").wait()
    assert_refused(ended, "invalid value", "encountered in")


def test_events_and_traces_are_written_where_asked_for(finished, start, tmp_path):
    ended = start(tmp_path, "--tensorboard", "--profile=4:6").wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same(tmp_path, finished)
    for name in ("bases-0", "frozen-0"):
        assert len(list((tmp_path / "profile" / name).rglob("*.xplane.pb"))) == 1
    for line in map(json.loads, curves(tmp_path)):
        name = "-".join(str(line[key]) for key in ("split", "seed", "direction", "treatment", "n"))
        (file,) = (tmp_path / "tensorboard" / line["population"] / name).iterdir()
        assert (line["step"], np.float32(line["loss"])) in scalars(file, "loss")


def scalars(path, tag):
    """The steps and values in a file of TensorBoard, whose records are a length, its checksum, a
    message and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
    return found


# Several processes.


# Of the minute in which all end when one has died, what JAX waits for a sign of life.
HASTY = """
    import jax
    whole = jax.distributed.initialize

    def initialize(*arguments, heartbeat_timeout_seconds, shutdown_timeout_seconds, **options):
        assert heartbeat_timeout_seconds + shutdown_timeout_seconds <= 50
        whole(*arguments, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=20, **options)

    jax.distributed.initialize = initialize
"""


@pytest.fixture
def processes(launcher, tmp_path):
    """Start the study as two processes of two devices each, which soon notice when one dies."""
    hasty = tmp_path.with_name(f"{tmp_path.name}-hasty.py")
    hasty.write_text(textwrap.dedent(HASTY))

    def start(workdir, *arguments, second=()):
        """``second`` is what the second is asked for besides."""
        with socket.socket() as one:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
        together = [f"--coordinator=localhost:{port}", "--processes=2"]
        return [
            launcher.start(
                "transferability",
                [*STUDY, f"--workdir={workdir}", *arguments, *together, f"--process={i}", *more],
                prelude=hasty,
            )
            for i, more in enumerate([(), second])
        ]

    return start


def accuracies(workdir):
    with open(workdir / "results.csv", newline="") as file:
        return np.array([float(row["accuracy"]) for row in csv.DictReader(file)])


def losses(workdir):
    return np.array([json.loads(line)["loss"] for line in curves(workdir)])


@pytest.mark.parametrize(
    "arguments",
    [
        # That members over two processes are trained alike shows where one of these dies, too.
        pytest.param((), id="members over processes", marks=pytest.mark.slow),
        pytest.param(
            (
                "--config.parallel.data=4",
                "--config.parallel.member=1",
                "--config.data.feed=streamed",
            ),
            id="batches over processes",
        ),
    ],
)
def test_two_processes_find_what_one_does(arguments, finished, processes, tmp_path):
    both = processes(tmp_path, *arguments)
    first, second = (study.wait() for study in both)
    assert (first.code, second.code) == (0, 0), (first.err[-1500:], second.err[-1500:])
    assert "# " in first.out and "# " not in second.out  # the report
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in finished.iterdir()}
    np.testing.assert_allclose(accuracies(tmp_path), accuracies(finished), atol=1e-5)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-4)


@pytest.mark.parametrize(
    "second, what",
    [("--config.seeds=2", "differ in seeds: "), ("--workdir=elsewhere", "differ in --workdir: ")],
)
def test_processes_that_are_not_started_alike_are_refused(second, what, processes, tmp_path):
    for study in processes(tmp_path / "run", second=[second.replace("=else", f"={tmp_path}/else")]):
        ended = study.wait()
        assert ended.code == 2 and what in ended.err, ended.err[-1500:]
        assert "Traceback" not in ended.err
    assert not any((tmp_path / "run").iterdir())


def test_one_goes_on_where_one_of_two_died(finished, processes, start, tmp_path):
    both = processes(tmp_path)
    assert both[0].wait_until(lambda: len(curves(tmp_path)) >= 2 * BASES)
    both[1].kill(signal.SIGKILL)
    died = time.monotonic()
    ended = both[0].wait()
    assert time.monotonic() - died < 40
    # Who notices first: the exchange of numbers, which we report, or JAX's own watch, which ends
    # the process.
    said = {2: "start all of them again", -signal.SIGABRT: "another task died"}
    assert said[ended.code] in ended.err, ended.err[-2000:]
    assert both[1].wait().code == -signal.SIGKILL
    before = len(curves(tmp_path))
    assert before < len(curves(finished))
    ended = start(tmp_path).wait()  # alone, on half as many devices
    assert ended.code == 0, ended.err[-2000:]
    np.testing.assert_allclose(accuracies(tmp_path), accuracies(finished), atol=1e-5)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-4)
