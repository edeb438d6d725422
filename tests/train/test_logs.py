"""Curves on disk, through kills and through numbers that JSON has no name for."""

import json
import math

import numpy as np
import pytest

from jaxdl.train import logs
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

    logs.append(path, [{"loss": value, "accuracy": 0.5}])
    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = logs.read(path)
    np.testing.assert_equal(float(record["loss"]), value)
    # What is read can be written again without a change.
    before = path.read_bytes()
    logs.rewind(path, lambda record: True)
    assert path.read_bytes() == before


def test_rewind_drops_later_records_and_the_half_line_of_a_kill(path):
    records = [{"population": name, "step": step} for step in (1, 2, 3) for name in "ab"]
    logs.append(path, records)
    whole = path.read_bytes()
    for cut in range(1, len(b'{"population": "b", "step": 3}\n')):
        path.write_bytes(whole[:-cut])
        assert logs.read(path)[:5] == records[:5]
    logs.rewind(path, lambda r: r["population"] != "a" or r["step"] <= 1)
    assert logs.read(path) == [records[0], records[1], records[3]]
    logs.append(path, [records[2]])
    assert logs.read(path) == [records[0], records[1], records[3], records[2]]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rewind_of_nothing_makes_no_file(path):
    logs.rewind(path, lambda record: False)
    assert not path.exists()


def test_a_damaged_line_in_the_middle_is_refused_and_nothing_lost(path):
    logs.append(path, [{"step": 1}, {"step": 2}, {"step": 3}])
    path.write_text(path.read_text().replace('{"step": 2}', '{"st\0p": '))
    before = path.read_bytes()
    with pytest.raises(DamagedFile, match="line 2"):
        logs.rewind(path, lambda record: True)
    assert path.read_bytes() == before
