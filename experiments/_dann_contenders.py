"""The contenders of ``configs/benchmark.py:dann``.

- :func:`population`: the study's own programs on the study's own members (:mod:`experiments.dann`),
  on noise of MNIST-M's size: the time does not depend on what the images show;
- :func:`pytorch`: one network after the other (:mod:`experiments._torch_dann`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments._interleave import Contender, Slice
from experiments._transferability_contenders import going_on
from experiments.dann import Adaptation
from experiments.harness.devices import describe_devices
from experiments.harness.study import make_study
from jaxdl import adaptation, optim
from jaxdl.data import preparation
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import cores
from jaxdl.nn.models.adversarial import dann_mnist
from jaxdl.train.groups import Group
from jaxdl.train.population import order_keys

ABOUT = "about"
"""The question on what, or how, a contender computes."""


def write_noise(path: Path, count: int) -> None:
    """Images and labels, for both domains."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 28, 28, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)


def rehearse(
    noise: Path, config: ConfigDict, members: int, shards: int
) -> tuple[Adaptation, Group]:
    """What the study makes of so many members, whose batches so many devices share."""
    study = config.dann.study.copy_and_resolve_references()
    options = {"path": str(noise), "validation": 10, "test": 10}
    study.source = study.target = ConfigDict({"name": "npz", "options": options})
    study.seeds = study.members_per_round = members
    study.steps_per_dispatch, study.feed = config.dann.steps, "resident"
    study.parallel.member, study.parallel.data = -1, shards
    lab = make_study(Adaptation, study)
    lab.build()
    return lab, Group("networks-0", lab.members, members)


def population(noise: Path, sizes: Mapping[str, int], shards: int, config: ConfigDict) -> Contender:
    """The study's program on so many members, by kind."""
    slices = {}
    for kind, members in sizes.items():
        lab, each = rehearse(noise, config, members, shards)
        run = going_on(each.program.training, [each.start(lab.placement)], lab.feed.data)
        slices[kind] = Slice(members, config.dann.steps, run)
    return Contender(slices, {ABOUT: describe_devices})


def pytorch(noise: Path, sizes: Mapping[str, int], device: str, config: ConfigDict) -> Contender:
    """One network after the other, in the setting that is fastest here."""
    import torch

    from experiments import _torch_dann

    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX has it there
    lab, each = rehearse(noise, config, max(sizes.values()), 1)
    model, starts, task = reference(lab, each)
    setting = _torch_dann.fastest(model, starts[0], task, cores(), device)
    slices = {}
    for kind, members in sizes.items():
        _, run = _torch_dann.starting(model, starts[:members], task, setting, device)
        slices[kind] = Slice(members, len(task.ids), run)
    return Contender(slices, {ABOUT: lambda: str(setting)})


def reference(lab: Adaptation, each: Group):
    """The network, the members' first variables, and what the first of them is trained on in its
    first dispatch, for :mod:`experiments._torch_dann`."""
    from experiments import _torch_dann

    settings = lab.functions[each.program].settings
    steps = lab.config.steps_per_dispatch
    hyper = each.members[0].hyper()
    order = partial(batch_ids, first_step=jnp.int32(0), steps=steps, batch=settings["batch"])
    ids = [
        examples[order(key, examples=count)]
        for key, examples, count in zip(
            order_keys(hyper), hyper["examples"], hyper["count"], strict=True
        )
    ]
    images = np.asarray(lab.feed.data["image"], np.float32)
    shown = np.zeros_like(images)
    see = preparation.centred(settings["subtract"], settings["size"])
    for number, places in enumerate(hyper["examples"]):
        shown[places] = see(images[places], hyper, number)
    p = np.arange(steps) / settings["steps"]
    rates = np.full(steps, settings["rate"])
    if settings["schedule"] == "annealed":
        rates = optim.annealed(p, settings["rate"])
    task = _torch_dann.Task(
        shown,
        np.asarray(lab.feed.data["label"]),
        np.concatenate(ids, axis=1),
        [float(rate) for rate in rates],
        [float(scale) for scale in settings["reversal"] * adaptation.reversal_schedule(p)],
        settings["adversarial"],
        settings["weight_decay"],
    )
    model = dann_mnist(len(lab.sources["source"].class_names), padding=settings["padding"])
    starts = [jax.device_get(member.start().variables) for member in each.members]
    return model, starts, task
