"""Models whose layers are applied one by one."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxdl.nn.layered import check_layers, layers
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.nn.models.resnet import ResNet


def test_layers_come_in_order_of_depth():
    names = {f"conv{i}": {} for i in (10, 2, 1)} | {"fc11": {}}
    assert layers({"params": names}) == ("conv1", "conv2", "conv10", "fc11")
    # The last number counts: block1_conv2 comes after block1_conv1.
    names = {"block1_conv2": {}, "block1_conv1": {}}
    assert layers({"params": names}) == ("block1_conv1", "block1_conv2")
    names = {"conv2d_3": {}, "conv2d_1": {}, "dense_2": {}, "block4_conv4": {}}
    assert layers({"params": names}) == ("conv2d_1", "dense_2", "conv2d_3", "block4_conv4")


class Dense(nn.Module):
    """Layers ``tanh(x W)``, with a fault where they are applied one by one."""

    outputs: int = 3
    fault: str = ""

    @nn.compact
    def __call__(self, x, train=False, start=0, stop=3):
        if start == 0 or self.fault == "doubles at every start":
            x = 2 * x.reshape(len(x), -1)
        for depth, width in enumerate((6, 5, self.outputs), start=1):
            if self.fault == "goes on" or start < depth <= stop:
                x = nn.Dense(width, name=f"dense{depth}")(x)
                x = nn.tanh(x) if depth < 3 else x
        return x[..., :2] if self.fault == "narrows" and stop - start == 3 else x


def doubling(outputs):
    """For a study."""
    return Dense(outputs, "doubles at every start")


def check(model, shape=(4, 4, 1)):
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    check_layers(model, jax.jit(model.init)(jax.random.key(0), images), images)


@pytest.mark.parametrize(
    "model", [Dense(), ConvNet((Conv(2, pool=2),), (3,), 2, batch_norm=True), ResNet((1,), 2, 2)]
)
def test_right_layers_pass(model):
    check(model)


@pytest.mark.parametrize("fault", ["doubles at every start", "narrows"])
def test_layers_that_do_not_compute_what_the_model_does_are_found(fault):
    with pytest.raises(ValueError, match=r"^Dense: its layers.* do not compute what it computes"):
        check(Dense(fault=fault))


def test_layers_that_do_not_follow_each_other_cannot_be_applied():
    with pytest.raises(Exception, match="shape"):  # Flax's word
        check(Dense(fault="goes on"))
