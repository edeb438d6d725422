"""What physics can be put into a loss?

``python -m experiments.pinn --config configs/pinn.py[:problem]`` solves differential equations by
networks that are trained to make a residual vanish (Raissi, Perdikaris & Karniadakis 2019). All
seeds of a problem are one population. Beside the loss on the points that are trained on, the loss
on a dense grid and the distance to the exact solution are always told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.pinn import get_config
from experiments import _run
from experiments._pinn_setup import Lab, Program, describe_point, make_lab
from jaxdl import trees
from jaxdl.report import figures
from jaxdl.report import pinn as reporting
from jaxdl.report.published import PINN
from jaxdl.report.tables import write_atomically
from jaxdl.train import logs
from jaxdl.train.loop import StopFlag, Workplace
from jaxdl.train.parallel import to_host
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import TrainState


class Network(NamedTuple):
    """Names a network; its fields are among those of the curves."""

    problem: str
    method: str
    seed: int


class Solved(NamedTuple):
    """A problem's networks, trained to their end."""

    program: Program
    states: TrainState


def name_of(program: Program) -> str:
    """Of the population."""
    return f"{program.problem}-{program.method}"


def fit(lab: Lab, program: Program, place: Workplace) -> Solved:
    """Train a problem's networks; at once where they are trained already.

    Of the losses in `metrics.jsonl`, ``loss`` is what the optimizer sees, with the weights of terms
    and points, as the mean of all iterations since the line before. What ``watch`` adds is of the
    network at the line's own iteration, with all weights 1: ``train_loss`` on the points that it is
    trained on, ``heldout_loss`` on the grid. So ``train_loss`` is the smaller one while a loss
    falls, and the one to compare with ``heldout_loss``.
    """
    config = lab.config
    networks = [Network(program.problem, program.method, s) for s in range(config.seeds)]
    hypers = [{"key": member_key("refresh", n.seed)} for n in networks]
    hypers = population_of(hypers, 0, lab.mesh)

    def watch(states: TrainState) -> dict[str, np.ndarray]:
        """Unweighted losses and the error of the networks as they are now; see :func:`fit`."""
        told = to_host(program.judge(states, program.heldout))
        return told | told.pop("parameters")

    states = place.fit(
        name_of(program),
        program.train,
        program.start(),
        hypers,
        lambda first: (() for _ in itertools.count()),
        networks=[network._asdict() for network in networks],
        steps=program.settings["iterations"],
        steps_per_dispatch=config.iterations_per_dispatch,
        watch=watch,
    )
    return Solved(program, states)


def examine(
    lab: Lab, solved: Sequence[Solved], place: Workplace
) -> tuple[list[reporting.Result], list[reporting.Parameter]]:
    """What each network is worth, and the physical parameters that were found."""
    results, parameters = [], []
    faults = logs.faults(place.curves, Network)
    # On a CPU the networks of a device are trained one after the other, elsewhere side by side.
    on_cpu = lab.mesh.devices.flat[0].platform == "cpu"
    one_after_the_other = -(-lab.config.seeds // lab.mesh.shape["member"]) if on_cpu else 1
    for program, states in solved:
        told = to_host(program.judge(states, program.heldout))
        problem = program.ansatz.problem
        for seed in range(lab.config.seeds):
            network = Network(program.problem, program.method, seed)
            losses = [
                math.nan if network in faults else float(told[key][seed])
                for key in ("train_loss", "heldout_loss", "rel_l2")
            ]
            seconds = place.clock.by_population[name_of(program)] / one_after_the_other
            results.append(
                reporting.Result(*network, *losses, program.settings["iterations"], seconds)
            )
            parameters += [
                reporting.Parameter(
                    *network, name, float(found[seed]), problem.truth.get(name, np.nan)
                )
                for name, found in told["parameters"].items()
            ]
    return results, parameters


LOSSES = {"train_loss": "on the points", "heldout_loss": "held out"}


def draw(lab: Lab, solved: Sequence[Solved], place: Workplace) -> None:
    """Points; and of each problem curves, and solutions of the first seed."""
    lines = logs.by_network(place.curves, Network)
    losses: dict[str, dict] = {}
    errors: dict[str, dict] = {}
    surfaces: dict[str, dict] = {}
    points = {}
    for program, states in solved:
        name, method, problem = program.problem, program.method, program.ansatz.problem
        for seed in range(lab.config.seeds):
            mine = lines[Network(name, method, seed)]
            for key, label in LOSSES.items():
                group = losses.setdefault(name, {})
                group.setdefault(f"{label}, {method}", []).append(logs.series(mine, key))
            errors.setdefault(name, {}).setdefault(method, []).append(logs.series(mine, "rel_l2"))
        first = trees.member(to_host(states), 0)
        points[f"{name} by {method}"] = problem.coordinates, first.collections["sample"].points
        grid, exact = program.heldout.points, program.heldout.solution
        found = np.asarray(jax.jit(program.ansatz.__call__)(first.params, grid))
        for i, field in enumerate(problem.fields):
            panel = (problem.coordinates, grid, found[:, i], exact[:, i])
            surfaces.setdefault(name, {})[f"{field} by {method}"] = panel
    for name in surfaces:
        of = f"-{name}" if len(surfaces) > 1 else ""
        panels = {f"loss, {name}": losses[name], f"relative L2, {name}": errors[name]}
        figures.curves(panels, place.folder / f"curves{of}.png", "iteration", logarithmic=True)
        figures.surfaces(surfaces[name], place.folder / f"solution{of}.png", f"{name}, seed 0")
    figures.scattered(points, place.folder / "samples.png", "points of seed 0 at the end")


@contextmanager
def float64() -> Iterator[None]:
    """Within, or within a function decorated by it, JAX computes in double precision, in all
    threads."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@float64()
def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the whole study; the report."""
    with _run.user_input():
        lab, finished = None, workdir / "report.md"
        if not finished.exists():
            lab = make_lab(config)
        _run.claim(workdir, config, {})
        if lab is None:
            return finished.read_text(encoding="utf-8")
    with stop:  # there is something to save from here on
        total = config.seeds * sum(program.settings["iterations"] for program in lab.programs)
        with _run.progress_bar(total) as progress:
            place = _run.workplace(config, workdir, stop, progress)
            solved = [fit(lab, program, place) for program in lab.programs]
        results, parameters = examine(lab, solved, place)
        reporting.write_results(workdir / "results.csv", results)
        if parameters:
            reporting.write_parameters(workdir / "parameters.csv", parameters)
        draw(lab, solved, place)
        report = reporting.report(
            reporting.read_results(workdir / "results.csv"),
            parameters,
            PINN,
            facts(lab, solved, place) | _run.describe_run(place),
        )
        write_atomically(finished, report)
        return report


def facts(lab: Lab, solved: Sequence[Solved], place: Workplace) -> dict[str, str]:
    """What a reader of the report must know of the run."""
    lines = {"Networks": f"{len(lab.programs) * lab.config.seeds}"}
    for program, states in solved:
        params = jax.eval_shape(program.ansatz.init, jax.random.key(0))
        sizes = {
            term: points.shape[1] for term, points in states.collections["sample"].points.items()
        }
        lines[f"{program.problem}, {program.method}"] = (
            f"{' '.join(map(str, program.settings['hidden']))} {program.settings['activation']}, "
            f"{trees.count(params):,} parameters; points: "
            + ", ".join(f"{count:,} of {term}" for term, count in sizes.items())
        )
        if program.singular:
            problem = program.ansatz.problem
            lines[f"{program.problem}, {program.method}, left out"] = "; ".join(
                f"{len(points):,} of the {len(points) + len(rest):,} held-out points of {term}, "
                "where its residual is finite for no network, as at "
                f"{describe_point(problem, points[0])}"
                for term, points in program.singular.items()
                for rest in [program.heldout.sample.points[term]]
            )
    if lost := logs.faults(place.curves, Network):
        lines["Diverged"] = "; ".join(_run.describe_fault(*each) for each in lost.items())
    return lines | {"Precision": "float64"}


if __name__ == "__main__":
    _run.run(study, "pinn", get_config(), lambda config: config.seeds)
