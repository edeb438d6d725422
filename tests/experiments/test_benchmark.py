"""The benchmark: its references compute what the study computes, its bookkeeping is right."""

import asyncio
import multiprocessing
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from configs import transferability
from experiments import _benchmark_data as data
from experiments import _benchmark_transferability as ours
from experiments import _interleave, _plain_reference, benchmark
from experiments import _transferability_contenders as contenders
from experiments._interleave import Contender, Row, Setup, Slice, Worker
from experiments.harness.run import UserError
from jaxdl import transfer
from jaxdl.data.batches import host_batch_ids
from jaxdl.data.folder import folder
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.report.tables import read_rows, write_rows
from jaxdl.supervised import classification_loss
from jaxdl.train.loop import Interrupted, StopFlag
from jaxdl.train.population import member_key
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
        state = create_state(variables, rule)
        step = jax.jit(
            make_step(
                classification_loss(transfer.Frozen(model, frozen) if frozen else model), rule
            )
        )
        batch = {"image": images, "label": labels}
        state, metrics = step(state, batch, {"key": jax.random.key(0)})
        loss[frozen] = float(metrics["loss"])
        stepped[frozen] = state.variables
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


def parent(note: str) -> Contender:
    """A contender with a process of its own, which is asked to end, and time to get ready."""
    stop = multiprocessing.Event()
    child = multiprocessing.Process(target=stop.wait, daemon=True)
    child.start()

    def close() -> None:
        stop.set()
        child.join()
        Path(note).write_text(str(child.exitcode))

    ready = []
    wait = partial(time.sleep, 0.3)
    return Contender(
        {"a": Slice(1, 1, lambda: ready.append(None), before=wait)},
        {"alive": child.is_alive, "done": lambda: len(ready)},
        close,
    )


def test_workers_may_have_children_and_end_them(tmp_path):
    note = tmp_path / "child"
    with Worker(Setup(parent, 1), str(note)) as worker:
        assert worker.ask("alive")
        assert worker.time("a") < 100  # what comes before is not timed
        assert worker.ask("done") == 2
    assert worker._process.exitcode == 0
    assert note.read_text() == "0"


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
    sizes = {kind: len(contenders.networks_of(part)) for kind, part in parts.items()}
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
    members_a_device = few["members"] // lab.placement.member_devices
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
        for what, setup in ours.setups(digits, tmp_path).items()
        for kind in Told.kinds(setup)
    ]
    write_rows(tmp_path / "results.csv", Row, kept)
    benchmark.study(digits, tmp_path, StopFlag())
    rows = read_rows(tmp_path / "results.csv", Row)
    assert rows[: len(kept)] == kept
    assert [row.round for row in rows] == [0] * 16 + [1] * 16


def assert_refused(config, folder, words):
    """One line with these words, nothing written."""
    with pytest.raises(UserError, match=words) as refusal:
        benchmark.study(config, folder, StopFlag())
    assert "\n" not in str(refusal.value)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 0}, "at least 1"),
        ({"study.optimizer.name": "adam"}, "momentum"),
        ({"study.model": "alexnet"}, "alexnet"),
    ],
)
def test_wrong_settings_are_one_line(digits, tmp_path, told, change, words):
    digits.update_from_flattened_dict(change)
    assert_refused(digits, tmp_path, words)


def test_without_pytorch_it_says_how_to_get_it(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    assert_refused(digits, tmp_path, r"pip install -e '\.\[bench\]'")


@pytest.mark.parametrize("where", ["thread", "coroutine"])
def test_it_can_be_called_from_anywhere_and_leaves_no_handler(where, digits, tmp_path, monkeypatch):
    """As the studies of test_calls."""
    monkeypatch.setattr(benchmark, "Worker", Told)
    monkeypatch.setattr(benchmark, "PEERS", {"transferability": {}})
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


# --- data --------------------------------------------------------------------------------------


@pytest.fixture
def little(tmp_path) -> ConfigDict:
    """A few small images; and the smallest share of contenders."""
    config = configs.get_config("data")
    config.rounds, config.data.sizes, config.data.images = 1, (16,), (12,)
    config.data.batch, config.data.batches = 5, 3
    config.data.workers, config.data.loader_workers = (1,), 1
    return config


def test_images_are_a_folder_of_jpegs_like_photographs(tmp_path):
    data.write_images(tmp_path, 32, 7)
    images, labels = folder(str(tmp_path)).splits["train"].values()
    assert images.shape == (7, 32, 32, 3)
    np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1, 1])
    assert len(data.files(tmp_path)) == 7
    pixels = np.stack([images[i] for i in range(7)]).astype(float)
    assert 20 < pixels.std() < 60
    neighbours = np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1]
    assert neighbours > 0.5  # of noise without a spectrum: 0


def test_resident_batches_are_those_of_the_order():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(40, 5, 6, 3), dtype=np.uint8)
    labels = rng.integers(9, size=40).astype(np.int32)
    mean, deviation = np.float32([100, 110, 120]), np.float32([50, 60, 70])
    draw = data.make_draw(mean, deviation, steps=4, batch=8)
    words = np.asarray(jax.random.key_data(member_key("data")))
    ids = [host_batch_ids(words, step, batch=8, examples=40) for step in range(3, 7)]
    batches = [((images[i] - mean) / deviation, labels[i]) for i in ids]
    seen = zip(ids, [batches[0], *batches[:-1]], strict=True)
    total = sum(image.flat[i[0]] + label[i[0] % 8] for i, (image, label) in seen)
    total += batches[-1][0].sum() + batches[-1][1].sum()
    got = draw({"image": images, "label": labels}, 3)
    np.testing.assert_allclose(got, total, rtol=1e-4)


def test_slices_start_from_a_steady_state():
    drawn = iter(range(1000))
    piece = data.drawing(drawn, 7, workers=2)
    piece.before()
    assert next(drawn) == 2 * data.AHEAD
    piece.run()
    assert next(drawn) == 2 * data.AHEAD + 1 + 7
    assert (piece.networks, piece.steps) == (1, 7)


def test_streams_go_on_where_they_were(little, tmp_path, monkeypatch):
    """From the same folder as the DataLoader's, in this process, by threads."""
    monkeypatch.setattr(data, "SETTLE", 0.0)
    data.write_images(tmp_path / "16", 16, 12)
    steps = []
    monkeypatch.setattr(data.jax, "device_put", lambda batch: steps.append(batch["label"]))
    contender = data.streamed(tmp_path, 0, little)
    contender.slices["16 px"].run()
    contender.slices["16 px"].run()
    contender.close()
    words = np.asarray(jax.random.key_data(member_key("data")))
    ids = [host_batch_ids(words, step, batch=5, examples=12) for step in range(6)]
    np.testing.assert_array_equal(np.concatenate(steps), np.stack(ids) >= 6)


def test_pytorch_s_data_set_is_the_same_files(tmp_path):
    torch = pytest.importorskip("torch")
    data.write_images(tmp_path, 16, 5)
    images, labels = folder(str(tmp_path)).splits["train"].values()
    files = data.Files(tmp_path)
    assert len(files) == 5
    for i in range(5):
        image, label = files[i]
        assert isinstance(image, torch.Tensor)
        np.testing.assert_array_equal(image, images[i])
        assert label == labels[i]


class Fed:
    """A worker that is not there, of given speeds."""

    MS = {data.resident: 1.0, data.streamed: 20.0, data.torch_loader: 25.0}  # noqa: RUF012

    def __init__(self, setup, config):
        self.sizes = {data.kind(size): (1, config.data.batches) for size in config.data.sizes}
        self.first_seconds = dict.fromkeys(self.sizes, 1.0)
        self.ms = self.MS[setup.make.func]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, kind):
        return self.ms if kind == "16 px" else 30.0

    def ask(self, question):
        return dict.fromkeys(self.sizes, 1234.0)


def test_report_of_images_a_second(little, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(benchmark, "Worker", Fed)
    little.rounds, little.data.sizes, little.data.images = 2, (16, 24), (12, 10)
    little.data.batch, little.data.workers, little.data.loader_workers = 4, (0, 2), 2
    report = benchmark.study(little, tmp_path, StopFlag())
    row = next(line for line in report.splitlines() if line.startswith("| streamed, threads"))
    cores = benchmark.machine()["cores"]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells == ["200", f"{200 / cores:,.0f}", "1.25 (1.25–1.25)"]
    assert "12 JPEGs of 16 x 16 pixels, 1.2 kB each" in report
    assert "resident, 16 px: at least 20 times the DataLoader: met, 25.00" in report
    assert "streamed, 2 workers, 16 px: at least 1 times the DataLoader: met, 1.25" in report
    assert "streamed, 2 workers, 24 px: at least 1 times the DataLoader: met, 1.00" in report
    assert "NOT met" not in report
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * 2 * 4
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "results.csv", "report.md"}


def test_goals_that_are_missed(little):
    rows = [Row("resident", "16 px", 1, 2.0, 0), Row(data.TORCH, "16 px", 1, 25.0, 0)]
    rows.append(Row("streamed, 1 worker", "16 px", 1, 26.0, 0))
    resident, streamed = data.goals(little, rows)
    assert "NOT met, 12.50 (12.50–12.50)" in resident
    assert "NOT met, 0.96 (0.96–0.96)" in streamed


def test_images_a_second_are_measured(little, tmp_path, capfd):
    """By all contenders for once; their processes end without a word."""
    pytest.importorskip("torch")
    report = benchmark.study(little, tmp_path, StopFlag())
    for what in ("resident", "streamed, 1 worker", "PyTorch's DataLoader"):
        assert f"| {what} " in report
    rows = read_rows(tmp_path / "results.csv", Row)
    assert [(row.what, row.kind, row.networks) for row in rows] == [
        (what, "16 px", 1) for what in ("resident", "streamed, 1 worker", "PyTorch's DataLoader")
    ]
    assert all(row.ms_per_network_step > 0 for row in rows)
    said = capfd.readouterr().err
    assert not [word for word in ("Traceback", "Warning", "Error") if word in said]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.sizes": (16, 24)}, "config.data.images of each"),
        ({"data.batch": 13}, "1 … config.data.images"),
        ({"data.workers": (0,)}, "loader_workers"),
        ({"data.batches": 0}, "batches 1 or more"),
    ],
)
def test_wrong_settings_of_data_are_one_line(little, tmp_path, change, words):
    pytest.importorskip("torch")
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)
