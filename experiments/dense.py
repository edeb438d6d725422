"""Which representation of an answer is right: a class, coordinates, a mask, a density, a number?

python -m experiments.dense --config configs/dense.py[:variant]

All methods are trained on the same images, drawn anew for each seed, with the same encoder, and
answer the same question: is it there, and where; how many are there; which pixels are it?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.dense import get_config
from experiments.harness import classification, datasets, recipe, single_source
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, OneOf, SomeOf, TupleOf
from experiments.harness.study import Headline, conduct, curve_panels, describe_source
from jaxdl import dense
from jaxdl.data import masks, preparation
from jaxdl.data.source import Split, length
from jaxdl.dense import REPRESENTATIONS
from jaxdl.files import digest_file, user_path
from jaxdl.nn.models.pretrained import PRETRAINED, load
from jaxdl.nn.models.unet import NORMALIZATIONS, Encoder, UNet, with_encoder
from jaxdl.predict import make_logits
from jaxdl.report import dense as reporting
from jaxdl.report import dense_figures, dense_sweeps, figures
from jaxdl.supervised import make_loss
from jaxdl.train.evaluate import make_mean
from jaxdl.train.groups import Program, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper

RECIPE = (  # settings that other studies have, too
    *("flip", "strength", "steps", "batch", "optimizer", "schedule", "rate", "weight_decay"),
    *("warmup", "average", "views"),
)
SECTIONS = {"images": "config.data.options", "shifted": "config.data.shifted"}  # of the sources
KINDS: declared.Kinds = {
    "source": OneOf(tuple(SECTIONS)),
    "answer": OneOf(tuple(REPRESENTATIONS)),
    "damage": OneOf(("", *masks.DAMAGES)),
    "encoder": OneOf(("", *PRETRAINED)),
    "widths": TupleOf(Count(), "(8, 16, 32), channels", least=1),
    "normalization": OneOf(NORMALIZATIONS),
    "losses": SomeOf(tuple(dense.MASK_LOSSES), least=1),
    **dict.fromkeys(("images", "patch"), Count(0)),
    "changes": SomeOf(("similarity", "elastic", "noise", "colour")),
    **dict.fromkeys(("foreground", "deviation"), Between(0, above=True)),
    "amount": Between(0),
    **{name: recipe.KINDS[name] for name in RECIPE},
}
AMOUNTS: declared.Kinds = {"polygons": Between(3), "missing": Between(0, 1, above=True)}
"""Amounts of damages that cannot be any number above 0."""
SHIFTED = {"score": "shifted", "error": "shifted_error"}
"""Fields of a row, and fields of the same scores on shifted images."""
DATA = ("source", "images", "damage", "amount", "sweep", "values")
"""Settings on which a program does not depend."""
SETTINGS = declared.Settings(
    {**classification.COMMON, "tolerance": Between(0, above=True)},
    ("options", "methods", "shifted"),
    ("data.workers",),
)


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    method: str
    value: str  # of the setting that the method is swept over; empty without one
    seed: int


class Dense(single_source.SingleSourceStudy):
    """All methods, values and seeds on one data set, and tested on shifted images, too."""

    settings, network, numbered = SETTINGS, Network, False
    headline = Headline(reporting.Result, "score", signed=True)

    def __init__(self, config: ConfigDict):
        self.config, data, self.fields = config, config.data, {"images": "validation_loss"}
        self.trials = recipe.trained_first(declared.sweeps(config, KINDS), "start")
        OneOf(tuple(config.methods)).check("config.baseline", config.baseline, config)
        paths = {t.settings["answer"]: t.path("answer") for t in self.trials.values()}
        self.question = dense.common_question(paths)
        needed = {array for name in paths for array in REPRESENTATIONS[name].arrays}
        for trial in self.trials.values():
            check(trial, config, self.trials)
        damages = ((t.settings["damage"], t.settings["amount"]) for t in self.trials.values())
        self.damages = list(dict.fromkeys([("", 0.0), *damages]))
        arrays = sorted(needed | {*dense.TRUTHS[self.question]})
        filled = self.question == "segment" and data.mask != "instances"
        answers = masks.Answers(arrays, data.mask, data.field, self.damages, filled)
        versions = {"images": {"name": data.name, **data.options}}
        if data.shifted:
            usual = {} if "name" in data.shifted else versions["images"]
            versions["shifted"] = {**usual, **data.shifted}
        load = partial(datasets.load_named, answers=answers.stored)
        self.sources = {n: answers.of_source(load(SECTIONS[n], **v)) for n, v in versions.items()}
        self.source = self.sources["images"]
        self.score, self.opens_test = reporting.SCORES[self.question], config.report_on == "test"
        counts = self.source.splits["train"].get("count", np.ones(1))
        self.scale, self.guess = float(np.mean(counts)) or 1.0, float(np.median(counts))
        shifted = {n: describe_source(s) for n, s in self.sources.items() if n != "images"}
        files = sorted({t.settings["weights"] for t in self.trials.values()} - {""})
        weights = {"weights": {f: digest_file(user_path(f)) for f in files}} if files else {}
        self.identity = describe_source(self.source) | shifted | weights

    def build(self) -> None:
        """Programs and members."""
        used = {"images", *(t.settings["source"] for t in self.trials.values())}
        trained = {name: source for name, source in self.sources.items() if name in used}
        self.lay_out(self.config.data.feed, self.config.data.workers, trained)
        self.longest = max(len(self.draw_images(trial, 0)) for trial in self.trials)
        self.members = self.make_members(
            list(self.trials),
            lambda trial: recipe.program_key(self.trials[trial].settings, DATA),
            self.make,
            lambda trial, seed: Network(*trial, seed),
        )

    def make(self, trial: tuple[str, str]) -> tuple[Program, classification.Starter]:
        """The program of a method, and the initialization of its networks."""
        settings, path = self.trials[trial].settings, self.trials[trial].path
        images, weights = self.source.splits["train"]["image"], settings["weights"]
        shared = {"normalization": settings["normalization"], "axis_name": self.placement.axis_name}
        answer, pretrained = REPRESENTATIONS[settings["answer"]], None
        encoder = Encoder(tuple(settings["widths"]), **shared)
        if weights:
            encoder, pretrained = load(settings["encoder"], user_path(weights))
        elif settings["encoder"]:
            encoder = PRETRAINED[settings["encoder"]].build()
        encoder = recipe.over_devices(encoder, self.placement.axis_name)
        model = UNet(encoder, answer.head(width=settings["widths"][0], **shared))
        shape = (*[settings["patch"] or side for side in images.shape[1:3]], images.shape[-1])
        drawn, _ = self.initializer(model, shape, path("widths"))
        init = (lambda key: with_encoder(drawn(key), pretrained)) if pretrained else drawn
        per_example, rule = answer.per_example(self.options(settings)), recipe.update_rule(settings)
        rule(recipe.numbers(settings))  # for its errors
        logits = make_logits(model.apply, settings["views"])
        program = self.program(
            make_loss(model, per_example),
            lambda state, hyper, x: logits(state.evaluated_variables, x),
            rule,
            self.make_prepare(settings),
            **{name: settings[name] for name in ("steps", "batch", "average")},
            score=partial(make_mean, lambda *batch: per_example(*batch)[0]),
        )
        fresh = classification.starting(init, rule, average=settings["average"] > 0)
        return program, partial(self.begin, settings["start"], fresh)

    def begin(
        self, method: str, fresh: classification.Starter, seed: int, hyper: Callable[[], Hyper]
    ) -> TrainState:
        """The state before the first step: fresh, or with the parameters of a trained method."""
        state = fresh(seed, hyper)
        if not method:
            return state
        pairs = (zip(t.group.networks, t.states, strict=True) for t in self.trained_groups)
        before = dict(chain(*pairs))[Network(method, "", seed)]
        return replace(state, params=before.params, collections=before.collections)

    def options(self, settings: Mapping[str, Any]) -> dense.Options:
        """The options of a method's loss and answers."""
        return dense.Options(*map(settings.get, ("losses", "foreground", "deviation")), self.scale)

    def make_prepare(self, settings: Mapping[str, Any]) -> Callable:
        """The function from stored images and answers to a step's batch."""
        images = self.source.splits["train"]["image"]
        side = settings["patch"] or images.shape[1]
        change = preparation.augmentations(settings["changes"], settings["strength"], side)
        moments = None
        if settings["weights"]:  # normalized as the images of the pretrained network
            moments = PRETRAINED[settings["encoder"]].preprocessing.moments
        moves = {name: settings[name] for name in ("patch", "flip")}
        return preparation.picture_batches(images, **moves, change=change, moments=moments)

    def draw_images(self, trial: tuple[str, str], seed: int) -> np.ndarray:
        """The ids of a network's training images; fewer images are a part of more images."""
        settings, path = self.trials[trial].settings, self.trials[trial].path
        ids = np.random.default_rng(seed).permutation(self.ids[settings["source"], "train"])
        if (count := settings["images"]) > len(ids):
            raise ValueError(f"{path('images')}={count}: there are {len(ids)} training images")
        return ids[: count or len(ids)]

    def hyper(self, trial: tuple[str, str], seed: int) -> Hyper:
        """The numbers, images and random key of a member, and the version of its masks."""
        settings = self.trials[trial].settings
        mask = np.int32(self.damages.index((settings["damage"], settings["amount"])))
        streams = example_streams([self.draw_images(trial, seed)], self.longest)
        return recipe.numbers(settings) | {"mask": mask, "key": member_key("train", seed)} | streams

    def scored(self, source: str) -> bool:
        """All images have answers."""
        return True

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """The answers of all networks, and their scores."""
        faults = {*trainer.curves.faults(Network)}
        self.tests = {name: s.splits["validation"] for name, s in self.sources.items()} | tests
        splits = {"validation": self.source.splits["validation"], **self.tests}
        parts = {name: self.apart(split) for name, split in splits.items()}
        compare = partial(dense.judge, self.question, tolerance=self.config.tolerance)
        self.predictions, self.results = {}, []
        for network, values in self.predict_parts(parts):
            start = Network(self.trials[network[:2]].settings["start"], "", network.seed)
            if {network, start} & faults:  # no network that is started from is started itself
                self.results.append(reporting.Result(*network, float("nan")))
                continue
            answers = self.read(network, values, splits)
            judged = {name: compare(answers[name], truth) for name, truth in self.tests.items()}
            shifted = {SHIFTED[k]: x for k, x in judged.pop("shifted", {}).items() if k in SHIFTED}
            self.results.append(reporting.Result(*network, **judged["images"], **shifted))
            self.predictions[network] = {name: answers[name] for name in self.tests}
        self.results.sort()
        reporting.write_results(trainer.folder / "results.csv", self.results)

    def read(self, network: Network, outputs: Mapping, splits: Mapping[str, Split]) -> dict:
        """A network's answers for splits, with the threshold that is best on validation."""
        settings = self.trials[network[:2]].settings
        representation, options = REPRESENTATIONS[settings["answer"]], self.options(settings)
        answers = {
            name: representation.read(values, splits[name]["image"].shape[1:3], options)
            for name, values in outputs.items()
        }
        if self.question == "count":
            return answers
        limit = dense.decide(self.question, answers["validation"], splits["validation"])
        return {name: x._replace(limit=limit) for name, x in answers.items()}

    def draw(self, trainer: Trainer) -> None:
        """Curves, images, scores by value, and answers of the first seed over their images."""
        folder, (stored, batch) = trainer.folder, self.first_examples(24)
        fields = {"loss": "training loss", "validation_loss": "validation loss"}
        panels = curve_panels(trainer, Network, fields, lambda n: reporting.label(n[:2]))
        figures.curves(panels, folder / "curves.png", logarithmic=True)
        titles = [f"{float(x):g}" for x in stored.get("count", stored.get("label", range(1, 25)))]
        figures.samples(np.asarray(batch["image"]), titles, folder / "samples.png")
        settings = {point: trial.settings for point, trial in self.trials.items()}
        self.damage_scores = dense_sweeps.damage_scores(self.damages, self.source.splits["train"])
        words = dense_sweeps.image_words([source.name for source in self.sources.values()])
        swept = self.results, self.question, settings, folder / "sweep.png"
        dense_sweeps.sweep(*swept, words, self.damage_scores)
        answers = dense_sweeps.last_answers(settings, self.predictions, words[0])
        shown = self.question, self.tests["images"], answers
        dense_figures.overlays(*shown, folder / "answers.png", tolerance=self.config.tolerance)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        settings = declared.describe_methods(self.config, get_config().base)
        data = self.describe_data(f"{length(self.source.splits['train']):,} training images")
        if self.config.data.shifted:
            data += f"; shifted: {declared.describe(self.config.data.shifted, {})}"
        if self.question == "locate":
            data += "; " + reporting.describe_places(self.tests["images"], self.config.tolerance)
        described = {"Question": self.question, "Data": data}
        described |= dense_sweeps.describe_damage(self.damage_scores)
        facts = described | {"Settings come from": self.config.settings_from} | settings | facts
        guesses = reporting.against_guess(self.predictions, self.tests, self.guess)
        return reporting.report(self.results, self.question, self.config.baseline, facts, guesses)


def check(trial: declared.Method, config: ConfigDict, trials: recipe.Trials) -> None:
    """Raise ValueError for settings that would not be read, or are not those of the start."""
    settings = trial.settings
    if damage := settings["damage"]:
        kind, path = AMOUNTS.get(damage, Between(0, above=True)), trial.path("amount")
        kind.check(f"{path} of {damage}", settings["amount"], config)
    if start := settings["start"]:
        shared = ("answer", "encoder", "weights", "widths", "normalization", "average")
        if changes := [n for n in shared if settings[n] != trials[start, ""].settings[n]]:
            raise ValueError(f"{trial.path('start')}={start}, whose {changes[0]} is another")
    moves_mask = {"mask"} >= {*REPRESENTATIONS[settings["answer"]].arrays}
    refusal = f"answer={settings['answer']} is not cut, moved or damaged, masks alone are"
    for name, read, reason in (
        *((name, moves_mask, refusal) for name in ("patch", "damage")),
        ("changes", moves_mask or preparation.MOVING.isdisjoint(settings["changes"]), refusal),
        ("weights", settings["encoder"], "U-Net's own encoder has none"),
        ("amount", damage, "there is no damage"),
        ("views", settings["answer"] != "coordinates", "coordinates are not brought back"),
        ("source", settings["source"] == "images" or config.data.shifted, "there is no such data"),
    ):
        if settings[name] and not read:
            raise ValueError(f"{trial.path(name)}={settings[name]} is not used: {reason}")


study = partial(conduct, Dense)

if __name__ == "__main__":
    run(study, "dense", get_config(), members=classification.most_members, free=SETTINGS.free)
