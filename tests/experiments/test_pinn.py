"""The physics study, as a user meets it; small networks and a few iterations."""

import csv
import itertools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.pinn import PROBLEMS, VARIANTS, get_config
from experiments.pinn import plan
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn.judgement import leave_out_singular, make_heldout
from jaxdl.pinn.problem import Ansatz, Problem, Term
from jaxdl.pinn.sampling import Points
from tests.experiments.launcher import assert_refused
from tests.experiments.tiny import rows

SEEDS, ITERATIONS = 2, 8
TINY = (
    f"--config.seeds={SEEDS}",
    "--config.base.hidden=(4,)",
    f"--config.base.iterations={ITERATIONS}",
    "--config.base.refresh=4",
    "--config.iterations_per_dispatch=2",
    "--config.heldout=25",
    "--config.seconds_between_saves=1e9",
)
FIGURES = ("solution.png", "curves.png", "samples.png")
RECORDS = ("config.json", "run.json", "metrics.jsonl", "report.md", "report.html")
FILES = {*RECORDS, "results.csv", "checkpoints", *FIGURES}
COLUMNS = "problem,method,seed,train_loss,heldout_loss,rel_l2,iterations,seconds"


def run(launcher, workdir, *arguments, config="configs/pinn.py"):
    return launcher.start("pinn", [f"--config={config}", f"--workdir={workdir}", *arguments])


@pytest.fixture(scope="module")
def finished(launcher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "heat"
    return workdir, run(launcher, workdir, *TINY).wait()


def timeless(workdir):
    """All that does not depend on how long it took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(workdir)]


def test_files_and_report(finished, launcher):
    workdir, ended = finished
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert ended.out.strip() == (workdir / "report.md").read_text().strip()
    assert (workdir / "results.csv").read_text().splitlines()[0] == COLUMNS
    found = rows(workdir)
    assert [(r["problem"], r["method"], r["seed"]) for r in found] == [
        ("heat", "ssbroyden", str(seed)) for seed in range(SEEDS)
    ]
    assert all(r["iterations"] == str(ITERATIONS) and float(r["seconds"]) > 0 for r in found)
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == SEEDS * ITERATIONS // 2
    for seed in range(SEEDS):
        losses = [line["loss"] for line in lines if line["seed"] == seed]
        # A line search never goes up, but by what is no more than rounding.
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(losses))
    assert run(launcher, workdir, *TINY).wait().out == ended.out  # at once


@pytest.mark.slow
def test_interrupted_and_killed_it_goes_on_to_the_same_end(finished, launcher, tmp_path):
    for number in (signal.SIGINT, signal.SIGKILL):
        workdir = tmp_path / str(number)
        study = run(launcher, workdir, *TINY, "--config.seconds_between_saves=0.0")
        assert study.wait_until(lambda at=workdir: any(at.glob("checkpoints/*/[0-9]*")))
        study.kill(number)
        study.wait()
        ended = run(launcher, workdir, *TINY).wait()
        assert ended.code == 0, ended.err[-2000:]
        assert timeless(workdir) == timeless(finished[0])


def fading() -> Problem:
    """``u = exp(-t)``, whose start is in the constraint."""
    return Problem(
        {"t": (0.0, 1.0)},
        {"equation": Term(lambda u, at: u.t + u, Points(16))},
        lambda points: np.exp(-points),
        constraint=lambda points: (1.0, points),
    )


def test_windows_of_time_are_solved_and_go_on_where_they_were_killed(launcher, tmp_path):
    flags = ("--config.base.problem=tests.experiments.test_pinn:fading", "--config.base.windows=3")
    own = ("--config.base.iterations=40", "--config.base.refresh=0")
    flags = (*TINY, *flags, *own, "--config.iterations_per_dispatch=10")
    ended = run(launcher, tmp_path / "whole", *flags).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "13 parameters in each of 3 windows of time" in ended.out
    assert all(row["iterations"] == "120" for row in rows(tmp_path / "whole"))
    assert all(float(row["rel_l2"]) < 1e-4 for row in rows(tmp_path / "whole"))
    workdir = tmp_path / "killed"
    study = run(launcher, workdir, *flags, "--config.seconds_between_saves=0.0")
    assert study.wait_until(lambda: any(workdir.glob("checkpoints/*/[5-9]0")))  # in the second
    study.kill(signal.SIGKILL)
    study.wait()
    ended = run(launcher, workdir, *flags).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "fading-ssbroyden: goes on at step " in ended.err
    assert timeless(workdir) == timeless(tmp_path / "whole")


@pytest.mark.slow
def test_a_network_does_not_depend_on_its_neighbours(finished, launcher, tmp_path):
    ended = run(launcher, tmp_path / "one", *TINY, "--config.seeds=1").wait()
    assert ended.code == 0, ended.err[-2000:]
    assert timeless(tmp_path / "one") == timeless(finished[0])[:1]


def test_every_setting_of_points_and_weights_trains(launcher, tmp_path):
    methods = {
        "drawn": {
            "candidates": 100,
            "points": "latin_hypercube",
            "weighting": "gradient_norm",
            "optimizer": "adam",
            "rate": 0.01,
        },
        "causal": {"weighting": "causal", "optimizer": "ssbfgs", "activation": "sin"},
        "attention": {"weighting": "attention", "points": "uniform", "optimizer": "lbfgs"},
    }
    # Of one derivative, so that its programs are small.
    own = "--config.base.problem=tests.experiments.test_pinn:decay"
    flags = (own, "--config.seeds=1", f"--config.methods={methods}")
    ended = run(launcher, tmp_path, *TINY, *flags).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert [row["method"] for row in rows(tmp_path)] == sorted(methods)
    for row in rows(tmp_path):
        assert 0 < float(row["train_loss"]) < 10 and np.isfinite(float(row["rel_l2"]))


@pytest.mark.slow  # but for its own equation, `decay` below is one
def test_an_inverse_problem_tells_its_parameter(launcher, tmp_path):
    ended = run(launcher, tmp_path, *TINY, config="configs/pinn.py:inverse_heat").wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "k is found as" in ended.out
    with (tmp_path / "parameters.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [r["parameter"] for r in found] == ["k"] * SEEDS
    assert all(float(r["value"]) > 0 and float(r["truth"]) == 0.01 for r in found)


def decay(speed: float = 1.0) -> Problem:
    """A user's own problem, of one coordinate and with a rate to be found: ``u = exp(-c t)``."""
    times = np.linspace(0, 1, 9)[:, None]
    return Problem(
        {"t": (0.0, 1.0)},
        {
            "equation": Term(lambda u, at: u.t + at.rate * u, Points(16)),
            "data": Term(lambda u, at: u - np.exp(-speed * times[:, 0]), times),
        },
        lambda points: np.exp(-speed * points),
        physics={"rate": 1.0},
        truth={"rate": speed},
    )


def test_a_problem_of_ones_own(launcher, tmp_path):
    own = "--config.base.problem=tests.experiments.test_pinn:decay"
    options = "--config.base.options={'speed': 2.0}"
    long = ("--config.base.iterations=200", "--config.iterations_per_dispatch=100")
    ended = run(launcher, tmp_path, *TINY, own, options, "--config.base.refresh=0", *long).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert all(float(row["rel_l2"]) < 1e-3 for row in rows(tmp_path))
    with (tmp_path / "parameters.csv").open() as file:
        for row in csv.DictReader(file):
            assert float(row["truth"]) == 2 and abs(float(row["value"]) - 2) < 1e-2
    assert {row["problem"] for row in rows(tmp_path)} == {"decay"}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["decay-ssbroyden"]
    assert "heat" not in ended.out + ended.err
    assert "rate is found as" in ended.out and " for 2; relative error " in ended.out
    assert {path.name for path in tmp_path.glob("*.png")} == set(FIGURES)


def membrane() -> Problem:
    """``u_rr + u_r / r + 4 = 0`` on a disc, ``u = 1 - r²``: singular at r = 0, an edge of the grid
    that no random point meets."""
    return Problem(
        {"r": (0, 1)},
        {
            "equation": Term(lambda u, at: u.rr + u.r / at.r + 4, Points(16)),
            "edge": Term(lambda u, at: u, Points(1, fixed={"r": 1})),
        },
        lambda points: 1 - points**2,
    )


def test_points_where_an_equation_is_singular_are_left_out(launcher, tmp_path):
    own = "--config.base.problem=tests.experiments.test_pinn:membrane", "--config.base.refresh=0"
    long = ("--config.base.iterations=100", "--config.iterations_per_dispatch=50")
    ended = run(launcher, tmp_path, *TINY, *own, *long).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert all(float(row["heldout_loss"]) < 1e-2 for row in rows(tmp_path))
    assert "1 of the 25 held-out points of equation" in ended.out and "as at r=0" in ended.out
    assert "diverged" not in ended.out


def unit_ansatz(residual, solution=lambda points: points, **changes):
    """An ansatz on r in [0, 1]."""
    problem = Problem({"r": (0, 1)}, {"equation": Term(residual, Points(16))}, solution)
    return Ansatz(problem._replace(**changes), MLP((3,)))


def regular_heldout(ansatz):
    with jax.enable_x64(True):
        return leave_out_singular(ansatz, make_heldout(ansatz, 11))


def test_singular_points_are_those_of_the_equation_not_of_a_network():
    """Not where the root of a random network happens to be undefined."""
    for residual in (
        lambda u, at: u - jnp.log(at.r),
        lambda u, at: u.r - 0.5 / jnp.sqrt(at.r),
        lambda u, at: u.at(r=1 / at.r) + u.r / at.r,
        lambda u, at: (u, jnp.sqrt(u.value) / at.r),
    ):
        heldout = regular_heldout(unit_ansatz(residual))
        np.testing.assert_array_equal(heldout.singular["equation"], [[0.0]])
        np.testing.assert_allclose(heldout.sample.points["equation"][:, 0], np.arange(1, 11) / 10)
        assert heldout.sample.weights["equation"].shape == (10,)
    assert not regular_heldout(unit_ansatz(lambda u, at: jnp.sqrt(u.value))).singular
    with pytest.raises(ValueError, match="'equation' is finite at none of its 11 held-out points"):
        regular_heldout(unit_ansatz(lambda u, at: u + jnp.nan))


def test_a_solution_that_nothing_can_be_judged_by_is_refused():
    with pytest.raises(ValueError, match=r"the solution.* is 0 everywhere"):
        regular_heldout(unit_ansatz(lambda u, at: u.r, np.zeros_like))
    with pytest.raises(ValueError, match=r"the solution.* not finite at point 0 of 11 \(r=0\)"):
        regular_heldout(unit_ansatz(lambda u, at: u.r - 1 / at.r, np.log))
    with pytest.raises(ValueError, match=r"shape \[11\]; it must be \[11, 1\]"):
        regular_heldout(unit_ansatz(lambda u, at: u, lambda points: points[:, 0]))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.base.optimizer=newton"], ("optimizer", "newton", "ssbroyden")),
        (["--config.base.activation=relu"], ("activation", "relu", "tanh")),
        (["--config.base.problem=heart"], ("heart",)),
        (["--config.base.points=halton"], ("points", "halton", "sobol")),
        (["--config.base.weighting=even"], ("weighting", "even", "causal")),
        (["--config.base.hidden=(0,)"], ("hidden", "(24, 24)")),
        (["--config.base.iterations=7"], ("iterations=7", "iterations_per_dispatch=2")),
        (["--config.base.iterations=0"], ("iterations", "at least 1")),
        (["--config.base.rate=-1.0"], ("config.base.rate", "at least 0")),
        (["--config.base.steepness=0.5"], ("config.base.steepness", "at least 1")),
        (["--config.methods={'adam': {'rate': -1.0}}"], ("config.methods.adam.rate", "least 0")),
        (["--config.problems={'heat': {'power': -1.0}}"], ("config.problems.heat.power",)),
        (["--config.base.options={'q': 1.0}"], ("config.base.options", "'q'", "only k, points")),
        (["--config.base.problem=no_module:heat"], ("no_module:heat", "module:function")),
        (
            ["--config.base.weighting=attention", "--config.base.candidates=4000"],
            ("attention", "candidates=4000"),
        ),
        (["--config.base.candidates=10"], ("config.base.candidates=10", "2048")),
        (["--config.base.weighting=causal", "--config.base.refresh=0"], ("refresh is 0",)),
        (["--config.base.windows=3"], ("heat", "windows need a constraint")),
        (
            [
                "--config.base.problem=burgers",
                "--config.base.windows=3",
                "--config.base.weighting=causal",
            ],
            ("config.base.windows=3", "config.base.weighting=fixed"),
        ),
        (["--config.seeds=0"], ("config.seeds", "at least 1")),
        (["--config.parallel.member=5"], ("mesh", "member=5", "2 device")),
        (["--config.base.hiden=(4,)"], ("hiden",)),
    ],
)
def test_wrong_input_ends_in_one_line(launcher, tmp_path, arguments, words):
    assert_refused(run(launcher, tmp_path / "x", *TINY, *arguments).wait(), *words)
    assert not (tmp_path / "x" / "results.csv").exists()


SOURCE = """\
from jaxdl.pinn.problem import Problem, Term
from jaxdl.pinn.sampling import Points


def equation(u, at):
    return {residual}


def f():
    return Problem({{"t": (0, 1)}}, {{"equation": Term(equation, Points(16))}}, lambda p: p)
"""
BROKEN = {
    "imports": ("import no_such_thing\n", ("'no_such_thing'", "imports.py, line 1")),
    "syntax": ("\ndef f(:\n", ("SyntaxError", "syntax.py, line 2")),
    "names": ("\n\nx = y\n", ("NameError", "'y'", "names.py, line 3")),
    "calls": ("def f():\n    return 1 / 0\n", ("ZeroDivisionError", "calls.py, line 2, in f")),
    "forgets": ("def f():\n    pass\n", ("NoneType", "`return`")),
    "lacks": ("def g():\n    pass\n", ("'f' is not there",)),
    "holds": ("f = 3\n", ("no function but int",)),
    "needs": ("def f(r):\n    pass\n", ("config.base.options", "'r'")),
    "attribute": (SOURCE.format(residual="u.t - at.kk"), ("'kk'", "line 6, in equation")),
    "derivative": (SOURCE.format(residual="u.z"), ("'z'", "derivative.py, line 6")),
    "returns_none": (SOURCE.format(residual="None"), ("'equation'", "shape []")),
    "misnames": (
        SOURCE.format(residual="u.t").replace('{"t": (0, 1)}', '{"ϕ": (0, 1)}'),
        ("domain", "U+03D5", "U+03C6"),
    ),
    "constrains": (
        SOURCE.format(residual="u.t").replace(
            "lambda p: p)", "lambda p: p, constraint=lambda p: (1 / p, p))"
        ),
        ("not finite at point 0 of 25 (t=0)", "features and constraint"),
    ),
    "shapes": (
        SOURCE.format(residual="u.t").replace(
            "lambda p: p)", "lambda p: p, constraint=lambda p: (1, p[:, 0]))"
        ),
        ("constraint=: at 25 points its factor has shape [25]", "[25, 1]"),
    ),
    "text": (SOURCE.format(residual="u.t + 'x'"), ("equation", "text.py, line 6, in equation")),
}


@pytest.mark.parametrize("module", BROKEN)
def test_an_error_in_ones_own_problem_is_told_in_one_line(launcher, tmp_path, module):
    source, words = BROKEN[module]
    name = f"problem_that_{module}"
    (tmp_path / f"{name}.py").write_text(source)
    found_there = tmp_path / "prelude.py"
    found_there.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    flags = [f"--workdir={tmp_path / 'x'}", *TINY, f"--config.base.problem={name}:f"]
    ended = launcher.start("pinn", flags, prelude=found_there).wait()
    assert_refused(ended, f"{name}:f", *words)


def test_what_refreshing_asks_for_is_told_before_training(launcher, tmp_path):
    own = "--config.base.problem=poisson", "--config.base.weighting=causal"
    ended = run(launcher, tmp_path / "x", *TINY, *own).wait()
    assert_refused(ended, "causal weights", "t")


def planned(config):
    return [solver.name for solver in plan(config)]


def test_names_are_those_of_what_is_solved_and_how():
    config = get_config()
    assert planned(config) == [("heat", "ssbroyden")]
    config.base.update({"problem": "wave", "optimizer": "adam"})
    assert planned(config) == [("wave", "adam")]
    config.base.problem = "tests.experiments.test_pinn:decay"
    assert planned(config) == [("decay", "adam")]
    config.problems = {"slow": {}, "fast": {"options": {"speed": 9.0}}}
    assert planned(config) == [("fast", "adam"), ("slow", "adam")]
    assert planned(get_config("heat_fast")) == [("heat_fast", "ssbroyden")]
    several = get_config("all")
    several.base.problem = "tests.experiments.test_pinn:decay"
    with pytest.raises(ValueError, match=r"set config\.base\.problem"):
        plan(several)


def test_settings_of_one_problem_are_those_of_the_base():
    together = {solver.name[0]: solver for solver in plan(get_config("all"))}
    for variant in PROBLEMS:
        config = get_config(variant)
        (alone,) = plan(config)
        assert alone.settings == together[variant].settings
        config.base.iterations = 100
        (alone,) = plan(config)
        assert alone.settings["iterations"] == 100


def test_an_unknown_problem_is_told(launcher, tmp_path):
    ended = run(launcher, tmp_path / "x", config="configs/pinn.py:navier").wait()
    assert_refused(ended, "unknown problem 'navier'", "kovasznay")


def test_settings_of_every_variant_can_be_had():
    for variant in VARIANTS:
        config = get_config(variant)
        assert config.variant == variant
        assert len(plan(config)) == len(config.problems) * len(config.methods) > 0
