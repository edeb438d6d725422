"""What statistics makes of the same table: scikit-learn's models, and least squares."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Num

from jaxdl.report.comparisons import percent
from jaxdl.report.predictions import Predictions, by_point
from jaxdl.report.supervised import Point, Standing, label
from jaxdl.report.tables import Estimate, bullets


def references(
    train: tuple[Float[np.ndarray, "n d"], Num[np.ndarray, " n"]],
    evaluated: tuple[Float[np.ndarray, "m d"], Num[np.ndarray, " m"]],
) -> dict[str, float]:
    """The scores of scikit-learn's own models, fitted to standardized columns of a table."""
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
    """How far each method's predictions are from those of least squares with all columns: the
    greatest distance of any network and example, over the deviation of the targets."""
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


def standings(references: Mapping[str, float]) -> dict[str, Standing]:
    """:func:`references` for a figure: a fit has no error."""
    return {
        f"scikit-learn: {m}": Standing(Estimate(x, math.nan, 1), None)
        for m, x in references.items()
    }


def describe(
    predictions: Predictions,
    split: str,
    tables: Sequence[tuple[Float[np.ndarray, "_ d"], Num[np.ndarray, " _"]]],
    references: Mapping[str, float],
) -> str:
    """:func:`references` and :func:`least_squares` in words, of the tables that models are fitted
    to and evaluated on."""
    (x, y), (x_new, _) = tables
    lines = [f"scikit-learn's {m}: {percent(score)}" for m, score in references.items()]
    if not np.issubdtype(y.dtype, np.integer):
        distances = least_squares(predictions, split, (x, y), x_new)
        words = "of least squares, in deviations of the target"
        lines += [f"**{label(p)}** is within {d:.0e} {words}" for p, d in distances.items()]
    return "Fitted to all training examples:\n\n" + bullets(lines)
