"""The contenders of ``configs/benchmark.py:pinn`` that are not ours: DeepXDE and jinns, extras.

Each is written as its own documentation and examples write it, as far as they go, with our points
and our starting parameters put in. ``t`` is a point's first coordinate in ours and in jinns, ``x``
in DeepXDE; features are those of :func:`jaxdl.pinn.problem.periodic` on [0, 1] x [-1, 1].
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from experiments._interleave import Contender, Slice
from experiments._pinn_contenders import (
    ADAM,
    Run,
    compiled,
    make_lab,
    pin,
    questions,
    times,
    wide_start,
)
from jaxdl.nn.models.mlp import dense_layers
from jaxdl.train.state import TrainState
from jaxdl.types import Params

pi = np.pi
Layers = list[tuple[Float[np.ndarray, "m n"], Float[np.ndarray, " n"]]]
"""Kernel and bias of each."""


def layers_of(start: TrainState) -> Layers:
    """Those of our network."""
    return dense_layers({"params": start.params["network"]})


def as_ours(layers: Layers) -> Params:
    """The parameters of our network."""
    named = [{"kernel": kernel, "bias": bias} for kernel, bias in layers]
    return {"network": {f"layer_{i}": layer for i, layer in enumerate(named)}, "physics": {}}


# --- DeepXDE -----------------------------------------------------------------------------------


def deepxde(config: ConfigDict) -> Contender:
    """PyTorch under DeepXDE: Adam, then L-BFGS, the recipe of its examples."""
    pin()
    os.environ["DDE_BACKEND"] = "pytorch"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # DeepXDE would take a GPU where there is one
    import torch

    torch.set_num_threads(1)
    told = io.StringIO()  # it prints which backend and which floats it uses
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        import deepxde as dde

        dde.config.set_default_float("float64")
    dde.optimizers.LBFGS_options["iter_per_step"] = config.pinn.lbfgs_chunk
    of = config.pinn
    (program,) = make_lab(config).solvers
    k = program.planned.settings["options"]["k"]

    def model_of(start: TrainState):
        def equation(p, u):
            u_t = dde.grad.jacobian(u, p, i=0, j=1)
            return u_t - k * dde.grad.hessian(u, p, i=0, j=0)

        def features(p):
            x, t = p[:, :1], p[:, 1:]
            angle = pi * (x + 1)
            return torch.cat([2 * t - 1, torch.cos(angle), torch.sin(angle)], dim=1)

        inside, initial = (
            start.collections["sample"].points[n][:, ::-1] for n in ("equation", "initial")
        )
        space, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
        bump = np.exp(-((initial[:, :1] / 0.1) ** 2))
        data = dde.data.TimePDE(
            dde.geometry.GeometryXTime(space, time),
            equation,
            [dde.icbc.PointSetBC(initial, bump)],
            anchors=inside,
        )
        layers = layers_of(start)
        widths = [len(kernel) for kernel, _ in layers]
        net = dde.nn.FNN([*widths, 1], "tanh", "Glorot normal")
        net.apply_feature_transform(features)
        with torch.no_grad():
            for linear, (kernel, bias) in zip(net.linears, layers, strict=True):
                linear.weight.copy_(torch.tensor(np.array(kernel.T)))
                linear.bias.copy_(torch.tensor(np.array(bias)))
        model = dde.Model(data, net)
        model.compile("adam", lr=of.adam_rate, verbose=0)
        # What `Model.train` calls in its loop, without its bookkeeping.
        return model, lambda: model.train_step(*data.train_next_batch())

    def begin(start: TrainState) -> Run:
        model, step = model_of(start)
        iterations = 0

        def advance() -> int:
            nonlocal iterations
            if iterations < of.adam_iterations:
                done = min(of.chunk, of.adam_iterations - iterations)
                for _ in range(done):
                    step()
                iterations += done
                return done
            if model.opt_name != "L-BFGS":
                model.compile("L-BFGS", verbose=0)
            before = lbfgs_iterations(model.opt)
            step()
            done = lbfgs_iterations(model.opt) - before
            return done if done > 1 else 0  # one alone is how DeepXDE knows that it has converged

        def params() -> Params:
            layers = [(linear.weight.T, linear.bias) for linear in model.net.linears]
            return as_ours([tuple(np.array(p.detach()) for p in layer) for layer in layers])

        return Run(0.0, advance, params)

    def loss(start: TrainState) -> float:
        model, _ = model_of(start)
        losses = model.outputs_losses_train(*model.data.train_next_batch())[1]
        return float(losses.detach().sum())

    _, step = model_of(wide_start(config, program))
    count = of.adam_chunks * of.chunk
    slices = {ADAM: Slice(1, count, times(step, count))}
    return Contender(slices, questions(config, program, begin, loss))


def lbfgs_iterations(optimizer) -> int:
    """So many it has made; where :meth:`deepxde.Model.train` reads them, too."""
    return optimizer.state_dict()["state"].get(0, {}).get("n_iter", 0)


# --- jinns -------------------------------------------------------------------------------------


def jinns(optimizer: str, config: ConfigDict) -> Contender:
    """jinns by one of its own optimizers, both with their defaults."""
    pin()
    import equinox as eqx
    import jinns as ji

    (program,) = make_lab(config).solvers
    k = program.planned.settings["options"]["k"]

    class Heat(ji.loss.PDENonStatio):
        def equation(self, t_x, u, params):  # as jinns' own BurgersEquation
            slope = jax.grad(lambda t_x: jnp.squeeze(u(t_x, params)[u.slice_solution]))
            curvature = jax.grad(lambda t_x: slope(t_x)[1])
            return slope(t_x)[0:1] - k * curvature(t_x)[1:2]

    def features(t_x, params):
        angle = pi * (t_x[1] + 1)
        return jnp.stack([2 * t_x[0] - 1, jnp.cos(angle), jnp.sin(angle)])

    def linears(network) -> list:
        return [layer for layer in network.layers if isinstance(layer, eqx.nn.Linear)]

    def problem_of(start: TrainState):
        layers, points = layers_of(start), start.collections["sample"].points
        shapes = [kernel.shape for kernel, _ in layers]
        parts = [part for shape in shapes for part in ((eqx.nn.Linear, *shape), (jnp.tanh,))][:-1]
        key = jax.random.key(0)  # all that is drawn with it is replaced
        u, network = ji.nn.PINN_MLP.create(
            key=key, eqx_list=tuple(parts), eq_type="PDENonStatio", input_transform=features
        )
        network = eqx.tree_at(
            lambda n: [p for layer in linears(n) for p in (layer.weight, layer.bias)],
            network,
            [jnp.asarray(p) for kernel, bias in layers for p in (kernel.T, bias)],
        )
        params = ji.parameters.Params(nn_params=network, eq_params={})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Missing boundary condition")  # it is periodic
            loss = ji.loss.LossPDENonStatio(
                u=u,
                dynamic_loss=Heat(),
                initial_condition_fun=lambda x: jnp.exp(-((x / 0.1) ** 2)),
                loss_weights=ji.loss.LossWeightsPDENonStatio(dyn_loss=1.0, initial_condition=1.0),
                params=params,
            )
        data = ji.data.CubicMeshPDENonStatio(
            key=key,
            n=len(points["equation"]),
            nb=None,
            ni=len(points["initial"]),
            dim=1,
            min_pts=(-1.0,),
            max_pts=(1.0,),
            tmin=0.0,
            tmax=1.0,
        )
        inside, initial = jnp.asarray(points["equation"]), jnp.asarray(points["initial"][:, 1:])
        data = eqx.tree_at(lambda data: (data.domain, data.initial), data, (inside, initial))
        return params, loss, data

    if optimizer == "ssbroyden":
        rule, chunk = ji.optimizers.scale_by_SSBroyden_family(), config.pinn.jinns_chunk
    else:
        rule, chunk = ji.optimizers.vanilla_ngd(), config.pinn.natural_chunk

    def begin(start: TrainState) -> Run:
        params, loss, data = problem_of(start)

        @jax.jit  # so that `solve`, which compiles each time it is called, is compiled once
        def further(params, state, data):
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
                extra_optax_args_and_kwargs=extras(ji) if optimizer == "ssbroyden" else None,
            )
            return solved[0], solved[5], solved[3]

        carried = jax.tree.map(jnp.asarray, (params, rule.init(params), data))
        train, seconds = compiled(further, *carried)

        def advance() -> int:
            nonlocal carried
            with contextlib.redirect_stdout(io.StringIO()):  # its line search prints what fails
                carried = jax.block_until_ready(train(*carried))
            return chunk

        def reached() -> Params:
            layers = [(layer.weight.T, layer.bias) for layer in linears(carried[0].nn_params)]
            return as_ours(jax.device_get(layers))

        return Run(seconds, advance, reached)

    def loss_at(start: TrainState) -> float:
        params, loss, data = problem_of(start)
        batch = data.get_batch()[1]
        return float(jax.jit(lambda params: loss.evaluate(params, batch)[0])(params))

    return Contender({}, questions(config, program, begin, loss_at))


def extras(ji) -> dict[str, object]:
    """What `jinns.solve` must be told so that it passes to the optimizer what it asks for."""

    def callback_value_fn(params, batch, loss):
        return loss.evaluate(params, batch)[0]

    def callback_grad_fn(params, batch, loss):
        return loss.ponderate_and_sum_gradient(loss.values_and_grads(params, batch)[1])

    known = ji.solver.GetJinnsVariableName
    return {
        "value": known("train_loss_value"),
        "grad_pt": known("grads"),
        "value_fn": callback_value_fn,
        "grad_fn": callback_grad_fn,
        "batch": known("batch"),
        "loss": known("loss"),
    }
