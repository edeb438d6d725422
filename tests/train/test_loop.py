"""Fits that are stopped, killed and continued, against one that nobody disturbed."""

import asyncio
import os
import shutil
import signal
import threading
from itertools import repeat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models.convnet import ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train import logs, loop
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import create_state, fault_names, make_step
from jaxdl.types import DamagedFile

PER_DISPATCH, STEPS, MEMBERS = 3, 12, 3
NETWORKS = [{"seed": i, "treatment": "base"} for i in range(MEMBERS)]
RATES = (0.1, 1e30, 0.2)  # the second diverges


def rule(hyper):
    return make_optimizer("adam", hyper["rate"], weight_decay=1e-3)


class Lab:
    """A population on two devices: three members and one that fills up."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.placement = make_placement(2, 1, devices=jax.devices()[:2])
        data = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
        data = {
            "image": jnp.asarray(data[0], jnp.float32),
            "label": jnp.asarray(data[1], jnp.int32),
        }
        self.data = self.placement.replicate(data)
        self.model = ConvNet((), (5,), 3)
        self.run = train_resident(
            make_step(classification_loss(self.model), rule, axis_name="data"),
            lambda stored, hyper, key: stored,
            self.placement,
            steps=PER_DISPATCH,
            batch=8,
        )
        shared = {"examples": np.arange(20, dtype=np.int32), "count": np.int32(20)}
        hypers = [
            shared | {"key": member_key(i), "rate": jnp.float32(rate)}
            for i, rate in enumerate(RATES)
        ]
        self.hypers = population_of(hypers, self.placement)

    def states(self):
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.data["image"])["params"]
        members = []
        for i in range(MEMBERS):
            rng = np.random.default_rng(i)
            params = jax.tree.map(
                lambda s, rng=rng: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes
            )
            members.append(create_state({"params": params}, rule, {"rate": 0.1}))
        return population_of(members, self.placement)

    def dispatches(self, first):
        """The same data for every dispatch."""
        del first
        return (self.data for _ in repeat(None))

    def fit(
        self,
        folder,
        *,
        stop=None,
        progress=None,
        seconds=1e9,
        name="bases-0",
        steps=STEPS,
        dispatches=None,
        networks=NETWORKS,
        trainer=None,
        **options,
    ):
        progress = progress or (lambda *_: None)
        trainer = Trainer(folder, stop or StopFlag(), progress, seconds, **(trainer or {}))
        return trainer.fit(
            name,
            self.run,
            self.states(),
            self.hypers,
            dispatches or self.dispatches,
            networks=networks,
            steps=steps,
            steps_per_dispatch=PER_DISPATCH,
            watch=lambda states: {"bias": states.params["fc2"]["dense"]["bias"].mean(1)},
            **options,
        )


@pytest.fixture(scope="module")
def lab():
    return Lab()


@pytest.fixture(scope="module")
def undisturbed(lab, tmp_path_factory):
    """States and curves of a fit from start to end; its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    states = jax.device_get(lab.fit(folder))
    return states, (folder / "metrics.jsonl").read_bytes(), folder


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


class StopAfter:
    """Asks to stop after so many dispatches, as a signal would; counts the steps it is told."""

    def __init__(self, dispatches):
        self.flag, self.left, self.steps = StopFlag(), dispatches, []

    def __call__(self, name, steps):
        self.steps.append(steps)
        if len(self.steps) == self.left + 1:  # the first call is of what was done before
            self.flag.received = signal.SIGTERM


def test_curves_have_a_line_for_each_network_and_dispatch(lab, undisturbed):
    states, _, folder = undisturbed
    records = logs.read(folder / "metrics.jsonl")
    assert len(records) == MEMBERS * STEPS // PER_DISPATCH
    assert [(r["step"], r["seed"]) for r in records] == [
        (step, seed) for step in (3, 6, 9, 12) for seed in range(MEMBERS)
    ]
    assert all(r["population"] == "bases-0" and r["treatment"] == "base" for r in records)
    # The same dispatches by hand: means of the metrics, and the watch at the end of each.
    by_hand = lab.states()
    names = fault_names(by_hand) * MEMBERS
    for step in (3, 6, 9, 12):
        by_hand, metrics = lab.run(by_hand, lab.hypers, lab.data)
        bias = np.asarray(by_hand.params["fc2"]["dense"]["bias"]).mean(1)
        for record in records:
            if record["step"] == step:
                i = record["seed"]
                if np.any(np.asarray(metrics["fault"])[i] != -1):  # it has no further numbers
                    assert {record[key] for key in ("loss", "accuracy", "bias")} == {"nan"}
                else:
                    for key in ("loss", "accuracy"):
                        mean = np.asarray(metrics[key])[i].mean()
                        np.testing.assert_allclose(float(record[key]), mean, rtol=1e-6)
                    np.testing.assert_allclose(float(record["bias"]), bias[i], rtol=1e-6)
                faults = [int(f) for f in np.asarray(metrics["fault"])[i]]
                told = [(step - 3 + t, names[i][f]) for t, f in enumerate(faults) if f >= 0] or [
                    (None, None)
                ]
                assert (record.get("diverged_at"), record.get("diverged_in")) == told[0]
    assert {r["seed"] for r in records if "diverged_at" in r} == {1}
    (line,) = (r for r in records if "diverged_at" in r)
    first = min(r["step"] for r in records if r["seed"] == 1 and r["loss"] == "nan")
    assert first - 3 <= line["diverged_at"] < first == line["step"]
    assert_equal(by_hand, states)


@pytest.mark.parametrize("dispatches", [1, 2, 4])
def test_stopped_and_continued_equals_undisturbed(lab, undisturbed, tmp_path, dispatches):
    stop = StopAfter(dispatches)
    with pytest.raises(Interrupted, match=str(int(signal.SIGTERM))) as stopped:
        lab.fit(tmp_path, stop=stop.flag, progress=stop)
    assert stopped.value.signal == signal.SIGTERM
    before = logs.read(tmp_path / "metrics.jsonl")
    assert before[-1]["step"] == dispatches * PER_DISPATCH
    told = StopAfter(-1)
    states = lab.fit(tmp_path, progress=told)
    assert_equal(jax.device_get(states), undisturbed[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == undisturbed[1]
    # What the progress bar hears adds up to everything, with what was done before.
    assert told.steps[0] == dispatches * PER_DISPATCH * MEMBERS
    assert sum(told.steps) == STEPS * MEMBERS


def test_killed_with_the_log_ahead_of_the_checkpoint(lab, undisturbed, tmp_path):
    stop = StopAfter(2)
    with pytest.raises(Interrupted):
        lab.fit(tmp_path, stop=stop.flag, progress=stop)
    whole = undisturbed[1]
    at = len((tmp_path / "metrics.jsonl").read_bytes())
    (tmp_path / "metrics.jsonl").write_bytes(whole[: at + (len(whole) - at) // 2 + 7])
    assert_equal(jax.device_get(lab.fit(tmp_path)), undisturbed[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_finished_fit_is_not_done_again(lab, undisturbed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed[2], folder)
    steps = []
    states = lab.fit(folder, progress=lambda name, n: steps.append((name, n)))
    assert steps == [("bases-0", STEPS * MEMBERS)]
    assert_equal(jax.device_get(states), undisturbed[0])
    assert (folder / "metrics.jsonl").read_bytes() == undisturbed[1]


def test_a_fit_asks_for_the_data_of_the_steps_that_it_does(lab, undisturbed, tmp_path):
    given = []

    def dispatches(first):
        for step in range(first, STEPS, PER_DISPATCH):
            given.append(step)
            yield lab.data

    stop = StopAfter(2)
    with pytest.raises(Interrupted):
        lab.fit(tmp_path, stop=stop.flag, progress=stop, dispatches=dispatches)
    assert given == [0, 3, 6]  # one ahead, which is read while the devices are at work
    given.clear()
    for _ in range(2):  # the second time there is nothing to do
        lab.fit(tmp_path, dispatches=dispatches)
    assert given == [6, 9]
    assert (tmp_path / "metrics.jsonl").read_bytes() == undisturbed[1]


def test_populations_share_a_file_of_curves(lab, undisturbed, tmp_path):
    lab.fit(tmp_path, name="first", steps=6)
    stop = StopAfter(1)
    with pytest.raises(Interrupted):
        lab.fit(tmp_path, name="second", stop=stop.flag, progress=stop, steps=6)
    for name in ("first", "second"):
        lab.fit(tmp_path, name=name, steps=6, seconds=0)
    lines = undisturbed[1].splitlines(keepends=True)[: 2 * MEMBERS]
    expected = [line.replace(b"bases-0", name) for name in (b"first", b"second") for line in lines]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(expected)


def test_a_checkpoint_of_other_networks_is_refused(lab, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed[2], tmp_path / "copy")
    others = [network | {"seed": network["seed"] + 1} for network in NETWORKS]
    with pytest.raises(DamagedFile, match="bases-0 is of other networks: delete"):
        lab.fit(folder, networks=others)


def test_saves_come_when_they_are_due_and_at_the_end(lab, tmp_path, monkeypatch):
    saves, save = [], Checkpoints.save

    def watched(self, step, *rest):
        saves.append(step)
        save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", watched)
    lab.fit(tmp_path / "often", seconds=1e-9, steps=9, trainer={"checkpoints": 1})
    assert saves == [3, 6, 9]
    assert {p.name for p in (tmp_path / "often" / "checkpoints" / "bases-0").iterdir()} == {"9"}
    saves.clear()
    lab.fit(tmp_path / "once", seconds=1e9, steps=9)
    assert saves == [9]


def test_one_trace_of_the_steps_that_are_asked_for(lab, tmp_path):
    lab.fit(tmp_path, trainer={"profiled": range(4, 8)})  # of the second and the third dispatch
    (trace,) = (tmp_path / "profile" / "bases-0").rglob("*.xplane.pb")
    assert trace.stat().st_size


@pytest.mark.parametrize("function", [jnp.log, jnp.exp], ids=["NaN", "infinity"])
def test_a_dispatch_is_repeated_until_what_is_not_finite(function):
    """Within a compiled loop; see :meth:`test_debug_names_the_operation_that_makes_a_nan`, too."""
    value = {jnp.log: -1.0, jnp.exp: 1000.0}[function]

    def run(x):
        return jax.lax.scan(lambda x, _: (function(x), x), x, length=2)

    with pytest.raises(FloatingPointError, match=f"encountered in {function.__name__}"):
        loop._look_for_fault(jax.jit(run), jnp.float32(value))


def test_a_fault_that_is_not_found_again_is_told_all_the_same():
    with pytest.raises(FloatingPointError, match="no longer finite"):
        loop._look_for_fault(lambda *_: None)


def test_dispatches_that_do_not_divide_the_steps_are_refused(lab, tmp_path):
    with pytest.raises(ValueError, match="13 steps are not a multiple of 3"):
        lab.fit(tmp_path, steps=13)
    assert not (tmp_path / "metrics.jsonl").exists()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def heard():
    """Signals that reach who handled them before: they are restored by the test's end."""
    heard = []
    before = {n: signal.signal(n, lambda number, frame: heard.append(number)) for n in SIGNALS}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_sets_the_flag_and_a_second_does_what_it_did_before(
    number, second, heard, capfd
):
    before = handlers()
    with StopFlag() as flag:
        assert flag.received is None
        os.kill(os.getpid(), number)
        assert flag.received == number and not heard
        assert capfd.readouterr().err.strip().startswith("asked to stop")
        assert handlers() == before
        os.kill(os.getpid(), second)
        assert flag.received == number and heard == [second]
    assert handlers() == before


def test_signals_are_given_back_on_the_way_out(heard):
    before, flag = handlers(), StopFlag()
    for _ in range(2):
        with flag:
            assert handlers() != before
        assert handlers() == before
    with pytest.raises(Interrupted), flag:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Interrupted(flag.received)
    assert handlers() == before and not heard
    assert flag.received is None  # it can serve again


def test_a_handler_that_is_not_python_s_becomes_the_default(heard, monkeypatch):
    whole = signal.signal
    monkeypatch.setattr(signal, "signal", lambda *of: (whole(*of), None)[1])  # as it then says
    with StopFlag():
        pass
    assert handlers() == [signal.SIG_DFL] * 2


def test_in_another_thread_no_signal_is_taken_and_the_flag_stops_it(lab, heard, tmp_path):
    before, seen = handlers(), []

    def train():
        stop = StopAfter(2)
        with stop.flag:
            seen.append(handlers())
            try:
                lab.fit(tmp_path, stop=stop.flag, progress=stop)
            except Interrupted as stopped:
                seen.append(stopped.signal)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before, signal.SIGTERM]


def test_it_trains_within_a_coroutine_and_asyncio_keeps_its_handler(lab, undisturbed, tmp_path):
    async def train():
        before = handlers()
        with StopFlag() as flag:
            states = lab.fit(tmp_path, stop=flag)
        assert handlers() == before
        return states

    assert_equal(asyncio.run(train()), undisturbed[0])
