"""The networks whose first stages others begin with: one of a file, or one a seed that the run
itself trains; and the settings of methods that begin so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from experiments.harness import recipe, user_functions
from experiments.harness import settings as declared
from experiments.harness.classification import load_source
from experiments.harness.settings import Count, Kinds, OneOf, SomeOf
from experiments.harness.study import describe_source
from jaxdl import transfer
from jaxdl.data import encoded, preparation
from jaxdl.data.encoded import Images
from jaxdl.data.source import Source
from jaxdl.files import digest_file, user_path
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.pretrained import PRETRAINED, load
from jaxdl.report.finetune import DONOR
from jaxdl.train.features import Apply, FeatureFeeds
from jaxdl.train.parallel import MeshPlacement
from jaxdl.train.population import Prepare
from jaxdl.types import Batch, Hyper, Variables

CHANGES = ("changes", "strength", "flip", "padding")
"""Settings that say how images change from step to step."""
RECIPE = ("smoothing", "steps", "batch", "optimizer", "rate", "weight_decay", "schedule", "warmup")
METHOD = {
    "frozen": Count(-1),
    "statistics": OneOf(("updated", "frozen")),
    **{name: recipe.KINDS[name] for name in (*RECIPE, *CHANGES)},
    "changes": SomeOf(tuple(name for name in recipe.CHANGES if name not in recipe.MIXING)),
}


def check_methods(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """The settings of all methods; ValueError where they cannot be had."""
    starts = OneOf(("donor", "fresh", *config.methods))
    checked = declared.methods(config, {**METHOD, "start": starts})
    methods = {name: method.settings for name, method in checked.items()}
    OneOf(tuple(methods)).check("config.baseline", config.baseline, config)
    OneOf(("", *methods)).check("config.every_stage", config.every_stage, config)
    if config.every_stage and config.stages_at not in config.images:
        raise ValueError(f"config.stages_at={config.stages_at} is not one of config.images")
    for name, settings in methods.items():
        place, start = f"config.methods.{name}", settings["start"]
        if name == DONOR:
            raise ValueError(f"{place}: this is what donors are called in the tables")
        if start == "fresh" and settings["frozen"]:
            raise ValueError(f"{place}: frozen={settings['frozen']} stages that nothing was taught")
        if start in methods and methods[start]["start"] in methods:
            raise ValueError(f"{place}.start={start}, which itself starts from a method")
    return methods


def changes(settings: Mapping[str, Any]) -> bool:
    """Whether images change from step to step."""
    return any(settings[name] for name in CHANGES if name != "strength")


def make_prepare(model: Any, see: preparation.See, n: int, cached: bool) -> Prepare:
    """From stored images, or features, to what stages above n see.

    Args:
      cached: whether features are stored; else the stages below, ``hyper["below"]``, make them of
        each batch.
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
            self.identity = {"weights": digest_file(path)}
            self.moments = row.preprocessing.moments
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
        self.count, self.frozen = len(self.networks) or config.seeds, config.stages

    def make_network(self, classes: int, axis_name: str | None) -> Any:
        """The module for so many classes, of which any stretch of stages can be applied alone."""
        model = self._build(classes)
        transfer.check_layered(model)
        return recipe.over_devices(model, axis_name)

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

    def fit(self, model: nn.Module, shapes: Variables, shape: Sequence[int]) -> Sequence[str]:
        """The names of a network's stages, in their order.

        Args:
          shapes: of its variables.
          shape: of the images that it sees.

        Raises:
          ValueError: if the stages but the last are not like the donors', or there are fewer than
            are to be frozen.
        """
        self.stages = tuple(getattr(model, "names", lambda: transfer.layers(shapes))())
        for network in self.networks:
            try:
                transfer.transplant(network, shapes, len(self.stages) - 1, self.stages)
            except ValueError as error:
                size = " x ".join(map(str, shape))
                problem = f"config.model={self.name} with config.weights on images of {size}"
                raise ValueError(f"{problem}: {error}") from None
        if odd := [n for n in self.frozen if n >= len(self.stages)]:
            problem = f"config.stages: config.model={self.name} has {len(self.stages)} stages"
            raise ValueError(f"{problem}, {odd[0]} cannot be frozen")
        return self.stages

    def feature_feeds(
        self, model: Any, images: Images, placement: MeshPlacement, batch: int
    ) -> FeatureFeeds:
        """What the donors' first stages put out for images such as these."""
        see = self.make_see(images)

        def apply(n: int) -> Apply:
            return lambda below, pixels: model.apply(below, see(pixels, None), stop=n)

        def networks(n: int) -> list[Variables]:
            return [self.below(seed, n) for seed in range(self.count)]

        return FeatureFeeds(apply, networks, placement, batch)

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
