"""jinns on the heat equation, by one of its own optimizers with its defaults.

Written as its own documentation and examples write it, with our points and our starting parameters
put in. Features are those of :func:`jaxdl.pinn.problem.periodic` on [0, 1] x [-1, 1].
"""

from __future__ import annotations

import contextlib
import io
import warnings

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.benchmark import solving
from experiments.benchmark.solving import Run
from experiments.benchmark.turns import Contender
from jaxdl.train.state import TrainState
from jaxdl.types import Params

SSBROYDEN, NATURAL = "ssbroyden", "natural gradient"


def make(optimizer: str, config: ConfigDict) -> Contender:
    """jinns by an optimizer, ``SSBROYDEN`` or ``NATURAL``."""
    solving.pin()
    import equinox as eqx
    import jinns as ji

    _, solver = solving.make_physics(config)
    k = solver.settings["options"]["k"]

    class Heat(ji.loss.PDENonStatio):
        def equation(self, t_x, u, params):  # as jinns' own BurgersEquation
            slope = jax.grad(lambda t_x: jnp.squeeze(u(t_x, params)[u.slice_solution]))
            curvature = jax.grad(lambda t_x: slope(t_x)[1])
            return slope(t_x)[0:1] - k * curvature(t_x)[1:2]

    def features(t_x, params):
        angle = jnp.pi * (t_x[1] + 1)
        return jnp.stack([2 * t_x[0] - 1, jnp.cos(angle), jnp.sin(angle)])

    def linears(network) -> list:
        return [layer for layer in network.layers if isinstance(layer, eqx.nn.Linear)]

    def make_problem(start: TrainState):
        """Parameters, loss and data."""
        layers, points = solving.get_layers(start), solving.points(start)
        shapes = [kernel.shape for kernel, _ in layers]
        parts = [part for shape in shapes for part in ((eqx.nn.Linear, *shape), (jnp.tanh,))][:-1]
        key = jax.random.key(0)  # all that is drawn with it is replaced
        u, network = ji.nn.PINN_MLP.create(
            key=key, eqx_list=tuple(parts), eq_type="PDENonStatio", input_transform=features
        )
        weights = [jnp.asarray(p) for kernel, bias in layers for p in (kernel.T, bias)]
        network = eqx.tree_at(
            lambda n: [p for layer in linears(n) for p in (layer.weight, layer.bias)],
            network,
            weights,
        )
        params = ji.parameters.Params(nn_params=network, eq_params={})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Missing boundary condition")  # it is periodic
            term_weights = ji.loss.LossWeightsPDENonStatio(dyn_loss=1.0, initial_condition=1.0)
            loss = ji.loss.LossPDENonStatio(
                u=u,
                dynamic_loss=Heat(),
                initial_condition_fun=lambda x: jnp.exp(-((x / 0.1) ** 2)),
                loss_weights=term_weights,
                params=params,
            )
        bounds = {"min_pts": (-1.0,), "max_pts": (1.0,), "tmin": 0.0, "tmax": 1.0}
        sizes = {"n": len(points["equation"]), "nb": None, "ni": len(points["initial"])}
        data = ji.data.CubicMeshPDENonStatio(key=key, dim=1, **sizes, **bounds)
        inside, initial = jnp.asarray(points["equation"]), jnp.asarray(points["initial"][:, 1:])
        data = eqx.tree_at(lambda data: (data.domain, data.initial), data, (inside, initial))
        return params, loss, data

    if optimizer == SSBROYDEN:
        rule, chunk = ji.optimizers.scale_by_SSBroyden_family(), config.pinn.jinns_chunk
        arguments = line_search_arguments(ji)
    else:
        rule, chunk, arguments = ji.optimizers.vanilla_ngd(), config.pinn.natural_chunk, None

    def begin(start: TrainState) -> Run:
        params, loss, data = make_problem(start)

        @jax.jit  # so that `solve`, which compiles each time it is called, is compiled once
        def train(params, state, data):
            solved = ji.solve(
                n_iter=chunk,
                init_params=params,
                data=data,
                loss=loss,
                optimizer=rule,
                opt_state=state,
                print_loss_every=chunk,
                verbose=False,
                ahead_of_time=False,
                extra_optax_args_and_kwargs=arguments,
            )
            return solved[0], solved[5], solved[3]

        carried = jax.tree.map(jnp.asarray, (params, rule.init(params), data))
        train, seconds = solving.compile_timed(train, *carried)

        def advance() -> int:
            nonlocal carried
            with contextlib.redirect_stdout(io.StringIO()):  # its line search prints what fails
                carried = jax.block_until_ready(train(*carried))
            return chunk

        def params_reached() -> Params:
            layers = [(layer.weight.T, layer.bias) for layer in linears(carried[0].nn_params)]
            return solving.make_params(jax.device_get(layers))

        return Run(seconds, advance, params_reached)

    def start_loss(start: TrainState) -> float:
        params, loss, data = make_problem(start)
        batch = data.get_batch()[1]
        return float(jax.jit(lambda params: loss.evaluate(params, batch)[0])(params))

    return solving.make_contender(config, solver, begin, start_loss)


def line_search_arguments(ji) -> dict[str, object]:
    """Arguments that `jinns.solve` passes to the optimizer for its line search."""

    def callback_value_fn(params, batch, loss):
        return loss.evaluate(params, batch)[0]

    def callback_grad_fn(params, batch, loss):
        return loss.ponderate_and_sum_gradient(loss.values_and_grads(params, batch)[1])

    variable = ji.solver.GetJinnsVariableName
    return {
        "value": variable("train_loss_value"),
        "grad_pt": variable("grads"),
        "value_fn": callback_value_fn,
        "grad_fn": callback_grad_fn,
        "batch": variable("batch"),
        "loss": variable("loss"),
    }
