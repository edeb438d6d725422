"""How fast is jaxdl beside what one would write instead? Ratios, measured side by side in one run.

python -m experiments.benchmark --config configs/benchmark.py:VARIANT

A variant is a module here, with our side and the report: transferability, dann, data, pinn, search,
scale; or ``all``, one after the other. The others' side is in
:mod:`experiments.benchmark.contenders`; how contenders take turns, in
:mod:`experiments.benchmark.turns`. Everything runs on the CPU, but for what ``dann`` and ``scale``
add where JAX has an accelerator.
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
from experiments.benchmark import dann, data, pinn, scale, search, transferability
from experiments.benchmark.summaries import unjudged
from experiments.benchmark.turns import Measurements, Worker
from experiments.harness.run import run, user_input
from experiments.harness.study import claim
from jaxdl.data.encoded import cores
from jaxdl.report import figures
from jaxdl.report.tables import read_rows, write_atomically, write_rows
from jaxdl.train.interruption import Interrupted, StopFlag

BENCHMARKS = {
    "transferability": transferability.BENCHMARK,
    "dann": dann.BENCHMARK,
    "data": data.BENCHMARK,
    "pinn": pinn.BENCHMARK,
    "search": search.BENCHMARK,
    "scale": scale.BENCHMARK,
}


def machine(packages: Iterable[str] = ()) -> dict[str, str | int]:
    """Cores, processor and package versions, which ratios depend on."""
    versions = {name: version(name) for name in ("jax", "jaxlib", *packages)}
    return {"cores": cores(), "processor": processor(), **versions}


def processor() -> str:
    """The processor's name, as far as the system reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run one benchmark, or all, each in a folder of its own; the reports. Rounds that are in
    ``results.csv`` are not timed again."""
    load, _, _ = os.getloadavg()  # of others: later it is our own
    if config.variant != "all":
        check(config)
        return run_benchmark(config, workdir, stop, load)
    parts = {}
    for name in BENCHMARKS:
        parts[name] = part = config.copy_and_resolve_references()
        part.variant, part.rounds = name, config.rounds or get_config(name).rounds
        check(part)  # all, before the first one takes its minutes
    reports = [run_benchmark(part, workdir / name, stop, load) for name, part in parts.items()]
    write_atomically(workdir / "report.md", report := "\n".join(reports))
    return report


def check(config: ConfigDict) -> None:
    """Raise UserError where a benchmark cannot be made."""
    benchmark = BENCHMARKS[config.variant]
    with user_input():
        absent = [name for package, name in benchmark.peers.items() if find_spec(package) is None]
        if absent:
            raise ValueError(
                f"the benchmark compares with {' and '.join(absent)}: pip install -e '.[bench]'"
            )
        if min(config.rounds, config.steps) < 1:
            raise ValueError("config.rounds and config.steps must be at least 1")
        benchmark.check(config)


def run_benchmark(config: ConfigDict, workdir: Path, stop: StopFlag, load: float) -> str:
    """Run one checked benchmark, its contenders in turns.

    Args:
      load: the mean number of others' processes at work, before the first benchmark.
    """
    benchmark = BENCHMARKS[config.variant]
    with user_input():
        computer = machine(benchmark.peers)
        claim(workdir, config, computer)
        finished, table = workdir / "report.md", workdir / "results.csv"
        if finished.exists():
            return finished.read_text(encoding="utf-8")
        rows = read_rows(table, benchmark.row) if table.exists() else []
        if benchmark.draw:
            figures.check()

    def obey() -> None:
        if stop.received is not None:
            raise Interrupted(stop.received)

    first = max((row.round for row in rows), default=-1) + 1
    with stop, ExitStack() as stack, tqdm(total=config.rounds - first, unit="round") as bar:
        workers, answers = {}, {}
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=workdir)))
        for name, setup in benchmark.setups(config, scratch).items():
            bar.set_description(f"starting {name}")
            try:
                with user_input():
                    workers[name] = worker = stack.enter_context(Worker(setup, config))
            except RuntimeError:
                obey()  # a signal to the whole process group also ends workers that are starting
                raise
            answers[name] = {question: worker.ask(question) for question in setup.questions}
            obey()
        for number in range(first, config.rounds):
            for row in benchmark.measure(workers, number):
                bar.set_description(f"round {number + 1} of {config.rounds}, {row.contender}")
                rows.append(row)
                obey()
            write_rows(table, benchmark.row, rows, ".9g")
            bar.update()
        first_seconds = {name: worker.first_seconds for name, worker in workers.items()}
    packages = {"jax": "jax", **benchmark.peers}
    versions = ", ".join(f"{name} {computer[package]}" for package, name in packages.items())
    measurements = Measurements(config, rows, answers, first_seconds)
    sections = "\n\n".join(benchmark.sections(measurements))
    load_note = f"Load before the first: {load:.1f}"
    if load >= 0.5:
        sections = unjudged(sections)
        load_note += (
            ": others were at work, so that no ratio here is to be compared, and no goal called "
            "met or missed; measure again on an idle machine"
        )
    report = f"""\
# Benchmark: {config.variant}

{computer["cores"]} cores of {computer["processor"]}; {versions}.
{config.rounds} rounds in turns, each contender alone at work. {load_note}.

{sections}
"""
    if benchmark.draw:
        benchmark.draw(measurements, workdir)
    write_atomically(finished, report)
    return report


if __name__ == "__main__":
    run(study, "benchmark", get_config(), free=("options", "problems", "methods", "space"))
