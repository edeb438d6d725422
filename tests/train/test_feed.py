"""Resident and streamed data: the same batches, the same training, whatever the feed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import trees
from jaxdl.data.batches import host_batch_ids
from jaxdl.data.streams import Order
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


class Files:
    """Images that are read one by one, in the place of an array."""

    def __init__(self, images, damaged=()):
        self.shape, self.read, self._images, self._damaged = images.shape, [], images, damaged

    def __getitem__(self, place):
        self.read.append(place)
        if place in self._damaged:
            raise DamagedFile(f"{place}.png: not a whole image")
        return self._images[place]


def rule(_):
    return make_optimizer("momentum", 0.05, weight_decay=0.01)


def prepare(stored, hyper, key):
    """Scales the images and, in training, adds noise to them; labels become the task's."""
    image = stored["image"].astype(jnp.float32) / 255
    if key is not None:
        image = image + 0.5 * jax.random.normal(key, image.shape)
    return {"image": image, "label": hyper["label_of"][stored["label"]]}


def plainly(stored, hyper, key):
    """The same without noise."""
    del key
    return prepare(stored, hyper, None)


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


def order_of(i):
    return Order(np.asarray(jax.random.key_data(key_of(i))), PLACES[i])


MEMBERS = (0, 1, 2, 2)  # the last one fills up


def train(feed, mesh, prepare=prepare, *, start=None, first=0, loss_fn=None):
    """States and metrics of all members after the steps from ``first`` on."""
    step = make_step(loss_fn or classification_loss(MODEL), rule, axis_name="data")
    run = feed.program(step, prepare, steps=PER_DISPATCH, batch=BATCH)
    states = start or [state_of(i) for i in MEMBERS]
    states = population_of(states, 0, mesh)
    hypers = population_of([hyper_of(i) for i in MEMBERS], 0, mesh)
    span, seen = range(first, STEPS), []
    orders = [order_of(i) for i in MEMBERS]
    items = feed.dispatches(orders, span, steps=PER_DISPATCH, batch=BATCH)
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


@pytest.fixture(scope="module")
def two():
    return mesh_of(2)


@pytest.fixture(scope="module")
def resident(two):
    """What training on resident data, with noise, comes to."""
    return train(Resident(SPLITS, two), two)


@pytest.mark.parametrize("shape", [(2, 1), (2, 2)], ids=str)
def test_streamed_training_is_resident_training_bit_for_bit(shape, resident):
    mesh = mesh_of(*shape)
    expected = resident if shape == (2, 1) else train(Resident(SPLITS, mesh), mesh)
    files = {split: (Files(images), labels) for split, (images, labels) in SPLITS.items()}
    assert_equal(train(Streamed(files, mesh), mesh), expected)
    assert not files["validation"][0].read  # only what belongs to the orders


@pytest.mark.parametrize("kind", FEEDS)
def test_members_with_unequal_numbers_of_examples_are_trained_as_if_alone(kind, two):
    states, metrics = train(kind(SPLITS, two), two, plainly)
    assert len({len(places) for places in PLACES}) == 3
    step = jax.jit(make_step(classification_loss(MODEL), rule))
    for i in range(3):
        state, hyper, losses, seen = state_of(i), hyper_of(i), [], []
        for t in range(STEPS):
            order = order_of(i)
            ids = host_batch_ids(order.words, t, batch=BATCH, examples=len(PLACES[i]))
            seen += ids.tolist()
            ids = PLACES[i][ids]
            batch = {"image": IMAGES[ids] / np.float32(255), "label": LABEL_OF[i][LABELS[ids]]}
            state, alone = step(state, batch, hyper)
            losses.append(alone["loss"])
        assert set(seen) == set(range(len(PLACES[i])))  # every example, and no padding
        assert_close(trees.member(states, i), jax.device_get(state))
        assert_close(metrics["loss"][i], losses)
    assert_equal(trees.member(states, 3), trees.member(states, 2))


@pytest.mark.parametrize("kind", FEEDS)
def test_a_batch_may_be_divided_over_devices(kind, two):
    four = mesh_of(2, 2)
    together = train(kind(SPLITS, two), two, plainly)
    assert_close(train(kind(SPLITS, four), four, plainly), together)


@pytest.mark.parametrize("kind", FEEDS)
def test_training_that_begins_later_goes_on_the_same_way(kind, two, resident):
    feed = kind(SPLITS, two)
    step = make_step(classification_loss(MODEL), rule, axis_name="data")
    run = feed.program(step, prepare, steps=PER_DISPATCH, batch=BATCH)
    hypers = population_of([hyper_of(i) for i in MEMBERS], 0, two)
    items = feed.dispatches(
        [order_of(i) for i in MEMBERS], range(STEPS), steps=PER_DISPATCH, batch=BATCH
    )
    states, _ = run(population_of([state_of(i) for i in MEMBERS], 0, two), hypers, next(items))
    start = trees.unstack(jax.device_get(states))
    states, metrics = train(feed, two, start=start, first=PER_DISPATCH)
    assert_equal(states, resident[0])
    assert_equal(metrics, jax.tree.map(lambda m: m[:, PER_DISPATCH:], resident[1]))


@pytest.mark.parametrize("kind", FEEDS)
def test_the_program_is_compiled_once(kind, two):
    traced = []

    def counted(stored, hyper, key):
        traced.append(key)
        return prepare(stored, hyper, key)

    feed = kind(SPLITS, two)
    train(feed, two, counted)
    once = len(traced)
    assert once  # as often as tracing one program takes, in three dispatches
    step = make_step(classification_loss(MODEL), rule, axis_name="data")
    jax.eval_shape(
        feed.program(step, counted, steps=PER_DISPATCH, batch=BATCH),
        population_of([state_of(i) for i in MEMBERS], 0, two),
        population_of([hyper_of(i) for i in MEMBERS], 0, two),
        next(feed.dispatches([order_of(i) for i in MEMBERS], range(3), steps=3, batch=BATCH)),
    )
    assert len(traced) == 2 * once


def test_the_stream_is_divided_over_the_devices(two):
    mesh = mesh_of(2, 2)
    (data,) = Streamed(SPLITS, mesh).dispatches(
        [order_of(i) for i in MEMBERS], range(PER_DISPATCH), steps=PER_DISPATCH, batch=BATCH
    )
    assert data["image"].shape == (4, PER_DISPATCH, BATCH, SIDE, SIDE, 1)
    assert data["image"].dtype == np.uint8 and data["label"].shape == (4, PER_DISPATCH, BATCH)
    shards = [shard.data.shape[:3] for shard in data["label"].addressable_shards]
    assert shards == [(2, PER_DISPATCH, BATCH // 2)] * 4


def test_a_damaged_image_is_named_where_it_is_met_and_may_be_mended(two, resident):
    files = Files(SPLITS["train"][0], damaged=(int(PLACES[1][0]),))
    splits = SPLITS | {"train": (files, SPLITS["train"][1])}
    with pytest.raises(DamagedFile, match=rf"{PLACES[1][0]}.png"):
        train(Streamed(splits, two), two)
    files._damaged = ()
    assert_equal(train(Streamed(splits, two), two), resident)


# Augmentation: what ``prepare`` draws from its key.


def drawing(stored, hyper, key):
    """A number drawn for the whole batch, beside it."""
    return plainly(stored, hyper, None) | {"drawn": jax.random.uniform(key)}


def telling(params, batch_stats, batch, hyper, key):
    """A loss that reports what was drawn, its square, and what its own key would draw."""
    del hyper
    loss, metrics = loss_and_metrics(
        MODEL.apply({"params": params}, batch["image"]), batch["label"]
    )
    drawn = batch["drawn"]
    told = {"drawn": drawn, "square": drawn**2, "own": jax.random.uniform(key)}
    return loss, (batch_stats, metrics | told)


@pytest.mark.parametrize("kind", FEEDS)
def test_augmentation_differs_between_steps_and_members_and_comes_again(kind, two):
    feed = kind(SPLITS, two)
    _, metrics = train(feed, two, drawing, loss_fn=telling)
    drawn, own = metrics["drawn"][:3], metrics["own"][:3]
    assert len({*drawn.flat, *own.flat}) == drawn.size + own.size == 2 * 3 * STEPS
    np.testing.assert_array_equal(metrics["drawn"][3], drawn[2])  # a copy of the same member
    start = [state_of(i).replace(step=jnp.int32(PER_DISPATCH)) for i in MEMBERS]
    _, later = train(feed, two, drawing, loss_fn=telling, start=start, first=PER_DISPATCH)
    np.testing.assert_array_equal(later["drawn"], metrics["drawn"][:, PER_DISPATCH:])


@pytest.mark.parametrize("kind", FEEDS)
def test_augmentation_differs_between_the_parts_of_a_batch(kind):
    mesh = mesh_of(2, 2)
    _, metrics = train(kind(SPLITS, mesh), mesh, drawing, loss_fn=telling)
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
    files = {split: (Files(images), labels) for split, (images, labels) in SPLITS.items()}
    make_feed("auto", files, two)
    assert not any(images.read for images, _ in files.values())


def test_an_unknown_feed_is_refused(two):
    with pytest.raises(ValueError, match=r"'disk'.*auto, resident, streamed"):
        make_feed("disk", SPLITS, two)


def test_memory_is_what_the_device_says_or_its_part_of_the_machines(two):
    stats = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 123, "bytes_in_use": 5})
    assert device_memory(SimpleNamespace(devices=np.array([[stats]]))) == 123
    one, eight = device_memory(mesh_of(1)), device_memory(mesh_of(8))
    assert one // 8 == eight and one > 2**28
