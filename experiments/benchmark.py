"""How fast is jaxdl beside what one would write instead? Ratios, measured side by side in one run.

python -m experiments.benchmark --config configs/benchmark.py:transferability
python -m experiments.benchmark --config configs/benchmark.py:dann
python -m experiments.benchmark --config configs/benchmark.py:data
python -m experiments.benchmark --config configs/benchmark.py:pinn
python -m experiments.benchmark --config configs/benchmark.py:scale

A variant of the configuration is a module that says which contenders there are (`setups`), what
cannot be measured (`check`) and what the report says of the rounds (`sections`). How they are timed
in turns is :mod:`experiments._interleave`; where a module has a `one_round` and a `Row` of its own,
that is what is measured, and where it has `draw`, there are figures. Everything runs on the CPU,
but for what ``dann`` and ``scale`` add where JAX has an accelerator.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_collections import ConfigDict
from tqdm import tqdm

from configs.benchmark import get_config
from experiments import (
    _benchmark_dann,
    _benchmark_data,
    _benchmark_pinn,
    _benchmark_scale,
    _benchmark_transferability,
)
from experiments._interleave import Worker, one_round
from experiments.harness.run import run, user_input
from experiments.harness.study import claim
from jaxdl.data.encoded import cores
from jaxdl.report import figures
from jaxdl.report.tables import read_rows, write_atomically, write_rows
from jaxdl.train.loop import Interrupted, StopFlag

BENCHMARKS = {
    "transferability": _benchmark_transferability,
    "dann": _benchmark_dann,
    "data": _benchmark_data,
    "pinn": _benchmark_pinn,
    "scale": _benchmark_scale,
}
TORCH = {"torch": "PyTorch"}
PEERS = {
    "transferability": TORCH,
    "dann": TORCH,
    "data": TORCH,
    "pinn": TORCH | {"deepxde": "DeepXDE", "jinns": "jinns"},
    "scale": {},
}
"""What a variant compares with, by package."""


def machine(peers: Iterable[str] = ()) -> dict[str, str | int]:
    """What ratios depend on."""
    return {
        "cores": cores(),
        "processor": processor(),
        **{name: version(name) for name in ("jax", "jaxlib", *peers)},
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the benchmark; the report. Rounds that are in ``results.csv`` are not timed again."""
    with user_input():
        peers = PEERS[config.variant]
        if missing := [name for package, name in peers.items() if find_spec(package) is None]:
            raise ValueError(
                f"the benchmark compares with {' and '.join(missing)}: pip install -e '.[bench]'"
            )
        benchmark = BENCHMARKS[config.variant]
        if min(config.rounds, config.steps) < 1:
            raise ValueError("config.rounds and config.steps must be at least 1")
        benchmark.check(config)
        here = machine(peers)
        claim(workdir, config, here)
        finished, table = workdir / "report.md", workdir / "results.csv"
        if finished.exists():
            return finished.read_text(encoding="utf-8")
        rows = read_rows(table, benchmark.Row) if table.exists() else []
        if hasattr(benchmark, "draw"):
            figures.check()
    load, _, _ = os.getloadavg()

    def go_on() -> None:
        if stop.received is not None:
            raise Interrupted(stop.received)

    with stop, ExitStack() as workers_of, tqdm(unit="slice") as bar:
        workers, answers = {}, {}
        scratch = Path(workers_of.enter_context(TemporaryDirectory(dir=workdir)))
        for what, setup in benchmark.setups(config, scratch).items():
            bar.set_description(f"starting {what}")
            with user_input():
                workers[what] = worker = workers_of.enter_context(Worker(setup, config))
            answers[what] = {question: worker.ask(question) for question in setup.questions}
            go_on()
        done = max((row.round for row in rows), default=-1) + 1
        pieces = sum(len(w.sizes) for w in workers.values()) + getattr(benchmark, "RUNS", 0)
        bar.total = (config.rounds - done) * pieces
        measure = getattr(benchmark, "one_round", one_round)
        for number in range(done, config.rounds):
            bar.set_description(f"round {number + 1} of {config.rounds}")
            for row in measure(workers, number):
                # One piece of work may have many rows.
                bar.update(not rows or row[:2] != rows[-1][:2] or row.round != rows[-1].round)
                rows.append(row)
                go_on()
            write_rows(table, benchmark.Row, rows, ".9g")
        first = {what: worker.first_seconds for what, worker in workers.items()}
    doubt = "" if load < 0.5 else ", so others were at work: measure again on an idle machine"
    packages = {"jax": "jax", **peers}
    versions = ", ".join(f"{name} {here[package]}" for package, name in packages.items())
    report = f"""\
# Benchmark: {config.variant}

{here["cores"]} cores of {here["processor"]}; {versions}.
{config.rounds} rounds in turns, each contender alone at work. Load before: {load:.1f}{doubt}.

{benchmark.sections(config, rows, answers, first)}
"""
    if hasattr(benchmark, "draw"):
        benchmark.draw(config, rows, workdir)
    write_atomically(finished, report)
    return report


if __name__ == "__main__":
    run(study, "benchmark", get_config(), free=("options", "problems", "methods"))
