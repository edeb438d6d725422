"""Resident and streamed data: the same batches, the same training, whatever the feed."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import trees
from jaxdl.data.batches import host_batch_ids
from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.metrics import correct
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train import feed as feeds
from jaxdl.train.feed import Resident, Streamed, device_memory, make_feed
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key, order_keys, population_of
from jaxdl.train.state import create_state, make_step
from jaxdl.types import DamagedFile

SIDE, CLASSES, BATCH, PER_DISPATCH, STEPS = 4, 4, 6, 3, 9
SIZES = {"train": 23, "validation": 10}

RNG = np.random.default_rng(0)
SPLITS = {
    split: {
        "image": RNG.integers(0, 256, (n, SIDE, SIDE, 1)).astype(np.uint8),
        "label": RNG.integers(0, CLASSES, n).astype(np.int32),
    }
    for split, n in SIZES.items()
}
IMAGES, LABELS = (
    np.concatenate([split[name] for split in SPLITS.values()]) for name in ("image", "label")
)
# Two tasks of two classes each and unequal numbers of examples; the third member has even fewer
# than a batch takes.
HALVES = ([0, 2], [1, 3], [1, 3])
LABEL_OF = [
    np.array([half.index(c) if c in half else -1 for c in range(CLASSES)]) for half in HALVES
]
PLACES = [np.flatnonzero(LABEL_OF[i][LABELS[: SIZES["train"]]] >= 0) for i in range(3)]
PLACES[2] = PLACES[2][-4:]
MODEL = ConvNet((), (), 2)
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


def prepare(stored, hyper, key):
    """Scales the images, which get the member's noise; labels become the task's. Beside them a
    number drawn for the whole batch."""
    image = stored["image"].astype(jnp.float32) / 255
    image += hyper["noise"] * jax.random.normal(key, image.shape)
    label = hyper["label_of"][stored["label"]]
    return {"image": image, "label": label, "drawn": jax.random.uniform(key)}


def loss_fn(params, collections, batch, hyper, key):
    """A loss that reports what was drawn, its square, and what its own key would draw."""
    del hyper
    logits = MODEL.apply({"params": params}, batch["image"])
    metrics = {"accuracy": jnp.mean(correct(logits, batch["label"]), dtype=jnp.float32)}
    loss = jnp.mean(cross_entropy(logits, batch["label"]))
    drawn = batch["drawn"]
    numbers = {"drawn": drawn, "square": drawn**2, "own": jax.random.uniform(key)}
    return loss, (collections, metrics | numbers)


def placement_of(member, data=1):
    return make_placement(member, data, devices=jax.devices()[: member * data])


def key_of(i):
    return member_key("feed", i)


def state_of(i):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))["params"]
    rng = np.random.default_rng(i)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(s.dtype), shapes)
    return create_state({"params": jax.tree.map(jnp.asarray, params)}, rule, {})


def hyper_of(i, noise=0.5):
    return {
        "key": key_of(i),
        "noise": np.float32(noise),
        "label_of": LABEL_OF[i].astype(np.int32),
        "examples": np.pad(PLACES[i], (0, SIZES["train"] - len(PLACES[i]))).astype(np.int32),
        "count": np.int32(len(PLACES[i])),
    }


def words_of(i):
    return np.asarray(jax.random.key_data(key_of(i)))


MEMBERS = (0, 1, 2, 2)  # the last one fills up


@functools.cache
def program(kind, shape):
    """Compiled once for all tests: neither images nor noise matter for it."""
    step = make_step(loss_fn, rule, axis_name="data")
    feed = kind(SPLITS, placement_of(*shape))
    return feed.program(step, prepare, steps=PER_DISPATCH, batch=BATCH)


def train(kind, shape, *, splits=SPLITS, states=None, span=(0, STEPS), noise=0.5):
    """States and metrics of all members after these steps."""
    placement, span, dispatches = placement_of(*shape), range(*span), []
    run, feed = program(kind, shape), kind(splits, placement)
    states = population_of(states or [state_of(i) for i in MEMBERS], placement)
    hypers = population_of([hyper_of(i, noise) for i in MEMBERS], placement)
    items = feed.dispatches(hypers, span, steps=PER_DISPATCH, batch=BATCH)
    for _ in span[::PER_DISPATCH]:
        states, metrics = run(states, hypers, next(items))
        dispatches.append(jax.device_get(metrics))
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1), *dispatches)
    return jax.device_get(states), metrics


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_close(ours, theirs, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def files_of(splits):
    return {s: {**split, "image": Files(split["image"])} for s, split in splits.items()}


@pytest.fixture(scope="module")
def two():
    return placement_of(2)


@pytest.fixture(scope="module")
def noisy():
    """States and metrics of training on resident data, with noise, by the mesh's shape."""
    return {shape: train(Resident, shape) for shape in SHAPES}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_streamed_training_is_resident_training_bit_for_bit(shape, noisy):
    files = files_of(SPLITS)
    assert_equal(train(Streamed, shape, splits=files), noisy[shape])
    assert files["train"]["image"].read and not files["validation"]["image"].read


@pytest.mark.parametrize("kind", FEEDS)
def test_members_with_unequal_numbers_of_examples_are_trained_as_if_alone(kind, alone):
    states, metrics = train(kind, (2, 2), noise=0)
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
        state, losses, used = state_of(i), [], set()
        for t in range(STEPS):
            ids = places[host_batch_ids(words_of(i), t, batch=BATCH, examples=len(places))]
            batch = {"image": IMAGES[ids] / np.float32(255), "label": LABEL_OF[i][LABELS[ids]]}
            state, metrics = step(state, batch, hyper_of(i))
            losses.append(float(metrics["loss"]))
            used |= set(ids.tolist())
        assert used == set(places.tolist())
        trained.append((jax.device_get(state), losses))
    return trained


@pytest.mark.parametrize("kind", FEEDS)
def test_training_that_begins_later_goes_on_the_same_way(kind, noisy):
    expected, all_metrics = noisy[2, 1]
    states, first = train(kind, (2, 1), span=(0, PER_DISPATCH))
    states, rest = train(kind, (2, 1), states=trees.unstack(states), span=(PER_DISPATCH, STEPS))
    assert_equal(states, expected)
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1), first, rest)
    assert_equal(metrics, all_metrics)


def test_the_program_for_a_stream_is_compiled_once():
    train(Streamed, (2, 1))
    assert program(Streamed, (2, 1)).run._cache_size() == 1


def test_the_stream_is_divided_over_the_devices():
    placement = placement_of(2, 2)
    hypers = population_of([hyper_of(i) for i in MEMBERS], placement)
    (data,) = Streamed(SPLITS, placement).dispatches(
        hypers, range(PER_DISPATCH), steps=PER_DISPATCH, batch=BATCH
    )
    assert data["image"].shape == (4, PER_DISPATCH, BATCH, SIDE, SIDE, 1)
    assert data["image"].dtype == np.uint8 and data["label"].shape == (4, PER_DISPATCH, BATCH)
    shards = [shard.data.shape[:3] for shard in data["label"].addressable_shards]
    assert shards == [(2, PER_DISPATCH, BATCH // 2)] * 4


def test_a_damaged_image_is_named_where_it_is_met_and_may_be_mended(noisy):
    files = files_of(SPLITS)
    files["train"]["image"].damaged = {int(PLACES[1][0])}
    with pytest.raises(DamagedFile, match=rf"{PLACES[1][0]}.png"):
        train(Streamed, (2, 1), splits=files)
    files["train"]["image"].damaged = set()
    assert_equal(train(Streamed, (2, 1), splits=files), noisy[2, 1])


# Several streams a member: each has its own examples and its own order.

STREAMS = [(PLACES[0], PLACES[1]), (PLACES[1], PLACES[2]), (PLACES[2], PLACES[0])]


def streams_of(i):
    padded = [np.pad(p, (0, SIZES["train"] - len(p))) for p in STREAMS[i]]
    return {
        "key": key_of(i),
        "examples": np.stack(padded).astype(np.int32),
        "count": np.array([len(p) for p in STREAMS[i]], np.int32),
    }


def side_by_side(stored, hyper, key):
    """Images of the first stream against those of the second; labels of both."""
    del hyper, key
    image = stored["image"].astype(jnp.float32) / 255
    first, second = stored["label"][:, 0], stored["label"][:, 1]
    return {"image": image[:, 0] - 0.5 * image[:, 1], "label": (first + 2 * second) % 2}


def loss_with_step(params, collections, batch, hyper, key):
    """A loss that reports its step."""
    del key
    logits = MODEL.apply({"params": params}, batch["image"])
    metrics = {"step": hyper["step"].astype(jnp.float32)}
    return jnp.mean(cross_entropy(logits, batch["label"])), (collections, metrics)


@functools.cache
def train_side_by_side(kind, shape):
    placement = placement_of(*shape)
    feed = kind(SPLITS, placement)
    step = make_step(loss_with_step, rule, axis_name="data")
    run = feed.program(step, side_by_side, steps=PER_DISPATCH, batch=BATCH)
    states = population_of([state_of(i) for i in MEMBERS], placement)
    hypers = population_of([streams_of(i) for i in MEMBERS], placement)
    items = feed.dispatches(hypers, range(STEPS), steps=PER_DISPATCH, batch=BATCH)
    dispatches = []
    for _ in range(0, STEPS, PER_DISPATCH):
        states, metrics = run(states, hypers, next(items))
        dispatches.append(jax.device_get(metrics))
    return jax.device_get(states), jax.tree.map(lambda *m: np.concatenate(m, axis=1), *dispatches)


def ids_of_streams(i, t):
    """Both streams' examples at a step: the first's as of a member alone, the second's as of one
    whose key is made of i's."""
    for s, places in enumerate(STREAMS[i]):
        key = jax.random.fold_in(key_of(i), s) if s else key_of(i)
        words = np.asarray(jax.random.key_data(key))
        yield places[host_batch_ids(words, t, batch=BATCH, examples=len(places))]


@pytest.fixture(scope="module")
def alone_side_by_side():
    """The three members trained by a plain step: states and losses."""

    def loss(params, batch):
        logits = MODEL.apply({"params": params}, batch["image"])
        return jnp.mean(cross_entropy(logits, batch["label"]))

    @jax.jit
    def step(params, moments, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, moments = rule({}).update(gradient, moments, params)
        return jax.tree.map(jnp.add, params, updates), moments, value

    trained = []
    for i in range(3):
        state, losses = state_of(i), []
        params, moments = state.params, state.opt_state
        for t in range(STEPS):
            first, second = ids_of_streams(i, t)
            image = IMAGES[first] / np.float32(255) - np.float32(0.5) * (
                IMAGES[second] / np.float32(255)
            )
            batch = {"image": image, "label": (LABELS[first] + 2 * LABELS[second]) % 2}
            params, moments, value = step(params, moments, batch)
            losses.append(float(value))
        trained.append((jax.device_get(params), losses))
    return trained


@pytest.mark.parametrize("kind", FEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_members_of_two_streams_are_trained_as_by_a_plain_loop(kind, shape, alone_side_by_side):
    states, metrics = train_side_by_side(kind, shape)
    for i, (params, losses) in enumerate(alone_side_by_side):
        assert_close(trees.member(states, i).params, params)
        np.testing.assert_allclose(metrics["loss"][i], losses, rtol=3e-6)
    assert_equal(trees.member(states, 3), trees.member(states, 2))
    assert_equal((states, metrics), train_side_by_side(Resident, shape))


def test_the_loss_has_the_step():
    for kind in FEEDS:
        _, metrics = train_side_by_side(kind, (2, 1))
        np.testing.assert_array_equal(metrics["step"], [np.arange(STEPS)] * 4)


def test_two_streams_come_side_by_side():
    placement = placement_of(2, 2)
    hypers = population_of([streams_of(i) for i in MEMBERS], placement)
    items = Streamed(SPLITS, placement).dispatches(
        hypers, range(PER_DISPATCH, STEPS), steps=PER_DISPATCH, batch=BATCH
    )
    data = next(items)  # of a run that was resumed
    assert data["image"].shape == (4, PER_DISPATCH, BATCH, 2, SIDE, SIDE, 1)
    for i in range(3):
        for t in range(PER_DISPATCH):
            ids = np.stack(list(ids_of_streams(i, PER_DISPATCH + t)), -1)
            np.testing.assert_array_equal(data["image"][i, t], IMAGES[ids])
            np.testing.assert_array_equal(data["label"][i, t], LABELS[ids])


def test_streams_have_keys_of_their_own():
    single, double = (
        np.asarray(jax.random.key_data(order_keys(h(0)))) for h in (hyper_of, streams_of)
    )
    np.testing.assert_array_equal(single, words_of(0))
    np.testing.assert_array_equal(double[0], single)
    assert double.shape == (2, *single.shape) and tuple(double[1]) != tuple(single)


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
    placement = placement_of(*shape)
    ids = np.random.default_rng(1).integers(0, len(LABELS), (4, 7))
    ids[:, 0], ids[:, 1], ids[0] = 0, len(LABELS) - 1, 22  # first, last, one and the same
    for kind in FEEDS:
        batch = kind(SPLITS, placement).fetch(ids)
        np.testing.assert_array_equal(batch["image"], IMAGES[ids], strict=True)
        np.testing.assert_array_equal(batch["label"], LABELS[ids], strict=True)
        assert {s.data.shape[0] for s in batch["image"].addressable_shards} == {4 // shape[0]}


# The choice.


def test_auto_is_resident_below_a_quarter_of_the_memory(monkeypatch, two):
    size = IMAGES.nbytes + LABELS.nbytes
    assert size == sum(SIZES.values()) * (SIDE**2 + 4)
    for memory, kind in ((4 * size + 1, Resident), (4 * size, Streamed), (1, Streamed)):
        monkeypatch.setattr(feeds, "device_memory", lambda placement, memory=memory: memory)
        assert type(make_feed("auto", SPLITS, two)) is kind
        assert type(make_feed("resident", SPLITS, two)) is Resident
        assert type(make_feed("streamed", SPLITS, two)) is Streamed


def test_a_choice_of_streaming_reads_nothing(monkeypatch, two):
    monkeypatch.setattr(feeds, "device_memory", lambda placement: 1)
    files = files_of(SPLITS)
    make_feed("auto", files, two)
    assert not any(split["image"].read for split in files.values())


def test_an_unknown_feed_is_refused(two):
    with pytest.raises(ValueError, match=r"'disk'.*auto, resident, streamed"):
        make_feed("disk", SPLITS, two)


@pytest.mark.usefixtures("types_unchecked")
def test_memory_is_what_the_device_says_or_its_part_of_the_machines(two):
    stats = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 123, "bytes_in_use": 5})
    assert device_memory(SimpleNamespace(mesh=SimpleNamespace(local_devices=[stats]))) == 123
    memory, share = device_memory(placement_of(1)), device_memory(placement_of(8))
    assert memory // 8 == share and memory > 2**28
