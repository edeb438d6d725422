"""The benchmark of the physics study: all solve one problem, and what is said of it is right."""

import os
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import pinn as ours
from experiments.benchmark import solving
from experiments.benchmark.contenders import deepxde, jinns
from experiments.benchmark.pinn import ADAM, SOLVE, Row
from experiments.benchmark.solving import Look
from experiments.benchmark.turns import Contender, Measurements, Setup, Worker
from jaxdl.report.tables import read_rows, write_rows
from jaxdl.train.interruption import Interrupted, StopFlag
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, cells, stand_in

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="contenders are pinned to one hardware thread"
)


SECONDS = 1.0


@pytest.fixture
def little() -> ConfigDict:
    """Fewer points and small networks, of another diffusivity."""
    config = configs.get_config("pinn")
    config.rounds, pinn = 2, config.pinn
    pinn.seconds, pinn.adam_hidden, pinn.adam_chunks, pinn.adam_iterations = SECONDS, (5,), 1, 6
    pinn.chunk, pinn.jinns_chunk, pinn.natural_chunk, pinn.lbfgs_chunk = 4, 2, 2, 8
    base, pinn.study.heldout = pinn.study.base, 64
    base.hidden, base.iterations, base.refresh = (4, 3), 8, 0
    base.options = ConfigDict({"k": 0.02, "points": 256})
    return config


# --- the contenders ----------------------------------------------------------------------------


def with_reference(config: ConfigDict) -> Contender:
    """In a worker, ours, and what all are compared with: the loss written out with finite
    differences of our network, and the study's own parameters, there and back."""
    contender = ours.make_jaxdl(config)
    _, solver = solving.make_physics(config)

    def loss() -> float:
        start = solving.make_start(solver, 0)
        layers = [tuple(map(np.asarray, layer)) for layer in solving.get_layers(start)]

        def u(t, x):
            h = np.stack([2 * t - 1, -np.cos(np.pi * x), -np.sin(np.pi * x)], axis=-1)
            for i, (kernel, bias) in enumerate(layers):
                h = h @ kernel + bias
                h = np.tanh(h) if i < len(layers) - 1 else h
            return h[:, 0]

        (t, x), e = solving.points(start)["equation"].T, 1e-4
        u_t = (u(t + e, x) - u(t - e, x)) / (2 * e)
        u_xx = (u(t, x + e) - 2 * u(t, x) + u(t, x - e)) / e**2
        t0, x0 = solving.points(start)["initial"].T
        wrong = u(t0, x0) - np.exp(-((x0 / 0.1) ** 2))
        return np.mean((u_t - 0.02 * u_xx) ** 2) + np.mean(wrong**2)

    def judge() -> tuple[float, float]:
        start = solving.make_start(solver, 1)
        return solving.judge(solver, start, solving.make_params(solving.get_layers(start)))

    cores = sorted(os.sched_getaffinity(0))
    answers = {"written out": loss, "judged": judge, "cores": lambda: cores}
    return contender._replace(answers=contender.answers | answers)


MAKES = {
    ours.OURS: with_reference,
    ours.DEEPXDE: deepxde.make,
    ours.BROYDEN: partial(jinns.make, jinns.SSBROYDEN),
    ours.NATURAL: partial(jinns.make, jinns.NATURAL),
}


def installed(*names: str) -> list[str]:
    """Those of the contenders."""
    packages = {ours.OURS: "jax", ours.DEEPXDE: "deepxde"}
    return [name for name in names if find_spec(packages.get(name, "jinns"))]


def start(stack: ExitStack, config: ConfigDict, *names: str) -> dict[str, Worker]:
    """Workers that compile fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        return {n: stack.enter_context(Worker(Setup(MAKES[n], 1), config)) for n in names}


# Slow, since workers compile the solver for a quarter of a minute; and few environments have what
# is compared with ours.
@pytest.mark.slow
def test_all_begin_with_one_loss_and_parameters(little):
    with ExitStack() as stack:  # jinns' loss is one for both
        workers = start(stack, little, *installed(ours.OURS, ours.DEEPXDE, ours.BROYDEN))
        reference = workers[ours.OURS]
        losses = [worker.ask(solving.LOSS) for worker in workers.values()]
        np.testing.assert_allclose(losses, reference.ask("written out"), rtol=1e-6)
        np.testing.assert_allclose(losses, losses[0], rtol=1e-10)
        assert len(reference.ask("cores")) == 1
        workers.pop(ours.BROYDEN, None)  # compiles for long
        rows = list(ours.measure(workers, 1))  # of seed 1
        for name in workers:
            looks = [row for row in rows if (row.contender, row.kind) == (name, SOLVE)]
            check_run(looks, reference)
    slices = [row for row in rows if row.kind == ADAM]
    assert [row.iterations for row in slices] == [4] * len(workers)
    assert {row.contender for row in slices} == set(workers)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ours.BROYDEN, ours.NATURAL])
def test_jinns_runs(little, name):
    installed(name) or pytest.skip("without jinns")
    with ExitStack() as stack:
        workers = start(stack, little, name, ours.OURS)
        check_run(list(ours.measure({name: workers[name]}, 1)), workers[ours.OURS])


def check_run(looks: list[Row], reference: Worker) -> None:
    """Of seed 1, on a clock that stands still between the chunks."""
    assert {row.round for row in looks} == {1}
    np.testing.assert_allclose(looks[0][5:7], reference.ask("judged"), rtol=1e-9)
    assert looks[0][2:4] == (0, 0.0)
    assert (np.diff([row.iterations for row in looks]) >= 0).all()
    assert (np.diff([row.seconds for row in looks]) > 0).all()
    assert looks[-1].heldout_loss < 0.9 * looks[0].heldout_loss
    assert (looks[0].compile_seconds > 0) == (looks[0].contender != ours.DEEPXDE)
    assert looks[-2].seconds < SECONDS


# --- what is said ------------------------------------------------------------------------------


def run(name: str, number: int, compiling: float, *looks: tuple[float, float]) -> list[Row]:
    """Rows of seconds and losses."""
    return [
        Row(name, SOLVE, 10 * i, seconds, compiling, loss, 2 * loss, number)
        for i, (seconds, loss) in enumerate(looks)
    ]


@pytest.fixture
def made_up() -> list[Row]:
    """Two rounds; DeepXDE reaches the target in the first alone, the natural gradient never."""
    rows = []
    for number in (0, 1):
        rows += run(ours.OURS, number, 4.0, (0.0, 1.0), (2.0, 1e-6), (60.0, 1e-12))
        rows += run(ours.DEEPXDE, number, 0.0, (0.0, 1.0), (50.0, (5e-7, 2e-6)[number]))
        rows += run(ours.BROYDEN, number, 8.0, (0.0, 1.0), (10.0, 1e-7), (60.0, 5e-12))
        rows += run(ours.NATURAL, number, 6.0, (0.0, 1.0), (60.0, 2e-6))
        nothing = (np.nan, np.nan, np.nan, number)
        rows += [Row(ours.OURS, ADAM, 100, 1.0, *nothing)]
        rows += [Row(ours.DEEPXDE, ADAM, 100, 2.0 + 2 * number, *nothing)]
    return rows


def test_goals_are_of_the_ratios_by_round(made_up):
    lines = ours.goals(configs.get_config("pinn"), made_up)
    expected = {
        "DeepXDE: at least 25 times less time to 1e-06, without": "met, more than 27.5 (25, > 30)",
        "DeepXDE: at least 5 times less time to 1e-06, with": "met, more than 9.17 (8.33, > 10)",
        "jinns, SSBroyden: at least 4 times": "met, 5 (5, 5)",
        "jinns, natural gradient: at least 1.5 times": "met, more than 30 (> 30, > 30)",
        "held-out loss after 60 s: at least 10 times lower": "NOT met, 5 (5, 5)",
        "an iteration of Adam: at least 3 times less": "met, 3 (2, 4)",
    }
    assert len(lines) == len(expected)
    for line, (goal, outcome) in zip(lines, expected.items(), strict=True):
        assert line.startswith(goal)
        assert line.endswith(f": {outcome}.")


@pytest.mark.parametrize(
    ("values", "bounds", "text"),
    [
        ([1, 2, 30], [0, 0, 1], "2 (1, 2, > 30)"),  # however long: the median stays
        ([1, 20, 30], [0, 1, 0], "more than 20 (1, > 20, 30)"),
        ([10, 20, 30], [1, 0, 0], "more than 20 (> 10, 20, 30)"),
    ],
)
def test_a_median_is_a_bound_where_it_may_be_higher(values, bounds, text):
    assert str(ours.Ratios(np.array(values, float), np.array(bounds, bool))) == text


def test_who_does_not_arrive_meets_no_goal(made_up):
    late = [
        row._replace(heldout_loss=1.0) if row.contender == ours.OURS else row for row in made_up
    ]
    config = configs.get_config("pinn")
    *times, _, _ = ours.goals(config, late)
    assert all(line.endswith("NOT met, – (–, –).") for line in times)
    assert "not reached (2 of 2)" in "\n".join(ours.sections(Measurements(config, late)))


def test_tables(made_up):
    config = configs.get_config("pinn")
    config.rounds = 2
    text = "\n".join(ours.sections(Measurements(config, made_up)))
    lines = cells(text)
    (row,) = (line for line in lines if line[:2] == [ours.OURS, "SSBroyden"])
    times = ["2.00 (2.00–2.00)", "6.00 (6.00–6.00)"]
    losses = ["1.0e-12 (1.0e-12–1.0e-12)", "2.0e-12 (2.0e-12–2.0e-12)"]
    assert row[2:] == [*times, *losses, "20 (20–20)", "3000.00 (3000.00–3000.00)"]
    (row,) = (line for line in lines if line[:2] == [ours.DEEPXDE, "Adam, then L-BFGS"])
    assert row[2] == row[3] == "not reached (50.00–not reached), not in 1 of 2"
    assert [ours.DEEPXDE, "30.00 (20.00–40.00)", "3 (2, 4)"] in lines
    assert "2,048 Sobol points" in text and "24-24 tanh" in text and "64-64-64-64" in text


class Measured(StandIn):
    """Each look halves the loss, in the contender's own time."""

    def make_sizes(self):
        setups = ours.setups(self.config, None)
        self.name = next(name for name in setups if str(setups[name]) == str(self.setup))
        self.slow = 1 + list(setups).index(self.name)
        return {ADAM: (1, 100)} if self.name in (ours.OURS, ours.DEEPXDE) else {}

    def time(self, kind):
        return 5.0 * self.slow

    def ask(self, question):
        assert question in ("seed 0", "seed 1")
        return [Look(10 * i, i * self.slow, 1.0, 2.0**-i, 1e-13 * 2.0**-i) for i in range(25)]


@pytest.fixture
def measured(monkeypatch):
    stand_in(monkeypatch, Measured)


def test_report(little, tmp_path, measured):
    report = benchmark.study(little, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * (2 + 4 * 25)
    # The contender that begins is another in each round.
    begins = [next(r.contender for r in rows if (r.kind, r.round) == (SOLVE, n)) for n in (0, 1)]
    assert begins == [ours.OURS, ours.DEEPXDE]
    assert min(row.rel_l2 for row in rows if row.kind == SOLVE) == pytest.approx(1e-13 * 2.0**-24)
    assert "DeepXDE" in report.splitlines()[2] and "jinns" in report.splitlines()[2]
    assert (
        "jinns, SSBroyden: at least 4 times less time to 1e-06, without compiling: NOT met, 3"
        in report
    )
    assert (
        "an iteration of Adam: at least 3 times less time than DeepXDE's: NOT met, 2 (2, 2)"
        in report
    )
    assert (tmp_path / "report.md").read_text() == report
    (tmp_path / "results.csv").unlink()
    assert benchmark.study(little, tmp_path, StopFlag()) == report


def test_only_missing_rounds_are_run(little, tmp_path, measured, made_up):
    stop = StopFlag()
    stop.received = 2
    with pytest.raises(Interrupted):
        benchmark.study(little, tmp_path, stop)
    kept = [row for row in made_up if row.round == 0]
    write_rows(tmp_path / "results.csv", Row, kept, ".9g")
    benchmark.study(little, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert str(rows[: len(kept)]) == str(kept)  # NaN is not itself
    assert [row.round for row in rows[len(kept) :]] == [1] * (2 + 4 * 25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pinn.seconds": 0.0}, "more than 0"),
        ({"pinn.chunk": 0}, "chunk must be at least 1"),
        ({"pinn.study.base.activation": "sin"}, "know activation 'tanh' alone"),
        ({"pinn.study.base.optimizer": "lbfgs"}, "know optimizer 'ssbroyden' alone"),
    ],
)
def test_wrong_settings_are_one_line(little, tmp_path, measured, change, words):
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)


def test_other_problems_are_refused(little):
    little.pinn.study.problems = ConfigDict({"burgers": {}})
    with pytest.raises(ValueError, match="know problem 'heat' alone"):
        ours.check(little)


def test_without_a_peer_it_says_how_to_get_it(little, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: name == "torch" or None)
    assert_refused(little, tmp_path, r"DeepXDE and jinns: pip install -e '\.\[bench\]'")
