"""Models whose layers are applied one by one."""

import jax
import numpy as np
import pytest

from jaxdl.nn.layered import check_layers, layer_names
from tests.layered_networks import LayeredMLP


def test_layers_come_in_order_of_depth():
    names = {f"conv{i}": {} for i in (10, 2, 1)} | {"fc11": {}}
    assert layer_names({"params": names}) == ("conv1", "conv2", "conv10", "fc11")
    # The last number counts: block1_conv2 comes after block1_conv1.
    names = {"block1_conv2": {}, "block1_conv1": {}}
    assert layer_names({"params": names}) == ("block1_conv1", "block1_conv2")
    names = {"conv2d_3": {}, "conv2d_1": {}, "dense_2": {}, "block4_conv4": {}}
    assert layer_names({"params": names}) == ("conv2d_1", "dense_2", "conv2d_3", "block4_conv4")


def check(model, shape=(4, 4, 1)):
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0))
    check_layers(model, jax.jit(model.init)(keys[0], images), images, keys[1])


def test_right_layers_pass():
    check(LayeredMLP())


@pytest.mark.parametrize("fault", ["doubles at every start", "leaves statistics out", "narrows"])
def test_layers_that_do_not_compute_what_the_model_does_are_found(fault):
    """Also where initial values, a last layer of zeros and fresh statistics, would hide it."""
    with pytest.raises(ValueError, match=r"^LayeredMLP: its layers.* do not compute what it"):
        check(LayeredMLP(fault=fault))


@pytest.mark.parametrize(
    "fault, error",
    [
        ("goes on", "not find parameter"),
        ("reads a layer below", "dense1"),
        ("not finite", "not finite"),
    ],
)
def test_layers_that_cannot_be_applied_one_by_one(fault, error):
    with pytest.raises(Exception, match=error):  # Flax's, and of a dict
        check(LayeredMLP(fault=fault))
