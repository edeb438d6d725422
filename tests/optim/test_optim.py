"""Optimizers, schedules and max-abs against their formulas in NumPy, max-norm against Optax's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.projections import projection_l2_ball

from jaxdl.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, max_abs, max_norm
from jaxdl.optim.projections import project_max_abs, project_max_norm

CHAINED = ("sgd", "momentum", "nesterov", "adam", "adamw")  # what is around a rule knows it not
STEPS = 6
RATE = 0.1
SHAPES = {"conv1": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "fc2": {"kernel": (5, 3), "bias": (3,)}}


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda value: isinstance(value, tuple),
    )


PARAMS = random_tree(0)
GRADS = [random_tree(seed, 3.0) for seed in range(1, STEPS + 1)]


def trained(rule, params=PARAMS, grads=GRADS):
    """Parameters after each of the steps."""
    params = jax.tree.map(jnp.asarray, params)

    def step(carry, g):
        updates, state = rule.update(g, carry[1], carry[0])
        params = optax.apply_updates(carry[0], updates)
        return (params, state), params

    @jax.jit
    def run(params, grads):
        return jax.lax.scan(step, (params, rule.init(params)), grads)[1]

    seen = jax.device_get(run(params, jax.tree.map(lambda *g: np.stack(g), *grads)))
    return [jax.tree.map(lambda leaf, t=t: leaf[t], seen) for t in range(len(grads))]


def direction(name, g, s, t, m):
    """What a rule makes of a gradient of step ``t`` (from 1), with its state ``s``."""

    def mean(key, decay, value):
        s[key] = decay * s.get(key, 0.0) + (1 - decay) * value
        return s[key]

    def orthogonal(x, steps=5):
        x = x / np.linalg.norm(x)
        for _ in range(steps):
            square = x @ x.T
            x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
        return x

    match name:
        case "sgd":
            return g
        case "momentum" | "nesterov":
            s["v"] = m * s.get("v", 0.0) + g
            return s["v"] if name == "momentum" else m * s["v"] + g
        case "adagrad":
            s["sum"] = s.get("sum", 0.0) + g**2
            return g / np.sqrt(s["sum"] + 1e-7)
        case "adadelta":
            u = np.sqrt((s.get("x", 0.0) + 1e-6) / (mean("s", 0.95, g**2) + 1e-6)) * g
            mean("x", 0.95, u**2)
            return u
        case "rmsprop":
            return g / np.sqrt(mean("s", 0.9, g**2) + 1e-8)
        case "lion":
            u = np.sign(0.9 * s.get("v", 0.0) + 0.1 * g)
            mean("v", 0.99, g)
            return u
        case "muon" if g.ndim > 1:
            v = mean("v", m, g) / (1 - m ** (t + 1))
            v = m * v + (1 - m) * g / (1 - m**t)
            u = orthogonal(v.reshape(-1, v.shape[-1]))
            return 0.2 * math.sqrt(max(u.shape)) * u.reshape(g.shape)
        case "adam" | "adamw" | "muon":
            square = mean("s", 0.999, g**2) / (1 - 0.999**t)
            return mean("v", 0.9, g) / (1 - 0.9**t) / (np.sqrt(square) + 1e-8)


def by_hand(name, rate, *, m=None, decay=0.0, clip=None, params=PARAMS, grads=GRADS):
    """The update rules as papers write them, in double precision; ``rate`` is a function."""
    m = m or (0.95 if name == "muon" else 0.9)
    leaves, structure = jax.tree.flatten(params)
    leaves = [np.asarray(w, np.float64) for w in leaves]
    states = [{} for _ in leaves]
    seen = []
    for t, tree in enumerate(grads):
        gs = [np.asarray(g, np.float64) for g in jax.tree.leaves(tree)]
        if clip is not None:
            norm = math.sqrt(sum((g**2).sum() for g in gs))
            gs = [g * min(1, clip / norm) for g in gs]
        for i, (w, g) in enumerate(zip(leaves, gs, strict=True)):
            decayed = (decay if w.ndim > 1 else 0.0) * w
            if name in ("adamw", "lion", "muon"):
                step = direction(name, g, states[i], t + 1, m) + decayed
            else:
                step = direction(name, g + decayed, states[i], t + 1, m)
            leaves[i] = w - rate(t) * step
        seen.append(jax.tree.unflatten(structure, list(leaves)))
    return seen


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*CHAINED, "muon"])
def test_plain_updates(name):
    # Adam's first steps divide by the root of g^2, which float32 knows to 1e-7 relative.
    assert_close(trained(make_optimizer(name, RATE)), by_hand(name, lambda t: RATE))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipped_then_decayed_updates_at_a_scheduled_rate(name):
    schedule = make_schedule("cosine", RATE, steps=STEPS, warmup=2)
    rule = make_optimizer(name, schedule, momentum=0.8, weight_decay=0.3, clip_norm=2.0)

    def rate(t):
        return RATE * t / 2 if t < 2 else RATE * (1 + math.cos(math.pi * (t - 2) / 4)) / 2

    expected = by_hand(name, rate, m=0.8, decay=0.3, clip=2.0)
    assert_close(trained(rule), expected)


def test_clipping_leaves_small_gradients_alone():
    rule = make_optimizer("sgd", RATE, clip_norm=1e4)
    assert_close(trained(rule), by_hand("sgd", lambda t: RATE))


def test_decay_is_of_kernels_only():
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    (after,) = trained(make_optimizer("sgd", RATE, weight_decay=0.5), grads=[zeros])
    for layer in PARAMS:
        np.testing.assert_array_equal(after[layer]["bias"], PARAMS[layer]["bias"])
        np.testing.assert_allclose(
            after[layer]["kernel"], 0.95 * PARAMS[layer]["kernel"], rtol=1e-6
        )


def test_adam_hardly_decays_weights_of_large_gradients_unless_the_decay_is_decoupled():
    """Two equal weights without a trend, their gradients alternating: one's are 100 times as
    large. What is left of them shows the decay alone."""
    params = {"kernel": np.ones((1, 2), np.float32)}

    grads = jnp.asarray([[[0.1, 10.0]]]) * jnp.asarray([1, -1] * 100)[:, None, None]

    def left(name, **options):
        def final(decay):
            rule = make_optimizer(name, 1e-3, weight_decay=decay, **options)

            def step(carry, g):
                updates, state = rule.update({"kernel": g}, carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (params, rule.init(params)), grads)[0][0]["kernel"][0]

        free, decayed = jax.jit(jax.vmap(final))(jnp.asarray([0.0, 0.01]))
        return decayed - free

    # 200 times r d w / |g|, or r d w.
    np.testing.assert_allclose(left("adam", b1=0.0), [-0.02, -0.0002], rtol=0.05)
    np.testing.assert_allclose(left("adamw"), [-0.002, -0.002], rtol=0.05)
    np.testing.assert_allclose(left("sgd"), [-0.002, -0.002], rtol=0.05)


@pytest.mark.parametrize("shape", [(4, 9), (3, 3, 2, 4)])
def test_muon_steps_are_nearly_orthogonal_and_as_large_as_adam_s(shape):
    """Of all directions in the space of units (or of inputs) a step is about equally long: its
    singular values are within Newton and Schulz's 0.7 to 1.2, times 0.2 sqrt(max(inputs, units)).
    """
    start = {"kernel": np.zeros(shape, np.float32)}
    g = {"kernel": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    step = np.asarray(trained(make_optimizer("muon", 1.0), start, [g])[0]["kernel"])
    matrix = step.reshape(-1, shape[-1])
    values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(max(matrix.shape)))
    assert values.min() > 0.65 and values.max() < 1.25
    assert 0.1 < np.sqrt(np.mean(step**2)) < 0.25
    assert np.sum(step * g["kernel"]) < 0


def test_what_is_no_weight_by_its_name_neither_decays_nor_is_projected():
    """Of a transformer: embeddings and kernels of any number of axes, and nothing else."""
    shapes = {
        "embedding": (5, 4),
        "attention": {"kernel": (4, 2, 3), "bias": (2, 3)},
        "position": (1, 7, 4),
        "scale": (4,),
    }
    is_shape = {"is_leaf": lambda value: isinstance(value, tuple)}
    params = jax.tree.map(lambda shape: np.ones(shape, np.float32), shapes, **is_shape)
    zeros = jax.tree.map(np.zeros_like, params)
    (decayed,) = trained(make_optimizer("sgd", RATE, weight_decay=0.5), params, [zeros])
    projected = jax.jit(project_max_norm)(params, 0.1)
    for after in (decayed, projected):
        assert (np.asarray(after["embedding"]) < 1).all()
        assert (np.asarray(after["attention"]["kernel"]) < 1).all()
        for kept in (after["attention"]["bias"], after["position"], after["scale"]):
            np.testing.assert_array_equal(kept, np.ones_like(kept))


def project_by_optax(params, radius):
    """Optax's projection, unit by unit; kernels only."""

    def project(w):
        if w.ndim < 2:
            return w
        units = [projection_l2_ball(jnp.asarray(w[..., i]), radius) for i in range(w.shape[-1])]
        return jnp.stack(units, -1)

    return jax.tree.map(project, params)


@jax.jit
def projections(params, inside, radius):
    ours, kept = (project_max_norm(tree, radius) for tree in (params, inside))
    return ours, project_by_optax(params, radius), kept


@pytest.mark.parametrize("radius", [0.7, 2.0, 4.0, 100.0])
def test_max_norm_projects_each_unit(radius):
    inside = {"kernel": np.zeros((3, 2)), "bias": np.full(2, 50.0)}
    ours, theirs, kept = projections(PARAMS, inside, radius)
    assert_close(ours, theirs, 1e-6)
    assert_close(kept, inside, 0)


@jax.jit
def max_abs_projections(params, zero, bound):
    return project_max_abs(params, bound), project_max_abs(zero, bound)


@pytest.mark.parametrize("bound", [0.7, 2.0, 100.0])
def test_max_abs_divides_whole_arrays(bound):
    expected = jax.tree.map(
        lambda w: w * bound / np.abs(w).max() if w.ndim > 1 and np.abs(w).max() > bound else w,
        PARAMS,
    )
    zero = {"kernel": np.zeros((3, 2))}
    ours, kept = max_abs_projections(PARAMS, zero, bound)
    assert_close(ours, expected, 1e-6)
    assert_close(kept, zero, 0)


def test_max_abs_comes_last():
    after = trained(make_optimizer("momentum", RATE, max_abs=1.5))
    largest = [np.abs(p[layer]["kernel"]).max() for p in after for layer in p]
    np.testing.assert_allclose(max(largest), 1.5, rtol=1e-6)
    assert np.abs(after[-1]["fc2"]["bias"]).max() > 1.5
    first = by_hand("momentum", lambda t: RATE)[0]["conv1"]["kernel"]
    np.testing.assert_allclose(
        after[0]["conv1"]["kernel"], first * 1.5 / np.abs(first).max(), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_max_norm_comes_last(name):
    ours = trained(make_optimizer(name, RATE, weight_decay=0.1, clip_norm=5.0, max_norm=1.5))
    params = PARAMS
    plain = make_optimizer(name, RATE, weight_decay=0.1, clip_norm=5.0)
    state, update = plain.init(params), jax.jit(plain.update)
    project = jax.jit(lambda p, u: project_by_optax(optax.apply_updates(p, u), 1.5))
    for after, g in zip(ours, GRADS, strict=True):
        updates, state = update(g, state, params)
        params = project(params, updates)
        assert_close(after, params)
    norms = np.linalg.norm(np.asarray(ours[-1]["conv1"]["kernel"]).reshape(-1, 4), axis=0)
    assert norms.max() < 1.5 + 1e-5 and norms.max() > 1.4


@pytest.mark.parametrize("name", [*CHAINED, "muon"])
def test_frozen_arrays_keep_every_bit(name):
    mask = {"conv1": {"kernel": False, "bias": False}, "fc2": {"kernel": True, "bias": False}}
    options = {"weight_decay": 0.1, "max_norm": 0.5}
    after = trained(make_optimizer(name, RATE, trainable=mask, **options))[-1]
    free = trained(make_optimizer(name, RATE, **options))[-1]
    for layer in ("conv1", "fc2"):
        for kind in ("kernel", "bias"):
            if mask[layer][kind]:
                np.testing.assert_allclose(after[layer][kind], free[layer][kind], rtol=1e-5)
            else:
                assert (np.asarray(after[layer][kind]) == PARAMS[layer][kind]).all()
                assert (np.asarray(free[layer][kind]) != PARAMS[layer][kind]).any()


def test_clipping_is_by_the_gradients_of_what_trains():
    mask = {"conv1": {"kernel": False, "bias": False}, "fc2": {"kernel": True, "bias": True}}
    ours = trained(make_optimizer("sgd", RATE, clip_norm=2.0, trainable=mask))[-1]
    alone = make_optimizer("sgd", RATE, clip_norm=2.0)
    theirs = trained(alone, {"fc2": PARAMS["fc2"]}, [{"fc2": g["fc2"]} for g in GRADS])[-1]
    assert_close(ours["fc2"], theirs["fc2"])


@pytest.mark.parametrize("name", CHAINED)
def test_biases_may_learn_at_a_rate_of_their_own(name):
    """Caffe's lr_mult: of what is added to them, so with momentum of its own rate throughout."""
    rule = make_optimizer(name, RATE, weight_decay=0.2, bias_rate=2.0)
    kernels = by_hand(name, lambda t: RATE, decay=0.2)[-1]
    biases = by_hand(name, lambda t: 2 * RATE, decay=0.2)[-1]
    after = trained(rule)[-1]
    for layer in PARAMS:
        for kind, expected in (("kernel", kernels), ("bias", biases)):
            np.testing.assert_allclose(
                after[layer][kind], expected[layer][kind], rtol=1e-5, atol=1e-5
            )


def test_two_steps_of_caffes_momentum_by_hand():
    """``v <- m v + r_i (g + d_i w)``, ``w - v`` with r_i, d_i of the kernel and of the bias."""
    rule = make_optimizer("momentum", 0.01, weight_decay=5e-4, bias_rate=2.0)
    params = {"kernel": np.array([[2.0, -4.0]]), "bias": np.array([3.0])}
    grads = [{"kernel": np.array([[1.0, 0.5]]), "bias": np.array([-1.0])}] * 2
    first, second = trained(rule, params, grads)
    v = 0.01 * (np.array([1.0, 0.5]) + 5e-4 * np.array([2.0, -4.0]))
    w = np.array([2.0, -4.0]) - v
    np.testing.assert_allclose(first["kernel"][0], w, rtol=1e-6)
    np.testing.assert_allclose(first["bias"], [3 + 0.02], rtol=1e-6)
    v = 0.9 * v + 0.01 * (np.array([1.0, 0.5]) + 5e-4 * w)
    np.testing.assert_allclose(second["kernel"][0], w - v, rtol=1e-6)
    np.testing.assert_allclose(second["bias"], [3 + 0.02 + 0.02 * 1.9], rtol=1e-6)


@pytest.mark.parametrize("name", CHAINED)
def test_a_rate_of_biases_leaves_the_rest_as_it_is(name):
    """No decay on biases, max-norm last on kernels alone, frozen arrays as they were."""
    mask = {"conv1": {"kernel": True, "bias": False}, "fc2": {"kernel": False, "bias": True}}
    options = {"weight_decay": 0.3, "max_norm": 0.5, "trainable": mask}
    plain = trained(make_optimizer(name, RATE, **options))[-1]
    after = trained(make_optimizer(name, RATE, bias_rate=3.0, **options))[-1]
    np.testing.assert_allclose(after["conv1"]["kernel"], plain["conv1"]["kernel"], rtol=1e-6)
    norms = np.linalg.norm(np.asarray(after["conv1"]["kernel"]).reshape(-1, 4), axis=0)
    assert (norms < 0.5 + 1e-5).all()
    for layer, kind in (("conv1", "bias"), ("fc2", "kernel")):
        np.testing.assert_array_equal(after[layer][kind], PARAMS[layer][kind])
    triple = by_hand(name, lambda t: 3 * RATE)[-1]["fc2"]["bias"]  # without a decay
    np.testing.assert_allclose(after["fc2"]["bias"], triple, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CHAINED)
def test_members_may_differ_in_rate_and_decay(name):
    rates, decays = jnp.asarray([0.02, 0.1, 0.3]), jnp.asarray([0.0, 0.2, 0.05])

    def final(rate, decay):
        schedule = make_schedule("linear", rate, steps=STEPS, warmup=1)
        rule = make_optimizer(name, schedule, weight_decay=decay)
        params = jax.tree.map(jnp.asarray, PARAMS)
        state = rule.init(params)
        for g in GRADS[:3]:
            updates, state = rule.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    together = jax.jit(jax.vmap(final))(rates, decays)
    for i, (rate, decay) in enumerate(zip(rates.tolist(), decays.tolist(), strict=True)):
        # 0 in the warm-up, then down to nothing over five steps
        alone = by_hand(name, lambda t, r=rate: r * (6 - t) / 5 * (t > 0), decay=decay)[2]
        assert_close(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together), alone)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("momentum", {"momentum": (0.5, 0.9), "max_norm": (0.5, 2.0), "bias_rate": (1.0, 3.0)}),
        ("nesterov", {"momentum": (0.0, 0.8), "clip_norm": (0.5, 2.0)}),
        ("adam", {"b1": (0.5, 0.9), "b2": (0.9, 0.99), "eps": (1e-3, 1e-8)}),
        ("adamw", {"b1": (0.5, 0.9), "eps": (1e-3, 1e-8), "weight_decay": (0.0, 0.1)}),
        ("adagrad", {"eps": (1e-3, 1e-8), "max_abs": (0.5, 2.0)}),
        ("adadelta", {"b2": (0.9, 0.99), "eps": (1e-3, 1e-6)}),
        ("rmsprop", {"b2": (0.9, 0.99), "eps": (1e-3, 1e-8)}),
        ("lion", {"b1": (0.5, 0.9), "b2": (0.9, 0.99), "weight_decay": (0.0, 0.1)}),
        (
            "muon",
            {"momentum": (0.5, 0.9), "b1": (0.5, 0.9), "b2": (0.9, 0.99), "eps": (1e-3, 1e-8)},
        ),
    ],
)
def test_members_may_differ_in_every_number(name, numbers):
    """One program of traced numbers, against a rule for each member."""

    def final(numbers):
        rule = make_optimizer(name, RATE, **numbers)
        params = jax.tree.map(jnp.asarray, PARAMS)
        state = rule.init(params)
        for g in GRADS[:2]:
            updates, state = rule.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    stacked = {key: jnp.asarray(values) for key, values in numbers.items()}
    together = jax.jit(jax.vmap(final))(stacked)
    members = [{key: values[i] for key, values in numbers.items()} for i in range(2)]
    for i, alone in enumerate(jax.jit(lambda: [final(member) for member in members])()):
        assert_close(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together), alone)


def half_cosine(a, b, p):
    return a + (b - a) * math.sin(math.pi * p / 2) ** 2


FORMULAS = {
    "constant": lambda p: 1.0,
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "linear": lambda p: 1 - p,
    "annealed": lambda p: (1 + 10 * p) ** -0.75,
    "steps": lambda p: 0.1 ** sum(p >= drop for drop in (0.25, 0.75)),
    "exponential": lambda p: math.exp(p * math.log(0.1)),
    "inverse_time": lambda p: 1 / (1 + 9 * p),
    "one_cycle": lambda p: (
        half_cosine(0.04, 1, p / 0.3) if p < 0.3 else half_cosine(1, 4e-6, (p - 0.3) / 0.7)
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_at_every_step(name, warmup):
    steps = 8 + warmup
    schedule = make_schedule(name, 0.4, steps=steps, warmup=warmup, drops=(0.25, 0.75))
    stopped = make_schedule(name, 0.4, steps=steps, warmup=warmup, drops=(0.25, 0.75), stop=5)
    compiled = jax.jit(jax.vmap(lambda t: (schedule(t), stopped(t))))
    rates, until_stop = map(np.asarray, compiled(np.arange(steps)))
    for t in range(steps):
        p = (t - warmup) / (steps - warmup)
        factor = t / warmup * FORMULAS[name](0) if t < warmup else FORMULAS[name](p)
        np.testing.assert_allclose(rates[t], 0.4 * factor, rtol=1e-5, err_msg=str(t))
        assert until_stop[t] == (rates[t] if t < 5 else 0), t


def test_one_cycle_is_optax_s():
    schedules = make_schedule("one_cycle", 0.4, steps=20), optax.cosine_onecycle_schedule(20, 0.4)
    ours, theirs = jax.jit(lambda steps: [jax.vmap(f)(steps) for f in schedules])(jnp.arange(21))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-8)


def test_schedules_of_traced_numbers():
    numbers = {
        "peak": jnp.asarray([0.1, 0.5, 0.5]),
        "factor": jnp.asarray([0.1, 0.01, 0.01]),
        "stop": jnp.asarray([9, 8, 7]),
    }

    def rates(numbers):
        schedules = {name: make_schedule(name, steps=10, warmup=2, **numbers) for name in SCHEDULES}
        return {name: schedule(jnp.asarray(7)) for name, schedule in schedules.items()}

    together = jax.jit(jax.vmap(rates))(numbers)
    alone = [{"peak": 0.1}, {"peak": 0.5, "factor": 0.01}]
    first, second = jax.jit(lambda: [rates(numbers) for numbers in alone])()
    for name in SCHEDULES:
        expected = [first[name], second[name], 0]
        np.testing.assert_allclose(together[name], expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_members_may_stop_at_different_steps(name):
    """In one program, each as if its training had ended there."""

    def final(stop):
        schedule = make_schedule("cosine", RATE, steps=STEPS, stop=stop)
        rule = make_optimizer(name, schedule, weight_decay=0.1)
        params = jax.tree.map(jnp.asarray, PARAMS)

        def step(carry, g):
            updates, state = rule.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        grads = jax.tree.map(lambda *gs: jnp.stack(gs), *GRADS)
        return jax.lax.scan(step, (params, rule.init(params)), grads)[0][0]

    together = jax.jit(jax.vmap(final))(jnp.asarray([0, 2, 4, 9]))
    whole = trained(
        make_optimizer(name, make_schedule("cosine", RATE, steps=STEPS), weight_decay=0.1)
    )
    for i, expected in enumerate((PARAMS, whole[1], whole[3], whole[5])):
        assert_close(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together), expected)


def test_two_drops_at_one_step_both_count():
    schedule = make_schedule("steps", 1.0, steps=10, drops=(0.5, 0.51), factor=0.1)
    np.testing.assert_allclose(schedule(jnp.asarray(9)), 0.01, rtol=1e-5)


def test_a_drop_waits_until_it_is_reached():
    schedule = make_schedule("steps", 1.0, steps=10, drops=(1 / 3,), factor=0.1)
    rates = [float(schedule(jnp.asarray(t))) for t in range(10)]
    np.testing.assert_allclose(
        rates, [1.0 if t / 10 < 1 / 3 else 0.1 for t in range(10)], rtol=1e-5
    )


def test_errors():
    with pytest.raises(ValueError, match=r"unknown optimizer 'sdg'.*nesterov"):
        make_optimizer("sdg", RATE)
    with pytest.raises(ValueError, match=r"unknown schedule 'cos'.*cosine"):
        make_schedule("cos", RATE, steps=10)
    for warmup in (-1, 10, 11):
        with pytest.raises(ValueError, match="warm-up"):
            make_schedule("cosine", RATE, steps=10, warmup=warmup)
    for radius in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="radius"):
            max_norm(radius)
        with pytest.raises(ValueError, match="max-abs bound"):
            max_abs(radius)
    for rule, name in ((max_norm(1.0), "max_norm"), (max_abs(1.0), "max_abs")):
        with pytest.raises(ValueError, match=f"{name} needs the parameters"):
            rule.update(PARAMS, rule.init(PARAMS))
