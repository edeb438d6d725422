"""The plain convolutional networks of jaxdl in PyTorch, trained the way its users train them.

Eager, one network after the other, ``torch.optim.SGD`` with momentum and weight decay on the
kernels only, frozen layers with ``requires_grad_(False)`` and in ``eval()``, so that nothing is
differentiated below the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn

from experiments._interleave import seconds
from experiments._plain_reference import Task
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.types import Variables


def network(model: ConvNet, variables: Variables) -> nn.Sequential:
    """The same layers, under the same names, with a copy of the same values.

    Raises:
      ValueError: if the network has dropout, or "SAME" padding with a stride.
    """
    if model.dropout:
        raise ValueError("the PyTorch reference has no dropout")
    values = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables)
    layers = nn.Sequential()
    for depth, spec in enumerate(model.convolutions, 1):
        name = f"conv{depth}"
        p = values["params"][name]
        kernel = p["kernel"].permute(3, 2, 0, 1)  # HWIO -> OIHW
        conv = nn.Conv2d(
            *kernel.shape[1::-1],
            spec.kernel,
            spec.stride,
            spec.padding.lower(),
            bias=not model.batch_norm,
        )
        bias = {} if model.batch_norm else {"bias": p["bias"]}
        parts: list[nn.Module] = [_with(conv, weight=kernel, **bias)]
        if model.batch_norm:
            stats = values["batch_stats"][name]["BatchNorm_0"]
            # Flax's momentum is what is kept, PyTorch's what is new.
            norm = nn.BatchNorm2d(spec.features, eps=1e-5, momentum=0.01)
            scale = p["BatchNorm_0"]
            parts.append(
                _with(
                    norm,
                    weight=scale["scale"],
                    bias=scale["bias"],
                    running_mean=stats["mean"],
                    running_var=stats["var"],
                )
            )
        parts.append(nn.ReLU())
        if spec.pool > 1:
            parts.append(nn.MaxPool2d(spec.pool))
        layers.add_module(name, nn.Sequential(*parts))
    for depth in range(len(model.convolutions) + 1, model.depth + 1):
        p = values["params"][f"fc{depth}"]["dense"]
        weight = p["kernel"].T
        if depth == len(model.convolutions) + 1 and model.convolutions:
            # Flax flattens height, width, channels; PyTorch channels, height, width.
            channels = model.convolutions[-1].features
            side = round((weight.shape[1] // channels) ** 0.5)
            blocks = weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2)
            weight = blocks.reshape(weight.shape)
        dense = _with(nn.Linear(*weight.shape[::-1]), weight=weight, bias=p["bias"])
        parts = [dense] if depth == model.depth else [dense, nn.ReLU()]
        layers.add_module(f"fc{depth}", nn.Sequential(nn.Flatten(), *parts))
    return layers


def _with(module: nn.Module, **values: Tensor) -> nn.Module:
    """The module with these parameters and buffers."""
    module.load_state_dict(values, strict=False)
    return module


def images_of(images: np.ndarray) -> Tensor:
    """NHWC as NCHW."""
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).contiguous()


def freeze(layers: nn.Sequential, n: int) -> nn.Sequential:
    """The network for training with its first ``n`` layers frozen."""
    layers.train()
    for layer in list(layers)[:n]:
        layer.eval().requires_grad_(False)
    return layers


def make_optimizer(
    layers: nn.Sequential, weight_decay: float, momentum: float = 0.9
) -> torch.optim.SGD:
    """SGD of what trains; kernels decay, biases and scales do not. Each step brings its rate."""
    trains = [p for p in layers.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trains if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trains if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum)


def train(
    layers: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    ids: Iterable[Tensor],
    rates: Sequence[float],
) -> float:
    """A step for each batch of ``ids``; the last loss."""
    for batch, rate in zip(ids, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = nn.functional.cross_entropy(layers(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


class Rule(NamedTuple):
    """SGD with momentum .9."""

    rates: Sequence[float]  # of each step
    weight_decay: float


class Setting(NamedTuple):
    """What makes PyTorch faster or slower and changes no result."""

    threads: int
    memory_format: torch.memory_format

    def __str__(self) -> str:
        layout = str(self.memory_format).removeprefix("torch.").removesuffix("_format")
        return f"{self.threads} thread{'s' * (self.threads > 1)}, {layout}"


def one_after_the_other(
    model: ConvNet,
    starts: Sequence[tuple[Variables, int]],
    task: Task,
    rule: Rule,
    setting: Setting,
) -> Callable[[], None]:
    """``run()`` trains networks for the steps of the task, and further each time it is called.

    Args:
      starts: for each network its first variables and how many layers of it are frozen.
    """
    form = setting.memory_format
    images = images_of(task.images).to(memory_format=form)
    labels, ids = torch.tensor(task.labels).long(), list(torch.tensor(task.ids).long())
    networks = [
        freeze(network(model, variables).to(memory_format=form), n) for variables, n in starts
    ]
    optimizers = [make_optimizer(layers, rule.weight_decay) for layers in networks]

    def run() -> None:
        torch.set_num_threads(setting.threads)
        for layers, one in zip(networks, optimizers, strict=True):
            train(layers, one, images, labels, ids, rule.rates)

    return run


def fastest(
    model: ConvNet, variables: Variables, task: Task, rule: Rule, cores: int, steps: int = 10
) -> Setting:
    """The setting in which a network of which all is trained took least, the best of three."""
    task, rule = task._replace(ids=task.ids[:steps]), rule._replace(rates=rule.rates[:steps])
    formats = (torch.contiguous_format, torch.channels_last)
    settings = [Setting(*choice) for choice in product(sorted({1, cores}), formats)]
    return fastest_of(
        settings, lambda one: one_after_the_other(model, [(variables, 0)], task, rule, one)
    )


def fastest_of(
    settings: Sequence[Setting], start: Callable[[Setting], Callable[[], object]]
) -> Setting:
    """The setting in which what ``start`` makes runs fastest, the best of three in turns."""
    runs = [start(one) for one in settings]
    for run in runs:
        run()
    times = np.array([[seconds(run) for run in runs] for _ in range(3)])
    return settings[int(times.min(axis=0).argmin())]
