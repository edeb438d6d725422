"""The physics study's report: what it says of given numbers."""

import numpy as np
import pytest

from jaxdl.report.pinn import (
    Parameter,
    Published,
    Result,
    diverged,
    false_loss,
    findings,
    read_results,
    report,
    table,
    write_results,
)
from jaxdl.report.tables import MISSING
from jaxdl.types import DamagedFile

NAN = float("nan")


def results(problem="burgers", method="ssbroyden", losses=(1e-10, 2e-10, 4e-10), **changes):
    return [
        Result(problem, method, seed, x, 2 * x, x**0.5, 1000, 12.5)._replace(**changes)
        for seed, x in enumerate(losses)
    ]


PUBLISHED = [Published("burgers", "SOAP", 1.5e-5), Published("wave", "other", 1e-3)]


def test_table_has_medians_and_published_rows():
    lines = table([*results(), *results("heat", "adam")], PUBLISHED).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][:2] == ["burgers", "ssbroyden"]
    assert cells[2][2] == "2.0e-10 (1.0e-10 to 4.0e-10)"
    assert cells[2][3] == "4.0e-10 (2.0e-10 to 8.0e-10)"
    assert cells[2][5:] == ["1000", "12.5", "3 of 3"]
    assert cells[3][1] == "SOAP" and cells[3][4] == "1.5e-05" and cells[3][-1] == "published"
    assert cells[4][:2] == ["heat", "adam"] and len(cells) == 5


def test_false_losses_are_told_in_words():
    honest, false = results()[0], results()[1]._replace(heldout_loss=2.1e-9)
    assert not false_loss(honest) and false_loss(false)
    (line,) = (x for x in findings([honest, false], [], []) if "false" in x)
    assert "seed 1" in line and "2.0e-10" in line and "2.1e-09" in line and "10 times" in line
    assert not false_loss(false._replace(heldout_loss=2e-9))


def test_diverged_networks_are_told_and_in_no_median():
    lost = results()[2]._replace(train_loss=NAN, heldout_loss=NAN, rel_l2=NAN)
    assert diverged(lost) and not diverged(results()[0])
    said = findings([*results()[:2], lost], [], [])
    assert any("seed 2: diverged" in x for x in said)
    assert "2 of 3" in table([*results()[:2], lost], [])
    assert "1.5e-10 (1.0e-10 to 2.0e-10)" in table([*results()[:2], lost], [])
    assert "0 of 1" in table([lost], [])


def test_a_finite_network_is_not_called_diverged():
    """Where a residual cannot be evaluated at some held-out points, or the solution."""
    infinite = results()[1]._replace(heldout_loss=float("inf"))
    undefined = results()[2]._replace(heldout_loss=NAN, rel_l2=NAN)
    assert not diverged(infinite) and not diverged(undefined) and not false_loss(infinite)
    said = findings([results()[0], infinite, undefined], [], [])
    assert not any("diverged" in x or "false" in x for x in said)
    for seed, loss in ((1, "inf"), (2, "nan")):
        (line,) = (x for x in said if f"seed {seed}: the network is finite" in x)
        assert f"held-out loss {loss}" in line
    (row,) = table([results()[0], infinite, undefined], []).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "2.0e-10" and cells[4] == "1.2e-05 (1.0e-05 to 1.4e-05)"
    assert cells[-1] == "3 of 3"
    assert f" {MISSING} |" in table([infinite], [])


def test_published_numbers_are_counted_by_seed():
    said = findings(results(), [], PUBLISHED)
    assert any("2 of 3 seeds are below SOAP's 1.5e-05" in x for x in said)


def test_physical_parameters_have_errors():
    parameters = [
        Parameter("inverse_heat", "ssbroyden", s, "k", 0.01 * (1 + 1e-3 * s), 0.01)
        for s in (1, 2, 4)
    ]
    (line,) = (x for x in findings([], parameters, []) if "k is found" in x)
    assert "0.01002 (0.01001 to 0.01004) for 0.01" in line
    assert "2.0e-03 (1.0e-03 to 4.0e-03)" in line


def test_report_is_whole():
    text = report(results(), [], PUBLISHED, {"Time": "3 s"})
    for part in ("# Physics in the loss", "- Time: 3 s", "## Findings", "## Results", "dense grid"):
        assert part in text


def test_files_keep_small_numbers_and_damage_is_told(tmp_path):
    path = tmp_path / "results.csv"
    write_results(path, results())
    again = read_results(path)
    for a, b in zip(again, results(), strict=True):
        assert a[:3] == b[:3]
        np.testing.assert_allclose(a[3:], b[3:], rtol=1e-6)
    head = path.read_text().splitlines()[0]
    assert head == "problem,method,seed,train_loss,heldout_loss,rel_l2,iterations,seconds"
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[1] + "\n")
    with pytest.raises(DamagedFile, match="two rows"):
        read_results(path)
    write_results(path, [*results()[:1], results()[1]._replace(train_loss=-1.0)])
    with pytest.raises(DamagedFile, match="negative"):
        read_results(path)
