"""The networks whose first stages others begin with: one of a file, or one a seed that the run
itself trains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import settings as declared
from experiments.harness import user_functions
from experiments.harness.classification import load_source
from experiments.harness.settings import Kinds, OneOf
from experiments.harness.study import describe_source
from jaxdl import transfer
from jaxdl.data import encoded, preparation
from jaxdl.data.encoded import Images
from jaxdl.data.source import Source
from jaxdl.files import user_path
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.pretrained import PRETRAINED, load
from jaxdl.types import Variables


class Donors:
    """The donors of a configuration with ``model``, ``weights`` and ``source``.

    Args:
      kinds: of the settings in ``config.source.training``.

    Raises:
      ValueError: if there is no such network, or no donor.
      OSError, DamagedFile: if weights or data cannot be read.
    """

    def __init__(self, config: ConfigDict, kinds: Kinds):
        place, self.name = "config.model", config.model
        builders = MODELS | {name: row.build for name, row in PRETRAINED.items()}
        self._build = user_functions.function_named(self.name, builders, place, "model")
        self.networks: list[Variables] = []
        """Their variables: those of a file, or, when they are trained, one a seed."""
        self.source: Source | None = None
        """The data that they are trained on in this run."""
        if config.weights:
            OneOf(tuple(PRETRAINED)).check(place, self.name, config)
            path, row = user_path(config.weights), PRETRAINED[self.name]
            self.networks = [load(self.name, path)[1]]
            self.identity = {"weights": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
            mean, deviation = row.preprocessing[:2]
            self.moments = np.float32(mean), np.float32(deviation)
            self.description = f"{self.name} with the weights of {path.name}"
        elif config.source.name:
            training = declared.method(config, ("source", "training"))
            training.check(config, kinds)
            self.training = training.settings
            self.source = load_source(config.source, "config.source")
            self.identity = {"source": describe_source(self.source)}
            mean, deviation = encoded.statistics(self.source.splits["train"]["image"])
            self.moments = mean.mean((0, 1)), deviation
            self.description = (
                f"{self.name}, trained in this run on {self.source.name}, once a seed"
            )
        else:
            row = PRETRAINED.get(self.name)
            file = f": {row.weights}" if row else ""
            raise ValueError(
                f"config.weights is empty: name the file with weights of {place}{file}"
            )
        self.count = len(self.networks) or config.seeds

    def make_network(self, classes: int, axis_name: str | None) -> Any:
        """The module for so many classes, of which any stretch of stages can be applied alone."""
        model = self._build(classes)
        transfer.check_layered(model)
        return model.clone(axis_name=axis_name) if hasattr(model, "axis_name") else model

    def make_see(
        self, images: Images, *, changes: Sequence[str] = (), strength: float = 1.0, **options: Any
    ) -> preparation.See:
        """What networks see of such images: normalized as the donors'.

        Args:
          changes, strength: of images in training, see :func:`preparation.augmentations`.
          options: of :func:`preparation.standardized`.
        """
        change = preparation.augmentations(changes, strength, images.shape[1])
        return preparation.standardized(images, **options, change=change, moments=self.moments)

    def fit(self, model: nn.Module, shapes: Variables) -> Sequence[str]:
        """The names of a network's stages, in their order.

        Args:
          shapes: of its variables.

        Raises:
          ValueError: if the stages but the last are not like the donors'.
        """
        names = getattr(model, "names", lambda: transfer.layers(shapes))
        self.stages = tuple(names())
        for network in self.networks:
            transfer.transplant(network, shapes, len(self.stages) - 1, self.stages)
        return self.stages

    def number(self, seed: int) -> int:
        """Which donor the networks of a seed begin with."""
        return seed % self.count

    def below(self, seed: int, n: int) -> Variables:
        """The first n stages of a seed's donor."""
        return transfer.cut(self.networks[self.number(seed)], n, self.stages)[0]

    def transplanted(self, seed: int, fresh: Variables) -> Variables:
        """All stages but the last of a seed's donor, and the last of a fresh network."""
        donor = self.networks[self.number(seed)]
        return transfer.transplant(donor, jax.device_get(fresh), len(self.stages) - 1, self.stages)
