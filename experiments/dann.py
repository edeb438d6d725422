"""What adapts across domains? Domain-adversarial training (Ganin & Lempitsky, ICML 2015; JMLR 2016)

python -m experiments.dann --config configs/dann.py[:pair]

Networks learn the labels of a source domain and are tested on a target domain: without adaptation
(``source_only``), with one method or several, which see the target's images and none of its labels,
and, as the bound from above, with the target's labels (``target_only``). A target may come without
labels: then the report has the criteria that need none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from configs.dann import get_config
from experiments.harness import settings as declared
from experiments.harness.classification import (
    COUNTS,
    DataStudy,
    Starter,
    load_source,
    most_members,
    starting,
)
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Multiple, OneOf, Settings
from experiments.harness.study import Headline, conduct, curve_panels, describe_source
from jaxdl import adaptation, trees, validation
from jaxdl.adaptation import TERMS
from jaxdl.data import augment, encoded, preparation
from jaxdl.data.source import Source, Split, check_same_classes
from jaxdl.nn.models import ADVERSARIAL_MODELS
from jaxdl.nn.models.convnet import Start
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.report import adapted, embeddings, figures
from jaxdl.report import dann as reporting
from jaxdl.report.adapted import Diagnosis, Result, name_of, place_of
from jaxdl.report.published import DANN_2015, DANN_2016, DANN_LATER
from jaxdl.train import logs
from jaxdl.train.feed import FEEDS
from jaxdl.train.groups import Program, example_streams, first_examples
from jaxdl.train.loop import Trainer
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper

DOMAINS = ("source", "target")
STARTS = {"he": Start(), "glorot": Start(glorot=True), "small": Start(deviation=0.01)}
NUMBERS = ("reversal", "radius", "threshold", "range", "rate", "weight_decay")
"""Settings in which the members of one population may differ, beside the terms' weights."""
HELD_OUT = 1000
"""Images of each domain that networks are examined with."""
SHORT = {"svhn_cropped": "svhn"}
"""What papers call a data set of TFDS, where that is another name."""

SETTINGS = Settings(
    {
        "model": OneOf(tuple(ADVERSARIAL_MODELS)),
        "feed": OneOf(FEEDS),
        **COUNTS,
    },
    free=("options", "methods"),
    computing=("workers",),
)
METHOD = {
    "labels": OneOf(DOMAINS),
    "steps": (Count(), Multiple("steps_per_dispatch")),
    "batch": (Count(), Multiple("parallel.data")),
    **dict.fromkeys((*TERMS, "reversal", "radius", "weight_decay", "max_norm"), Between(0)),
    **dict.fromkeys(("threshold", "colours", "changes", "warps"), Between(0, 1)),
    **dict.fromkeys(("range", "rate"), Between(0, above=True)),
    "dropout": Between(0, 1, below=True),
    "subtract": OneOf(("common", "own", "none")),
    "size": Count(0),
    "padding": OneOf(("VALID", "SAME")),
    "start": OneOf(tuple(STARTS)),
    "schedule": OneOf(("annealed", "constant", "cosine")),
}


class Network(NamedTuple):
    """What names a row of ``results.csv``."""

    pair: str
    method: str
    seed: int


def check(config: ConfigDict) -> dict[str, declared.Method]:
    """All methods; ValueError where settings do not go together."""
    domains = [config[domain] for domain in DOMAINS]
    seeds = [domain.options.get("seed", 0) for domain in domains]
    if all(d.name in ("digits", "digits_m") for d in domains) and seeds[0] != seeds[1]:
        raise ValueError(
            f"config.source.options.seed={seeds[0]}, config.target.options.seed={seeds[1]}: digits "
            "and digits_m need the same seed, or test digits of the one train the other"
        )
    methods = declared.methods(config, METHOD)
    for name, (settings, _) in methods.items():
        section, terms = f"config.methods.{name}", terms_of(settings)
        if settings["coral"] and settings["batch"] < 2 * max(1, config.parallel.data):
            raise ValueError(
                f"{section}.coral needs at least 2 images of each domain on each device"
            )
        if settings["labels"] == "target" and terms:
            raise ValueError(
                f"{section}: trained on the target's labels, there is nothing to adapt"
            )
        if set(adaptation.ADVERSARIES) <= set(terms):
            raise ValueError(
                f"{section}: adversarial or conditional, one domain classifier at most"
            )
    return methods


def check_labels(source: Source, target: Source, settings: Mapping[str, Mapping]) -> None:
    """Raise ValueError where domains have other classes, or labels are missing that are needed."""
    if not source.labelled:
        raise ValueError(f"config.source: {source.name} has no labels to learn")
    if target.labelled:
        check_same_classes(source, target)
    elif learners := [name for name, method in settings.items() if method["labels"] == "target"]:
        raise ValueError(
            f"config.methods.{learners[0]} learns the target's labels, and {target.name} has "
            f"none: name the others alone, --config.methods=\"{{'source_only': {{}}, 'dann': "
            "{'adversarial': 1.0}}\", or give it labels"
        )


def terms_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a method adds to the loss of the labels."""
    return tuple(term for term in TERMS if settings[term])


def trains_on(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The domains that a step has images of: both, or that of the labels alone."""
    adapts = not set(adaptation.UNLABELLED).isdisjoint(terms_of(settings))
    return DOMAINS if adapts else (settings["labels"],)


def make_prepare(settings: Mapping[str, Any]) -> Prepare:
    """From stored images to a step's batch. The colours of labelled images change whatever their
    domain: a fairer bound."""
    colours, view = settings["colours"], preparation.recolour(settings["changes"])
    if settings["warps"]:
        view = augment.compose(view, preparation.warp(settings["warps"]))
    return preparation.domain_batches(
        preparation.centred(settings["subtract"], settings["size"]),
        paired=trains_on(settings) == DOMAINS,
        recolour=preparation.recolour(colours) if colours else None,
        change=view if settings["consistency"] else None,
    )


class Adaptation(DataStudy):
    """All methods and seeds on one pair of domains."""

    settings, network = SETTINGS, Network
    headline = Headline(Result, "target_accuracy", lambda n: n.method not in adapted.BOUNDS)
    # Nothing is chosen by these, and the test images are not among them.
    fields: ClassVar = {domain: f"{domain}_accuracy" for domain in DOMAINS}

    def __init__(self, config: ConfigDict):
        self.config = config
        self.methods = {name: method.settings for name, method in check(config).items()}
        for domain in DOMAINS:
            unlabelled = domain == "target"
            source = load_source(config[domain], f"config.{domain}", unlabelled=unlabelled)
            self.sources = {**self.sources, domain: source}
        check_labels(*self.sources.values(), self.methods)
        self.identity = {name: describe_source(s) for name, s in self.sources.items()}
        names = (SHORT.get(source.name, source.name) for source in self.sources.values())
        self.pair = config.pair or "_to_".join(names)

    def build(self) -> None:
        """The images of both domains laid end to end, programs and members."""
        images = [source.splits["train"]["image"] for source in self.sources.values()]
        shapes = [list(part.shape[1:]) for part in images]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"images of the source are {shapes[0]}, of the target {shapes[1]}: make them alike "
                "with config.source.options and config.target.options, size and channels"
            )
        self.lay_out(self.config.feed, self.config.workers)
        means = [encoded.statistics(part)[0].mean((0, 1)) for part in images]
        self.means = np.stack(means).astype(np.float32)
        self.counts: set[int] = set()
        # Methods with most terms come first: they take longest, and their faults are the dearest.
        names = sorted(self.methods, key=lambda name: -len(terms_of(self.methods[name])))

        def alike(name: str) -> tuple:
            settings, terms = self.methods[name], terms_of(self.methods[name])
            left_out = {*NUMBERS, *TERMS, *(() if terms else ("labels",))}
            return terms, *((k, v) for k, v in settings.items() if k not in left_out)

        self.members = self.make_members(names, alike, self.make, partial(Network, self.pair))

    def make(self, method: str) -> tuple[Program, Starter]:
        """The program of a method, and how its networks start."""
        config, settings = self.config, self.methods[method]
        terms, steps = terms_of(settings), settings["steps"]
        conditional = "conditional" in terms
        model = ADVERSARIAL_MODELS[config.model](
            len(self.sources["source"].class_names),
            padding=settings["padding"],
            dropout=settings["dropout"],
            start=STARTS[settings["start"]],
        )
        join = {"join": adaptation.joined} if conditional else {}
        setting = f"config.model={config.model}"
        init, shapes = self.initializer(model, self.image_shape(settings["size"]), setting, **join)

        def rule(hyper: Hyper) -> optax.GradientTransformation:
            rate = make_schedule(settings["schedule"], hyper["rate"], steps=steps)
            decay, norm = hyper["weight_decay"], settings["max_norm"] or None
            return make_optimizer("momentum", rate, weight_decay=decay, max_norm=norm)

        def outputs(state: TrainState, hyper: Hyper, x: jax.Array) -> dict[str, jax.Array]:
            return adaptation.outputs(model, state.variables, x, conditional=conditional)

        def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
            return outputs(state, hyper, x)["logits"]

        prepare, size = make_prepare(settings), {"steps": steps, "batch": settings["batch"]}
        loss = adaptation.adaptation_loss(model, terms, steps)
        program = self.program(loss, logits, rule, prepare, **size, outputs=outputs)
        self.counts.add(trees.count(shapes["params"]))
        return program, starting(init, rule)

    def hyper(self, method: str, seed: int) -> Hyper:
        """What makes a member of a population: its examples, its numbers, its random key.

        Networks of one seed begin alike, where they have the same layers, and see the same source
        images in the same order, whatever their method.
        """
        settings = self.methods[method]
        domains = trains_on(settings)
        longest = max(len(self.ids[domain, "train"]) for domain in DOMAINS)
        return {
            "key": member_key("train", seed),
            **example_streams([self.ids[domain, "train"] for domain in domains], longest),
            "domain": np.int32(DOMAINS.index(domains[0])),
            "means": self.means,
            "weights": {term: np.float32(settings[term]) for term in terms_of(settings)},
            **{name: np.float32(settings[name]) for name in NUMBERS},
        }

    def held_out(self, domain: str) -> tuple[np.ndarray, np.ndarray]:
        """Validation images to examine networks with: their numbers in the feed, and their labels.

        In a random order, since many data sets list their images by class; in the same one for
        domains of the same size, so that a digit and its blended twin are in the same half of them.
        """
        labels = self.sources[domain].splits["validation"]["label"]
        chosen = np.random.default_rng(0).permutation(len(labels))[:HELD_OUT]
        return self.ids[domain, "validation"][chosen], labels[chosen]

    def evaluated(self, hypers: Hyper, source: str) -> Hyper:
        """Images are centred, and with batch normalization normalized, as those of their domain."""
        return {**hypers, "domain": jnp.full_like(hypers["domain"], DOMAINS.index(source))}

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Accuracies on the test images, and what held-out images say of a network without labels
        of the target; NaN for a network that diverged."""
        accuracies = self.accuracies(trainer, tests)
        results = [
            Result(*n, source_accuracy=values["source"], target_accuracy=values["target"])
            for n, values in accuracies.items()
        ]
        adapted.write_results(trainer.folder / "results.csv", results)
        self.held = {domain: self.held_out(domain) for domain in DOMAINS}
        self.logits, diagnoses = {}, []
        curves, faults = trainer.curves.by_network(Network), trainer.curves.faults(Network)
        for trained in self.trained:
            by_domain = [
                self.predict(trained, self.feed, lambda _, d=d: self.held[d][0], d) for d in DOMAINS
            ]
            for network in trained.group.networks:
                outputs = [part[network] for part in by_domain]
                fault = faults.get(network)
                diagnoses.append(self.diagnose(network, outputs, curves[network], fault))
                if network.seed == 0 and not fault:
                    self.logits[network.method] = [part["logits"] for part in outputs]
        adapted.write_diagnoses(trainer.folder / "diagnostics.csv", diagnoses)

    def diagnose(
        self,
        network: Network,
        outputs: Sequence[Mapping[str, np.ndarray]],
        records: Sequence[Mapping[str, Any]],
        fault: logs.Fault | None,
    ) -> Diagnosis:
        """What is known of a network without target labels.

        Args:
          outputs: for held-out images of both domains.
          records: its curves.
        """
        settings, numbers = self.methods[network.method], Diagnosis.unknown()
        adversarial = not set(adaptation.ADVERSARIES).isdisjoint(terms_of(settings))
        if not fault:
            numbers |= validation.unlabelled_criteria(*outputs, self.held["source"][1])
        if adversarial and not fault:
            logits = (part["domain"] for part in outputs)
            numbers["domain_accuracy"] = float(adaptation.domain_accuracy(*logits))
            highest, height = logs.series(records, "reversal")[1].max(), settings["reversal"]
            numbers["reversal"] = float(highest / height) if height else 0.0
        step, array = fault or (-1, "")
        shared = {"adversarial": int(adversarial), "diverged_at": step, "diverged_in": array}
        return Diagnosis(*network, **shared, **numbers)

    def draw(self, trainer: Trainer) -> None:
        """Images of both domains, curves, and the logits of both domains in the plane."""
        self.draw_samples(trainer.folder / "samples.png")
        panels = curve_panels(
            trainer,
            Network,
            PANELS,
            lambda network: name_of(network.method),
            lambda network: (place_of(network.method), network.seed),
        )
        figures.curves(panels, trainer.folder / "curves.png")
        if self.logits:  # not where all have diverged
            labels = [self.held[domain][1] for domain in DOMAINS]
            ordered = sorted(self.logits, key=place_of)
            logits = {name_of(method): self.logits[method] for method in ordered}
            embeddings.draw_domains(logits, labels, trainer.folder / "logits.png")

    def draw_samples(self, path: Path) -> None:
        """The first images of a member with most terms, of each domain that it sees."""
        member, names = self.members[0], self.sources["source"].class_names
        prepare = self.prepare[member.program]
        stored, batch = first_examples(self.feed, prepare, member.hyper(), 24, self.placement)
        labels, images, titles = stored["label"].reshape(24, -1), [], []
        for column, domain in enumerate(batch):
            for part in ("image", "changed"):
                if part in batch[domain]:
                    images.append(np.asarray(batch[domain][part]))
                    title = domain if part == "image" else part
                    for label in labels[:, column]:
                        titles.append(f"{title} {names[label]}" if label >= 0 else title)
        figures.samples(np.concatenate(images), titles, path)

    def facts(self) -> dict[str, str]:
        """What a reader of the report must know of data, networks and settings."""
        config, methods = self.config, self.methods
        lengths = {(settings["steps"], settings["batch"]) for settings in methods.values()}
        absent = {"Published numbers": "not beside these runs, which are shorter"}
        # The one base that no variant has changed: in others, settings of all methods may be.
        recipe = get_config("mnist_to_mnist_m").base.to_dict()
        return {
            domain.capitalize(): f"{source.name} ({len(self.ids[domain, 'train']):,} "
            f"training, {source.test.size:,} test images{', no labels' * (not source.labelled)})"
            for domain, source in self.sources.items()
        } | {
            "Network": f"{config.model}, "
            + " or ".join(f"{count:,} parameters" for count in sorted(self.counts)),
            "Training": " or ".join(
                f"{steps:,} steps of {batch} images a domain" for steps, batch in sorted(lengths)
            ),
            **({} if config.beside_published else absent),
            "Settings come from": config.settings_from,
            **{
                f"Settings of {name_of(method)}": declared.describe(methods[method], recipe)
                or "the paper's recipe for MNIST → MNIST-M"
                for method in sorted(methods, key=place_of)
            },
        }

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        published = (*DANN_2015, *DANN_2016, *DANN_LATER)
        return reporting.report(
            adapted.read_results(trainer.folder / "results.csv"),
            adapted.read_diagnoses(trainer.folder / "diagnostics.csv"),
            published if self.config.beside_published else (),
            colours={method: settings["colours"] for method, settings in self.methods.items()},
            facts=self.facts() | facts,
            chosen_by="the last step; adapted networks saw no label of the target",
        )


PANELS = {
    "label_loss": "label loss",
    "domain_loss": "domain loss",
    "domain_accuracy": "domain accuracy",
    "reversal": "λ",
    "source_accuracy": "source accuracy (validation)",
    "target_accuracy": "target accuracy (for the eye)",
}


study = partial(conduct, Adaptation)

if __name__ == "__main__":
    run(study, "dann", get_config(), members=most_members, free=SETTINGS.free)
