"""The decomposition of a forest's variance, against formulas and a fine grid."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from jaxdl.report.importance import importance, main_effects


def test_effects_of_a_tree_are_those_on_a_fine_grid():
    rng = np.random.default_rng(0)
    x = rng.random((60, 2))
    y = np.sin(5 * x[:, 0]) + 2 * x[:, 0] * x[:, 1]
    tree = DecisionTreeRegressor(random_state=0).fit(x, y)
    effects, variance = main_effects(tree.tree_, 2)
    n = 400
    axis = (np.arange(n) + 0.5) / n
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    values = tree.predict(grid).reshape(n, n)
    assert variance == pytest.approx(values.var(), rel=0.02)
    expected = values.mean(1).var(), values.mean(0).var()
    np.testing.assert_allclose(effects, expected, rtol=0.03)
    assert effects.sum() < variance  # the rest is their interaction


def test_shares_of_a_sum_are_those_of_its_terms():
    """Of 3 a + b + 0 c they are 9 : 1 : 0."""
    x = np.random.default_rng(1).random((600, 3))
    shares = importance(x, 3 * x[:, 0] + x[:, 1])
    np.testing.assert_allclose(shares, (0.9, 0.1, 0.0), atol=0.03)
    np.testing.assert_array_equal(importance(x, 3 * x[:, 0] + x[:, 1]), shares)


def test_what_diverged_counts_as_the_worst_and_constants_have_no_shares():
    x = np.random.default_rng(2).random((80, 2))
    scores = np.where(x[:, 1] > 0.5, np.nan, 0.9)
    scores[0] = 0.1
    assert importance(x, scores)[1] > 0.8
    np.testing.assert_array_equal(importance(x, np.full(80, 0.5)), (0, 0))
    np.testing.assert_array_equal(importance(x, np.full(80, np.nan)), (0, 0))
