"""Which way do optimizers go: over a saddle, along a narrow valley, across a plateau?

python -m experiments.landscape --config configs/landscape.py [--config.animate=True]

All surfaces, optimizers, rates and starts are one population in one program: numbers say which
surface and which optimizer are a member's own. Its state carries the path, a place a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from configs.landscape import get_config
from experiments.harness import settings as kinds
from experiments.harness.run import run
from experiments.harness.study import Headline, Study, conduct
from jaxdl.optim import OPTIMIZERS, make_optimizer
from jaxdl.optim.surfaces import SURFACES
from jaxdl.optim.switched import switched
from jaxdl.report import landscape as reporting
from jaxdl.report import landscape_figure as figure
from jaxdl.train.groups import Group, Member, make_program_without_data, train
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Batch, Hyper, Params

SETTINGS = kinds.Settings(
    {
        "surfaces": kinds.SomeOf(tuple(SURFACES), least=1),
        "optimizers": kinds.SomeOf(tuple(OPTIMIZERS), least=1),
        "rates": kinds.TupleOf(kinds.Between(0, above=True), "(0.01, 0.1)", least=1),
        **{"seeds": kinds.Count(), "spread": kinds.Between(0)},
        "steps_per_dispatch": kinds.Count(),
        "steps": (kinds.Count(), kinds.Multiple("steps_per_dispatch")),
        "tolerance": kinds.Between(0, above=True),
        "animate": kinds.Flag(),
        "parallel.mode": kinds.OneOf(("shard_map", "jit", "pmap")),
    }
)


class Network(NamedTuple):
    """The name of a path: the first columns of ``results.csv``."""

    surface: str
    optimizer: str
    rate: float
    seed: int
    """0 for the surface's own start."""


def networks(config: ConfigDict) -> list[Network]:
    """The names of all paths."""
    rates, seeds = map(float, config.rates), range(config.seeds + 1)
    return [Network(*name) for name in product(config.surfaces, config.optimizers, rates, seeds)]


class Landscape(Study):
    """All optimizers on all surfaces."""

    settings, network = SETTINGS, Network
    # Over all rates: it is large for an optimizer for which many rates will do.
    headline = Headline(reporting.Result, "reached", averaged=("rate",))

    def __init__(self, config: ConfigDict):
        if len(set(config.rates)) < len(config.rates):
            raise ValueError(f"config.rates has one rate twice: {config.rates}")
        self.config = config

    def build(self) -> None:
        """The program, and a member for each path."""
        config, functions = self.config, [SURFACES[name].function for name in self.config.surfaces]

        def loss(params: Params, collections: Mapping, batch: Batch, hyper: Hyper, key: jax.Array):
            position = params["position"]
            path = collections["path"].at[hyper["step"]].set(position)
            return lax.switch(hyper["surface"], functions, *position), ({"path": path}, {})

        def rule(hyper: Hyper) -> optax.GradientTransformation:
            rules = [make_optimizer(name, hyper["rate"]) for name in config.optimizers]
            return switched(hyper["optimizer"], rules)

        @jax.jit
        def begin(position: jax.Array, hyper: Hyper) -> TrainState:
            path = jnp.broadcast_to(position, (config.steps, 2))
            return create_state({"params": {"position": position}, "path": path}, rule, hyper)

        program = make_program_without_data(
            make_step(loss, rule),
            make_placement(**config.parallel),
            steps=config.steps,
            steps_per_dispatch=config.steps_per_dispatch,
        )
        key = member_key("train")  # of which nothing is drawn
        self.members = []
        for network in networks(config):
            hyper = {
                "key": key,
                "surface": np.int32(config.surfaces.index(network.surface)),
                "optimizer": np.int32(config.optimizers.index(network.optimizer)),
                "rate": np.float32(network.rate),
            }
            start = partial(begin, self.position(network), hyper)
            self.members.append(Member([network], program, start, lambda hyper=hyper: hyper))

    def position(self, network: Network) -> np.ndarray:
        """The start of a path: for a seed the same with all optimizers and rates."""
        surface = SURFACES[network.surface]
        spread = self.config.spread * np.ptp(surface.window, axis=1) * (network.seed > 0)
        noise = np.random.default_rng(network.seed).standard_normal(2)
        return np.float32(surface.start + spread * noise)

    def train(self, trainer: Trainer) -> None:
        """Train all paths as one population."""
        group = Group("paths", self.members, len(self.members))
        self.trained = train(group, trainer)

    def measure(self, trainer: Trainer, tests: Mapping) -> None:
        """Measure each path and write the table."""
        faults, self.paths, self.results = trainer.curves.faults(Network), {}, []
        for network, state in zip(self.trained.group.networks, self.trained.states, strict=True):
            steps = faults[network].step if network in faults else self.config.steps
            positions = np.vstack([state.collections["path"][:steps], state.params["position"]])
            with np.errstate(over="ignore"):  # of those that diverge
                values = SURFACES[network.surface].function(*positions.T)
            self.paths[network] = np.column_stack([positions, values])
            self.results.append(
                reporting.measure(
                    network, self.paths[network], self.config.tolerance, network in faults
                )
            )
        reporting.write_results(trainer.folder / "results.csv", self.results)

    def draw(self, trainer: Trainer) -> None:
        """The paths from the surfaces' own starts, each optimizer's at its best rate."""
        paths: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.config.surfaces}
        for (surface, optimizer), rate in reporting.best_rates(self.results).items():
            paths[surface][optimizer] = self.paths[surface, optimizer, rate, 0]
        figure.draw(paths, trainer.folder / "landscape.png", self.config.tolerance)
        if self.config.animate:
            figure.animate(paths, trainer.folder / "landscape.gif", self.config.tolerance)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config, results = self.config, reporting.read_results(trainer.folder / "results.csv")
        lines = {
            "Paths": f"{len(results):,} of {config.steps:,} steps, in one program",
            "Rates": ", ".join(f"{rate:g}" for rate in config.rates),
            "Starts": f"the surface's own and {config.seeds} around it, normally distributed with "
            f"a standard deviation of {config.spread:g} of the window's sides",
            "Minimum": f"a value up to {config.tolerance:g}",
        }
        if "Diverged" in facts:  # too many to be named there
            facts = {**facts, "Diverged": reporting.describe_diverged(results)}
        return reporting.report(results, lines | facts)


study = partial(conduct, Landscape)

if __name__ == "__main__":
    run(study, "landscape", get_config(), members=lambda config: len(networks(config)))
