"""The benchmark: its references compute what the study computes, its bookkeeping is right."""

import asyncio
import signal
import threading
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from configs import transferability
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import transferability as ours
from experiments.benchmark.contenders import Task, plain_jax
from experiments.benchmark.turns import Row
from jaxdl import transfer
from jaxdl.nn.layered import layer_names
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.report.tables import read_rows, write_rows
from jaxdl.supervised import classification_loss
from jaxdl.train.groups import Group
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.state import create_state, make_step
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, stand_in

RATES, DECAY = (0.05, 0.02, 0.03), 0.1


class Problem(NamedTuple):
    """A network with every feature of the study's, and what the engine makes of it in some steps
    of another rate each."""

    rule: str
    model: ConvNet
    variables: dict
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray  # in evaluation
    loss: dict[int, float]  # by number of frozen layers
    stepped: dict[int, dict]


def make_rule(name: str, mask: dict | None = None) -> optax.GradientTransformation:
    def rate(step):
        return jnp.array(RATES)[step]

    return make_optimizer(name, rate, weight_decay=DECAY, trainable=mask)


@pytest.fixture(
    scope="module", params=["momentum", pytest.param("nesterov", marks=pytest.mark.slow)]
)
def problem(request) -> Problem:
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
        rule = make_rule(request.param, mask)
        state = create_state(variables, rule)
        step = jax.jit(
            make_step(
                classification_loss(transfer.Frozen(model, frozen) if frozen else model), rule
            )
        )
        batch = {"image": images, "label": labels}
        for _ in RATES:
            state, metrics = step(state, batch, {"key": jax.random.key(0)})
        loss[frozen] = float(metrics["loss"])
        stepped[frozen] = state.variables
    logits = jax.jit(model.apply)(variables, images)
    logits = np.asarray(logits)
    return Problem(request.param, model, variables, images, labels, logits, loss, stepped)


def test_plain_jax_steps_as_the_engine_does(problem):
    rule_name, model, variables, images, labels, _, losses, stepped = problem
    variables, rule = jax.tree.map(jnp.asarray, variables), make_rule(rule_name)
    step = jax.jit(plain_jax.make_step(model, rule))
    ids, start = np.arange(len(images)), rule.init(variables["params"])
    for frozen, loss in losses.items():
        names = layer_names(variables)
        trains = {name: np.bool_(i >= frozen) for i, name in enumerate(names)}
        got, state = variables, start
        for _ in RATES:
            got, state, plain_loss = step(got, state, images, labels, ids, trains)
        np.testing.assert_allclose(plain_loss, loss, rtol=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), got, stepped[frozen])
    assert step._cache_size() == 1


@pytest.mark.parametrize("frozen", [0, 1])
def test_pytorch_computes_and_steps_as_the_engine_does(problem, frozen):
    torch = pytest.importorskip("torch")
    from experiments.benchmark.contenders import pytorch

    layers = pytorch.network(problem.model, problem.variables)
    with torch.no_grad():
        logits = layers.eval()(pytorch.nchw(problem.images)).numpy()
    np.testing.assert_allclose(logits, problem.logits, atol=1e-4)

    ids, nesterov = np.tile(np.arange(16), (len(RATES), 1)), problem.rule == "nesterov"
    task = Task(problem.images, problem.labels, ids, RATES, DECAY, nesterov=nesterov)
    setting = pytorch.Setting(1, torch.contiguous_format)
    starts = [(problem.variables, frozen)]
    (layers,), run = pytorch.one_after_the_other(problem.model, starts, task, setting)
    np.testing.assert_allclose(run(), problem.loss[frozen], atol=1e-4)
    expected = pytorch.network(problem.model, problem.stepped[frozen]).state_dict()
    for name, value in layers.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            # PyTorch's running variance is the unbiased one.
            tolerance = {"rtol": 1e-2} if name.endswith("running_var") else {"atol": 1e-4}
            np.testing.assert_allclose(value, expected[name], **tolerance, err_msg=name)


def test_pytorch_setting_is_one_of_those_tried(problem):
    pytest.importorskip("torch")
    from experiments.benchmark.contenders import pytorch

    ids = np.arange(12).reshape(3, 4)
    task = Task(problem.images, problem.labels, ids, RATES, DECAY)
    setting = pytorch.fastest(problem.model, problem.variables, task, threads=1, steps=2)
    assert str(setting) in ("1 thread, contiguous", "1 thread, channels_last")


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


def memory(study, base, members) -> dict[str, int]:
    """Bytes a device of the compiled training of so many members like this one."""
    devices, data = study.placement.member_devices, study.feed.data
    states, hypers = Group("bases", [base], 1).start()

    def stretch(leaf):
        shape = (members, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    shapes = jax.tree.map(stretch, (states, hypers))
    stats = base.program.training.run.lower(*shapes, data).compile().memory_analysis()
    held = {"data": size(data), "states": members // devices * size(states) // devices}
    return held | {"arguments": stats.argument_size_in_bytes}


def test_the_slices_are_the_study_s_networks(digits):
    study, plan = ours.make_members(digits)
    cuts = 2
    sizes = {kind: len(ours.networks_of(part)) for kind, part in plan.items()}
    assert sizes == {"bases": 2, "fine-tuned": cuts, "frozen": 2 * cuts}
    reference = ours.make_reference(digits)
    frozen = {kind: [n for _, n in starts] for kind, starts in reference.starts.items()}
    assert frozen == {"bases": [0], "fine-tuned": [0] * cuts, "frozen": [1, 2]}
    assert reference.task.images.dtype == np.float32
    assert set(reference.task.labels) == set(range(5))

    # States grow with members, and data do not.
    counts = np.array([2, 4]) * study.placement.member_devices
    few, many = (memory(study, plan["bases"][0], int(count)) for count in counts)
    assert many["states"] == 2 * few["states"]
    assert many["data"] == few["data"] > 0
    grown = many["arguments"] - few["arguments"]
    examples = len(next(iter(study.tasks.values())).examples["train"])
    each_member_s_own = 4 * examples + 1000  # its order of examples and its labels
    assert 0 <= grown - few["states"] < 2 * each_member_s_own


class Measured(StandIn):
    """Four times as fast with ours."""

    def make_sizes(self):
        return {kind: (3, 5) for kind in kinds(self.make)}

    def time(self, kind):
        return 1.0 if self.make is ours.make_population else 4.0

    def ask(self, question):
        return {"settings": ("1 thread", "2 threads")}[question]


def kinds(make):
    extra = ours.FROZEN_A_CUT if make is ours.make_plain_jax else ours.ENGINE
    return ["bases", "fine-tuned", "frozen", extra]


@pytest.fixture
def measured(monkeypatch):
    stand_in(monkeypatch, Measured)


def test_report(digits, tmp_path, measured):
    report = benchmark.study(digits, tmp_path, StopFlag())
    assert "9 networks of 400 steps" in report
    assert report.count("4.00 (4.00–4.00)") == 4  # plain JAX twice, PyTorch on grid and engine
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * 12
    assert {row.round for row in rows} == {0, 1}
    assert (tmp_path / "config.json").exists()
    assert (tmp_path / "report.md").read_text() == report
    (tmp_path / "results.csv").unlink()
    assert benchmark.study(digits, tmp_path, StopFlag()) == report


def test_only_missing_rounds_are_timed(digits, tmp_path, measured):
    stop = StopFlag()
    stop.received = 2
    with pytest.raises(Interrupted):
        benchmark.study(digits, tmp_path, stop)
    kept = [
        Row(name, kind, 3, 2.0, 0)
        for name, setup in ours.setups(digits, tmp_path).items()
        for kind in kinds(setup.make)
    ]
    write_rows(tmp_path / "results.csv", Row, kept)
    benchmark.study(digits, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert rows[: len(kept)] == kept
    assert [row.round for row in rows] == [0] * 12 + [1] * 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 0}, "at least 1"),
        ({"study.optimizer.name": "adam"}, "momentum"),
        ({"study.model": "alexnet"}, "alexnet"),
    ],
)
def test_wrong_settings_are_one_line(digits, tmp_path, measured, change, words):
    digits.update_from_flattened_dict(change)
    assert_refused(digits, tmp_path, words)


def test_without_pytorch_it_says_how_to_get_it(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    assert_refused(digits, tmp_path, r"pip install -e '\.\[bench\]'")


@pytest.mark.parametrize("where", ["thread", "coroutine"])
def test_it_can_be_called_from_anywhere_and_leaves_no_handler(where, digits, tmp_path, measured):
    """As the studies of test_calls."""
    reports = []

    def measure():
        before = signals()
        for name in "ab":
            reports.append(benchmark.study(digits, tmp_path / name, StopFlag()))
            assert signals() == before

    async def main():
        measure()

    before = signals()
    if where == "coroutine":
        asyncio.run(main())
    else:
        thread = threading.Thread(target=measure)
        thread.start()
        thread.join()
    assert len(reports) == 2 and signals() == before


def signals():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_unknown_variant():
    with pytest.raises(ValueError, match="choose one of transferability, dann, data"):
        configs.get_config("nonsense")
