"""Criteria without target labels: worked by hand, and in worlds whose truth is known."""

import math

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from jaxdl import validation as va

SEEDS = st.integers(0, 2**32 - 1)

# Each compiled as one function: operation by operation takes much longer.
neighbourhood_density = jax.jit(va.soft_neighbourhood_density, static_argnames="temperature")
importance_weights = jax.jit(va.importance_weights)
effective_sample_size = jax.jit(va.effective_sample_size)
weighted_accuracy = jax.jit(va.importance_weighted_accuracy)
embedded_validation = jax.jit(va.deep_embedded_validation)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# Soft neighbourhood density.


def density(logits, temperature):
    """Example by example, the neighbours laid out without the example itself."""
    p = scipy.special.softmax(logits, -1)
    unit = p / np.linalg.norm(p, axis=-1, keepdims=True)
    entropies = []
    for i, u in enumerate(unit):
        others = np.delete(unit, i, 0)
        entropies.append(scipy.stats.entropy(scipy.special.softmax(others @ u / temperature)))
    return np.mean(entropies)


@settings(max_examples=20)
@given(seed=SEEDS, temperature=st.sampled_from([0.03, 0.2, 0.8, 2.0]), spread=st.floats(0, 10))
def test_density_is_the_formula(seed, temperature, spread):
    logits = spread * normal(seed, 9, 4)
    value = float(neighbourhood_density(logits, temperature))
    assert value == pytest.approx(density(logits, temperature), abs=1e-4)
    assert -1e-6 < value < math.log(8) + 1e-5


def test_density_by_hand():
    # Two examples of one class and one of another: cosines 1, 0, 0. The third cannot choose.
    logits = np.array([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4]])
    a, b = (math.exp(s) / (math.exp(1) + 1) for s in (1, 0))
    pair = -a * math.log(a) - b * math.log(b)
    value = neighbourhood_density(logits, temperature=1.0)
    assert float(value) == pytest.approx((2 * pair + math.log(2)) / 3, rel=1e-5)
    # With the paper's temperature the pair sees only each other.
    assert float(neighbourhood_density(logits)) == pytest.approx(math.log(2) / 3, abs=1e-5)


def test_density_is_higher_for_clusters_than_for_scattered_predictions():
    classes = np.arange(200) % 10
    clustered = 8 * np.eye(10)[classes] + 0.5 * normal(0, 200, 10)
    scattered = 2 * normal(1, 200, 10)
    values = [neighbourhood_density(x) for x in (clustered, scattered)]
    assert values[0] > values[1] + 0.5
    # Each of the twenty of a class sees the nineteen others.
    assert float(values[0]) == pytest.approx(math.log(19), abs=0.1)


@pytest.mark.parametrize("logits", [np.zeros((6, 3)), np.eye(3)[[1] * 6] * 1e4])
def test_density_of_collapsed_predictions_is_the_highest(logits):
    value = neighbourhood_density(logits)
    assert float(value) == pytest.approx(math.log(5), rel=1e-5)


def test_density_does_not_depend_on_order():
    logits = 2 * normal(3, 12, 5)
    value = neighbourhood_density(logits)
    for same in (logits[::-1], logits[:, ::-1], logits + 7):
        np.testing.assert_allclose(neighbourhood_density(same), value, rtol=1e-4)
    many = jax.jit(jax.vmap(va.soft_neighbourhood_density))(np.stack([logits, 0 * logits]))
    np.testing.assert_allclose(many, [value, math.log(11)], rtol=1e-5)


def test_density_of_few():
    assert neighbourhood_density(np.eye(2)) == 0
    for few in (1, 0):
        with pytest.raises(ValueError, match=f"2 examples or more, got {few}"):
            va.soft_neighbourhood_density(np.zeros((few, 3)))


# Importance weights.


def test_weights_are_the_density_ratio():
    x = np.linspace(-2, 3, 11)
    source, target = scipy.stats.norm(0, 1), scipy.stats.norm(1, 0.8)
    weights = importance_weights(source.logpdf(x) - target.logpdf(x))
    np.testing.assert_allclose(weights, target.pdf(x) / source.pdf(x), rtol=1e-4)
    # The classifier's own probability: p(target | x) / p(source | x).
    p = scipy.special.expit(x)
    np.testing.assert_allclose(importance_weights(x), (1 - p) / p, rtol=1e-4)


def test_weights_and_what_is_made_of_them_are_finite():
    weights = importance_weights(np.array([-1e30, -50.0, 0.0, 1e30, np.inf]))
    assert np.all(np.isfinite(weights)) and np.all(weights > 0)
    correct = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    assert float(effective_sample_size(weights)) == pytest.approx(2, rel=1e-5)
    assert float(weighted_accuracy(correct, weights)) == pytest.approx(0.5)
    assert np.isfinite(embedded_validation(correct, weights))


@settings(max_examples=20)
@given(seed=SEEDS, factor=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_effective_sample_size_is_the_formula_in_any_unit(seed, factor):
    w = np.random.default_rng(seed).exponential(size=7) + 1e-3
    size = float(effective_sample_size((factor * w).astype(np.float32)))
    assert size == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-4)
    assert 1 <= size <= 7.0001


def test_effective_sample_size_at_its_ends():
    assert float(effective_sample_size(np.full(9, 0.3))) == pytest.approx(9)
    assert effective_sample_size(np.array([0.0, 5.0, 0.0])) == 1
    assert np.isnan(effective_sample_size(np.zeros(3)))


def test_weighted_accuracy_by_hand():
    correct, weights = np.array([True, False, True]), np.array([1.0, 2.0, 5.0])
    assert float(weighted_accuracy(correct, weights)) == pytest.approx(6 / 8)
    for factor in (1e-30, 1e30):
        value = weighted_accuracy(correct, factor * weights)
        assert float(value) == pytest.approx(6 / 8)
    assert np.isnan(weighted_accuracy(correct, 0 * weights))


@settings(max_examples=20)
@given(seed=SEEDS)
def test_control_variate_is_the_regression_line_at_a_weight_of_one(seed):
    rng = np.random.default_rng(seed)
    losses, w = rng.exponential(size=12), rng.exponential(size=12)
    value = float(embedded_validation(losses, w))
    assert value == pytest.approx(np.polyval(np.polyfit(w, w * losses, 1), 1.0), abs=1e-4)
    cov, eta_of = np.cov(w * losses, w), lambda cov: -cov[0, 1] / cov[1, 1]
    assert value == pytest.approx(
        np.mean(w * losses) + eta_of(cov) * np.mean(w) - eta_of(cov), abs=1e-4
    )


def test_control_variate_turns_errors_into_accuracies():
    rng = np.random.default_rng(0)
    correct, w = rng.random(40) < 0.7, rng.exponential(size=40)
    accuracy, risk = (embedded_validation(c, w) for c in (correct, 1.0 - correct))
    assert float(accuracy) == pytest.approx(1 - float(risk), abs=1e-5)
    equal = embedded_validation(correct, np.ones(40))
    assert float(equal) == pytest.approx(float(np.mean(correct)))


@settings(max_examples=20)
@given(
    seed=SEEDS,
    weight=st.sampled_from([0.3, 0.7, 3.3, 1e-6, 1e6]),
    n=st.sampled_from([1, 2, 37, 3000]),
)
def test_equal_weights_leave_nothing_to_control(seed, weight, n):
    correct = np.random.default_rng(seed).random(n) < 0.7
    equal = np.full(n, weight, np.float32)
    rounded = np.where(np.arange(n) % 3, equal, np.nextafter(equal, np.float32(0)))
    for weights in (equal, rounded):
        value = embedded_validation(correct, weights)
        assert float(value) == pytest.approx(weight * np.mean(correct), rel=1e-4)


@pytest.mark.parametrize("f", [va.importance_weighted_accuracy, va.deep_embedded_validation])
@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 1), (3,)), ((0,), (0,)), ((2, 2), (2, 2))])
@pytest.mark.usefixtures("types_unchecked")
def test_one_weight_for_each_example(f, shapes):
    with pytest.raises(ValueError, match="one weight for each example"):
        f(*map(np.ones, shapes))


# A world of covariate shift: x is N(0, 1) in the source domain, N(1, 1) in the target domain; a
# network is right with probability sigmoid(2 x), so it does better on the target.


def is_right(x):
    return scipy.special.expit(2 * x)


def truth(mean):
    return scipy.integrate.quad(lambda x: is_right(x) * scipy.stats.norm.pdf(x, mean), -9, 11)[0]


def shifted_world(seed, *shape):
    """Whether the network is right about source examples, and the logits of their domain."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    logits = scipy.stats.norm.logpdf(x, 0) - scipy.stats.norm.logpdf(x, 1)
    return rng.random(shape) < is_right(x), logits


def test_weighting_finds_the_target_accuracy():
    correct, logits = shifted_world(0, 100_000)
    weights = importance_weights(logits)
    assert abs(truth(1) - truth(0)) > 0.25
    assert float(np.mean(correct)) == pytest.approx(truth(0), abs=0.01)
    # E[w^2] = e for these two Gaussians.
    size = float(effective_sample_size(weights))
    assert size == pytest.approx(100_000 / math.e, rel=0.1)
    error = math.sqrt(truth(1) * (1 - truth(1)) / size)
    value = weighted_accuracy(correct, weights)
    assert float(value) == pytest.approx(truth(1), abs=4 * error)
    assert float(embedded_validation(correct, weights)) == pytest.approx(truth(1), abs=4 * error)


def test_both_forms_are_nearly_unbiased_and_vary_less_than_the_plain_mean():
    correct, logits = shifted_world(1, 2000, 200)
    weights = importance_weights(logits)
    plain = np.mean(correct * weights, -1)
    for f in (va.importance_weighted_accuracy, va.deep_embedded_validation):
        values = np.asarray(jax.jit(jax.vmap(f))(correct, weights))
        assert values.mean() == pytest.approx(truth(1), abs=0.01)
        assert values.std() < 0.6 * plain.std()


def test_weights_may_come_from_a_trained_classifier():
    x_source, x_target = normal(2, 4000, 1), normal(3, 4000, 1) + 1
    domain = LogisticRegression().fit(np.concatenate([x_source, x_target]), np.repeat([1, 0], 4000))
    held_out = normal(4, 20_000, 1)
    right = np.random.default_rng(5).random(20_000) < is_right(held_out[:, 0])
    weights = importance_weights(domain.decision_function(held_out))
    value = weighted_accuracy(right, weights)
    assert float(value) == pytest.approx(truth(1), abs=0.03)


# Reverse validation: two domains of two blobs, the target's moved to the right by 3.


def blobs(seed, n, shift):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return rng.normal(size=(n, 2)) + np.stack([4.0 * labels - 2 + shift, 0 * labels], -1), labels


SOURCE, SOURCE_LABELS = blobs(0, 400, 0)
TARGET, TARGET_LABELS = blobs(1, 400, 3)
HELD_OUT = blobs(2, 400, 0)


def fit_source_only(images, labels, unlabelled):
    return LogisticRegression().fit(images, labels).predict


def fit_aligned(images, labels, unlabelled):
    """Adapted by its means: each domain is seen from its own."""
    model = LogisticRegression().fit(images - images.mean(0), labels)
    return lambda other: model.predict(other - unlabelled.mean(0))


def fit_mirrored(images, labels, unlabelled):
    """Matches each class to the other one."""
    model = LogisticRegression().fit(images - images.mean(0), labels)
    return lambda other: model.predict(unlabelled.mean(0) - other)


def judge(fit, predicted):
    return va.reverse_validation(fit, TARGET, predicted, SOURCE, *HELD_OUT)


def test_reverse_validation_orders_networks_as_their_target_accuracy():
    adapted, source_only = (
        fit(SOURCE, SOURCE_LABELS, TARGET)(TARGET) for fit in (fit_aligned, fit_source_only)
    )
    candidates = [adapted, source_only, 1 - adapted]
    accuracies = [np.mean(predicted == TARGET_LABELS) for predicted in candidates]
    criteria = [judge(fit_aligned, predicted) for predicted in candidates]
    assert accuracies[0] > accuracies[1] + 0.2 > accuracies[2] + 0.4
    assert criteria[0] > criteria[1] + 0.1 > criteria[2] + 0.2
    assert criteria[0] > 0.93
    assert criteria[2] < 0.07
    assert judge(fit_aligned, TARGET_LABELS) > 0.93


def test_reverse_validation_does_not_see_an_exchange_that_is_exchanged_back():
    predicted = fit_mirrored(SOURCE, SOURCE_LABELS, TARGET)(TARGET)
    assert np.mean(predicted == TARGET_LABELS) < 0.07
    assert judge(fit_mirrored, predicted) > 0.93


def test_reverse_validation_hands_over_what_it_says():
    seen = []

    def fit(*arguments):
        seen.extend(arguments)
        return lambda images: seen.append(images) or [0, 1, 1]

    target, source, held_out = np.zeros((2, 1)), np.zeros((5, 1)), np.zeros((3, 1))
    predicted = np.asarray([1, 0])
    value = va.reverse_validation(fit, target, predicted, source, held_out, np.array([0, 1, 0]))
    assert value == 2 / 3
    assert isinstance(value, float)
    for a, b in zip(seen, (target, predicted, source, held_out), strict=True):
        assert a is b


@pytest.mark.usefixtures("types_unchecked")
def test_reverse_validation_refuses_what_does_not_fit():
    images, labels = np.zeros((3, 1)), np.zeros(3, int)

    def check(match, predicted=labels, held_out=images, truth=labels, answer=labels):
        with pytest.raises(ValueError, match=match):
            va.reverse_validation(
                lambda *_: lambda _: answer, images, predicted, images, held_out, truth
            )

    check("2 for 3 target images, 3 for 3 held out", predicted=labels[:2])
    check("3 for 3 target images, 1 for 3 held out", truth=labels[:1])
    check("nothing to judge by", held_out=images[:0], truth=labels[:0])
    check(r"\(3, 1\) labels predicted for \(3,\)", answer=images)
