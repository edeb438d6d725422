"""Residuals written as on paper.

A residual is a function of the fields at some points and of the points themselves::

    def burgers(u, at):
        return u.t + u * u.x - 0.01 * u.xx

``u`` stands for the solution at the points, ``u.xx`` for its second derivative there, ``u.at(x=1)``
for the solution at the same points but with x = 1; ``at.x`` are coordinates, and ``at.k`` is a
trainable physical parameter. What comes out is one number a point, or a tuple of such residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.pinn.derivatives import Derive, Request, canonical

Residual = Callable[..., Any]
"""``residual(*fields, at)``: one number a point, or several such residuals."""

Where = tuple[tuple[str, float], ...]
"""Coordinates that are replaced, and by what."""

Need = tuple[int, Where, Request]
"""Of which field, where, which linear operator."""


class UnknownDerivative(AttributeError, ValueError):
    """A derivative by a coordinate that there is not."""


class Expression:
    """A linear combination of derivatives of fields, plus numbers: ``sum_i c_i D_i u_i + rest``.

    Sums, differences and multiples by numbers stay such combinations, so that a linear operator
    can be carried through a network as a whole; whatever else is done makes an array of it, also a
    multiple by an array of the points. Functions of ``jax.numpy`` take ``value``.
    """

    __array_ufunc__ = None  # NumPy's numbers and arrays leave arithmetic to this class

    def __init__(self, terms: Mapping[tuple[int, Where], Request], rest: Any, look_up: Callable):
        self._terms, self._rest, self._look_up = terms, rest, look_up

    @property
    def value(self) -> Float[Array, " n"]:
        """The numbers themselves, for functions such as ``jnp.sin(u.value)``."""
        parts = [self._look_up((*of, request)) for of, request in self._terms.items()]
        return sum(parts[1:], parts[0]) + self._rest

    def _scaled(self, factor: Any) -> Expression | Array:
        if isinstance(factor, Expression) or jnp.ndim(factor):
            return self.value * _value(factor)
        terms = {of: {n: c * factor for n, c in r.items()} for of, r in self._terms.items()}
        return Expression(terms, self._rest * factor, self._look_up)

    def __add__(self, other: Any) -> Expression:
        if not isinstance(other, Expression):
            return Expression(self._terms, self._rest + other, self._look_up)
        terms = dict(self._terms)
        for of, request in other._terms.items():
            mine = dict(terms.get(of, {}))
            for name, c in request.items():
                mine[name] = mine[name] + c if name in mine else c
            terms[of] = mine
        return Expression(terms, self._rest + other._rest, self._look_up)

    def __mul__(self, other: Any) -> Expression | Array:
        return self._scaled(other)

    def __neg__(self) -> Expression:
        return self._scaled(-1.0)

    def __sub__(self, other: Any) -> Expression:
        return self + (-other)

    def __rsub__(self, other: Any) -> Expression:
        return (-self) + other

    def __truediv__(self, other: Any) -> Expression | Array:
        if isinstance(other, Expression) or jnp.ndim(other):
            return self.value / _value(other)
        return self._scaled(1 / other)

    def __rtruediv__(self, other: Any) -> Array:
        return other / self.value

    def __pow__(self, power: Any) -> Array:
        return self.value**power

    __radd__, __rmul__ = __add__, __mul__


class Field(Expression):
    """A component of the solution at a term's points; an attribute is its derivative there."""

    def __init__(self, name: str, i: int, coordinates: str, look_up: Callable, where: Where = ()):
        super().__init__({(i, where): {"": 1.0}}, 0.0, look_up)
        self._name, self._i, self._coordinates, self._where = name, i, coordinates, where

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)
        if odd := sorted(set(name) - set(self._coordinates)):
            raise UnknownDerivative(
                f"unknown derivative {name!r} of {self._name}: there is no coordinate {odd[0]!r}, "
                f"only {', '.join(self._coordinates)}"
            )
        terms = {(self._i, self._where): {canonical(name): 1.0}}
        return Expression(terms, 0.0, self._look_up)

    def at(self, **coordinates: float) -> Field:
        """The field at the same points, but with these coordinates."""
        if odd := sorted(set(coordinates) - set(self._coordinates)):
            raise ValueError(
                f"{self._name}.at({odd[0]}=…): the coordinates are {', '.join(self._coordinates)}"
            )
        where = tuple(sorted((dict(self._where) | coordinates).items()))
        return Field(self._name, self._i, self._coordinates, self._look_up, where)


def evaluate(
    residual: Residual,
    derive: Derive,
    points: Float[Array, "n d"],
    coordinates: str,
    fields: Sequence[str] = ("u",),
    physics: Mapping[str, Float[Array, ""]] | None = None,
) -> Float[Array, "n r"]:
    """A residual, or r of them, at points.

    It is called twice while JAX traces it: once to see which derivatives it needs, which are then
    computed together, and once with them.

    Args:
      residual: of the fields and of ``at``, which has the coordinates and ``physics``.
      derive: of the solution, from :mod:`jaxdl.pinn.derivatives`; its values are [n, fields].
      coordinates: the name of each column of ``points``.

    Raises:
      ValueError: for a derivative or coordinate that there is not, or another shape than [n].
    """
    points = jnp.asarray(points)
    n, name = len(points), getattr(residual, "__name__", "residual")
    columns = {c: points[:, i] for i, c in enumerate(coordinates)}
    at = SimpleNamespace(**columns, **(physics or {}))

    def call(look_up: Callable[[Need], Float[Array, " n"]]) -> Float[Array, "n r"]:
        known = [Field(f, i, coordinates, look_up) for i, f in enumerate(fields)]
        found = residual(*known, at)
        found = [_value(each) for each in (found if isinstance(found, tuple) else (found,))]
        for each in found:
            if jnp.shape(each) != (n,):
                raise ValueError(
                    f"the residual {name!r} at {n} points has shape {list(jnp.shape(each))}; it "
                    f"must be one number a point, [{n}]"
                )
        return jnp.stack(found, axis=-1)

    needs: list[Need] = []

    def note(need: Need) -> Float[Array, " n"]:
        needs.append(need)
        return jnp.ones(n, points.dtype)

    try:
        call(note)
    except TypeError as error:
        text = str(error)
        wrapped = "Field" in text or "Expression" in text
        if not wrapped and "argument" not in text:
            raise
        hint = " (functions of jax.numpy take u.value, not u)" if wrapped else ""
        raise ValueError(
            f"the residual {name!r}, called with ({', '.join(fields)}, at): "
            f"{text.splitlines()[0]}{hint}"
        ) from error
    values: dict[int, Array] = {}
    for where in dict.fromkeys(where for _, where, _ in needs):
        there = points
        for coordinate, value in where:
            there = there.at[:, coordinates.index(coordinate)].set(value)
        asked: dict[tuple, Request] = {}
        mine = {i: need for i, need in enumerate(needs) if need[1] == where}
        for _, _, request in mine.values():
            asked.setdefault(_key(request), request)
        found = dict(zip(asked, derive(there, list(asked.values())), strict=True))
        values |= {i: found[_key(request)][:, field] for i, (field, _, request) in mine.items()}
    order = iter(range(len(needs)))

    def look_up(need: Need) -> Float[Array, " n"]:
        i = next(order, None)
        if i is None or (need[:2], set(need[2])) != (needs[i][:2], set(needs[i][2])):
            raise ValueError(
                f"the residual {name!r} does not ask for the same derivatives each time it is "
                "called: it must be a pure function"
            )
        return values[i]

    return call(look_up)


def _value(of: Any) -> Any:
    return of.value if isinstance(of, Expression) else of


def _key(request: Request) -> tuple:
    """Equal for operators known to be the same; coefficients may be traced."""
    return tuple((n, c if isinstance(c, int | float) else id(c)) for n, c in request.items())
