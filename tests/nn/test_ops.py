"""Convolution, pooling and response normalization against XLA's own and against loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxdl.nn import ops, pooling
from jaxdl.nn.models.convnet import glyph_net
from jaxdl.nn.ops import (
    convolution,
    depthwise_convolution,
    local_response_normalization,
)
from jaxdl.nn.pooling import max_pool
from jaxdl.nn.winograd import choose_tiles
from jaxdl.train.parallel import make_placement


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def zeros(shape):
    return jnp.asarray(np.zeros(shape, np.float32))  # without a program for the shape


def plain(x, kernel, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def value_and_gradients(fn, *arguments):
    """What ``fn`` gives and the gradients of an arbitrary scalar of it."""
    y, back = jax.vjp(fn, *arguments)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, *back(weights)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


PADDINGS = (
    "SAME",
    "VALID",
    ((2, 0), (0, 1)),
    ((0, 3), (1, 4)),
    ((5, 4), (4, 6)),
    ((-1, 0), (0, -1)),
)


@settings(max_examples=5)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    padding=st.sampled_from(PADDINGS),
    groups=st.sampled_from((1, 2)),
)
@example(size=(7, 9), window=(3, 3), stride=1, padding="SAME", groups=1)
@example(size=(9, 7), window=(4, 2), stride=1, padding="SAME", groups=2)
@example(size=(11, 8), window=(5, 3), stride=2, padding="SAME", groups=1)
@example(size=(11, 11), window=(5, 5), stride=3, padding="VALID", groups=2)
@example(size=(10, 7), window=(5, 2), stride=4, padding=((2, 0), (0, 1)), groups=1)
# Padding beyond kernel - 1: the gradient's own padding is negative.
@example(size=(5, 6), window=(3, 2), stride=1, padding=((5, 4), (4, 6)), groups=1)
@example(size=(4, 3), window=(2, 1), stride=3, padding=((5, 4), (4, 6)), groups=2)
# Rows and columns that no window reads: between windows, and after the last.
@example(size=(11, 10), window=(2, 1), stride=4, padding="VALID", groups=1)
@example(size=(9, 8), window=(1, 1), stride=3, padding="SAME", groups=1)
# A border that negative padding takes away.
@example(size=(6, 7), window=(3, 3), stride=1, padding=((-1, 0), (0, -1)), groups=1)
@example(size=(7, 6), window=(3, 3), stride=2, padding=((-1, 0), (0, -1)), groups=1)
def test_convolution_is_laxs_in_values_and_gradients(size, window, stride, padding, groups):
    if padding == "VALID":
        pads = ((0, 0), (0, 0))
    elif padding == "SAME":
        pads = ((9, 9), (9, 9))
    else:
        pads = padding
    assume(all(s + sum(p) >= w for s, p, w in zip(size, pads, window, strict=True)))
    x, kernel = normal(0, 3, *size, 2 * groups), normal(1, *window, 2, 2 * groups)

    @jax.jit
    def both(x, kernel):
        options = {"stride": stride, "padding": padding, "groups": groups}
        return (
            value_and_gradients(lambda x, k: convolution(x, k, **options), x, kernel),
            value_and_gradients(lambda x, k: plain(x, k, **options), x, kernel),
        )

    assert_close(*both(x, kernel))


@pytest.mark.parametrize(
    ("examples", "limit", "chunks"),
    [(20, 5, 4), (20, 8, 4), (19, 8, 1), (64, 40, 2), (6, 2, 3), (125, 5, 25), (3, 8, 1)],
)
def test_chunks_are_equal_and_hold_all_examples_in_order(examples, limit, chunks):
    x = jnp.asarray(np.arange(examples * 3).reshape(examples, 3))
    (divided,) = ops._chunks(limit, x)
    assert len(divided) == chunks
    np.testing.assert_array_equal(divided.reshape(examples, 3), x)


@pytest.mark.parametrize(
    ("examples", "side", "channels", "taps", "padding", "tiled"),
    [
        (20, 34, 3, (7, 7), "SAME", False),  # chunks of 8 or fewer are 5
        (32, 16, 16, (3, 3), "SAME", True),  # two chunks
        (15, 13, 24, (5, 5), ((-1, 2), (0, -3)), True),
        (12, 20, 32, (2, 3), "SAME", True),
        (32, 16, 16, (7, 3), "SAME", False),
        (64, 24, 1, (5, 5), "VALID", False),  # few channels: by blocks, and these in tiles
        (32, 8, 16, (3, 3), "VALID", True),  # one tile
        (2, 8, 16, (3, 3), "SAME", False),  # little work
    ],
)
def test_convolution_of_large_batches_in_double_precision(
    examples, side, channels, taps, padding, tiled
):
    """Values and gradients in chunks, and in tiles where there are enough products."""
    x = normal(0, examples, side, side, channels)
    kernel = normal(1, *taps, channels, 32) / taps[0]
    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads((side, side), taps, (1, 1), padding)
    assert bool(choose_tiles(jnp.asarray(x), jnp.asarray(kernel), pads)) is tiled
    ours = jax.jit(lambda *a: value_and_gradients(partial(convolution, padding=padding), *a))
    with jax.enable_x64(True):
        exact = [jnp.asarray(a, jnp.float64) for a in (x, kernel)]
        theirs = value_and_gradients(partial(plain, padding=padding), *exact)
    for a, b in zip(*map(jax.device_get, (ours(x, kernel), theirs)), strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


def test_the_gradient_of_a_gradient_in_tiles():
    x, kernel = normal(0, 32, 16, 16, 16), normal(1, 3, 3, 16, 32) / 3

    def slope(convolve):
        def squared_gradient(kernel):
            gradient = jax.grad(lambda kernel: jnp.sum(jnp.tanh(convolve(x, kernel))))(kernel)
            return jnp.sum(jnp.square(gradient))

        return np.asarray(jax.jit(jax.grad(squared_gradient))(kernel))

    ours, theirs = slope(convolution), slope(plain)
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


def test_half_precision_takes_no_tiles():
    x, kernel = (normal(i, *s) for i, s in enumerate(((32, 16, 16, 16), (3, 3, 16, 32))))
    assert choose_tiles(x, kernel, ((1, 1), (1, 1)))
    x, kernel = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    assert not choose_tiles(x, kernel, ((1, 1), (1, 1)))
    y = (jax.jit(convolve)(x, kernel).astype(jnp.float32) for convolve in (convolution, plain))
    assert_close(*y, 1e-2)


def convolve_in_loops(x, kernel, stride, padding):
    """The definition, in NumPy and double precision."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw = kernel.shape[:2]
    oh, ow = ((s - k) // stride + 1 for s, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = np.zeros((len(x), oh, ow, kernel.shape[-1]))
    for p in range(oh):
        for q in range(ow):
            seen = x[:, p * stride : p * stride + kh, q * stride : q * stride + kw]
            y[:, p, q] = np.einsum("nhwc,hwco->no", seen, kernel)
    return y


def differences(fn, at, step=1e-5):
    """The gradient of a scalar function, by central differences."""
    slope = np.zeros(at.shape)
    for i in np.ndindex(at.shape):
        move = np.zeros(at.shape)
        move[i] = step
        slope[i] = (fn(at + move) - fn(at - move)) / (2 * step)
    return slope


def test_convolution_by_definition_and_finite_differences():
    stride, padding = 2, ((1, 2), (0, 1))
    x = np.asarray(normal(0, 2, 5, 6, 2), np.float64)
    kernel = np.asarray(normal(1, 3, 3, 2, 3), np.float64)

    def objective(x, kernel):
        return np.sum(np.sin(convolve_in_loops(x, kernel, stride, padding)))

    def ours(x, kernel):
        return convolution(x, kernel, stride=stride, padding=padding)

    arguments = x.astype(np.float32), kernel.astype(np.float32)
    gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(ours(*a))), (0, 1))
    values, gradients = jax.jit(lambda *a: (ours(*a), gradient(*a)))(*arguments)
    assert_close(values, convolve_in_loops(x, kernel, stride, padding))
    numeric = (
        differences(lambda at: objective(at, kernel), x),
        differences(lambda at: objective(x, at), kernel),
    )
    assert_close(gradients, numeric)


def test_convolution_in_a_scan_is_the_loop_written_out():
    x, kernel = normal(0, 4, 3, 7, 7, 2), 0.3 * normal(1, 3, 3, 2, 2)

    def descend(conv):
        def loss(kernel, x):
            return jnp.sum(jnp.square(conv(jnp.tanh(conv(x, kernel, stride=2)), kernel)))

        def step(kernel, x):
            value, slope = jax.value_and_grad(loss)(kernel, x)
            return kernel - 1e-3 * slope, value

        return step

    scanned = jax.jit(lambda k, x: lax.scan(descend(convolution), k, x))(kernel, x)
    step = jax.jit(descend(plain))
    values = []
    for images in x:
        kernel, value = step(kernel, images)
        values.append(value)
    assert_close(scanned, (kernel, np.stack(values)))


@pytest.mark.parametrize("over", [(0, 0), (0, None), (None, 0)])
def test_convolution_under_vmap_is_a_loop_over_members(over):
    x = normal(0, 3, 2, 5, 6, 2) if over[0] == 0 else normal(0, 2, 5, 6, 2)
    kernel = normal(1, 3, 3, 2, 2, 4) if over[1] == 0 else normal(1, 3, 2, 2, 4)

    def of(conv):
        return lambda x, k: value_and_gradients(lambda x, k: conv(x, k, stride=2), x, k)

    @jax.jit
    def both(x, kernel):
        def pick(array, axis, i):
            return array if axis is None else array[i]

        def member(i):
            return of(plain)(pick(x, over[0], i), pick(kernel, over[1], i))

        return jax.vmap(of(convolution), over)(x, kernel), lax.map(member, jnp.arange(3))

    assert_close(*both(x, kernel))


@pytest.mark.parametrize(
    ("channels", "kernel", "groups"),
    [(3, (3, 3, 2, 4), 1), (4, (3, 3, 4, 4), 2), (4, (3, 3, 2, 3), 2), (3, (3, 3, 1, 4), 2)],
    ids=["channels", "channels of a group", "filters not divisible", "channels not divisible"],
)
def test_convolution_refuses_channels_that_do_not_fit(channels, kernel, groups):
    with pytest.raises(ValueError, match="groups"):
        convolution(zeros((1, 5, 5, channels)), zeros(kernel), groups=groups)


@pytest.mark.usefixtures("types_unchecked")
def test_convolution_refuses_a_table():
    with pytest.raises(ValueError, match=r"images \[n, h, w, c\], not an array \[5, 7\]"):
        convolution(zeros((5, 7)), zeros((3, 3, 7, 2)))


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("stride", [0, -1, 1.5, (2, 2)])
def test_convolution_refuses_a_stride_that_is_no_whole_number_from_1(stride):
    with pytest.raises(ValueError, match="give one whole number from 1"):
        convolution(zeros((1, 5, 5, 3)), zeros((3, 3, 3, 2)), stride=stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_refuses_an_image_smaller_than_the_kernel(stride):
    with pytest.raises(ValueError, match="kernel"):
        convolution(zeros((1, 3, 3, 1)), zeros((5, 5, 1, 1)), stride=stride, padding="VALID")


@pytest.mark.parametrize(
    ("ours", "theirs", "channels"),
    [
        (convolution, plain, 2),
        (convolution, plain, 16),
        (depthwise_convolution, partial(plain, groups=4), 1),
    ],
)
def test_convolution_of_a_divided_batch_and_a_replicated_kernel(ours, theirs, channels):
    """Under shard_map the kernel's gradient is the sum over devices, as it is for XLA's own."""
    side, filters = (16, 64) if channels == 16 else (6, 4)  # enough products for tiles, or not
    x = normal(0, 8, side, side, filters if channels == 1 else channels)
    kernel = normal(1, 3, 3, channels, filters) / 3
    mesh = make_placement(member=1, data=2, devices=jax.devices()[:2]).mesh
    spec = jax.sharding.PartitionSpec

    def gradients(convolve):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a))), (0, 1))

    specs = spec("data"), spec()
    divided = jax.shard_map(gradients(ours), mesh=mesh, in_specs=specs, out_specs=specs)
    assert_close(jax.jit(divided)(x, kernel), jax.jit(gradients(theirs))(x, kernel))


@pytest.mark.parametrize(
    ("side", "width", "stride", "padding"),
    [(7, 3, 1, "SAME"), (8, 5, 2, "SAME"), (6, 3, 2, ((1, 1), (1, 1))), (5, 5, 1, "VALID")],
)
def test_depthwise_convolution_is_laxs_in_values_and_gradients(side, width, stride, padding):
    x, kernel = normal(0, 3, side, side + 1, 4), normal(1, width, width, 1, 4)
    ours = partial(depthwise_convolution, stride=stride, padding=padding)
    theirs = partial(plain, stride=stride, padding=padding, groups=4)
    both = jax.jit(lambda *a: [value_and_gradients(f, *a) for f in (ours, theirs)])
    for a, b in zip(*both(x, kernel), strict=True):
        assert_close(a, b)


def plain_pool(x, window, stride):
    sides = (1, window, window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sides, (1, stride, stride, 1), "VALID")


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((6, 8), 2, 2),
        ((7, 9), 2, 2),  # a row and a column are left over
        ((5, 6), 2, 1),
        ((7, 6), 2, 3),  # pixels between windows belong to none
        ((9, 8), 3, 3),
        ((8, 9), 3, 2),
        ((6, 5), 3, 1),
        ((3, 3), 3, 2),
    ],
)
def test_max_pool_is_laxs_in_values_and_gradients_ties_too(size, window, stride):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (4, *size, 2)).astype(np.float32)  # most windows have ties
    outputs = ((s - window) // stride + 1 for s in size)
    # Whole numbers add up without rounding, in any order.
    g = rng.integers(-9, 9, (4, *outputs, 2)).astype(np.float32)

    @jax.jit
    def both(x, g):
        def of(pool):
            y, back = jax.vjp(pool, x)
            return y, *back(g)

        return (
            of(lambda x: max_pool(x, window=window, stride=stride)),
            of(lambda x: plain_pool(x, window, stride)),
        )

    ours, theirs = both(x, g)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first_maximum():
    x = np.array([[1, 3], [3, 3]], np.float32).reshape(1, 2, 2, 1)
    gradient = jax.jit(jax.grad(lambda x: 5 * jnp.sum(max_pool(x))))(x)
    np.testing.assert_array_equal(np.reshape(gradient, (2, 2)), [[0, 5], [0, 0]])


def test_max_pool_strides_by_its_window_and_works_in_loops():
    x = normal(0, 3, 2, 7, 7, 2)

    def of(pool):
        return lambda x: value_and_gradients(pool, x)

    @jax.jit
    def all_ways(x):
        ours, theirs = of(lambda x: max_pool(x, window=3)), of(lambda x: plain_pool(x, 3, 3))
        return lax.map(ours, x), jax.vmap(ours)(x), lax.map(theirs, x)

    mapped, batched, alone = all_ways(x)
    assert_close(mapped, alone)
    assert_close(batched, alone)


def test_max_pool_refuses_an_image_smaller_than_the_window():
    with pytest.raises(ValueError, match="window of 3 does not fit"):
        max_pool(zeros((1, 2, 5, 1)), window=3)


def normalize_in_loops(x, size, alpha, beta):
    """The definition, in NumPy and double precision."""
    y, channels = np.zeros(x.shape), x.shape[-1]
    for c in range(channels):
        around = range(max(0, c - size // 2), min(channels, c + size // 2 + 1))
        total = sum(x[..., d] ** 2 for d in around)
        y[..., c] = x[..., c] / (1 + alpha / size * total) ** beta
    return y


@pytest.mark.parametrize(
    ("channels", "size", "alpha", "beta"),
    [(8, 5, 1e-4, 0.75), (8, 5, 2.0, 0.75), (3, 5, 2.0, 0.5), (1, 5, 3.0, 0.75), (6, 1, 1.0, 1.0)],
)
def test_response_normalization_by_definition_and_finite_differences(channels, size, alpha, beta):
    options = {"size": size, "alpha": alpha, "beta": beta}
    x = 3 * np.random.default_rng(0).normal(size=(2, 2, 3, channels))

    def ours(x):
        return local_response_normalization(x, **options)

    slope = jax.grad(lambda x: jnp.sum(jnp.sin(ours(x))))
    values, gradient = jax.jit(lambda x: (ours(x), slope(x)))(x.astype(np.float32))
    assert_close(values, normalize_in_loops(x, **options))
    assert_close(
        gradient, differences(lambda x: np.sum(np.sin(normalize_in_loops(x, **options))), x)
    )


def test_response_normalization_is_caffes_by_default():
    x = 50 * np.random.default_rng(0).normal(size=(1, 2, 2, 7))
    expected = normalize_in_loops(x, 5, 1e-4, 0.75)
    assert abs(expected / x).min() < 0.95  # so that it shows
    ours = jax.jit(local_response_normalization)(x.astype(np.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_response_normalization_refuses_a_window_without_a_middle():
    with pytest.raises(ValueError, match="window of 4 channels"):
        local_response_normalization(zeros((1, 2, 2, 6)), size=4)


def test_gradients_of_a_whole_network_are_autodiffs(monkeypatch):
    """Under jit XLA may compute the pool's input again for the backward pass, and round it
    otherwise; a search for the maximum by equality then loses gradients."""
    model, x = glyph_net(10), normal(0, 32, 20, 20, 1)
    variables = jax.tree.map(
        lambda weights: 0.1 * normal(1, *weights.shape),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )

    def gradients():
        def loss(params):
            both = {**variables, "params": params}
            logits, _ = model.apply(both, x, train=True, mutable=["batch_stats"])
            return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0])

        return jax.jit(jax.grad(loss))(variables["params"])

    ours = gradients()
    monkeypatch.setattr(ops, "convolution", plain)
    monkeypatch.setattr(
        pooling, "max_pool", lambda x, window, stride: plain_pool(x, window, stride)
    )
    theirs = gradients()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # Biases before batch normalization have no gradient but rounding.
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)
