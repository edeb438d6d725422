"""What the physics study fixes before it trains: problems, networks, programs, what they are
judged by."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from experiments import _run
from jaxdl import optim, trees
from jaxdl.nn.models.mlp import ACTIVATIONS, MLP
from jaxdl.pinn import objective, weighting
from jaxdl.pinn.problem import Ansatz, Problem, Term
from jaxdl.pinn.problems import PROBLEMS
from jaxdl.pinn.sampling import RULES, Points, draw
from jaxdl.train.parallel import axis_of, make_mesh, to_host
from jaxdl.train.population import Training, member_key, over_members, population_of
from jaxdl.train.state import TrainState, create_state, make_search_step, make_step
from jaxdl.train.verification import make_first_losses
from jaxdl.types import Batch, Hyper, Metrics, Params

DIRECTIONS = {
    "ssbroyden": optim.scale_by_ssbroyden,
    "ssbfgs": optim.scale_by_ssbfgs,
    "lbfgs": functools.partial(optax.scale_by_lbfgs, 50),
}
"""Rules for a direction, which :func:`jaxdl.optim.wolfe_searched` follows."""

OPTIMIZERS = (*DIRECTIONS, "adam")


class Heldout(NamedTuple):
    """What a solution is judged by."""

    sample: objective.Sample
    points: Float[np.ndarray, "n d"]
    """A grid of the whole domain."""
    solution: Float[np.ndarray, "n f"]
    """The exact solution, or the reference, on it."""


class Program(NamedTuple):
    """How networks are trained on a problem, and judged."""

    problem: str
    method: str
    settings: dict[str, Any]
    ansatz: Ansatz
    heldout: Heldout
    singular: Mapping[str, Float[np.ndarray, "k d"]]
    """Points that were left out of the held-out sample, by term: see :func:`leave_out_singular`."""
    start: Callable[[], TrainState]
    """The population of all seeds before its first step."""
    train: Callable
    judge: Callable
    """``judge(states, heldout) -> {"train_loss", "heldout_loss", "rel_l2", …}``, a number a
    member."""


class Lab(NamedTuple):
    """All that is fixed before anything is trained."""

    config: ConfigDict
    mesh: Mesh
    programs: list[Program]


class Planned(NamedTuple):
    """What is trained: a problem, a method, the settings of both."""

    problem: str
    method: str
    settings: dict[str, Any]
    sections: dict[str, str]
    """Where each setting has its value from: ``config.base``, say."""

    def place(self, key: str) -> str:
        """A setting as the user would write it, for messages."""
        return f"{self.sections[key]}.{key}"


def plan(config: ConfigDict) -> list[Planned]:
    """Problem, method and settings of all that is trained.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    _run.check_counts(config, "seeds", "heldout", "iterations_per_dispatch")
    for section in ("problems", "methods"):
        if not config[section]:
            raise ValueError(f"config.{section} is empty: what is to be solved?")
    planned: dict[tuple[str, str], Planned] = {}
    for problem, own in config.problems.items():
        for method, changes in config.methods.items():
            settings = config.base.to_dict()
            sections = dict.fromkeys(settings, "config.base")
            for where, section in (
                (f"config.problems.{problem}", own),
                (f"config.methods.{method}", changes),
            ):
                if not isinstance(section, ConfigDict):
                    raise ValueError(f"{where}: {section!r} is not a ConfigDict")
                if unknown := sorted(set(section) - set(config.base)):
                    raise ValueError(
                        f"{where}: there is no setting {unknown[0]!r}: config.base has them all"
                    )
                settings |= section.to_dict()
                sections |= dict.fromkeys(section, where)
            if not settings["problem"]:
                settings["problem"], sections["problem"] = problem, f"config.problems.{problem}"
            names = (
                called(problem, settings["problem"].rpartition(":")[2], PROBLEMS),
                called(method, settings["optimizer"], OPTIMIZERS),
            )
            each = Planned(*names, settings, sections)
            check(each, config)
            if names in planned:
                raise ValueError(
                    f"config.problems.{problem} by config.methods.{method} is {names[0]} by "
                    f"{names[1]} once more: set {each.place('problem')} where there is one "
                    "problem, as in the default variant, or give sections names of their own"
                )
            planned[names] = each
    return list(planned.values())


def called(key: str, meant: str, known: Iterable[str]) -> str:
    """The name of a problem or method: its key in the configuration, unless that is named after a
    known one and another is meant, as by ``config.base.problem`` of the command line."""
    after = [name for name in known if key == name or key.startswith(f"{name}_")]
    return meant if after and meant not in after else key


def make_lab(config: ConfigDict) -> Lab:
    """Problems, networks and their programs.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    if not jax.config.jax_enable_x64 or float(jnp.ones(()) + 1e-12) == 1:
        raise ValueError("this study computes in float64, which this device or JAX does not have")
    mesh = make_mesh(config.parallel.member)
    if config.parallel.mode == "fsdp":
        raise ValueError("config.parallel.mode: fsdp divides large networks; these are small")
    axis_of(config.parallel.mode, mesh)
    programs = []
    for planned in plan(config):
        with blame(planned.settings["problem"]):
            programs.append(make_program(config, mesh, planned))
    return Lab(config, mesh, programs)


CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "optimizer": OPTIMIZERS,
    "points": RULES,
    "weighting": weighting.WEIGHTINGS,
}
COUNTS = {"iterations": 1, "refresh": 0, "candidates": 0}


def check(planned: Planned, config: ConfigDict) -> None:
    """Raise ValueError where a setting cannot be had."""
    settings, place = planned.settings, planned.place
    for key, known in CHOICES.items():
        if settings[key] not in known:
            raise ValueError(f"{place(key)}: {settings[key]!r} is not one of {', '.join(known)}")
    for key, value in settings.items():
        if key in CHOICES:
            continue
        if key == "problem":
            problem_named(value, place(key))
        elif key == "hidden":
            widths = value if isinstance(value, tuple | list) else ()
            if not widths or any(type(width) is not int or width < 1 for width in widths):
                raise ValueError(f"{place(key)}: {value!r} are not widths such as (24, 24)")
        elif key == "options":
            function = problem_named(settings["problem"], place("problem"))
            check_options(f"{place(key)}: {settings['problem']}", function, value)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{place(key)}: {value!r} is not a number")
        elif key in COUNTS:
            if not isinstance(value, int) or not COUNTS[key] <= value < 2**31:
                raise ValueError(
                    f"{place(key)} must be a whole number from {COUNTS[key]}, not {value}"
                )
        elif not (least := 1 if key == "steepness" else 0) <= value < np.inf:
            raise ValueError(f"{place(key)} must be at least {least}, got {value}")
    every = config.iterations_per_dispatch
    for key in ("iterations", "refresh"):
        if settings[key] % every:
            raise ValueError(
                f"{place(key)}={settings[key]} is not a multiple of "
                f"config.iterations_per_dispatch={every}"
            )
    changes = settings["candidates"] or settings["weighting"] != "fixed"
    if changes and not settings["refresh"]:
        raise ValueError(f"{place('refresh')} is 0: then neither points nor weights ever change")
    if settings["candidates"] and settings["weighting"] == "attention":
        raise ValueError(
            f"{place('weighting')}: attention weights belong to points, and "
            f"{place('candidates')}={settings['candidates']} replaces these: one of the two"
        )


def check_options(what: str, function: Callable, options: Mapping[str, Any]) -> None:
    """Raise ValueError where a problem's function cannot be called with these arguments."""
    signature = inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = f"only {', '.join(signature.parameters)}" if signature.parameters else "none at all"
        raise ValueError(f"{what}: {error}; it takes {known}") from None


def problem_named(name: str, place: str) -> Callable[..., Problem]:
    """One of :mod:`jaxdl.pinn.problems`, or the user's own, ``module:function``.

    Raises:
      ValueError: if there is none, with the ``place`` of the setting; if its module has errors.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    module, colon, function = name.partition(":")
    missing = f"{place}: there is no problem {name!r}"
    own = "or your own, module:function"
    if not colon:
        raise ValueError(f"{missing}: name one of {', '.join(PROBLEMS)}, {own}")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:
        through = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        entered = [f for f in through if f not in (__file__, importlib.__file__) and f[0] != "<"]
        # Where the module was found, its own lines or its syntax were what failed.
        if entered or isinstance(error, SyntaxError):
            raise ValueError(f"{name}: {told(error, *entered[:1])}") from error
        raise ValueError(f"{missing} ({error}): name one of ours, as heat, {own}") from None
    if not callable(found):
        what = "not there" if found is None else f"no function but {type(found).__name__}"
        raise ValueError(f"{missing}: in the module {module!r}, {function!r} is {what}")
    return found


def told(error: BaseException, file: str = "") -> str:
    """An exception in one line: its type, its text, and the last line of a file that led to it."""
    text, at = (str(error).splitlines() or [""])[0], last_line(error, file)
    if isinstance(error, SyntaxError) and error.filename:
        text, at = error.msg, f"{Path(error.filename).name}, line {error.lineno}"
    return f"{type(error).__name__}: {text}" + (f" ({at})" if at else "")


def last_line(error: BaseException | None, file: str) -> str:
    """The last line of a file that led to an exception, or to its cause; empty if none did."""
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == file:
                return f"{Path(file).name}, line {frame.lineno}, in {frame.name}"
        error = error.__cause__
    return ""


@contextmanager
def blame(name: str) -> Iterator[None]:
    """Within, what goes wrong is told of a problem, as a ValueError; with the line of its module
    where one led to it."""
    try:
        yield
    except Exception as error:
        module = getattr(problem_named(name, ""), "__module__", None)
        file = getattr(sys.modules.get(module), "__file__", None) or ""
        if last_line(error, file):
            raise ValueError(f"{name}: {told(error, file)}") from error
        if isinstance(error, ValueError):  # what this project found wrong, and says so
            raise ValueError(f"{name}: {error}") from error
        if name in PROBLEMS:  # not the user's error
            raise
        raise ValueError(f"{name}: {told(error)}") from error


def make_program(config: ConfigDict, mesh: Mesh, planned: Planned) -> Program:
    """Compile training and judgement of one problem by one method."""
    name, method, settings = planned.problem, planned.method, planned.settings
    function = problem_named(settings["problem"], planned.place("problem"))
    problem = function(**settings["options"])
    if not isinstance(problem, Problem):
        raise ValueError(
            f"its function returns {type(problem).__name__}, and must return a "
            "jaxdl.pinn.problem.Problem: is there a `return`?"
        )
    if problem.solution is None:
        raise ValueError("there is no solution to be judged by: give an exact or another's one")
    activation = ACTIVATIONS[settings["activation"]]
    network = MLP(tuple(settings["hidden"]), len(problem.fields), activation, settings["steepness"])
    ansatz = Ansatz(problem, network)
    rules = {n: t.points for n, t in problem.terms.items() if isinstance(t.points, Points)}
    for term, rule in rules.items():
        if not rule.fixed and 0 < settings["candidates"] <= rule.count:
            raise ValueError(
                f"{planned.place('candidates')}={settings['candidates']} must be more than the "
                f"{rule.count} points of {term!r} that are drawn among them"
            )
    how = objective.Refresh(
        settings["candidates"],
        settings["power"],
        settings["floor"],
        settings["weighting"],
        settings["tolerance"],
        settings["decay"],
        settings["attention"],
    )

    def loss(params: Params, collections, batch: Batch, hyper: Hyper, key: jax.Array):
        value, means = objective.loss(ansatz, params, collections["sample"])
        return value, (collections, means)

    def rule(hyper: Hyper) -> optax.GradientTransformationExtraArgs:
        if settings["optimizer"] in DIRECTIONS:
            return optim.wolfe_searched(DIRECTIONS[settings["optimizer"]]())
        return optax.adam(optax.cosine_decay_schedule(settings["rate"], settings["iterations"]))

    searches = settings["optimizer"] in DIRECTIONS
    step = (make_search_step if searches else make_step)(loss, rule)
    changes = how.candidates or how.weighting != "fixed"

    def refreshed(state: TrainState, hyper: Hyper) -> TrainState:
        key = jax.random.fold_in(hyper["key"], state.step)
        sample = objective.refresh(ansatz, how, state.params, state.collections["sample"], key)
        return state.replace(
            collections={"sample": sample}, opt_state=optim.restart(state.opt_state)
        )

    def due(state: TrainState, hyper: Hyper) -> TrainState:
        if not changes:
            return state
        now = (state.step % settings["refresh"] == 0) & (state.step > 0)
        return lax.cond(now, refreshed, lambda state, hyper: state, state, hyper)

    def dispatch(state: TrainState, hyper: Hyper, _: tuple) -> tuple[TrainState, Metrics]:
        return lax.scan(
            lambda state, _: step(state, {}, hyper),
            due(state, hyper),
            length=config.iterations_per_dispatch,
        )

    def first_loss(state: TrainState, hyper: Hyper, _: tuple) -> jax.Array:
        return step(due(state, hyper), {}, hyper)[1]["loss"]

    heldout = make_heldout(ansatz, config.heldout)

    def judge(state: TrainState, heldout: Heldout) -> dict[str, jax.Array]:
        train, _ = objective.loss(ansatz, state.params, unweighted(state.collections["sample"]))
        beside, means = objective.loss(ansatz, state.params, heldout.sample)
        error = ansatz(state.params, heldout.points) - heldout.solution
        return {
            "train_loss": train,
            "heldout_loss": beside,
            "rel_l2": jnp.linalg.norm(error) / jnp.linalg.norm(heldout.solution),
            **{f"heldout_{term}": mean for term, mean in means.items()},
            "parameters": dict(problem.found(state.params["physics"])),
        }

    @jax.jit
    def begin(key: jax.Array, sample: objective.Sample) -> TrainState:
        return create_state({"params": ansatz.init(key), "sample": sample}, rule, {})

    def start() -> TrainState:
        seeds = range(config.seeds)
        samples = [objective.draw_sample(problem, settings["points"], 1000 * s) for s in seeds]
        states = [begin(member_key("init", s), samples[s]) for s in seeds]
        return population_of(states, 0, mesh)

    mode = config.parallel.mode
    judged = over_members(judge, mesh, mode=mode)
    states = start()
    if changes:  # for its errors: points and weights are not changed before training
        jax.eval_shape(
            lambda states, hyper: refreshed(trees.member(states, 0), hyper),
            states,
            {"key": member_key("refresh", 0)},
        )
    first, singular = to_host(judged(states, heldout)), {}
    if not np.isfinite(first["train_loss"]).all():
        lost = int(np.argmin(np.isfinite(first["train_loss"])))
        raise ValueError(where_not_finite(ansatz, trees.member(to_host(states), lost)))
    if not np.isfinite(first["rel_l2"]).all():
        lost = int(np.argmin(np.isfinite(first["rel_l2"])))
        values = ansatz(trees.member(to_host(states), lost).params, heldout.points)
        raise ValueError(
            "the network, with the problem's features and constraint, "
            f"{not_finite(problem, heldout.points, values)}: leave it out of the domain, or of "
            "Points by inside="
        )
    if not np.isfinite(first["heldout_loss"]).all():
        heldout, singular = leave_out_singular(ansatz, heldout)
    return Program(
        name,
        method,
        settings,
        ansatz,
        heldout,
        singular,
        start,
        Training(
            over_members(dispatch, mesh, donate=True, check_vma=False, mode=mode),
            make_first_losses(
                lambda _: first_loss,
                mesh,
                specs=(P("member"), P("member"), P()),
                mode=mode,
            ),
        ),
        judged,
    )


def where_not_finite(ansatz: Ansatz, state: TrainState) -> str:
    """The first point of the first residual that is not finite, in a sentence."""
    for term, points in state.collections["sample"].points.items():
        residual = ansatz.residual(state.params, term, points)
        if not np.isfinite(residual).all():
            return (
                f"the residual {term!r} {not_finite(ansatz.problem, points, residual)} "
                "before any training: look for NaN in its data and formula"
            )
    return "the loss is not finite before any training"


def not_finite(
    problem: Problem, points: Float[np.ndarray, "n d"], values: Float[Array, "n m"]
) -> str:
    """Where values are not finite: the first such point, in words that follow a subject."""
    i = int(np.argmin(np.isfinite(values).all(axis=-1)))
    return f"is not finite at point {i} of {len(points)} ({describe_point(problem, points[i])})"


def describe_point(problem: Problem, point: Float[np.ndarray, " d"]) -> str:
    """A point in words."""
    return ", ".join(f"{c}={x:g}" for c, x in zip(problem.domain, point, strict=True))


PROBES = 8
"""Random networks that tell a singular equation from a network at which it cannot be evaluated."""


def leave_out_singular(
    ansatz: Ansatz, heldout: Heldout
) -> tuple[Heldout, dict[str, Float[np.ndarray, "k d"]]]:
    """The held-out sample without the points where a residual is finite for no network, such as
    ``u_r / r`` at r = 0; and those points, by term.

    Raises:
      ValueError: if nothing is left of a term.
    """

    @functools.partial(jax.jit, static_argnums=1)
    def finite(key: jax.Array, term: str, points: Float[Array, "n d"]) -> Bool[Array, " n"]:
        return jnp.isfinite(ansatz.residual(ansatz.init(key), term, points)).all(axis=-1)

    keys = jax.random.split(jax.random.key(0), PROBES)
    points, weights, singular = {}, {}, {}
    for term, there in heldout.sample.points.items():
        regular = np.any([finite(key, term, there) for key in keys], axis=0)
        if not regular.any():
            raise ValueError(
                f"the residual {term!r} is finite at none of its {len(there)} held-out points, "
                "whatever the network: look for NaN in its data and formula"
            )
        points[term], weights[term] = there[regular], heldout.sample.weights[term][regular]
        if not regular.all():
            singular[term] = there[~regular]
    return heldout._replace(sample=objective.Sample(points, weights)), singular


def unweighted(sample: objective.Sample) -> objective.Sample:
    """The sample with all its weights 1, so that losses can be compared."""
    return sample._replace(weights=jax.tree.map(jnp.ones_like, sample.weights))


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
