"""Windows of time: a network for each, trained one after the other.

With ``s_j`` the time since the start of the j-th window, no less than nothing and no more than the
window's length, stretched to the whole domain's,

    u(t, x) = u_0(x) + sum_j f(s_j, x) N_j(s_j, x)

where ``u_0`` and ``f`` are offset and factor of the problem's constraint, ``f`` 0 at the first
time: each network adds the change within its window, which stays when the window has ended. The
loss of a network is that of its window. In other work the start of a window is a term of the loss
(Krishnapriyan, Gholami, Zhe, Kirby & Mahoney, "Characterizing possible failure modes in
physics-informed neural networks", NeurIPS 2021); here it is exact.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdl.pinn import judgement, objective
from jaxdl.pinn.derivatives import Function, Request, canonical, closed, forward_mode
from jaxdl.pinn.judgement import Heldout
from jaxdl.pinn.objective import Refresh, Sample
from jaxdl.pinn.problem import Ansatz
from jaxdl.pinn.residual import evaluate
from jaxdl.pinn.sampling import Points
from jaxdl.types import AnyArray, Collections, Integer, Params, PyTree


class Windows(NamedTuple):
    """The progress of a training in windows."""

    present: Int[Array, ""]
    """The number of the window in training, from 0."""
    networks: Params
    """Parameters of all windows' networks, [w, ...]: of those before the present one as they were
    trained, of the others 0, and so is what these add."""


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """One network for all of the domain, whose training is that of one window."""

    ansatz: Ansatz
    refresh: Refresh

    @property
    def window(self) -> Ansatz:
        """The ansatz in training."""
        return self.ansatz

    def make_heldout(self, count: int) -> Heldout:
        """See :func:`jaxdl.pinn.judgement.make_heldout`."""
        return judgement.make_heldout(self.ansatz, count)

    def begin(self, sample: Sample) -> Collections:
        """The collections of a training on these points."""
        return {"sample": sample}

    def advance(self, params: Params, collections: Collections, key: PRNGKeyArray) -> Collections:
        """With points and weights that follow the residuals."""
        sample = objective.refresh(self.ansatz, self.refresh, params, collections["sample"], key)
        return {"sample": sample}

    def judge(
        self, params: Params, collections: Collections, heldout: Heldout, block: int | None = None
    ) -> dict[str, PyTree]:
        """See :func:`jaxdl.pinn.judgement.judge`."""
        return judgement.judge(self.ansatz, params, collections["sample"], heldout, block)

    def solution(
        self, params: Params, collections: Collections, heldout: Heldout
    ) -> Float[Array, "n f"]:
        """The solution at the points of the held-out grid."""
        return self.ansatz(params, heldout.points)

    def points(self, collections: Collections) -> dict[str, Float[AnyArray, "_ d"]]:
        """The points of training, by term."""
        return dict(collections["sample"].points)


@dataclasses.dataclass(frozen=True, eq=False)
class Windowed:
    """The ansatz of a problem in ``count`` windows of its coordinate ``t``, of equal lengths.

    Raises:
      ValueError: for a problem that cannot be divided: of its constraint the offset must be the
        solution at the first time and the factor vanish there, with a slope; equations are of first
        order in t and without ``u.at(…)``; all points are drawn, at no fixed time, in the whole
        box; there are no parameters to be found.
    """

    ansatz: Ansatz
    """The problem, and the network of a window."""
    count: int

    def __post_init__(self) -> None:
        problem = self.ansatz.problem
        if "t" not in problem.domain:
            raise ValueError("windows need a coordinate named t")
        if problem.physics:
            raise ValueError("windows: physical parameters would differ from one to the next")
        for name, term in problem.terms.items():
            rule = term.points
            if not isinstance(rule, Points) or "t" in rule.fixed or rule.warp or rule.inside:
                raise ValueError(
                    f"windows: the points of {name!r} must be a rule, Points(count), without a "
                    "fixed t, warp or inside; the start is a matter of the constraint"
                )
        middle = np.array([[(low + high) / 2 for low, high in problem.domain.values()]])
        middle[:, self.time] = self.first
        parts = (lambda p: self.constraint(p)[0]), (lambda p: self.constraint(p)[1])
        requests: list[Request] = [{"": 1.0}, {"t": 1.0}]
        (_, change), (factor, slope) = (
            forward_mode(part, problem.coordinates)(middle, requests) for part in parts
        )
        if np.any(change) or np.any(factor) or not np.all(slope):
            raise ValueError(
                "windows: the constraint's offset must be the solution at the first time, the same "
                "at all times, and its factor be 0 at that time, with a slope, as t itself"
            )
        _ = self.names  # for its errors

    @property
    def constraint(self) -> Function:
        """The problem's: the solution at the first time, and the factor of what is added."""
        if self.ansatz.problem.constraint is None:
            raise ValueError("windows need a constraint, such as `lambda p: (u0(p), p[:, :1])`")
        return self.ansatz.problem.constraint

    @property
    def time(self) -> int:
        """The number of the column t."""
        return self.ansatz.problem.coordinates.index("t")

    @property
    def first(self) -> float:
        """The first time of all."""
        return self.ansatz.problem.domain["t"][0]

    @property
    def length(self) -> float:
        """Of a window."""
        first, last = self.ansatz.problem.domain["t"]
        return (last - first) / self.count

    @functools.cached_property
    def names(self) -> list[str]:
        """The derivatives of a window's start that the residuals need."""
        problem, needed = self.ansatz.problem, [""]
        box = np.array(list(problem.domain.values()), float)
        points = box[None, :, 0] + 0.618 * (box[None, :, 1] - box[None, :, 0])

        def derive(places: Any, requests: Any) -> list[Array]:
            if not np.allclose(places, points):
                raise ValueError("windows: u.at(…) of another place or time cannot be had in them")
            needed.extend(name for request in requests for name in request)
            return [jnp.ones((1, len(problem.fields))) for _ in requests]

        for term in problem.terms.values():
            evaluate(term.residual, derive, points, problem.coordinates, problem.fields)
        if second := [name for name in needed if name.count("t") > 1]:
            raise ValueError(f"windows need an equation of first order in t, not u.{second[0]}")
        return [name for name in closed(needed) if "t" not in name]

    @functools.cached_property
    def window(self) -> Ansatz:
        """The ansatz of one window, at points with further columns: the window's first time, and
        the derivatives ``names`` of the solution then, all fields of one after the other."""
        problem, width = self.ansatz.problem, len(self.ansatz.problem.domain)
        features, fields = self.ansatz.features, len(problem.fields)

        def stretched(points: Float[Array, "n _"]) -> Float[Array, "n d"]:
            passed = points[:, self.time] - points[:, width]
            return points[:, :width].at[:, self.time].set(self.first + self.count * passed)

        def start(name: str) -> Function:
            column = width + 1 + fields * self.names.index(name)

            @jax.custom_jvp
            def derivative(points: Float[Array, "n _"]) -> Float[Array, "n f"]:
                return points[:, column : column + fields]

            @derivative.defjvp
            def _(primals: Any, tangents: Any) -> Any:
                (points,), (direction,) = primals, tangents
                change = jnp.zeros_like(derivative(points))
                for i, coordinate in enumerate(problem.coordinates):
                    if (higher := canonical(name + coordinate)) in self.names:
                        change += start(higher)(points) * direction[:, i : i + 1]
                return derivative(points), change

            return derivative

        parts = problem._replace(
            features=lambda points: features(stretched(points)),
            constraint=lambda points: (start("")(points), self.constraint(stretched(points))[1]),
        )
        return Ansatz(parts, self.ansatz.network)

    def begin(self, sample: Sample) -> Collections:
        """The collections of a training on these points of the whole domain: ``sample``, moved into
        the first window, and ``windows``."""
        shapes = jax.eval_shape(self.ansatz.init, jax.random.key(0))
        networks = jax.tree.map(lambda leaf: jnp.zeros((self.count, *leaf.shape)), shapes)
        points = {}
        for term, places in sample.points.items():
            passed = (places[:, self.time] - self.first) / self.count
            places = jnp.asarray(places).at[:, self.time].set(self.first + passed)
            points[term] = self.everywhere(networks, places)[0]
        windows = Windows(jnp.int32(0), networks)
        return {"sample": sample._replace(points=points), "windows": windows}

    def advance(self, params: Params, collections: Collections, key: PRNGKeyArray) -> Collections:
        """Those of the next window, after this one's training has given ``params``."""
        networks, index = self._networks(params, collections), collections["windows"].present + 1
        sample, points = collections["sample"], {}
        for term, places in sample.points.items():
            points[term] = self.everywhere(networks, self._in_first(places))[index]
        return {"sample": sample._replace(points=points), "windows": Windows(index, networks)}

    def everywhere(self, networks: Params, places: Float[Array, "n d"]) -> Float[Array, "w n _"]:
        """Points of the first window, in each window and with the further columns.

        Args:
          networks: parameters of all windows, [w, ...].
        """
        problem, requests = self.ansatz.problem, [{name: 1.0} for name in self.names]
        n, fields = len(places), len(problem.fields)
        none = jnp.zeros((n, len(self.names) * fields))
        first = jnp.full((n, 1), self.first)
        at_end = places.at[:, self.time].set(self.first + self.length)

        def change(params: Params) -> Float[Array, "n m"]:
            points = jnp.concatenate([at_end, first, none], axis=-1)
            return jnp.concatenate(self.window.derive(params)(points, requests), axis=-1)

        offset = forward_mode(lambda points: self.constraint(points)[0], problem.coordinates)
        changes = lax.map(change, networks)
        start = none + jnp.concatenate(offset(places, requests), axis=-1)
        starts = start[None] + jnp.cumsum(changes, axis=0) - changes

        def placed(index: Integer, start: Float[Array, "n m"]) -> Float[Array, "n _"]:
            passed = index * self.length
            points = places.at[:, self.time].add(passed)
            return jnp.concatenate([points, first + passed, start], axis=-1)

        return jax.vmap(placed)(jnp.arange(self.count), starts)

    def make_heldout(self, count: int) -> Heldout:
        """Held-out points for :meth:`judge`: of the terms in the first window, of the grid in all,
        one after the other. A window has as many times, to both its ends, as a grid of ``count``
        points in the whole domain has to a window, and at least 3."""
        problem = self.ansatz.problem
        sample, grid = judgement.heldout_points(problem, count)

        def squeezed(points: Float[AnyArray, "n d"]) -> Float[np.ndarray, "m d"]:
            times = np.unique(points[:, self.time])
            if len(times) < 3:
                raise ValueError("windows need 3 times or more in the held-out grid")
            last = times[max(3, math.ceil(len(times) / self.count)) - 1]
            points = np.array(points[points[:, self.time] <= last])
            share = (points[:, self.time] - self.first) / (last - self.first)
            points[:, self.time] = self.first + share * self.length
            return points

        points = {term: squeezed(places) for term, places in sample.points.items()}
        weights = {term: np.ones(len(places)) for term, places in points.items()}
        grid = np.tile(squeezed(grid), (self.count, 1, 1))
        grid[..., self.time] += self.length * np.arange(self.count)[:, None]
        grid = grid.reshape(-1, len(problem.domain))
        return judgement.solved(problem, Sample(points, weights), grid)

    def judge(
        self, params: Params, collections: Collections, heldout: Heldout, block: int | None = None
    ) -> dict[str, PyTree]:
        """As :func:`jaxdl.pinn.judgement.judge`, of the windows until now: means of their losses,
        and the error of all together."""
        networks, index = self._networks(params, collections), collections["windows"].present

        def mean(values: Float[Array, " w"]) -> Float[Array, ""]:
            return jnp.sum(jnp.where(jnp.arange(self.count) <= index, values, 0)) / (index + 1)

        def loss(points: Mapping[str, Array]) -> Float[Array, ""]:
            def of_window(window: tuple[Params, Mapping[str, Array]]) -> Float[Array, ""]:
                sample = Sample(window[1], {t: jnp.ones(len(p)) for t, p in window[1].items()})
                return objective.loss(self.window, window[0], sample, block)[0]

            placed = {term: self.everywhere(networks, places) for term, places in points.items()}
            return mean(lax.map(of_window, (networks, placed)))

        train = {t: self._in_first(places) for t, places in collections["sample"].points.items()}
        exact = heldout.solution.reshape(self.count, -1)
        error = self.solution(params, collections, heldout).reshape(self.count, -1) - exact
        squares = mean(jnp.sum(error**2, axis=-1)) / mean(jnp.sum(exact**2, axis=-1))
        return {
            "train_loss": loss(train),
            "heldout_loss": loss(jax.tree.map(jnp.asarray, heldout.sample.points)),
            "rel_l2": jnp.sqrt(squares),
            "parameters": {},
        }

    def solution(
        self, params: Params, collections: Collections, heldout: Heldout
    ) -> Float[Array, "n f"]:
        """The solution at the points of the held-out grid."""
        networks = self._networks(params, collections)
        first = jnp.asarray(heldout.points[: len(heldout.points) // self.count])
        points = self.everywhere(networks, first)
        values = lax.map(lambda window: self.window(*window), (networks, points))
        return values.reshape(-1, values.shape[-1])

    def points(self, collections: Collections) -> dict[str, Float[Array, "_ d"]]:
        """The points of training in all windows, by term."""
        places = {t: self._in_first(points) for t, points in collections["sample"].points.items()}
        passed = self.length * jnp.arange(self.count)
        return {
            term: jnp.concatenate([first.at[:, self.time].add(t) for t in passed])
            for term, first in places.items()
        }

    def _networks(self, params: Params, collections: Collections) -> Params:
        """Parameters of all windows, of the present one these."""
        index, networks = collections["windows"]
        return jax.tree.map(lambda all_, leaf: all_.at[index].set(leaf), networks, params)

    def _in_first(self, points: Float[Array, "n _"]) -> Float[Array, "n d"]:
        """Points of any window, moved into the first, without the further columns."""
        points, width = jnp.asarray(points), len(self.ansatz.problem.domain)
        return points[:, :width].at[:, self.time].add(self.first - points[:, width])


def make_course(ansatz: Ansatz, windows: int, refresh: Refresh) -> Whole | Windowed:
    """The whole domain's, or in windows of time.

    Raises:
      ValueError: see :class:`Windowed`; for points or weights that change in windows.
    """
    if windows == 1:
        return Whole(ansatz, refresh)
    if refresh.changes:
        raise ValueError(f"{windows} windows: neither points nor weights can change in them")
    return Windowed(ansatz, windows)
