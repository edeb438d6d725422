"""Made-up tables against what is said of them; scikit-learn's own ones are in test_sources."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from jaxdl.data import tables
from jaxdl.data.features import kernel, polar
from jaxdl.data.sources import TRUTHS, load
from jaxdl.data.tables import imbalanced_log_odds, interlaced_best, sinusoid_truth

MADE_UP = ["sinusoid", "interlaced", "imbalanced", "latent"]


def splits(source):
    return {**source.splits, "test": source.test.open()}


@pytest.mark.parametrize("name", MADE_UP)
def test_splits_have_their_sizes_and_do_not_depend_on_each_other(name):
    sizes = {"train": 120, "validation": 240, "test": 360}
    source = load(name, **sizes, seed=3)
    assert source.name == name and source.labelled == (name != "sinusoid")
    first, second = splits(source), splits(load(name, **sizes | {"train": 150}, seed=3))
    for split, size in sizes.items():
        assert len(first[split]["features"]) == size
        if "label" in first[split] and name != "imbalanced":
            assert np.ptp(np.bincount(first[split]["label"])) == 0
    np.testing.assert_array_equal(first["test"]["features"], second["test"]["features"])
    assert (first["train"]["features"][:120] != first["validation"]["features"][:120]).any()
    again, other = (load(name, **sizes, seed=seed).fingerprint for seed in (3, 4))
    assert again == source.fingerprint != other


def test_a_sinusoid_is_the_truth_and_noise():
    test = load("sinusoid", noise=0.2, test=4000).test.open()
    x, target = test["features"][:, 0], test["target"]
    assert -1 <= x.min() < -0.99 and 0.99 < x.max() <= 1
    truth = TRUTHS["sinusoid"](x)
    np.testing.assert_allclose(truth, np.sin(2 * np.pi * x), rtol=1e-6)
    noise = target - truth
    assert noise.std() == pytest.approx(0.2, rel=0.05)
    assert abs(np.corrcoef(noise, truth)[0, 1]) < 0.05 and abs(noise.mean()) < 0.02
    silent = load("sinusoid", noise=0.0).splits["train"]
    np.testing.assert_allclose(
        silent["target"], sinusoid_truth(silent["features"][:, 0]), atol=1e-5
    )


@pytest.mark.parametrize(
    "kind, right, wrong", [("rings", kernel, polar), ("spirals", polar, kernel)]
)
def test_interlaced_classes_are_told_apart_by_a_line_in_the_right_features_alone(
    kind, right, wrong
):
    parts = splits(load("interlaced", kind=kind, train=1000, test=10_000))
    accuracy = {}
    for name, features in (("raw", lambda x: x), ("right", right), ("wrong", wrong)):
        x, t = (np.asarray(features(parts[split]["features"])) for split in ("train", "test"))
        model = LogisticRegression(C=100, max_iter=1000).fit(x, parts["train"]["label"])
        accuracy[name] = model.score(t, parts["test"]["label"])
    best = interlaced_best(0.25)
    assert best == pytest.approx(norm.cdf(2))
    assert accuracy["right"] == pytest.approx(best, abs=0.006)  # 4 standard errors
    assert accuracy["raw"] < 0.6 and accuracy["wrong"] < 0.87


def test_the_best_score_of_imbalanced_classes_is_the_ratio_of_their_densities():
    test = load("imbalanced", share=0.01).test.open()
    x, label = test["features"].astype(float), test["label"]
    assert label.sum() == 200 and len(label) == 20_000
    positive = multivariate_normal([1.5, 1.5, 0, 0, 0, 0], np.diag([1, 1, 0.16, 1, 1, 1]))
    negative = multivariate_normal(np.zeros(6))
    odds = positive.logpdf(x) - negative.logpdf(x) + np.log(0.01 / 0.99)
    np.testing.assert_allclose(imbalanced_log_odds(x, 0.01), odds, rtol=1e-6, atol=1e-9)
    # The densities are those that the examples were drawn from.
    for density, rows in ((positive, x[label == 1]), (negative, x[label == 0])):
        error = 6 / np.sqrt(len(rows))
        np.testing.assert_allclose(rows.mean(0), density.mean, atol=error)
        np.testing.assert_allclose(np.cov(rows.T), density.cov, atol=error)
    # Accuracy deceives, and the threshold matters.
    assert np.mean(label == 0) == 0.99
    assert f1_score(label, odds > 0) + 0.05 < max(f1_score(label, odds > t) for t in (-1, -1.5))


def test_principal_components_help_where_classes_vary_most_and_lose_those_that_vary_least():
    accuracy = {}
    for kind, columns in (("wide", 200), ("mixed", 10)):
        parts = splits(load("latent", kind=kind, train=200))
        x, y = parts["train"]["features"], parts["train"]["label"]
        assert x.shape[1] == columns
        linear = LinearDiscriminantAnalysis()
        for name, model in (("all", linear), ("two", make_pipeline(PCA(2), linear))):
            score = model.fit(x, y).score(parts["test"]["features"], parts["test"]["label"])
            accuracy[kind, name] = score
    assert accuracy["wide", "two"] > max(0.9, accuracy["wide", "all"] + 0.05)
    assert accuracy["mixed", "two"] < 0.6 and accuracy["mixed", "all"] > 0.98


def test_latent_directions_are_orthogonal_and_of_the_variance_that_is_said():
    test = load("latent", kind="wide", test=4000).test.open()["features"]
    values = np.linalg.eigvalsh(np.cov(test.T))[::-1]
    np.testing.assert_allclose(values[:2], 1 + 1.5**2 + 3.75**2 / 2, rtol=0.1)
    assert values[2] < 1.5 and values[-1] > 0.6
    test = load("latent", kind="mixed", test=4000).test.open()["features"]
    values = np.linalg.eigvalsh(np.cov(test.T))
    np.testing.assert_allclose(values[1:], 25, rtol=0.15)
    np.testing.assert_allclose(values[0], 1 + 0.35**2, rtol=0.1)


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("sinusoid", {"noise": -0.1}, "noise=-0.1: a deviation"),
        ("interlaced", {"noise": float("nan")}, "noise=nan: a deviation"),
        ("interlaced", {"kind": "moons"}, "kind='moons' is not one of rings, spirals"),
        ("latent", {"kind": "none"}, "kind='none' is not one of wide, mixed"),
        ("latent", {"validation": 0}, "validation=0: ask for 1"),
        ("imbalanced", {"share": 0.0}, "share=0.0 of 20000 examples is 0: both classes"),
        ("imbalanced", {"share": 1.0}, "share=1.0 of 20000 examples is 20000"),
        ("imbalanced", {"test": 40}, "share=0.01 of 40 examples is 0"),
    ],
)
def test_tables_that_cannot_be_are_refused_in_one_line(name, options, says):
    with pytest.raises(ValueError, match=says) as error:
        load(name, **options)
    assert "\n" not in str(error.value)


def test_a_table_of_ones_own(tmp_path):
    """Words are classes, numbers are targets or, where asked for, classes; all rows are there."""
    path = tmp_path / "pets.csv"
    rows = [f"{i},{i % 3}.5,{'cat' if i % 2 else 'dog'}" for i in range(40)]
    path.write_text("\n".join(["age,weight,kind", *rows]) + "\n", encoding="utf-8")
    source = tables.table(str(path))
    assert source.name == "pets" and source.class_names == ("cat", "dog")
    train = source.splits["train"]
    np.testing.assert_array_equal(train["label"], (train["features"][:, 0] + 1) % 2)
    assert len(train["label"]) == 24 and source.test.size == 8
    path.write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20)), encoding="utf-8")
    train = tables.table(str(path)).splits["train"]
    np.testing.assert_array_equal(train["target"], train["features"][:, 0] % 2)
    assert tables.table(str(path), classes=True).class_names == ("0", "1")
    x = tables.table(str(path), answer="x").splits["train"]
    assert x["features"].shape == (12, 1) and set(x["features"][:, 0]) <= {0, 1}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n1\n", {}, r"line 3: 1 of 2 columns"),
        ("a,b\n1,2\n\nx,2\n", {}, r"line 4, column 'a': 'x' is no number, as all but the answer"),
        ("a,b\nnan,2\n", {}, r"line 2, column 'a': 'nan' is no number"),
        ("a,b,c\n1,2,z\n1, ,z\n", {}, r"line 3, column 'b': an empty cell: fill it"),
        ("a,b\n1,2\n1,\n", {}, r"line 3, column 'b': an empty cell"),  # of the answer, too
        ("1.5,2,cat\n2.5,3,dog\n", {}, r"odd\.csv: '1\.5' is a number: the first line is to name"),
        ("a;b\n1,5;2\n", {}, r"odd\.csv: only 1 column, 'a;b': columns are separated by commas"),
        ("a,b\n" + 9 * "1,2\n", {}, r"odd\.csv: 9 rows are too few: it takes 10"),
        ("a,b\n" + 10 * "1,cat\n", {}, r"odd\.csv: every answer in column 'b' is 'cat'"),
        ("a,b\n" + 10 * "1,2\n", {}, r"odd\.csv: every answer in column 'b' is '2'"),
        ("", {}, r"odd\.csv: the file is empty"),
        ("a,b\n1,2\n", {"answer": "c"}, r"there is no column 'c': choose from a, b"),
    ],
)
def test_what_is_no_table_is_refused_by_its_line(text, options, words, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        tables.table(str(path), **options)
