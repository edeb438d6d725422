"""Shared report helpers, against SciPy, the csv module and text written by hand."""

import csv
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxdl.report.tables import (
    Estimate,
    confidence_interval,
    format_mean,
    format_number,
    markdown_table,
    mean_and_standard_error,
    read_rows,
    wilson_interval,
    write_atomically,
    write_rows,
)


class Row(NamedTuple):
    name: str
    seed: int
    value: float


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_mean_and_standard_error_are_scipys(values):
    estimate = mean_and_standard_error(values)
    assert estimate.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert estimate.se == pytest.approx(stats.sem(values), abs=1e-9)
    assert (estimate.used, estimate.excluded) == (len(values), 0)


def test_nan_values_are_excluded_and_counted():
    assert mean_and_standard_error([1.0, math.nan, 3.0]) == Estimate(2.0, 1.0, 2, 1)


@pytest.mark.parametrize(("values", "mean"), [([0.5], 0.5), ([], math.nan), ([math.nan], math.nan)])
def test_no_standard_error_for_fewer_than_two(values, mean):
    estimate = mean_and_standard_error(values)
    assert estimate.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(estimate.se)
    assert all(map(math.isnan, confidence_interval(estimate)))


def test_an_interval_of_a_share_is_scipys():
    for right, count in ((0, 3), (23, 24), (24, 24), (4_810, 10_000)):
        expected = stats.binomtest(right, count).proportion_ci(method="wilson")
        ours = wilson_interval(right / count, count)
        np.testing.assert_allclose(ours, (expected.low, expected.high), rtol=1e-6, atol=1e-9)


def test_confidence_interval_is_the_paired_t_tests():
    a, b = np.array([0.61, 0.58, 0.65, 0.60]), np.array([0.70, 0.69, 0.72, 0.66])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose(
        confidence_interval(mean_and_standard_error(a - b)), (expected.low, expected.high)
    )


def test_formats():
    assert format_mean(0.732, 0.004) == "73.2 ± 0.4"
    assert format_mean(-0.106, 0.004, signed=True) == "\N{MINUS SIGN}10.6 ± 0.4"
    assert format_mean(0.013, math.nan, signed=True) == "+1.3"
    assert format_mean(math.nan, math.nan) == "\N{EN DASH}"
    assert format_mean(3.14159, 0.01, scale=1, digits=3) == "3.142 ± 0.010"
    assert format_number(-0.04) == "0.0"
    assert format_number(-0.04, signed=True) == "+0.0"


def test_markdown_table_is_aligned():
    text = markdown_table(("name", "value ±"), [("a|b", "\N{MINUS SIGN}1.5"), ("longer", 2)])
    assert text.splitlines() == [
        "| name   | value ± |",
        "| ------ | ------: |",
        "| a\\|b   |    \N{MINUS SIGN}1.5 |",
        "| longer |       2 |",
    ]
    with pytest.raises(ValueError, match="1 cells, the header 2"):
        markdown_table(("a", "b"), [("c",)])


def test_rows_round_trip(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [Row("a, b", 1, 0.1234564), Row("ü", -2, math.nan)]
    write_rows(path, Row, rows)
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[:2] == [["name", "seed", "value"], ["a, b", "1", "0.123456"]]
    first, second = read_rows(path, Row)
    assert first == Row("a, b", 1, 0.123456)
    assert second[:2] == ("ü", -2)
    assert math.isnan(second.value)
    write_rows(path, Row, [])
    assert read_rows(path, Row) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the columns are"),
        (b"name,seed\na,1\n", "the columns are"),
        (b"name,seed,value\na,1\n", "line 2 has 2 of 3 cells"),
        (b"name,seed,value\na,1,0.5\nb,x,0.5\n", "line 3: invalid literal"),
        (b"name,seed,value\n\xff\xfe,1,2\n", "decode"),
    ],
)
def test_damaged_rows_are_named(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(path, Row)
    assert str(path) in str(caught.value)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"
