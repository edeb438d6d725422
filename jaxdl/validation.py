"""Criteria to choose between adapted networks without target labels.

Settings of an adaptation cannot be chosen by accuracy on the target domain, whose labels nobody
has. Each criterion here replaces it by a computable number: the neighbourhoods of target
predictions, errors on the source domain weighted for the target, and reverse validation. Each rests
on an assumption and misleads where that fails, so look at more than one. All functions are pure and
independent of the training.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxdl.nn.metrics import domain_accuracy
from jaxdl.types import AnyArray

MOST = 30.0
"""The largest logit of a domain classifier that is believed: odds of 1e13, more than data tell."""

Classify = Callable[[Shaped[np.ndarray, "n ..."]], Int[np.ndarray, " n"]]
"""A function from images to labels."""

Fit = Callable[
    [Shaped[np.ndarray, "n ..."], Int[np.ndarray, " n"], Shaped[np.ndarray, "m ..."]], Classify
]
"""A function from labelled images, their labels, and images of the other domain, to a classifier
for these."""


# What the predictions for the target domain say by themselves.


def soft_neighbourhood_density(
    logits: Float[AnyArray, "n k"], temperature: float = 0.05
) -> Float[Array, ""]:
    """``mean_i H(q_i)``, ``q_ij = softmax_j(u_i . u_j / temperature)`` over ``j != i``; the higher
    the better.

    ``u = p / |p|`` are the predicted probabilities of a target example, ``p = softmax(logits)``,
    made unit vectors. Where a network has kept its classes apart, each example has many neighbours
    that are all alike and the entropy, in nats, is that of a choice among as many, at most
    ``log(n - 1)``. (Saito, Kim, Teterwak, Sclaroff, Darrell & Saenko, "Tune it the Right Way:
    Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density", ICCV 2021.)

    It fails where the predictions collapse: a network that gives one answer to everything has the
    highest density of all, and so has one that is sure of nothing (look at the share of each class
    among the predictions); and clusters need not be the classes. It grows with ``n``, so compare
    networks on the same examples, some thousands: memory grows with ``n^2``, and 10,000 examples
    take 400 MB an array.

    Raises:
      ValueError: for fewer than 2 examples.
    """
    n = len(logits)
    if n < 2:
        raise ValueError(f"neighbourhoods need 2 examples or more, got {n}")
    probabilities = jax.nn.softmax(logits)
    unit = probabilities / jnp.linalg.norm(probabilities, axis=-1, keepdims=True)
    similarities = jnp.matmul(unit, unit.T, precision="highest") / temperature
    diagonal = jnp.eye(n, dtype=bool)
    log_q = jax.nn.log_softmax(jnp.where(diagonal, -jnp.inf, similarities))
    log_q = jnp.where(diagonal, 0.0, log_q)
    return -jnp.sum(jnp.where(diagonal, 0.0, jnp.exp(log_q)) * log_q) / n


# What the errors on labelled source examples say of the target domain, under covariate shift: the
# domains differ in p(x), not in p(y | x), and where there are target examples there are source
# examples too. All means below are over source examples that no network was trained on.


def importance_weights(domain_logits: Float[AnyArray, " *n"]) -> Float[Array, " *n"]:
    """``p_target(x) / p_source(x) = exp(-logit)`` of source examples.

    By Bayes' rule, from the logit of "this is a source image" of a classifier that was trained on
    equal numbers of both domains (Bickel, Brückner & Scheffer, ICML 2007); for ``n_s`` source
    and ``n_t`` target images multiply by ``n_s / n_t``. Logits are clipped to ±30.

    The classifier must tell the domains as well as it can and be calibrated on examples it has not
    seen. The domain head of an adversarially trained network is neither; train a new one on the
    features. They are only as good as that classifier: overconfident, it gives all weight to a few
    examples (:func:`effective_sample_size`); too weak, it gives them all the same.
    """
    return jnp.exp(-jnp.clip(domain_logits, -MOST, MOST))


def fitted_importance_weights(
    source: Float[np.ndarray, "n d"], target: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, " k"], slice]:
    """:func:`importance_weights` of the second half of the source's features, and which these are.

    The classifier is a logistic regression of its own, fitted to the first halves of both domains,
    each domain of equal weight: features that were trained to deceive an adversary are not judged
    by that adversary.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n, m = len(source) // 2, len(target) // 2
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    )
    classifier.fit(np.concatenate([source[:n], target[:m]]), np.repeat([1, 0], [n, m]))
    rest = slice(n, None)
    return np.asarray(importance_weights(classifier.decision_function(source[rest]))), rest


def effective_sample_size(weights: Float[AnyArray, " n"]) -> Float[Array, ""]:
    """``(sum w)^2 / sum w^2``: how many examples of equal weight a weighted mean is worth.

    From 1, when one example has all the weight, to ``n`` (Kish, "Survey Sampling", 1965; Kong, Liu
    & Wong, JASA 1994). An accuracy ``a`` by importance weights has a standard error of about
    ``sqrt(a (1 - a) / size)``: do not trust one from less than some tens of examples. A large size
    is no proof of good weights: target examples unlike any source example do not show in it. NaN
    where all weights are 0.
    """
    weights = weights / jnp.max(weights)  # squares of large weights would overflow
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)


def importance_weighted_accuracy(
    correct: Bool[AnyArray, " n"] | Float[AnyArray, " n"], weights: Float[AnyArray, " n"]
) -> Float[Array, ""]:
    """``sum w correct / sum w``: accuracy on the target domain, from source examples.

    Sugiyama, Krauledat & Müller, "Covariate Shift Adaptation by Importance Weighted Cross
    Validation", JMLR 2007; theirs divides by ``n``, which is unbiased for the true weights. This is
    self-normalised: it stays within 0 and 1, does not ask for the scale of the weights, and its
    bias of the order of ``1 / effective_sample_size`` is smaller than its standard error.

    It fails where the labels of like images differ between the domains, where there are target
    examples unlike any source example, and with bad weights (:func:`importance_weights`).
    NaN where all weights are 0.

    Args:
      correct: whether the network is right (:func:`jaxdl.nn.metrics.correct`), or any loss, for
        source examples on which it was not trained.

    Raises:
      ValueError: if there are no examples, or not one weight for each.
    """
    _check(correct, weights)
    weights = weights / jnp.max(weights)
    return jnp.sum(weights * correct) / jnp.sum(weights)


def unlabelled_criteria(
    source: Mapping[str, Float[np.ndarray, "n ..."]],
    target: Mapping[str, Float[np.ndarray, "m ..."]],
    labels: Int[np.ndarray, " n"],
    *,
    adversarial: bool = False,
) -> dict[str, float]:
    """Criteria of a network that need no target labels, by name.

    ``top_share``: the part of the target examples for which the most frequent class is predicted;
    ``source_share``: the part of the source examples that have their most frequent class;
    ``neighbourhood_density``: :func:`soft_neighbourhood_density` of the target's logits;
    ``importance_weighted_accuracy`` on the second half of the source examples, by
    :func:`fitted_importance_weights`, and the ``effective_samples`` of the weights. Of a network
    with a domain classifier also its ``domain_accuracy``, :func:`jaxdl.nn.metrics.domain_accuracy`.

    Args:
      source, target: "features" and "logits" of held-out examples, and of a domain classifier the
        "domain" logits.
      labels: labels of the source examples.
      adversarial: whether there is a domain classifier that was trained.
    """
    weights, rest = fitted_importance_weights(source["features"], target["features"])
    hits = (source["logits"].argmax(-1) == labels)[rest]
    predictions = target["logits"].argmax(-1)
    domains: dict[str, float] = {}
    if adversarial:
        domains["domain_accuracy"] = float(domain_accuracy(source["domain"], target["domain"]))
    return domains | {
        "top_share": float(np.bincount(predictions).max() / len(predictions)),
        "source_share": float(np.bincount(labels).max() / len(labels)),
        "neighbourhood_density": float(soft_neighbourhood_density(target["logits"])),
        "importance_weighted_accuracy": float(importance_weighted_accuracy(hits, weights)),
        "effective_samples": float(effective_sample_size(weights)),
    }


def deep_embedded_validation(
    correct: Bool[AnyArray, " n"] | Float[AnyArray, " n"], weights: Float[AnyArray, " n"]
) -> Float[Array, ""]:
    """``mean(w correct) + eta (mean(w) - 1)``, ``eta = -Cov(w correct, w) / Var(w)``.

    The importance-weighted mean with the weights as control variate, for their true mean is known
    to be 1: of all ``eta`` this one has the least variance. (You, Wang, Long & Jordan, "Towards
    Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML 2019.) The paper puts in
    the errors and gets a risk, lower is better; ``1 - correct`` gives exactly 1 minus the value
    for ``correct``. Where all weights are equal, but for rounding, ``eta = 0``.

    Unlike :func:`importance_weighted_accuracy` it can leave 0 … 1, and it does when the mean of the
    weights is far from 1 for the number of examples: then the weights are wrong in scale, and it
    extrapolates a straight line. It fails too wherever that one fails.

    Args:
      correct: whether the network is right, or any loss, for source examples on which it was not
        trained.

    Raises:
      ValueError: if there are no examples, or not one weight for each.
    """
    _check(correct, weights)
    weighted, mean = weights * correct, jnp.mean(weights)
    largest = jnp.max(jnp.abs(weights))
    # eta does not depend on the unit of the weights. Seen from the first of them, equal ones are at
    # a distance of exactly 0; their own mean is rounded, and would leave a variance to divide by.
    unit = weights / largest
    offsets = unit - unit[0]
    deviation = offsets - jnp.mean(offsets)
    variance = jnp.mean(deviation**2)
    covariance = jnp.mean(deviation * (unit * correct - jnp.mean(unit * correct)))
    differ = variance > (4 * jnp.finfo(unit.dtype).eps) ** 2
    eta = jnp.where(differ, -covariance / jnp.where(differ, variance, 1.0), 0.0)
    return jnp.mean(weighted) + eta * (mean - 1)


def _check(correct: AnyArray, weights: AnyArray) -> None:
    if jnp.shape(correct) != jnp.shape(weights) or jnp.ndim(weights) != 1 or len(weights) == 0:
        raise ValueError(
            f"one weight for each example, please: shapes {jnp.shape(correct)} and "
            f"{jnp.shape(weights)}"
        )


# Whether the way back leads home.


def reverse_validation(
    fit: Fit,
    target: Shaped[np.ndarray, "m ..."],
    predicted: Int[np.ndarray, " m"],
    source: Shaped[np.ndarray, "n ..."],
    held_out: Shaped[np.ndarray, "v ..."],
    labels: Int[np.ndarray, " v"],
) -> float:
    """The accuracy on ``source`` of a classifier that learned from predictions for ``target``.

    A network adapted from source to target has labelled the target images. With these labels the
    same method adapts a network the other way, from target to source, and on source images the
    true labels are known::

        predicted = forward(target)                      # the network to be judged
        reverse = fit(target, predicted, source)         # the same method, domains exchanged
        accuracy = mean(reverse(held_out) == labels)

    (Zhong, Fan, Yang, Verscheure & Ren, "Cross Validation Framework to Choose amongst Models and
    Datasets for Transfer Learning", ECML PKDD 2010; for neural networks Ganin et al.,
    "Domain-Adversarial Training of Neural Networks", JMLR 2016, section 5.1.2, who report the
    risk, 1 minus this, hold out a tenth of both domains, and find it better to start the reverse
    network from the forward one: let ``fit`` do so.)

    It fails where two wrongs make a right: an adaptation that exchanges two classes may exchange
    them back. Where the reverse direction is much harder, the criterion measures mostly that one.

    Args:
      fit: ``fit(images, labels, unlabelled) -> predict``, with ``predict(images)`` the labels
        of images of the domain of ``unlabelled``. Any randomness is its own.
      target, predicted: target images and the forward network's labels for them. Where that
        network gives one answer to everything, ``fit`` sees one class.
      source: source images without their labels, those the forward network was trained on.
      held_out, labels: source images that neither network has seen, and their true labels.

    Raises:
      ValueError: if images and labels differ in number, nothing is held out, or ``predict`` does
        not give one label an image.
    """
    if len(target) != len(predicted) or len(held_out) != len(labels):
        raise ValueError(
            f"one label for each image, please: {len(predicted)} for {len(target)} target images, "
            f"{len(labels)} for {len(held_out)} held out"
        )
    if len(held_out) == 0:
        raise ValueError("no source images are held out: there is nothing to judge by")
    answers = np.asarray(fit(target, predicted, source)(held_out))
    if answers.shape != np.shape(labels):
        raise ValueError(f"{answers.shape} labels predicted for {np.shape(labels)} held-out images")
    return float(np.mean(answers == np.asarray(labels)))
