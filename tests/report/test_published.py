"""The embedded summary of Yosinski et al. (2014), against the logs and the numbers of the paper."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from jaxdl.report.published import YOSINSKI_2014
from jaxdl.report.transferred import Result, summarize

LOGS = Path(__file__).parents[2] / ".." / "shared" / "reference" / "yosinski2014.csv"
needs_logs = pytest.mark.skipif(not LOGS.exists(), reason="the authors' logs are not here")


def _logs():
    with open(LOGS, newline="") as file:
        return list(csv.DictReader(file))


def _results():
    """The logs as rows of a study: `transfer2B2A_1_4` is split 2, from B to A, cut 4."""
    results = []
    for row in _logs():
        split, name = row["split"].split()[0], row["network"]
        seed = int(re.search(r"\d", name)[0]) if split == "random" else 0
        if name in ("natural", "manmade"):
            target = {"natural": "A", "manmade": "B"}[name]
        else:
            target = (re.findall("[AB]", name) or ["B"])[-1]
        direction = {"A": "BA", "B": "AB"}[target]
        n, accuracy = int(row["n"]), float(row["top1_accuracy"])
        results.append(Result(split, seed, direction, row["treatment"], n, accuracy))
    return results


def _numbers(cell):
    a, d = cell.accuracy, cell.difference
    return a.mean, a.se, d.mean, d.se, a.used, d.used, cell.networks


@needs_logs
def test_summary_is_that_of_the_logs():
    theirs = {(c.split, c.treatment, c.n): c for c in summarize(_results())}
    ours = {(c.split, c.treatment, c.n): c for c in YOSINSKI_2014}
    assert list(ours) == list(theirs)
    for key, cell in ours.items():
        np.testing.assert_allclose(_numbers(cell), _numbers(theirs[key]), atol=5.01e-5, rtol=0)


@needs_logs
def test_pairs_worked_out_by_hand():
    log = {row["network"]: float(row["top1_accuracy"]) for row in _logs()}
    gaps = [
        np.mean(
            [
                log[f"transfer{s}A{s}B_1_7"] - log[f"half{s}B"],
                log[f"transfer{s}B{s}A_1_7"] - log[f"half{s}A"],
            ]
        )
        for s in range(4)
    ]
    cell = _cell("random", "AnB", 7)
    np.testing.assert_allclose(cell.difference.mean, np.mean(gaps), atol=5.01e-5)
    np.testing.assert_allclose(cell.difference.se, np.std(gaps, ddof=1) / 2, atol=5.01e-5)
    gap = (
        log["transfernatmanAB_1_7"] - log["manmade"] + log["transfernatmanBA_1_7"] - log["natural"]
    )
    np.testing.assert_allclose(_cell("dissimilar", "AnB", 7).difference.mean, gap / 2, atol=5.01e-5)
    gap = log["transfer-ft0A0B_1_7"] - log["half0B"]
    np.testing.assert_allclose(_cell("random", "AnB+", 7).difference.mean, gap, atol=5.01e-5)


def _cell(split, treatment, n):
    (cell,) = [c for c in YOSINSKI_2014 if (c.split, c.treatment, c.n) == (split, treatment, n)]
    return cell


def test_numbers_told_of_the_paper():
    base = _cell("random", "base", 0)
    assert (base.accuracy.mean, base.networks) == (0.6251, 8)
    assert base.accuracy.mean - _cell("random", "AnB", 7).accuracy.mean == pytest.approx(
        0.083, abs=5e-4
    )
    assert _cell("dissimilar", "AnB", 7).difference.mean == pytest.approx(-0.250, abs=5e-4)
    dips = [base.accuracy.mean - _cell("random", "BnB", n).accuracy.mean for n in (4, 5)]
    assert dips == pytest.approx([0.020, 0.032], abs=5e-4)
    tuned = [_cell("random", "AnB+", n) for n in range(1, 8)]
    unpaired = np.mean([c.accuracy.mean for c in tuned]) - base.accuracy.mean
    assert unpaired == pytest.approx(0.0167, abs=5e-5)
    paired = np.mean([c.difference.mean for c in tuned])
    control = np.mean([_cell("random", "BnB+", n).difference.mean for n in range(1, 8)])
    assert (paired, control) == pytest.approx((0.0097, 0.0094), abs=5e-5)
    assert sum(c.networks for c in tuned) == 10
