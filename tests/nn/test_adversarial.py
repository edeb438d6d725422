"""The networks of the DANN paper: their layers by number, and two heads on the same features."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.adaptation import (
    domain_adversarial_loss,
    reverse_gradient,
    virtual_adversarial_loss,
)
from jaxdl.nn.models.adversarial import AdversarialNet, dann_gtsrb, dann_mnist, dann_svhn
from jaxdl.nn.models.convnet import Conv
from jaxdl.trees import count
from tests.variables import draw_variables


def shapes_of(model, pixels, channels=3):
    """The shapes of parameters and features, without computing anything."""
    images = jax.ShapeDtypeStruct((2, pixels, pixels, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="encode"), variables, images)
    return variables["params"], features


def kernels(params, part):
    """The kernels' shapes of a part of the network, first to last."""
    names = sorted(name for name in params if name.startswith(part))
    return [params[name].get("dense", params[name])["kernel"].shape for name in names]


# Name, side of the image, classes; kernels and number of features by the paper's figure 4; the
# convolutions are (side, filters), the heads their widths.
PAPER = [
    (dann_mnist, 28, 10, [(5, 32), (5, 48)], [100, 100, 10], [100, 1]),
    (dann_svhn, 32, 10, [(5, 64), (5, 64), (5, 128)], [3072, 2048, 10], [1024, 1024, 1]),
    (dann_gtsrb, 40, 43, [(5, 96), (3, 144), (5, 256)], [512, 43], [1024, 1024, 1]),
]
FEATURES = {dann_mnist: 4 * 4 * 48, dann_svhn: 7 * 7 * 128, dann_gtsrb: 2 * 2 * 256}
IDS = ["mnist", "svhn", "gtsrb"]


@pytest.mark.parametrize(("make", "pixels", "classes", "convs", "label", "domain"), PAPER, ids=IDS)
def test_layers_are_the_papers(make, pixels, classes, convs, label, domain):
    params, features = shapes_of(make(classes), pixels)
    channels = [3, *(filters for _, filters in convs)]
    assert kernels(params, "encoder") == [
        (side, side, c, filters) for c, (side, filters) in zip(channels, convs, strict=False)
    ]
    assert features.shape == (2, FEATURES[make])
    total = sum(side**2 * c * f + f for c, (side, f) in zip(channels, convs, strict=False))
    for part, widths in (("label_head", label), ("domain_head", domain)):
        pairs = list(zip([FEATURES[make], *widths], widths, strict=False))
        assert kernels(params, part) == pairs
        total += sum(a * b + b for a, b in pairs)
    assert count(params) == total


def test_numbers_of_parameters():
    for make, pixels, classes, number in (
        (dann_mnist, 28, 10, 205_891),
        (dann_svhn, 32, 10, 33_371_083),
        (dann_gtsrb, 40, 43, 3_700_796),
    ):
        assert count(shapes_of(make(classes), pixels)[0]) == number


@pytest.mark.parametrize(
    ("make", "padding", "sides"),
    [
        # 28: 24 12 8 4; 32: 28 14 10 5; 40: 36 18 14 7
        (dann_mnist, "VALID", {28: 4, 32: 5, 40: 7}),
        (dann_mnist, "SAME", {28: 7, 32: 8, 40: 10}),
        # 40: 36 17 13 6 2
        (dann_svhn, "VALID", {28: None, 32: None, 40: 2}),
        # 28: 13 6; 32: 15 7; 40: 19 9
        (dann_svhn, "SAME", {28: 6, 32: 7, 40: 9}),
        # 32: 28 14 12 6 2 1; 40: 36 18 16 8 4 2
        (dann_gtsrb, "VALID", {28: None, 32: 1, 40: 2}),
        (dann_gtsrb, "SAME", {28: 3, 32: 4, 40: 5}),
    ],
)
def test_features_of_images_of_any_size(make, padding, sides):
    model = make(10, padding=padding)
    assert {conv.padding for conv in model.convolutions} == {padding}
    for pixels, side in sides.items():
        if side is None:
            with pytest.raises(ValueError, match="does not fit"):
                shapes_of(model, pixels)
        else:
            _, features = shapes_of(model, pixels)
            assert features.shape == (2, side**2 * model.convolutions[-1].features)


def test_only_the_network_for_house_numbers_drops_out_by_default():
    assert [make(10).dropout for make in (dann_mnist, dann_svhn, dann_gtsrb)] == [0, 0.5, 0]
    assert dann_svhn(10, dropout=0.2).dropout == 0.2
    assert dann_mnist(10, dropout=0.3).dropout == 0.3


def small(**options):
    convolutions = (Conv(4, kernel=3, pool=2), Conv(5, kernel=3, padding="VALID"))
    return AdversarialNet(convolutions, (7,), (6,), 3, **options)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(images):
    return draw_variables(small(), images)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_heads_agree_with_the_whole(images, variables, dropout):
    model = small(dropout=dropout)

    @jax.jit
    def everything(variables, x):
        features = model.apply(variables, x, method="encode")
        heads = (model.apply(variables, features, method=m) for m in ("classify", "discriminate"))
        return model.apply(variables, x), features, *heads

    (logits, domain), features, *heads = everything(variables, images)
    assert logits.shape == (5, 3)
    assert domain.shape == (5,)
    features = np.asarray(features)
    assert np.all(features >= 0)
    np.testing.assert_array_equal(heads[0], logits)
    np.testing.assert_array_equal(heads[1], domain)

    # In NumPy.
    def dense(x, name):
        layer = variables["params"][name]["dense"]
        return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)

    features = np.asarray(features, np.float64)
    for head, out in (("label_head", logits), ("domain_head", np.asarray(domain)[:, None])):
        expected = dense(np.maximum(dense(features, f"{head}_0"), 0), f"{head}_1")
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_dropout_is_for_training_only(images, variables):
    model = small(dropout=0.5)
    features = jax.jit(lambda x: model.apply(variables, x, method="encode"))(images)

    @partial(jax.jit, static_argnums=0)
    def classify(model, seed):
        key = jax.random.key(seed)
        return model.apply(
            variables, features, train=True, method="classify", rngs={"dropout": key}
        )

    plain = np.asarray(jax.jit(lambda x: model.apply(variables, x, method="classify"))(features))
    a, b, same = (np.asarray(classify(model, seed)) for seed in (0, 1, 0))
    assert np.abs(a - b).max() > 1e-3 and np.abs(a - plain).max() > 1e-3
    np.testing.assert_array_equal(a, same)
    np.testing.assert_allclose(classify(small(), 0), plain, rtol=1e-5, atol=1e-6)
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(lambda x: model.apply(variables, x, train=True, method="classify"), features)


def test_dropout_comes_before_the_first_dense_layer():
    model = AdversarialNet((), (), (), 6, dropout=0.5)
    features = np.arange(1, 13, dtype=np.float32).reshape(2, 6)
    identity = {"dense": {"kernel": np.eye(6, dtype=np.float32), "bias": np.zeros(6, np.float32)}}
    classify = jax.jit(partial(model.apply, train=True, method="classify"))
    variables, key = {"params": {"label_head_0": identity}}, jax.random.key(0)
    out = classify(variables, features, rngs={"dropout": key})
    dropped = np.asarray(out) == 0
    assert dropped.any() and not dropped.all()
    np.testing.assert_allclose(out, np.where(dropped, 0, 2 * features))


def test_reversal_turns_only_the_encoders_gradient(images, variables):
    model = small()

    def loss(params, scale):
        features = model.apply({"params": params}, images, method="encode")
        if scale is not None:
            features = reverse_gradient(features, scale)
        domain = model.apply({"params": params}, features, method="discriminate")
        return domain_adversarial_loss(domain[:3], domain[3:])

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, turned = gradient(variables["params"], None), gradient(variables["params"], 0.3)
    for name in plain:
        factor = {"encoder": -0.3, "domain_head": 1, "label_head": 0}[name.rpartition("_")[0]]
        for a, b in zip(jax.tree.leaves(plain[name]), jax.tree.leaves(turned[name]), strict=True):
            np.testing.assert_allclose(b, factor * np.asarray(a), rtol=1e-4, atol=1e-7)
            assert np.any(a) == (factor != 0)


def test_virtual_adversarial_training_goes_through_the_network(images):
    model = AdversarialNet((Conv(4, kernel=3),), (), (), 3)

    @jax.jit
    @jax.value_and_grad
    def loss(params, images):
        def predict(x):
            return model.apply({"params": params}, x)[0]

        return jnp.mean(virtual_adversarial_loss(predict, images, jax.random.key(0), radius=1.0))

    value, gradient = jax.device_get(loss(draw_variables(model, images)["params"], images))
    assert value > 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    for name in ("encoder_0", "label_head_0"):
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient[name]))
    assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["domain_head_0"]))
