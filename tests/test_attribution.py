"""Attributions against closed forms on linear networks and networks built by hand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import attribution

RNG = np.random.default_rng(0)
IMAGES, BASELINE = (RNG.normal(size=(n, 5, 6, 2)).astype(np.float32) for n in (3, 1))
WEIGHTS = RNG.normal(size=(5, 6, 2, 4)).astype(np.float32)
LABELS = np.array([2, 0, 3])
OWN = WEIGHTS[..., LABELS].transpose(3, 0, 1, 2)  # the weights of each image's class
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def linear(x):
    return jnp.einsum("bhwc,hwck->bk", x, WEIGHTS) + 7


def squared(x):
    return linear(x) ** 2


def test_on_a_linear_network_gradient_integrated_gradients_and_occlusion_agree():
    example, change = (linear, IMAGES, LABELS), IMAGES - BASELINE
    close(attribution.gradients(*example), OWN)
    close(attribution.integrated_gradients(*example, BASELINE, steps=3), OWN * change)
    single = attribution.occlusion(*example, BASELINE, window=1)
    close(single, (OWN * change).sum(-1))


@pytest.mark.parametrize(("window", "stride"), [(2, 1), (3, 2), (2, 2), (5, 4)])
def test_a_pixel_has_the_mean_fall_of_the_squares_that_cover_it(window, stride):
    parts = (OWN * (IMAGES - BASELINE)).sum(-1)
    falls, counts = np.zeros_like(parts), np.zeros((5, 6))
    for top in sorted({*range(0, 5 - window, stride), 5 - window}):
        for left in sorted({*range(0, 6 - window, stride), 6 - window}):
            at = slice(top, top + window), slice(left, left + window)
            falls[:, *at] += parts[:, *at].sum((1, 2), keepdims=True)
            counts[at] += 1
    maps = attribution.occlusion(linear, IMAGES, LABELS, BASELINE, window=window, stride=stride)
    close(maps, falls / counts)


@pytest.mark.parametrize(("window", "stride"), [(2, 3), (6, 1), (2, 0)])
def test_squares_that_do_not_cover_the_images_are_refused(window, stride):
    with pytest.raises(ValueError, match=rf"squares of {window} pixels, {stride} apart, do not co"):
        attribution.occlusion(linear, IMAGES, LABELS, BASELINE, window=window, stride=stride)


def test_integrated_gradients_sum_to_the_difference_of_scores():
    """Of a square, whose gradient is linear, each number is known, with any steps."""
    explain = partial(attribution.integrated_gradients, squared, IMAGES, LABELS, BASELINE)
    here, there = (linear(x)[np.arange(3), LABELS] for x in (IMAGES, BASELINE.repeat(3, 0)))
    exact = (IMAGES - BASELINE) * OWN * np.asarray(here + there)[:, None, None, None]
    close(explain(steps=1), exact, rtol=1e-3)
    close(explain(steps=7).sum((1, 2, 3)), here**2 - there**2, rtol=1e-3)

    # Of ReLUs only the integral is exact: the more steps, the nearer.
    def rectified(x):
        return jax.nn.relu(linear(x) - 7) @ WEIGHTS[0, 0, :1].repeat(4, 0)

    errors = []
    for steps in (1, 512):
        maps = attribution.integrated_gradients(rectified, IMAGES, LABELS, BASELINE, steps=steps)
        fall = (rectified(IMAGES) - rectified(BASELINE))[np.arange(3), LABELS]
        errors.append(np.abs(maps.sum((1, 2, 3)) - fall).max())
    assert errors[1] < 0.02 * np.abs(fall).max() and errors[1] < errors[0] / 5


def test_grad_cam_of_averaged_activations_is_the_class_activation_map():
    """``sum_d W_dk a_d / pixels`` (Zhou et al. 2016), without what is negative."""
    activations, weights = IMAGES, WEIGHTS[0, 0]
    maps = attribution.grad_cam(lambda a: a.mean((1, 2)) @ weights, activations, LABELS)
    by_hand = np.einsum("bijd,db->bij", activations, weights[:, LABELS]) / 30
    assert (by_hand < 0).any() and (by_hand > 0).any()
    close(maps, np.maximum(by_hand, 0))


def test_deletion_and_insertion_of_a_linear_network_are_sums_in_order():
    parts = (OWN * (IMAGES - BASELINE)).sum(-1)
    order = attribution.ranks(parts, jax.random.key(0))
    run = partial(attribution.perturbation_curve, linear, IMAGES, LABELS, steps=30)
    down, up = (run(order, BASELINE, insert=insert) for insert in (False, True))
    whole, empty = (linear(x)[np.arange(3), LABELS] for x in (IMAGES, BASELINE.repeat(3, 0)))
    sums = np.cumsum(-np.sort(-parts.reshape(3, -1)), 1)
    sums = np.concatenate([np.zeros((3, 1)), sums], 1)
    close(down, whole[:, None] - sums)
    close(up, empty[:, None] + sums)
    # No order is better than this one.
    other = attribution.ranks(RNG.uniform(size=parts.shape), jax.random.key(1))
    assert (attribution.area(down) < attribution.area(run(other, BASELINE))).all()
    close(attribution.area(np.array([[1.0, 0.0, 4.0]])), [(0.5 + 2) / 2])
    example, key = (linear, IMAGES, LABELS), jax.random.key(2)
    maps = {"parts": parts, "other": -parts}
    curves = attribution.perturbation_curves(*example, maps, BASELINE, key, steps=30)
    close(curves["parts"], (down, up))
    close(curves["other"][0], np.asarray(up)[:, ::-1])


def test_ranks_are_by_size_and_ties_at_random():
    maps = np.array([[[3.0, 9.0], [0.0, 0.0]]])
    first = [np.asarray(attribution.ranks(maps, jax.random.key(i)))[0] for i in range(8)]
    assert all(rank[0].tolist() == [1, 0] for rank in first)
    assert {tuple(rank[1].tolist()) for rank in first} == {(2, 3), (3, 2)}


def test_attributions_run_compiled():
    model = nn.Dense(4)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 60)))

    def scores(variables, x):
        return model.apply(variables, x.reshape(len(x), -1))

    @jax.jit
    def explain(variables, images, labels):
        return attribution.gradients(partial(scores, variables), images, labels)

    kernel = np.asarray(variables["params"]["kernel"])[:, LABELS]
    close(explain(variables, IMAGES, LABELS), kernel.T.reshape(IMAGES.shape))
