"""Adaptation of a network to a domain without labels: losses that make two domains look alike.

A source domain has labels, a target domain has none. All functions are pure and independent of
training; ``source`` and ``target`` are a network's outputs for a batch of each domain, and the
batches may differ in size. A domain classifier has one logit an example, that of "this is a source
image".
"""

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdl.data.source import Source
from jaxdl.nn.losses import (
    Predict,
    correlation_alignment,
    cross_entropy,
    entropy,
    maximum_mean_discrepancy,
    virtual_adversarial_loss,
)
from jaxdl.nn.metrics import domain_accuracy
from jaxdl.types import (
    AnyArray,
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


def check_domains(source: Source, target: Source) -> None:
    """Raise ValueError, naming the difference, unless networks can learn the classes of a source to
    be tested on a target: images are of one shape, the source has labels, and the target the same
    classes or no labels."""
    if not source.labelled:
        raise ValueError(f"the source, {source.name}, has no labels to learn: give it labels")
    images = [domain.splits["train"]["image"] for domain in (source, target)]
    shapes = [list(array.shape[1:]) for array in images]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"images of the source are {shapes[0]}, of the target {shapes[1]}: make them alike "
            "with the options of both, size and channels"
        )
    if not target.labelled:
        return
    source_classes, target_classes = source.class_names, target.class_names
    if len(source_classes) != len(target_classes):
        raise ValueError(
            f"the source has {len(source_classes)} classes, the target {len(target_classes)}"
        )
    if odd := [
        pair for pair in zip(source_classes, target_classes, strict=True) if pair[0] != pair[1]
    ]:
        raise ValueError(f"a class of the source is {odd[0][0]!r}, of the target {odd[0][1]!r}")


def reversal_schedule(
    p: float | Float[AnyArray, " *n"], gamma: float = 10.0
) -> Float[Array, " *n"]:
    """``lambda = 2 / (1 + exp(-gamma p)) - 1``, from 0 towards 1, when the part ``p`` of all steps
    is done (Ganin & Lempitsky 2015)."""
    return 2 / (1 + jnp.exp(-gamma * p)) - 1


@jax.custom_vjp
def reverse_gradient(x: Float[Array, " ..."], scale: Scalar) -> Float[Array, " ..."]:
    """``x`` itself, whose gradient is multiplied by ``-scale`` on its way back.

    Layers after it descend a loss, layers before it ascend the same loss; with ``scale = 0`` no
    gradient comes through. (Ganin & Lempitsky, "Unsupervised Domain Adaptation by
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
    their batches; log 2 = .693 at chance. Its inputs are features that have passed
    :func:`reverse_gradient` (DANN) or, for CDAN, also joined with the predictions by
    :func:`condition`.

    Args:
      source, target: logits of "this is a source image".
      source_weights, target_weights: weights of the examples, by default equal; only their
        proportions count. CDAN+E: :func:`certainty_weights`.
    """
    return (
        jnp.average(jax.nn.softplus(-source), weights=source_weights)
        + jnp.average(jax.nn.softplus(target), weights=target_weights)
    ) / 2


def condition(
    features: Float[Array, "b d"], probabilities: Float[Array, "b k"]
) -> Float[Array, "b dk"]:
    """The outer product of features and predicted probabilities, for the domain classifier.

    With them it compares the domains class by class (CDAN's multilinear map; Long, Cao, Wang &
    Jordan, "Conditional Adversarial Domain Adaptation", NeurIPS 2018). The features of class
    ``j`` are ``out[:, j::k]``.
    """
    return (features[:, :, None] * probabilities[:, None, :]).reshape(len(features), -1)


def certainty_weights(probabilities: Float[Array, "b k"]) -> Float[Array, " b"]:
    """``1 + exp(-H(p))``: examples of which a network is certain count up to twice (CDAN+E).

    No gradient comes through them. (Long et al. 2018, section 3.3; in the authors' own code it
    does, reversed.)
    """
    p = jax.lax.stop_gradient(probabilities)
    return 1 + jnp.exp(jnp.sum(jax.scipy.special.xlogy(p, p), -1))


def confident(
    logits: Float[Array, "b k"], threshold: Scalar
) -> tuple[Int[Array, " b"], Bool[Array, " b"]]:
    """The likeliest class of each example, and whether its probability is above a threshold.

    For training on a network's own predictions (Lee, "Pseudo-Label", 2013), of another view of
    the same image (Sohn et al., "FixMatch", NeurIPS 2020). No gradient comes through.
    """
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(logits))
    return jnp.argmax(probabilities, -1), jnp.max(probabilities, -1) > threshold


# All terms in one loss.

TERMS = (
    *("adversarial", "conditional", "mmd", "coral"),
    *("entropy", "vat_source", "vat_target", "consistency"),
)
"""Terms that can be added to the source images' cross-entropy: an adversary on the features (DANN),
or on features and predictions (CDAN+E); discrepancies of the features; the cluster assumption."""

ADVERSARIES = ("adversarial", "conditional")
"""The terms that train the network's domain classifier: one of them at most."""

UNLABELLED = tuple(term for term in TERMS if term != "vat_source")
"""The terms that need target images."""


@runtime_checkable
class Adaptable(Protocol):
    """A network of an encoder and two heads, as :mod:`jaxdl.nn.models.adversarial` has them. Where
    it has other collections than ``params``, ``encode`` takes ``train``."""

    def apply(self, variables: Variables, x: Array, *args, method: str, **options) -> Any:
        """``encode``, ``classify`` or ``discriminate``, as Flax calls methods."""


def joined(features: Float[Array, "b d"], logits: Float[Array, "b k"]) -> Float[Array, "b dk"]:
    """The inputs of CDAN's domain classifier: :func:`condition`, without a gradient for the
    predictions, so that the adversary changes the features and not the label head (as in the
    authors' code)."""
    return condition(features, jax.lax.stop_gradient(jax.nn.softmax(logits)))


def outputs(
    model: Adaptable, variables: Variables, x: Float[Array, "b ..."], *, conditional: bool = False
) -> dict[str, Array]:
    """The "features" of images in evaluation, flattened, the "logits" of the label head, and
    "domain", the logits of "this is a source image".

    Args:
      conditional: whether the domain head reads features and predictions, :func:`joined`.
    """
    features = model.apply(variables, x, method="encode")
    logits = model.apply(variables, features, method="classify")
    inputs = joined(features, logits) if conditional else features
    domain = model.apply(variables, inputs, method="discriminate")
    return {"features": features.reshape(len(x), -1), "logits": logits, "domain": domain}


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
    """The cross-entropy of the source images, and weighted terms that adapt the network to the
    target.

    The batch is ``{"source": {"image", "label"}, "target": {"image", "changed"}}``: no target
    labels; the target is ignored, and may be left out, where no term needs it, and ``changed``,
    another view of its images, without "consistency". A member's ``hyper`` has ``weights`` by
    term, ``reversal``, the final value of lambda, the ``radius`` of virtual adversarial
    perturbations and the ``threshold`` of confident predictions. An adversary learns with the
    weight of its term all along, and its reversed gradient comes in with lambda; the weights of
    the other terms but "vat_source" rise with :func:`reversal_schedule`, as lambda does.

    With batch normalization the images of both domains are normalized together, by the statistics
    of both; or apart, each by its own, which are then kept apart for evaluation (domain-specific
    batch normalization: Li, Wang, Shi, Hou & Liu, "Adaptive Batch Normalization", Pattern
    Recognition 2018; Chang, You, Seo, Kwak & Han, CVPR 2019). Images that "vat" and "consistency"
    change are normalized by their own batch's statistics, of which nothing is kept.

    Args:
      terms: a choice of :data:`TERMS`, one of the :data:`ADVERSARIES` at most.
      steps: of the whole training, for ``p`` of the schedules.
      apart: whether the domains' statistics are kept apart: collections are then those of
        :func:`statistics_apart`. Where no term needs the target, both are the source's.

    Raises:
      ValueError: for an unknown term, or two adversaries.
    """
    if unknown := set(terms) - set(TERMS):
        raise ValueError(f"unknown terms {sorted(unknown)}: choose from {', '.join(TERMS)}")
    if set(ADVERSARIES) <= set(terms):
        raise ValueError("one domain classifier: adversarial (DANN) or conditional (CDAN)")
    labels_target = not {"conditional", "entropy", "consistency"}.isdisjoint(terms)
    needs_target = not {*UNLABELLED}.isdisjoint(terms)

    def loss_fn(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Collections, Metrics]]:
        variables = {"params": params, **collections}
        dropout, source_key, target_key = jax.random.split(key, 3)
        source: Any = batch["source"]
        target: Any = batch.get("target") if needs_target else None
        n = len(source["image"])
        normalizes = bool(jax.tree.leaves(collections))
        divided = apart and normalizes

        def classify(features: Array) -> Array:
            rngs = {"dropout": dropout}
            return model.apply(variables, features, True, method="classify", rngs=rngs)

        def encode(images: Array, domain: str) -> tuple[Array, Collections]:
            if not normalizes:
                return model.apply(variables, images, method="encode"), collections
            statistics = {
                kind: tree[domain] if apart else tree for kind, tree in collections.items()
            }
            with_own = {"params": params, **statistics}
            return model.apply(with_own, images, True, method="encode", mutable=list(statistics))

        # Dropout is the same in all calls with as many images, as virtual adversarial perturbations
        # need it. The two views of "consistency" come in calls of different sizes, so that each has
        # a dropout of its own; the guesses, too, are made under it.
        def predict(domain: str) -> Predict:
            return lambda images: classify(encode(images, domain)[0])

        images = source["image"]
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
        losses = {}
        for term in set(ADVERSARIES) & set(terms):
            scale = hyper["reversal"] * rise
            inputs, weights = features, None
            if term == "conditional":
                inputs = joined(features, logits)
                weights = certainty_weights(jax.nn.softmax(logits))
            inputs = reverse_gradient(inputs, scale)
            domain_logits = model.apply(variables, inputs, method="discriminate")
            by_domain = domain_logits[:n], domain_logits[n:]
            weights_by_domain = () if weights is None else (weights[:n], weights[n:])
            losses[term] = domain_adversarial_loss(*by_domain, *weights_by_domain)
            metrics |= {
                "domain_loss": losses[term],
                "domain_accuracy": domain_accuracy(*by_domain),
                "reversal": scale,
            }
        if "mmd" in terms:
            losses["mmd"] = rise * maximum_mean_discrepancy(features[:n], features[n:])
        if "coral" in terms:
            losses["coral"] = rise * correlation_alignment(features[:n], features[n:])
        if "entropy" in terms:
            losses["entropy"] = rise * jnp.mean(entropy(logits[n:]))
        if "vat_source" in terms:
            losses["vat_source"] = jnp.mean(
                virtual_adversarial_loss(
                    predict("source"), source["image"], source_key, radius=hyper["radius"]
                )
            )
        if "vat_target" in terms:
            losses["vat_target"] = rise * jnp.mean(
                virtual_adversarial_loss(
                    predict("target"), target["image"], target_key, radius=hyper["radius"]
                )
            )
        if "consistency" in terms:
            guesses, sure = confident(logits[n:], hyper["threshold"])
            changed = cross_entropy(predict("target")(target["changed"]), guesses)
            losses["consistency"] = rise * jnp.mean(jnp.where(sure, changed, 0.0))
            metrics["confident"] = jnp.mean(sure)
        total = label_loss + sum(hyper["weights"][term] * loss for term, loss in losses.items())
        return total, ({**collections, **new}, metrics)

    return loss_fn
