"""The benchmark of searches: what the others are given is what the population trains."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import benchmark as configs
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import search as ours
from experiments.harness import classification
from jaxdl.optim import make_schedule
from jaxdl.train.interruption import StopFlag
from jaxdl.train.parallel import make_placement
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, cells, stand_in


@pytest.fixture
def little(monkeypatch):
    """Four trials, two of them for the others."""
    restricted = partial(make_placement, devices=jax.devices()[:2])
    monkeypatch.setattr(classification, "make_placement", restricted)
    config = configs.get_config("search")
    config.rounds, config.search.share, study = 2, 2, config.search.study
    study.budget, study.base.steps, study.base.batch = 4, 4, 8
    study.steps_per_dispatch = study.least = study.interval = 4
    return config


def test_references_are_trials_of_the_population(little, monkeypatch):
    monkeypatch.setattr(ours, "GOALS", {"mlp": 8})
    contender = ours.make_population(little)
    assert contender.slices["mlp"][:2] == (4, 4)
    contender.slices["mlp"].run()
    _, members = ours.make_trials(little, "mlp")
    reference = ours.make_reference(little, "mlp")
    assert len(reference.starts) == len(reference.tasks) == 2
    for member, start, task in zip(members, reference.starts, reference.tasks, strict=False):
        hyper = member.hyper()
        rates = make_schedule("cosine", hyper["rate"], steps=4)
        np.testing.assert_allclose(task.rates, [rates(step) for step in range(4)], rtol=1e-6)
        assert task.weight_decay == pytest.approx(float(hyper["weight_decay"]))
        jax.tree.map(np.testing.assert_array_equal, start, jax.device_get(member.start().variables))
    assert task.images.shape == (1078, 8, 8, 1) and task.ids.shape == (4, 8)
    assert abs(task.images.mean()) < 1e-3  # as the network sees them
    outputs = reference.model.apply(reference.starts[0], task.images[:3])
    assert outputs.shape == (3, 10)


@pytest.mark.parametrize("kind", ours.GOALS)
def test_pytorch_has_the_same_networks(little, kind):
    torch = pytest.importorskip("torch")
    from experiments.benchmark.contenders import pytorch

    reference = ours.make_reference(little, kind)
    images = reference.tasks[0].images[:5]
    for start in reference.starts:
        with torch.no_grad():
            outputs = pytorch.network(reference.model, start)(pytorch.nchw(images)).numpy()
        np.testing.assert_allclose(outputs, reference.model.apply(start, images), atol=1e-4)


class Measured(StandIn):
    """A population takes a tenth of what PyTorch takes, and PyTorch half of Optuna."""

    def make_sizes(self):
        count = 4 if self.make is ours.make_population else 2
        return {kind: (count, 4) for kind in ours.GOALS}

    def time(self, kind):
        speeds = {ours.make_population: 1.0, ours.make_pytorch: 5.0, ours.make_optuna: 10.0}
        return speeds[self.make]

    def ask(self, question):
        return {kind: "1 thread, contiguous" for kind in ours.GOALS}


def test_the_report_has_ratios_and_goals(little, tmp_path, monkeypatch):
    stand_in(monkeypatch, Measured)
    monkeypatch.setattr(ours, "make_trials", lambda *_: None)
    text = benchmark.study(little, tmp_path, StopFlag())
    table = [line[:3] for line in cells(text) if line[:1] in (["mlp"], ["digit_net"])]
    assert table[1] == ["mlp", "PyTorch", "5.000"] and len(table) == 6
    assert "mlp at least 8 times as fast: NOT met" in text
    assert "digit_net at least 4 times as fast: met" in text


def test_all_benchmarks_are_one_report_each(little, tmp_path, monkeypatch):
    stand_in(monkeypatch, Measured)
    monkeypatch.setattr(ours, "make_trials", lambda *_: None)
    names = ("first", "second")
    monkeypatch.setattr(benchmark, "BENCHMARKS", dict.fromkeys(names, ours.BENCHMARK))
    monkeypatch.setattr(
        benchmark, "get_config", lambda name: {"first": little, "second": five}[name]
    )
    five, config = little.copy_and_resolve_references(), configs.get_config("all")
    five.rounds, config.search = 5, little.search
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    assert_refused(config, tmp_path, "compares with PyTorch and Optuna: pip install")
    monkeypatch.setattr(benchmark, "find_spec", lambda name: True)
    text = benchmark.study(config, tmp_path, StopFlag())
    assert {path.name for path in tmp_path.iterdir()} == {*names, "report.md"}
    parts = [(tmp_path / name / "report.md").read_text() for name in names]
    assert text == "\n".join(parts)
    for part, name, rounds in zip(parts, names, (2, 5), strict=True):
        assert f"# Benchmark: {name}" in part and f"\n{rounds} rounds in turns" in part


def test_what_the_others_do_not_know_is_refused(little, tmp_path, monkeypatch):
    stand_in(monkeypatch, Measured)
    with little.unlocked():
        little.search.study.space.momentum = ("uniform", 0.5, 0.9)
    assert_refused(little, tmp_path, "the others know momentum, its rate and its weight_decay")
