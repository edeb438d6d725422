"""The loss of a network on a problem, and the adaptation of points and weights to the residuals."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.pinn import sampling, weighting
from jaxdl.pinn.problem import Ansatz, Problem
from jaxdl.types import AnyArray, Batch, Collections, Hyper, LossFn, Params, PyTree


class Sample(NamedTuple):
    """Points at which the residuals of each term are evaluated, and their weights."""

    points: Mapping[str, Float[AnyArray, "_ d"]]
    weights: Mapping[str, Float[AnyArray, " _"]]
    """Weight of the squared residual at each point: at first that of the term."""


def draw_sample(problem: Problem, rule: str, seed: int) -> Sample:
    """Points of every term by a rule, with the terms' weights. Points of a face with one free
    coordinate are evenly spaced under any rule.

    Raises:
      ValueError: see :func:`jaxdl.pinn.sampling.draw` and ``check_points``; for a weight that is
        not one number from 0.
    """
    points, weights = {}, {}
    for i, (name, term) in enumerate(problem.terms.items()):
        weight = np.asarray(term.weight)
        if weight.ndim or weight.dtype.kind not in "biuf" or not 0 <= weight < np.inf:
            value = f"an array of shape {list(weight.shape)}" if weight.ndim else repr(term.weight)
            raise ValueError(
                f"term {name!r}: its weight must be one number from 0, not {value}; for a weight "
                "of each given point, multiply the residual by its root"
            )
        if isinstance(term.points, sampling.Points):
            fixed = len(term.points.fixed)
            line = fixed and len(problem.domain) - fixed < 2
            points[name] = sampling.draw(
                term.points, problem.domain, "grid" if line else rule, seed + i
            )
        else:
            points[name] = sampling.check_points(term.points, problem.domain, f"term {name!r}")
        weights[name] = np.full(len(points[name]), float(weight))
    return Sample(points, weights)


BLOCKS = {"cpu": 256}
"""Number of points that are evaluated at a time, by platform; all points on other platforms. On a
CPU the activations then stay in its cache, and a gradient of 8,192 points takes 40 % less time."""


def loss(
    ansatz: Ansatz, params: Params, sample: Sample, block: int | None = None
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """``sum_terms mean_points w r²``, and each term's unweighted mean square.

    The squares of a term with several residuals are added. The loss may be differentiated by the
    parameters, in reverse mode; the mean squares and the sample count as constants.

    Args:
      block: number of points that are evaluated at a time, such as :data:`BLOCKS`; None for all.
        Given points are always evaluated together: their residual may have data for each point.
    """
    total, means = jnp.zeros(()), {}
    for name, points in sample.points.items():
        weights = sample.weights[name]
        ruled = isinstance(ansatz.problem.terms[name].points, sampling.Points)
        size = block if ruled else None
        weighted, mean = _mean_squares(ansatz, name, size, params, points, weights)
        total, means[name] = total + weighted, lax.stop_gradient(mean)
    return total, means


def training_loss(ansatz: Ansatz, block: int | None = None) -> LossFn:
    """:func:`loss` of the points in ``collections["sample"]``, with each term's mean square as a
    metric, for :func:`jaxdl.train.state.make_search_step` and ``make_step``."""

    def loss_fn(params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: Any):
        value, means = loss(ansatz, params, collections["sample"], block)
        return value, (collections, means)

    return loss_fn


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _mean_squares(ansatz, name, size, params, points, weights):
    """``mean w r²`` and ``mean r²``; ``size`` points at a time."""
    return _over_blocks(
        functools.partial(_sums_of_squares, ansatz, name, params), size, points, weights
    )


def _mean_squares_forward(ansatz, name, size, params, points, weights):
    # The gradient of a block is computed with its value, so that no activations are stored.
    sums = functools.partial(_sums_of_squares, ansatz, name)
    gradient = functools.partial(jax.value_and_grad(sums, has_aux=True), params)
    (weighted, mean), slopes = _over_blocks(gradient, size, points, weights)
    return (weighted, mean), slopes


def _mean_squares_backward(ansatz, name, size, slopes, cotangents):
    return jax.tree.map(lambda slope: cotangents[0] * slope, slopes), None, None


_mean_squares.defvjp(_mean_squares_forward, _mean_squares_backward)


def _sums_of_squares(ansatz, name, params, points, weights, counted):
    squares = jnp.sum(ansatz.residual(params, name, points) ** 2, axis=-1)
    return jnp.sum(weights * squares), jnp.sum(counted * squares)


def _over_blocks(fn: Callable, size: int | None, points: AnyArray, weights: AnyArray) -> PyTree:
    """The sum of ``fn(points, weights, counted)`` over blocks, divided by the number of points."""
    n, counted = len(points), jnp.ones_like(weights)
    if size is None:
        return jax.tree.map(lambda leaf: leaf / n, fn(points, weights, counted))
    count = -(-n // size)
    short = -n % count  # the last block's missing points are copies that do not count
    padded = (
        jnp.pad(points, ((0, short), (0, 0)), mode="edge"),
        jnp.pad(weights, (0, short)),
        jnp.pad(counted, (0, short)),
    )
    blocks = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), padded)
    sums = lax.map(lambda block: fn(*block), blocks)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / n, sums)


class Refresh(NamedTuple):
    """Settings of :func:`refresh`, by which points and weights change at intervals."""

    candidates: int = 0
    """Number of random points from which new points of each term are drawn; 0 keeps the points."""
    power: float = 1.0
    """See :func:`jaxdl.pinn.sampling.refine`."""
    floor: float = 1.0
    """See :func:`jaxdl.pinn.sampling.refine`."""
    weighting: str = "fixed"
    """One of ``jaxdl.pinn.weighting.WEIGHTINGS``."""
    tolerance: float = 1.0
    """Tolerance of causal weights."""
    decay: float = 0.999
    """Decay of attention weights."""
    attention: float = 0.01
    """Rate of attention weights."""

    @property
    def changes(self) -> bool:
        """Whether points or weights change."""
        return bool(self.candidates) or self.weighting != "fixed"

    def check(self, problem: Problem, name: Callable[[str], str] = str, windows: int = 1) -> None:
        """Raise ValueError for settings that exclude each other or do not suit a problem.

        Args:
          name: the name of a field in messages.
          windows: the number of windows of time.
        """
        if self.weighting not in weighting.WEIGHTINGS:
            choices = ", ".join(weighting.WEIGHTINGS)
            raise ValueError(f"unknown weighting {self.weighting!r}: choose one of {choices}")
        candidates = f"{name('candidates')}={self.candidates}"
        if self.changes and windows > 1:
            field, value = ("candidates", 0) if self.candidates else ("weighting", "fixed")
            raise ValueError(
                f"{name('windows')}={windows}: points and weights stay as they are in windows, so "
                f"set {name(field)}={value}"
            )
        if self.candidates and self.weighting == "attention":
            raise ValueError(
                f"{name('weighting')}: attention weights belong to points, and {candidates} "
                "replaces these: one of the two"
            )
        if self.weighting == "causal" and "t" not in problem.domain:
            raise ValueError("causal weights need a coordinate named t")
        for term, rule in problem.interior.items():
            if 0 < self.candidates <= rule.count:
                raise ValueError(
                    f"{candidates} must be more than the {rule.count} points of {term!r} that are "
                    "drawn among them"
                )


def refresh(
    ansatz: Ansatz, settings: Refresh, params: Params, sample: Sample, key: PRNGKeyArray
) -> Sample:
    """New points and weights, computed from the present residuals.

    Raises:
      ValueError: see :meth:`Refresh.check`.
    """
    settings.check(ansatz.problem)
    problem = ansatz.problem
    points: dict[str, Any] = dict(sample.points)

    def size(name: str, term_points: AnyArray) -> Float[Array, " n"]:
        return jnp.sqrt(jnp.sum(ansatz.residual(params, name, term_points) ** 2, axis=-1))

    for i, name in enumerate(problem.terms):
        if settings.candidates and (rule := problem.interior.get(name)):
            draw_key, refine_key = jax.random.split(jax.random.fold_in(key, i))
            candidates, inside = sampling.candidates(
                draw_key, rule, problem.domain, settings.candidates
            )
            options = {"power": settings.power, "floor": settings.floor}
            points[name] = sampling.refine(
                refine_key, points[name], size(name, candidates), candidates, inside, **options
            )
    base = {name: term.weight for name, term in problem.terms.items()}
    weights = dict(sample.weights)
    match settings.weighting:
        case "gradient_norm":

            def slope(name: str) -> Float[Array, ""]:
                def mean_square(params: Params) -> Float[Array, ""]:
                    squares = ansatz.residual(params, name, points[name]) ** 2
                    return jnp.mean(jnp.sum(squares, axis=-1))

                return optax.tree.norm(jax.grad(mean_square)(params))

            factors = weighting.gradient_norm_weights({name: slope(name) for name in points})
            weights = {n: jnp.full_like(w, base[n]) * factors[n] for n, w in weights.items()}
        case "causal":
            column, (first, last) = problem.coordinates.index("t"), problem.domain["t"]
            for name in problem.interior:
                term_points = points[name]
                weights[name] = base[name] * weighting.causal_weights(
                    size(name, term_points),
                    term_points[:, column],
                    first=first,
                    last=last,
                    tolerance=settings.tolerance,
                )
        case "attention":
            for name, term_points in points.items():
                root = weighting.attention_weights(
                    jnp.sqrt(weights[name] / base[name]),
                    size(name, term_points),
                    decay=settings.decay,
                    rate=settings.attention,
                )
                weights[name] = base[name] * root**2
    return Sample(points, weights)
