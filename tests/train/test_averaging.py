"""Means of variables over training, against their recurrences in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import trees
from jaxdl.supervised import classification_loss
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import add_average, create_state, make_averaging_step, make_step

STEPS = 8
TARGETS = np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)
KEY = jax.random.key(0)


def distance(params, collections, batch, hyper, key):
    return jnp.sum((params["w"] - batch["x"]) ** 2), (collections, {})


def started(params, rule, **options):
    return create_state(add_average({"params": params}), rule, **options)


def by_hand(rate, decay, start):
    """SGD, and the mean of its parameters: plain, and then exponential; from ``start`` on."""
    w, average, history = np.ones(3), np.ones(3), []
    for x in TARGETS:
        with np.errstate(over="ignore", invalid="ignore"):
            new = np.float32(w - rate * 2 * (w - x))
        if not np.isfinite(new).all():
            break
        w = np.float64(new)
        history.append(w)
        terms = history[start:] or history[-1:]
        mean = np.mean(terms, 0)
        moving = decay * average + (1 - decay) * w
        average = mean if len(terms) * (1 - decay) <= 1 else moving
    return w, average


MEMBERS = [  # rate, decay, start
    (0.1, 1.0, 0),  # a mean of all
    (0.1, 1.0, 5),  # SWA
    (0.1, 0.5, 0),  # exponential after two
    (0.1, 0.6, 3),
    (0.1, 0.0, 0),  # the parameters themselves
    (3e18, 0.5, 0),  # ceases to be finite
    (0.1, 1.0, 20),  # not begun
]


def test_members_average_as_their_numbers_say():
    """In one program; what is not finite comes into no mean."""

    def step(state, batch, hyper):
        plain = make_step(distance, lambda hyper: optax.sgd(hyper["rate"]))
        return make_averaging_step(plain, hyper["decay"], hyper["start"])(state, batch, hyper)

    @jax.jit
    @jax.vmap
    def train(hyper):
        state = started({"w": jnp.ones(3)}, optax.sgd(0.1))
        hyper = {**hyper, "key": KEY}
        return jax.lax.scan(lambda state, x: step(state, {"x": x}, hyper), state, TARGETS)

    columns = map(jnp.asarray, zip(*MEMBERS, strict=True))
    states, metrics = train(dict(zip(("rate", "decay", "start"), columns, strict=True)))
    for state, member in zip(trees.unstack(states), MEMBERS, strict=True):
        w, average = by_hand(*member)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
        evaluated = state.evaluated_variables
        assert list(evaluated) == ["params"]
        np.testing.assert_allclose(evaluated["params"]["w"], average, rtol=1e-5, atol=1e-6)
    assert states.alive.tolist() == [member[0] < 1 for member in MEMBERS]
    assert (np.asarray(metrics["fault"])[5] >= 0).sum() == 1


def test_networks_that_share_a_state_stop_alone():
    def loss_fn(params, collections, batch, hyper, key):
        return {name: jnp.sum(p["w"] ** 2) for name, p in params.items()}, (collections, {})

    params = {"fine": {"w": jnp.ones(2)}, "wild": {"w": jnp.full(2, 3e19)}}
    state = started(params, optax.sgd(0.25), alive={"fine": True, "wild": True})
    step = jax.jit(make_averaging_step(make_step(loss_fn, optax.sgd(0.25))))
    for _ in range(2):
        state, _ = step(state, {}, {"key": KEY})
    average = state.collections["average_params"]
    np.testing.assert_allclose(average["fine"]["w"], (0.5 + 0.25) / 2)
    np.testing.assert_array_equal(average["wild"]["w"], params["wild"]["w"])


class Network(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(nn.Dense(4)(x))
        return nn.Dense(3)(nn.relu(x))


def test_networks_are_averaged_where_they_are_trained():
    """On two devices that share each batch, in two parts: the mean of what each step leaves."""
    rng, rule = np.random.default_rng(0), optax.adam(0.1)
    data = {
        "image": rng.normal(size=(16, 5)).astype(np.float32),
        "label": rng.integers(0, 3, 16).astype(np.int32),
    }
    placement = make_placement(1, 2, devices=jax.devices()[:2])
    loss = classification_loss(Network("data"))
    plain = make_step(loss, rule, "data", accumulate=2)
    train = train_resident(
        make_averaging_step(plain), lambda stored, hyper, key: stored, placement, steps=1, batch=8
    )
    variables = jax.jit(Network().init)(KEY, data["image"])
    state = create_state(add_average(variables), rule)
    hyper = {"key": member_key(0), "examples": np.arange(16), "count": np.int32(16)}
    states, hypers = population_of([state], placement), population_of([hyper], placement)
    history = []
    for _ in range(3):
        states, _ = train(states, hypers, placement.replicate(data))
        trained = {name: states.variables[name] for name in ("params", "batch_stats")}
        history.append(jax.tree.map(np.asarray, trained))
    expected = jax.tree.map(lambda *variables: np.mean(variables, 0), *history)
    evaluated = jax.device_get(states.evaluated_variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), evaluated, expected
    )
    change = jax.tree.map(lambda mean, last: np.abs(mean - last).max(), expected, history[-1])
    assert change["params"]["Dense_0"]["kernel"] > 0.01
    assert change["batch_stats"]["BatchNorm_0"]["mean"] > 0.005
    logits = jax.jit(Network().apply)(trees.member(evaluated, 0), data["image"])
    assert np.isfinite(logits).all()


def test_integers_are_not_averaged():
    def loss(params, collections, batch, hyper, key):
        counts = {"n": collections["counts"]["n"] + 1}
        return jnp.sum(params["w"] ** 2), ({**collections, "counts": counts}, {})

    rule = optax.sgd(0.1)
    variables = {"params": {"w": jnp.ones(2)}, "counts": {"n": jnp.int32(0)}}
    state = create_state(add_average(variables), rule)
    step = jax.jit(make_averaging_step(make_step(loss, rule)))
    for _ in range(3):
        state, _ = step(state, {}, {"key": KEY})
    assert state.evaluated_variables["counts"] == {"n": 3}
