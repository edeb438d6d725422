"""What a network's solution of a problem is judged by: points that are never trained on, and the
exact solution."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdl.pinn import objective
from jaxdl.pinn.problem import Ansatz, Problem, Term
from jaxdl.pinn.sampling import Points, draw
from jaxdl.types import AnyArray, Params, PyTree


class Heldout(NamedTuple):
    """Held-out points of the terms, and a solution on a grid."""

    sample: objective.Sample
    points: Float[np.ndarray, "n d"]
    """A grid of the whole domain."""
    solution: Float[np.ndarray, "n f"]
    """The exact solution, or the reference, on it."""


def make_heldout(ansatz: Ansatz, count: int) -> Heldout:
    """A grid for each term whose points follow a rule, data where they are, and the solution on a
    grid of the domain.

    Raises:
      ValueError: if the solution has another shape, is not finite somewhere, or 0 everywhere.
    """
    problem = ansatz.problem

    def judged(term: Term) -> Term:
        rule = term.points
        if isinstance(rule, Points) and len(rule.fixed) < len(problem.domain):
            # What warps the whole domain is for training; on a face it says where the face is.
            rule = rule._replace(count=count, warp=rule.warp if rule.fixed else None)
        return term._replace(points=rule, weight=1.0)

    terms = {name: judged(term) for name, term in problem.terms.items()}
    sample = objective.draw_sample(problem._replace(terms=terms), "grid", 0)
    rules = [t.points for t in terms.values() if isinstance(t.points, Points)]
    whole = next((rule for rule in rules if not rule.fixed), Points(count))
    points = draw(whole, problem.domain, "grid", 0)
    with np.errstate(all="ignore"):  # what is not finite is refused below, in words
        solution = np.asarray(problem.solution(points))  # type: ignore[misc]  # it has one
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
    ansatz: Ansatz, params: Params, sample: objective.Sample, heldout: Heldout
) -> dict[str, PyTree]:
    """``train_loss`` on the points of a sample and ``heldout_loss``, with all weights 1, the latter
    also by term; ``rel_l2``, the error relative to the solution; physical parameters by name."""
    weights = jax.tree.map(jnp.ones_like, sample.weights)
    train, _ = objective.loss(ansatz, params, sample._replace(weights=weights))
    beside, means = objective.loss(ansatz, params, heldout.sample)
    error = ansatz(params, heldout.points) - heldout.solution
    return {
        "train_loss": train,
        "heldout_loss": beside,
        "rel_l2": jnp.linalg.norm(error) / jnp.linalg.norm(heldout.solution),
        **{f"heldout_{term}": mean for term, mean in means.items()},
        "parameters": dict(ansatz.problem.found(params["physics"])),
    }


def check_start(
    ansatz: Ansatz,
    params: Params,
    sample: objective.Sample,
    heldout: Heldout,
    values: Mapping[str, float | np.floating],
) -> None:
    """Raise ValueError where what is judged of an untrained network is not finite, naming a point.

    Args:
      values: of :func:`judge`, for these parameters.
    """
    if not np.isfinite(values["train_loss"]):
        for term, points in sample.points.items():
            residual = ansatz.residual(params, term, points)
            if not np.isfinite(residual).all():
                raise ValueError(
                    f"the residual {term!r} {not_finite(ansatz.problem, points, residual)} "
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
    """Where values are not finite: the first such point, in words that follow a subject."""
    i = int(np.argmin(np.isfinite(values).all(axis=-1)))
    return f"is not finite at point {i} of {len(points)} ({describe_point(problem, points[i])})"


def describe_point(problem: Problem, point: Float[AnyArray, " d"]) -> str:
    """A point in words."""
    return ", ".join(f"{c}={x:g}" for c, x in zip(problem.domain, point, strict=True))


PROBES = 8
"""Random networks that tell a singular equation from a network at which it cannot be evaluated."""


def leave_out_singular(
    ansatz: Ansatz, heldout: Heldout
) -> tuple[Heldout, dict[str, Float[AnyArray, "_ d"]]]:
    """The held-out sample without the points where a residual is finite for no network, such as
    ``u_r / r`` at r = 0; and those points, by term.

    Raises:
      ValueError: if nothing is left of a term.
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
    return heldout._replace(sample=objective.Sample(points, weights)), singular
