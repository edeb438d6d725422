"""Searches against hand computations, published numbers and laws, with scores from formulas."""

import itertools
import math
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from jaxdl import search
from jaxdl.search import NEW, Choice, Range, Stretch

SPACE = {
    "rate": Range(1e-4, 1.0, log=True),
    "momentum": Range(0.5, 0.99),
    "width": Range(2, 5, integer=True),
    "hidden": Choice(((64,), (128, 128), ())),
}
NUMBERS = {name: SPACE[name] for name in ("rate", "momentum", "width")}


def by_rate(stretches):
    """Scores of a whole round at once: best at a rate of .01."""
    rates = np.array([stretch.settings["rate"] for stretch in stretches])
    return (-np.abs(np.log10(rates) + 2)).tolist()


@pytest.mark.parametrize(
    ("values", "positions", "expected"),
    [
        (Range(1e-4, 1.0, log=True), (0, 0.25, 0.5, 1), (1e-4, 1e-3, 1e-2, 1.0)),
        (Range(-1.0, 3.0), (0, 0.25, 1), (-1.0, 0.0, 3.0)),
        (Range(2, 5, integer=True), (0, 0.24, 0.26, 0.99, 1), (2, 2, 3, 5, 5)),
        (Choice(("a", "b")), (0, 0.49, 0.5, 1), ("a", "a", "b", "b")),
    ],
)
def test_values_at_positions(values, positions, expected):
    for position, value in zip(positions, expected, strict=True):
        assert values.value(position) == (pytest.approx(value) if type(value) is float else value)


@pytest.mark.parametrize("values", SPACE.values(), ids=SPACE)
@given(position=st.floats(0, 1))
def test_positions_are_the_inverse_of_values(values, position):
    value = values.value(position)
    again = values.position(value)
    assert 0 <= again <= 1 + 1e-12
    assert values.value(min(again, 1.0)) == (
        pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
    )


def test_samples_are_uniform_in_their_own_measure_and_the_first_of_many_those_of_few():
    drawn = search.sample(SPACE, 2000, seed=3)
    assert drawn[:5] == search.sample(SPACE, 5, seed=3) != search.sample(SPACE, 5, seed=4)
    for name in ("rate", "momentum"):
        positions = [SPACE[name].position(settings[name]) for settings in drawn]
        assert stats.kstest(positions, "uniform").pvalue > 0.01
    for name, count in (("width", 4), ("hidden", 3)):
        values, counts = np.unique([str(s[name]) for s in drawn], return_counts=True)
        assert len(values) == count and stats.chisquare(counts).pvalue > 0.01


def test_a_grid_has_all_combinations_with_both_ends():
    points = search.grid(SPACE, 3)
    assert len(points) == 3 * 3 * 3 * 3 == len({tuple(p.values()) for p in points})
    assert sorted({p["rate"] for p in points}) == pytest.approx([1e-4, 1e-2, 1.0])
    assert {p["momentum"] for p in points} == {0.5, 0.745, 0.99}
    assert {p["width"] for p in points} == {2, 4, 5}  # of four at most so many as asked for
    assert len(search.grid({"width": SPACE["width"]}, 9)) == 4


def test_halving_by_hand():
    rates = [10.0**-i for i in range(9)]  # the third is the best, then its neighbours
    candidates = [{"rate": rate} for rate in rates]
    history = search.drive(search.halving(candidates, [10, 30, 90], 3), by_rate)
    trials = [[s.trial for s in stretches] for stretches, _ in history]
    assert trials == [list(range(9)), [1, 2, 3], [2]]
    parents = [[s.parent for s in stretches] for stretches, _ in history]
    assert parents == [[NEW] * 9, [1, 2, 3], [2]]
    assert search.cost(history) == 9 * 10 + 3 * 20 + 1 * 60
    (best, score), line = search.winner(history), search.ancestry(history, 2)
    assert (best.trial, score) == (2, 0.0)
    assert [(s.trial, s.steps) for s in line] == [(2, 10), (2, 30), (2, 90)]


def test_hyperband_as_published():
    """Li et al. 2018, Table 1: the brackets for R = 81 and eta = 3."""
    rungs = search.make_rungs(1, 81, 3)
    assert rungs == [1, 3, 9, 27, 81]
    sizes = search.bracket_sizes(len(rungs), 3)
    assert sizes == [81, 34, 15, 8, 5]
    history = search.rehearse(search.hyperband([{}] * sum(sizes), rungs, 3, sizes))
    table = [(len(stretches), stretches[0].steps) for stretches, _ in history]
    assert table == [
        *((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        *((34, 3), (11, 9), (3, 27), (1, 81)),
        *((15, 9), (5, 27), (1, 81)),
        *((8, 27), (2, 81)),
        (5, 81),
    ]
    begun = [s.trial for stretches, _ in history for s in stretches if s.parent == NEW]
    assert begun == list(range(143))


def test_rungs_are_multiples_and_grow():
    assert search.make_rungs(50, 600, 3, unit=50) == [50, 200, 600]
    assert search.make_rungs(601, 600, 3) == [600]
    assert search.make_rungs(20, 160, 2, unit=20) == [20, 40, 80, 160]


@given(
    size=st.integers(1, 60), eta=st.integers(2, 4), rungs=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_halving_keeps_its_budget_and_the_best(size, eta, rungs, seed):
    steps = search.make_rungs(1, eta ** (rungs - 1), eta)
    assert len(steps) == rungs
    scores = np.random.default_rng(seed).permutation(size).astype(float)
    history = search.drive(
        search.halving([{}] * size, steps, eta), lambda ss: [scores[s.trial] for s in ss]
    )
    for (before, _), (after, _) in itertools.pairwise(history):
        assert len(after) == max(1, len(before) // eta)
    assert search.winner(history)[0].trial == scores.argmax()
    budget = search.cost(history)
    assert search.halving_size(steps, eta, budget) >= size
    assert search.cost(search.rehearse(search.halving([{}] * size, steps, eta))) == budget
    most = search.halving_size(steps, eta, 1000)
    assert search.cost(search.rehearse(search.halving([{}] * most, steps, eta))) <= 1000


@given(
    scores=st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=20),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_only_trials_with_a_score_are_copied_and_only_onto_worse_ones(scores, share, seed):
    parents = search.exploit(scores, share, np.random.default_rng(seed))
    alive = [score for score in scores if not math.isnan(score)]
    for i, parent in enumerate(parents):
        if parent != i:
            assert not math.isnan(scores[parent])
            assert math.isnan(scores[i]) or scores[parent] >= scores[i]
        elif math.isnan(scores[i]):
            assert not alive
    assert all(parents[parent] == parent for parent in parents)  # what is copied stays


@given(
    position=st.tuples(*[st.floats(0, 1)] * 3),
    factors=st.lists(st.floats(0.01, 100), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_what_is_explored_stays_in_its_range(position, factors, seed):
    settings = {name: r.value(u) for (name, r), u in zip(NUMBERS.items(), position, strict=True)}
    rng = np.random.default_rng(seed)
    for _ in range(5):
        settings = search.explore(NUMBERS, settings, factors, rng)
        for name, values in NUMBERS.items():
            assert values.low <= settings[name] <= values.high
        assert isinstance(settings["width"], int)


def test_a_step_of_exploring_by_hand():
    rng = np.random.default_rng(0)
    seen = {
        search.explore({"rate": NUMBERS["rate"]}, {"rate": 0.1}, (0.8, 1.2), rng)["rate"]
        for _ in range(50)
    }
    assert sorted(seen) == pytest.approx([0.08, 0.12])
    assert (NUMBERS["width"].scale(2, 1.2), NUMBERS["width"].scale(5, 1.2)) == (3, 5)


def run_population(seed, scores=by_rate):
    space = {"rate": SPACE["rate"]}
    population = search.sample(space, 10, seed)
    return search.drive(
        search.population_based(population, space, range(10, 101, 10), seed), scores
    )


@pytest.mark.parametrize("seed", range(3))
def test_population_based_training_finds_the_rate_and_its_lineage_is_a_forest(seed):
    history = run_population(seed)
    assert len(history) == 10 and search.cost(history) == 10 * 100
    assert all(s.parent == NEW for s in history[0][0])
    for (before, scores), (after, _) in itertools.pairwise(history):
        best = sorted(scores)[-2:]
        for stretch in after:
            if stretch.parent == stretch.trial:
                assert stretch.settings == before[stretch.trial].settings
            else:
                assert scores[stretch.parent] in best
                ratio = stretch.settings["rate"] / before[stretch.parent].settings["rate"]
                assert ratio == pytest.approx(0.8) or ratio == pytest.approx(1.2)
        assert sum(s.parent != s.trial for s in after) == 2  # a fifth of ten
    # Every trial's line leads to one fresh start, a stretch an interval.
    for trial in range(10):
        line = search.ancestry(history, trial)
        assert [s.steps for s in line] == list(range(10, 101, 10)) and line[0].parent == NEW
        for older, younger in itertools.pairwise(line):
            assert younger.parent == older.trial
    assert run_population(seed) == history
    (_, first), (_, last) = history[0], history[-1]
    assert np.mean(last) > np.mean(first)


def test_a_population_that_has_diverged_goes_on_as_it_is():
    history = run_population(0, lambda stretches: [math.nan] * len(stretches))
    assert all(s.parent == s.trial for stretches, _ in history[1:] for s in stretches)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Range(1.0, 1.0), "no range"),
        (lambda: Range(0.0, math.inf), "no range"),
        (lambda: Range(math.nan, 1.0), "no range"),
        (lambda: Range(0.0, 1.0, log=True), "begin above 0"),
        (lambda: Range(0.5, 3, integer=True), "whole numbers"),
        (lambda: Choice(()), "no choice"),
        (lambda: Choice((1, 2, 1)), "no choice"),
    ],
)
def test_what_is_no_range_and_no_choice_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_winner_is_among_those_trained_longest():
    history = [
        ([Stretch(0, {}, 10), Stretch(1, {}, 10)], [0.9, 0.8]),
        ([Stretch(1, {}, 20, 1)], [0.5]),
        ([Stretch(2, {}, 20)], [0.5]),
    ]
    assert search.winner(history) == (Stretch(1, {}, 20, 1), 0.5)


def test_the_script_of_the_page():
    page = Path(__file__).parents[1] / "experiments" / "search.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    best, score = names["best"], names["score"]
    assert len(names["history"]) == 3 and best.steps == 90
    assert score > -0.3
    assert score == pytest.approx(-abs(math.log10(best.settings["rate"]) + 2))
