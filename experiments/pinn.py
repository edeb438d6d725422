"""What physics can be put into a loss?

``python -m experiments.pinn --config configs/pinn.py[:problem]`` solves differential equations by
networks that are trained to make a residual vanish (Raissi, Perdikaris & Karniadakis 2019). All
seeds of a problem are one population. The loss on the points that are trained on stands beside the
loss on a dense grid and the distance to the exact solution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from configs.pinn import get_config
from experiments.harness import settings as declared
from experiments.harness.devices import float64
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Multiple, OneOf, Settings, TupleOf
from experiments.harness.study import Headline, Study, conduct
from experiments.harness.user_functions import NamedFunction, blame
from jaxdl import optim, trees
from jaxdl.nn.models.mlp import ACTIVATIONS, MLP
from jaxdl.pinn import judgement, objective, sampling, weighting
from jaxdl.pinn.problem import Ansatz, Problem
from jaxdl.pinn.problems import PROBLEMS
from jaxdl.pinn.windows import OneWindow, TimeWindows
from jaxdl.report import figures, solutions
from jaxdl.report import pinn as reporting
from jaxdl.report.published import PINN
from jaxdl.train import logs
from jaxdl.train.groups import Group, Member, make_program_without_data, train
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MeshPlacement, make_placement, to_host
from jaxdl.train.population import member_key, over_members
from jaxdl.train.state import TrainState, create_state, make_search_step, make_step
from jaxdl.types import Hyper

OPTIMIZERS = {
    "ssbroyden": lambda rate, iterations: optim.ssbroyden(),
    "ssbfgs": lambda rate, iterations: optim.ssbfgs(),
    "lbfgs": lambda rate, iterations: optim.wolfe_searched(optax.scale_by_lbfgs(50)),
    "adam": lambda rate, iterations: optax.adam(optax.cosine_decay_schedule(rate, iterations)),
}
"""All but the last search along a line, and have no rate."""
SETTINGS = Settings(
    {
        **dict.fromkeys(("seeds", "heldout", "iterations_per_dispatch"), Count()),
        "parallel.mode": OneOf(("shard_map", "jit", "pmap")),  # fsdp divides large networks
    },
    free=("options", "problems", "methods"),
)
METHOD = {
    "hidden": TupleOf(Count(), "(24, 24)", least=1),
    "activation": OneOf(("tanh", "sin", "swish", "gelu")),  # smooth: residuals differentiate twice
    "steepness": Between(1),
    "optimizer": OneOf(tuple(OPTIMIZERS)),
    "iterations": (Count(), Multiple("iterations_per_dispatch")),
    "refresh": (Count(0), Multiple("iterations_per_dispatch")),
    "points": OneOf(sampling.RULES),
    "candidates": Count(0),
    "weighting": OneOf(weighting.WEIGHTINGS),
    "windows": Count(),
    **dict.fromkeys(("rate", "power", "floor", "tolerance", "decay", "attention"), Between(0)),
}
JUDGED = {"train_loss": "on the points, ", "heldout_loss": "held out, ", "rel_l2": ""}
"""Columns of ``results.csv``, and how lines of the curves' legend begin."""


class Network(NamedTuple):
    """Names a network; its fields are among those of the curves."""

    problem: str
    method: str
    seed: int


class Solver:
    """All seeds of a problem by a method."""

    def __init__(self, config: ConfigDict, problem: str, method: str):
        """With checked settings; ``problem`` and ``method`` are keys of the configuration."""
        chosen = declared.method(config, ("problems", problem), ("methods", method))
        self.settings, self.place = settings, place = chosen.settings, chosen.path
        if not settings["problem"]:
            settings["problem"], chosen.sections["problem"] = problem, f"config.problems.{problem}"
        chosen.check(config, METHOD)
        name = settings["problem"]
        problem = named(problem, name.rpartition(":")[2], PROBLEMS)
        self.name = problem, named(method, settings["optimizer"], OPTIMIZERS)
        self.make_problem = NamedFunction(place("problem"), name, PROBLEMS, Problem)
        self.make_problem.check_options(f"{place('options')}: {name}", settings["options"])
        self.refreshing = objective.Refresh(*map(settings.get, objective.Refresh._fields))
        if self.refreshing.changes and not settings["refresh"]:
            reason = "is 0: then neither points nor weights ever change"
            raise ValueError(f"{place('refresh')} {reason}")
        self.steps = settings["windows"] * settings["iterations"]

    def build(self, config: ConfigDict, placement: MeshPlacement) -> None:
        """Networks and program; ValueError where a problem cannot be solved or judged so."""
        settings, self.ansatz = self.settings, self.make_ansatz()
        self.init = jax.jit(self.ansatz.init)
        count, self.block = settings["windows"], objective.BLOCKS.get(placement.platform)
        self.windows = TimeWindows(self.ansatz, count) if count > 1 else OneWindow(self.ansatz)
        self.refreshing.check(self.ansatz.problem, self.place, count)
        self.heldout = self.windows.make_heldout(config.heldout)
        judge = partial(self.windows.judge, block=self.block)
        self.judge = over_members(judge, placement, check_vma=False)
        """``judge(params, collections, heldout)`` of all members."""
        make = make_step if settings["optimizer"] == "adam" else make_search_step
        program = make_program_without_data(
            make(objective.training_loss(self.windows.window_ansatz, self.block), self.rule),
            placement,
            steps=self.steps,
            steps_per_dispatch=config.iterations_per_dispatch,
            refresh=self.refresh,
            watch=self.watch,
        )
        members = []
        for seed in range(config.seeds):
            start, hyper = partial(self.start, seed), partial(dict, key=member_key("refresh", seed))
            members.append(Member([Network(*self.name, seed)], program, start, hyper))
        self.group = Group("-".join(self.name), members, len(members))
        # For its errors: points are not changed before training.
        jax.eval_shape(self.refresh, members[0].start(), members[0].hyper())
        states = self.group.start()[0].replace(opt_state=())
        states = states.replace(collections=self.windows.at_last(states.collections))
        values = to_host(self.judge(states.params, states.collections, self.heldout))
        for state, value in zip(*map(trees.unstack, (to_host(states), values)), strict=True):
            points = self.windows.points(state.collections)
            judgement.check_start(self.ansatz, state.params, points, self.heldout, value)
        if not np.isfinite(values["heldout_loss"]).all():
            self.heldout = judgement.leave_out_singular(self.ansatz, self.heldout)

    def make_ansatz(self) -> Ansatz:
        """The problem, and the network that solves it."""
        settings, problem = self.settings, self.make_problem(**self.settings["options"])
        widths, activation = tuple(settings["hidden"]), ACTIVATIONS[settings["activation"]]
        return Ansatz(problem, MLP(widths, len(problem.fields), activation, settings["steepness"]))

    def start(self, seed: int) -> TrainState:
        """The network and the points of a seed before the first step."""
        sample = objective.draw_sample(self.ansatz.problem, self.settings["points"], 1000 * seed)
        params = self.init(member_key("init", seed))
        return create_state({"params": params, **self.windows.begin(sample)}, self.rule, {})

    def rule(self, hyper: Hyper) -> optax.GradientTransformationExtraArgs:
        """The optimizer."""
        optimizer, *numbers = map(self.settings.get, ("optimizer", "rate", "iterations"))
        return OPTIMIZERS[optimizer](*numbers)

    def refresh(self, state: TrainState, hyper: Hyper) -> TrainState:
        """Before a dispatch: points and weights follow the residuals, or the next window begins."""
        in_windows, params, old = self.settings["windows"] > 1, state.params, state.collections
        if not in_windows and not self.refreshing.changes:
            return state

        def change() -> TrainState:
            if in_windows:  # in which the curvature of the last one misleads
                new, optimizer = self.windows.advance(params, old), self.rule(hyper).init(params)
            else:
                key = jax.random.fold_in(hyper["key"], state.step)
                sample = objective.refresh(self.ansatz, self.refreshing, params, old["sample"], key)
                new, optimizer = {"sample": sample}, optim.restart(state.opt_state)
            return state.replace(collections=new, opt_state=optimizer)

        every = self.settings["iterations" if in_windows else "refresh"]
        due = (state.step % every == 0) & (state.step > 0)
        return lax.cond(due, change, lambda: state)

    def watch(self, members: Sequence[Member], states: TrainState, hypers: Hyper):
        """The same for the curves, of all networks."""
        values = to_host(self.judge(states.params, states.collections, self.heldout))
        return values | values.pop("parameters")


def named(key: str, meant: str, names: Sequence[str]) -> str:
    """The name of a problem or method: its key in the configuration, unless that is named after a
    known one and another is meant, as by ``config.base.problem`` of the command line."""
    after = [name for name in names if key == name or key.startswith(f"{name}_")]
    return meant if after and meant not in after else key


def plan(config: ConfigDict) -> list[Solver]:
    """All problems by all methods; ValueError for a setting that cannot be had."""
    solvers: dict[tuple[str, str], Solver] = {}
    for section in ("problems", "methods"):
        declared.check_section(config, section)
    for problem, method in product(config.problems, config.methods):
        solver = Solver(config, problem, method)
        if solver.name in solvers:
            raise ValueError(
                f"config.problems.{problem} by config.methods.{method} is "
                f"{' by '.join(solver.name)} once more: set {solver.place('problem')} where there "
                "is one problem, as in the default variant, or give sections names of their own"
            )
        solvers[solver.name] = solver
    return list(solvers.values())


class Physics(Study):
    """All problems by all methods."""

    settings, network = SETTINGS, Network
    headline = Headline(reporting.Result, "rel_l2", logarithm=True)

    def __init__(self, config: ConfigDict):
        self.config, self.solvers = config, plan(config)

    def build(self) -> None:
        """Problems, networks and programs."""
        if jnp.ones(()) + 1e-12 == 1:
            message = "this study computes in float64, which this device or JAX does not have"
            raise ValueError(message)
        self.placement = make_placement(**self.config.parallel)
        for solver in self.solvers:
            name, make = solver.settings["problem"], solver.make_problem
            with blame(name, make.function, shipped=make.shipped):
                solver.build(self.config, self.placement)
        self.members = [member for solver in self.solvers for member in solver.group.members]

    def train(self, trainer: Trainer) -> None:
        """All seeds of a problem and method together."""
        self.trained = {s: train(s.group, trainer) for s in self.solvers}

    def measure(self, trainer: Trainer, tests: Mapping) -> None:
        """What each network is worth, and the physical parameters that were found."""
        results, self.parameters = [], list[reporting.Parameter]()
        diverged = trainer.curves.faults(Network)
        # On a CPU the networks of a device are trained one after the other, elsewhere side by side.
        on_cpu = self.placement.platform == "cpu"
        in_turn = -(-self.config.seeds // self.placement.member_devices) if on_cpu else 1
        for solver, trained in self.trained.items():
            states, _ = trained.population()
            values = solver.judge(states.params, states.collections, solver.heldout)
            values = trees.unstack(to_host(values))
            seconds = trainer.clock.by_population[solver.group.name] / in_turn
            for network, value in zip(solver.group.networks, values, strict=False):
                judged = (math.nan if network in diverged else float(value[key]) for key in JUDGED)
                results.append(reporting.Result(*network, *judged, solver.steps, seconds))
                for name, x in value["parameters"].items():
                    row = *network, name, float(x), solver.ansatz.problem.truth.get(name, math.nan)
                    self.parameters.append(reporting.Parameter(*row))
        reporting.write_results(trainer.folder / "results.csv", results)
        reporting.write_parameters(trainer.folder / "parameters.csv", self.parameters)

    def draw(self, trainer: Trainer) -> None:
        """Points; and of each problem curves, and solutions of the first seed."""
        folder, points, panels, surfaces = trainer.folder, {}, {}, {}
        networks = trainer.curves.by_network(Network).items()
        for field, (network, records) in product(JUDGED, networks):
            if (line := logs.series(records, field)).size:
                title = f"{'relative L2' if field == 'rel_l2' else 'loss'}, {network.problem}"
                lines = panels.setdefault(network.problem, {}).setdefault(title, {})
                lines.setdefault(JUDGED[field] + network.method, []).append(line)
        for solver, trained in self.trained.items():
            problem, heldout, state = solver.ansatz.problem, solver.heldout, trained.states[0]
            (name, method), names = solver.name, problem.coordinates
            points[f"{name} by {method}"] = names, solver.windows.points(state.collections)
            solution = jax.jit(solver.windows.solution)
            values = np.asarray(solution(state.params, state.collections, heldout.points))
            for field, *functions in zip(problem.fields, values.T, heldout.solution.T, strict=True):
                panel = names, heldout.points, *functions
                surfaces.setdefault(name, {})[f"{field} by {method}"] = panel
        for name, surface in surfaces.items():
            ending = f"-{name}.png" if len(surfaces) > 1 else ".png"
            curves = panels.get(name, {}), folder / f"curves{ending}", "iteration"
            figures.curves(*curves, logarithmic=True)
            solutions.surfaces(surface, folder / f"solution{ending}", f"{name}, seed 0")
        solutions.scattered(points, folder / "samples.png", "points of seed 0 at the end")

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        networks = {"Networks": f"{len(self.members)}"}
        for solver, trained in self.trained.items():
            name, state = ", ".join(solver.name), trained.states[0]
            size, points = trees.count(state.params), state.collections["sample"].points
            networks[name] = reporting.describe(solver.settings, size, points)
            if singular := judgement.describe_singular(solver.ansatz.problem, solver.heldout):
                networks[f"{name}, left out"] = singular
        facts = networks | {"Precision": "float64"} | facts
        results = reporting.read_results(trainer.folder / "results.csv")
        return reporting.report(results, self.parameters, PINN, facts)


study = float64()(partial(conduct, Physics))

if __name__ == "__main__":
    run(study, "pinn", get_config(), members=lambda config: config.seeds, free=SETTINGS.free)
