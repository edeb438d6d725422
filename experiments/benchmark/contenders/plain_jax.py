"""The plain convolutional networks of jaxdl as one first writes them in JAX.

A jitted step with ``lax.conv_general_dilated`` and ``flax.linen.max_pool``, gradients left to
autodiff, in a Python loop, one network after the other. Frozen layers are computed and
differentiated like the others, use their running statistics, and get no update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from experiments.benchmark.contenders import Task
from jaxdl.nn.layered import layer_names
from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.types import Params, Variables


def apply(
    model: ConvNet, variables: Variables, x: Float[Array, "b h w c"], trains: dict[str, Array]
) -> tuple[Float[Array, "b k"], Params]:
    """Train-mode logits and new batch statistics of the network, in the ops of `lax` and Flax.

    Args:
      trains: whether each layer is trained; a frozen one keeps and uses its statistics.
    """
    params, running, updated = variables["params"], variables["batch_stats"], {}
    for depth, spec in enumerate(model.convolutions, 1):
        name = f"conv{depth}"
        p = params[name]
        strides = (spec.stride, spec.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, p["kernel"], strides, spec.padding, None, None, layout)
        if not model.batch_norm:
            x = x + p["bias"][None, None, None]
        else:
            norm, old = p["BatchNorm_0"], running[name]["BatchNorm_0"]
            new = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
            stats = jax.tree.map(lambda n, o, t=trains[name]: jnp.where(t, n, o), new, old)
            average = jax.tree.map(lambda s, o: 0.99 * o + 0.01 * s, stats, old)
            updated[name] = {"BatchNorm_0": average}
            per_channel = stats["mean"], stats["var"], norm["scale"], norm["bias"]
            mean, var, scale, bias = (a[None, None, None] for a in per_channel)
            x = (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias
        x = nn.relu(x)
        if spec.pool > 1:
            x = nn.max_pool(x, (spec.pool, spec.pool), (spec.pool, spec.pool))
    x = x.reshape(len(x), -1)
    for depth in range(len(model.convolutions) + 1, model.depth + 1):
        p = params[f"fc{depth}"]["dense"]
        x = x @ p["kernel"] + p["bias"][None]
        x = x if depth == model.depth else nn.relu(x)
    return x, updated


def make_step(model: ConvNet, rule: optax.GradientTransformation) -> Callable:
    """``step(variables, opt_state, images, labels, ids, trains)``, to be jitted.

    With ``trains`` traced, one program serves all cuts and computes all gradients; with static
    booleans XLA drops the gradients that nobody uses, at a compilation for each cut.
    """

    def step(variables, opt_state, images, labels, ids, trains):
        def loss_fn(params):
            logits, stats = apply(model, {**variables, "params": params}, images[ids], trains)
            return jnp.mean(cross_entropy(logits, labels[ids])), stats

        def trainable(tree):
            return {
                name: jax.tree.map(lambda x, t=trains[name]: jnp.where(t, x, 0), layer)
                for name, layer in tree.items()
            }

        params = variables["params"]
        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        # Gradients, so that static booleans leave nothing to compute; updates because of the decay.
        updates, opt_state = rule.update(trainable(grads), opt_state, params)
        updates = trainable(updates)
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": stats}, opt_state, loss

    return step


def one_after_the_other(
    model: ConvNet,
    starts: Sequence[tuple[Variables, int]],
    task: Task,
    rule: optax.GradientTransformation,
    *,
    static: bool,
) -> Callable[[], None]:
    """``run()`` trains networks for the steps of the task, and further each time it is called.

    Args:
      starts: each network's initial variables and number of frozen layers.
      rule: the optimizer; the task's rates and decay are not read.
      static: whether what trains is known to the compiler, one program a cut, or an argument of
        one program for all.
    """
    names = layer_names(starts[0][0])
    images, labels = jnp.asarray(task.images), jnp.asarray(task.labels)
    step = make_step(model, rule)
    step_program = jax.jit(step, donate_argnums=(0, 1))

    def program(frozen: int) -> Callable:
        trains = {name: np.bool_(depth >= frozen) for depth, name in enumerate(names)}
        if static:
            return jax.jit(partial(step, trains=trains), donate_argnums=(0, 1))
        return partial(step_program, trains=trains)

    programs = {frozen: program(frozen) for _, frozen in starts}
    states = [(jax.tree.map(jnp.array, v), rule.init(v["params"])) for v, _ in starts]

    def run() -> None:
        for i, (_, frozen) in enumerate(starts):
            state = states[i]
            for ids in task.ids:
                *state, _ = programs[frozen](*state, images, labels, ids)
            states[i] = jax.block_until_ready(state)

    return run
