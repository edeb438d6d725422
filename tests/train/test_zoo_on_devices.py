"""Every network at its full size, 50 steps a dispatch, on one, two and four CPU devices that run at
the same time, against the same steps one by one, with the compiler's usual optimizations.

Two devices that ran XLA's own convolutions at the same time have computed wrong features, in the
later members of each and in no program that was short, small or alone.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxdl.adaptation import adaptation_loss
from jaxdl.data.batches import host_batch_ids
from jaxdl.nn.models import ADVERSARIAL_MODELS, MODELS
from jaxdl.nn.ops import convolution
from jaxdl.nn.pooling import max_pool
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key, order_keys, population_of, train_resident
from jaxdl.train.state import create_state, make_step

STEPS, EXAMPLES = 50, 512
ZOO = {  # side and channels of images, batch, members
    "glyph_net": (20, 1, 32, 8),
    "digit_net": (8, 1, 32, 8),
    "cifar_net": (32, 3, 32, 8),
    "caffenet": (227, 3, 2, 4),
    "small_net": (32, 3, 32, 8),
    "pairs_net": (32, 3, 8, 4),
    "linear": (8, 1, 32, 8),
    "mlp": (8, 1, 32, 8),
    **dict.fromkeys(("net1", "net2", "net3", "net4", "net5"), (16, 1, 32, 8)),
    "zip_code": (16, 1, 32, 8),
    "lenet5": (28, 1, 32, 8),
    "dann_digits": (16, 3, 32, 8),
    "dann_mnist": (28, 3, 64, 8),
    "dann_svhn": (32, 3, 8, 4),
    "dann_gtsrb": (40, 3, 16, 4),
}


def rule(hyper):
    # A rate of 0, which the compiler does not know, keeps parameters as they are: every step's
    # loss is of the first parameters, and the momentum adds up all gradients.
    return make_optimizer("momentum", hyper["rate"])


def pixels(stored, hyper, key):
    del hyper, key
    image = stored["image"].astype(jnp.float32) / 255 - 0.5
    if image.ndim == 4:
        return {"image": image, "label": stored["label"]}
    source = {"image": image[:, 0], "label": stored["label"][:, 0]}
    return {"source": source, "target": {"image": image[:, 1]}}


@pytest.fixture
def optimized(monkeypatch):
    """Processes that a test starts compile with the optimizations that this suite omits."""
    monkeypatch.setenv("XLA_FLAGS", "")


def compare_with_single_steps(name, devices):
    """The largest relative differences, by member, of losses at all steps and of summed gradients
    between a population's training and its steps one by one, each a program of its own."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    side, channels, batch, members = ZOO[name]
    adversarial, axis = name in ADVERSARIAL_MODELS, "data"
    placement, alone = make_placement(), make_placement(1, 1, devices=jax.devices()[:1])
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (EXAMPLES, side, side, channels), np.uint8),
        "label": rng.integers(0, 10, EXAMPLES).astype(np.int32),
    }
    if adversarial:
        model = ADVERSARIAL_MODELS[name](10)
        loss = adaptation_loss(model, ("adversarial",), STEPS)
    else:
        model = MODELS[name](10, axis_name=axis)
        loss = classification_loss(model)
    image = jnp.zeros((1, side, side, channels))
    init = jax.jit(lambda key: model.init(key, image))
    examples, count = np.arange(EXAMPLES, dtype=np.int32), np.int32(EXAMPLES)
    states, hypers = [], []
    for i in range(members):
        hypers.append(
            {
                "key": member_key(i),
                "rate": np.float32(0),
                "weights": {"adversarial": np.float32(1)},
                "reversal": np.float32(1),
                "examples": np.stack([examples] * 2) if adversarial else examples,
                "count": np.stack([count] * 2) if adversarial else count,
            }
        )
        variables = init(member_key("init", i))
        state = create_state(variables, rule, hypers[-1])
        states.append(jax.device_get(state))
    step = make_step(loss, rule, axis)
    training = train_resident(step, pixels, placement, steps=STEPS, batch=batch)
    population = population_of(states, placement), population_of(hypers, placement)
    trained, metrics = jax.device_get(training(*population, placement.replicate(data)))

    @jax.jit
    @partial(jax.shard_map, mesh=alone.mesh, in_specs=P(), out_specs=P())
    def single(state, stored, hyper):
        return step(state, pixels(stored, hyper, None), hyper)

    differences = []
    for i, (state, hyper) in enumerate(zip(states, hypers, strict=True)):
        words = np.asarray(jax.random.key_data(order_keys(hyper))).reshape(-1, 2)
        losses = []
        for s in range(STEPS):
            ids = [host_batch_ids(w, s, batch=batch, examples=EXAMPLES) for w in words]
            ids = np.stack(ids, -1) if adversarial else ids[0]
            stored = {key: leaf[ids] for key, leaf in data.items()}
            state, one = single(state, stored, hyper)
            losses.append(float(one["loss"]))
        loss = np.max(np.abs(metrics["loss"][i] / losses - 1))
        gradients = [
            np.linalg.norm(ours[i] - theirs) / np.linalg.norm(theirs)
            for ours, theirs in zip(
                jax.tree.leaves(trained.opt_state),
                jax.tree.leaves(jax.device_get(state.opt_state)),
                strict=True,
            )
            if np.ndim(theirs) > 1
        ]
        differences.append((float(loss), float(max(gradients))))
    return differences


def test_no_network_is_left_out():
    assert set(ZOO) == {*MODELS, *ADVERSARIAL_MODELS}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("name", ZOO)
def test_every_member_is_right_at_every_step(name, devices, optimized):
    # A process of its own: with so many devices.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        differences = pool.submit(compare_with_single_steps, name, devices).result()
    assert len(differences) == ZOO[name][3]
    assert max(loss for loss, _ in differences) < 1e-5, differences
    assert max(gradient for _, gradient in differences) < 1e-3, differences


def run_twice(options):
    """One program, of one device and called on two: the features of all images in the first batch,
    of each member, by calls one after the other, and by calls at the same time."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    members, batch = 3, 128
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4000, 28, 28, 3), np.uint8)

    def features(kernels, ids, images):
        x = images[ids].astype(jnp.float32) / 255 - 0.5
        for kernel in kernels:
            x = jax.nn.relu(max_pool(convolution(x, kernel, padding="VALID")))
        return x.reshape(len(x), -1)

    def loss(kernels, ids, images):
        values = features(kernels, ids, images)
        return jnp.mean(values**2), jnp.sum(values, -1)

    def train(kernels, ids, images):
        def step(kernels, ids):
            (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(kernels, ids, images)
            return jax.tree.map(lambda w, g: w - 1e-3 * g, kernels, grads), sums

        return lax.scan(step, kernels, ids)[1]

    @partial(jax.jit, compiler_options=options)
    def population(kernels, ids, images):
        return lax.map(lambda member: train(*member, images), (kernels, ids))

    def draw(*shape):
        return rng.normal(size=(members, *shape)).astype(np.float32) / np.sqrt(np.prod(shape[:-1]))

    arguments = [
        jax.device_put(
            (
                (draw(5, 5, 3, 32), draw(5, 5, 32, 48)),
                rng.integers(0, len(images), (members, STEPS, batch)),
                images,
            ),
            device,
        )
        for device in jax.devices()
    ]
    in_turn = [np.asarray(population(*args)) for args in arguments]
    at_once = [np.asarray(sums) for sums in [population(*args) for args in arguments]]
    return in_turn, at_once


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="default"),
        # jaxlib 0.10.2 and 0.12.0: a race in Eigen's convolutions between two executions.
        pytest.param(
            {"xla_cpu_experimental_ynn_fusion_type": ""},
            id="eigen",
            marks=pytest.mark.xfail(reason="wrong in the compiler", strict=False),
        ),
    ],
)
def test_two_executions_at_a_time_do_not_disturb_each_other(options, optimized):
    """The smallest program that was seen to be wrong, and it has none of this project's training;
    if the second passes everywhere, the compiler has been mended."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        in_turn, at_once = pool.submit(run_twice, options).result()
    np.testing.assert_allclose(at_once, in_turn, rtol=1e-5)
