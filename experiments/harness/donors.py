"""Donors, the networks whose first stages others start from: one from a file, or one a seed trained
in the run itself; and the settings of methods that start from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from experiments.harness import datasets, recipe
from experiments.harness import settings as declared
from experiments.harness.settings import Count, Kinds, OneOf, SomeOf
from experiments.harness.study import describe_source
from experiments.harness.user_functions import NamedFunction
from jaxdl import transfer
from jaxdl.data import encoded, preparation
from jaxdl.data.encoded import Images
from jaxdl.data.source import Source
from jaxdl.files import digest_file, user_path
from jaxdl.nn.layered import layer_order
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.pretrained import PRETRAINED, load
from jaxdl.report.finetune import DONOR
from jaxdl.train.features import Apply, FeatureFeeds
from jaxdl.train.parallel import MeshPlacement
from jaxdl.train.population import Prepare
from jaxdl.types import Batch, Hyper, Variables

CHANGES = ("changes", "strength", "flip", "padding")
"""Settings of the augmentation of images."""
RECIPE = ("smoothing", "steps", "batch", "optimizer", "rate", "weight_decay", "schedule", "warmup")
METHOD = {
    "frozen": Count(-1),
    "statistics": OneOf(("updated", "frozen")),
    **{name: recipe.KINDS[name] for name in (*RECIPE, *CHANGES)},
    "changes": SomeOf(tuple(name for name in recipe.CHANGES if name not in recipe.MIXING)),
}


def check_methods(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """The settings of all methods; ValueError for wrong ones."""
    starts = OneOf(("donor", "fresh", *config.methods))
    checked = declared.methods(config, {**METHOD, "start": starts})
    methods = {name: method.settings for name, method in checked.items()}
    OneOf(tuple(methods)).check("config.baseline", config.baseline, config)
    OneOf(("", *methods)).check("config.every_stage", config.every_stage, config)
    for name, settings in methods.items():
        path, start = f"config.methods.{name}", settings["start"]
        if name == DONOR:
            raise ValueError(f"{path}: this is what donors are called in the tables")
        if start == "fresh" and settings["frozen"]:
            raise ValueError(f"{path}: frozen={settings['frozen']} stages that nothing was taught")
        if start in methods and methods[start]["start"] in methods:
            raise ValueError(f"{path}.start={start}, which itself starts from a method")
    return methods


def changes(settings: Mapping[str, Any]) -> bool:
    """Whether images are augmented."""
    return any(settings[name] for name in CHANGES if name != "strength")


def make_prepare(model: Any, see: preparation.See, n: int, cached: bool) -> Prepare:
    """A function from stored images, or features, to the inputs of the stages above n.

    Args:
      cached: whether features are stored; else the stages below n, ``hyper["below"]``, compute them
        for each batch.
    """

    def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
        if cached:
            return {"image": stored["features"], "label": stored["label"]}
        x = see(stored["image"], key)
        x = model.apply(hyper["below"], x, stop=n) if n else x
        return {"image": x, "label": stored["label"]}

    return prepare


class Donors:
    """The donors of a configuration with ``model``, ``weights`` and ``source``.

    Args:
      kinds: kinds of the settings in ``config.source.training``.

    Raises:
      ValueError: if there is no such network, or no donor.
      OSError, DamagedFile: if weights or data cannot be read.
    """

    def __init__(self, config: ConfigDict, kinds: Kinds):
        setting, self.name = "config.model", config.model
        builders = MODELS | {name: row.build for name, row in PRETRAINED.items()}
        self.make_model = NamedFunction(setting, self.name, builders, nn.Module)
        self.networks: list[Variables] = []
        """The donors' variables: one from a file, or one a seed after their training."""
        self.source: Source | None = None
        """The data that donors are trained on in this run; None with weights from a file."""
        if config.weights:
            OneOf(tuple(PRETRAINED)).check(setting, self.name, config)
            path, row = user_path(config.weights), PRETRAINED[self.name]
            self.networks = [load(self.name, path)[1]]
            self.identity = {"weights": digest_file(path)}
            self.moments = row.preprocessing.moments
            self.description = f"{self.name} with the weights of {path.name}"
        elif config.source.name:
            training = declared.method(config, ("source", "training"))
            training.check(config, kinds)
            self.training = training.settings
            datasets.check_digit_splits(config, ("source", "data"))
            self.source = datasets.load(config.source, "config.source")
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
                f"config.weights is empty: name the file with weights of {setting}{file}"
            )
        self.count, self.frozen = len(self.networks) or config.seeds, config.stages

    def make_network(self, classes: int, axis_name: str | None) -> Any:
        """The module with ``classes`` outputs, of which any range of stages can be applied
        alone."""
        return recipe.over_devices(self.make_model(classes), axis_name)

    def make_see(
        self, images: Images, *, changes: Sequence[str] = (), strength: float = 1.0, **options: Any
    ) -> preparation.See:
        """``see(images, key)``: images normalized as the donors' inputs are.

        Args:
          changes, strength: augmentation in training, see :func:`preparation.augmentations`.
          options: arguments of :func:`preparation.standardized`.
        """
        change = preparation.augmentations(changes, strength, images.shape[1])
        return preparation.standardized(images, **options, change=change, moments=self.moments)

    def fit(self, model: nn.Module, shapes: Variables, shape: Sequence[int]) -> Sequence[str]:
        """The names of a network's stages, in their order.

        Args:
          shapes: shapes of its variables.
          shape: shape of its input images.

        Raises:
          ValueError: if the stages but the last are not like the donors', or there are fewer than
            are to be frozen.
        """
        self.stages = layer_order(model, shapes)
        for network in self.networks:
            try:
                transfer.transplant(network, shapes, len(self.stages) - 1, self.stages)
            except ValueError as error:
                size = " x ".join(map(str, shape))
                problem = f"config.model={self.name} with config.weights on images of {size}"
                raise ValueError(f"{problem}: {error}") from None
        if excess := [n for n in self.frozen if n >= len(self.stages)]:
            problem = f"config.stages: config.model={self.name} has {len(self.stages)} stages"
            raise ValueError(f"{problem}, {excess[0]} cannot be frozen")
        return self.stages

    def feature_feeds(
        self, model: Any, images: Images, placement: MeshPlacement, batch: int
    ) -> FeatureFeeds:
        """Precomputed outputs of the donors' first stages."""
        see = self.make_see(images)

        def apply(n: int) -> Apply:
            return lambda lower, pixels: model.apply(lower, see(pixels, None), stop=n)

        def networks(n: int) -> list[Variables]:
            return [self.below(seed, n) for seed in range(self.count)]

        return FeatureFeeds(apply, networks, placement, batch)

    def number(self, seed: int) -> int:
        """The number of the donor that a seed's networks start from."""
        return seed % self.count

    def below(self, seed: int, n: int) -> Variables:
        """The first n stages of a seed's donor."""
        return transfer.cut(self.networks[self.number(seed)], n, self.stages)[0]

    def transplanted(self, seed: int, fresh: Variables) -> Variables:
        """All stages but the last of a seed's donor, and the last of a fresh network."""
        donor = self.networks[self.number(seed)]
        return transfer.transplant(donor, jax.device_get(fresh), len(self.stages) - 1, self.stages)
