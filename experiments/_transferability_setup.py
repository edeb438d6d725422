"""What the transferability study fixes before it trains: data, tasks, network, programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import _run
from jaxdl import transfer
from jaxdl.data import augment, batches, encoded, sources, splits
from jaxdl.data.source import Source
from jaxdl.nn.models import MODELS
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.supervised import classification_loss
from jaxdl.train.evaluate import Accuracy, make_accuracy
from jaxdl.train.feed import FEEDS, Feed, Resident, Streamed, device_memory, make_feed
from jaxdl.train.parallel import axis_of, make_mesh, to_host
from jaxdl.train.population import Prepare
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Batch, Hyper, LossFn, Variables

Tasks = dict[tuple[str, int, str], splits.Task]
"""By kind of halves, seed, and A or B."""


class Lab(NamedTuple):
    """All that is fixed before anything is trained."""

    config: ConfigDict
    source: Source
    tasks: Tasks
    mesh: Mesh
    model: transfer.Layered
    cuts: tuple[int, ...]
    feed: Feed  # of the training and validation images
    prepare: Prepare  # how the network sees them
    init: Callable[[jax.Array], Variables]  # a fresh network
    start: Callable[..., TrainState]  # of variables, and whether they are several networks'


class Program(NamedTuple):
    """How a kind of member is trained and evaluated, compiled."""

    train: Callable
    accuracy: Accuracy


def make_lab(config: ConfigDict) -> Lab:
    """Data, tasks, network and mesh.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    check(config)
    source = sources.load(config.data.name, **config.data.options)
    if "dissimilar" in config.splits and not source.class_groups:
        raise ValueError(f"{source.name} has no groups of classes: set config.splits=('random',)")
    mesh = make_mesh(config.parallel.member, config.parallel.data)
    if config.batch % mesh.shape["data"]:
        raise ValueError(
            f"config.batch={config.batch} does not divide over {mesh.shape['data']} devices "
            "(config.parallel.data)"
        )
    tasks = make_tasks(config, source)
    classes = max(int(task.label_of.max()) + 1 for task in tasks.values())
    model = MODELS[config.model](classes, axis_name=axis_of(config.parallel.mode, mesh))
    *shape, channels = source.splits["train"]["image"].shape[1:]
    check_image(config, shape)
    one = jnp.zeros((1, *([config.image.crop] * 2 if config.image.crop else shape), channels))
    init = jax.jit(lambda key: {"batch_stats": {}, **model.init(key, one)})
    try:
        layers = transfer.layers(jax.eval_shape(init, jax.random.key(0)))
    except ValueError as error:
        size = " x ".join(map(str, one.shape[1:]))
        raise ValueError(f"config.model={config.model} on images of {size}: {error}") from None
    feed = make_feed(config.data.feed, source.splits, mesh, config.data.workers)
    if isinstance(feed, Streamed):
        check_stream(config, mesh, math.prod(source.splits["train"]["image"].shape[1:]))
    prepare = make_prepare(config, source, resident=isinstance(feed, Resident))
    source.test.verify()
    rule = make_rule(config)
    return Lab(
        config=config,
        source=source,
        tasks=tasks,
        mesh=mesh,
        model=model,
        cuts=tuple(range(1, len(layers))),
        feed=feed,
        prepare=prepare,
        init=init,
        start=jax.jit(
            lambda v, several: create_state(v, rule, alive=transfer.alive(v) if several else True),
            static_argnums=1,
        ),
    )


def check(config: ConfigDict) -> None:
    """Raise ValueError where a setting is not one of those known, or too small."""
    known = {
        "splits": ("random", "dissimilar"),
        "treatments": tuple(transfer.TREATMENTS),
        "fine_tuned_splits": ("random", "dissimilar"),
        "fine_tuned_directions": ("AB", "BA"),
        "report_on": ("validation", "test"),
        "model": tuple(MODELS),
        "image.subtract": ("channels", "pixels"),
        "data.feed": FEEDS,
    }
    for name, choices in known.items():
        value = setting(config, name)
        given = (value,) if isinstance(value, str) else value
        if len(set(given)) < len(given):
            raise ValueError(f"config.{name} names one thing twice: {given}")
        if name == "splits" and not given:
            raise ValueError(f"config.splits is empty: choose from {', '.join(choices)}")
        for value in given:
            if value not in choices:
                raise ValueError(f"config.{name}: {value!r} is not one of {', '.join(choices)}")
    counts = ("seeds", "steps", "batch", "members_per_round", "steps_per_dispatch")
    _run.check_counts(config, *counts, "evaluation_batch", "dispatches_per_evaluation")
    for name in ("image.crop", "image.padding", "data.workers"):
        if not 0 <= setting(config, name) < 2**15:
            raise ValueError(f"config.{name} must be from 0 to 32767, got {setting(config, name)}")
    if config.steps % config.steps_per_dispatch:
        raise ValueError(
            f"config.steps={config.steps} is not a multiple of "
            f"config.steps_per_dispatch={config.steps_per_dispatch}"
        )
    for name in ("optimizer.learning_rate", "optimizer.bias_rate"):
        if not 0 < setting(config, name) < math.inf:
            raise ValueError(f"config.{name} must be positive, got {setting(config, name)}")
    for drop in config.schedule.drops:
        if not isinstance(drop, int | float) or not 0 <= drop <= 1:
            raise ValueError(f"config.schedule.drops: {drop!r} is not a part of the steps, 0 to 1")
    decay = config.optimizer.weight_decay
    if not 0 <= decay < math.inf:
        raise ValueError(f"config.optimizer.weight_decay must not be negative, got {decay}")
    for name, value in config.data.options.items():
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"config.data.options.{name} must not be negative, got {value}")
    make_rule(config)


def check_image(config: ConfigDict, shape: Sequence[int]) -> None:
    """Raise ValueError where images of this shape cannot be cropped and mirrored as asked for."""
    of, size = config.image, " x ".join(map(str, shape))
    if of.crop > min(shape):  # whatever the padding: in evaluation there is none
        raise ValueError(f"config.image.crop={of.crop} does not fit images of {size}")
    if (of.crop or of.padding or of.flip) and shape[0] != shape[1]:
        raise ValueError(
            f"config.image: only square images are cropped, padded or mirrored, these are {size}"
        )


def check_stream(config: ConfigDict, mesh: Mesh, image: int) -> None:
    """Raise ValueError where the images of one dispatch would fill the memory."""
    members = max(config.members_per_round, mesh.shape["member"])
    size = members * config.steps_per_dispatch * config.batch * image
    if size > device_memory(mesh) * mesh.size / 8:
        raise ValueError(
            f"config.steps_per_dispatch={config.steps_per_dispatch} steps of {members} networks "
            f"would stream {size / 1e9:.1f} GB at a time: set a smaller number, 10 or so, or "
            "fewer config.members_per_round"
        )


def setting(config: ConfigDict, name: str):
    """The value behind dots: ``setting(config, "data.feed")``."""
    for part in name.split("."):
        config = config[part]
    return config


def make_tasks(config: ConfigDict, source: Source) -> Tasks:
    """The tasks A and B of every kind of halves and seed."""
    labels = {split: arrays["label"] for split, arrays in source.splits.items()}
    tasks = {}
    for split, seed in product(config.splits, range(config.seeds)):
        if split == "random":
            halves = splits.random_halves(len(source.class_names), seed)
        else:
            halves = splits.group_halves(source.class_groups)
        for side, half in zip("AB", halves, strict=True):
            if not source.test.counts[half].sum():
                raise ValueError(f"no test images for task {side} of {split} halves")
            task = splits.make_task(labels, half, len(source.class_names))
            for part, examples in task.examples.items():
                if not len(examples):
                    raise ValueError(f"no {part} images for task {side} of {split} halves")
            tasks[split, seed, side] = task
    return tasks


def make_prepare(config: ConfigDict, source: Source, *, resident: bool) -> Prepare:
    """Subtract the training images' mean, crop and mirror; labels become those of the task."""
    of, images = config.image, source.splits["train"]["image"]
    mean, deviation = encoded.statistics(encoded.in_memory(images) if resident else images)
    if of.subtract == "channels":
        mean = mean.mean((0, 1))
    else:
        deviation = np.ones_like(deviation)
    size = of.crop or images.shape[1]
    distort = augment.crop_and_flip(size, padding=of.padding, flip=of.flip)

    def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
        image = batches.normalize(stored["image"], mean, deviation)
        if key is not None and (of.crop or of.padding or of.flip):
            image = distort(key, image)
        elif of.crop:
            image = augment.centre_crop(of.crop)(key, image)
        return {"image": image, "label": hyper["label_of"][stored["label"]]}

    return prepare


def make_rule(config: ConfigDict) -> optax.GradientTransformation:
    """The update rule of the configuration."""
    rule, schedule = config.optimizer, config.schedule
    rate = make_schedule(
        schedule.name,
        rule.learning_rate,
        steps=config.steps,
        warmup=schedule.warmup,
        drops=tuple(schedule.drops),
    )
    return make_optimizer(
        rule.name,
        rate,
        weight_decay=rule.weight_decay,
        bias_rate=rule.bias_rate,
        max_norm=rule.max_norm or None,
    )


def make_program(lab: Lab, loss_fn: LossFn, logits: Callable) -> Program:
    """Compile the training with a loss and the evaluation with logits."""
    config = lab.config
    mode = config.parallel.mode
    step = make_step(loss_fn, lambda _: make_rule(config), axis_of(mode, lab.mesh))
    return Program(
        lab.feed.program(
            step,
            lab.prepare,
            steps=config.steps_per_dispatch,
            batch=config.batch,
            mode=mode,
        ),
        make_accuracy(logits, lab.prepare, lab.mesh, config.evaluation_batch, mode),
    )


def full_program(lab: Lab) -> Program:
    """Networks of which every layer is trained: bases and fine-tuned ones."""

    def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
        del hyper
        return lab.model.apply(state.variables, x)

    return make_program(lab, classification_loss(lab.model), logits)


def frozen_program(lab: Lab) -> Program:
    """The networks with frozen layers of one base, at all cuts."""

    def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
        above, base = state.variables, hyper["base"]
        return transfer.shared_prefix_logits(lab.model, lab.cuts, base, above, x)

    return make_program(lab, transfer.shared_prefix_loss(lab.model, lab.cuts), logits)


def first_batch(lab: Lab, task: splits.Task, key: jax.Array, count: int) -> tuple[Batch, list[str]]:
    """The first images of a task in training, as the network sees them, and their names."""
    examples = task.examples["train"]
    words = np.asarray(jax.random.key_data(key))
    ids = examples[batches.host_batch_ids(words, 0, batch=count, examples=len(examples))]
    stored = jax.tree.map(
        lambda leaf: leaf[0], to_host(lab.feed.fetch(np.tile(ids, (lab.mesh.shape["member"], 1))))
    )
    distortion = jax.random.fold_in(key, 0)
    seen = jax.jit(lab.prepare)(stored, {"label_of": jnp.asarray(task.label_of)}, distortion)
    return seen, [lab.source.class_names[i] for i in np.asarray(stored["label"])]
