"""The networks of the studies in PyTorch, trained the way its users train them.

Eager, one network after the other, ``torch.optim.SGD`` with momentum and weight decay on the
kernels only, frozen layers with ``requires_grad_(False)`` and in ``eval()``, so that nothing is
differentiated below the cut. In the networks of the DANN paper both domains go through the encoder
as one batch, and pooling comes before the ReLU, as in ours: of what amounts to the same, what is
faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from experiments.benchmark.contenders import Task
from experiments.benchmark.turns import Slice, seconds
from jaxdl.data.encoded import cores
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.nn.models.mlp import MLP, dense_layers
from jaxdl.types import Variables

# --- networks ----------------------------------------------------------------------------------


def network(model: ConvNet | AdversarialNet | MLP, variables: Variables) -> nn.Module:
    """A PyTorch module with the same layers and a copy of the same values.

    Raises:
      ValueError: if the network has dropout, or "SAME" padding with a stride.
    """
    if model.dropout:
        raise ValueError("the PyTorch reference has no dropout")
    if isinstance(model, AdversarialNet):
        return adversarial(model, variables)
    if isinstance(model, MLP):
        return perceptron(variables)
    return convolutional(model, variables)


def convolutional(model: ConvNet, variables: Variables) -> nn.Sequential:
    """``conv1``, …, ``fc1``, …: under our names."""
    values = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables)
    layers = nn.Sequential()
    for depth, spec in enumerate(model.convolutions, 1):
        name = f"conv{depth}"
        p = values["params"][name]
        kernel = p["kernel"].permute(3, 2, 0, 1)  # HWIO -> OIHW
        shape = (*kernel.shape[1::-1], spec.kernel, spec.stride, spec.padding.lower())
        bias = {} if model.batch_norm else {"bias": p["bias"]}
        convolution = nn.Conv2d(*shape, bias=not model.batch_norm)
        parts: list[nn.Module] = [_with(convolution, weight=kernel, **bias)]
        if model.batch_norm:
            scale, stats = p["BatchNorm_0"], values["batch_stats"][name]["BatchNorm_0"]
            # Flax's momentum is what is kept, PyTorch's what is new.
            norm = nn.BatchNorm2d(spec.features, eps=1e-5, momentum=0.01)
            running = {"running_mean": stats["mean"], "running_var": stats["var"]}
            parts.append(_with(norm, weight=scale["scale"], bias=scale["bias"], **running))
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


def perceptron(variables: Variables) -> nn.Sequential:
    """``layer_0``, ``layer_1``, …, with ReLUs between them."""
    layers = nn.Sequential()
    for i, arrays in enumerate(dense_layers(variables)):
        kernel, bias = (torch.tensor(np.asarray(array)) for array in arrays)
        dense = _with(nn.Linear(*kernel.shape), weight=kernel.T, bias=bias)
        relu = [nn.ReLU()] if i else []
        layers.add_module(f"layer_{i}", nn.Sequential(*relu, nn.Flatten(), dense))
    return layers


def _with(module: nn.Module, **values: Tensor) -> nn.Module:
    """The module with these parameters and buffers."""
    module.load_state_dict(values, strict=False)
    return module


def adversarial(model: AdversarialNet, variables: Variables) -> nn.ModuleDict:
    """``encoder``, ``label`` and ``domain``."""
    params, deep = variables["params"], len(model.convolutions)

    def path(head: str, hidden: tuple[int, ...], out: int) -> nn.Sequential:
        """The layers from the images through one head."""
        values = {f"conv{i + 1}": params[f"encoder_{i}"] for i in range(deep)}
        values |= {f"fc{deep + 1 + i}": params[f"{head}_{i}"] for i in range(len(hidden) + 1)}
        return convolutional(ConvNet(model.convolutions, hidden, out), {"params": values})

    label = path("label_head", model.hidden, model.classes)
    domain = path("domain_head", model.domain_hidden, 1)
    encoder = nn.Sequential()
    for convolution, relu, *pool in label[:deep]:
        encoder.append(nn.Sequential(convolution, *pool, relu))
    return nn.ModuleDict({"encoder": encoder, "label": label[deep:], "domain": domain[deep:]})


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


def freeze(layers: nn.Module, n: int) -> nn.Module:
    """The network for training with its first ``n`` layers frozen."""
    layers.train()
    for layer in list(layers)[:n]:
        layer.eval().requires_grad_(False)
    return layers


# --- training ----------------------------------------------------------------------------------


class Setting(NamedTuple):
    """Options of PyTorch that change its speed but no result; and the device."""

    threads: int
    memory_format: torch.memory_format
    device: str = "cpu"

    def __str__(self) -> str:
        layout = str(self.memory_format).removeprefix("torch.").removesuffix("_format")
        return f"{self.threads} thread{'s' * (self.threads > 1)}, {layout}"


def nchw(images: np.ndarray) -> Tensor:
    """Images [n, h, w, c] as PyTorch has them."""
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).contiguous()


def make_loss(
    model: ConvNet | AdversarialNet, task: Task, setting: Setting
) -> Callable[[nn.Module, int], Tensor]:
    """``loss(layers, step)`` on the batches of the task."""
    device = setting.device
    images = nchw(task.images).to(memory_format=setting.memory_format, device=device)
    labels, ids = (torch.tensor(a).long().to(device) for a in (task.labels, task.ids))
    n = ids.shape[1] // 2
    is_source = (torch.arange(2 * n, device=device) < n).float()

    def classification(layers: nn.Module, step: int) -> Tensor:
        return cross_entropy(layers(images[ids[step]]), labels[ids[step]])

    def adaptation(layers: nn.Module, step: int) -> Tensor:
        features = layers["encoder"](images[ids[step]])
        reversed_features = ReverseGradient.apply(features, task.scales[step])
        domain = layers["domain"](reversed_features)[:, 0]
        domain_loss = binary_cross_entropy_with_logits(domain, is_source)
        label_loss = cross_entropy(layers["label"](features[:n]), labels[ids[step, :n]])
        return label_loss + task.weight * domain_loss

    return adaptation if isinstance(model, AdversarialNet) else classification


def make_optimizer(layers: nn.Module, task: Task) -> torch.optim.SGD:
    """SGD of what trains; kernels decay, biases and scales do not. Each step brings its rate."""
    trains = [p for p in layers.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trains if p.ndim > 1], "weight_decay": task.weight_decay},
        {"params": [p for p in trains if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=task.nesterov)


def one_after_the_other(
    model: ConvNet | AdversarialNet,
    starts: Sequence[tuple[Variables, int]],
    task: Task,
    setting: Setting,
) -> tuple[list[nn.Module], Callable[[], list[float]]]:
    """Networks, and ``run()``, which trains them all for the steps of the task, and further each
    time it is called; their last losses.

    Args:
      starts: each network's initial variables and number of frozen layers.
    """
    form = {"memory_format": setting.memory_format, "device": setting.device}
    loss_of_step = make_loss(model, task, setting)
    networks = [freeze(network(model, v).to(**form), frozen) for v, frozen in starts]
    optimizers = [make_optimizer(layers, task) for layers in networks]

    def train(layers: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        for step, rate in enumerate(task.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of_step(layers, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    def run() -> list[float]:
        torch.set_num_threads(setting.threads)
        losses = [train(*pair) for pair in zip(networks, optimizers, strict=True)]
        return torch.stack(losses).tolist()  # on a GPU: waits for it

    return networks, run


def make_slices(
    model: ConvNet | AdversarialNet,
    task: Task,
    starts: Mapping[str, Sequence[tuple[Variables, int]]],
    device: str = "cpu",
) -> tuple[dict[str, Slice], Setting]:
    """The training of networks by kind, in the setting that is fastest here."""
    variables, _ = next(iter(starts.values()))[0]
    setting, slices = fastest(model, variables, task, cores(), device), {}
    for kind, networks in starts.items():
        _, run = one_after_the_other(model, networks, task, setting)
        slices[kind] = Slice(len(networks), len(task.ids), run)
    return slices, setting


def fastest(
    model: ConvNet | AdversarialNet,
    variables: Variables,
    task: Task,
    threads: int,
    device: str = "cpu",
    steps: int = 10,
) -> Setting:
    """The setting, with one thread or all, in which a network took least, the best of three."""
    few = task._replace(ids=task.ids[:steps], rates=task.rates[:steps], scales=task.scales[:steps])
    formats = (torch.contiguous_format, torch.channels_last)
    settings = [Setting(*choice, device) for choice in product(sorted({1, threads}), formats)]
    runs = [one_after_the_other(model, [(variables, 0)], few, s)[1] for s in settings]
    for run in runs:
        run()
    times = np.array([[seconds(run) for run in runs] for _ in range(3)])
    return settings[int(times.min(axis=0).argmin())]
