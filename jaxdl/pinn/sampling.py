"""Points at which residuals are evaluated: in a box, on its faces, denser at large residuals."""

import operator
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.stats import qmc

from jaxdl.types import AnyArray, ArrayT

RULES = ("uniform", "sobol", "latin_hypercube", "grid")

Domain = Mapping[str, tuple[float, float]]
"""The interval of each coordinate, in the order of a point's columns."""


class Points(NamedTuple):
    """A rule for points of a box, or of the part of it where some coordinates are fixed."""

    count: int  # type: ignore[assignment]  # in the place of the tuple's method
    """Number of points."""
    fixed: Mapping[str, float] = {}
    """Fixed coordinates and their values: ``{"t": 0}`` is the initial line."""
    warp: Callable[..., Any] | None = None
    """A map of points within the box, [n, d] -> [n, d], of NumPy's or JAX's arrays: to have more
    early points, for example."""
    inside: Callable[..., Any] | None = None
    """Whether points belong to the domain, [n, d] -> [n]; None: the whole box."""


def check_name(name: str, kind: str) -> None:
    """Raise ValueError for a name that Python's source cannot hold: in ``u.ϕ`` it reads ``φ``."""
    normal = unicodedata.normalize("NFKC", name)
    if normal != name:
        raise ValueError(
            f"{kind}: Python reads the name {name!r} ({_code_points(name)}) as {normal!r} "
            f"({_code_points(normal)}): write {normal!a}, or another name"
        )


def _code_points(name: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in name)


def check_domain(domain: Domain) -> None:
    """Raise ValueError for a name that is not one letter and an interval that is none."""
    for name, (low, high) in domain.items():
        if len(name) != 1 or not name.isalpha():
            raise ValueError(f"domain: {name!r} is not a name for a coordinate, which is a letter")
        check_name(name, "domain")
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(f"domain: {name} from {low} to {high} is no interval")


def check_points(points: Any, domain: Domain, owner: str) -> Float[np.ndarray, "n d"]:
    """Given points as an array, of floats; they may be a list of lists.

    Raises:
      ValueError: for points of another shape, not numbers, not finite, or outside the domain.
    """
    try:
        points = np.asarray(points, float)
    except (TypeError, ValueError):
        raise ValueError(
            f"{owner}: points of type {type(points).__name__} are not an array of numbers "
            f"[n, {len(domain)}], nor a rule, jaxdl.pinn.sampling.Points"
        ) from None
    if points.ndim != 2 or points.shape[1] != len(domain) or not len(points):
        raise ValueError(f"{owner}: points of shape {list(points.shape)}, not [n, {len(domain)}]")
    for i, (name, (low, high)) in enumerate(domain.items()):
        out = ~((points[:, i] >= low) & (points[:, i] <= high))
        if out.any():
            j = int(np.argmax(out))
            raise ValueError(
                f"{owner}: point {j} has {name}={points[j, i]}, outside [{low:g}, {high:g}]"
            )
    return points


def draw(points: Points, domain: Domain, rule: str, seed: int) -> Float[np.ndarray, "n d"]:
    """Points by a rule, on the host.

    ``sobol`` is a scrambled Sobol sequence, ``latin_hypercube`` has one point in each of n slices
    along each coordinate (both SciPy's), ``grid`` is even and has the box's corners; of a grid in
    several dimensions the side is the n-th root, rounded up.

    Raises:
      ValueError: for an unknown rule, a count that is not a whole number from 1, a bad domain, a
        fixed coordinate that is unknown or outside.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}")
    check_domain(domain)
    try:
        operator.index(points.count)
    except TypeError:
        text = " ".join(repr(points.count).split())[:60]
        raise ValueError(
            f"Points({text}): the first argument is how many, a whole number as in Points(100); "
            "points of your own stand in a term without Points"
        ) from None
    if points.count < 1:
        raise ValueError(f"{points.count} points: at least one is needed")
    for name, value in points.fixed.items():
        check_name(name, "fixed")
        if name not in domain or not domain[name][0] <= value <= domain[name][1]:
            raise ValueError(f"{name}={value} is not on the domain {dict(domain)}")
    free = [name for name in domain if name not in points.fixed]
    drawn, count = np.empty((0, len(domain))), points.count
    while len(drawn) < points.count:  # more than once only where a part of the box counts
        if count > 1000 * points.count:
            raise ValueError("of 1,000 points of the box hardly one is inside of the domain")
        unit = _unit(rule, count, len(free), seed)
        placed = check_points(_place(unit, points, domain), domain, "drawn points, warped")
        drawn = placed if points.inside is None else placed[np.asarray(points.inside(placed))]
        count = 2 * count
    return drawn if rule == "grid" else drawn[: points.count]


def _unit(rule: str, count: int, dimensions: int, seed: int) -> Float[np.ndarray, "n d"]:
    if not dimensions:
        return np.zeros((count, 0))
    match rule:
        case "uniform":
            return np.random.default_rng(seed).random((count, dimensions))
        case "sobol":
            power = max(0, int(np.ceil(np.log2(count))))
            return qmc.Sobol(dimensions, rng=seed).random_base2(power)[:count]
        case "latin_hypercube":
            return qmc.LatinHypercube(dimensions, rng=seed).random(count)
        case _:
            side = int(np.ceil(count ** (1 / dimensions) - 1e-9))
            axes = np.meshgrid(*[np.linspace(0, 1, side)] * dimensions, indexing="ij")
            return np.stack([axis.ravel() for axis in axes], axis=-1)


def _place(unit: Float[ArrayT, "n f"], points: Points, domain: Domain) -> Float[ArrayT, "n d"]:
    xp = np if isinstance(unit, np.ndarray) else jnp
    columns = {n: xp.full(len(unit), value, unit.dtype) for n, value in points.fixed.items()}
    free = [name for name in domain if name not in points.fixed]
    for i, name in enumerate(free):
        low, high = domain[name]
        columns[name] = low + (high - low) * unit[:, i]
    placed = xp.stack([columns[name] for name in domain], axis=-1)
    return placed if points.warp is None else points.warp(placed)


def candidates(
    key: PRNGKeyArray, points: Points, domain: Domain, count: int
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    """Evenly random points on the device, and which of them are in the domain."""
    free = len(domain) - len(points.fixed)
    placed = _place(jax.random.uniform(key, (count, free)), points, domain)
    inside = jnp.ones(count, bool) if points.inside is None else points.inside(placed)
    return placed, inside


def refine(
    key: PRNGKeyArray,
    points: Float[AnyArray, "n d"],
    residual: Float[Array, " m"],
    candidates: Float[Array, "m d"],
    inside: Bool[Array, " m"],
    *,
    power: float = 1.0,
    floor: float = 1.0,
) -> Float[Array, "n d"]:
    """Residual-based adaptive distribution: n of m points, without repetition, drawn with
    probability proportional to ``|r|^k / mean(|r|^k) + c`` (Wu, Zhu, Tan, Kartha & Lu 2023).

    Args:
      points: those that are replaced, or stay where there are not as many others inside.
      residual: at the others, not negative.
      inside: which of the others belong to the domain; only those are drawn and averaged.
      power, floor: k and c; with c = 0 and a large k only the largest residuals are sampled, with
        a large c all points are alike.
    """
    size = jnp.where(inside, residual, 0) ** power
    mean = jnp.sum(size) / jnp.maximum(jnp.sum(inside), 1)
    chances = size / jnp.maximum(mean, jnp.finfo(size.dtype).tiny) + floor
    # The n largest of log p + Gumbel noise are a sample without replacement.
    noisy = jnp.log(chances) + jax.random.gumbel(key, chances.shape, chances.dtype)
    # No chance at all, log 0, is still better than being outside.
    lowest = jnp.finfo(noisy.dtype).min
    _, chosen = jax.lax.top_k(jnp.where(inside, jnp.maximum(noisy, lowest), -jnp.inf), len(points))
    return jnp.where(jnp.sum(inside) >= len(points), candidates[chosen], points)
