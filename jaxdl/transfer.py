"""What transfers between networks: cut, transplant, freeze, and the treatments that compare them.

Yosinski, Clune, Bengio & Lipson, "How transferable are features in deep neural networks?", NIPS
2014. Two base networks are trained on tasks A and B. At every depth n the first n layers of a base
are given to a network for task B whose other layers are drawn anew, and are then either
frozen or fine-tuned with the rest. What the new network loses against base B is what the copied
layers did not know of B (AnB), or what was lost by cutting a network in two (BnB).

All functions are pure and know nothing of how a network is trained. ``Variables`` are Flax's:
``{"params": {layer: ...}, "batch_stats": {layer: ...}}``. A layer is a top-level entry of
``params``; its depth is the number in its name (``conv1, conv2, fc3``, as in Caffe), or its place
in ``order`` where a model's names do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdl.nn.losses import correct, cross_entropy
from jaxdl.types import Batch, Hyper, LossFn, Metrics, Params, Variables


class Treatment(NamedTuple):
    """Where the first layers of a network come from, and whether they keep learning."""

    source: str
    """``"self"``: the base of the target task; ``"other"``: the base of the other task;
    ``"random"``: a network that was never trained."""
    frozen: bool


TREATMENTS = {
    "BnB": Treatment("self", frozen=True),
    "BnB+": Treatment("self", frozen=False),
    "AnB": Treatment("other", frozen=True),
    "AnB+": Treatment("other", frozen=False),
    "random": Treatment("random", frozen=True),
}
"""The paper's four treatments and its control of random, untrained features (its Figure 3)."""


def layers(variables: Variables) -> tuple[str, ...]:
    """The names of a network's layers, the first layer first.

    Raises:
      ValueError: if a name has no number, or two layers the same; such a model's layers are
        named by passing ``order`` to the functions below.
    """
    depth = {}
    for name in variables["params"]:
        numbers = re.findall(r"\d+", name)
        if not numbers:
            raise ValueError(f"layer {name!r} has no depth in its name: pass order=(...)")
        depth[name] = int(numbers[-1])
    if len(set(depth.values())) < len(depth):
        raise ValueError(f"layers {sorted(depth)} share a depth: pass order=(...)")
    return tuple(sorted(depth, key=depth.__getitem__))


def cut(
    variables: Variables, n: int, order: Sequence[str] | None = None
) -> tuple[Variables, Variables]:
    """Divide a network into its first ``n`` layers and the rest.

    Returns:
      ``(below, above)``, each with the collections of ``variables``.

    Raises:
      ValueError: if ``n`` is not in 0 … number of layers, or ``order`` does not name each layer
        once.
    """
    names = tuple(order) if order is not None else layers(variables)
    if sorted(names) != sorted(variables["params"]):
        raise ValueError(f"order={names} is not an order of {sorted(variables['params'])}")
    if not 0 <= n <= len(names):
        raise ValueError(f"cannot cut after layer {n}: the network has {len(names)} layers")
    first = set(names[:n])

    def part(below: bool) -> Variables:
        return {
            kind: {name: leaf for name, leaf in collection.items() if (name in first) == below}
            for kind, collection in variables.items()
        }

    return part(True), part(False)


def join(below: Variables, above: Variables) -> Variables:
    """The network whose first layers are ``below``: the inverse of :func:`cut`."""
    return {kind: {**below[kind], **above[kind]} for kind in above}


def transplant(
    base: Variables, fresh: Variables, n: int, order: Sequence[str] | None = None
) -> Variables:
    """Layers ``1 … n`` from ``base``, the rest from ``fresh``; bit for bit, nothing is trained.

    With batch normalization the running statistics of the copied layers come along.

    Raises:
      ValueError: if ``n`` is out of range, or a copied layer has other shapes than the fresh one.
    """
    given, _ = cut(base, n, order)
    replaced, rest = cut(fresh, n, order)
    shapes = [jax.tree.map(jnp.shape, part) for part in (given, replaced)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the first {n} layers differ in shape: {shapes[0]} and {shapes[1]}")
    return join(given, rest)


def trainable(variables: Variables, n: int, order: Sequence[str] | None = None) -> Variables:
    """A mask that is False for every array of layers ``1 … n`` and True above.

    Frozen means: no update, no weight decay, no change of batch statistics. The first two are
    what ``make_optimizer(trainable=...)`` does with the mask of ``params``; the last follows from
    applying the frozen layers with ``train=False``, as :func:`classification_loss` does.
    """
    below, above = cut(variables, n, order)
    return join(jax.tree.map(lambda _: False, below), jax.tree.map(lambda _: True, above))


class Layered(Protocol):
    """A Flax module of which any stretch of layers can be applied alone."""

    def apply(self, variables: Variables, x: Array, *, train: bool, start: int, stop: int | None):
        """Layers ``start + 1 … stop`` applied to images or to what layer ``start`` put out."""


def apply_above(
    model: Layered, above: Variables, h: Array, n: int, key: PRNGKeyArray
) -> tuple[Float[Array, "b k"], Params]:
    """Train-mode logits of the layers above ``n`` and their new batch statistics."""
    logits, new = model.apply(
        above, h, train=True, start=n, mutable=["batch_stats"], rngs={"dropout": key}
    )
    return logits, new.get("batch_stats", {})


def apply_frozen(
    model: Layered,
    variables: Variables,
    x: Array,
    n: int,
    key: PRNGKeyArray,
    order: Sequence[str] | None = None,
) -> tuple[Float[Array, "b k"], Params]:
    """Train-mode logits of a network whose first ``n`` layers are frozen.

    The frozen layers run as in evaluation (running statistics, no dropout) and nothing is
    differentiated below the cut.
    """
    below, above = cut(variables, n, order)
    h = lax.stop_gradient(model.apply(below, x, train=False, start=0, stop=n)) if n else x
    logits, stats = apply_above(model, above, h, n, key)
    return logits, {**below.get("batch_stats", {}), **stats}


def loss_and_metrics(
    logits: Float[Array, "b k"], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], Metrics]:
    """Mean cross-entropy (nats) with it and the accuracy as metrics."""
    loss = jnp.mean(cross_entropy(logits, labels))
    return loss, {"loss": loss, "accuracy": jnp.mean(correct(logits, labels), dtype=jnp.float32)}


def classification_loss(
    model: Layered, frozen: int = 0, order: Sequence[str] | None = None
) -> LossFn:
    """The loss of one network; its first ``frozen`` layers are left as they are."""

    def loss_fn(params, batch_stats, batch: Batch, hyper: Hyper, key):
        del hyper
        variables = {"params": params, "batch_stats": batch_stats}
        logits, stats = apply_frozen(model, variables, batch["image"], frozen, key, order)
        loss, metrics = loss_and_metrics(logits, batch["label"])
        return loss, (stats, metrics)

    return loss_fn


def activations(
    model: Layered, base: Variables, x: Float[Array, "b ..."], cuts: Sequence[int]
) -> list[Float[Array, "b ..."]]:
    """What layers ``cuts`` (ascending) of a base put out, all from one forward pass."""
    outputs, reached = [], 0
    for n in cuts:
        x = model.apply(base, x, train=False, start=reached, stop=n)
        outputs.append(x)
        reached = n
    return outputs


def shared_prefix_loss(model: Layered, cuts: Sequence[int]) -> LossFn:
    """The losses of all networks with frozen layers from one base, at one cut each, summed.

    ``params[f"cut{n:02}"]`` are the layers above cut ``n`` and ``hyper["base"]`` are the base's
    variables. One forward pass of the base serves every cut. No parameter is in two of the
    summands, so the gradient of the sum is each network's own and an optimizer that works array by
    array trains each as if alone. Metrics are vectors over ``cuts``.
    """

    def loss_fn(params, batch_stats, batch: Batch, hyper: Hyper, key):
        hidden = activations(model, lax.stop_gradient(hyper["base"]), batch["image"], cuts)
        losses, stats, metrics = [], {}, []
        for n, h in zip(cuts, hidden, strict=True):
            above = _of_cut({"params": params, "batch_stats": batch_stats}, n)
            logits, stats[f"cut{n:02}"] = apply_above(
                model, above, h, n, jax.random.fold_in(key, n)
            )
            loss, each = loss_and_metrics(logits, batch["label"])
            losses.append(loss)
            metrics.append(each)
        return sum(losses), (stats, jax.tree.map(lambda *m: jnp.stack(m), *metrics))

    return loss_fn


def shared_prefix_logits(
    model: Layered,
    cuts: Sequence[int],
    base: Variables,
    above: Variables,
    x: Float[Array, "b ..."],
) -> Float[Array, "cuts b k"]:
    """Evaluation logits of the networks that :func:`shared_prefix_loss` trains.

    Args:
      above: collections of ``{f"cut{n:02}": the layers above cut n}``.
    """
    hidden = activations(model, base, x, cuts)
    return jnp.stack(
        [
            model.apply(_of_cut(above, n), h, train=False, start=n)
            for n, h in zip(cuts, hidden, strict=True)
        ]
    )


def _of_cut(above: Variables, n: int) -> Variables:
    return {kind: collection[f"cut{n:02}"] for kind, collection in above.items()}


def stack_cuts(
    fresh: Sequence[Variables], cuts: Sequence[int], order: Sequence[str] | None = None
) -> Variables:
    """The variables that :func:`shared_prefix_loss` trains: the layers above each cut, one
    fresh network a cut."""
    above = {n: cut(network, n, order)[1] for n, network in zip(cuts, fresh, strict=True)}
    return {
        kind: {f"cut{n:02}": variables[kind] for n, variables in above.items()} for kind in fresh[0]
    }
