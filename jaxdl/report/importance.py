"""Importance: each setting's share in the variance of scores over a space of settings."""

from typing import Any

import numpy as np
from jaxtyping import Float


def importance(
    positions: Float[np.ndarray, "n d"],
    scores: Float[np.ndarray, " n"],
    *,
    trees: int = 64,
    seed: int = 0,
) -> Float[np.ndarray, " d"]:
    """The share of each setting's main effect in the variance of the score over the unit cube, by a
    random forest (functional ANOVA: Hutter, Hoos & Leyton-Brown, "An Efficient Approach for
    Assessing Hyperparameter Importance", ICML 2014).

    Of each tree the decomposition is exact (:func:`main_effects`); the shares are means over the
    trees that are not constant, 0 without any. The rest to 1 is due to interactions.

    Args:
      positions: positions of the settings, uniform in 0 … 1.
      scores: NaN, of what diverged, counts as the least.
    """
    from sklearn.ensemble import RandomForestRegressor  # slow to import

    if np.isnan(scores).all():
        return np.zeros(positions.shape[1])
    filled = np.where(np.isnan(scores), np.nanmin(scores), scores)
    forest = RandomForestRegressor(trees, random_state=seed).fit(positions, filled)
    shares = []
    for tree in forest.estimators_:
        effects, variance = main_effects(tree.tree_, positions.shape[1])
        if variance > 0:
            shares.append(effects / variance)
    return np.mean(shares, axis=0) if shares else np.zeros(positions.shape[1])


def main_effects(tree: Any, dimensions: int) -> tuple[Float[np.ndarray, " d"], float]:
    """The variances, for uniform x, of the main effects ``E[f | x_j]`` of a function f on the unit
    cube that is constant in boxes, and of f itself.

    Args:
      tree: scikit-learn's tree, ``tree_`` of a regressor.
    """
    low, high, values = _boxes(tree, dimensions)
    sides = high - low
    volumes = sides.prod(1)
    mean = float(np.sum(values * volumes))
    effects = np.zeros(dimensions)
    for j in range(dimensions):
        edges = np.unique([low[:, j], high[:, j]])
        middles = (edges[1:] + edges[:-1]) / 2
        members = (low[:, j] < middles[:, None]) & (middles[:, None] < high[:, j])
        conditional = members @ (values * volumes / sides[:, j])
        effects[j] = np.sum(np.diff(edges) * (conditional - mean) ** 2)
    return effects, float(np.sum(volumes * (values - mean) ** 2))


def _boxes(tree: Any, dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper corners and values of a tree's leaves."""
    leaves, nodes = [], [(0, np.zeros(dimensions), np.ones(dimensions))]
    while nodes:
        node, low, high = nodes.pop()
        feature, threshold = tree.feature[node], tree.threshold[node]
        if tree.children_left[node] < 0:
            leaves.append((low, high, tree.value[node].item()))
            continue
        left_high, right_low = high.copy(), low.copy()
        left_high[feature] = right_low[feature] = threshold
        nodes += [
            (tree.children_left[node], low, left_high),
            (tree.children_right[node], right_low, high),
        ]
    low, high, values = map(np.array, zip(*leaves, strict=True))
    return low, high, values
