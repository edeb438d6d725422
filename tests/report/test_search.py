"""The report of a search, from rows by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxdl.report import search_figures
from jaxdl.report.importance import importance
from jaxdl.report.search import (
    NOT_SEARCHED,
    Result,
    SearchRound,
    best,
    final_trials,
    findings,
    fresh,
    mean_course,
    progress,
    ranked_trials,
    ranking,
    read_results,
    report,
    shares_table,
    table,
    write_results,
)

RATES = (0.1, 0.02, 0.5)


def settings(rate):
    return json.dumps({"rate": rate, "hidden": [64, 64]})


def rounds(repetition=0, first=0):
    """Three trials; the best two go on, and the second of these begins from the first."""
    scores, rates = (0.7, 0.9, math.nan), RATES
    plan = "pbt", repetition
    return [
        *(
            SearchRound(*plan, 0, first + i, -1, 10, scores[i], settings(rates[i]))
            for i in range(3)
        ),
        SearchRound(*plan, 1, first, first + 1, 20, 0.92, settings(0.024)),
        SearchRound(*plan, 1, first + 1, first + 1, 20, 0.95, settings(0.02)),
    ]


def results(scores=(0.8, 0.84), base=(0.7, 0.75), repetitions=1):
    rows = []
    for n in range(repetitions):
        rows += final_trials(rounds(n, 3 * n))
        own = enumerate(scores, repetitions)
        rows += [
            Result("pbt", 3 * n + 1, seed, "fresh", n, 20, s + n / 100, s + n / 50, settings(0.02))
            for seed, s in own
        ]
    rows += [
        Result("base", NOT_SEARCHED, seed, "fresh", 0, 20, s, s, settings(0.03))
        for seed, s in enumerate(base, repetitions)
    ]
    return rows


def test_trials_are_rows_as_they_were_last():
    rows = final_trials(rounds())
    assert [(r.trial, r.steps, r.validation) for r in rows[:2]] == [(0, 20, 0.92), (1, 20, 0.95)]
    assert rows[2].steps == 10 and all(math.isnan(r.score) and r.stage == "search" for r in rows)
    assert [row.trial for row in ranked_trials(rows, "pbt", 0)] == [1, 0, 2]


def test_the_best_of_many_is_told_apart_from_what_it_is_worth():
    rows = results()
    assert best(rows, "pbt").mean == 0.95
    assert fresh(rows, "pbt") == {1: 0.8, 2: 0.84}
    gain = np.subtract((0.8, 0.84), (0.7, 0.75))
    low, high = 100 * np.array(stats.t.interval(0.95, 1, gain.mean(), stats.sem(gain)))
    first, second = findings(rows, "base", "accuracy", "test", {"pbt": 50})
    for part in ("rate 0.02", "in 50 steps", "95.0 % validation accuracy", "the best of 3", "82.0"):
        assert part in first
    assert f"{low:+.1f}".replace("-", "−") in second and f"{high:+.1f}" in second


def test_of_several_repetitions_each_is_a_value():
    rows = results(repetitions=2)
    assert fresh(rows, "pbt") == pytest.approx({0: 0.82, 1: 0.84})
    assert best(rows, "pbt")[:3] == (0.95, 0.0, 2)
    line = next(x for x in table(rows, "accuracy", "test", {"pbt": 9}).splitlines() if "| pbt" in x)
    assert "83.0 ± 1.0" in line
    (_, second) = findings(rows, "base", "accuracy", "test", {"pbt": 9})
    assert "+10.5 ± 1.0 points" in second  # over the mean of what was not searched


def test_the_best_so_far_counts_all_networks_that_train_beside_it():
    records = [
        {"population": "pbt-0-0-0", "step": 10, "v": 0.5},
        {"population": "pbt-0-0-0", "step": 10, "v": "nan"},
        {"population": "pbt-0-0-0", "step": 20, "v": 0.4},
        {"population": "pbt-0-0-0", "step": 20, "v": 0.7},
        {"population": "pbt-1-0-0", "step": 10, "v": 0.99},
        {"population": "pbt-0-1-0", "step": 30, "v": 0.6},
    ]
    seconds = {"pbt-0-0-0": 4.0, "pbt-0-1-0": 1.0}
    np.testing.assert_array_equal(
        progress(records, "pbt-0-", "v", seconds, 10),
        [[20, 40, 50], [2, 4, 5], [0.5, 0.7, 0.7]],
    )


def test_the_mean_of_courses_is_that_at_every_place():
    rng = np.random.default_rng(0)
    courses = [np.cumsum(rng.random((2, n)), 1) for n in (3, 5, 4)]
    places, means = mean_course(courses)
    assert places[0] == max(x[0] for x, _ in courses)
    assert {*places} == {v for x, _ in courses for v in x if v >= places[0]}
    for place, mean in zip(places, means, strict=True):
        values = [max(y[i] for i in range(len(x)) if x[i] <= place) for x, y in courses]
        assert mean == pytest.approx(np.mean(values))
    assert mean_course([]).shape == (2, 0)


def test_a_whole_report_with_its_figures(monkeypatch, tmp_path):
    rows, line = results(), rounds()
    shares = {"pbt": {"rate": 0.6, "hidden": 0.1}}
    options = {"score": "accuracy", "split": "test", "costs": {"pbt": 50}, "shares": shares}
    winner = [line[1], line[4]]
    text = report(rows, "base", {"Space": "rate"}, lines={"pbt": winner}, **options)
    for part in ("## Best trials of pbt", "## Lineage of pbt's winner", "| rate    |     60 |"):
        assert part in text
    assert ranking(rows, "pbt").splitlines()[2].startswith("| 1     |")
    assert shares_table(shares).count("\n") == 3
    path = tmp_path / "results.csv"
    write_results(path, rows)
    again = read_results(path)
    assert len(again) == len(rows) and json.loads(again[-1].settings)["hidden"] == [64, 64]

    rng = np.random.default_rng(0)
    trials = {"pbt": (rng.random((4, 2)), np.array([0.9, 0.5, math.nan, 0.7]))}
    axes = {"rate": [(0.0, "low"), (1.0, "high")], "hidden": [(0.5, "64 64")]}
    figures = tmp_path / "figures"
    figures.mkdir()
    drawn, save = [], search_figures.save

    def keep(figure, *arguments, **options):
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(search_figures, "save", keep)
    search_figures.parallel_coordinates(trials, axes, "accuracy", figures / "a.png")
    lost = {"pbt": (rng.random((2, 2)), np.full(2, math.nan))}
    search_figures.parallel_coordinates(lost, axes, "accuracy", figures / "b.png")
    course = {"pbt": [np.array([[1.0, 2], [1, 2], [0.5, 0.6]]), np.zeros((3, 0))]}
    search_figures.best_so_far({"pbt": course["pbt"][1:]}, "accuracy", figures / "b.png")
    search_figures.best_so_far(course, "accuracy", figures / "c.png")
    panel = drawn[-1].axes[0]
    assert panel.get_ylabel() == "best accuracy so far, %"
    assert panel.get_lines()[0].get_ydata().tolist() == [50, 60]
    search_figures.importances(shares, figures / "d.png")
    numbers = [
        row._replace(settings=json.dumps({"rate": RATES[i % 3]})) for i, row in enumerate(line)
    ]
    search_figures.schedules(numbers, [numbers[1], numbers[4]], ["rate"], figures / "e.png")
    assert all(path.stat().st_size > 1000 for path in figures.iterdir())
    assert importance(trials["pbt"][0], trials["pbt"][1]).shape == (2,)
