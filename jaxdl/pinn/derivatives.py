"""Partial derivatives of networks with respect to their inputs, exact and in forward mode.

A derivative is named by its coordinates: ``"t"``, ``"xx"``, ``"xt"``; ``""`` is the function.
A request is a linear operator ``sum_i c_i D_i``, as a mapping from names to coefficients:
``{"t": 1, "xx": -k}`` for the heat equation.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxdl.types import AnyArray

Request = Mapping[str, float | Float[Array, ""]]
"""A linear operator: coefficients by derivative."""

Function = Callable[..., Any]
"""A function of points, [n, d] -> [n, f], point by point; a number counts as [1, 1]."""

Jet = dict[str, Float[Array, "_ _"]]
"""A function's values and derivatives at points, [n, m], by name."""

Derive = Callable[[Float[AnyArray, "n d"], Sequence[Request]], list[Float[Array, "#n f"]]]
"""A function of points and requests whose results are the requests' values at the points."""

Layers = Sequence[tuple[Float[Array, "_ _"], Float[Array, " _"]]]
"""Kernels [m, k] and biases [k]."""


def floating(numbers: Any) -> Float[Array, "..."]:
    """Numbers that can be differentiated: integers become floats, floats keep their precision."""
    numbers = jnp.asarray(numbers)
    return numbers.astype(jnp.result_type(numbers, 0.0))


# Any function: forward mode within forward mode.


def forward_mode(u: Function, coordinates: str) -> Derive:
    """Derivatives of any function by nested Jacobian-vector products.

    Points and values that are integers count as floats.

    Args:
      u: a function of points, point by point.
      coordinates: the name of each column of the points, a letter each: ``"xt"``.
    """

    def along(u: Function, axis: int) -> Function:
        def derivative(points: Float[Array, "n d"]) -> Float[Array, "#n f"]:
            direction = jnp.zeros_like(points).at[:, axis].set(1)
            return jax.jvp(u, (points,), (direction,))[1]

        return derivative

    def derive(
        points: Num[AnyArray, "n d"], requests: Sequence[Request]
    ) -> list[Float[Array, "#n f"]]:
        points = floating(points)

        def outputs(points: Num[AnyArray, "n d"]) -> Float[Array, "#n f"]:
            values = floating(u(points))
            return values.reshape(1, 1) if values.ndim == 0 else values

        @functools.cache
        def function(name: str) -> Function:
            if not name:
                return outputs
            return along(function(name[:-1]), coordinates.index(name[-1]))

        names = dict.fromkeys(canonical(name) for request in requests for name in request)
        jet = {name: function(name)(points) for name in names}
        return [combine(jet, request) for request in requests]

    return derive


def canonical(name: Iterable[str]) -> str:
    """The name in alphabetic order: ``"tx"`` and ``"xt"`` are the same derivative."""
    return "".join(sorted(name))


def combine(jet: Jet, request: Request) -> Float[Array, "n m"]:
    """``sum_i c_i D_i``, where all ``D_i`` are known."""
    terms = [jet[canonical(name)] * c for name, c in request.items()]
    return functools.reduce(jnp.add, terms)


# Multilayer perceptrons: all requests in one pass.


def propagate(
    layers: Layers,
    activation: Callable[[Array], Array],
    features: Function,
    coordinates: str,
) -> Derive:
    """Derivatives of ``x -> mlp(features(x))``, all carried forward through the layers together.

    A dense layer maps every derivative as it maps values, without the bias. An activation ``a``
    maps it, by Faà di Bruno's formula, to a sum over the partitions ``P`` of the derivative's
    coordinates::

        a(z)_x = a' z_x,    a(z)_xx = a' z_xx + a'' z_x z_x,    a(z)_S = sum_P a^(|P|) prod_B z_B

    A linear operator L is carried as one function, together with the values and the lower
    derivatives of its formula: ``L a(z) = a' L z`` plus, for each derivative of L, the partitions
    into two or more blocks. Of second order it is ``L a(z) = a' L z + a'' sum_ij c_ij z_i z_j``:
    three functions (h, h_x, L h) for the heat equation, fewer than nested derivatives need (as in
    the forward Laplacian, Li et al. 2023).

    Args:
      layers: layers of the perceptron, the last without activation.
      features: inputs of the first layer, computed from points.
      coordinates: as for :func:`forward_mode`.
    """

    def derive(
        points: Num[AnyArray, "n d"], requests: Sequence[Request]
    ) -> list[Float[Array, "#n f"]]:
        names, operators = plan(requests)
        all_requests = [*({name: 1.0} for name in names), *operators]
        values = forward_mode(features, coordinates)(points, all_requests)
        jet, carried = dict(zip(names, values, strict=False)), values[len(names) :]
        for i, (kernel, bias) in enumerate(layers):
            if i:
                jet, carried = _activate(activation, jet, carried, operators)
            # One product each: XLA:CPU takes three times as long for the gradient of a stacked one.
            jet = {name: values @ kernel for name, values in jet.items()}
            jet[""] = jet[""] + bias[None]
            carried = [values @ kernel for values in carried]
        by_operator = dict(zip(map(id, operators), carried, strict=True))
        return [
            by_operator[id(request)] if id(request) in by_operator else combine(jet, request)
            for request in requests
        ]

    return derive


def plan(requests: Sequence[Request]) -> tuple[list[str], list[Request]]:
    """The derivatives to carry, each after those that it depends on, and the operators to carry as
    one function: those with a derivative that nothing else needs."""
    names, operators = [""], list[Request]()
    for request in requests:
        if len(request) > 1 and "" not in request:
            operators.append(request)
            names += [part for name in request for part, rest in splits(name) if rest]
        else:
            names += request
    names = closed(names)
    return names, [r for r in operators if not {canonical(name) for name in r} <= set(names)]


def closed(names: Iterable[str]) -> list[str]:
    """Derivatives and all lower ones in their chain and product rules, in ascending order."""
    parts = {part for name in names for part, _ in splits(name)}
    return sorted(parts, key=lambda name: (len(name), name))


def splits(name: str) -> list[tuple[str, str]]:
    """All splits of a derivative's coordinates into two parts, as in Leibniz's rule."""

    def part(chosen: Iterable[bool]) -> str:
        return canonical(itertools.compress(name, chosen))

    choices = itertools.product((True, False), repeat=len(name))
    return [(part(way), part(not in_first for in_first in way)) for way in choices]


@functools.cache
def partitions(name: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The multiplicity of each partition of a derivative's coordinates into blocks.

    ``"xx"`` is ``(1, ("xx",)), (1, ("x", "x"))``.
    """

    def blocks(rest: str) -> list[tuple[str, ...]]:
        if not rest:
            return [()]
        result = []
        for size in range(len(rest)):
            for companions in itertools.combinations(range(1, len(rest)), size):
                block = rest[0] + "".join(rest[i] for i in companions)
                left = "".join(rest[i] for i in range(1, len(rest)) if i not in companions)
                result += [(block, *more) for more in blocks(left)]
        return result

    counted = Counter(tuple(sorted(map(canonical, partition))) for partition in blocks(name))
    return tuple((count, partition) for partition, count in counted.items())


def _activate(
    activation: Callable[[Array], Array],
    jet: Jet,
    carried: Sequence[Float[Array, "n m"]],
    operators: Sequence[Request],
) -> tuple[Jet, list[Float[Array, "n m"]]]:
    order = max(map(len, itertools.chain(jet, *operators)))
    slopes = derivatives_of(activation, jet[""], order)

    def chained(count: int, parts: Sequence[str]) -> Float[Array, "n m"]:
        return (
            slopes[len(parts)]
            * count
            * functools.reduce(jnp.multiply, (jet[block] for block in parts))
        )

    new = {"": slopes[0]}
    for name in list(jet)[1:]:
        new[name] = functools.reduce(jnp.add, itertools.starmap(chained, partitions(name)))
    moved = []
    for operator, values in zip(operators, carried, strict=True):
        lower = [
            c * chained(count, partition)
            for name, c in operator.items()
            for count, partition in partitions(name)
            if len(partition) > 1
        ]
        moved.append(functools.reduce(jnp.add, lower, slopes[1] * values))
    return new, moved


def derivatives_of(
    activation: Callable[[Array], Array], z: Float[Array, "..."], order: int
) -> list[Float[Array, "..."]]:
    """``[a(z), a'(z), …]`` up to an order, of an elementwise function.

    Closed forms for the hyperbolic tangent and the sine; nested forward mode for any other.
    """
    if activation is jnp.tanh:
        y = jnp.tanh(z)
        slope = 1 - y * y
        values = [y, slope, -2 * y * slope, slope * (6 * y * y - 2)]
    elif activation is jnp.sin:
        sine, cosine = jnp.sin(z), jnp.cos(z)
        values = [(sine, cosine, -sine, -cosine)[i % 4] for i in range(order + 1)]
    else:
        values = [activation(z)]
    while len(values) <= order:
        previous = functools.partial(_nth, activation, len(values))
        values.append(previous(z))
    return values[: order + 1]


def _nth(activation: Callable[[Array], Array], n: int, z: Array) -> Array:
    if not n:
        return activation(z)
    lower = functools.partial(_nth, activation, n - 1)
    return jax.jvp(lower, (z,), (jnp.ones_like(z),))[1]


def product(a: Jet, b: Jet, names: Sequence[str]) -> Jet:
    """Derivatives of a product by Leibniz's rule, ``(a b)_S = sum_{T in S} a_T b_(S - T)``."""
    return {
        name: functools.reduce(jnp.add, (a[first] * b[rest] for first, rest in splits(name)))
        for name in names
    }


def operator_of_product(
    operator: Request,
    a: Jet,
    moved_a: Float[Array, "n m"],
    b: Jet,
    moved_b: Float[Array, "n m"],
) -> Float[Array, "n m"]:
    """``L(a b) = a L b + b L a`` plus, for each derivative of L, the terms of Leibniz's rule with
    derivatives of both factors."""
    moved = a[""] * moved_b + b[""] * moved_a
    for name, c in operator.items():
        for first, rest in splits(name):
            if first and rest:
                moved += c * a[first] * b[rest]
    return moved
