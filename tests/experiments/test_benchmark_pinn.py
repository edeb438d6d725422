"""The benchmark of the physics study: all solve one problem, and what is said of it is right."""

import os
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from experiments import _benchmark_pinn as ours
from experiments import _pinn_contenders as contenders
from experiments import _pinn_peers as peers
from experiments import benchmark
from experiments._benchmark_pinn import ADAM, SOLVE, Row
from experiments._interleave import Contender, Setup, Worker
from experiments._pinn_contenders import Look
from jaxdl.report.tables import read_rows, write_rows
from jaxdl.train.loop import Interrupted, StopFlag
from tests.experiments.test_benchmark import assert_refused

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="contenders are pinned to one hardware thread"
)


SECONDS = 1.0


@pytest.fixture
def little() -> ConfigDict:
    """Fewer points and small networks, of another diffusivity."""
    config = configs.get_config("pinn")
    config.rounds, of = 2, config.pinn
    of.seconds, of.adam_hidden, of.adam_chunks, of.adam_iterations = SECONDS, (5,), 1, 6
    of.chunk, of.jinns_chunk, of.natural_chunk, of.lbfgs_chunk = 4, 2, 2, 8
    of.study.base.hidden, of.study.base.iterations, of.study.base.refresh = (4, 3), 8, 0
    of.study.heldout = 64
    of.study.base.options = ConfigDict({"k": 0.02, "points": 256})
    return config


# --- the contenders ----------------------------------------------------------------------------


def reference(config: ConfigDict) -> Contender:
    """In a worker, what the others are compared with: the loss written out with finite differences
    of our network, and the study's own parameters, there and back."""
    contenders.pin()
    (program,) = contenders.make_lab(config).solvers

    def loss() -> float:
        start = contenders.start_of(program, 0)
        layers = [tuple(map(np.asarray, layer)) for layer in peers.layers_of(start)]

        def u(t, x):
            h = np.stack([2 * t - 1, -np.cos(np.pi * x), -np.sin(np.pi * x)], axis=-1)
            for i, (kernel, bias) in enumerate(layers):
                h = h @ kernel + bias
                h = np.tanh(h) if i < len(layers) - 1 else h
            return h[:, 0]

        (t, x), e = start.collections["sample"].points["equation"].T, 1e-4
        u_t = (u(t + e, x) - u(t - e, x)) / (2 * e)
        u_xx = (u(t, x + e) - 2 * u(t, x) + u(t, x - e)) / e**2
        t0, x0 = start.collections["sample"].points["initial"].T
        wrong = u(t0, x0) - np.exp(-((x0 / 0.1) ** 2))
        return np.mean((u_t - 0.02 * u_xx) ** 2) + np.mean(wrong**2)

    def judge() -> tuple[float, float]:
        start = contenders.start_of(program, 1)
        return contenders.judged(program, start, peers.as_ours(peers.layers_of(start)))

    cores = sorted(os.sched_getaffinity(0))
    return Contender({}, {"written out": loss, "judged": judge, "cores": lambda: cores})


MAKES = {
    ours.OURS: contenders.jaxdl,
    ours.DEEPXDE: peers.deepxde,
    ours.BROYDEN: partial(peers.jinns, "ssbroyden"),
    ours.NATURAL: partial(peers.jinns, "natural gradient"),
}


def installed(*names: str) -> list[str]:
    """Those of the contenders."""
    packages = {ours.OURS: "jax", ours.DEEPXDE: "deepxde"}
    return [what for what in names if benchmark.find_spec(packages.get(what, "jinns"))]


def test_all_begin_with_one_loss_and_parameters(little):
    names = installed(ours.OURS, ours.DEEPXDE, ours.BROYDEN)  # jinns' loss is one for both
    with ExitStack() as stack:
        workers = {w: stack.enter_context(Worker(Setup(MAKES[w], 1), little)) for w in names}
        other = stack.enter_context(Worker(Setup(reference, 1), little))
        losses = [worker.ask(contenders.LOSS) for worker in workers.values()]
        np.testing.assert_allclose(losses, other.ask("written out"), rtol=1e-6)
        np.testing.assert_allclose(losses, losses[0], rtol=1e-10)
        assert len(other.ask("cores")) == 1
        workers.pop(ours.BROYDEN, None)  # compiles for long
        rows = list(ours.one_round(workers, 1))  # of seed 1
        for what in workers:
            check_run([row for row in rows if (row.what, row.kind) == (what, SOLVE)], other)
    slices = [row for row in rows if row.kind == ADAM]
    assert [row.iterations for row in slices] == [4] * len(workers)
    assert {row.what for row in slices} == set(workers)


@pytest.mark.slow
@pytest.mark.parametrize("what", [ours.BROYDEN, ours.NATURAL])
def test_jinns_runs(little, what):
    installed(what) or pytest.skip("without jinns")
    with (
        Worker(Setup(MAKES[what], 1), little) as worker,
        Worker(Setup(reference, 1), little) as other,
    ):
        check_run(list(ours.one_round({what: worker}, 1)), other)


def check_run(looks: list[Row], other: Worker) -> None:
    """Of seed 1, on a clock that stands still between the chunks."""
    assert {row.round for row in looks} == {1}
    np.testing.assert_allclose(looks[0][5:7], other.ask("judged"), rtol=1e-9)
    assert looks[0][2:4] == (0, 0.0)
    assert (np.diff([row.iterations for row in looks]) >= 0).all()
    assert (np.diff([row.seconds for row in looks]) > 0).all()
    assert looks[-1].heldout_loss < 0.9 * looks[0].heldout_loss
    assert (looks[0].compile_seconds > 0) == (looks[0].what != ours.DEEPXDE)
    assert looks[-2].seconds < SECONDS


# --- what is said ------------------------------------------------------------------------------


def run(what: str, number: int, compiling: float, *looks: tuple[float, float]) -> list[Row]:
    """Rows of seconds and losses."""
    return [
        Row(what, SOLVE, 10 * i, seconds, compiling, loss, 2 * loss, number)
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
        "DeepXDE: at least 20 times less time to 1e-06, without": "met, more than 27.5 (25, > 30)",
        "DeepXDE: at least 5 times less time to 1e-06, with": "met, more than 9.17 (8.33, > 10)",
        "jinns, SSBroyden: at least 4 times": "met, 5 (5, 5)",
        "jinns, natural gradient: at least 1.4 times": "met, more than 30 (> 30, > 30)",
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
    late = [row._replace(heldout_loss=1.0) if row.what == ours.OURS else row for row in made_up]
    config = configs.get_config("pinn")
    *times, _, _ = ours.goals(config, late)
    assert all(line.endswith("NOT met, – (–, –).") for line in times)
    assert "not reached (2 of 2)" in ours.sections(config, late, {}, {})


def test_tables(made_up):
    config = configs.get_config("pinn")
    config.rounds = 2
    text = ours.sections(config, made_up, {}, {})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    (row,) = (line for line in lines if line[:2] == [ours.OURS, "SSBroyden"])
    times = ["2.00 (2.00–2.00)", "6.00 (6.00–6.00)"]
    losses = ["1.0e-12 (1.0e-12–1.0e-12)", "2.0e-12 (2.0e-12–2.0e-12)"]
    assert row[2:] == [*times, *losses, "20 (20–20)", "3000.00 (3000.00–3000.00)"]
    (row,) = (line for line in lines if line[:2] == [ours.DEEPXDE, "Adam, then L-BFGS"])
    assert row[2] == row[3] == "not reached (50.00–not reached), not in 1 of 2"
    assert [ours.DEEPXDE, "30.00 (20.00–40.00)", "3 (2, 4)"] in lines
    assert "2,048 Sobol points" in text and "24-24 tanh" in text and "64-64-64-64" in text


class Told:
    """A worker that is not there: each look halves the loss, in its own time."""

    def __init__(self, setup, config):
        name = next(what for what, make in MAKES.items() if str(make) == str(setup.make))
        self.sizes = {ADAM: (1, 100)} if name in (ours.OURS, ours.DEEPXDE) else {}
        self.first_seconds = dict.fromkeys(self.sizes, 1.0)
        self.slow = 1 + list(MAKES).index(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, kind):
        return 5.0 * self.slow

    def ask(self, question):
        assert question in ("seed 0", "seed 1")
        return [Look(10 * i, i * self.slow, 1.0, 2.0**-i, 1e-13 * 2.0**-i) for i in range(25)]


@pytest.fixture
def told(monkeypatch):
    for package in ("torch", "deepxde", "jinns"):
        benchmark.find_spec(package) or pytest.skip(f"without {package}")
    monkeypatch.setattr(benchmark, "Worker", Told)


def test_report(little, tmp_path, told):
    report = benchmark.study(little, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * (2 + 4 * 25)
    # The contender that begins is another in each round.
    begins = [next(r.what for r in rows if (r.kind, r.round) == (SOLVE, n)) for n in (0, 1)]
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


def test_only_missing_rounds_are_run(little, tmp_path, told, made_up):
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
def test_wrong_settings_are_one_line(little, tmp_path, told, change, words):
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)


def test_other_problems_are_refused(little):
    little.pinn.study.problems = ConfigDict({"burgers": {}})
    with pytest.raises(ValueError, match="know problem 'heat' alone"):
        ours.check(little)


def test_without_a_peer_it_says_how_to_get_it(little, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: name == "torch" or None)
    assert_refused(little, tmp_path, r"DeepXDE and jinns: pip install -e '\.\[bench\]'")
