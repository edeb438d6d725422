"""What networks' outputs say, beside scikit-learn and plain loops."""

from typing import NamedTuple

import numpy as np
import pytest
from sklearn import metrics

from jaxdl.report import other_models, predictions
from jaxdl.report.predictions import Prediction


class Network(NamedTuple):
    method: str
    value: str
    seed: int


def classes(seed, n=200, k=3):
    """Logits that are right more often than not."""
    rng = np.random.default_rng(seed)
    answers = np.random.default_rng(0).integers(0, k, n).astype(np.int32)
    return Prediction(rng.normal(size=(n, k)) + 1.2 * np.eye(k)[answers], answers)


def numbers(seed, n=50):
    rng = np.random.default_rng(seed)
    answers = np.random.default_rng(0).normal(size=n)
    return Prediction(answers[:, None] + 0.5 * rng.normal(size=(n, 1)), answers)


def test_scores_and_losses_are_scikit_learns():
    outputs, answers = prediction = classes(1)
    assert predictions.score(prediction) == pytest.approx(
        metrics.accuracy_score(answers, outputs.argmax(1))
    )
    probabilities = predictions.probabilities(outputs)
    assert predictions.loss(prediction) == pytest.approx(metrics.log_loss(answers, probabilities))
    outputs, answers = prediction = numbers(1)
    assert predictions.score(prediction) == pytest.approx(metrics.r2_score(answers, outputs[:, 0]))
    mean_squared = metrics.mean_squared_error(answers, outputs[:, 0])
    assert predictions.loss(prediction) == pytest.approx(mean_squared)


def test_missing_labels_do_not_count_and_what_diverged_has_no_score():
    outputs, answers = classes(1)
    some = np.where(np.arange(len(answers)) < 50, answers, -1)
    assert predictions.score(Prediction(outputs, some)) == pytest.approx(
        predictions.score(Prediction(outputs[:50], answers[:50]))
    )
    assert np.isnan(predictions.score(Prediction(outputs * np.nan, answers)))
    assert np.isnan(predictions.loss(Prediction(outputs * np.nan, answers)))


def test_operating_points_are_scikit_learns_and_the_threshold_is_validations():
    parts = {"validation": classes(2, k=2), "test": classes(3, k=2)}
    point = predictions.operating_point(parts, "test")
    outputs, answers = parts["test"]
    margins = outputs[:, 1] - outputs[:, 0]
    assert point["F1"] == pytest.approx(metrics.f1_score(answers, margins >= 0))
    assert point["recall"] == pytest.approx(metrics.recall_score(answers, margins >= 0))
    assert point["ROC area"] == pytest.approx(metrics.roc_auc_score(answers, margins))
    known = parts["validation"]
    scores = known.outputs[:, 1] - known.outputs[:, 0]
    best = max(scores, key=lambda t: metrics.f1_score(known.answers, scores >= t))
    chosen = metrics.f1_score(answers, margins >= best)
    assert point["F1 at threshold"] == pytest.approx(chosen)


def test_an_ensemble_is_the_mean_of_probabilities_and_the_vote_of_classes():
    parts = [classes(seed) for seed in range(6)]
    networks = {Network("a", "", seed): {"test": part} for seed, part in enumerate(parts)}
    text = predictions.ensembles(networks, "test", 3)
    mean, vote = [], []
    for bag in (parts[:3], parts[3:]):
        total = sum(predictions.probabilities(part.outputs) for part in bag)
        mean.append(np.mean(total.argmax(1) == bag[0].answers))
        votes = np.stack([part.outputs.argmax(1) for part in bag])
        majority = [np.bincount(column, minlength=3).argmax() for column in votes.T]
        vote.append(np.mean(majority == bag[0].answers))
    row = text.splitlines()[2]
    assert f"{100 * np.mean(mean):.1f} ±" in row and f"{100 * np.mean(vote):.1f} ±" in row
    assert "This run " in text and "2 seeds" not in text and "2 bags" in text


def test_squared_error_is_bias_and_variance():
    parts = {seed: {"test": numbers(seed), "train": numbers(seed)} for seed in range(7)}
    x = predictions.decompose(parts, "test")
    outputs = np.stack([part["test"].outputs[:, 0] for part in parts.values()])
    answers = parts[0]["test"].answers
    assert x.test == pytest.approx(np.mean((outputs - answers) ** 2))
    assert x.test == pytest.approx(x.bias + x.variance)
    assert x.variance == pytest.approx(np.mean(np.var(outputs, axis=0, ddof=1)))


@pytest.mark.parametrize(
    ("x", "word"),
    [
        ((0.3, 0.11, 0.1, 0.01), "fits"),
        ((0.9, 1.0, 0.4, 0.6), "under-fits"),
        ((0.0, 1.0, 0.3, 0.7), "over-fits"),
    ],
)
def test_a_diagnosis_follows_its_rule(x, word):
    best = predictions.Decomposition(0.05, 0.1, 0.08, 0.02)
    assert predictions.diagnose(predictions.Decomposition(*x), best) == word


def test_diagnoses_are_of_numbers_from_samples_and_beside_the_best_by_validation():
    def networks(method, spread):
        rng = np.random.default_rng(1)
        answers = np.linspace(-1, 1, 30)
        for seed in range(6):
            part = Prediction(answers[:, None] + spread * rng.normal(size=(30, 1)), answers)
            yield Network(method, "", seed), dict.fromkeys(("train", "validation", "test"), part)

    every = dict([*networks("good", 0.1), *networks("bad", 0.5), *networks("other", 0.2)])
    found = predictions.diagnoses(every, "test", {("good", ""), ("bad", "")})
    assert {p: x.word for p, x in found.items()} == {
        ("good", ""): "fits",
        ("bad", ""): "under-fits",
    }
    own = [p["test"] for n, p in every.items() if n.method == "bad"]
    errors = [metrics.mean_squared_error(p.answers, p.outputs[:, 0]) for p in own]
    error = found["bad", ""].error
    assert (
        error.mean == pytest.approx(np.mean(errors)) == pytest.approx(found["bad", ""].parts.test)
    )
    assert error.se == pytest.approx(np.std(errors, ddof=1) / np.sqrt(6))
    text = predictions.bias_variance(found)
    assert "| under-fits |" in text and "| good" in text
    labels = {Network("a", "", seed): {"test": classes(seed)} for seed in range(2)}
    assert not predictions.diagnoses(labels, "test", {("a", "")})
    assert not predictions.bias_variance({})


def test_cross_validation_is_a_value_a_repetition():
    held_out, tested = [0.5, 0.7, 0.6, 0.8], [0.6, 0.6, 0.6, 0.6]

    def right(share):
        answers = np.zeros(10, np.int32)
        return Prediction(np.eye(2)[(np.arange(10) >= round(10 * share)).astype(int)], answers)

    networks = {
        Network("a", "", seed): {"validation": right(v), "test": right(t)}
        for seed, (v, t) in enumerate(zip(held_out, tested, strict=True))
    }
    text = predictions.cross_validation(networks, "test", {("a", ""): 2})
    assert "2-fold estimate 65.0 ± 5.0 %" in text and "+5.0 ± 5.0 points" in text


def test_least_squares_is_scikit_learns():
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    exact = LinearRegression().fit(x, y).predict(x)
    networks = {Network("a", "", 0): {"test": Prediction(exact[:, None] + 0.25 * y.std(), y)}}
    distance = other_models.least_squares(networks, "test", (x, y), x)
    assert distance["a", ""] == pytest.approx(0.25, rel=1e-4)
