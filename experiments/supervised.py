"""What trains a network best? Methods, named sets of settings, beside a baseline.

python -m experiments.supervised --config configs/supervised.py[:variant]

Any data set of images or tables, any network; a method may be trained at several values of one
setting. What differs in numbers alone is one population, with all its seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.supervised import get_config
from experiments.harness import classification, datasets, recipe, single_source
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Count, Flag, OneOf, Settings
from experiments.harness.study import Headline, conduct, describe_source
from jaxdl.data import sampling, sources
from jaxdl.data.source import Split
from jaxdl.predict import make_logits
from jaxdl.report import idle, other_models, prediction_figures, predictions, score_figures
from jaxdl.report import supervised as reporting
from jaxdl.train.evaluate import make_accuracy, make_r2
from jaxdl.train.groups import Member, Program, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper

KINDS = {**classification.COMMON, "bag": Count(0), "choose": Flag()}
SETTINGS = Settings(KINDS, ("options", "methods"), ("data.workers",))
MOST_TRAIN = 5000  # training examples on which networks are evaluated


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    method: str
    value: str  # of the setting that the method is swept over; empty without one
    seed: int


class Supervised(single_source.SingleSourceStudy):
    """All methods, values and seeds on one data set."""

    settings, network, numbered = SETTINGS, Network, True
    headline = Headline(reporting.Result, "score", signed=True)

    def __init__(self, config: ConfigDict):
        self.config = config
        trials = declared.sweeps(config, recipe.KINDS)
        self.trials = recipe.trained_first(trials, "teacher", "soft")
        methods = dict.fromkeys(name for name, _ in self.trials)
        OneOf(tuple(methods)).check("config.baseline", config.baseline, config)
        kinds = ("image", "features"), ("label", "target")
        self.source = datasets.load(config.data, "config.data", *kinds)
        self.sources, self.identity = {"images": self.source}, describe_source(self.source)
        self.opens_test = config.report_on == "test"
        train = self.source.splits["train"]
        self.inputs = "image" if "image" in train else "features"
        self.answers = "label" if "label" in train else "target"
        self.regression = self.answers == "target"
        for trial in self.trials.values():
            recipe.check(trial, images=self.inputs == "image", classes=not self.regression)
        self.width = 1 if self.regression else len(self.source.class_names)  # a network's outputs
        self.score = "R²" if self.regression else "accuracy"
        self.fields = {"images": f"validation_{'r2' if self.regression else 'accuracy'}"}
        parts = [np.asarray(arrays[self.answers]) for arrays in self.source.splits.values()]
        self.stored_answers = np.concatenate(parts)
        # One of two classes may be looked for among many examples of the other.
        self.rare = self.width == 2 and np.mean(self.stored_answers == 1) < 0.2
        sweeps = ((name, trial.settings["sweep"]) for (name, _), trial in self.trials.items())
        self.sweeps = {name: setting for name, setting in sweeps if setting}
        self.draw_size = recipe.draw_size(self.trials, config.seeds, config.bag)
        # Targets are standardized for the loss; what is reported is in their own units.
        if self.regression:
            self.mean, self.deviation = parts[0].mean(), parts[0].std() or 1.0

    def lay_out(self, feed: str, workers: int) -> None:
        """The data on the devices, and the examples that networks draw from."""
        super().lay_out(feed, workers)
        self.teacher_logits: dict[Network, np.ndarray] = {}
        ids = (self.ids["images", split] for split in ("train", "validation"))
        labels = None if self.regression else self.stored_answers
        self.data = recipe.Examples(*ids, labels, self.width, self.draw_size)

    def build(self) -> None:
        """Programs and members."""
        super().build()
        networks = (Network(*t, s) for t, s in product(self.trials, range(self.config.seeds)))
        self.longest = max(len(self.draw_examples(network)[0]) for network in networks)
        self.members = self.make_members(
            list(self.trials),
            lambda trial: recipe.program_key(self.trials[trial].settings),
            self.make,
            lambda trial, seed: Network(*trial, seed),
        )

    def make(self, trial: tuple[str, str]) -> tuple[Program, classification.Starter]:
        """The program of a method at a value, and the initialization of its networks."""
        settings, path = self.trials[trial].settings, self.trials[trial].path("model")
        model = recipe.make_model(settings, self.width, self.placement.axis_name, path)
        train = self.source.splits["train"]
        stored = self.images if self.inputs == "image" else train[self.inputs]
        see = recipe.make_see(settings, stored, np.asarray(train[self.answers]))
        row = jax.ShapeDtypeStruct((1, *stored.shape[1:]), stored.dtype)
        shape = jax.eval_shape(lambda x: see(x, None), row).shape[1:]
        init, _ = self.initializer(model, shape, f"{path}={settings['model']}", (1, self.width))
        rule = recipe.update_rule(settings)
        logits = make_logits(model.apply, settings["views"])

        def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
            x = see(stored[self.inputs], key)
            if self.regression:
                target = (stored["target"] - self.mean) / self.deviation
                return {self.inputs: x, "target": target}
            if key is None:
                return {self.inputs: x, "label": stored["label"]}
            label = hyper["labels"][stored["number"]]
            x, label = recipe.mix(settings, key, x, label, self.width)
            soft = {"teacher": hyper["teacher"][stored["number"]]} if "teacher" in hyper else {}
            return {self.inputs: x, "label": label, **soft}

        def outputs(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
            return logits(state.evaluated_variables, x)

        rule(recipe.numbers(settings))  # for its errors
        program = self.program(
            recipe.make_loss(model, settings, self.inputs),
            outputs,
            rule,
            prepare,
            **{name: settings[name] for name in ("steps", "batch", "average")},
            score=make_r2 if self.regression else make_accuracy,
        )
        return program, classification.starting(init, rule, average=settings["average"] > 0)

    def draw_examples(self, network: Network) -> tuple[np.ndarray, np.ndarray]:
        """The examples that a network is trained on, and those for its validation."""
        return self.data.sample(self.trials[network[:2]].settings, network.seed)

    def hyper(self, trial: tuple[str, str], seed: int) -> Hyper:
        """The numbers of a member, its examples and their labels."""
        settings = self.trials[trial].settings
        examples, _ = self.data.sample(settings, seed)
        hyper = recipe.numbers(settings)
        hyper |= {"key": member_key("train", seed), **example_streams([examples], self.longest)}
        if not self.regression:
            hyper["labels"] = self.data.noisy_labels(settings, seed)
        if settings["balance"] == "weights":
            labels = hyper["labels"][examples]
            hyper["class_weights"] = sampling.class_weights(labels, self.width)
        if "soft" in hyper:
            hyper["teacher"] = self.teach(settings["teacher"], seed)
        return hyper

    def teach(self, method: str, seed: int) -> np.ndarray:
        """The logits of a trained network for all examples, by number."""
        network, ids = Network(method, "", seed), np.arange(len(self.stored_answers))
        if network not in self.teacher_logits:
            (trained,) = (t for t in self.trained_groups if network in t.group.networks)
            self.teacher_logits |= self.predict(trained, self.feed, lambda _: ids.astype(np.int32))
        return self.teacher_logits[network]

    def examples(self, member: Member, source: str, tests: Mapping[str, Split]) -> np.ndarray:
        """The ids of the validation examples."""
        return self.draw_examples(member.networks[0])[1]

    def origin(self, network: Network) -> Network | None:
        """The network's teacher."""
        settings = self.trials[network[:2]].settings
        return Network(settings["teacher"], "", network.seed) if settings["soft"] else None

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Compute all networks' outputs and scores."""
        self.tests = tests

        def examples(part: int) -> Callable[[Member], np.ndarray]:
            return lambda member: self.draw_examples(member.networks[0])[part][:MOST_TRAIN]

        def stored_answers(network: Network, ids: np.ndarray) -> np.ndarray:
            return self.stored_answers[ids]

        def train_answers(network: Network, ids: np.ndarray) -> np.ndarray:
            return self.data.noisy_labels(self.trials[network[:2]].settings, network.seed)[ids]

        splits = {
            "train": (self.feed, examples(0), stored_answers if self.regression else train_answers),
            "validation": (self.feed, examples(1), stored_answers),
            **({"test": self.answered(tests["images"])} if tests else {}),
        }
        self.predictions = self.judge(lambda trained: splits, trainer.curves.faults(Network))
        self.results = [
            reporting.Result(*network, *predictions.scores(parts, self.config.report_on))
            for network, parts in sorted(self.predictions.items())
        ]
        reporting.write_results(trainer.folder / "results.csv", self.results)

    def answered(self, split: Split) -> single_source.Part:
        """All examples of a split, with their answers."""
        answers = np.asarray(split[self.answers])
        return *self.apart(split), lambda network, ids: answers[ids]

    def entry(self, network: Network) -> str | None:
        """Curves are drawn of the networks in the table."""
        return reporting.label(network[:2]) if network[:2] in self.shown else None

    def draw(self, trainer: Trainer) -> None:
        """Draw curves, images, scores, and figures for the kind of data."""
        config, folder, split = self.config, trainer.folder, self.config.report_on
        choose = config.choose
        self.shown = dict.fromkeys(reporting.points(self.results, choose=choose))
        self.entries = list(map(reporting.label, self.shown))
        self.networks = {n: parts for n, parts in self.predictions.items() if n[:2] in self.shown}
        super().draw(trainer)
        pooled = reporting.pool(self.results, self.draw_size)
        baseline = config.baseline, reporting.best_values(self.results)[config.baseline]
        self.fit_scores: dict[str, float] = {}
        if self.inputs == "features":
            validation = self.source.splits["validation"]
            tables = self.source.splits["train"], self.tests.get("images", validation)
            self.tables = [(np.asarray(x["features"]), np.asarray(x[self.answers])) for x in tables]
            self.fit_scores = other_models.model_scores(*self.tables)
        if choose or not self.sweeps:
            rows = other_models.model_standings(self.fit_scores)
            if config.bag:
                rows |= predictions.rank_ensembles(self.networks, split, config.bag, baseline)
            ranks = reporting.standings(pooled, config.baseline, choose=True)
            score_figures.scores(ranks, rows, baseline, self.score, folder / "scores.png")
        score_figures.sweep(pooled, self.sweeps, self.score, folder / "sweep.png", choose=choose)
        samples = {p for p, x in self.trials.items() if x.settings["examples"] == "bootstrap"}
        self.diagnoses = predictions.diagnoses(self.predictions, split, samples)
        score_figures.decomposition(self.diagnoses, self.sweeps, folder / "bias_variance.png")
        if self.inputs == "features" and self.tables[0][0].shape[1] <= 2:
            self.draw_plane(folder / "predictions.png")
        if self.rare:
            prediction_figures.operating_curves(self.networks, split, folder / "operating.png")
        elif self.width > 2:
            networks = {n: parts for n, parts in self.networks.items() if n[:2] == baseline}
            names = self.source.class_names, reporting.label(baseline)
            prediction_figures.confusion(networks, split, *names, folder / "confusion.png")

    def draw_plane(self, path: Path) -> None:
        """Draw predictions for a grid of one or two features."""
        features, answers = data = self.tables[0]
        points = prediction_figures.grid(features)
        split = {"features": points, self.answers: np.zeros(len(points), answers.dtype)}
        shown, part = self.trials if len(self.trials) <= 12 else self.shown, self.apart(split)
        outputs: dict[tuple[str, str], list[np.ndarray]] = {point: [] for point in shown}
        predicted = (self.predict(trained, *part).items() for trained in self.trained_groups)
        for network, values in chain.from_iterable(predicted):
            if network[:2] in shown and np.isfinite(values).all():
                outputs[network[:2]].append(self.mean + self.deviation * values)
        truth, classes = sources.TRUTHS.get(self.config.data.name), self.source.class_names
        titles = score_figures.titles(self.results, self.sweeps, self.score, self.diagnoses)
        prediction_figures.plane(outputs, points, data, classes, truth, titles, path)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config = self.config
        settings = declared.describe_methods(config, get_config().base)
        data = self.describe_data(f"{len(self.data.train):,} training examples")
        copies = self.describe_copies() if self.inputs == "image" else {}
        facts = {"Data": data} | settings | copies | facts
        options: Any = {"score": self.score, "sweeps": self.sweeps, "draw": self.draw_size}
        options |= {"choose": config.choose, "remarks": idle.describe(self.networks)}
        return reporting.report(self.results, config.baseline, facts, self.sections(), **options)

    def sections(self) -> Iterator[tuple[str, str]]:
        """Sections of the report beyond scores, where data and settings allow them."""
        split, networks = self.config.report_on, self.networks
        settings = {point: trial.settings for point, trial in self.trials.items()}
        folds = {p: settings[p]["folds"] for p in self.shown if settings[p]["examples"] == "folds"}
        if self.rare:
            comparison = self.results, self.config.baseline
            baselines = reporting.references(*comparison, choose=self.config.choose)
            yield "Precision and recall", predictions.two_classes(networks, split, baselines)
        if self.config.bag:
            yield "Ensembles", predictions.ensembles(networks, split, self.config.bag)
        yield "Bias and variance", predictions.bias_variance(self.diagnoses)
        if folds:
            yield "Cross-validation", predictions.cross_validation(networks, split, folds)
        if self.fit_scores:
            linear = {n: p for n, p in networks.items() if settings[n[:2]]["model"] == "linear"}
            yield "Other models", other_models.describe(linear, split, self.tables, self.fit_scores)


study = partial(conduct, Supervised)

if __name__ == "__main__":
    run(study, "supervised", get_config(), members=classification.most_members, free=SETTINGS.free)
