"""Maps of features against scikit-learn's own pipelines, on new examples."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA, FastICA
from sklearn.feature_selection import RFE, SelectKBest, f_classif, f_regression
from sklearn.linear_model import LogisticRegression, Ridge, lasso_path
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from jaxdl.data.features import COMPONENTS, PLAIN, SELECTIONS, kernel, make_features
from jaxdl.data.sources import load

WINE, DIABETES = (load(name).splits for name in ("wine", "diabetes"))
X, LABELS = WINE["train"]["features"], WINE["train"]["label"]
NEW = WINE["validation"]["features"]


def make(name, count=0, x=X, targets=None):
    """The map, fitted and compiled; to NumPy's arrays."""
    fitted = jax.jit(make_features(name, x, targets, count))
    return lambda x: np.asarray(fitted(x))


def assert_equals(ours, pipeline, new, rtol=1e-3):
    expected = pipeline.transform(new)
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=1e-3)


def test_raw_columns_are_as_they_are_stored():
    np.testing.assert_array_equal(make("raw")(NEW), NEW)


@pytest.mark.parametrize("count", [0, 3])
def test_standardized_columns_and_components_are_scikit_learns(count):
    assert_equals(make("standardized", count)(NEW), StandardScaler().fit(X), NEW)
    pipeline = make_pipeline(StandardScaler(), PCA(count or None), StandardScaler()).fit(X)
    assert_equals(make("pca", count)(NEW), pipeline, NEW)


def test_the_kernel_and_polar_maps_are_those_of_their_formulas():
    x, new = X[:, :2] - 5, NEW[:, :2] - 5
    both = jax.jit(lambda *arrays: [kernel(a) for a in arrays])
    ours, ours_new = map(np.asarray, both(x, new))
    products = ours @ ours_new.T
    np.testing.assert_allclose(products, (x @ new.T) ** 2, rtol=1e-4)
    squares = PolynomialFeatures((2, 2), include_bias=False)  # without √2, which is no matter then
    assert_equals(make("kernel", x=x)(new), make_pipeline(squares, StandardScaler()).fit(x), new)

    def complex_polar(x):
        z = x[:, 0] + 1j * x[:, 1]
        return np.stack([np.abs(z), np.angle(z)], -1)

    pipeline = make_pipeline(FunctionTransformer(complex_polar), StandardScaler()).fit(x)
    assert_equals(make("polar", x=x)(new), pipeline, new)
    for name in ("kernel", "polar"):
        with pytest.raises(ValueError, match=f"{name} features are made of 2 columns, here are 13"):
            make_features(name, X)


def test_independent_components_are_the_signals_that_were_mixed():
    """Up to sign; by falling distance from a Gaussian."""
    splits = load("latent", kind="mixed", train=500).splits
    x, new = (splits[split]["features"] for split in ("train", "validation"))
    signals = make("ica", 1, x=x)(new)
    signed = 2.0 * splits["validation"]["label"] - 1
    assert abs(np.corrcoef(signals[:, 0], signed)[0, 1]) > 0.9
    z = StandardScaler().fit(x)
    ica = FastICA(whiten="unit-variance", w_init=np.eye(10), max_iter=1000).fit(z.transform(x))
    theirs, ours = ica.transform(z.transform(new)), make("ica", x=x)(new)
    similar = np.abs(np.corrcoef(ours.T, theirs.T)[:10, 10:])
    np.testing.assert_allclose(np.sort(similar)[:, -1], 1, atol=1e-3)  # each is one of theirs
    assert sorted(similar.argmax(1)) == list(range(10))


def test_where_independent_components_do_not_settle_a_line_says_so(caplog):
    """Gaussian directions have no order."""
    x = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    columns = make("ica", 4, x=x)(x)
    np.testing.assert_allclose(np.std(columns, 0), 1, rtol=1e-3)
    assert "not settled in 200 iterations" in caplog.text


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_columns_are_selected_as_scikit_learn_selects_them(task):
    x, targets, new, f, model = {
        "classes": (X, LABELS, NEW, f_classif, LogisticRegression()),
        "numbers": (
            DIABETES["train"]["features"],
            DIABETES["train"]["target"],
            DIABETES["validation"]["features"],
            f_regression,
            Ridge(),
        ),
    }[task]
    pipeline = make_pipeline(StandardScaler(), SelectKBest(f, k=4)).fit(x, targets)
    assert_equals(make("filter", 4, x, targets)(new), pipeline, new)
    pipeline = make_pipeline(StandardScaler(), RFE(model, n_features_to_select=4)).fit(x, targets)
    assert_equals(make("wrapper", 4, x, targets)(new), pipeline, new)
    for name in ("filter", "wrapper"):
        assert_equals(make(name, 0, x, targets)(new), StandardScaler().fit(x), new)


def columns_of(selected, standardized):
    """Which columns they are."""
    equal = np.isclose(selected[:, :, None], standardized[:, None], atol=1e-4).all(0)
    assert (equal.sum(1) == 1).all()
    return equal.argmax(1).tolist()


def test_an_l1_penalty_selects_the_columns_that_are_not_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype(np.float32)
    score = 2 * x[:, 3] - 2 * x[:, 7] + rng.normal(size=300)
    for targets in (np.digitize(score, [-1, 1]).astype(np.int32), score.astype(np.float32)):
        columns = columns_of(make("embedded", 2, x, targets)(x), StandardScaler().fit_transform(x))
        assert columns == [3, 7]
    # All with a coefficient, of the lasso by its path.
    x, targets = DIABETES["train"]["features"], DIABETES["train"]["target"]
    z, t = StandardScaler().fit_transform(x), targets - targets.mean()
    ours = columns_of(make("embedded", 0, x, targets)(x), z)
    coefficients = lasso_path(z, t, alphas=[0.01 * t.std()])[1]
    assert ours == np.flatnonzero(coefficients[:, 0]).tolist() and 0 < len(ours) < 10
    strong = [i for i in np.argsort(-np.abs(coefficients[:, 0]))[:3]]
    assert columns_of(make("embedded", 3, x, targets)(x), z) == sorted(strong)


IMAGES = np.random.default_rng(1).integers(0, 256, (40, 3, 4, 1), np.uint8)
IMAGES[:, 0, :2] = [[0], [7]]  # constant pixels


@pytest.mark.parametrize("name", ["raw", "standardized", *COMPONENTS, *SELECTIONS])
def test_images_are_flattened_and_constant_pixels_are_nothing(name):
    labels = (IMAGES[:, 2, 1, 0] > 99).astype(np.int32)
    fitted = make(name, 3, IMAGES, labels)
    columns = fitted(IMAGES)
    assert columns.shape == (40, 12 if name in PLAIN else 3) and columns.dtype == np.float32
    if name == "raw":
        np.testing.assert_array_equal(columns, IMAGES.reshape(40, 12))
        return
    deviations = [0, 0, *[1] * 10] if name == "standardized" else 1
    np.testing.assert_allclose(np.mean(columns, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(columns, 0), deviations, rtol=1e-4)
    # What was constant in training says nothing later.
    later = IMAGES.copy()
    later[:, 0, :2] = 200
    np.testing.assert_array_equal(fitted(later), columns)


@pytest.mark.parametrize(
    "name, count, targets, says",
    [
        ("lda", 0, LABELS, "unknown features 'lda': choose one of raw, standardized, kernel, pol"),
        ("pca", 14, LABELS, "14 pca features of 13 columns: choose from 1 to all of them"),
        ("filter", -1, LABELS, "-1 filter features of 13 columns"),
        *(
            (name, 2, targets, f"{name} features are selected by labels or targets that differ")
            for name in SELECTIONS
            for targets in (None, LABELS * 0)
        ),
    ],
)
def test_features_that_cannot_be_are_refused(name, count, targets, says):
    with pytest.raises(ValueError, match=says) as error:
        make_features(name, X, targets, count)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, most", [("pca", 10), ("ica", 8)])
def test_more_components_than_there_are_are_refused(name, most):
    """Of 40 examples that vary in 10 directions: independent ones take five examples each."""
    says = f"11 components: 40 such training examples have {most}"
    with pytest.raises(ValueError, match=says):
        make_features(name, IMAGES, None, 11)
    assert make(name, x=IMAGES)(IMAGES).shape == (40, most)


def test_an_l1_penalty_may_select_nothing():
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    with pytest.raises(ValueError, match="every coefficient is 0"):
        make_features("embedded", x, x[:, 0] * x[:, 1])
