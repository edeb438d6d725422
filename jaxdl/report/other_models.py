"""Scores of other models of the same table: scikit-learn's, and least squares."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num

from jaxdl.report.comparisons import percent
from jaxdl.report.predictions import Predictions, by_point
from jaxdl.report.supervised import Point, Standing, label
from jaxdl.report.tables import Estimate, bullets


def model_scores(
    train: tuple[Float[np.ndarray, "n d"], Num[np.ndarray, " n"]],
    evaluated: tuple[Float[np.ndarray, "m d"], Num[np.ndarray, " m"]],
) -> dict[str, float]:
    """Scores of scikit-learn's models, by class name, fitted to standardized columns of a table."""
    from sklearn import ensemble, linear_model, neighbors, pipeline, preprocessing, svm

    if np.issubdtype(train[1].dtype, np.integer):
        models = (
            linear_model.LogisticRegression(max_iter=10_000),
            svm.SVC(),
            neighbors.KNeighborsClassifier(),
            ensemble.RandomForestClassifier(random_state=0),
        )
    else:
        models = (
            linear_model.LinearRegression(),
            svm.SVR(),
            neighbors.KNeighborsRegressor(),
            ensemble.RandomForestRegressor(random_state=0),
        )
    scaler = preprocessing.StandardScaler()
    fitted = {type(m).__name__: pipeline.make_pipeline(scaler, m).fit(*train) for m in models}
    return {name: float(model.score(*evaluated)) for name, model in fitted.items()}


def least_squares(
    predictions: Predictions,
    split: str,
    train: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]],
    features: Float[np.ndarray, "m d"],
) -> dict[Point, float]:
    """The greatest distance, by method, of a prediction from that of least squares with all
    columns, over networks and examples, divided by the deviation of the targets."""
    (x, y), x_new = train, features.astype(np.float64)
    columns = np.c_[np.ones(len(x)), x.astype(np.float64)]
    weights = np.linalg.lstsq(columns, y.astype(np.float64), rcond=None)[0]
    exact = weights[0] + x_new @ weights[1:]
    return {
        point: max(float(np.abs(parts[split].outputs[:, 0] - exact).max()) for parts in s.values())
        / float(y.std())
        for point, s in by_point(predictions).items()
        if s
    }


def model_standings(scores: Mapping[str, float]) -> dict[str, Standing]:
    """Rows of a figure for :func:`model_scores`, which have no standard error."""
    return {
        f"scikit-learn: {m}": Standing(Estimate(x, math.nan, 1), None) for m, x in scores.items()
    }


def describe(
    predictions: Predictions,
    split: str,
    tables: Sequence[tuple[Float[np.ndarray, "_ d"], Num[np.ndarray, " _"]]],
    scores: Mapping[str, float],
) -> str:
    """:func:`model_scores` and :func:`least_squares` in words.

    Args:
      tables: the features and answers that models are fitted to, and those they are evaluated on.
    """
    (x, y), (x_new, _) = tables
    lines = [f"scikit-learn's {m}: {percent(score)}" for m, score in scores.items()]
    if not np.issubdtype(y.dtype, np.integer):
        distances = least_squares(predictions, split, (x, y), x_new)
        words = "of least squares, in deviations of the target"
        lines += [f"**{label(p)}** is within {d:.0e} {words}" for p, d in distances.items()]
    return "Fitted to all training examples:\n\n" + bullets(lines)
