"""Errors of a network's solution: residuals at held-out points, and the distance to the exact
solution."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdl.pinn import objective
from jaxdl.pinn.problem import Ansatz, Problem, Term, check_constraint
from jaxdl.pinn.sampling import Points, draw
from jaxdl.types import AnyArray, Params, PyTree


class Heldout(NamedTuple):
    """Held-out points of the terms, and a solution on a grid."""

    sample: objective.Sample
    points: Float[np.ndarray, "n d"]
    """A grid of the whole domain."""
    solution: Float[np.ndarray, "n f"]
    """The exact solution, or the reference, on that grid."""
    singular: Mapping[str, Float[AnyArray, "_ d"]] = {}
    """Points that were left out of the sample, by term."""


def make_heldout(ansatz: Ansatz, count: int) -> Heldout:
    """Held-out points: a grid of ``count`` points for each term with a rule, the given points of
    the other terms, and the solution on a grid of the domain.

    Raises:
      ValueError: if there is no solution, or if it has another shape, is not finite somewhere, or
        is 0 everywhere; for a constraint of another shape.
    """
    problem = ansatz.problem
    if problem.solution is None:
        raise ValueError("there is no solution to be judged by: give an exact or another's one")

    def on_grid(term: Term) -> Term:
        rule = term.points
        if isinstance(rule, Points) and len(rule.fixed) < len(problem.domain):
            # What warps the whole domain is for training; on a face it says where the face is.
            rule = rule._replace(count=count, warp=rule.warp if rule.fixed else None)
        return term._replace(points=rule, weight=1.0)

    on_grids = problem._replace(terms={n: on_grid(term) for n, term in problem.terms.items()})
    sample = objective.draw_sample(on_grids, "grid", 0)
    rule = next(iter(on_grids.interior.values()), Points(count))
    points = draw(rule, problem.domain, "grid", 0)
    check_constraint(problem, points)
    with np.errstate(all="ignore"):  # what is not finite is refused below, in words
        solution = np.asarray(problem.solution(points))
    shape = [len(points), len(problem.fields)]
    if list(solution.shape) != shape:
        raise ValueError(
            f"the solution at {len(points)} points has shape {list(solution.shape)}; it must be "
            f"{shape}"
        )
    if not np.isfinite(solution).all():
        raise ValueError(
            f"the solution, by which is judged, {not_finite(problem, points, solution)}: leave it "
            "out of the domain, or of Points by inside="
        )
    if not solution.any():
        raise ValueError("the solution, by which is judged, is 0 everywhere: no error is relative")
    return Heldout(sample, points, solution)


def judge(
    ansatz: Ansatz,
    params: Params,
    sample: objective.Sample,
    heldout: Heldout,
    block: int | None = None,
) -> dict[str, PyTree]:
    """Losses and errors of a network.

    Args:
      block: as for :func:`jaxdl.pinn.objective.loss`.

    Returns:
      ``train_loss`` on the sample and ``heldout_loss``, both with all weights 1;
      ``heldout_{term}`` for each term; ``rel_l2``, the norm of the error over that of the solution;
      ``parameters``, the physical ones by name.
    """
    weights = jax.tree.map(jnp.ones_like, sample.weights)
    train, _ = objective.loss(ansatz, params, sample._replace(weights=weights), block)
    heldout_loss, means = objective.loss(ansatz, params, heldout.sample, block)
    error = ansatz(params, heldout.points) - heldout.solution
    return {
        "train_loss": train,
        "heldout_loss": heldout_loss,
        "rel_l2": jnp.linalg.norm(error) / jnp.linalg.norm(heldout.solution),
        **{f"heldout_{term}": mean for term, mean in means.items()},
        "parameters": dict(ansatz.problem.parameters(params["physics"])),
    }


def check_start(
    ansatz: Ansatz,
    params: Params,
    points: Mapping[str, Float[AnyArray, "_ d"]],
    heldout: Heldout,
    values: Mapping[str, Any],
) -> None:
    """Raise ValueError, naming a point, if a loss or error of an untrained network is not finite.

    Args:
      points: those of training, by term.
      values: the result of :func:`judge` for these parameters.
    """
    if not np.isfinite(values["train_loss"]):
        for term, places in points.items():
            residual = ansatz.residual(params, term, places)
            if not np.isfinite(residual).all():
                raise ValueError(
                    f"the residual {term!r} {not_finite(ansatz.problem, places, residual)} "
                    "before any training: look for NaN in its data and formula"
                )
        raise ValueError("the loss is not finite before any training")
    if not np.isfinite(values["rel_l2"]):
        prediction = ansatz(params, heldout.points)
        raise ValueError(
            "the network, with the problem's features and constraint, "
            f"{not_finite(ansatz.problem, heldout.points, prediction)}: leave it out of the "
            "domain, or of Points by inside="
        )


def not_finite(
    problem: Problem, points: Float[AnyArray, "n d"], values: Float[AnyArray, "n m"]
) -> str:
    """The first point at which values are not finite, as the predicate of a sentence."""
    i = int(np.argmin(np.isfinite(values).all(axis=-1)))
    return f"is not finite at point {i} of {len(points)} ({describe_point(problem, points[i])})"


def describe_point(problem: Problem, point: Float[AnyArray, " d"]) -> str:
    """A point's coordinates in words."""
    return ", ".join(f"{c}={x:g}" for c, x in zip(problem.domain, point, strict=True))


PROBES = 8
"""Number of random networks; a residual that is finite for none of them is singular at a point."""


def leave_out_singular(ansatz: Ansatz, heldout: Heldout) -> Heldout:
    """The held-out sample without singular points, which become ``singular``: those at which a
    residual is not finite for any of :data:`PROBES` networks, such as ``u_r / r`` at r = 0.

    Raises:
      ValueError: if all points of a term are singular.
    """

    @functools.partial(jax.jit, static_argnums=1)
    def finite(key: jax.Array, term: str, points: Float[AnyArray, "n d"]) -> Bool[Array, " n"]:
        return jnp.isfinite(ansatz.residual(ansatz.init(key), term, points)).all(axis=-1)

    keys = jax.random.split(jax.random.key(0), PROBES)
    points, weights, singular = {}, {}, {}
    for term, term_points in heldout.sample.points.items():
        regular = np.any([finite(key, term, term_points) for key in keys], axis=0)
        if not regular.any():
            raise ValueError(
                f"the residual {term!r} is finite at none of its {len(term_points)} held-out "
                "points, whatever the network: look for NaN in its data and formula"
            )
        points[term], weights[term] = term_points[regular], heldout.sample.weights[term][regular]
        if not regular.all():
            singular[term] = term_points[~regular]
    return heldout._replace(sample=objective.Sample(points, weights), singular=singular)


def describe_singular(problem: Problem, heldout: Heldout) -> str:
    """The number of singular points of each term and the first of them, in words."""
    return "; ".join(
        f"{len(points):,} of the {len(points) + len(heldout.sample.points[term]):,} held-out "
        f"points of {term}, where its residual is finite for no network, as at "
        f"{describe_point(problem, points[0])}"
        for term, points in heldout.singular.items()
    )
