"""Curves on disk, through kills and through numbers that JSON has no name for."""

import json
import math
from typing import NamedTuple

import numpy as np
import pytest

from jaxdl.train import logs
from jaxdl.train.logs import Curves
from jaxdl.types import DamagedFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_what_is_appended_is_read_back_in_order(path):
    assert logs.read(path) == []
    records = [
        {"population": "A/β", "step": i, "loss": 0.1 * i + 1e-17, "n": None} for i in range(4)
    ]
    logs.append(path, records[:3])
    logs.append(path, [])
    logs.append(path, records[3:])
    assert logs.read(path) == records
    assert [json.loads(line) for line in path.read_text().splitlines()] == records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float(np.float64("nan"))])
def test_non_finite_numbers_are_strict_json_and_floats_again(path, value):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    logs.append(path, [{"population": "a", "step": 1, "loss": value, "accuracy": 0.5}])
    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = logs.read(path)
    np.testing.assert_equal(float(record["loss"]), value)
    # What is read can be written again without a change.
    before = path.read_bytes()
    logs.append(path, [{"population": "a", "step": 2, "loss": 0.5}])
    assert Curves(path).rewind("a", 1) == 1
    assert path.read_bytes() == before


def test_rewind_drops_later_records_and_the_half_line_of_a_kill(path):
    records = [{"population": name, "step": step} for step in (1, 2, 3) for name in "ab"]
    logs.append(path, records)
    whole = path.read_bytes()
    for cut in range(1, len(b'{"population": "b", "step": 3}\n')):
        path.write_bytes(whole[:-cut])
        assert logs.read(path)[:5] == records[:5]
    assert Curves(path).rewind("a", 1) == 1
    assert logs.read(path) == [records[0], records[1], records[3]]
    logs.append(path, [records[2]])
    assert logs.read(path) == [records[0], records[1], records[3], records[2]]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rewind_of_nothing_makes_no_file(path):
    assert Curves(path).rewind("a", 1) == 0
    assert not path.exists()


def test_rewind_leaves_a_file_alone_of_which_all_stays(path):
    logs.append(path, [{"population": name, "step": 1} for name in "ab"])
    before = path.stat().st_ino
    assert Curves(path).rewind("b", 1) == 1
    assert path.stat().st_ino == before


DAMAGES = [
    '{"st\0p": ',
    '{"population": "a", "stfp": 2}',
    '{"population": "a", "step": "2"}',
    "[2]",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_in_the_middle_is_refused_and_nothing_lost(path, damage):
    logs.append(path, [{"population": "a", "step": step} for step in (1, 2, 3)])
    path.write_text(path.read_text().replace('{"population": "a", "step": 2}', damage))
    before = path.read_bytes()
    with pytest.raises(DamagedFile, match="line 2"):
        Curves(path).rewind("a", 1)
    assert path.read_bytes() == before


class Name(NamedTuple):
    """A network's name."""

    seed: int


def test_records_by_network_are_told_by_its_name(path):
    logs.append(
        path,
        [
            {"population": "a", "seed": seed, "step": step} | ({"loss": 0.5} if step == 2 else {})
            for step in (1, 2)
            for seed in (0, 1)
        ],
    )
    found = Curves(path).by_network(Name)
    assert list(found) == [Name(0), Name(1)] and [r["step"] for r in found[Name(1)]] == [1, 2]
    np.testing.assert_array_equal(logs.series(found[Name(1)], "loss"), [[2], [0.5]])
    assert logs.series(found[Name(1)], "accuracy").shape == (2, 0)
    logs.append(path, [{"population": "a", "sefd": 0, "step": 3}])
    with pytest.raises(DamagedFile, match="line 5"):
        Curves(path).by_network(Name)


def test_what_is_appended_is_known_without_reading_again(path, monkeypatch):
    curves = Curves(path)
    first = {"population": "a", "seed": 0, "step": 1, "loss": 0.5}
    curves.append([first])
    monkeypatch.setattr(logs, "read", None)
    curves.append([first | {"step": 2, "loss": math.nan, "diverged_at": 1, "diverged_in": "loss"}])
    assert curves.faults(Name) == {Name(0): logs.Fault(1, "loss")}
    np.testing.assert_equal(logs.series(curves.by_network(Name)[Name(0)], "loss")[1], [0.5, np.nan])
    assert curves.rewind("a", 1) == 1 and curves.records == [first]
    monkeypatch.undo()
    assert Curves(path).records == [first]
