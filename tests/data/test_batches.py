"""The order of the data against plain counting with Python's integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxdl.data.batches import (
    batch_ids,
    host_batch_ids,
    normalize,
    shuffled,
)
from jaxdl.data.encoded import statistics

KEY = jax.random.key(3)


def ids_of(first, steps, batch, examples, key=KEY):
    run = jax.jit(batch_ids, static_argnames=("steps", "batch", "examples"))
    return np.asarray(run(key, jnp.int32(first), steps=steps, batch=batch, examples=examples))


@pytest.mark.parametrize(("batch", "examples"), [(4, 12), (4, 10), (17, 3), (1, 1)])
def test_each_example_comes_once_an_epoch(batch, examples):
    sequence = np.concatenate([ids_of(first, 3, batch, examples) for first in (0, 3, 6, 9)])
    assert sequence.shape == (12, batch)
    sequence = sequence.reshape(-1)
    for start in range(0, len(sequence), examples):
        epoch = sequence[start : start + examples]
        assert len(set(epoch.tolist())) == len(epoch) and 0 <= epoch.min() <= epoch.max() < examples


def test_the_order_does_not_depend_on_how_steps_are_cut_into_dispatches():
    whole = ids_of(0, 12, 4, 10)
    parts = [ids_of(first, 3, 4, 10) for first in (0, 3, 6, 9)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(ids_of(5, 3, 4, 10), whole[5:8])


def test_orders_differ_between_epochs_and_keys():
    first, second = ids_of(0, 1, 50, 50)[0], ids_of(1, 1, 50, 50)[0]
    other = ids_of(0, 1, 50, 50, jax.random.key(4))[0]
    for a, b in ((first, second), (first, other)):
        assert sorted(a) == sorted(b) == list(range(50)) and (a != b).sum() > 30
    # Each place is taken by each example about equally often: 400 epochs of 5 examples.
    counts = np.zeros((5, 5))
    for epoch in ids_of(0, 400, 5, 5):
        counts[np.arange(5), epoch] += 1
    assert np.abs(counts - 80).max() < 6 * np.sqrt(400 * 0.2 * 0.8)


WORDS = np.asarray(jax.random.key_data(KEY))


def epoch_order(epoch, examples):
    """A whole epoch, by the definition of the shuffle in Python's integers."""

    def mix(x):
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    golden, order = 0x9E3779B9, list(range(examples))
    seed = mix((epoch + golden) % 2**32)
    for word in WORDS.tolist():
        seed = mix(seed ^ word)
    for turn in range(32):
        pivot = mix((seed + 2 * turn * golden) % 2**32) % examples
        salt = mix((seed + (2 * turn + 1) * golden) % 2**32)
        for at, x in enumerate(order):
            partner = (pivot - x) % examples
            if mix(max(x, partner) ^ salt) >> 31:
                order[at] = partner
    return np.array(order)


def of_sequence(step, batch, examples):
    """The batch of a step by the definition, in Python's integers."""
    epoch, at = divmod(step * batch, examples)
    need = at + batch
    epochs = range(epoch, epoch + -(-need // examples))
    return np.concatenate([epoch_order(e, examples) for e in epochs])[at:need]


# The sequence has more than 2^31 positions, and first_step * batch leaves 32 bits.
SIZES = [(96, 1000), (7, 3), (64, 4_634)]


@settings(max_examples=25)
@given(size=st.sampled_from(SIZES), step=st.integers(0, 2**29))
@example(size=(96, 1000), step=999)
@example(size=(96, 1000), step=1000)
@example(size=(96, 1000), step=2**31 // 96 + 1)
@example(size=(96, 1000), step=2**31 - 2)
@example(size=(64, 4_634), step=4_633)
@example(size=(64, 4_634), step=2**31 - 2)
def test_batches_of_any_step_are_those_of_the_definition(size, step):
    expected = of_sequence(step, *size)
    np.testing.assert_array_equal(ids_of(step, 1, *size)[0], expected)
    host = host_batch_ids(WORDS, step, batch=size[0], examples=size[1])
    np.testing.assert_array_equal(host, expected)


def test_large_batches_of_large_data():
    step, batch, examples = 59_999, 40_000, 60_000
    ids = ids_of(step, 1, batch, examples)[0]
    np.testing.assert_array_equal(ids, host_batch_ids(WORDS, step, batch=batch, examples=examples))
    assert len(set(ids.tolist())) == 40_000  # this batch begins an epoch of 1.5 batches


def test_the_number_of_examples_may_be_known_to_the_program_only():
    run = jax.jit(jax.vmap(lambda n: batch_ids(KEY, jnp.int32(7), steps=5, batch=8, examples=n)))
    for n, ids in zip((3, 50, 1000), run(jnp.array([3, 50, 1000])), strict=True):
        np.testing.assert_array_equal(ids, ids_of(7, 5, 8, n))


def test_every_order_of_an_epoch_is_equally_likely():
    epochs = np.arange(20_000)
    orders = np.stack([shuffled(WORDS, epochs, np.full_like(epochs, i), 4) for i in range(4)], 1)
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 24
    assert chisquare(counts).pvalue > 1e-3
    # In longer epochs: an example's place, and how far apart two neighbours end up.
    first, second = (shuffled(WORDS, epochs, np.full_like(epochs, i), 50) for i in (20, 21))
    for seen, values in ((first, 50), ((first - second) % 50 - 1, 49)):
        assert chisquare(np.bincount(seen, minlength=values)).pvalue > 1e-3


def test_normalized_images_have_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    images = rng.integers(0, [256, 100, 30], (40, 6, 5, 3)).astype(np.uint8)
    pixels, deviation = statistics(images)
    mean = pixels.mean((0, 1))
    for c in range(3):
        np.testing.assert_allclose(mean[c], images[..., c].astype(float).mean(), rtol=1e-6)
        np.testing.assert_allclose(deviation[c], images[..., c].astype(float).std(), rtol=1e-6)
    seen = normalize(jnp.asarray(images), mean, deviation)
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, (images - mean) / deviation, atol=1e-5)
    np.testing.assert_allclose(np.asarray(seen).mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(seen).std((0, 1, 2)), 1, atol=1e-5)


def test_a_constant_channel_stays_finite():
    images = np.full((2, 3, 3, 1), 7, np.uint8)
    assert np.isfinite(normalize(jnp.asarray(images), *statistics(images))).all()
