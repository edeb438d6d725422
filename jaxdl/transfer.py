"""What transfers between networks: cut, transplant, freeze, and the treatments that compare them.

Yosinski, Clune, Bengio & Lipson, "How transferable are features in deep neural networks?", NIPS
2014. Two base networks are trained on tasks A and B. At every depth n the first n layers of a base
are given to a network for task B whose other layers are drawn anew, and are then either
frozen or fine-tuned with the rest. What the new network loses against base B is what the copied
layers did not know of B (AnB), or what was lost by cutting a network in two (BnB).

All functions are pure and know nothing of how a network is trained. ``Variables`` are Flax's:
``{"params": {layer: ...}, "batch_stats": {layer: ...}}``, in dicts or FrozenDicts; what comes back
are dicts. A layer is a top-level entry of ``params``; its depth is the number at the end of its
name (``conv1, conv2, fc3``, as in Caffe), or its place in ``order`` where a model's names do not
tell.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdl import trees
from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.metrics import correct
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
    """The names of a network's layers by their depth, the number at the end of each.

    Raises:
      ValueError: if a name does not end in a number, two end in the same, or numbers before the
        last would have another order (``block2_conv1, block1_conv2``); such a model's layers are
        named by passing ``order`` to the functions below.
    """
    by_depth: dict[int, str] = {}
    for name in variables["params"]:
        if not (end := re.search(r"\d+$", name)):
            raise ValueError(f"layer {name!r} has no depth at its end: pass order=(...)")
        if (twin := by_depth.setdefault(int(end[0]), name)) != name:
            raise ValueError(f"layers {twin!r} and {name!r} share a depth: pass order=(...)")
    names = tuple(by_depth[depth] for depth in sorted(by_depth))
    blocks = [(tuple(map(int, re.findall(r"\d+", name)[:-1])), name) for name in names]
    blocks = [(numbers, name) for numbers, name in blocks if numbers]
    for (first, before), (second, after) in pairwise(blocks):
        if first > second:
            raise ValueError(
                f"layers {before!r} and {after!r}: their numbers tell of no one order: pass "
                "order=(...)"
            )
    return names


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
    variables = trees.plain(variables)
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
    kinds = [*above, *(kind for kind in below if kind not in above)]
    return {kind: {**below.get(kind, {}), **above.get(kind, {})} for kind in kinds}


def transplant(
    base: Variables, fresh: Variables, n: int, order: Sequence[str] | None = None
) -> Variables:
    """Layers ``1 … n`` from ``base``, the rest from ``fresh``; bit for bit, nothing is trained.

    With batch normalization the running statistics of the copied layers come along.

    Raises:
      ValueError: if ``n`` is out of range, or naming the first copied layer that is not like the
        fresh one in its name, arrays, shapes or types.
    """
    given, _ = cut(base, n, order)
    replaced, rest = cut(fresh, n, order)
    names = [layers(part) if order is None else tuple(order)[:n] for part in (given, replaced)]
    for depth, (ours, theirs) in enumerate(zip(*names, strict=True), start=1):
        if ours != theirs:
            there = f"{ours!r} in the base, {theirs!r} in the fresh network"
            raise ValueError(f"layer {depth} is {there}")
        _check_alike(ours, _arrays(given, ours), _arrays(replaced, ours))
    return join(given, rest)


def _arrays(variables: Variables, layer: str) -> dict[str, str]:
    """The type and shape of each array of a layer, by its path: ``float32[3, 3, 1, 8]``."""
    kept = {kind: collection.get(layer, {}) for kind, collection in variables.items()}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(kept)
    }


def _check_alike(layer: str, base: dict[str, str], fresh: dict[str, str]) -> None:
    for path in sorted(base.keys() | fresh.keys()):
        ours, theirs = base.get(path, "absent"), fresh.get(path, "absent")
        if ours != theirs:
            convert = ": convert it with astype" * (ours.split("[")[1:] == theirs.split("[")[1:])
            raise ValueError(
                f"layer {layer!r}: {path} is {ours} in the base, {theirs} in the fresh "
                f"network{convert}"
            )


def trainable(variables: Variables, n: int, order: Sequence[str] | None = None) -> Variables:
    """A mask that is False for every array of layers ``1 … n`` and True above.

    Frozen means: no update, no weight decay, no change of batch statistics. The first two are
    what ``make_optimizer(trainable=...)`` does with the mask of ``params``; the last follows from
    applying the frozen layers with ``train=False``, as :func:`classification_loss` does.
    """
    below, above = cut(variables, n, order)
    return join(jax.tree.map(lambda _: False, below), jax.tree.map(lambda _: True, above))


class Layered(Protocol):
    """A Flax module of which any stretch of layers can be applied alone, by default all."""

    def apply(self, variables: Variables, x: Array, *, train: bool, start: int, stop: int | None):
        """Layers ``start + 1 … stop`` applied to images or to what layer ``start`` put out."""


def check_layered(model: Layered) -> None:
    """Raise ValueError unless a model can be applied from one layer to another."""
    taken = _parameters(model)
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    if not {"start", "stop"} <= taken.keys() and not any_keyword:
        raise ValueError(
            f"{type(model).__name__} takes ({', '.join(taken)}): frozen layers need a model that "
            "also takes start= and stop=, as jaxdl.nn.models.convnet.ConvNet does, to apply "
            "layers start + 1 to stop alone"
        )


def _parameters(model: Any) -> dict[str, inspect.Parameter]:
    """What a Flax module's ``__call__`` takes; or ``apply``, of what is not called."""
    return dict(inspect.signature(model if callable(model) else model.apply).parameters)


def apply_train(
    model: Any, variables: Variables, x: Array, key: PRNGKeyArray
) -> tuple[Float[Array, "b k"], Params]:
    """Train-mode logits of any Flax module and its new batch statistics.

    Training mode is ``train=True``, ``training=True`` or ``deterministic=False``, as far as the
    module's ``__call__`` takes them; ``key`` is for its dropout.
    """
    taken = _parameters(model)
    modes = {"train": True, "training": True, "deterministic": False}
    modes = {name: value for name, value in modes.items() if name in taken}
    logits, new = model.apply(variables, x, mutable=["batch_stats"], rngs={"dropout": key}, **modes)
    return logits, new.get("batch_stats", {})


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
    differentiated below the cut. With ``n = 0`` any Flax module will do.
    """
    if not n:
        return apply_train(model, variables, x, key)
    below, above = cut(variables, n, order)
    h = lax.stop_gradient(model.apply(below, x, train=False, start=0, stop=n))
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
    """The loss of one network; its first ``frozen`` layers are left as they are.

    With nothing frozen ``model`` is any Flax module that makes logits of images.

    Raises:
      ValueError: with frozen layers, if the model cannot be applied from one layer to another.
    """
    if frozen:
        check_layered(model)

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

    Raises:
      ValueError: if the model cannot be applied from one layer to another.
    """
    check_layered(model)

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
