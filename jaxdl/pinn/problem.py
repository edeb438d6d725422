"""A differential equation with its conditions, and a network as its solution.

::

    def heat(k):
        def equation(u, at):
            return u.t - k * u.xx

        def initial(u, at):
            return u - jnp.exp(-((at.x / 0.1) ** 2))

        return Problem(
            domain={"t": (0, 1), "x": (-1, 1)},
            terms={
                "equation": Term(equation, Points(2048)),
                "initial": Term(initial, Points(129, fixed={"t": 0})),
            },
            solution=lambda points: ...,
        )
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxdl.nn.models.mlp import MLP, dense_layers
from jaxdl.pinn.derivatives import (
    Derive,
    Function,
    Jet,
    Request,
    combine,
    forward_mode,
    operator_of_product,
    plan,
    product,
    propagate,
)
from jaxdl.pinn.residual import Residual, evaluate
from jaxdl.pinn.sampling import Domain, Points, check_domain, check_name
from jaxdl.types import AnyArray, Params


class Term(NamedTuple):
    """A residual whose zero is sought at some points."""

    residual: Residual
    """A function of the fields and of ``at``; see :mod:`jaxdl.pinn.residual`."""
    points: Points | Float[np.ndarray, "n d"]
    """A rule for drawing points, or the points themselves, as of data."""
    weight: float = 1.0
    """Weight of the mean square in the loss, one number from 0."""


class Problem(NamedTuple):
    """A differential equation with its conditions, and its solution for judging networks."""

    domain: Domain
    """The interval of each coordinate."""
    terms: Mapping[str, Term]
    """The equation and the conditions, by name."""
    solution: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n f"]] | None = None
    """The exact solution or a reference, [n, fields] at points [n, d]; for judgement only."""
    fields: tuple[str, ...] = ("u",)
    """Names of the unknown functions."""
    physics: Mapping[str, float] = {}
    """Initial values of trained parameters of the equation; residuals read them from ``at``."""
    parameters: Callable[[Mapping[str, Array]], Mapping[str, Array]] = dict
    """The reported parameters, computed from ``physics``, such as ``{"k": exp(log k)}``."""
    truth: Mapping[str, float] = {}
    """The true values of the reported parameters."""
    features: Function | None = None
    """Network inputs, computed from points; periodic ones make a periodic solution. None: the
    coordinates, scaled to [-1, 1]."""
    constraint: Callable[..., tuple[Any, Any]] | None = None
    """Offset and factor, [n, fields], computed from points: ``offset + factor * network`` meets a
    condition wherever the factor vanishes."""

    @property
    def coordinates(self) -> str:
        """Names of the coordinates, in the order of a point's columns."""
        return "".join(self.domain)

    @property
    def interior(self) -> dict[str, Points]:
        """Rules of the terms whose points are drawn in the whole domain, by term."""
        rules = {name: term.points for name, term in self.terms.items()}
        return {n: r for n, r in rules.items() if isinstance(r, Points) and not r.fixed}


def check_constraint(problem: Problem, points: Num[AnyArray, "n d"]) -> None:
    """Raise ValueError for a constraint that is not a function of points to an offset and a factor,
    each one number, [n, 1] or [n, fields]."""
    if problem.constraint is None:
        return
    example = "such as `lambda p: (u0(p[:, 1:]), p[:, :1])`"
    if not callable(problem.constraint):
        raise ValueError(f"constraint= must be a function, {example}")
    parts = problem.constraint(jnp.asarray(points))
    if not isinstance(parts, tuple) or len(parts) != 2:
        raise ValueError(f"constraint= must return offset and factor, {example}")
    fields = len(problem.fields)
    for name, part in zip(("offset", "factor"), parts, strict=True):
        shape = list(jnp.shape(part))
        if shape and shape not in ([a, b] for a in (1, len(points)) for b in (1, fields)):
            size = f"[{len(points)}, {fields}]"
            raise ValueError(
                f"constraint=: at {len(points)} points its {name} has shape {shape}; it must be "
                f"{size}, {example}"
            )


def scaled(domain: Domain) -> Function:
    """The default features of a network: coordinates, each from -1 to 1."""
    low, high = np.array(list(domain.values()), float).T[:, None]
    return lambda points: (2 * points - low - high) / (high - low)


def periodic(domain: Domain, by: str, multiples: Sequence[int] = (1,)) -> Function:
    """Features ``cos k w x, sin k w x`` of the coordinates ``by``, in which every function of them
    is periodic, and the other coordinates scaled to [-1, 1].

    Args:
      multiples: the numbers ``k`` of periods in the domain; ``w = 2 pi / (high - low)``.
    """

    def features(points: Num[AnyArray, "n d"]) -> Float[Array, "n m"]:
        columns: list[Any] = []
        for i, (name, (low, high)) in enumerate(domain.items()):
            unit = (points[:, i] - low) / (high - low)
            if name in by:
                for k in multiples:
                    columns += [jnp.cos(2 * k * jnp.pi * unit), jnp.sin(2 * k * jnp.pi * unit)]
            else:
                columns.append(2 * unit - 1)
        return jnp.stack(columns, axis=-1)

    return features


@dataclasses.dataclass(frozen=True, eq=False)
class Ansatz:
    """A network as the solution of a problem.

    Raises:
      ValueError: for names of coordinates or physical parameters that a residual cannot use.
    """

    problem: Problem
    network: MLP

    def __post_init__(self) -> None:
        check_domain(self.problem.domain)
        for name in self.problem.physics:
            check_name(name, "physics")
            if name in self.problem.domain:
                raise ValueError(
                    f"physics: a parameter and a coordinate are both called {name!r}, and at.{name}"
                    " can be only one of them: rename the parameter"
                )

    @property
    def features(self) -> Function:
        """The function from points to network inputs."""
        return self.problem.features or scaled(self.problem.domain)

    def init(self, key: Array, dtype: Any = float) -> Params:
        """Parameters of the network, and physical parameters of the problem."""
        domain = np.array(list(self.problem.domain.values()), float)
        network = self.network.init(key, self.features(jnp.asarray(domain.mean(1)[None], dtype)))
        physics = {name: jnp.asarray(x, dtype) for name, x in self.problem.physics.items()}
        return {"network": network["params"], "physics": physics}

    def derive(self, params: Params) -> Derive:
        """Derivatives of the solution."""
        layers = dense_layers({"params": params["network"]})
        network = propagate(
            layers, self.network.activation, self.features, self.problem.coordinates
        )
        constraint = self.problem.constraint
        if constraint is None:
            return network

        def derive(points: Num[AnyArray, "n d"], requests: Sequence[Request]) -> list[Array]:
            names, operators = plan(requests)
            all_requests = [*({name: 1.0} for name in names), *operators]

            def split(values: list[Array]) -> tuple[Jet, list[Array]]:
                return dict(zip(names, values, strict=False)), values[len(names) :]

            parts = (lambda p: constraint(p)[0]), (lambda p: constraint(p)[1])
            offset, factor = (
                split(forward_mode(part, self.problem.coordinates)(points, all_requests))
                for part in parts
            )
            inner = split(network(points, all_requests))
            products = product(factor[0], inner[0], names)
            jet = {name: products[name] + offset[0][name] for name in names}
            carried = {
                id(operator): offset[1][i]
                + operator_of_product(operator, factor[0], factor[1][i], inner[0], inner[1][i])
                for i, operator in enumerate(operators)
            }
            return [
                carried[id(request)] if id(request) in carried else combine(jet, request)
                for request in requests
            ]

        return derive

    def __call__(self, params: Params, points: Num[AnyArray, "n d"]) -> Float[Array, "n f"]:
        """The solution at points."""
        (values,) = self.derive(params)(points, [{"": 1.0}])
        return values

    def residual(
        self, params: Params, term: str, points: Num[AnyArray, "n d"]
    ) -> Float[Array, "n r"]:
        """A term's residuals at points."""
        problem = self.problem
        return evaluate(
            problem.terms[term].residual,
            self.derive(params),
            points,
            problem.coordinates,
            problem.fields,
            params["physics"],
        )
