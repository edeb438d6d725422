"""Our side of several benchmarks: populations that are trained further at each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments.benchmark.turns import Slice
from jaxdl.supervised import classification_loss
from jaxdl.train.parallel import MeshPlacement
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Batch, Hyper, PyTree

Training = Callable[[TrainState, Hyper, PyTree], tuple[TrainState, PyTree]]
Population = tuple[TrainState, Hyper]


def continued(
    training: Training, populations: Sequence[Population], data: PyTree
) -> Callable[[], None]:
    """``run()`` trains every population for one dispatch, and further each time it is called."""
    populations = list(populations)

    def run() -> None:
        for i, (states, hypers) in enumerate(populations):
            states, _ = training(states, hypers, data)
            populations[i] = (states, hypers)
        jax.block_until_ready(populations)

    return run


class Noise(NamedTuple):
    """Networks that are trained on noise as one population: the time does not depend on images."""

    states: list[TrainState]
    """States before the first step, on the host."""
    start: Callable[[], Population]
    training: Training
    data: Batch
    steps: int
    """Steps of a dispatch."""

    def slice(self) -> Slice:
        """A dispatch, and further each time."""
        run = continued(self.training, [self.start()], self.data)
        return Slice(len(self.states), self.steps, run)


def train_on_noise(
    model: nn.Module,
    rule: optax.GradientTransformation,
    shape: tuple[int, int, int],
    placement: MeshPlacement,
    *,
    members: int,
    steps: int,
    batch: int,
    examples: int = 512,
) -> Noise:
    """Classifiers of noise.

    Args:
      model: sees a part of a batch where the mesh's "data" axis divides it.
      shape: height, width and channels of an image.
    """
    rng = np.random.default_rng(0)
    images = rng.normal(size=(examples, *shape)).astype(np.float32)
    labels = (np.arange(examples) % model.classes).astype(np.int32)

    @jax.jit
    def init(key: jax.Array) -> TrainState:
        return create_state({"batch_stats": {}, **model.init(key, images[:1])}, rule)

    states = [jax.device_get(init(member_key("init", i))) for i in range(members)]
    stream = {"examples": np.arange(examples), "count": np.int32(examples)}
    hypers = [{"key": member_key("train", i), **stream} for i in range(members)]

    def start() -> Population:
        return population_of(states, placement), population_of(hypers, placement)

    step = make_step(classification_loss(model), rule, axis_name="data")
    training = train_resident(step, lambda stored, *_: stored, placement, steps=steps, batch=batch)
    data = placement.replicate({"image": images, "label": labels})
    return Noise(states, start, training, data, steps)
