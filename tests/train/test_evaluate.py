"""Accuracies against counting in NumPy, outputs against the network itself: every member's own
examples, each of them once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.metrics import confusion_matrix
from jaxdl.train.evaluate import make_accuracy, make_outputs, make_sums
from jaxdl.train.feed import Resident, Streamed
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import population_of
from jaxdl.train.state import TrainState

CLASSES, BATCH = 4, 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, 31).astype(np.int32)
# The top left pixel is what the networks below guess by: right for the most part.
GUESSES = np.where(RNG.random(31) < 0.7, LABELS, RNG.integers(0, CLASSES, 31))
IMAGES = RNG.integers(0, 256, (31, 2, 3, 1)).astype(np.uint8)
IMAGES[:, 0, 0, 0] = GUESSES
SPLITS = {
    "train": {"image": IMAGES[:17], "label": LABELS[:17]},
    "validation": {"image": IMAGES[17:], "label": LABELS[17:]},
}
SHIFTS = (0, 1, 2)  # a member guesses so many classes further; the labels of its task are, too
EXAMPLES = [RNG.permutation(31)[:n] for n in (13, 5, 1)]  # not a batch, a whole one, a single image


def state_of(value):
    """A network of one parameter."""
    params = {"fc1": {"value": jnp.asarray(value, jnp.float32)}}
    return TrainState(jnp.int32(0), params, {}, (), jnp.bool_(True))


def prepare(stored, hyper, key):
    assert key is None, "augmentation is for training"
    return {
        "image": stored["image"].astype(jnp.float32),
        "label": (stored["label"] + hyper["shift"]) % CLASSES,
    }


def logits(state, hyper, images):
    guess = (images[:, 0, 0, 0].astype(jnp.int32) + hyper["shift"]) % CLASSES
    return jax.nn.one_hot(guess, CLASSES) * state.params["fc1"]["value"]


def placement_of(shape, mode="shard_map"):
    return make_placement(*shape, mode, jax.devices()[: shape[0] * shape[1]])


def accuracies(feed, shape, *, values=(1.0, 1.0, 1.0), shifts=SHIFTS, network=logits, batch=BATCH):
    placement = placement_of(shape)
    states = population_of([state_of(value) for value in values], placement)
    hypers = population_of([{"shift": np.int32(shift)} for shift in shifts], placement)
    accuracy = make_accuracy(network, prepare, placement, batch)
    return accuracy(states, hypers, EXAMPLES, feed(SPLITS, placement).fetch)


def fraction(places):
    return (GUESSES[places] == LABELS[places]).mean()


EXPECTED = [fraction(places) for places in EXAMPLES]


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("feed", [Resident, Streamed])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2)], ids=str)
def test_every_example_counts_once_and_what_fills_up_does_not(shape, feed, batch):
    # On two devices a copy of the last member fills up the population.
    accuracy = accuracies(feed, shape, batch=batch)
    assert accuracy.shape == (3,)
    np.testing.assert_allclose(accuracy, EXPECTED, rtol=1e-6)


def test_padding_counts_neither_as_right_nor_as_wrong():
    """Members of which every guess is right, and of which every guess is wrong."""

    def opposite(state, hyper, images):
        return jnp.where(hyper["shift"] == 0, 1, -1) * jax.nn.one_hot(
            images[:, 0, 0, 0].astype(jnp.int32), CLASSES
        )

    images = IMAGES.copy()
    images[:, 0, 0, 0] = LABELS
    placement = placement_of((1, 1))

    def truthful(stored, hyper, key):
        return {"image": stored["image"].astype(jnp.float32), "label": stored["label"]}

    accuracy = make_accuracy(opposite, truthful, placement, 8)
    states = population_of([state_of(1.0)] * 3, placement)
    hypers = population_of([{"shift": np.int32(s)} for s in (0, 1, 0)], placement)
    feed = Resident({"all": {"image": images, "label": LABELS}}, placement)
    values = accuracy(states, hypers, EXAMPLES, feed.fetch)
    np.testing.assert_array_equal(values, [1, 0, 1])


def test_a_member_may_be_several_networks():
    def two(state, hyper, images):
        right = logits(state, hyper, images)
        return jnp.stack([right, jnp.roll(right, 1, axis=-1)])

    accuracy = accuracies(Resident, (2, 1), network=two)
    assert accuracy.shape == (3, 2)
    np.testing.assert_allclose(accuracy[:, 0], EXPECTED, rtol=1e-6)
    off = [((GUESSES[p] + 1) % CLASSES == LABELS[p]).mean() for p in EXAMPLES]
    np.testing.assert_allclose(accuracy[:, 1], off, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_network_has_no_accuracy_and_the_others_keep_theirs(value):
    accuracy = accuracies(Streamed, (2, 1), values=(1.0, value, 1.0))
    np.testing.assert_allclose(accuracy, [EXPECTED[0], np.nan, EXPECTED[2]], rtol=1e-6)


# Any sums.


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("shard_map", (1, 1)),
        ("shard_map", (2, 3)),
        ("jit", (2, 2)),
        ("fsdp", (1, 2)),
        ("pmap", (1, 2)),
        ("pmap", (3, 1)),
    ],
    ids=str,
)
def test_losses_and_confusions_are_summed_over_each_members_examples(mode, shape):
    """Against NumPy, also where devices divide a batch of 5 that is filled up."""

    def measure(state, hyper, batch, counts):
        guesses = logits(state, hyper, batch["image"])
        loss = cross_entropy(guesses, batch["label"])
        return {
            "loss": jnp.sum(jnp.where(counts, loss, 0)),
            "confusion": confusion_matrix(guesses.argmax(-1), batch["label"], CLASSES, counts),
        }

    placement = placement_of(shape, mode)
    states = population_of([state_of(1.0)] * 3, placement)
    hypers = population_of([{"shift": np.int32(s)} for s in SHIFTS], placement)
    make = make_sums(measure, prepare, placement, BATCH)
    sums = make(states, hypers, EXAMPLES, Resident(SPLITS, placement).fetch)
    for i, (shift, places) in enumerate(zip(SHIFTS, EXAMPLES, strict=True)):
        guesses, labels = ((x[places] + shift) % CLASSES for x in (GUESSES, LABELS))
        expected = np.zeros((CLASSES, CLASSES), int)
        np.add.at(expected, (labels, guesses), 1)
        np.testing.assert_array_equal(sums["confusion"][i], expected)
        loss = np.log(np.e + CLASSES - 1) - (guesses == labels)
        np.testing.assert_allclose(sums["loss"][i], loss.sum(), rtol=1e-5)
    assert sums["loss"].shape == (3,)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(sums))


# Other outputs.


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("feed", [Resident, Streamed])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2)], ids=str)
def test_outputs_are_those_of_the_network_alone_in_the_order_asked_for(shape, feed, batch):
    mode = "pmap" if shape == (1, 2) else "shard_map"

    def outputs(state, hyper, images):
        flat = images.reshape(len(images), -1)
        scores = logits(state, hyper, images)
        return {"scores": scores, "inner": (flat[:, 1:3], jnp.sum(flat, -1) + hyper["shift"])}

    placement = placement_of(shape, mode)
    values = (1.0, 0.5, 2.0)
    states = population_of([state_of(v) for v in values], placement)
    hypers = population_of([{"shift": np.int32(s)} for s in SHIFTS], placement)
    examples = [*EXAMPLES[:2], np.array([30, 2, 2])]  # of unequal numbers, one of them twice
    by_member = make_outputs(outputs, prepare, placement, batch)(
        states, hypers, examples, feed(SPLITS, placement).fetch
    )
    assert len(by_member) == 3  # and not four, on two devices
    for value, shift, places, output in zip(values, SHIFTS, examples, by_member, strict=True):
        flat = IMAGES[places].reshape(len(places), -1).astype(np.float32)
        guesses = (GUESSES[places] + shift) % CLASSES
        np.testing.assert_allclose(output["scores"], value * np.eye(CLASSES)[guesses])
        np.testing.assert_array_equal(output["inner"][0], flat[:, 1:3])
        np.testing.assert_array_equal(output["inner"][1], flat.sum(-1) + shift)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(output))
