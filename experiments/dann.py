"""What adapts across domains? Domain-adversarial training (Ganin & Lempitsky, ICML 2015; JMLR 2016)

python -m experiments.dann --config configs/dann.py[:pair]

Networks learn the labels of a source domain and are tested on a target domain: without adaptation
(``source_only``), with one method or several, which see the target's images and none of its labels,
and, as the bound from above, with the target's labels (``target_only``), if it has any.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.dann import get_config
from experiments.harness import classification, datasets, recipe
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, OneOf, Settings
from experiments.harness.study import Headline, conduct, curve_panels, describe_source
from experiments.harness.user_functions import NamedFunction
from jaxdl import adaptation, trees, validation
from jaxdl.adaptation import ADVERSARIES, DOMAINS, TERMS
from jaxdl.data import augment, preparation
from jaxdl.data.source import Split
from jaxdl.nn.models import ADVERSARIAL_MODELS
from jaxdl.nn.models.adversarial import AdversarialNet
from jaxdl.nn.models.convnet import STARTS
from jaxdl.report import adapted, embeddings, figures
from jaxdl.report import dann as reporting
from jaxdl.report.adapted import CURVES, Changes, Diagnosis, Result, name_of, order, place_of
from jaxdl.report.published import DANN
from jaxdl.train import logs
from jaxdl.train.feed import FEEDS
from jaxdl.train.groups import Program, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper

RECIPE = ("steps", "batch", "optimizer", "rate", "weight_decay", "max_norm", "dropout")
"""Settings as other studies have them."""
NUMBERS = ("reversal", "radius", "threshold", "range", "rate", "weight_decay")
"""Settings in which the members of one population may differ, beside the terms' weights."""
HELD_OUT = 1000  # images of each domain that networks are examined with

SETTINGS = Settings(
    {"feed": OneOf(FEEDS), **classification.COUNTS},
    free=("options", "methods"),
    computing=("workers",),
)
METHOD = {
    "labels": OneOf(DOMAINS),
    **dict.fromkeys((*TERMS, "reversal", "radius"), Between(0)),
    **dict.fromkeys(("threshold", "colours", "backgrounds", "changes", "warps"), Between(0, 1)),
    "range": Between(0, above=True),
    "subtract": OneOf(("common", "own", "none")),
    "size": Count(0),
    "padding": OneOf(("VALID", "SAME")),
    "start": OneOf(tuple(STARTS)),
    "schedule": OneOf(("annealed", "constant", "cosine")),
    **{name: recipe.KINDS[name] for name in RECIPE},
}


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    pair: str
    method: str
    seed: int


def check(config: ConfigDict) -> dict[str, declared.Method]:
    """All methods; ValueError where settings do not go together."""
    datasets.check_digit_splits(config, DOMAINS)
    methods = declared.methods(config, METHOD)
    for name, (settings, sections) in methods.items():
        views = [n for n in ("changes", "warps") if settings[n] and sections[n] != "config.base"]
        terms, share = terms_of(settings), settings["batch"] // max(1, config.parallel.data)
        extra = ", ".join(n for n in (*TERMS, "backgrounds") if settings[n])
        for wrong, problem in (
            ("coral" in terms and share < 2, "coral needs 2 images of each domain on each device"),
            (extra and settings["labels"] == "target", f"{extra}: labels=target, nothing to adapt"),
            ({*ADVERSARIES} <= {*terms}, "one domain classifier: adversarial or conditional"),
            (views and "consistency" not in terms, f"{', '.join(views)}: not used, consistency=0"),
        ):
            if wrong:
                raise ValueError(f"config.methods.{name}: {problem}")
    return methods


def terms_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The terms that a method adds to the loss of the labels."""
    return tuple(term for term in TERMS if settings[term])


def trains_on(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The domains whose images a step uses: both, or only that of the labels."""
    adapts = not set(adaptation.UNLABELLED).isdisjoint(terms_of(settings))
    return DOMAINS if adapts or settings["backgrounds"] else (settings["labels"],)


def make_prepare(settings: Mapping[str, Any]) -> Prepare:
    """The function from stored images to a step's batch; labelled ones of either domain change."""
    colours, view = settings["colours"], preparation.recolour(settings["changes"])
    if settings["warps"]:
        view = augment.compose(view, preparation.warp(settings["warps"]))
    return preparation.domain_batches(
        preparation.centred(settings["subtract"], settings["size"]),
        paired=trains_on(settings) == DOMAINS,
        recolour=preparation.recolour(colours) if colours else None,
        backgrounds=settings["backgrounds"],
        change=view if settings["consistency"] else None,
    )


class Adaptation(classification.DataStudy):
    """All methods and seeds on one pair of domains."""

    settings, network = SETTINGS, Network
    headline = Headline(Result, "target_accuracy", lambda n: n.method not in adapted.BOUNDS)
    # Nothing is chosen by these, and the test images are not among them.
    fields: ClassVar = {domain: f"{domain}_accuracy" for domain in DOMAINS}

    def __init__(self, config: ConfigDict):
        self.config = config
        name, models = config.model, ADVERSARIAL_MODELS
        self.make_model = NamedFunction("config.model", name, models, AdversarialNet)
        self.methods = {name: method.settings for name, method in check(config).items()}
        self.sources = {
            domain: datasets.load(config[domain], f"config.{domain}", unlabelled=domain == "target")
            for domain in DOMAINS
        }
        source, target = self.sources.values()
        adaptation.check_domains(source, target)
        learners = [n for n, settings in self.methods.items() if settings["labels"] == "target"]
        if learners and not target.labelled:
            raise ValueError(
                f"config.methods.{learners[0]} learns the target's labels, and {target.name} has "
                "none: name the others alone, --config.methods=\"{'source_only': {}, 'dann': "
                "{'adversarial': 1.0}}\", or give it labels"
            )
        self.identity = {domain: describe_source(s) for domain, s in self.sources.items()}
        self.pair = config.pair or f"{source.name}_to_{target.name}".replace("svhn_cropped", "svhn")

    def build(self) -> None:
        """The images of both domains laid end to end, programs and members."""
        self.lay_out(self.config.feed, self.config.workers)
        self.means = preparation.mean_colours(self.sources.values())
        # Methods with most terms come first: they take longest, and their faults are the dearest.
        names = sorted(self.methods, key=lambda name: -len(terms_of(self.methods[name])))

        def alike(name: str) -> tuple:
            settings, terms = self.methods[name], terms_of(self.methods[name])
            left_out = {*NUMBERS, *TERMS, *(() if terms else ("labels",))}
            return terms, *((k, v) for k, v in settings.items() if k not in left_out)

        self.members = self.make_members(names, alike, self.make, partial(Network, self.pair))

    def make_network(self, settings: Mapping[str, Any]) -> AdversarialNet:
        """The network of a method."""
        classes, start = len(self.sources["source"].class_names), STARTS[settings["start"]]
        options = {name: settings[name] for name in ("padding", "dropout")}
        return self.make_model(classes, start=start, **options)

    def make(self, method: str) -> tuple[Program, classification.Starter]:
        """The program of a method, and the initialization of its networks."""
        settings, terms = self.methods[method], terms_of(self.methods[method])
        conditional, shape = "conditional" in terms, self.image_shape(settings["size"])
        model = recipe.over_devices(self.make_network(settings), self.placement.axis_name)
        join = {"join": adaptation.joined} if conditional else {}
        logits, title = (1, len(self.sources["source"].class_names)), self.make_model.title
        init, _ = self.initializer(model, shape, title, (logits, (1,)), **join)
        rule = recipe.update_rule(settings)

        def outputs(state: TrainState, hyper: Hyper, x: jax.Array) -> dict[str, jax.Array]:
            return adaptation.outputs(model, state.variables, x, conditional=conditional)

        program = self.program(
            adaptation.adaptation_loss(model, terms, settings["steps"]),
            lambda *examined: outputs(*examined)["logits"],
            rule,
            make_prepare(settings),
            **{name: settings[name] for name in ("steps", "batch")},
            outputs=outputs,
        )
        return program, classification.starting(init, rule)

    def hyper(self, method: str, seed: int) -> Hyper:
        """The examples, numbers and random key of a member of a population.

        Networks of one seed begin alike in layers of one shape, and see source images in one order.
        """
        settings, domains = self.methods[method], trains_on(self.methods[method])
        longest = max(len(self.ids[domain, "train"]) for domain in DOMAINS)
        return {
            "key": member_key("train", seed),
            **example_streams([self.ids[domain, "train"] for domain in domains], longest),
            "domain": np.int32(DOMAINS.index(domains[0])),
            "means": self.means,
            "weights": {term: np.float32(settings[term]) for term in terms_of(settings)},
            **{name: np.float32(settings[name]) for name in NUMBERS},
            **recipe.numbers({"max_norm": settings["max_norm"]}),
        }

    def held_out(self, domain: str) -> tuple[np.ndarray, np.ndarray]:
        """Validation images for :mod:`jaxdl.validation`: their numbers in the feed, their labels.

        Their order is random, since many data sets list images by class, and the same for domains
        of one size, so that a digit and its blended version are in the same half.
        """
        labels = self.sources[domain].splits["validation"]["label"]
        ids = np.random.default_rng(0).permutation(len(labels))[:HELD_OUT]
        return self.ids[domain, "validation"][ids], labels[ids]

    def evaluated(self, hypers: Hyper, source: str) -> Hyper:
        """Settings under which images are centred and normalized as those of their domain."""
        return {**hypers, "domain": jnp.full_like(hypers["domain"], DOMAINS.index(source))}

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Accuracies on the test images, and criteria on held-out images that need no labels of
        the target; NaN for a network that diverged."""
        accuracies = self.accuracies(trainer, tests).items()
        results = [Result(*n, *(values[d] for d in DOMAINS)) for n, values in accuracies]
        adapted.write_results(trainer.folder / "results.csv", results)
        held_out = {domain: self.held_out(domain) for domain in DOMAINS}
        self.labels = [labels for _, labels in held_out.values()]
        parts = {d: (self.feed, lambda _, ids=ids: ids, d) for d, (ids, _) in held_out.items()}
        curves, faults = trainer.curves.by_network(Network), trainer.curves.faults(Network)
        self.logits, diagnoses = {}, []
        for network, outputs in self.predict_parts(parts):
            (source, target), settings = outputs.values(), self.methods[network.method]
            adversarial = not {*ADVERSARIES}.isdisjoint(terms_of(settings))
            row = Diagnosis(*network, int(adversarial))
            if fault := faults.get(network):
                diagnoses.append(row._replace(diverged_at=fault.step, diverged_in=fault.array))
                continue
            examined = source, target, self.labels[0]
            numbers = validation.unlabelled_criteria(*examined, adversarial=adversarial)
            if adversarial:
                highest = logs.series(curves[network], "reversal")[1].max()
                numbers["reversal"] = float(highest / (settings["reversal"] or 1))
            diagnoses.append(row._replace(**numbers))
            if network.seed == 0:
                self.logits[network.method] = [source["logits"], target["logits"]]
        adapted.write_diagnoses(trainer.folder / "diagnostics.csv", diagnoses)

    def draw(self, trainer: Trainer) -> None:
        """Images of both domains, curves, and the logits of both domains in the plane."""
        folder, names = trainer.folder, [*self.sources["source"].class_names, ""]
        stored, batch = self.first_examples(24)  # of a member with most terms
        labels = np.reshape(stored["label"], (24, -1)).T
        shown = [(d, batch[d]["image"], x) for d, x in zip(batch, labels, strict=True)]
        if "changed" in batch.get("target", {}):
            shown.append(("changed", batch["target"]["changed"], labels[1]))
        titles = [f"{title} {names[label]}".strip() for title, _, row in shown for label in row]
        figures.samples(np.concatenate([x for _, x, _ in shown]), titles, folder / "samples.png")
        panels = curve_panels(trainer, Network, CURVES, lambda n: name_of(n.method), order)
        figures.curves(panels, folder / "curves.png")
        embeddings.draw_domains(self.logits, self.labels, names, folder / "logits.png")

    def facts(self) -> dict[str, str]:
        """Data, networks and settings, for the report."""
        methods = {name_of(n): self.methods[n] for n in sorted(self.methods, key=place_of)}
        lengths = sorted({(x["steps"], x["batch"]) for x in methods.values()})
        counts = sorted({trees.count(trained.states[0].params) for trained in self.trained_groups})
        usual = get_config("mnist_to_mnist_m").base.to_dict()  # whose base is the paper's
        return {
            domain.capitalize(): f"{source.name} ({len(self.ids[domain, 'train']):,} "
            f"training, {source.test.size:,} test images{', no labels' * (not source.labelled)})"
            for domain, source in self.sources.items()
        } | {
            "Network": f"{self.config.model}, {' or '.join(f'{n:,} parameters' for n in counts)}",
            "Training": " or ".join(f"{n:,} steps of {b} images a domain" for n, b in lengths),
            "Settings come from": self.config.settings_from,
            **declared.describe_changes(methods, usual, "the paper's recipe for MNIST → MNIST-M"),
        }

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        return reporting.report(
            adapted.read_results(trainer.folder / "results.csv"),
            adapted.read_diagnoses(trainer.folder / "diagnostics.csv"),
            DANN if self.config.beside_published else (),
            changes={n: Changes(s["colours"], s["backgrounds"]) for n, s in self.methods.items()},
            facts=self.facts() | facts,
        )


study = partial(conduct, Adaptation)

if __name__ == "__main__":
    run(study, "dann", get_config(), members=classification.most_members, free=SETTINGS.free)
