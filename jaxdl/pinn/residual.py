"""Residuals written as on paper.

A residual is a function of the fields at some points and of the points themselves::

    def burgers(u, at):
        return u.t + u * u.x - 0.01 * u.xx

``u`` stands for the solution at the points, ``u.xx`` for its second derivative there, ``u.at(x=1)``
for the solution at the same points but with x = 1; ``at.x`` are coordinates, and ``at.k`` is a
trainable physical parameter. The result is one number a point, or a tuple of such residuals.

The value of a coordinate may be computed: ``u.at(t=at.t - 0.1)`` is the solution a little earlier,
``u.at(x=-at.x)`` its mirror image, ``u.at(x=at.s)`` its value on an unknown boundary at the
trainable parameter ``s``; see :meth:`Field.at`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array, Float, Num

from jaxdl.pinn.derivatives import Derive, Request, canonical, floating
from jaxdl.types import AnyArray

Residual = Callable[..., Any]
"""``residual(*fields, at)``: one number a point, or several such residuals."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayKey:
    """An array as part of a key: equal to the same array only."""

    array: Array | np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArrayKey) and self.array is other.array

    def __hash__(self) -> int:
        return id(self.array)


Where = tuple[tuple[str, float | ArrayKey], ...]
"""Replaced coordinates and their values."""

Need = tuple[int, Where, Request]
"""The index of a field, the replaced coordinates, and a linear operator."""


class UnknownDerivative(AttributeError, ValueError):
    """A derivative by an unknown coordinate."""


class Expression:
    """A linear combination of derivatives of fields, plus numbers: ``sum_i c_i D_i u_i + rest``.

    Sums, differences and multiples by numbers are such combinations again, so that a linear
    operator can be carried through a network as a whole. Any other operation has an array as its
    result, also the product with an array of the points. Functions of ``jax.numpy`` take ``value``.
    """

    __array_ufunc__ = None  # NumPy's numbers and arrays leave arithmetic to this class

    def __init__(self, terms: Mapping[tuple[int, Where], Request], rest: Any, look_up: Callable):
        self._terms, self._rest, self._look_up = terms, rest, look_up

    @property
    def value(self) -> Float[AnyArray, " n"]:
        """The numbers themselves, for functions such as ``jnp.sin(u.value)``."""
        parts = [self._look_up((*key, request)) for key, request in self._terms.items()]
        return sum(parts[1:], parts[0]) + self._rest

    def _scaled(self, factor: Any) -> "Expression | AnyArray":
        if isinstance(factor, Expression) or jnp.ndim(factor):
            return self.value * _value(factor)
        return self._times(factor)

    def _times(self, number: Any) -> "Expression":
        terms = {key: {n: c * number for n, c in r.items()} for key, r in self._terms.items()}
        return Expression(terms, self._rest * number, self._look_up)

    def __add__(self, other: Any) -> "Expression":
        if not isinstance(other, Expression):
            return Expression(self._terms, self._rest + other, self._look_up)
        terms = dict(self._terms)
        for key, request in other._terms.items():
            coefficients = dict(terms.get(key, {}))
            for name, c in request.items():
                coefficients[name] = coefficients[name] + c if name in coefficients else c
            terms[key] = coefficients
        return Expression(terms, self._rest + other._rest, self._look_up)

    def __mul__(self, other: Any) -> "Expression | AnyArray":
        return self._scaled(other)

    def __neg__(self) -> "Expression":
        return self._times(-1.0)

    def __sub__(self, other: Any) -> "Expression":
        return self + (-other)

    def __rsub__(self, other: Any) -> "Expression":
        return (-self) + other

    def __truediv__(self, other: Any) -> "Expression | AnyArray":
        if isinstance(other, Expression) or jnp.ndim(other):
            return self.value / _value(other)
        return self._scaled(1 / other)

    def __rtruediv__(self, other: Any) -> AnyArray:
        return other / self.value

    def __pow__(self, power: Any) -> AnyArray:
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

    def at(self, **coordinates: Any) -> "Field":
        """The field at the same points, but with these coordinates.

        A coordinate becomes one number, or one a point, [n]. It may be computed from coordinates
        (``u.at(x=-at.x)``), trained parameters (``u.at(x=at.s)``; gradients pass through it) and
        fields (``u.at(t=at.t - tau)`` with a field ``tau``).

        Derivatives are those of the field at the new points: ``u.at(x=s).x`` is ``u_x(s)``, whether
        or not s depends on x. By the chain rule, ``d/dx u(s(x)) = u.at(x=s).x * ds/dx``.

        The new points need not be in the domain, outside of which the network extrapolates. Equal
        numbers share one evaluation, and so do uses of one array.

        Raises:
          ValueError: for an unknown coordinate, and for values that are not finite numbers.
        """
        if odd := sorted(set(coordinates) - set(self._coordinates)):
            raise ValueError(
                f"{self._name}.at({odd[0]}=…): the coordinates are {', '.join(self._coordinates)}"
            )
        places = {c: _place(f"{self._name}.at({c}=…)", x) for c, x in coordinates.items()}
        where = tuple(sorted((dict(self._where) | places).items(), key=lambda item: item[0]))
        return Field(self._name, self._i, self._coordinates, self._look_up, where)


def _place(coordinate: str, value: Any) -> float | ArrayKey:
    """A number, or the key of an array that is checked where the number of points is known."""
    value = _value(value)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind not in "biuf":
        kind = type(value).__name__
        raise ValueError(f"{coordinate}: a place is one number, or one a point, [n], not {kind}")
    if isinstance(array, jax.Array):
        return ArrayKey(array)
    if not np.isfinite(array).all():
        raise ValueError(f"{coordinate}: a place must be finite")
    return ArrayKey(array) if array.ndim else float(array)


def evaluate(
    residual: Residual,
    derive: Derive,
    points: Num[AnyArray, "n d"],
    coordinates: str,
    fields: Sequence[str] = ("u",),
    physics: Mapping[str, Float[Array, ""]] | None = None,
) -> Float[Array, "n r"]:
    """A residual, or r of them, at points.

    JAX's tracing calls it twice: first to record the derivatives that it needs, which are then
    computed together, and then with them. Arrays of replaced coordinates (``u.at(x=…)``) are those
    of the second call, so that they may be computed from values of the solution.

    Args:
      residual: function of the fields and of ``at``, which has the coordinates and ``physics``.
      derive: derivatives of the solution, see :mod:`jaxdl.pinn.derivatives`; values [n, fields].
      coordinates: the name of each column of ``points``.

    Raises:
      ValueError: for an unknown derivative or coordinate, another shape than [n], and a derivative
        multiplied by one number that is computed from values of the solution.
    """
    points = floating(points)
    n, name = len(points), getattr(residual, "__name__", "residual")
    columns = {c: points[:, i] for i, c in enumerate(coordinates)}
    at = SimpleNamespace(**columns, **(physics or {}))

    def call(look_up: Callable[[Need], Float[AnyArray, " n"]]) -> Float[Array, "n r"]:
        fields_at = [Field(f, i, coordinates, look_up) for i, f in enumerate(fields)]
        values = residual(*fields_at, at)
        values = [_value(value) for value in (values if isinstance(values, tuple) else (values,))]
        for value in values:
            if jnp.shape(value) != (n,):
                raise ValueError(
                    f"the residual {name!r} at {n} points has shape {list(jnp.shape(value))}; it "
                    f"must be one number a point, [{n}]"
                )
        return jnp.stack(values, axis=-1)

    needs: list[Need] = []

    def note(need: Need) -> Float[Array, " n"]:
        for coordinate, place in need[1]:
            shape = jnp.shape(place.array) if isinstance(place, ArrayKey) else ()
            if shape not in ((), (n,)):
                raise ValueError(
                    f"the residual {name!r} at {n} points asks for {fields[need[0]]}.at("
                    f"{coordinate}=…) with shape {list(shape)}; it must be one number, or one a "
                    f"point, [{n}]"
                )
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
    if _scaled_by_values(call, needs, jnp.ones(n, points.dtype)):
        raise ValueError(
            f"the residual {name!r} multiplies a derivative by one number that is made of values "
            "of the solution, such as a mean: write u.x.value * number, and mind that a residual "
            "does not see all points at once"
        )
    groups: dict[Where, dict[tuple, Request]] = {}
    for _, where, request in needs:
        groups.setdefault(where, {}).setdefault(_key(request), request)

    def derivatives(group: Where, where: Where) -> tuple[Where, dict[tuple, AnyArray]]:
        moved, requests = points, groups[group]
        for coordinate, place in where:
            column = place.array if isinstance(place, ArrayKey) else place
            column = jnp.asarray(column, points.dtype)
            moved = moved.at[:, coordinates.index(coordinate)].set(column)
        return where, dict(zip(requests, derive(moved, list(requests.values())), strict=True))

    # Arrays are right in the second call only: they may be computed from values of the solution.
    values = {where: derivatives(where, where) for where in groups if where == _form(where)}
    noted = iter(needs)

    def look_up(need: Need) -> Float[AnyArray, " n"]:
        field, group, request = next(noted, (None, (), {}))
        same = (field, _form(group), set(request)) == (need[0], _form(need[1]), set(need[2]))
        if same and group not in values:
            values[group] = derivatives(group, need[1])
        if not same or need[1] != values[group][0]:
            raise ValueError(
                f"the residual {name!r} does not ask for the same derivatives each time it is "
                "called: it must be a pure function"
            )
        return values[group][1][_key(request)][:, field]

    return call(look_up)


def _form(where: Where) -> tuple[tuple[str, float | None], ...]:
    """Replaced coordinates without their arrays, which differ from call to call."""
    return tuple((c, None if isinstance(place, ArrayKey) else place) for c, place in where)


def _scaled_by_values(
    call: Callable[[Callable[[Need], Array]], Array],
    needs: Sequence[Need],
    ones: Float[Array, " n"],
) -> bool:
    """Whether a coefficient of an operator depends on values of the solution.

    Operators are computed before their values are known, so such a coefficient would be wrong.
    """
    if not any(isinstance(c, jax.Array) for _, _, request in needs for c in request.values()):
        return False

    def coefficients(ones: Float[Array, " n"]) -> list[list[Any]]:
        requests: list[Request] = []

        def look_up(need: Need) -> Float[Array, " n"]:
            requests.append(need[2])
            return ones

        call(look_up)
        return [list(request.values()) for request in requests]

    jaxpr = jax.make_jaxpr(coefficients)(ones).jaxpr
    dependent = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in dependent for x in equation.invars):
            dependent |= set(equation.outvars)
    return any(not isinstance(x, Literal) and x in dependent for x in jaxpr.outvars)


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Expression) else value


def _key(request: Request) -> tuple:
    """A key that is equal only for equal operators; coefficients may be traced."""
    return tuple((n, c if isinstance(c, int | float) else id(c)) for n, c in request.items())
