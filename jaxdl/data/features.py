"""Features: network inputs computed from the columns of a table, or from the pixels of images.

:func:`make_features` fits a map to the training examples, on the host and with scikit-learn, and
returns it as a pure JAX function, for the compiled program. Its maps are

- ``raw``: the columns as they are stored;
- ``standardized``: mean 0 and deviation 1 of each column. All maps below end with the same, so that
  one learning rate may serve them all;
- ``kernel``: ``(x1², √2 x1 x2, x2²)`` of two columns (:func:`kernel`), in which every conic around
  the origin is a plane;
- ``polar``: radius and angle of two columns (:func:`polar`);
- ``pca``: principal components, those of greatest variance;
- ``ica``: independent components, those least like a Gaussian;
- ``filter``: the columns with the greatest F statistic, each looked at alone;
- ``wrapper``: those left by recursive elimination of the column with the smallest coefficient in a
  linear model;
- ``embedded``: those to which a linear model gives the greatest coefficients under an L1 penalty
  (Guyon & Elisseeff, JMLR 2003, for the names of the three selections).

The last five start from standardized columns, without which variances and coefficients would be
matters of units. ``wrapper`` fits a model for each column that it takes out.
"""

import logging
import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, Shaped

from jaxdl.types import AnyArray

Columns = Callable[[Shaped[AnyArray, "b ..."]], Float[Array, "b d"]]
"""A function from stored examples, rows of a table or images, to network inputs."""

log = logging.getLogger(__name__)


def make_features(
    name: str,
    features: Shaped[np.ndarray, "n ..."],
    targets: Num[np.ndarray, " n"] | None = None,
    count: int = 0,
) -> Columns:
    """A map by its name (see above), fitted to training examples.

    Args:
      features: [n, d]; what has more axes, as images have, is flattened.
      targets: integers are labels, other numbers the targets of a regression. ``filter``,
        ``wrapper`` and ``embedded`` select by them; the others do not look at them.
      count: number of columns that ``pca``, ``ica`` and the three selections make; 0 for all, of
        ``embedded`` all with a coefficient. The others do not look at it.

    Returns:
      A function from examples [b, ...] to float32 [b, columns]. Columns that are constant over
      the training examples are 0.

    Raises:
      ValueError: an unknown name, more columns than there are, other than two for ``kernel`` and
        ``polar``, a selection without targets that differ, or one in which no column counts.
    """
    if name not in FEATURES:
        raise ValueError(f"unknown features {name!r}: choose one of {', '.join(FEATURES)}")
    if name == "raw":
        return _flat
    examples = np.asarray(_flat(features))
    if name in PLAIN:
        columns = PLAIN[name]
        if columns in (kernel, polar) and examples.shape[1] != 2:
            raise ValueError(f"{name} features are made of 2 columns, here are {examples.shape[1]}")
    else:
        columns = _linear(name, examples, targets, count)
    standardize = _standardization(columns(jnp.asarray(examples)))
    return lambda x: standardize(columns(_flat(x)))


def kernel(x: Float[AnyArray, "b 2"]) -> Float[Array, "b 3"]:
    """``(x1², √2 x1 x2, x2²)``, whose inner products are those of ``x`` squared: the map of the
    polynomial kernel of degree 2 (Boser, Guyon & Vapnik, COLT 1992)."""
    first, second = x[:, 0], x[:, 1]
    return jnp.stack([first**2, math.sqrt(2) * first * second, second**2], -1)


def polar(x: Float[AnyArray, "b 2"]) -> Float[Array, "b 2"]:
    """Radius, and angle from −π to π."""
    return jnp.stack([jnp.hypot(x[:, 0], x[:, 1]), jnp.arctan2(x[:, 1], x[:, 0])], -1)


def _flat(x: Shaped[AnyArray, "b ..."]) -> Float[Array, "b d"]:
    return jnp.asarray(x, jnp.float32).reshape(len(x), -1)


def _standardization(x: Float[AnyArray, "n d"]) -> Callable[[Array], Array]:
    """The affine map to mean 0 and deviation 1 of each column of ``x``, and to 0 where it is
    constant."""
    values = np.asarray(x, np.float64)
    varies = np.ptp(values, 0) > 0
    mean = values.mean(0)[None].astype(np.float32)
    scale = np.where(varies, 1 / np.where(varies, values.std(0), 1), 0)[None].astype(np.float32)
    return lambda x: (x - mean) * scale


def _linear(
    name: str,
    examples: Float[np.ndarray, "n d"],
    targets: Num[np.ndarray, " n"] | None,
    count: int,
) -> Callable[[Array], Array]:
    """Standardized columns times a matrix [d, count] that is fitted to them."""
    if not 0 <= count <= examples.shape[1]:
        raise ValueError(
            f"{count} {name} features of {examples.shape[1]} columns: choose from 1 to all of "
            "them, or 0 for all"
        )
    standardize = _standardization(examples)
    standardized = np.asarray(standardize(jnp.asarray(examples)), np.float64)
    if name in COMPONENTS:
        matrix = COMPONENTS[name](standardized, count)
    elif targets is None or np.ptp(targets) == 0:
        raise ValueError(f"{name} features are selected by labels or targets that differ")
    else:
        mask = SELECTIONS[name](standardized, targets, count)
        matrix = np.eye(len(mask))[:, mask]
    matrix = matrix.astype(np.float32)
    return lambda x: jnp.matmul(standardize(x), matrix, precision=jax.lax.Precision.HIGHEST)


# Components.


def _principal(x: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "d count"]:
    """Orthogonal directions by falling variance."""
    from sklearn.decomposition import PCA  # slow to import

    return PCA(_components(x, count, len(x)), svd_solver="full").fit(x).components_.T


def _independent(x: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "d count"]:
    """FastICA (Hyvärinen, IEEE TNN 1999); by falling ``|E s⁴ / (E s²)² - 3|``, the excess kurtosis,
    which is 0 of a Gaussian.

    It looks in all principal components, or in as many as there are five examples for: in more, any
    few examples are far from Gaussian somewhere. Where it does not settle in 200 iterations, as
    among several Gaussian directions, which have no order, its last directions are taken.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    limit = max(1, len(x) // 5)
    whitening = _principal(x, _components(x, 0, limit))
    whitening = whitening / np.std(x @ whitening, 0)
    ica = FastICA(whiten=False, w_init=np.eye(whitening.shape[1]), max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        signals = ica.fit_transform(x @ whitening)
    if ica.n_iter_ >= ica.max_iter:
        log.warning("ica: not settled in %d iterations; its last directions are used", ica.max_iter)
    kurtosis = np.mean(signals**4, 0) / np.mean(signals**2, 0) ** 2 - 3
    order = np.argsort(-np.abs(kurtosis), kind="stable")[: _components(x, count, limit)]
    return whitening @ ica.components_[order].T


def _components(x: Float[np.ndarray, "n d"], count: int, limit: int) -> int:
    """``count``, or for 0 the number of directions in which the examples vary, up to a limit."""
    rank = min(int(np.linalg.matrix_rank(x)), limit)
    if count > rank:
        raise ValueError(f"{count} components: {len(x)} such training examples have {rank}")
    return count or rank


# Selections of columns.


def _filter(
    x: Float[np.ndarray, "n d"], targets: Num[np.ndarray, " n"], count: int
) -> Bool[np.ndarray, " d"]:
    """Selection by the F statistic of an analysis of variance, or of a linear regression on one
    column."""
    from sklearn.feature_selection import SelectKBest, f_classif, f_regression

    varies = np.ptp(x, 0) > 0
    scores = np.full(x.shape[1], -1.0)  # 0 / 0 of a constant column
    selection = SelectKBest(f_classif if _are_labels(targets) else f_regression, k="all")
    scores[varies] = selection.fit(x[:, varies], targets).scores_
    return _greatest(scores, count or x.shape[1])


def _wrapper(
    x: Float[np.ndarray, "n d"], targets: Num[np.ndarray, " n"], count: int
) -> Bool[np.ndarray, " d"]:
    """Selection by recursive elimination of the smallest coefficient (Guyon et al., Machine
    Learning 2002) of a logistic regression or of a ridge regression."""
    from sklearn.feature_selection import RFE
    from sklearn.linear_model import LogisticRegression, Ridge

    model = LogisticRegression(max_iter=1000) if _are_labels(targets) else Ridge()
    elimination = RFE(model, n_features_to_select=count or x.shape[1])
    return elimination.fit(x, targets).support_


def _embedded(
    x: Float[np.ndarray, "n d"], targets: Num[np.ndarray, " n"], count: int
) -> Bool[np.ndarray, " d"]:
    """Selection by the norm over classes of a column's coefficients in a logistic regression, or by
    those of a lasso (Tibshirani 1996), with ``0.01 |coefficients|_1`` added to the mean loss, in
    units of the targets' deviation."""
    from sklearn.linear_model import Lasso, LogisticRegression

    if _are_labels(targets):
        strength = 100 / len(x)
        model = LogisticRegression(
            l1_ratio=1, C=strength, solver="saga", max_iter=5000, random_state=0
        )
        coefficients = np.linalg.norm(model.fit(x, targets).coef_, axis=0)
    else:
        coefficients = np.abs(Lasso(0.01 * np.std(targets)).fit(x, targets).coef_)
    if count:
        return _greatest(coefficients, count)
    if not coefficients.any():
        raise ValueError("embedded features: every coefficient is 0, so none is selected")
    return coefficients > 0


def _are_labels(targets: Num[np.ndarray, " n"]) -> bool:
    return np.issubdtype(targets.dtype, np.integer)


def _greatest(scores: Float[np.ndarray, " d"], count: int) -> Bool[np.ndarray, " d"]:
    """A mask of the ``count`` greatest scores, of equal ones the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


PLAIN: dict[str, Callable[[Array], Array]] = {
    "raw": lambda x: x,
    "standardized": lambda x: x,
    "kernel": kernel,
    "polar": polar,
}
COMPONENTS = {"pca": _principal, "ica": _independent}
SELECTIONS = {"filter": _filter, "wrapper": _wrapper, "embedded": _embedded}
FEATURES = (*PLAIN, *COMPONENTS, *SELECTIONS)
