"""PyTorch under DeepXDE on the heat equation: Adam, then L-BFGS, the recipe of its examples.

With our points and our starting parameters put in. A point's first coordinate is ``x`` here, and
``t`` in ours; features are those of :func:`jaxdl.pinn.problem.periodic` on [0, 1] x [-1, 1].
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark import solving
from experiments.benchmark.solving import Run
from experiments.benchmark.turns import Contender
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn.problem import Ansatz
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Params


def make(config: ConfigDict) -> Contender:
    """DeepXDE; iterations of Adam are timed with a wider network on the same points."""
    solving.pin()
    os.environ["DDE_BACKEND"] = "pytorch"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # DeepXDE would take a GPU where there is one
    import torch

    torch.set_num_threads(1)
    notes = io.StringIO()  # it prints which backend and which floats it uses
    with contextlib.redirect_stdout(notes), contextlib.redirect_stderr(notes):
        import deepxde as dde

        dde.config.set_default_float("float64")
    settings = config.pinn
    dde.optimizers.LBFGS_options["iter_per_step"] = settings.lbfgs_chunk
    _, solver = solving.make_physics(config)
    k = solver.settings["options"]["k"]

    def equation(p, u):
        u_t = dde.grad.jacobian(u, p, i=0, j=1)
        return u_t - k * dde.grad.hessian(u, p, i=0, j=0)

    def features(p):
        x, t = p[:, :1], p[:, 1:]
        angle = np.pi * (x + 1)
        return torch.cat([2 * t - 1, torch.cos(angle), torch.sin(angle)], dim=1)

    def make_model(start: TrainState) -> tuple[dde.Model, Callable[[], Any]]:
        """The model, and an iteration of it."""
        points = {term: p[:, ::-1] for term, p in solving.points(start).items()}
        bump = np.exp(-((points["initial"][:, :1] / 0.1) ** 2))
        space, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
        data = dde.data.TimePDE(
            dde.geometry.GeometryXTime(space, time),
            equation,
            [dde.icbc.PointSetBC(points["initial"], bump)],
            anchors=points["equation"],
        )
        layers = solving.get_layers(start)
        net = dde.nn.FNN([*(len(kernel) for kernel, _ in layers), 1], "tanh", "Glorot normal")
        net.apply_feature_transform(features)
        with torch.no_grad():
            for linear, (kernel, bias) in zip(net.linears, layers, strict=True):
                linear.weight.copy_(torch.tensor(np.array(kernel.T)))
                linear.bias.copy_(torch.tensor(np.array(bias)))
        model = dde.Model(data, net)
        model.compile("adam", lr=settings.adam_rate, verbose=0)
        # What `Model.train` calls in its loop, without its bookkeeping.
        return model, lambda: model.train_step(*data.train_next_batch())

    def begin(start: TrainState) -> Run:
        model, step = make_model(start)
        iterations = 0

        def advance() -> int:
            nonlocal iterations
            if iterations < settings.adam_iterations:
                count = min(settings.chunk, settings.adam_iterations - iterations)
                for _ in range(count):
                    step()
                iterations += count
                return count
            if model.opt_name != "L-BFGS":
                model.compile("L-BFGS", verbose=0)
            start = lbfgs_iterations(model.opt)
            step()
            count = lbfgs_iterations(model.opt) - start
            return count if count > 1 else 0  # by 1 DeepXDE knows that it has converged

        def params() -> Params:
            layers = [(linear.weight.T, linear.bias) for linear in model.net.linears]
            return solving.make_params(
                [tuple(np.array(p.detach()) for p in layer) for layer in layers]
            )

        return Run(0.0, advance, params)

    def loss(start: TrainState) -> float:
        model, _ = make_model(start)
        losses = model.outputs_losses_train(*model.data.train_next_batch())[1]
        return float(losses.detach().sum())

    wide = Ansatz(solver.ansatz.problem, MLP(tuple(settings.adam_hidden)))
    params = jax.device_get(wide.init(member_key("init", 0)))
    _, step = make_model(solving.make_start(solver, 0).replace(params=params))

    def adam() -> None:
        for _ in range(settings.chunk):
            step()

    return solving.make_contender(config, solver, begin, loss, adam)


def lbfgs_iterations(optimizer) -> int:
    """Iterations made so far, read where :meth:`deepxde.Model.train` reads them."""
    return optimizer.state_dict()["state"].get(0, {}).get("n_iter", 0)
