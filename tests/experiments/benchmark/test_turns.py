"""Contenders take turns in processes of their own, and their times are put together by round."""

import multiprocessing
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmark.summaries import series, spread
from experiments.benchmark.turns import Contender, Row, Setup, Slice, Worker, time_slices


def sleeper(config: dict) -> Contender:
    """A contender whose every slice takes a known time."""
    if "error" in config:
        raise ValueError(config["error"])
    pieces = {
        kind: Slice(networks, 5, lambda seconds=seconds: time.sleep(seconds))
        for kind, (networks, seconds) in config["kinds"].items()
    }
    return Contender(pieces, {"devices": jax.device_count})


def test_workers_take_turns_and_answer():
    kinds = {"a": (2, 0.05), "b": (1, 0.02)}
    with (
        Worker(Setup(sleeper, 3), {"kinds": kinds}) as first,
        Worker(Setup(sleeper, 1), {"kinds": {"b": (4, 0.04)}}) as second,
    ):
        assert [first.ask("devices"), second.ask("devices")] == [3, 1]
        assert set(first.first_seconds) == {"a", "b"}
        rows = list(time_slices({"x": first, "y": second}, 1))
    assert [(r.contender, r.kind, r.networks, r.round) for r in rows] == [
        ("x", "a", 2, 1),
        ("y", "b", 4, 1),
        ("x", "b", 1, 1),
    ]
    for row, expected in zip(rows, (5, 2, 4), strict=True):
        assert expected <= row.ms_per_network_step < 10 * expected
    for worker in (first, second):
        assert worker._process.exitcode == 0


def test_a_worker_s_complaint_reaches_the_parent():
    with pytest.raises(ValueError, match="no such thing"):
        Worker(Setup(sleeper, 1), {"error": "no such thing"})


def parent(note: str) -> Contender:
    """A contender with a process of its own, which is asked to end, and time to get ready."""
    stop = multiprocessing.Event()
    child = multiprocessing.Process(target=stop.wait, daemon=True)
    child.start()

    def close() -> None:
        stop.set()
        child.join()
        Path(note).write_text(str(child.exitcode))

    ready = []
    wait = partial(time.sleep, 0.3)
    return Contender(
        {"a": Slice(1, 1, lambda: ready.append(None), before=wait)},
        {"alive": child.is_alive, "done": lambda: len(ready)},
        close,
    )


def test_workers_may_have_children_and_end_them(tmp_path):
    note = tmp_path / "child"
    with Worker(Setup(parent, 1), str(note)) as worker:
        assert worker.ask("alive")
        assert worker.time("a") < 100  # what comes before is not timed
        assert worker.ask("done") == 2
    assert worker._process.exitcode == 0
    assert note.read_text() == "0"


def test_ratios_pair_the_rounds():
    rows = [
        Row("x", "a", 2, 1.0, 0),
        Row("x", "b", 1, 10.0, 0),
        Row("x", "a", 2, 2.0, 1),
        Row("x", "b", 1, 20.0, 1),
        Row("y", "a", 1, 24.0, 0),
        Row("y", "a", 1, 96.0, 1),
    ]
    x = series(rows, "x", {"a": 2, "b": 1})
    np.testing.assert_array_equal(x, [12, 24])
    assert spread(series(rows, "y", "a") / x) == "3.00 (2.00–4.00)"
