"""Losses: one number an example, whose mean the caller takes; or one for two sets of features."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from jaxdl.types import AnyArray, Scalar

Predict = Callable[[Float[Array, "b ..."]], Float[Array, "b k"]]
"""A function from images to logits."""


def cross_entropy(
    logits: Float[AnyArray, "b k"],
    labels: Integer[AnyArray, " b"] | Float[AnyArray, "b k"],
    *,
    smoothing: Scalar = 0.0,
    class_weights: Float[AnyArray, " k"] | None = None,
) -> Float[Array, " b"]:
    """``-sum_j w_j q_j log softmax(logits)_j``, in nats, with ``q`` all on the label.

    Labels are 0 to k − 1, or soft targets: a distribution over the classes for each example.
    Under `jax.jit`, `jax.vmap` or `jax.grad` with respect to them labels cannot be checked: there
    any other label, also −1 for a missing one, gives NaN.

    Args:
      smoothing: ``s``: ``q`` becomes ``(1 - s) q + s / k`` (Szegedy et al. 2016). May be traced.
      class_weights: ``w``, by default 1. The mean over examples is not divided by their weights.

    Raises:
      ValueError: for labels out of range, where they are concrete.
    """
    logits = _float32(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        _check_labels(labels, logits.shape[-1])
        if class_weights is None and isinstance(smoothing, int | float) and not smoothing:
            # A negative one would count from the end.
            labels = jnp.where(labels < 0, logits.shape[-1], labels)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
        outside = (labels < 0) | (labels >= logits.shape[-1])
        labels = jnp.where(outside[:, None], jnp.nan, jnp.where(is_label, jnp.ones_like(logits), 0))
    targets = (1 - smoothing) * labels + smoothing / logits.shape[-1]
    if class_weights is not None:
        targets = targets * class_weights[None]
    return -jnp.sum(targets * jax.nn.log_softmax(logits), -1)


def distillation(
    logits: Float[AnyArray, "b k"], teacher_logits: Float[AnyArray, "b k"], temperature: Scalar
) -> Float[Array, " b"]:
    """``T² H(softmax(teacher / T), softmax(logits / T))``, with the :func:`cross_entropy` H.

    A student learns from a teacher's probabilities, which say more of an image than its label does:
    what else it might be; a high temperature ``T`` brings the small ones out. Beside labels it is
    one term of two, ``w distillation + (1 - w) cross_entropy``, with ``w`` near 1. The gradient of
    H falls as ``1 / T²``; with the factor a ``w`` means the same at any T. As T grows the gradient
    becomes ``(z - v) / k``, of the logits z and v of both less their means: that of matching logits
    by ``|z - v|² / (2 k)``. (Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural
    Network", NIPS 2014 workshop, arXiv:1503.02531.) No gradient goes to the teacher.

    Args:
      temperature: ``T``, above 0. May be traced.
    """
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(_float32(teacher_logits)) / temperature)
    return cross_entropy(_float32(logits) / temperature, probabilities) * temperature**2


def binary_cross_entropy(
    logits: Float[AnyArray, " *b"], labels: Integer[AnyArray, " *b"] | Float[AnyArray, " *b"]
) -> Float[Array, " *b"]:
    """``-y log sigmoid(logit) - (1 - y) log sigmoid(-logit)``, in nats, with labels 0 … 1."""
    return optax.sigmoid_binary_cross_entropy(_float32(logits), labels.astype(jnp.float32))


def squared_error(
    predictions: Float[AnyArray, " b *d"], targets: Float[AnyArray, " b *d"]
) -> Float[Array, " b"]:
    """``sum_d (y - t)²``, over all outputs of an example.

    Raises:
      ValueError: for two shapes, which would be broadcast against each other.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions are {list(predictions.shape)}, targets {list(targets.shape)}: give both "
            "the same shape"
        )
    return jnp.sum((_float32(predictions) - targets) ** 2, axis=tuple(range(1, targets.ndim)))


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """``|x_i - y_j|^2``, by a product of matrices; rounding leaves none below 0."""
    # Relative to the first example: equal examples are at a distance of exactly 0, and far from the
    # origin nothing is lost.
    origin = jax.lax.stop_gradient(x[:1])
    x, y = x - origin, y - origin
    products = jnp.matmul(x, y.T, precision="highest")
    return jnp.maximum(jnp.sum(x * x, -1)[:, None] + jnp.sum(y * y, -1)[None, :] - 2 * products, 0)


def maximum_mean_discrepancy(
    source: Float[Array, "n d"],
    target: Float[Array, "m d"],
    widths: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> Float[Array, ""]:
    """``mean k(s, s') + mean k(t, t') - 2 mean k(s, t)``, not below 0 but for rounding.

    ``k(x, y)`` is the mean of Gaussian kernels ``exp(-|x - y|^2 / (w D))``, where ``D`` is the
    mean squared distance between all pairs of different examples of both domains (no gradient
    comes through it). The means are over all pairs, an example with itself among them: the
    squared distance between the two mean embeddings, biased upwards by the order of 1/n.
    (Gretton et al., "A Kernel Two-Sample Test", JMLR 2012; with several kernels as a loss: Long,
    Cao, Wang & Jordan, "Learning Transferable Features with Deep Adaptation Networks", ICML 2015.)

    Args:
      widths: ``w``, one a kernel.
    """
    n, examples = len(source), jnp.concatenate([source, target])
    distances = squared_distances(examples, examples)
    distances = jnp.where(jnp.eye(len(examples), dtype=bool), 0.0, distances)
    pairs = len(examples) * (len(examples) - 1)
    scale = jax.lax.stop_gradient(jnp.sum(distances) / pairs)
    scale = jnp.where(scale > 0, scale, 1.0)  # where all are equal, any width gives 0
    kernels = [jnp.exp(-distances / (width * scale)) for width in widths]
    kernel = functools.reduce(jnp.add, kernels) / len(widths)
    return jnp.mean(kernel[:n, :n]) + jnp.mean(kernel[n:, n:]) - 2 * jnp.mean(kernel[:n, n:])


def correlation_alignment(
    source: Float[Array, "n d"], target: Float[Array, "m d"]
) -> Float[Array, ""]:
    """``|C_s - C_t|_F^2 / (4 d^2)``, ``C`` the covariances with ``1 / (n - 1)``.

    Sun & Saenko, "Deep CORAL", ECCV 2016 workshops. NaN for a batch of one.
    """

    def covariance(x: Array) -> Array:
        x = x - jnp.mean(x, 0, keepdims=True)
        return jnp.matmul(x.T, x, precision="highest") / (len(x) - 1)

    difference = covariance(source) - covariance(target)
    return jnp.sum(difference**2) / (4 * source.shape[-1] ** 2)


def entropy(logits: Float[Array, "b k"]) -> Float[Array, " b"]:
    """``-sum_j p_j log p_j`` of ``p = softmax(logits)``, in nats.

    As a loss on target images: Grandvalet & Bengio, "Semi-supervised Learning by Entropy
    Minimization", NIPS 2004.
    """
    return -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), -1)


def kl_divergence(logits: Float[Array, "b k"], other: Float[Array, "b k"]) -> Float[Array, " b"]:
    """``sum_j p_j (log p_j - log q_j)`` of ``p = softmax(logits)``, ``q = softmax(other)``."""
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(p) * (p - q), -1)


def virtual_adversarial_perturbation(
    predict: Predict,
    x: Float[Array, "b ..."],
    key: PRNGKeyArray,
    *,
    radius: Scalar,
    probe: float = 1e-1,
    iterations: int = 1,
) -> Float[Array, "b ..."]:
    """The change of 2-norm ``radius`` that changes the predictions for ``x`` most.

    For each example the dominant eigenvector of the Hessian of ``r -> KL(p(x) || p(x + r))`` at 0,
    by power iteration from a random direction, each iteration one gradient at distance ``probe``
    (Miyato, Maeda, Koyama & Ishii, "Virtual Adversarial Training", PAMI 2019, algorithm 1). No
    gradient comes through it.

    Args:
      predict: logits, without anything random in it that differs between two calls, and treating
        each example alone.
      radius: in the units of ``x``. Where the predictions do not depend on ``x``, the result is
        a random direction or 0.
    """

    def unit(d: Array) -> Array:
        flat = d.reshape(len(d), -1)
        # Its largest entry first: squares of small gradients would vanish.
        flat = flat / jnp.maximum(jnp.max(jnp.abs(flat), -1, keepdims=True), 1e-30)
        norm = jnp.linalg.norm(flat, axis=-1, keepdims=True)
        return (flat / jnp.maximum(norm, 1e-30)).reshape(d.shape)

    logits = jax.lax.stop_gradient(predict(x))

    def divergence(r: Array) -> Array:
        return jnp.sum(kl_divergence(logits, predict(x + r)))

    direction = unit(jax.random.normal(key, x.shape, x.dtype))
    for _ in range(iterations):
        direction = unit(jax.grad(divergence)(probe * direction))
    return jax.lax.stop_gradient(direction * radius)


def virtual_adversarial_loss(
    predict: Predict, x: Float[Array, "b ..."], key: PRNGKeyArray, **options
) -> Float[Array, " b"]:
    """``KL(p(x) || p(x + r))``, ``r`` of :func:`virtual_adversarial_perturbation` (its options).

    ``p(x)`` is taken as given. With the domain-adversarial loss, the entropy of target images, and
    this on both domains it makes VADA (Shu, Bui, Narui & Ermon, "A DIRT-T Approach to Unsupervised
    Domain Adaptation", ICLR 2018); on target images alone, beside ``KL`` from the network as it
    was before, DIRT-T.
    """
    perturbation = virtual_adversarial_perturbation(predict, x, key, **options)
    return kl_divergence(jax.lax.stop_gradient(predict(x)), predict(x + perturbation))


def _float32(x: Float[AnyArray, " ..."]) -> Float[Array, " ..."]:
    """An array in float32 where its precision is less."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _check_labels(labels: Integer[AnyArray, " b"], classes: int) -> None:
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    invalid = np.flatnonzero((values < 0) | (values >= classes))
    if len(invalid):
        raise ValueError(
            f"label {values[invalid[0]]} of example {invalid[0]} is out of range: {classes} logits "
            f"need labels 0 to {classes - 1} ({len(invalid)} of {len(values)} labels are not)"
        )
