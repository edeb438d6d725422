"""What trains a classifier best? Methods, named sets of settings, beside a baseline.

python -m experiments.supervised --config configs/supervised.py[:variant]

Methods whose settings differ only in numbers are one population, with all their seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from configs.supervised import get_config
from experiments.harness import classification, user_functions
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Each, Flag, Multiple, OneOf, Settings
from experiments.harness.study import Headline, conduct
from jaxdl.data import preparation
from jaxdl.data.source import Split
from jaxdl.nn.models import MODELS
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.report import supervised as reporting
from jaxdl.supervised import classification_loss
from jaxdl.train.groups import Program, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper

NUMBERS = ("rate", "weight_decay", "share", "wrong_labels")  # of a member, within a population
SETTINGS = Settings(classification.COMMON, ("options", "methods"), ("data.workers",))
METHOD = {
    **{"share": Between(0, 1, above=True), "wrong_labels": Between(0, 1)},
    "steps": (Count(), Multiple("steps_per_dispatch")),
    "batch": (Count(), Multiple("parallel.data")),
    **dict.fromkeys(("rate", "bias_rate"), Between(0, above=True)),
    **dict.fromkeys(("weight_decay", "max_norm", "clip_norm"), Between(0)),
    **dict.fromkeys(("warmup", "crop", "padding"), Count(0)),
    "drops": Each(Between(0, 1), "(1 / 3, 2 / 3), parts of the steps"),
    **{"subtract": OneOf(("channels", "pixels")), "flip": Flag()},
}


class Network(NamedTuple):
    """What names a row of ``results.csv``."""

    method: str
    seed: int


class Supervised(classification.Classification):
    """All methods and seeds on one data set."""

    settings, network, numbered = SETTINGS, Network, True
    headline = Headline(reporting.Result, "accuracy")

    def __init__(self, config: ConfigDict):
        self.methods = declared.methods(config, METHOD)
        OneOf(tuple(self.methods)).check("config.baseline", config.baseline, config)
        super().__init__(config)

    def build(self) -> None:
        """Programs and members."""
        super().build()

        def alike(name: str) -> tuple:
            return tuple(x for x in self.methods[name].settings.items() if x[0] not in NUMBERS)

        self.members = self.make_members(list(self.methods), alike, self.make, Network)

    def make(self, name: str) -> tuple[Program, classification.Starter]:
        """The program of a method, and how its networks start."""
        settings, place = self.methods[name].settings, self.methods[name].place("model")
        function = user_functions.function_named(settings["model"], MODELS, place, "model")
        model = function(len(self.source.class_names), axis_name=self.placement.axis_name)
        init, _ = self.initializer(model, settings["crop"], f"{place}={settings['model']}")
        options = {k: settings[k] for k in ("subtract", "crop", "padding", "flip")}
        see = preparation.standardized(self.images, **options)

        def rule(hyper: Hyper) -> optax.GradientTransformation:
            schedule = {k: settings[k] for k in ("steps", "warmup", "drops")}
            return make_optimizer(
                settings["optimizer"],
                make_schedule(settings["schedule"], hyper["rate"], **schedule),
                weight_decay=hyper["weight_decay"],
                bias_rate=settings["bias_rate"],
                max_norm=settings["max_norm"] or None,
                clip_norm=settings["clip_norm"] or None,
            )

        def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
            label = stored["label"] if key is None else hyper["labels"][stored["number"]]
            return {"image": see(stored["image"], key), "label": label}

        def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
            return model.apply(state.variables, x)

        rule(self.hyper(name, 0))  # for its errors
        size = {"steps": settings["steps"], "batch": settings["batch"]}
        program = self.program(classification_loss(model), logits, rule, prepare, **size)
        return program, classification.starting(init, rule)

    def hyper(self, name: str, seed: int) -> Hyper:
        """The numbers of a member, its examples and their labels. What a seed draws, the order of
        the examples included, is the same for all methods."""
        settings, rng = self.methods[name].settings, np.random.default_rng(seed)
        ids, classes = self.ids["images", "train"], len(self.source.class_names)
        labels = np.concatenate([arrays["label"] for arrays in self.source.splits.values()])
        examples = rng.permutation(ids)[: max(1, round(settings["share"] * len(ids)))]
        changed = rng.permutation(ids)[: round(settings["wrong_labels"] * len(ids))]
        labels[changed] += rng.integers(1, classes, len(ids))[: len(changed)].astype(np.int32)
        return {
            "key": member_key("train", seed),
            "labels": labels % classes,
            **example_streams([examples], len(ids)),
            **{number: np.float32(settings[number]) for number in ("rate", "weight_decay")},
        }

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        accuracies = self.accuracies(trainer, tests)
        rows = [reporting.Result(*n, values["images"]) for n, values in accuracies.items()]
        reporting.write_results(trainer.folder / "results.csv", rows)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        base = self.config.base.to_dict()
        settings = {"Base": declared.describe(base, {})}
        for name, method in self.methods.items():
            changes = declared.describe(method.settings, base)
            settings[f"Settings of {name}"] = changes or "those of the base"
        images = f"{len(self.ids['images', 'train']):,} training images"
        facts = {"Data": self.describe_data(images)} | settings | self.describe_copies() | facts
        results = reporting.read_results(trainer.folder / "results.csv")
        return reporting.report(results, self.config.baseline, facts)


study = partial(conduct, Supervised)

if __name__ == "__main__":
    run(study, "supervised", get_config(), members=classification.most_members, free=SETTINGS.free)
