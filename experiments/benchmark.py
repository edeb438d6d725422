"""How fast is jaxdl beside what one would write instead? Ratios, measured side by side in one run.

python -m experiments.benchmark --config configs/benchmark.py:transferability
python -m experiments.benchmark --config configs/benchmark.py:dann
python -m experiments.benchmark --config configs/benchmark.py:data

A variant of the configuration is a module that says which contenders there are (`setups`), what
cannot be measured (`check`) and what the report says of the rounds (`sections`). How they are timed
in turns is :mod:`experiments._interleave`. Everything runs on the CPU, but for what ``dann`` adds
where JAX has an accelerator.
"""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_collections import ConfigDict
from tqdm import tqdm

from configs.benchmark import get_config
from experiments import _benchmark_dann, _benchmark_data, _benchmark_transferability, _run
from experiments._interleave import Row, Worker, one_round
from jaxdl.data.encoded import cores
from jaxdl.report.tables import read_rows, write_atomically, write_rows
from jaxdl.train.loop import Interrupted, StopFlag

BENCHMARKS = {
    "transferability": _benchmark_transferability,
    "dann": _benchmark_dann,
    "data": _benchmark_data,
}


def machine() -> dict[str, str | int]:
    """What ratios depend on."""
    return {
        "cores": cores(),
        "processor": processor(),
        **{name: version(name) for name in ("jax", "jaxlib", "torch")},
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the benchmark; the report. Rounds that are in ``results.csv`` are not timed again."""
    with _run.user_input():
        if find_spec("torch") is None:
            _run.fail("the benchmark compares with PyTorch: pip install -e '.[bench]'")
        benchmark = BENCHMARKS[config.variant]
        if min(config.rounds, config.steps) < 1:
            raise ValueError("config.rounds and config.steps must be at least 1")
        benchmark.check(config)
        here = machine()
        _run.claim(workdir, config, here)
        finished, table = workdir / "report.md", workdir / "results.csv"
        if finished.exists():
            return finished.read_text()
        rows = read_rows(table, Row) if table.exists() else []
    load, _, _ = os.getloadavg()

    def go_on() -> None:
        if stop.received is not None:
            raise Interrupted(stop.received)

    with ExitStack() as workers_of, tqdm(unit="slice") as bar:
        workers, answers = {}, {}
        scratch = Path(workers_of.enter_context(TemporaryDirectory(dir=workdir)))
        for what, setup in benchmark.setups(config, scratch).items():
            bar.set_description(f"starting {what}")
            with _run.user_input():
                workers[what] = worker = workers_of.enter_context(Worker(setup, config))
            answers[what] = {question: worker.ask(question) for question in setup.questions}
            go_on()
        done = max((row.round for row in rows), default=-1) + 1
        bar.total = (config.rounds - done) * sum(len(w.sizes) for w in workers.values())
        for number in range(done, config.rounds):
            bar.set_description(f"round {number + 1} of {config.rounds}")
            for row in one_round(workers, number):
                rows.append(row)
                bar.update()
                go_on()
            write_rows(table, Row, rows)
        first = {what: worker.first_seconds for what, worker in workers.items()}
    doubt = "" if load < 0.5 else ", so others were at work: measure again on an idle machine"
    report = f"""\
# Benchmark: {config.variant}

{here["cores"]} cores of {here["processor"]}; jax {here["jax"]}, PyTorch {here["torch"]}.
{config.rounds} rounds in turns, each contender alone at work. Load before: {load:.1f}{doubt}.

{benchmark.sections(config, rows, answers, first)}
"""
    write_atomically(finished, report)
    return report


if __name__ == "__main__":
    _run.run(study, "benchmark", get_config())
