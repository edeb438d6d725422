"""Windows of time: a network for each, trained one after the other.

A domain from ``t_0`` on is divided into ``w`` windows of length ``h`` that begin at ``t_j``:

    u(t, x) = u_0(x) + sum_j f(tau_j, x) N_j(tau_j, x),    tau_j = t_0 + w clip(t - t_j, 0, h)

where ``u_0`` and ``f`` are offset and factor of the problem's constraint, and ``f(t_0, x) = 0``.
Each network adds the change within its window, which stays when the window ends, so that the next
begins exactly there; to a network, its window looks like the whole domain. The loss is that of the
window in training, whose network begins with the parameters of the one before, and whose optimizer
begins anew.

In other work the start of a window is a term of the loss (Krishnapriyan, Gholami, Zhe, Kirby &
Mahoney, "Characterizing possible failure modes in physics-informed neural networks", NeurIPS 2021).
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
from jaxtyping import Array, Float, Int

from jaxdl.pinn import judgement, objective
from jaxdl.pinn.derivatives import Derive, Function, canonical, closed, floating, forward_mode
from jaxdl.pinn.judgement import Heldout
from jaxdl.pinn.objective import Sample
from jaxdl.pinn.problem import Ansatz, check_constraint
from jaxdl.pinn.residual import evaluate
from jaxdl.pinn.sampling import Points, draw
from jaxdl.types import AnyArray, Collections, Params, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class OneWindow:
    """The whole domain as the only window."""

    ansatz: Ansatz

    @property
    def window_ansatz(self) -> Ansatz:
        """The ansatz in training."""
        return self.ansatz

    def make_heldout(self, count: int) -> Heldout:
        """See :func:`jaxdl.pinn.judgement.make_heldout`."""
        return judgement.make_heldout(self.ansatz, count)

    def begin(self, sample: Sample) -> Collections:
        """The collections of a training on these points."""
        return {"sample": sample}

    def at_last(self, collections: Collections) -> Collections:
        """The same in the last window, which is this one."""
        return collections

    def judge(
        self, params: Params, collections: Collections, heldout: Heldout, block: int | None = None
    ) -> dict[str, PyTree]:
        """See :func:`jaxdl.pinn.judgement.judge`."""
        return judgement.judge(self.ansatz, params, collections["sample"], heldout, block)

    def solution(
        self, params: Params, collections: Collections, points: Float[AnyArray, "n d"]
    ) -> Float[Array, "n f"]:
        """The solution at points."""
        return self.ansatz(params, points)

    def points(self, collections: Collections) -> Mapping[str, Float[AnyArray, "_ d"]]:
        """The points of training, by term."""
        return collections["sample"].points


class WindowState(NamedTuple):
    """The progress of a training in windows."""

    number: Int[Array, ""]
    """Of the window in training, from 0."""
    networks: Params
    """Parameters of all windows, [w, ...], as they were trained; from the one in training on zero,
    and a network of zeros adds nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class TimeWindows:
    """The ansatz of a problem in ``count`` windows of its coordinate ``t``, of equal lengths.

    Points in a window have further columns: the window's first time, and the derivatives
    ``start_derivatives`` of the solution then, all fields of one after the other.

    Raises:
      ValueError: for a problem that cannot be divided: its constraint must be the solution at the
        first time plus what vanishes there, equations be of first order in t and without
        ``u.at(…)``, points be drawn in the whole box or on faces with all times; and there must be
        no physical parameters.
    """

    ansatz: Ansatz
    """The problem, and the network of a window."""
    count: int

    def __post_init__(self) -> None:
        problem = self.ansatz.problem
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"windows: {self.count!r} is not a number of windows")
        if "t" not in problem.domain:
            raise ValueError("windows need a coordinate named t")
        self._check_constraint()
        if problem.physics:
            raise ValueError("windows: physical parameters would differ from one to the next")
        for name, term in problem.terms.items():
            rule = term.points
            if not isinstance(rule, Points) or "t" in rule.fixed or rule.warp or rule.inside:
                reason = "must be a rule, Points(count), without a fixed t, warp or inside"
                raise ValueError(f"windows: the points of {name!r} {reason}")
        _ = self.start_derivatives  # for its errors

    def _check_constraint(self) -> None:
        domain, constraint = self.ansatz.problem.domain, self.constraint
        points = floating(draw(Points(64), domain, "sobol", 0))
        check_constraint(self.ansatz.problem, points)
        first, last = (points.at[:, self.time].set(t) for t in domain["t"])
        if not np.allclose(constraint(points)[0], constraint(first)[0]):
            raise ValueError("windows: the constraint's offset, the start, must not depend on t")
        factor = forward_mode(lambda points: constraint(points)[1], "".join(domain))
        (value, slope), (final,) = factor(first, [{"": 1.0}, {"t": 1.0}]), factor(last, [{"": 1.0}])
        if not np.allclose(value, 0):
            raise ValueError("windows: the constraint's factor must be 0 at the first time")
        if not np.all(np.any(slope, 0) & np.any(abs(final) > 1e-9, 0)):
            reason = "grow from the first time on, and not be 0 at the last: t does"
            raise ValueError(f"windows: the constraint's factor must {reason}")

    @property
    def constraint(self) -> Function:
        """The problem's."""
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
        """The length of a window."""
        first, last = self.ansatz.problem.domain["t"]
        return (last - first) / self.count

    @functools.cached_property
    def start_derivatives(self) -> list[str]:
        """The derivatives of a window's start that the residuals need."""
        problem, names = self.ansatz.problem, [""]
        points = floating(draw(Points(1), problem.domain, "uniform", 0))

        def derive(places: Any, requests: Any) -> list[Array]:
            if not np.array_equal(places, points):
                raise ValueError("windows: u.at(…) of another place or time cannot be had in them")
            names.extend(name for request in requests for name in request)
            return [jnp.ones((1, len(problem.fields))) for _ in requests]

        for term in problem.terms.values():
            evaluate(term.residual, derive, points, problem.coordinates, problem.fields)
        if second := [name for name in names if name.count("t") > 1]:
            raise ValueError(f"windows need an equation of first order in t, not u.{second[0]}")
        return [name for name in closed(names) if "t" not in name]

    @functools.cached_property
    def window_ansatz(self) -> Ansatz:
        """The ansatz of a window, at points with the further columns."""
        problem, width = self.ansatz.problem, len(self.ansatz.problem.domain)
        features, fields = self.ansatz.features, len(problem.fields)

        def start(name: str) -> Function:
            """A derivative of the start: a column, whose derivatives are others."""
            column = width + 1 + fields * self.start_derivatives.index(name)

            @jax.custom_jvp
            def derivative(points: Float[Array, "n _"]) -> Float[Array, "n f"]:
                return points[:, column : column + fields]

            @derivative.defjvp
            def _(primals: Any, tangents: Any) -> Any:
                (points,), (direction,) = primals, tangents
                change = jnp.zeros_like(derivative(points))
                for i, coordinate in enumerate(problem.coordinates):
                    if (higher := canonical(name + coordinate)) in self.start_derivatives:
                        change += start(higher)(points) * direction[:, i : i + 1]
                return derivative(points), change

            return derivative

        def constraint(points: Float[Array, "n _"]) -> tuple[Any, Any]:
            return start("")(points), self.constraint(self._stretch(points))[1]

        of_window = problem._replace(
            features=lambda points: features(self._stretch(points)), constraint=constraint
        )
        return Ansatz(of_window, self.ansatz.network)

    def make_heldout(self, count: int) -> Heldout:
        """See :func:`jaxdl.pinn.judgement.make_heldout`. The terms' points are those of one window,
        stretched to the domain: of the grid's times one in ``self.count``, and no less than 3."""
        heldout = judgement.make_heldout(self.ansatz, count)
        points = {}
        for term, grid in heldout.sample.points.items():
            times = np.unique(grid[:, self.time])
            if len(times) < 3:
                raise ValueError(f"windows: {count} held-out points have only {len(times)} times")
            chosen = np.linspace(0, len(times) - 1, max(3, math.ceil(len(times) / self.count)))
            points[term] = grid[np.isin(grid[:, self.time], times[chosen.round().astype(int)])]
        weights = {term: np.ones(len(grid)) for term, grid in points.items()}
        return heldout._replace(sample=Sample(points, weights))

    def begin(self, sample: Sample) -> Collections:
        """The collections of a training on these points of the domain, in the first window."""
        shapes = jax.eval_shape(self.ansatz.init, jax.random.key(0))
        networks = jax.tree.map(lambda x: jnp.zeros((self.count, *x.shape), x.dtype), shapes)
        points = {term: self._enter(points) for term, points in sample.points.items()}
        windows = WindowState(jnp.int32(0), networks)
        return {"sample": sample._replace(points=points), "windows": windows}

    def advance(self, params: Params, collections: Collections) -> Collections:
        """The collections in the next window, after training in this one has given ``params``."""
        sample, number = collections["sample"], collections["windows"].number
        points = {term: self._move(params, points) for term, points in sample.points.items()}
        windows = WindowState(number + 1, self._networks(params, collections))
        return {"sample": sample._replace(points=points), "windows": windows}

    def at_last(self, collections: Collections) -> Collections:
        """The same in the last window, for checks of all."""
        number = jnp.full_like(collections["windows"].number, self.count - 1)
        return {**collections, "windows": collections["windows"]._replace(number=number)}

    def judge(
        self, params: Params, collections: Collections, heldout: Heldout, block: int | None = None
    ) -> dict[str, PyTree]:
        """As :func:`jaxdl.pinn.judgement.judge`, until the end of the window in training: means of
        the windows' losses, and the error at all times until then."""
        networks, number = self._networks(params, collections), collections["windows"].number

        def losses(points: Mapping[str, AnyArray]) -> tuple[Float[Array, ""], dict[str, Array]]:
            def loss(window: tuple[Params, Mapping[str, Array]]) -> Any:
                ones = {term: jnp.ones(len(points)) for term, points in window[1].items()}
                return objective.loss(self.window_ansatz, window[0], Sample(window[1], ones), block)

            by_window = {t: self._by_window(networks, p) for t, p in points.items()}
            values = lax.map(loss, (networks, by_window))
            reached = jnp.arange(self.count) <= number
            return jax.tree.map(lambda x: jnp.mean(x, where=reached), values)

        trained = {t: self._stretch(points) for t, points in collections["sample"].points.items()}
        (train, _), (heldout_loss, means) = losses(trained), losses(heldout.sample.points)
        # Rounding must not leave out the last time.
        end = self.first + (number + 1) * self.length * (1 + 1e-9)
        until_end = (jnp.asarray(heldout.points)[:, self.time] <= end)[:, None]
        exact = jnp.where(until_end, heldout.solution, 0)
        error = jnp.where(until_end, self.solution(params, collections, heldout.points), 0) - exact
        return {
            "train_loss": train,
            "heldout_loss": heldout_loss,
            "rel_l2": jnp.linalg.norm(error) / jnp.linalg.norm(exact),
            **{f"heldout_{term}": mean for term, mean in means.items()},
            "parameters": {},
        }

    def solution(
        self, params: Params, collections: Collections, points: Float[AnyArray, "n d"]
    ) -> Float[Array, "n f"]:
        """The solution at points of the domain."""
        points, zeros = floating(points), jax.tree.map(jnp.zeros_like, params)
        start = self.ansatz(zeros, points)

        def add(u: Float[Array, "n f"], window: Any) -> tuple[Float[Array, "n f"], None]:
            first, params = window
            passed = jnp.clip(points[:, self.time] - first, 0, self.length)
            places = points.at[:, self.time].set(self.first + self.count * passed)
            return u + (self.ansatz(params, places) - start), None

        first = self.first + self.length * jnp.arange(self.count)
        return lax.scan(add, start, (first, self._networks(params, collections)))[0]

    def points(self, collections: Collections) -> dict[str, Float[Array, "_ d"]]:
        """The points of training in all windows, by term."""
        width, shifts = len(self.ansatz.problem.domain), self.length * jnp.arange(self.count)

        def everywhere(points: Float[AnyArray, "n _"]) -> Float[Array, "_ d"]:
            passed, places = points[:, width] - self.first, jnp.asarray(points[:, :width])
            moved = [places.at[:, self.time].add(shift - passed) for shift in shifts]
            return jnp.concatenate(moved)

        return {term: everywhere(points) for term, points in collections["sample"].points.items()}

    def _networks(self, params: Params, collections: Collections) -> Params:
        """Parameters of all windows, of the one in training these."""
        number, networks = collections["windows"]
        return jax.tree.map(lambda all_, leaf: all_.at[number].set(leaf), networks, params)

    def _enter(self, points: Float[AnyArray, "n d"]) -> Float[Array, "n _"]:
        """Points of the domain, squeezed into the first window."""
        passed = (points[:, self.time] - self.first) / self.count
        points = jnp.asarray(points).at[:, self.time].set(self.first + passed)
        offset = forward_mode(lambda p: self.constraint(p)[0], self.ansatz.problem.coordinates)
        return self._extended(points, jnp.full((len(points), 1), self.first), offset, points)

    def _move(self, params: Params, points: Float[Array, "n _"]) -> Float[Array, "n _"]:
        """Points of a window, moved into the next, which begins where this one ends."""
        width = len(self.ansatz.problem.domain)
        first = points[:, width : width + 1]
        at_end = points.at[:, self.time].set(first[:, 0] + self.length)
        moved = points[:, :width].at[:, self.time].add(self.length)
        return self._extended(moved, first + self.length, self.window_ansatz.derive(params), at_end)

    def _stretch(self, points: Float[Array, "n _"]) -> Float[Array, "n d"]:
        """Points of a window as those of the domain, at times ``tau``."""
        points, width = jnp.asarray(points), len(self.ansatz.problem.domain)
        tau = self.first + self.count * (points[:, self.time] - points[:, width])
        return points[:, :width].at[:, self.time].set(tau)

    def _extended(
        self,
        points: Float[Array, "n d"],
        first: Float[Array, "n 1"],
        derive: Derive,
        start: Float[Array, "n _"],
    ) -> Float[Array, "n _"]:
        """Points with the further columns, of ``derive`` at the places ``start``."""
        values = derive(start, [{name: 1.0} for name in self.start_derivatives])
        shape = len(points), len(self.ansatz.problem.fields)
        columns = [jnp.broadcast_to(value, shape) for value in values]
        return jnp.concatenate([points, first, *columns], axis=-1)

    def _by_window(self, networks: Params, points: Float[AnyArray, "n d"]) -> Float[Array, "w n _"]:
        """Points of the domain, squeezed into each window."""

        def move(points: Float[Array, "n _"], params: Params) -> tuple[Array, Array]:
            return self._move(params, points), points

        return lax.scan(move, self._enter(points), networks)[1]
