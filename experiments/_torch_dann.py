"""The networks of the DANN paper in PyTorch, trained the way its users train them.

Eager, one network after the other. Both domains go through the encoder as one batch, and pooling
comes before the ReLU, as in ours: of what amounts to the same, what is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments import _torch_reference
from experiments._torch_reference import Setting, fastest_of, images_of, make_optimizer
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.types import Variables


class Task(NamedTuple):
    """What is trained on, and how."""

    images: np.ndarray  # of both domains, as the network sees them
    labels: np.ndarray
    ids: np.ndarray  # [steps, both]: the source's half of each batch, then the target's
    rates: Sequence[float]  # of each step
    scales: Sequence[float]  # of the reversed gradient
    weight: float  # of the domain classifier's loss
    weight_decay: float


class ReverseGradient(torch.autograd.Function):
    """:func:`jaxdl.adaptation.reverse_gradient`."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        """``x`` itself."""
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        """``-scale g``."""
        return g * -ctx.scale, None


def network(model: AdversarialNet, variables: Variables) -> nn.ModuleDict:
    """``encoder``, ``label`` and ``domain``, with a copy of the same values.

    Raises:
      ValueError: if the network has dropout.
    """
    params, deep = variables["params"], len(model.convolutions)

    def path(head: str, hidden: tuple[int, ...], out: int) -> nn.Sequential:
        """From the images through one head."""
        values = {f"conv{i + 1}": params[f"encoder_{i}"] for i in range(deep)}
        values |= {f"fc{deep + 1 + i}": params[f"{head}_{i}"] for i in range(len(hidden) + 1)}
        plain = ConvNet(model.convolutions, hidden, out, dropout=model.dropout)
        return _torch_reference.network(plain, {"params": values})

    label = path("label_head", model.hidden, model.classes)
    domain = path("domain_head", model.domain_hidden, 1)
    encoder = nn.Sequential()
    for convolution, relu, *pool in label[:deep]:
        encoder.append(nn.Sequential(convolution, *pool, relu))
    return nn.ModuleDict({"encoder": encoder, "label": label[deep:], "domain": domain[deep:]})


def starting(
    model: AdversarialNet,
    starts: Sequence[Variables],
    task: Task,
    setting: Setting,
    device: str = "cpu",
) -> tuple[list[nn.ModuleDict], Callable[[], list[float]]]:
    """Networks, and ``run()``, which trains them all for the steps of the task, and further each
    time it is called; their last losses."""
    form = {"memory_format": setting.memory_format, "device": device}
    images = images_of(task.images).to(**form)
    labels, ids = (torch.tensor(a).long().to(device) for a in (task.labels, task.ids))
    n = ids.shape[1] // 2
    is_source = (torch.arange(2 * n, device=device) < n).float()
    networks = [network(model, variables).to(**form) for variables in starts]
    optimizers = [make_optimizer(layers, task.weight_decay) for layers in networks]
    steps = list(zip(ids, task.rates, task.scales, strict=True))

    def train(layers: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> Tensor:
        for batch, rate, scale in steps:
            for group in optimizer.param_groups:
                group["lr"] = rate
            features = layers["encoder"](images[batch])
            logits = layers["label"](features[:n])
            domain = layers["domain"](ReverseGradient.apply(features, scale))[:, 0]
            loss = nn.functional.cross_entropy(logits, labels[batch[:n]])
            told = nn.functional.binary_cross_entropy_with_logits(domain, is_source)
            loss = loss + task.weight * told
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    def run() -> list[float]:
        torch.set_num_threads(setting.threads)
        losses = [train(*each) for each in zip(networks, optimizers, strict=True)]
        return torch.stack(losses).tolist()  # on a GPU: waits for it

    return networks, run


def fastest(
    model: AdversarialNet, start: Variables, task: Task, cores: int, device: str, steps: int = 10
) -> Setting:
    """The setting in which a network took least."""
    few = task._replace(ids=task.ids[:steps], rates=task.rates[:steps], scales=task.scales[:steps])
    formats = (torch.contiguous_format, torch.channels_last)
    settings = [Setting(*choice) for choice in product(sorted({1, cores}), formats)]
    return fastest_of(settings, lambda one: starting(model, [start], few, one, device)[1])
