"""Points and weights, against SciPy, NumPy and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl.pinn import sampling, weighting
from jaxdl.pinn.sampling import RULES, Points, candidates, draw, refine

BOX = {"t": (0.0, 2.0), "x": (-1.0, 3.0)}


@pytest.mark.parametrize("rule", RULES)
def test_points_fill_the_box(rule):
    points = draw(Points(400), BOX, rule, 0)
    assert points.shape == (400, 2) and points.dtype == np.float64
    low, high = np.array(list(BOX.values())).T
    assert (points >= low).all() and (points <= high).all()
    # Even: closer to the mean of the uniform distribution than five standard errors.
    spread = (high - low) / np.sqrt(12 * 400)
    assert (abs(points.mean(0) - (low + high) / 2) < 5 * spread).all()
    again, other = draw(Points(400), BOX, rule, 0), draw(Points(400), BOX, rule, 1)
    assert (points == again).all()
    assert (points != other).any() or rule == "grid"


def test_rules_are_what_they_are_called():
    hypercube = draw(Points(50), BOX, "latin_hypercube", 3)
    for column, (low, high) in zip(hypercube.T, BOX.values(), strict=True):
        slices = np.floor((column - low) / (high - low) * 50).astype(int)
        assert sorted(slices) == list(range(50))  # one in each
    sobol = draw(Points(256), BOX, "sobol", 3)
    cells = np.floor((sobol - [0, -1]) / [2, 4] * 16).astype(int)
    assert len({tuple(cell) for cell in cells}) == 256  # one in each cell of 16 x 16
    grid = draw(Points(9), BOX, "grid", 0)
    assert {tuple(p) for p in grid} == {(t, x) for t in (0, 1, 2) for x in (-1, 1, 3)}
    assert len(draw(Points(10), BOX, "grid", 0)) == 16


def test_faces_warps_and_parts():
    initial = draw(Points(5, fixed={"t": 0}), BOX, "grid", 0)
    np.testing.assert_array_equal(initial, [[0, -1], [0, 0], [0, 1], [0, 2], [0, 3]])
    corner = draw(Points(3, fixed={"t": 2, "x": 3}), BOX, "sobol", 0)
    np.testing.assert_array_equal(corner, [[2, 3]] * 3)
    for corner in ({"t": 2, "x": 3}, {"t": np.int32(2), "x": 3.0}):
        points = draw(Points(3, fixed=corner), {"t": (0, 2), "x": (-1, 3)}, "grid", 0)
        assert points.dtype == np.float64
    warped = draw(Points(8, warp=lambda p: p * [0.5, 1]), BOX, "uniform", 0)
    np.testing.assert_array_equal(warped, draw(Points(8), BOX, "uniform", 0) * [0.5, 1])
    square = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    disc = draw(Points(500, inside=lambda p: (p**2).sum(1) <= 1), square, "uniform", 0)
    assert disc.shape == (500, 2) and ((disc**2).sum(1) <= 1).all()
    # The share of a disc that is within half its radius is a quarter.
    inner = ((disc**2).sum(1) <= 0.25).sum()
    assert stats.binomtest(int(inner), 500, 0.25).pvalue > 1e-3


@pytest.mark.parametrize(
    "points, domain, rule, words",
    [
        (Points(4), BOX, "halton", ("unknown rule 'halton'", "sobol")),
        (Points(4), {"t": (1.0, 1.0)}, "grid", ("t from 1.0 to 1.0", "no interval")),
        (Points(4), {"t": (2.0, 1.0)}, "grid", ("t from 2.0 to 1.0",)),
        (Points(4), {"t": (0.0, np.inf)}, "grid", ("no interval",)),
        (Points(100.0), BOX, "grid", ("Points(100.0)", "whole number as in Points(100)")),
        (Points(4), {"ϕ": (0.0, 1.0)}, "grid", ("domain", "U+03D5", "U+03C6")),
        (Points(4), {"time": (0.0, 1.0)}, "grid", ("'time'", "a letter")),
        (Points(4, fixed={"t": 5}), BOX, "grid", ("t=5 is not on the domain",)),
        (Points(4, fixed={"y": 0}), BOX, "grid", ("y=0 is not on the domain",)),
    ],
)
def test_bad_domains_are_told(points, domain, rule, words):
    with pytest.raises(ValueError) as error:
        draw(points, domain, rule, 0)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "points, words",
    [
        (np.zeros((3, 3)), ("shape [3, 3]", "[n, 2]")),
        (np.zeros((0, 2)), ("shape [0, 2]",)),
        (np.array([[0, 0], [3.0, 0]]), ("data: point 1 has t=3.0", "[0, 2]")),
        (np.array([[0, np.nan]]), ("point 0 has x=nan",)),
    ],
)
def test_given_points_must_be_inside(points, words):
    with pytest.raises(ValueError) as error:
        sampling.check_points(points, BOX, "data")
    assert all(word in str(error.value) for word in words)


def test_candidates_are_even_and_say_which_are_inside():
    rule = Points(9, fixed={"t": 1.0}, inside=lambda p: p[:, 1] > 0)
    points, inside = candidates(jax.random.key(0), rule, BOX, 1000)
    assert (points[:, 0] == 1).all()
    assert stats.kstest(np.asarray(points[:, 1]), stats.uniform(-1, 4).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(inside, points[:, 1] > 0)


def test_refined_points_follow_the_residual():
    others = jnp.arange(4000.0)[:, None]
    residual = jnp.where(others[:, 0] < 1000, 3.0, 1.0)
    inside = others[:, 0] < 3000
    old, key = jnp.full((600, 1), -7.0), jax.random.key(0)
    drawn = refine(key, old, residual, others, inside, power=2.0, floor=0.5)
    drawn = np.asarray(drawn)[:, 0]
    assert len(set(drawn)) == 600 and drawn.max() < 3000
    size = np.where(np.arange(3000) < 1000, 9.0, 1.0)
    chances = size / size.mean() + 0.5
    share = chances[:1000].sum() / chances.sum()
    assert abs((drawn < 1000).mean() - share) < 0.06  # without replacement a little less
    every = jnp.ones(4000, bool)
    largest = refine(key, old[:5], others[:, 0], others, every, power=60, floor=0)
    assert np.asarray(largest).min() > 3500
    # As many as there are inside, be their residuals 0 or not; too few of them replace nothing.
    few = others[:, 0] < 600
    drawn = refine(key, old, 0 * residual, others, few, floor=0.0)
    assert sorted(np.asarray(drawn)[:, 0]) == list(range(600))
    np.testing.assert_array_equal(refine(key, old, residual, others, others[:, 0] < 599), old)


def test_gradient_norm_weights_make_all_gradients_equally_long():
    norms = {"a": jnp.asarray(0.1), "b": jnp.asarray(5.0), "c": jnp.asarray(2.0)}
    weights = weighting.gradient_norm_weights(norms)
    lengths = [float(weights[term] * norms[term]) for term in norms]
    np.testing.assert_allclose(lengths, 7.1, rtol=1e-12)


def test_causal_weights_by_a_loop():
    rng = np.random.default_rng(0)
    time, residual = rng.uniform(0, 2, 300), rng.standard_normal(300)
    found = weighting.causal_weights(residual, time, first=0, last=2, tolerance=0.7, bins=8)
    place = np.minimum((time / 2 * 8).astype(int), 7)
    means = [np.mean(residual[place == k] ** 2) for k in range(8)]
    expected = [np.exp(-0.7 * sum(means[:k])) for k in place]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.asarray(found)[place == 0] == 1).all()


def test_attention_weights_have_their_limit():
    residual = np.array([0.5, -2.0, 1.0])
    weights = jnp.ones(3)
    first = weighting.attention_weights(weights, residual, decay=0.9, rate=0.1)
    np.testing.assert_allclose(first, 0.9 + 0.1 * np.array([0.25, 1, 0.5]), rtol=1e-12)
    for _ in range(400):
        weights = weighting.attention_weights(weights, residual, decay=0.9, rate=0.1)
    np.testing.assert_allclose(weights, [0.25, 1, 0.5], rtol=1e-9)  # e / (1 - g) times |r| / max
    assert np.isfinite(weighting.attention_weights(weights, np.zeros(3))).all()
