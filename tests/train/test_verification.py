"""The check of first losses: right programs pass in every mode, a wrong one is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn import ops
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import STREAM, make_placement
from jaxdl.train.population import member_key, population_of, train_resident, train_streamed
from jaxdl.train.state import create_state, make_step
from jaxdl.train.verification import WrongNumbers, compare

MEMBERS, STEPS, BATCH, EXAMPLES = 3, 2, 8, 20
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(EXAMPLES, 6, 6, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, EXAMPLES).astype(np.int32)


def rule(hyper):
    return make_optimizer("momentum", hyper["rate"])


def noisy(stored, hyper, key):
    """A random preparation: it must be drawn alike by both programs."""
    noise = jax.random.normal(key, stored["image"].shape)
    return {"image": stored["image"] + hyper["rate"] * noise, "label": stored["label"]}


def make_population(placement, model):
    state = jax.jit(model.init)(jax.random.key(0), IMAGES[:1])
    states, hypers = [], []
    for i in range(MEMBERS):
        hyper = {
            "key": member_key(i),
            "rate": jnp.float32(0.1 * (i + 1)),
            "examples": np.roll(np.arange(EXAMPLES, dtype=np.int32), i),
            "count": np.int32(EXAMPLES - i),
        }
        params = jax.tree.map(lambda leaf, i=i: np.asarray(leaf) * (1 + i), state["params"])
        params = jax.tree.map(jnp.asarray, params)
        states.append(create_state({**state, "params": params}, rule, hyper))
        hypers.append(hyper)
    return population_of(states, placement), population_of(hypers, placement)


@pytest.mark.parametrize(
    "mode, member, data",
    [("shard_map", 2, 1), ("shard_map", 2, 2), ("jit", 2, 2), ("fsdp", 2, 1), ("pmap", 1, 2)],
)
def test_right_programs_agree(mode, member, data):
    placement = make_placement(member, data, mode, jax.devices()[: member * data])
    axis = placement.axis_name
    model = ConvNet((Conv(4),), (), 3, batch_norm=True, axis_name=axis)
    step = make_step(classification_loss(model), rule, axis_name=axis)
    training = train_resident(step, noisy, placement, steps=STEPS, batch=BATCH)
    states, hypers = make_population(placement, model)
    shared = placement.replicate({"image": IMAGES, "label": LABELS})
    expected = training.first_losses(states, hypers, shared)
    assert sorted(expected) == list(range(len(states.step)))
    assert len({float(loss) for loss in expected.values()}) >= MEMBERS  # each member has its own
    _, metrics = training(states, hypers, shared)
    assert compare(expected, np.asarray(metrics["loss"])[:, 0], str, 1e-4) < 1e-6


def test_streamed_batches_agree():
    placement = make_placement(2, 2, devices=jax.devices()[:4])
    model = ConvNet((Conv(4),), (), 3)
    step = make_step(classification_loss(model), rule, axis_name="data")
    training = train_streamed(step, noisy, placement)
    states, hypers = make_population(placement, model)
    ids = RNG.integers(0, EXAMPLES, (len(states.step), STEPS, BATCH))
    sharding = placement.sharding(STREAM)
    batches = jax.device_put({"image": IMAGES[ids], "label": LABELS[ids]}, sharding)
    expected = training.first_losses(states, hypers, batches)
    _, metrics = training(states, hypers, batches)
    assert compare(expected, np.asarray(metrics["loss"])[:, 0], str, 1e-4) < 1e-6


def test_a_wrong_convolution_ends_the_run_before_anything_is_written(tmp_path, monkeypatch):
    """Wrong for the first image of a batch, by a twentieth, as XLA's was; on the second member."""
    placement = make_placement(2, 1, devices=jax.devices()[:2])
    model = ConvNet((Conv(4),), (), 3)
    convolve = ops._dense

    def make_training():
        step = make_step(classification_loss(model), rule, axis_name="data")
        return train_resident(step, noisy, placement, steps=STEPS, batch=BATCH)

    training = make_training()
    states, hypers = make_population(placement, model)
    shared = placement.replicate({"image": IMAGES, "label": LABELS})

    def wrong(x, kernel, padding):
        second = jax.lax.axis_index("member") == 1
        return convolve(x, kernel, padding).at[0].multiply(jnp.where(second, 0.95, 1.0))

    def fit(folder, training):
        trainer = Trainer(folder, StopFlag(), lambda *_: None, 1e9)
        trainer.fit(
            "networks-0",
            training,
            jax.tree.map(jnp.copy, states),
            hypers,
            lambda first: (shared for _ in iter(int, 1)),
            networks=[{"method": "dann", "seed": i} for i in range(MEMBERS)],
            steps=2 * STEPS,
            steps_per_dispatch=STEPS,
            watch=lambda states: {},
        )
        return trainer

    right = fit(tmp_path / "right", training)
    assert 0 <= right.discrepancies["networks-0"] < 1e-6

    with monkeypatch.context() as patch:
        patch.setattr(ops, "_dense", wrong)
        run = make_training().run
        run.lower(states, hypers, shared)  # traced with the wrong convolution
    with pytest.raises(
        WrongNumbers, match=r"^dann/2 at step 0 \(member 2 of networks-0, on .*1\): its"
    ) as e:
        fit(tmp_path / "wrong", dataclasses.replace(training, run=run))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
    assert not list((tmp_path / "wrong" / "checkpoints" / "networks-0").glob("[0-9]*"))


def losses(*values):
    return np.asarray(values, np.float32)


def test_what_counts_as_rounding():
    expected = dict(enumerate(losses(2.0, 1e-7, np.nan)))
    difference = compare(expected, losses(2.0001, 3e-7, np.nan), "{}/{}".format, 1e-4)
    assert difference == pytest.approx(5e-5, rel=0.02)
    assert compare({1: np.float32(4.0)}, losses(0.0, 4.0), "{}/{}".format, 1e-4) == 0.0


@pytest.mark.parametrize("value", [2.001, np.nan, np.inf])
@pytest.mark.parametrize("member", [0, 1])
def test_the_worst_network_is_named(value, member):
    """Also before others that are healthy, and where only the plain loss is finite or is not."""
    expected = {0: losses(1.0, 1.0), 1: losses(1.0, 1.0)}
    computed = np.stack([losses(1.0003, 1.0), losses(1.0, 1.0)])
    computed[member, 1] = value
    with pytest.raises(WrongNumbers, match=rf"^{member}/1: its loss is .* and 1 by a plain one"):
        compare(expected, computed, "{}/{}".format, 1e-4)
    if not np.isfinite(value):
        with pytest.raises(WrongNumbers, match=rf"^{member}/1: its loss is 1 by"):
            compare(dict(enumerate(computed)), np.ones((2, 2), np.float32), "{}/{}".format, 1e-4)


def test_networks_that_a_device_may_not_hold_are_not_checked():
    placement = make_placement(1, 2, "fsdp", jax.devices()[:2])
    step = make_step(classification_loss(ConvNet((), (), 3)), rule)
    training = train_resident(step, noisy, placement, steps=STEPS, batch=BATCH)
    assert training.first_losses(None, None, None) == {}
