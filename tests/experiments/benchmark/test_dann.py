"""The benchmark of the domain-adaptation study: its reference computes what the study computes."""

import os

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import dann as ours
from experiments.benchmark.turns import Row
from jaxdl.report.tables import read_rows
from jaxdl.train.interruption import StopFlag
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, cells, stand_in

ON_CPU = (ours.SHARED, ours.WHOLE, ours.SPREAD, ours.TORCH)
EVERYWHERE = (*ON_CPU, ours.FAST, ours.FAST_TORCH)


@pytest.fixture
def little() -> ConfigDict:
    """A short training, so that lambda rises and the rate falls within a few steps."""
    config = configs.get_config("dann")
    config.rounds, config.dann.steps, config.dann.images, config.dann.members = 2, 4, 100, 2
    config.dann.study.base.steps, config.dann.study.base.batch = 8, 8
    return config


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_pytorch_steps_as_the_study_does(little, tmp_path, padding):
    """Losses and parameters, on the study's own batches."""
    pytest.importorskip("torch")
    from experiments.benchmark.contenders import pytorch

    base = little.dann.study.base
    base.padding, base.weight_decay, base.rate, base.reversal = padding, 0.1, 0.02, 0.7
    little.dann.study.methods.dann.adversarial = 0.6
    ours.write_noise(tmp_path / "noise.npz", 100)
    study, group = ours.make_group(tmp_path / "noise.npz", little, 2, 1)
    model, task, starts = ours.make_reference(study, group)
    setting = pytorch.fastest(model, starts[0][0], task, 1, steps=2)
    assert str(setting) in ("1 thread, contiguous", "1 thread, channels_last")
    (layers,), run = pytorch.one_after_the_other(model, starts[:1], task, setting)
    (loss,) = run()
    population = group.start()
    states, metrics = group.program.training(*population, study.feed.data)
    np.testing.assert_allclose(task.scales, metrics["reversal"][0], atol=1e-6)
    assert task.scales[-1] > 0.5
    np.testing.assert_allclose(loss, metrics["loss"][0, -1], atol=1e-4)
    params = jax.tree.map(lambda leaf: np.asarray(leaf[0]), states.params)
    expected = pytorch.network(model, {"params": params}).state_dict()
    started = pytorch.network(model, starts[0][0]).state_dict()
    assert len(expected) == 14
    for name, value in layers.state_dict().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)
        assert (value - started[name]).abs().max() > 3e-4


def test_the_slices_are_the_study_s(little, tmp_path):
    ours.write_noise(tmp_path / "noise.npz", 100)
    contender = ours.make_population(tmp_path / "noise.npz", {"few": 1, "many": 3}, 1, little)
    assert {kind: piece[:2] for kind, piece in contender.slices.items()} == {
        "few": (1, 4),
        "many": (3, 4),
    }
    contender.slices["few"].run()
    contender.slices["few"].run()
    assert "CPU core" in contender.answers[ours.ABOUT]()


class Measured(StandIn):
    """A population takes half as long a network as one alone, and PyTorch longer than ours."""

    def make_sizes(self):
        return {kind: (networks, 4) for kind, networks in self.setup.make.args[1].items()}

    def time(self, kind):
        speed = {"cpu": 4.0, "cuda": 3.0}.get(self.setup.make.args[2], 2.0)
        return speed if kind == ours.MANY else 2 * speed

    def ask(self, question):
        return "1 x machine"


@pytest.fixture
def measured(monkeypatch):
    """Two cores, and no accelerator until ``measured(...)`` says so."""
    stand_in(monkeypatch, Measured)
    monkeypatch.setattr(ours, "cores", lambda: 2)

    def set_accelerators(backend, cuda):
        monkeypatch.setattr(ours.turns, "in_new_process", lambda function: (backend, cuda))

    set_accelerators("cpu", False)
    return set_accelerators


@pytest.mark.parametrize(
    ("accelerators", "names", "words"),
    [
        (("cpu", True), ON_CPU, ["JAX found no accelerator", "5 times its speed: not measured"]),
        (("gpu", False), (*ON_CPU, ours.FAST), ["cannot use it", "its speed: not measured"]),
        (("gpu", True), EVERYWHERE, ["TF32", "at least 5 times its speed: NOT met, 1.50"]),
    ],
)
def test_report(little, tmp_path, measured, accelerators, names, words):
    measured(*accelerators)
    report = benchmark.study(little, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert {row.contender for row in rows} == set(names)
    for text in words:
        assert text in report
    assert "one network, PyTorch: at least 1 times its speed: met, 2.00 (2.00–2.00)" in report
    assert "population, PyTorch: at least 1.2 times its speed: met, 2.00" in report
    lines = cells(report)
    assert [ours.SPREAD, "4.00 (4.00–4.00)", "2.00 (2.00–2.00)", "1"] in lines  # of both members
    assert lines.count([ours.TORCH, "8.00 (8.00–8.00)", "1.00 (1.00–1.00)", "1"]) == 2
    assert ("A population of 24, accelerator" in report) == (ours.FAST in names)
    assert (tmp_path / "report.md").read_text() == report


def test_no_goal_is_judged_beside_the_work_of_others(little, tmp_path, measured, monkeypatch):
    measured("gpu", True)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    report = benchmark.study(little, tmp_path, StopFlag())
    assert "Load before the first: 0.5: others were at work" in report
    assert "at least 1 times its speed: not judged, 2.00 (2.00–2.00)" in report
    assert ": met" not in report and "NOT met" not in report


def test_the_goal_of_one_network_is_for_the_fastest_of_ours():
    def rows(name, *ms):
        return [Row(name, ours.SINGLE, 1, t, i) for i, t in enumerate(ms)]

    timed = rows(ours.SHARED, 5.0, 5.0) + rows(ours.WHOLE, 4.0, 4.0) + rows(ours.TORCH, 2.0, 4.0)
    line, *others = ours.goals(timed)
    assert f"NOT met, 0.75 (0.50–1.00), by {ours.WHOLE}." in line
    assert all("not measured" in other for other in others)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dann.members": 0}, "config.dann.members must be at least 1"),
        ({"dann.images": 20}, "at least 100"),
        ({"dann.steps": 3}, "does not divide 8 steps"),
        ({"dann.study.model": "dann_svhn"}, "dann_mnist"),
        ({"dann.study.base.mmd": 1.0}, "an adversary alone"),
        ({"dann.study.base.dropout": 0.5}, "dropout"),
        ({"dann.study.base.start": "xavier"}, "xavier"),
    ],
)
def test_wrong_settings_are_one_line(little, tmp_path, measured, change, words):
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)


def test_one_method_is_timed(little):
    little.dann.study.methods.other = ConfigDict({"adversarial": 0.5})
    with pytest.raises(ValueError, match="one is timed"):
        ours.check(little)
