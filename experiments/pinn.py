"""What physics can be put into a loss?

``python -m experiments.pinn --config configs/pinn.py[:problem]`` solves differential equations by
networks that are trained to make a residual vanish (Raissi, Perdikaris & Karniadakis 2019). All
seeds of a problem are one population. The loss on the points that are trained on stands beside the
loss on a dense grid and the distance to the exact solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from configs.pinn import get_config
from experiments.harness import settings as declared
from experiments.harness import user_functions
from experiments.harness.devices import float64
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Each, Multiple, OneOf, Settings
from experiments.harness.study import Headline, Study, conduct, curve_panels
from jaxdl import optim, trees
from jaxdl.nn.models.mlp import ACTIVATIONS, MLP
from jaxdl.pinn import judgement, objective, weighting
from jaxdl.pinn.problem import Ansatz, Problem
from jaxdl.pinn.problems import PROBLEMS
from jaxdl.pinn.sampling import RULES, Points
from jaxdl.report import figures, solutions
from jaxdl.report import pinn as reporting
from jaxdl.report.published import PINN
from jaxdl.train.groups import Group, Member, Program, make_program_without_data, train
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MeshPlacement, make_mesh, to_host
from jaxdl.train.population import member_key, over_members
from jaxdl.train.state import TrainState, create_state, make_search_step, make_step
from jaxdl.types import Batch, Hyper, Params

DIRECTIONS = {
    "ssbroyden": optim.scale_by_ssbroyden,
    "ssbfgs": optim.scale_by_ssbfgs,
    "lbfgs": partial(optax.scale_by_lbfgs, 50),
}
"""Rules for a direction, which :func:`jaxdl.optim.wolfe_searched` follows."""
OPTIMIZERS = (*DIRECTIONS, "adam")
SETTINGS = Settings(
    {"seeds": Count(), "heldout": Count(), "iterations_per_dispatch": Count()},
    free=("options", "problems", "methods"),
)
METHOD = {
    "hidden": Each(Count(), "(24, 24)", least=1),
    "activation": OneOf(tuple(ACTIVATIONS)),
    "steepness": Between(1),
    "optimizer": OneOf(OPTIMIZERS),
    "iterations": (Count(), Multiple("iterations_per_dispatch")),
    "refresh": (Count(0), Multiple("iterations_per_dispatch")),
    "points": OneOf(RULES),
    "candidates": Count(0),
    "weighting": OneOf(weighting.WEIGHTINGS),
    **dict.fromkeys(("rate", "power", "floor", "tolerance", "decay", "attention"), Between(0)),
}


REFRESH = ("candidates", "power", "floor", "weighting", "tolerance", "decay", "attention")
"""Settings of :class:`jaxdl.pinn.objective.Refresh`, in its order."""


class Network(NamedTuple):
    """Names a network; its fields are among those of the curves."""

    problem: str
    method: str
    seed: int


class Planned(NamedTuple):
    """What is trained: a problem, a method, the settings of both."""

    problem: str
    method: str
    settings: dict[str, Any]
    place: Callable[[str], str]
    """A setting as the user would write it, for messages."""


class Solver(NamedTuple):
    """What the networks of a problem by a method have in common."""

    planned: Planned
    ansatz: Ansatz
    heldout: judgement.Heldout
    singular: Mapping[str, np.ndarray]
    """Points that were left out of the held-out sample, by term."""
    judge: Callable
    """``judge(states, heldout)``: a number a member, of :func:`jaxdl.pinn.judgement.judge`."""
    group: Group


def plan(config: ConfigDict) -> list[Planned]:
    """Problem, method and settings of all that is trained.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    planned: dict[tuple[str, str], Planned] = {}
    for section in ("problems", "methods"):
        declared.check_section(config, section)
    for problem in config.problems:
        for method in config.methods:
            chosen = declared.method(config, ("problems", problem), ("methods", method))
            settings, sections = chosen
            if not settings["problem"]:
                settings["problem"], sections["problem"] = problem, f"config.problems.{problem}"
            chosen.check(config, METHOD)
            names = (
                named(problem, settings["problem"].rpartition(":")[2], PROBLEMS),
                named(method, settings["optimizer"], OPTIMIZERS),
            )
            if names in planned:
                raise ValueError(
                    f"config.problems.{problem} by config.methods.{method} is {names[0]} by "
                    f"{names[1]} once more: set {chosen.place('problem')} where there is one "
                    "problem, as in the default variant, or give sections names of their own"
                )
            planned[names] = Planned(*names, settings, chosen.place)
            check(planned[names])
    return list(planned.values())


def check(planned: Planned) -> None:
    """Raise ValueError where settings do not go together."""
    settings, place = planned.settings, planned.place
    about = f"{place('options')}: {settings['problem']}"
    user_functions.check_options(about, problem_of(planned), settings["options"])
    if changes(settings) and not settings["refresh"]:
        raise ValueError(f"{place('refresh')} is 0: then neither points nor weights ever change")
    if settings["candidates"] and settings["weighting"] == "attention":
        raise ValueError(
            f"{place('weighting')}: attention weights belong to points, and "
            f"{place('candidates')}={settings['candidates']} replaces these: one of the two"
        )


def named(key: str, meant: str, names: Sequence[str]) -> str:
    """The name of a problem or method: its key in the configuration, unless that is named after a
    known one and another is meant, as by ``config.base.problem`` of the command line."""
    after = [name for name in names if key == name or key.startswith(f"{name}_")]
    return meant if after and meant not in after else key


def problem_of(planned: Planned) -> Callable[..., Problem]:
    """The function that makes the problem."""
    name = planned.settings["problem"]
    return user_functions.function_named(name, PROBLEMS, planned.place("problem"), "problem")


def changes(settings: Mapping[str, Any]) -> bool:
    """Whether points or weights change in training."""
    return bool(settings["candidates"]) or settings["weighting"] != "fixed"


def make_ansatz(planned: Planned) -> Ansatz:
    """The problem, and the network that solves it.

    Raises:
      ValueError: for a problem that cannot be solved or judged with these settings.
    """
    settings = planned.settings
    problem = problem_of(planned)(**settings["options"])
    if not isinstance(problem, Problem):
        raise ValueError(
            f"its function returns {type(problem).__name__}, and must return a "
            "jaxdl.pinn.problem.Problem: is there a `return`?"
        )
    if problem.solution is None:
        raise ValueError("there is no solution to be judged by: give an exact or another's one")
    for term, rule in ((n, t.points) for n, t in problem.terms.items()):
        is_drawn = isinstance(rule, Points) and not rule.fixed
        if is_drawn and 0 < settings["candidates"] <= rule.count:
            raise ValueError(
                f"{planned.place('candidates')}={settings['candidates']} must be more than the "
                f"{rule.count} points of {term!r} that are drawn among them"
            )
    widths, activation = tuple(settings["hidden"]), ACTIVATIONS[settings["activation"]]
    return Ansatz(problem, MLP(widths, len(problem.fields), activation, settings["steepness"]))


class Physics(Study):
    """All problems by all methods."""

    settings, network = SETTINGS, Network
    headline = Headline(reporting.Result, "rel_l2", logarithm=True)

    def __init__(self, config: ConfigDict):
        self.config, self.planned = config, plan(config)

    def build(self) -> None:
        """Problems, networks and programs."""
        config = self.config
        if not jax.config.jax_enable_x64 or float(jnp.ones(()) + 1e-12) == 1:
            raise ValueError(
                "this study computes in float64, which this device or JAX does not have"
            )
        if config.parallel.mode == "fsdp":
            raise ValueError("config.parallel.mode: fsdp divides large networks; these are small")
        self.placement = MeshPlacement(make_mesh(config.parallel.member), config.parallel.mode)
        self.solvers = []
        for planned in self.planned:
            name = planned.settings["problem"]
            with user_functions.blame(name, problem_of(planned), ours=name in PROBLEMS):
                self.solvers.append(self.solver(planned))
        self.members = [member for solver in self.solvers for member in solver.group.members]

    def solver(self, planned: Planned) -> Solver:
        """One problem by one method, seen to be finite before training."""
        config, placement = self.config, self.placement
        ansatz = make_ansatz(planned)
        heldout, singular = judgement.make_heldout(ansatz, config.heldout), {}
        judge = over_members(
            lambda state, heldout: judgement.judge(
                ansatz, state.params, state.collections["sample"], heldout
            ),
            placement.mesh,
            mode=placement.mode,
        )
        program, start = self.program(planned, ansatz, lambda states: judge(states, heldout))
        members = [
            Member(
                [Network(planned.problem, planned.method, seed)],
                program,
                partial(start, seed),
                lambda seed=seed: {"key": member_key("refresh", seed)},
            )
            for seed in range(config.seeds)
        ]
        group = Group(f"{planned.problem}-{planned.method}", members, len(members))
        states = group.start(placement)[0].replace(opt_state=())
        values = to_host(judge(states, heldout))
        for seed, state in enumerate(trees.unstack(to_host(states))[: config.seeds]):
            of_seed = {key: values[key][seed] for key in ("train_loss", "rel_l2")}
            judgement.check_start(
                ansatz, state.params, state.collections["sample"], heldout, of_seed
            )
        if not np.isfinite(values["heldout_loss"]).all():
            heldout, singular = judgement.leave_out_singular(ansatz, heldout)
        return Solver(planned, ansatz, heldout, singular, judge, group)

    def program(
        self, planned: Planned, ansatz: Ansatz, judge: Callable
    ) -> tuple[Program, Callable[[int], TrainState]]:
        """Training, and the state of a seed before its first step.

        Of the losses in ``metrics.jsonl``, ``loss`` is what the optimizer sees, with the weights of
        terms and points, as the mean of all iterations since the line before. The others are of the
        network at the line's own iteration, with all weights 1: ``train_loss`` on the points that
        it is trained on, ``heldout_loss`` on the grid. So ``train_loss`` is the smaller one while a
        loss falls, and the one to compare with ``heldout_loss``.
        """
        settings = planned.settings
        refreshing = objective.Refresh(*map(settings.get, REFRESH))

        def loss(params: Params, collections: Mapping, batch: Batch, hyper: Hyper, key: Any):
            value, means = objective.loss(ansatz, params, collections["sample"])
            return value, (collections, means)

        def rule(hyper: Hyper) -> optax.GradientTransformationExtraArgs:
            if settings["optimizer"] in DIRECTIONS:
                return optim.wolfe_searched(DIRECTIONS[settings["optimizer"]]())
            return optax.adam(optax.cosine_decay_schedule(settings["rate"], settings["iterations"]))

        def refreshed(state: TrainState, hyper: Hyper) -> TrainState:
            key = jax.random.fold_in(hyper["key"], state.step)
            sample = state.collections["sample"]
            sample = objective.refresh(ansatz, refreshing, state.params, sample, key)
            restarted = optim.restart(state.opt_state)
            return state.replace(collections={"sample": sample}, opt_state=restarted)

        def due(state: TrainState, hyper: Hyper) -> TrainState:
            if not changes(settings):
                return state
            now = (state.step % settings["refresh"] == 0) & (state.step > 0)
            return lax.cond(now, refreshed, lambda state, hyper: state, state, hyper)

        def watch(members: Sequence[Member], states: TrainState, hypers: Hyper):
            values = to_host(judge(states))
            return values | values.pop("parameters")

        @jax.jit
        def begin(key: jax.Array, sample: objective.Sample) -> TrainState:
            return create_state({"params": ansatz.init(key), "sample": sample}, rule, {})

        def start(seed: int) -> TrainState:
            sample = objective.draw_sample(ansatz.problem, settings["points"], 1000 * seed)
            return begin(member_key("init", seed), sample)

        if changes(settings):  # for its errors: points are not changed before training
            jax.eval_shape(refreshed, start(0), {"key": member_key("refresh", 0)})
        searches = settings["optimizer"] in DIRECTIONS
        return make_program_without_data(
            (make_search_step if searches else make_step)(loss, rule),
            self.placement,
            steps=settings["iterations"],
            steps_per_dispatch=self.config.iterations_per_dispatch,
            refresh=due,
            watch=watch,
        ), start

    def train(self, trainer: Trainer) -> None:
        """All seeds of a problem and method together."""
        self.trained = [train(solver.group, trainer, self.placement) for solver in self.solvers]

    def measure(self, trainer: Trainer, tests: Mapping) -> None:
        """What each network is worth, and the physical parameters that were found."""
        results, self.parameters = [], []
        diverged = trainer.curves.faults(Network)
        # On a CPU the networks of a device are trained one after the other, elsewhere side by side.
        mesh, seeds = self.placement.mesh, self.config.seeds
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        in_turn = -(-seeds // self.placement.member_devices) if on_cpu else 1
        for solver, trained in zip(self.solvers, self.trained, strict=True):
            states, _ = trained.population(self.placement)
            values, truth = (
                to_host(solver.judge(states, solver.heldout)),
                solver.ansatz.problem.truth,
            )
            seconds = trainer.clock.by_population[solver.group.name] / in_turn
            for i, network in enumerate(solver.group.networks):
                losses = (values[key][i] for key in ("train_loss", "heldout_loss", "rel_l2"))
                losses = [math.nan if network in diverged else float(loss) for loss in losses]
                iterations = solver.planned.settings["iterations"]
                results.append(reporting.Result(*network, *losses, iterations, seconds))
                self.parameters += [
                    reporting.Parameter(
                        *network, name, float(estimates[i]), truth.get(name, np.nan)
                    )
                    for name, estimates in values["parameters"].items()
                ]
        reporting.write_results(trainer.folder / "results.csv", results)
        if self.parameters:
            reporting.write_parameters(trainer.folder / "parameters.csv", self.parameters)

    def draw(self, trainer: Trainer) -> None:
        """Points; and of each problem curves, and solutions of the first seed."""
        folder, points, surfaces = trainer.folder, {}, {}
        for solver, trained in zip(self.solvers, self.trained, strict=True):
            name, method, problem = *solver.planned[:2], solver.ansatz.problem
            first, (_, grid, exact) = trained.states[0], solver.heldout
            points[f"{name} by {method}"] = problem.coordinates, first.collections["sample"].points
            values = np.asarray(jax.jit(solver.ansatz.__call__)(first.params, grid))
            for i, field in enumerate(problem.fields):
                panel = (problem.coordinates, grid, values[:, i], exact[:, i])
                surfaces.setdefault(name, {})[f"{field} by {method}"] = panel
        for name in surfaces:
            ending = f"-{name}" if len(surfaces) > 1 else ""
            panels = self.curves(trainer, name)
            figures.curves(panels, folder / f"curves{ending}.png", "iteration", logarithmic=True)
            solutions.surfaces(surfaces[name], folder / f"solution{ending}.png", f"{name}, seed 0")
        solutions.scattered(points, folder / "samples.png", "points of seed 0 at the end")

    def curves(self, trainer: Trainer, problem: str) -> dict[str, dict[str, list]]:
        """Losses and errors of a problem."""
        panels: dict[str, dict[str, list]] = {}
        for field, title, label in (
            ("train_loss", f"loss, {problem}", "on the points, "),
            ("heldout_loss", f"loss, {problem}", "held out, "),
            ("rel_l2", f"relative L2, {problem}", ""),
        ):
            panel = curve_panels(
                trainer,
                Network,
                {field: title},
                lambda n, label=label: f"{label}{n.method}" if n.problem == problem else None,
            )
            panels[title] = panels.get(title, {}) | panel.get(title, {})
        return panels

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        networks = {"Networks": f"{len(self.members)}"}
        for solver, trained in zip(self.solvers, self.trained, strict=True):
            settings, singular = solver.planned.settings, solver.singular
            state, name = trained.states[0], ", ".join(solver.planned[:2])
            networks[name] = (
                f"{' '.join(map(str, settings['hidden']))} {settings['activation']}, "
                f"{trees.count(state.params):,} parameters; points: "
                + ", ".join(
                    f"{len(p):,} of {term}"
                    for term, p in state.collections["sample"].points.items()
                )
            )
            if singular:
                networks[f"{name}, left out"] = "; ".join(
                    f"{len(points):,} of the {len(points) + len(rest):,} held-out points of "
                    f"{term}, where its residual is finite for no network, as at "
                    f"{judgement.describe_point(solver.ansatz.problem, points[0])}"
                    for term, points in singular.items()
                    for rest in [solver.heldout.sample.points[term]]
                )
        facts = networks | {"Precision": "float64"} | facts
        results = reporting.read_results(trainer.folder / "results.csv")
        return reporting.report(results, self.parameters, PINN, facts)


study = float64()(partial(conduct, Physics))

if __name__ == "__main__":
    run(study, "pinn", get_config(), members=lambda config: config.seeds, free=SETTINGS.free)
