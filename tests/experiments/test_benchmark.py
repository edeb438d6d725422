"""The benchmark: its references compute what the study computes, its bookkeeping is right."""

import time
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from configs import transferability
from experiments import _benchmark_transferability as ours
from experiments import _interleave, _plain_reference, benchmark
from experiments import _transferability_contenders as contenders
from experiments._interleave import Contender, Row, Setup, Slice, Worker
from jaxdl import transfer
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.report.tables import read_rows, write_rows
from jaxdl.train.loop import Interrupted, StopFlag
from jaxdl.train.state import create_state, make_step

RATE, DECAY = 0.05, 0.1


class Problem(NamedTuple):
    """A network with every feature of the study's, and what the engine makes of it in a step."""

    model: ConvNet
    variables: dict
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray  # in evaluation
    loss: dict[int, float]  # by number of frozen layers
    stepped: dict[int, dict]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Strides, both paddings, odd sizes, pooling, batch normalization away from its start."""
    convolutions = (
        Conv(3, kernel=4, stride=2, padding="VALID"),
        Conv(4, padding="VALID", pool=2),
        Conv(5),
    )
    model = ConvNet(convolutions, (), 3, batch_norm=True)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 17, 17, 2)).astype(np.float32)
    labels = rng.integers(3, size=16).astype(np.int32)
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf + rng.uniform(0, 0.3, leaf.shape).astype(np.float32)),
        jax.jit(model.init)(jax.random.key(0), images),
    )
    loss, stepped = {}, {}
    for frozen in (0, 1):
        mask = transfer.trainable(variables, frozen)["params"]
        rule = make_optimizer("momentum", RATE, weight_decay=DECAY, trainable=mask)
        state = create_state(variables["params"], variables["batch_stats"], rule)
        step = jax.jit(make_step(transfer.classification_loss(model, frozen), lambda _, r=rule: r))
        batch = {"image": images, "label": labels}
        state, metrics = step(state, batch, {"key": jax.random.key(0)})
        loss[frozen] = float(metrics["loss"])
        stepped[frozen] = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(model.apply)(variables, images)
    return Problem(model, variables, images, labels, np.asarray(logits), loss, stepped)


def test_plain_jax_steps_as_the_engine_does(problem):
    model, variables, images, labels, _, losses, stepped = problem
    rule = make_optimizer("momentum", RATE, weight_decay=DECAY)
    step = jax.jit(_plain_reference.make_step(model, rule))
    ids, start = np.arange(len(images)), rule.init(variables["params"])
    for frozen, loss in losses.items():
        names = transfer.layers(variables)
        trains = {name: np.bool_(i >= frozen) for i, name in enumerate(names)}
        got, _, plain_loss = step(variables, start, images, labels, ids, trains)
        np.testing.assert_allclose(plain_loss, loss, rtol=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), got, stepped[frozen])
    assert step._cache_size() == 1


@pytest.mark.parametrize("frozen", [0, 1])
def test_pytorch_computes_and_steps_as_the_engine_does(problem, frozen):
    torch = pytest.importorskip("torch")
    from experiments import _torch_reference

    layers = _torch_reference.network(problem.model, problem.variables)
    images = _torch_reference.images_of(problem.images)
    labels = torch.tensor(problem.labels).long()
    with torch.no_grad():
        logits = layers.eval()(images).numpy()
    np.testing.assert_allclose(logits, problem.logits, atol=1e-4)

    layers = _torch_reference.freeze(layers, frozen)
    rule = _torch_reference.make_optimizer(layers, DECAY)
    ids = [torch.arange(len(images))]
    loss = _torch_reference.train(layers, rule, images, labels, ids, [RATE])
    np.testing.assert_allclose(loss, problem.loss[frozen], atol=1e-4)
    expected = _torch_reference.network(problem.model, problem.stepped[frozen]).state_dict()
    for name, value in layers.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            # PyTorch's running variance is the unbiased one.
            tolerance = {"rtol": 1e-2} if name.endswith("running_var") else {"atol": 1e-4}
            np.testing.assert_allclose(value, expected[name], **tolerance, err_msg=name)


def test_pytorch_setting_is_one_of_those_tried(problem):
    pytest.importorskip("torch")
    from experiments import _torch_reference

    task = _plain_reference.Task(problem.images, problem.labels, np.arange(16).reshape(4, 4))
    rule = _torch_reference.Rule([RATE] * 4, DECAY)
    setting = _torch_reference.fastest(
        problem.model, problem.variables, task, rule, cores=1, steps=2
    )
    assert str(setting) in ("1 thread, contiguous", "1 thread, channels_last")


# --- rounds in workers -------------------------------------------------------------------------


def sleeper(config: dict) -> Contender:
    """A contender whose every slice takes a known time."""
    if "error" in config:
        raise ValueError(config["error"])
    pieces = {
        kind: Slice(networks, 5, lambda seconds=seconds: time.sleep(seconds))
        for kind, (networks, seconds) in config["kinds"].items()
    }
    return Contender(pieces, {"devices": jax.device_count})


def test_workers_take_turns_and_answer():
    kinds = {"a": (2, 0.05), "b": (1, 0.02)}
    with (
        Worker(Setup(sleeper, 3), {"kinds": kinds}) as first,
        Worker(Setup(sleeper, 1), {"kinds": {"b": (4, 0.04)}}) as second,
    ):
        assert [first.ask("devices"), second.ask("devices")] == [3, 1]
        assert set(first.first_seconds) == {"a", "b"}
        rows = list(_interleave.one_round({"x": first, "y": second}, 1))
    assert [(r.what, r.kind, r.networks, r.round) for r in rows] == [
        ("x", "a", 2, 1),
        ("y", "b", 4, 1),
        ("x", "b", 1, 1),
    ]
    for row, expected in zip(rows, (5, 2, 4), strict=True):
        assert expected <= row.ms_per_network_step < 10 * expected
    for worker in (first, second):
        assert worker._process.exitcode == 0


def test_a_worker_s_complaint_reaches_the_parent():
    with pytest.raises(ValueError, match="no such thing"):
        Worker(Setup(sleeper, 1), {"error": "no such thing"})


def test_ratios_pair_the_rounds():
    rows = [
        Row("x", "a", 2, 1.0, 0),
        Row("x", "b", 1, 10.0, 0),
        Row("x", "a", 2, 2.0, 1),
        Row("x", "b", 1, 20.0, 1),
        Row("y", "a", 1, 24.0, 0),
        Row("y", "a", 1, 96.0, 1),
    ]
    x = _interleave.series(rows, "x", {"a": 2, "b": 1})
    np.testing.assert_array_equal(x, [12, 24])
    assert (
        _interleave.format_ratio(_interleave.series(rows, "y", {"a": 1}), x) == "3.00 (2.00–4.00)"
    )


# --- the study ---------------------------------------------------------------------------------


@pytest.fixture
def digits(monkeypatch) -> ConfigDict:
    """The smallest grid there is."""
    monkeypatch.setitem(MODELS, "digit_net", lambda k, **_: ConvNet((Conv(2, pool=2),), (3,), k))
    config = configs.get_config()
    config.study = transferability.get_config("digits")
    config.study.seeds, config.study.treatments = 1, ("BnB", "AnB+")
    config.steps, config.rounds = 2, 2
    config.engine.members = config.engine.steps = config.engine.batch = 2
    return config


def test_the_slices_are_the_study_s_networks(digits):
    lab, parts = contenders.rehearse(digits)
    cuts = 2
    sizes = {kind: len(part.networks) for kind, part in parts.items()}
    assert sizes == {"bases": 2, "fine-tuned": cuts, "frozen": 2 * cuts}
    reference = contenders.make_reference(digits)
    frozen = {kind: [n for _, n in starts] for kind, starts in reference.starts.items()}
    assert frozen == {"bases": [0], "fine-tuned": [0] * cuts, "frozen": [1, 2]}
    assert reference.task.images.dtype == np.float32
    assert set(reference.task.labels) == set(range(5))

    # States grow with members, and data do not.
    few, many = contenders.memory(lab, parts["bases"])
    assert many["members"] == 2 * few["members"]
    assert many["states"] == 2 * few["states"]
    assert many["data"] == few["data"] > 0
    grown = many["arguments"] - few["arguments"]
    examples = len(next(iter(lab.tasks.values())).examples["train"])
    each_member_s_own = 4 * examples + 1000  # its order of examples and its labels
    members_a_device = few["members"] // lab.mesh.shape["member"]
    assert 0 <= grown - few["states"] < members_a_device * each_member_s_own


class Told:
    """A worker that is not there."""

    def __init__(self, setup, config):
        self.sizes = {kind: (3, 5) for kind in self.kinds(setup)}
        self.first_seconds = dict.fromkeys(self.sizes, 1.0)
        self.speed = 1.0 if setup.make is contenders.population else 4.0

    @staticmethod
    def kinds(setup):
        kinds = ["bases", "fine-tuned", "frozen"]
        extra = "engine" if setup.make is not contenders.plain_jax else contenders.FROZEN_A_CUT
        return [*kinds, extra]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, kind):
        return self.speed

    def ask(self, question):
        outcome = np.ones((2, 3)), np.ones((2, 4))
        sizes = dict.fromkeys(ours.BYTES, 2048)
        return {
            "memory": [{"members": 2} | sizes, {"members": 4} | sizes],
            "settings": {"bases": "1 thread", "engine": "2 threads"},
        }.get(question, {"bases": outcome, "engine": outcome})


@pytest.fixture
def told(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(benchmark, "Worker", Told)


def test_report(digits, tmp_path, told):
    report = benchmark.study(digits, tmp_path, StopFlag())
    assert "9 networks of 400 steps" in report
    assert report.count("4.00 (4.00–4.00)") == 4  # plain JAX twice, PyTorch on grid and engine
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * 16
    assert {row.round for row in rows} == {0, 1}
    assert (tmp_path / "config.json").exists()
    assert (tmp_path / "report.md").read_text() == report
    (tmp_path / "results.csv").unlink()
    assert benchmark.study(digits, tmp_path, StopFlag()) == report


def test_only_missing_rounds_are_timed(digits, tmp_path, told):
    stop = StopFlag()
    stop.received = 2
    with pytest.raises(Interrupted):
        benchmark.study(digits, tmp_path, stop)
    kept = [
        Row(what, kind, 3, 2.0, 0)
        for what, setup in ours.setups(digits).items()
        for kind in Told.kinds(setup)
    ]
    write_rows(tmp_path / "results.csv", Row, kept)
    benchmark.study(digits, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert rows[: len(kept)] == kept
    assert [row.round for row in rows] == [0] * 16 + [1] * 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 0}, "at least 1"),
        ({"study.optimizer.name": "adam"}, "momentum"),
        ({"study.model": "alexnet"}, "alexnet"),
    ],
)
def test_wrong_settings_are_one_line(digits, tmp_path, told, capsys, change, words):
    digits.update_from_flattened_dict(change)
    with pytest.raises(SystemExit) as stopped:
        benchmark.study(digits, tmp_path, StopFlag())
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_pytorch_it_says_how_to_get_it(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        benchmark.study(digits, tmp_path, StopFlag())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install -e '.[bench]'" in error


def test_unknown_variant():
    with pytest.raises(ValueError, match="choose one of transferability"):
        configs.get_config("nonsense")
