"""Transfer between networks: cut, transplant, freeze, and the treatments that compare them.

Yosinski, Clune, Bengio & Lipson, "How transferable are features in deep neural networks?", NIPS
2014. Two base networks are trained on tasks A and B. At every depth n the first n layers of a base
are copied to a network for task B whose other layers are fresh, and are then either frozen or
fine-tuned with the rest. The drop in accuracy below base B is due to copied layers that are
specific to A (AnB), or to the cut of a network in two (BnB).

All functions are pure and independent of the training. ``Variables`` are Flax's:
``{"params": {layer: ...}, "batch_stats": {layer: ...}}``, in dicts or FrozenDicts; results are
dicts. A layer is a top-level entry of ``params``; its depth is the number at the end of its name
(``conv1, conv2, fc3``, as in Caffe), or its place in ``order``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import trees
from jaxdl.nn.layered import Layered, activations, check_signature, layer_names
from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.metrics import correct
from jaxdl.types import AnyArray, Batch, Collections, Hyper, LossFn, Variables


class Treatment(NamedTuple):
    """The source of a network's first layers, and whether they are trained further."""

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


def cut(
    variables: Variables, n: int, order: Sequence[str] | None = None
) -> tuple[Variables, Variables]:
    """Divide a network into ``(lower, upper)``: its first ``n`` layers and the rest, each with the
    collections of ``variables``.

    Raises:
      ValueError: if ``n`` is not in 0 … number of layers, or ``order`` does not name each layer
        once.
    """
    variables = trees.plain(variables)
    names = tuple(order) if order is not None else layer_names(variables)
    if sorted(names) != sorted(variables["params"]):
        raise ValueError(f"order={names} is not an order of {sorted(variables['params'])}")
    if not 0 <= n <= len(names):
        raise ValueError(f"cannot cut after layer {n}: the network has {len(names)} layers")
    first = set(names[:n])

    def part(is_lower: bool) -> Variables:
        return {
            kind: {name: leaf for name, leaf in collection.items() if (name in first) == is_lower}
            for kind, collection in variables.items()
        }

    return part(True), part(False)


def join(lower: Variables, upper: Variables) -> Variables:
    """The network whose first layers are ``lower``: the inverse of :func:`cut`."""
    kinds = [*upper, *(kind for kind in lower if kind not in upper)]
    return {kind: {**lower.get(kind, {}), **upper.get(kind, {})} for kind in kinds}


def transplant(
    base: Variables, fresh: Variables, n: int, order: Sequence[str] | None = None
) -> Variables:
    """Layers ``1 … n`` from ``base``, the rest from ``fresh``; bit for bit, nothing is trained.

    With batch normalization the running statistics of the copied layers come along.

    Raises:
      ValueError: if ``n`` is out of range, or naming the first copied layer that is not like the
        fresh one in its name, arrays, shapes or types.
    """
    donor_layers, _ = cut(base, n, order)
    replaced, rest = cut(fresh, n, order)
    parts = donor_layers, replaced
    names = [layer_names(part) if order is None else tuple(order)[:n] for part in parts]
    for depth, (base_name, fresh_name) in enumerate(zip(*names, strict=True), start=1):
        if base_name != fresh_name:
            difference = f"{base_name!r} in the base, {fresh_name!r} in the fresh network"
            raise ValueError(f"layer {depth} is {difference}")
        _check_alike(base_name, _arrays(donor_layers, base_name), _arrays(replaced, base_name))
    return join(donor_layers, rest)


def _arrays(variables: Variables, layer: str) -> dict[str, str]:
    """The type and shape of each array of a layer, by its path: ``float32[3, 3, 1, 8]``."""
    parts = {kind: collection.get(layer, {}) for kind, collection in variables.items()}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(parts)
    }


def _check_alike(layer: str, base: dict[str, str], fresh: dict[str, str]) -> None:
    for path in sorted(base.keys() | fresh.keys()):
        base_array, fresh_array = base.get(path, "absent"), fresh.get(path, "absent")
        if base_array != fresh_array:
            convert = ": convert it with astype" * (
                base_array.split("[")[1:] == fresh_array.split("[")[1:]
            )
            raise ValueError(
                f"layer {layer!r}: {path} is {base_array} in the base, {fresh_array} in the fresh "
                f"network{convert}"
            )


def trainable(variables: Variables, n: int, order: Sequence[str] | None = None) -> Variables:
    """A mask that is False for every array of layers ``1 … n`` and True for the others.

    Frozen means: no update, no weight decay, no change of batch statistics. The first two are
    what ``make_optimizer(trainable=...)`` does with the mask of ``params``; the last follows from
    applying the frozen layers with ``train=False``, as :class:`Frozen` does.
    """
    lower, upper = cut(variables, n, order)
    return join(jax.tree.map(lambda _: False, lower), jax.tree.map(lambda _: True, upper))


class Frozen:
    """A network whose first ``n`` layers are frozen, to be used as a Flax module, for example in
    :func:`jaxdl.supervised.classification_loss`.

    The frozen layers run as in evaluation (running statistics, no dropout) and nothing is
    differentiated below the cut.

    Raises:
      ValueError: if the model cannot be applied from one layer to another.
    """

    def __init__(self, model: Layered, n: int, order: Sequence[str] | None = None):
        check_signature(model)
        self._model, self._n, self._order = model, n, order

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "b ..."],
        *,
        train: bool = False,
        mutable: bool | Sequence[str] = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> Array | tuple[Array, Collections]:
        """As `flax.linen.Module.apply`: outputs, and with ``mutable`` the new collections of all
        layers."""
        lower, upper = cut(variables, self._n, self._order)
        h = lax.stop_gradient(self._model.apply(lower, x, train=False, start=0, stop=self._n))
        result = self._model.apply(upper, h, train=train, start=self._n, mutable=mutable, rngs=rngs)
        if not mutable:
            return result
        outputs, new = result
        return outputs, {kind: {**lower.get(kind, {}), **layers} for kind, layers in new.items()}


class Above:
    """The layers above ``n`` of a network, to be used as a Flax module.

    Inputs are the outputs of layer ``n``, variables those of the layers above (:func:`cut`).

    Args:
      updates: False to run them as in evaluation also in training: batch normalization uses its
        running statistics, which stay as they are, and there is no dropout.

    Raises:
      ValueError: if the model cannot be applied from one layer to another.
    """

    def __init__(self, model: Layered, n: int, *, updates: bool = True):
        check_signature(model)
        self._model, self._n, self._updates = model, n, updates

    def clone(self, **attributes: Any) -> "Above":
        """As `flax.linen.Module.clone`: the layers of a module with other attributes."""
        network: Any = self._model
        return Above(network.clone(**attributes), self._n, updates=self._updates)

    def apply(
        self, variables: Variables, x: Float[AnyArray, "b ..."], *, train: bool = False, **options
    ) -> Array | tuple[Array, Collections]:
        """As `flax.linen.Module.apply`."""
        options |= {"train": train and self._updates, "start": self._n}
        return self._model.apply(variables, x, **options)


def shared_prefix_loss(model: Layered, cuts: Sequence[int]) -> LossFn:
    """The losses of all networks with frozen layers from one base, at one cut each.

    ``params[f"cut{n:02}"]`` are the layers above cut ``n`` and ``hyper["base"]`` are the base's
    variables. One forward pass of the base serves every cut. No parameter is in two of the losses,
    so the gradient of their sum is each network's own and an optimizer that works array by array
    trains each as if alone. The loss has the names of the cuts, metrics are vectors over them; the
    state before the first step is ``create_state(variables, optimizer, alive=alive(variables))``.

    Raises:
      ValueError: if the model cannot be applied from one layer to another.
    """
    check_signature(model)

    def loss_fn(params, collections, batch: Batch, hyper: Hyper, key):
        labels, variables = batch["label"], {"params": params, **collections}
        hidden = activations(model, lax.stop_gradient(hyper["base"]), batch["image"], cuts)
        losses, accuracies = {}, []
        new: dict[str, dict[str, Any]] = {kind: {} for kind in collections}
        for n, h in zip(cuts, hidden, strict=True):
            upper, name = _above_cut(variables, n), f"cut{n:02}"
            logits, updates = model.apply(
                upper,
                h,
                train=True,
                start=n,
                mutable=list(collections),
                rngs={"dropout": jax.random.fold_in(key, n)},
            )
            for kind in collections:
                new[kind][name] = updates.get(kind, upper[kind])
            losses[name] = jnp.mean(cross_entropy(logits, labels))
            accuracies.append(jnp.mean(correct(logits, labels), dtype=jnp.float32))
        return losses, (new, {"accuracy": jnp.stack(accuracies)})

    return loss_fn


def shared_prefix_logits(
    model: Layered,
    cuts: Sequence[int],
    base: Variables,
    upper: Variables,
    x: Float[Array, "b ..."],
) -> Float[Array, "cuts b k"]:
    """Evaluation logits of the networks that :func:`shared_prefix_loss` trains.

    Args:
      upper: collections of ``{f"cut{n:02}": the layers above cut n}``.
    """
    hidden = activations(model, base, x, cuts)
    return jnp.stack(
        [
            model.apply(_above_cut(upper, n), h, train=False, start=n)
            for n, h in zip(cuts, hidden, strict=True)
        ]
    )


def _above_cut(upper: Variables, n: int) -> Variables:
    return {kind: collection[f"cut{n:02}"] for kind, collection in upper.items()}


def alive(variables: Variables) -> dict[str, bool]:
    """True for each network that :func:`shared_prefix_loss` trains; see
    :func:`jaxdl.train.state.create_state`."""
    return dict.fromkeys(variables["params"], True)


def stack_cuts(
    fresh: Sequence[Variables], cuts: Sequence[int], order: Sequence[str] | None = None
) -> Variables:
    """The variables that :func:`shared_prefix_loss` trains: the layers above each cut, one
    fresh network a cut."""
    upper = {n: cut(network, n, order)[1] for n, network in zip(cuts, fresh, strict=True)}
    return {
        kind: {f"cut{n:02}": variables[kind] for n, variables in upper.items()} for kind in fresh[0]
    }
