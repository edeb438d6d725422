"""What adapts a network to a domain that has no labels: losses that make two domains look alike.

A source domain has labels, a target domain has none. All functions are pure and know nothing of how
a network is trained; ``source`` and ``target`` are what a network makes of a batch of each domain,
and the batches may differ in size. A domain classifier puts out one logit an example, that of
"this is a source image".
"""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdl.nn.losses import cross_entropy
from jaxdl.types import (
    Batch,
    Collections,
    Hyper,
    LossFn,
    Metrics,
    Params,
    PyTree,
    Scalar,
    Variables,
)

Predict = Callable[[Float[Array, "b ..."]], Float[Array, "b k"]]
"""From images to logits."""


# Schedules. Training has come to the part ``p`` of its steps, 0 to 1.


def reversal_schedule(p: float | Float[Array, " *n"], gamma: float = 10.0) -> Float[Array, " *n"]:
    """``lambda = 2 / (1 + exp(-gamma p)) - 1``, from 0 towards 1 (Ganin & Lempitsky 2015)."""
    return 2 / (1 + jnp.exp(-gamma * p)) - 1


def rate_schedule(
    p: float | Float[Array, " *n"],
    initial: float = 0.01,
    alpha: float = 10.0,
    beta: float = 0.75,
) -> float | Float[Array, " *n"]:
    """The learning rate ``initial / (1 + alpha p)^beta`` (Ganin & Lempitsky 2015)."""
    return initial / (1 + alpha * p) ** beta


# Domain-adversarial training.


@jax.custom_vjp
def reverse_gradient(x: Float[Array, " ..."], scale: Scalar) -> Float[Array, " ..."]:
    """``x`` itself, whose gradient is multiplied by ``-scale`` on its way back.

    What comes after it descends a loss, what comes before it ascends the same loss; with
    ``scale = 0`` nothing comes through. (Ganin & Lempitsky, "Unsupervised Domain Adaptation by
    Backpropagation", ICML 2015.) Differentiable in reverse mode only; ``scale`` gets no gradient.
    """
    del scale
    return x


def _reverse_gradient_forward(x: Array, scale: Scalar) -> tuple[Array, Scalar]:
    return x, scale


def _reverse_gradient_backward(scale: Scalar, g: Array) -> tuple[Array, Array]:
    return (g * -scale).astype(g.dtype), jnp.zeros_like(scale)


reverse_gradient.defvjp(_reverse_gradient_forward, _reverse_gradient_backward)


def domain_adversarial_loss(
    source: Float[Array, " n"],
    target: Float[Array, " m"],
    source_weights: Float[Array, " n"] | None = None,
    target_weights: Float[Array, " m"] | None = None,
) -> Float[Array, ""]:
    """``-(mean log sigmoid(source) + mean log sigmoid(-target)) / 2``, in nats.

    The domain classifier's cross-entropy, with both domains of equal weight whatever the sizes of
    their batches; log 2 = .693 where it knows nothing. The features that it reads have come
    through :func:`reverse_gradient` (DANN), or also been joined with the predictions by
    :func:`condition` (CDAN).

    Args:
      source, target: logits of "this is a source image".
      source_weights, target_weights: of the examples, by default all alike; only their
        proportions count. CDAN+E: :func:`certainty_weights`.
    """
    return (
        jnp.average(jax.nn.softplus(-source), weights=source_weights)
        + jnp.average(jax.nn.softplus(target), weights=target_weights)
    ) / 2


def domain_accuracy(source: Float[Array, " n"], target: Float[Array, " m"]) -> Float[Array, ""]:
    """The part of the domains told right, the mean over both; 1/2 is chance."""
    return (jnp.mean(source > 0) + jnp.mean(target <= 0)) / 2


def condition(
    features: Float[Array, "b d"], probabilities: Float[Array, "b k"]
) -> Float[Array, "b dk"]:
    """The outer product of features and predicted probabilities, for the domain classifier.

    So that it compares the domains class by class (CDAN's multilinear map; Long, Cao, Wang &
    Jordan, "Conditional Adversarial Domain Adaptation", NeurIPS 2018). The features of class
    ``j`` are ``out[:, j::k]``.
    """
    return (features[:, :, None] * probabilities[:, None, :]).reshape(len(features), -1)


def certainty_weights(probabilities: Float[Array, "b k"]) -> Float[Array, " b"]:
    """``1 + exp(-H(p))``: examples of which a network is certain count up to twice (CDAN+E).

    They are taken as given: no gradient comes through them. (Long et al. 2018, section 3.3; the
    authors' own code lets it through, reversed.)
    """
    p = jax.lax.stop_gradient(probabilities)
    return 1 + jnp.exp(jnp.sum(jax.scipy.special.xlogy(p, p), -1))


# Discrepancies between two sets of features.


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """``|x_i - y_j|^2``, by a product of matrices; rounding leaves none below 0."""
    # Seen from the first example: equal ones are at a distance of exactly 0, and far from the
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
    n, both = len(source), jnp.concatenate([source, target])
    distances = squared_distances(both, both)
    distances = jnp.where(jnp.eye(len(both), dtype=bool), 0.0, distances)
    pairs = len(both) * (len(both) - 1)
    scale = jax.lax.stop_gradient(jnp.sum(distances) / pairs)
    scale = jnp.where(scale > 0, scale, 1.0)  # all alike: any width says so
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


# The cluster assumption: no boundary between classes where there are many images.


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
    """What, of all changes of 2-norm ``radius``, changes the predictions for ``x`` most.

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

    there = jax.lax.stop_gradient(predict(x))

    def divergence(r: Array) -> Array:
        return jnp.sum(kl_divergence(there, predict(x + r)))

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


def confident(
    logits: Float[Array, "b k"], threshold: Scalar
) -> tuple[Int[Array, " b"], Bool[Array, " b"]]:
    """The likeliest class of each example, and whether its probability is above a threshold.

    For training on a network's own predictions (Lee, "Pseudo-Label", 2013), of another view of
    the same image (Sohn et al., "FixMatch", NeurIPS 2020). No gradient comes through.
    """
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(logits))
    return jnp.argmax(probabilities, -1), jnp.max(probabilities, -1) > threshold


# All of it in one loss.

TERMS = (
    *("adversarial", "conditional", "mmd", "coral"),
    *("entropy", "vat_source", "vat_target", "consistency"),
)
"""What can be added to the source images' cross-entropy: by an adversary on the features (DANN), or
on features and predictions (CDAN+E); discrepancies of the features; and the cluster assumption."""

ADVERSARIES = ("adversarial", "conditional")
"""The terms of which each has the network's one domain classifier to itself."""

UNLABELLED = tuple(term for term in TERMS if term != "vat_source")
"""The terms that need target images."""


@runtime_checkable
class Adaptable(Protocol):
    """A network of an encoder and two heads, as :mod:`jaxdl.nn.models.adversarial` has them. Where
    it has other collections than ``params``, ``encode`` takes ``train``."""

    def apply(self, variables: Variables, x: Array, *args, method: str, **options) -> Any:
        """``encode``, ``classify`` or ``discriminate``, as Flax calls methods."""


def joined(features: Float[Array, "b d"], logits: Float[Array, "b k"]) -> Float[Array, "b dk"]:
    """What CDAN's domain classifier reads: :func:`condition`, with the predictions as given, so
    that the adversary changes the features and not the label head (as in the authors' code)."""
    return condition(features, jax.lax.stop_gradient(jax.nn.softmax(logits)))


def outputs(
    model: Adaptable, variables: Variables, x: Float[Array, "b ..."], *, conditional: bool = False
) -> dict[str, Array]:
    """In evaluation, the "features" of images, the "logits" of the label head, and "domain", the
    logits of "this is a source image".

    Args:
      conditional: whether the domain head reads features and predictions, :func:`joined`.
    """
    features = model.apply(variables, x, method="encode")
    logits = model.apply(variables, features, method="classify")
    read = joined(features, logits) if conditional else features
    domain = model.apply(variables, read, method="discriminate")
    return {"features": features, "logits": logits, "domain": domain}


DOMAINS = ("source", "target")


def statistics_apart(variables: Variables) -> Variables:
    """Variables with each other collection than ``params`` twice, by domain, alike at first: for
    :func:`adaptation_loss` with ``apart``."""
    return {
        kind: tree if kind == "params" else dict.fromkeys(DOMAINS, tree)
        for kind, tree in variables.items()
    }


def statistics_of_domain(variables: Variables, domain: int | Int[Array, ""]) -> Variables:
    """The variables, as the network takes them, with one domain's statistics: 0 for the source's,
    1 for the target's; the inverse of :func:`statistics_apart`."""

    def choose(tree: PyTree) -> PyTree:
        pair = (tree[name] for name in DOMAINS)
        return jax.tree.map(lambda source, target: jnp.where(domain == 0, source, target), *pair)

    return {kind: tree if kind == "params" else choose(tree) for kind, tree in variables.items()}


def adaptation_loss(
    model: Adaptable, terms: Collection[str], steps: int, *, apart: bool = False
) -> LossFn:
    """The cross-entropy of the source images, and weighted terms that adapt it to the target's.

    The batch is ``{"source": {"image", "label"}, "target": {"image", "changed"}}``: no target
    labels; the target is left out where no term needs it, and ``changed``, another view of its
    images, without "consistency". A member has ``hyper["weights"][term]`` for each term, the
    height ``hyper["reversal"]`` that lambda rises to, ``hyper["radius"]`` of virtual adversarial
    perturbations and the ``hyper["threshold"]`` of confident predictions. An adversary learns with
    the weight of its term all along, and its reversed gradient comes in with lambda; the other
    terms' weights rise with :func:`reversal_schedule`, as lambda does, but for "vat_source".

    With batch normalization the images of both domains are normalized together, by the statistics
    of both; or apart, each by its own, which are then kept apart for evaluation (domain-specific
    batch normalization: Li, Wang, Shi, Hou & Liu, "Adaptive Batch Normalization", Pattern
    Recognition 2018; Chang, You, Seo, Kwak & Han, CVPR 2019). Images that "vat" and "consistency"
    change are normalized by their own batch's statistics, of which nothing is kept.

    Args:
      terms: a choice of :data:`TERMS`, one of the :data:`ADVERSARIES` at most.
      steps: of the whole training: what ``p`` of the schedules is counted in.
      apart: whether the domains' statistics are kept apart: collections are then those of
        :func:`statistics_apart`. Where no term needs the target, both are the source's.

    Raises:
      ValueError: for an unknown term, or two adversaries.
    """
    if unknown := set(terms) - set(TERMS):
        raise ValueError(f"unknown terms {sorted(unknown)}: choose from {', '.join(TERMS)}")
    if set(ADVERSARIES) <= set(terms):
        raise ValueError("one domain classifier: adversarial (DANN) or conditional (CDAN)")
    has = frozenset(terms).__contains__
    labels_target = any(map(has, ("conditional", "entropy", "consistency")))

    def loss_fn(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Collections, Metrics]]:
        variables = {"params": params, **collections}
        dropout, *others = jax.random.split(key, 3)
        rngs = {"dropout": dropout}
        key_of = dict(zip(("vat_source", "vat_target"), others, strict=True))
        source: Any = batch["source"]
        target: Any = batch.get("target")
        n = len(source["image"])

        def classify(features: Array) -> Array:
            return model.apply(variables, features, True, method="classify", rngs=rngs)

        normalizes = bool(jax.tree.leaves(collections))

        def encode(images: Array, domain: str) -> tuple[Array, Collections]:
            if not normalizes:
                return model.apply(variables, images, method="encode"), collections
            own = {kind: tree[domain] if apart else tree for kind, tree in collections.items()}
            with_own = {"params": params, **own}
            return model.apply(with_own, images, True, method="encode", mutable=list(own))

        # Dropout is the same in all calls with as many images, as virtual adversarial perturbations
        # need it. The two views of "consistency" come in calls of different sizes, so that each has
        # a dropout of its own; the guesses, too, are made under it.
        def predict(domain: str) -> Predict:
            return lambda images: classify(encode(images, domain)[0])

        images = source["image"]
        divided = apart and normalizes
        if target is not None and not divided:
            images = jnp.concatenate([images, target["image"]])
        features, new = encode(images, "source")
        if divided:
            target_new = new
            if target is not None:
                target_features, target_new = encode(target["image"], "target")
                features = jnp.concatenate([features, target_features])
            new = {kind: {"source": new[kind], "target": target_new[kind]} for kind in new}
        logits = classify(features if labels_target else features[:n])
        label_loss = jnp.mean(cross_entropy(logits[:n], source["label"]))
        metrics = {"label_loss": label_loss}
        rise = reversal_schedule(hyper["step"] / steps)
        found = {}
        if has("adversarial") or has("conditional"):
            scale = hyper["reversal"] * rise
            seen, weights = features, None
            if has("conditional"):
                seen = joined(features, logits)
                weights = certainty_weights(jax.nn.softmax(logits))
            seen = reverse_gradient(seen, scale)
            domain_logits = model.apply(variables, seen, method="discriminate")
            pair = domain_logits[:n], domain_logits[n:]
            both = () if weights is None else (weights[:n], weights[n:])
            loss = domain_adversarial_loss(*pair, *both)
            found["conditional" if has("conditional") else "adversarial"] = loss
            metrics |= {
                "domain_loss": loss,
                "domain_accuracy": domain_accuracy(*pair),
                "reversal": scale,
            }
        for term, discrepancy in (
            ("mmd", maximum_mean_discrepancy),
            ("coral", correlation_alignment),
        ):
            if has(term):
                found[term] = rise * discrepancy(features[:n], features[n:])
        if has("entropy"):
            found["entropy"] = rise * jnp.mean(entropy(logits[n:]))
        pairs = ("source", source, 1.0), ("target", target, rise)
        for domain, examples, grows in pairs:
            if has(term := f"vat_{domain}"):
                divergence = virtual_adversarial_loss(
                    predict(domain), examples["image"], key_of[term], radius=hyper["radius"]
                )
                found[term] = grows * jnp.mean(divergence)
        if has("consistency"):
            guesses, sure = confident(logits[n:], hyper["threshold"])
            changed = cross_entropy(predict("target")(target["changed"]), guesses)
            found["consistency"] = rise * jnp.mean(jnp.where(sure, changed, 0.0))
            metrics["confident"] = jnp.mean(sure)
        total = label_loss + sum(hyper["weights"][term] * loss for term, loss in found.items())
        return total, ({**collections, **new}, metrics)

    return loss_fn
