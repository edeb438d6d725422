"""Resident and streamed data: the same batches, the same training, whatever the feed."""

import functools
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import trees
from jaxdl.data.batches import host_batch_ids
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.train import feed as feeds
from jaxdl.train.feed import Resident, Streamed, device_memory, make_feed
from jaxdl.train.parallel import make_mesh
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import create_state, make_step
from jaxdl.transfer import classification_loss, loss_and_metrics
from jaxdl.types import DamagedFile

SIDE, CLASSES, BATCH, PER_DISPATCH, STEPS = 4, 4, 6, 3, 9
SIZES = {"train": 23, "validation": 10}

RNG = np.random.default_rng(0)
SPLITS = {
    split: (
        RNG.integers(0, 256, (n, SIDE, SIDE, 1)).astype(np.uint8),
        RNG.integers(0, CLASSES, n).astype(np.int32),
    )
    for split, n in SIZES.items()
}
IMAGES, LABELS = (np.concatenate(arrays) for arrays in zip(*SPLITS.values(), strict=True))
# Two tasks of two classes each and unequal numbers of examples; the third member has even fewer
# than a batch takes.
HALVES = ([0, 2], [1, 3], [1, 3])
LABEL_OF = [
    np.array([half.index(c) if c in half else -1 for c in range(CLASSES)]) for half in HALVES
]
PLACES = [np.flatnonzero(LABEL_OF[i][LABELS[: SIZES["train"]]] >= 0) for i in range(3)]
PLACES[2] = PLACES[2][-4:]
MODEL = ConvNet((), (5,), 2)
FEEDS = (Resident, Streamed)
SHAPES = ((2, 1), (2, 2))


class Files:
    """Images that are read one by one, in the place of an array."""

    def __init__(self, images):
        self.shape, self._images = images.shape, images
        self.read, self.damaged = [], set()

    def __getitem__(self, place):
        self.read.append(place)
        if place in self.damaged:
            raise DamagedFile(f"{place}.png: not a whole image")
        return self._images[place]


def rule(_):
    return make_optimizer("momentum", 0.05, weight_decay=0.01)


def plainly(stored, hyper, key):
    """Scales the images; labels become the task's."""
    del key
    image = stored["image"].astype(jnp.float32) / 255
    return {"image": image, "label": hyper["label_of"][stored["label"]]}


def noisily(stored, hyper, key):
    """The same with noise on the images, and beside them a number drawn for the whole batch."""
    seen = plainly(stored, hyper, None)
    noise = 0.5 * jax.random.normal(key, seen["image"].shape)
    return seen | {"image": seen["image"] + noise, "drawn": jax.random.uniform(key)}


def loss_fn(params, batch_stats, batch, hyper, key):
    """A loss that reports what was drawn, its square, and what its own key would draw."""
    del hyper
    logits = MODEL.apply({"params": params}, batch["image"])
    loss, metrics = loss_and_metrics(logits, batch["label"])
    drawn = batch.get("drawn", jnp.zeros(()))
    told = {"drawn": drawn, "square": drawn**2, "own": jax.random.uniform(key)}
    return loss, (batch_stats, metrics | told)


def mesh_of(member, data=1):
    return make_mesh(member, data, jax.devices()[: member * data])


def key_of(i):
    return member_key("feed", i)


def state_of(i):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))["params"]
    rng = np.random.default_rng(i)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(s.dtype), shapes)
    return create_state(jax.tree.map(jnp.asarray, params), {}, rule({}))


def hyper_of(i):
    return {
        "key": key_of(i),
        "label_of": LABEL_OF[i].astype(np.int32),
        "examples": np.pad(PLACES[i], (0, SIZES["train"] - len(PLACES[i]))).astype(np.int32),
        "count": np.int32(len(PLACES[i])),
    }


def words_of(i):
    return np.asarray(jax.random.key_data(key_of(i)))


MEMBERS = (0, 1, 2, 2)  # the last one fills up


@functools.cache
def program(kind, shape, prepare):
    """Compiled once for all tests: the images do not matter for it."""
    step = make_step(loss_fn, rule, axis_name="data")
    feed = kind(SPLITS, mesh_of(*shape))
    return feed.program(step, prepare, steps=PER_DISPATCH, batch=BATCH)


def train(kind, shape, prepare, *, splits=SPLITS, states=None, span=(0, STEPS), run=None):
    """States and metrics of all members after these steps."""
    mesh, span, seen = mesh_of(*shape), range(*span), []
    run, feed = run or program(kind, shape, prepare), kind(splits, mesh)
    states = population_of(states or [state_of(i) for i in MEMBERS], 0, mesh)
    hypers = population_of([hyper_of(i) for i in MEMBERS], 0, mesh)
    items = feed.dispatches(hypers, span, steps=PER_DISPATCH, batch=BATCH)
    for _ in span[::PER_DISPATCH]:
        states, metrics = run(states, hypers, next(items))
        seen.append(jax.device_get(metrics))
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1), *seen)
    return jax.device_get(states), metrics


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_close(ours, theirs, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def files_of(splits):
    return {split: (Files(images), labels) for split, (images, labels) in splits.items()}


@pytest.fixture(scope="module")
def two():
    return mesh_of(2)


@pytest.fixture(scope="module")
def noisy():
    """What training on resident data, with noise, comes to, by the mesh's shape."""
    return {shape: train(Resident, shape, noisily) for shape in SHAPES}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_streamed_training_is_resident_training_bit_for_bit(shape, noisy):
    files = files_of(SPLITS)
    assert_equal(train(Streamed, shape, noisily, splits=files), noisy[shape])
    assert files["train"][0].read and not files["validation"][0].read


@pytest.mark.parametrize("kind", FEEDS)
def test_members_with_unequal_numbers_of_examples_are_trained_as_if_alone(kind, alone):
    states, metrics = train(kind, (2, 2), plainly)
    for i, (state, losses) in enumerate(alone):
        assert_close(trees.member(states, i), state)
        np.testing.assert_allclose(metrics["loss"][i], losses, rtol=2e-6)
    assert_equal(trees.member(states, 3), trees.member(states, 2))


@pytest.fixture(scope="module")
def alone():
    """The three members trained by a plain step, one batch after the other: states and losses."""
    assert len({len(places) for places in PLACES}) == 3
    step, trained = jax.jit(make_step(classification_loss(MODEL), rule)), []
    for i, places in enumerate(PLACES):
        state, losses, seen = state_of(i), [], set()
        for t in range(STEPS):
            ids = places[host_batch_ids(words_of(i), t, batch=BATCH, examples=len(places))]
            batch = {"image": IMAGES[ids] / np.float32(255), "label": LABEL_OF[i][LABELS[ids]]}
            state, metrics = step(state, batch, hyper_of(i))
            losses.append(float(metrics["loss"]))
            seen |= set(ids.tolist())
        assert seen == set(places.tolist())
        trained.append((jax.device_get(state), losses))
    return trained


@pytest.mark.parametrize("kind", FEEDS)
def test_training_that_begins_later_goes_on_the_same_way(kind, noisy):
    expected, all_metrics = noisy[2, 1]
    states, first = train(kind, (2, 1), noisily, span=(0, PER_DISPATCH))
    states, rest = train(
        kind, (2, 1), noisily, states=trees.unstack(states), span=(PER_DISPATCH, STEPS)
    )
    assert_equal(states, expected)
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1), first, rest)
    assert_equal(metrics, all_metrics)


def test_the_program_for_a_stream_is_compiled_once(caplog):
    run = program.__wrapped__(Streamed, (2, 1), plainly)
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        train(Streamed, (2, 1), plainly, run=run)
    compiled = [r for r in caplog.messages if r.startswith("Finished XLA compilation of jit(run)")]
    assert len(compiled) == 1


def test_the_stream_is_divided_over_the_devices():
    mesh = mesh_of(2, 2)
    hypers = population_of([hyper_of(i) for i in MEMBERS], 0, mesh)
    (data,) = Streamed(SPLITS, mesh).dispatches(
        hypers, range(PER_DISPATCH), steps=PER_DISPATCH, batch=BATCH
    )
    assert data["image"].shape == (4, PER_DISPATCH, BATCH, SIDE, SIDE, 1)
    assert data["image"].dtype == np.uint8 and data["label"].shape == (4, PER_DISPATCH, BATCH)
    shards = [shard.data.shape[:3] for shard in data["label"].addressable_shards]
    assert shards == [(2, PER_DISPATCH, BATCH // 2)] * 4


def test_a_damaged_image_is_named_where_it_is_met_and_may_be_mended(noisy):
    files = files_of(SPLITS)
    files["train"][0].damaged = {int(PLACES[1][0])}
    with pytest.raises(DamagedFile, match=rf"{PLACES[1][0]}.png"):
        train(Streamed, (2, 1), noisily, splits=files)
    files["train"][0].damaged = set()
    assert_equal(train(Streamed, (2, 1), noisily, splits=files), noisy[2, 1])


# What ``prepare`` draws from its key.


def test_augmentation_differs_between_steps_and_members(noisy):
    _, metrics = noisy[2, 1]
    drawn, own = metrics["drawn"][:3], metrics["own"][:3]
    assert len({*drawn.flat, *own.flat}) == 2 * 3 * STEPS  # nor are they the loss's own numbers
    np.testing.assert_array_equal(metrics["drawn"][3], drawn[2])  # a copy of the same member


def test_augmentation_differs_between_the_parts_of_a_batch(noisy):
    _, metrics = noisy[2, 2]
    # Metrics are means over the devices: the variance of two equal numbers would be 0.
    assert (metrics["square"] - metrics["drawn"] ** 2 > 1e-6).all()


# Images by place.


@pytest.mark.parametrize("shape", [(2, 1), (2, 2), (1, 1)], ids=str)
def test_fetched_images_are_those_of_the_splits_laid_end_to_end(shape):
    mesh = mesh_of(*shape)
    ids = np.random.default_rng(1).integers(0, len(LABELS), (4, 7))
    ids[:, 0], ids[:, 1], ids[0] = 0, len(LABELS) - 1, 22  # first, last, one and the same
    for kind in FEEDS:
        batch = kind(SPLITS, mesh).fetch(ids)
        np.testing.assert_array_equal(batch["image"], IMAGES[ids], strict=True)
        np.testing.assert_array_equal(batch["label"], LABELS[ids], strict=True)
        assert {s.data.shape[0] for s in batch["image"].addressable_shards} == {4 // shape[0]}


# The choice.


def test_auto_is_resident_below_a_quarter_of_the_memory(monkeypatch, two):
    size = IMAGES.nbytes
    assert size == sum(SIZES.values()) * SIDE**2
    for memory, kind in ((4 * size + 1, Resident), (4 * size, Streamed), (1, Streamed)):
        monkeypatch.setattr(feeds, "device_memory", lambda mesh, memory=memory: memory)
        assert type(make_feed("auto", SPLITS, two)) is kind
        assert type(make_feed("resident", SPLITS, two)) is Resident
        assert type(make_feed("streamed", SPLITS, two)) is Streamed


def test_a_choice_of_streaming_reads_nothing(monkeypatch, two):
    monkeypatch.setattr(feeds, "device_memory", lambda mesh: 1)
    files = files_of(SPLITS)
    make_feed("auto", files, two)
    assert not any(images.read for images, _ in files.values())


def test_an_unknown_feed_is_refused(two):
    with pytest.raises(ValueError, match=r"'disk'.*auto, resident, streamed"):
        make_feed("disk", SPLITS, two)


def test_memory_is_what_the_device_says_or_its_part_of_the_machines(two):
    stats = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 123, "bytes_in_use": 5})
    assert device_memory(SimpleNamespace(local_devices=[stats])) == 123
    one, eight = device_memory(mesh_of(1)), device_memory(mesh_of(8))
    assert one // 8 == eight and one > 2**28
