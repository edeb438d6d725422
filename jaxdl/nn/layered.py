"""Models of which any stretch of layers can be applied alone.

A layer is a top-level entry of ``params``; its depth is the number at the end of its name (``conv1,
conv2, fc3``, as in Caffe), or its place in the model's own ``names()``.
"""

import inspect
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.types import AnyArray, Variables


@runtime_checkable
class Layered(Protocol):
    """A Flax module of which any stretch of layers can be applied alone, by default all.

    Where the names of its layers do not end in their depth, it has ``names()``, which gives them in
    their order.
    """

    def apply(
        self,
        variables: Variables,
        x: AnyArray,
        *,
        train: bool,
        start: int = 0,
        stop: int | None = None,
        **options,
    ) -> Any:
        """Layers ``start + 1 … stop`` applied to images or to the output of layer ``start``."""


def layer_names(variables: Variables) -> tuple[str, ...]:
    """The names of a network's layers by their depth, the number at the end of each.

    Raises:
      ValueError: if a name does not end in a number, two end in the same, or numbers before the
        last would have another order (``block2_conv1, block1_conv2``); such a model's layers are
        named by passing ``order`` to the functions of :mod:`jaxdl.transfer`.
    """
    by_depth: dict[int, str] = {}
    for name in variables["params"]:
        if not (end := re.search(r"\d+$", name)):
            problem = f"layer {name!r} has no depth at its end"
            raise ValueError(
                f"{problem}: name it as conv1 is, give the model names(), or pass order=(...)"
            )
        if (twin := by_depth.setdefault(int(end[0]), name)) != name:
            raise ValueError(f"layers {twin!r} and {name!r} share a depth: pass order=(...)")
    names = tuple(by_depth[depth] for depth in sorted(by_depth))
    blocks = [(tuple(map(int, re.findall(r"\d+", name)[:-1])), name) for name in names]
    blocks = [(numbers, name) for numbers, name in blocks if numbers]
    for (first, layer), (second, next_layer) in pairwise(blocks):
        if first > second:
            raise ValueError(
                f"layers {layer!r} and {next_layer!r}: their numbers tell of no one order: "
                "pass order=(...)"
            )
    return names


def layer_order(model: Any, variables: Variables) -> tuple[str, ...]:
    """The names of a model's layers by their depth: its own ``names()``, or :func:`layer_names`."""
    return tuple(getattr(model, "names", lambda: layer_names(variables))())


def check_signature(model: Any) -> None:
    """Raise ValueError unless a model can be applied from one layer to another."""
    parameters = inspect.signature(model if callable(model) else model.apply).parameters
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not {"start", "stop"} <= parameters.keys() and not any_keyword:
        raise ValueError(
            f"{type(model).__name__} takes ({', '.join(parameters)}): frozen layers need a model "
            "that also takes start= and stop=, as jaxdl.nn.models.convnet.ConvNet does, to apply "
            "layers start + 1 to stop alone"
        )


def activations(
    model: Layered, base: Variables, x: Float[Array, "b ..."], cuts: Sequence[int]
) -> list[Float[Array, "b ..."]]:
    """The outputs of layers ``cuts`` (ascending) of a base, from one forward pass."""
    outputs, depth = [], 0
    for n in cuts:
        x = model.apply(base, x, train=False, start=depth, stop=n)
        outputs.append(x)
        depth = n
    return outputs


def check_layers(
    model: Layered, variables: Variables, x: Float[AnyArray, "b ..."], key: PRNGKeyArray
) -> None:
    """Compare a model in evaluation with its layers applied one after the other, each to the output
    of the one before and with its own variables alone.

    Variables are moved at random first: initial zeros and fresh statistics would hide differences.

    Raises:
      ValueError: if the layers cannot be applied one by one, or their outputs are not the model's.
    """
    check_signature(model)
    leaves, structure = jax.tree.flatten(variables)

    def draw(leaf: Array, key: PRNGKeyArray) -> Array:
        return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    variables = jax.tree.unflatten(structure, map(draw, leaves, keys))
    # Variances are positive.
    variables = {k: v if k == "params" else jax.tree.map(jnp.abs, v) for k, v in variables.items()}

    @jax.jit
    def outputs(variables: Variables, x: Array) -> tuple[Array, Array]:
        h = x
        for depth, name in enumerate(layer_order(model, variables)):
            own = {k: {n: v[n] for n in [name] if n in v} for k, v in variables.items()}
            h = model.apply(own, h, train=False, start=depth, stop=depth + 1)
        return model.apply(variables, x, train=False), h

    reference, composition = jax.device_get(outputs(variables, x))
    if not np.isfinite(reference).all():
        raise ValueError(f"{type(model).__name__}: its outputs are not finite")
    tolerance = 1e-3 * np.abs(reference).max()  # of float32's rounding
    shapes = reference.shape, composition.shape
    if len({*shapes}) > 1 or not np.allclose(reference, composition, 0, tolerance):
        raise ValueError(
            f"{type(model).__name__}: its layers, applied one after the other by start= and stop=, "
            "do not compute what it computes as a whole"
        )
