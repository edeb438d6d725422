"""Domain-adversarial training of neural networks (Ganin & Lempitsky, ICML 2015; JMLR 2016).

python -m experiments.dann --config configs/dann.py[:pair]

Networks learn the labels of a source domain and are tested on a target domain: without adaptation
(``source_only``), with one method or several, which see the target's images and none of its labels,
and, as the bound from above, with the target's labels (``target_only``).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from configs.dann import get_config
from experiments import _run
from experiments._dann_setup import (
    DOMAINS,
    Lab,
    Program,
    assemble_hyper,
    make_lab,
    make_program,
    signature,
    terms_of,
)
from jaxdl import trees, validation
from jaxdl.data.source import Split
from jaxdl.report import dann as reporting
from jaxdl.report import figures
from jaxdl.report.dann import Diagnosis, Result
from jaxdl.report.published import DANN_2015, DANN_2016, DANN_LATER
from jaxdl.report.tables import write_atomically
from jaxdl.train import logs
from jaxdl.train.feed import make_feed
from jaxdl.train.loop import StopFlag, Workplace
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper


class Network(NamedTuple):
    """What names a row of ``results.csv``."""

    pair: str
    method: str
    seed: int


class Round(NamedTuple):
    """Networks that are trained at a time, as one population."""

    name: str
    program: Program
    networks: Sequence[Network]
    size: int
    """Of the population, which copies of the last member fill up."""


def make_rounds(lab: Lab) -> list[Round]:
    """All networks: methods that one program can train, and all their seeds, are one population."""
    config, groups = lab.config, {}
    for method, settings in lab.methods.items():
        groups.setdefault(signature(settings), []).append(method)
    rounds = []
    # What takes longest comes first: its faults are the dearest.
    for methods in sorted(groups.values(), key=lambda m: -len(terms_of(lab.methods[m[0]]))):
        program = make_program(lab, lab.methods[methods[0]])
        every = [Network(config.pair, m, s) for s, m in product(range(config.seeds), methods)]
        size = min(config.members_per_round, len(every))
        for start in range(0, len(every), size):
            some = every[start : start + size]
            rounds.append(Round(f"networks-{len(rounds)}", program, some, size))
    return rounds


def assemble(lab: Lab, each: Round) -> tuple[TrainState, Hyper]:
    """The population before its first step, and what differs between its members."""
    hypers = [assemble_hyper(lab, each.program, n.method, n.seed) for n in each.networks]
    starts = [each.program.init(member_key("init", n.seed)) for n in each.networks]
    states = [each.program.start(*both) for both in zip(starts, hypers, strict=True)]
    return population_of(states, each.size, lab.mesh), population_of(hypers, each.size, lab.mesh)


def of_domain(hypers: Hyper, domain: str) -> Hyper:
    """The same, for evaluation on a domain."""
    return {**hypers, "domain": jnp.full_like(hypers["domain"], DOMAINS.index(domain))}


def fit(lab: Lab, each: Round, place: Workplace) -> tuple[TrainState, Hyper]:
    """A population trained to its end; at once where it is already."""
    config, program = lab.config, each.program
    states, hypers = assemble(lab, each)

    def watch(states: TrainState) -> dict[str, np.ndarray]:
        # For the eye: nothing is chosen by these, and the test images are not among them.
        return {
            f"{domain}_accuracy": program.accuracy(
                states,
                of_domain(hypers, domain),
                [lab.places[domain, "validation"]] * len(each.networks),
                lab.feed.fetch,
            )
            for domain in DOMAINS
        }

    steps, batch = program.settings["steps"], program.settings["batch"]
    dispatches = partial(lab.feed.dispatches, hypers, steps=config.steps_per_dispatch, batch=batch)
    states = place.fit(
        each.name,
        program.train,
        states,
        hypers,
        lambda first: dispatches(range(first, steps)),
        networks=[network._asdict() for network in each.networks],
        steps=steps,
        steps_per_dispatch=config.steps_per_dispatch,
        dispatches_per_evaluation=config.dispatches_per_evaluation,
        watch=watch,
    )
    return states, hypers


def measure(lab: Lab, rounds: Sequence[Round], place: Workplace, tests: dict[str, Split]) -> None:
    """Write ``results.csv``, of test images, and ``diagnostics.csv``."""
    feed = make_feed(lab.config.feed, tests, lab.mesh)
    ends = np.cumsum([len(labels) for _, labels in tests.values()])
    places = {d: np.arange(e - len(tests[d][1]), e) for d, e in zip(tests, ends, strict=True)}
    curves = curves_of(place)
    results, diagnoses = [], []
    for each in rounds:
        states, hypers = fit(lab, each, place)
        many = len(each.networks)
        guesses = {
            domain: each.program.logits(
                states, of_domain(hypers, domain), [places[domain]] * many, feed.fetch
            )
            for domain in DOMAINS
        }
        held_out = {
            domain: [
                each.program.logits(states, of_domain(hypers, domain), at, lab.feed.fetch),
                each.program.insides(states, of_domain(hypers, domain), at, lab.feed.fetch),
            ]
            for domain in DOMAINS
            if (at := [lab.places[domain, "validation"]] * many)
        }
        for i, network in enumerate(each.networks):
            lines = curves[network]
            diverged_at = min((r["diverged_at"] for r in lines if "diverged_at" in r), default=-1)
            accuracies = [
                math.nan
                if diverged_at >= 0
                else float(np.mean(guesses[domain][i].argmax(-1) == tests[domain][1]))
                for domain in DOMAINS
            ]
            results.append(Result(*network, *accuracies))
            diagnoses.append(
                diagnose(
                    lab,
                    network,
                    each.program,
                    lines,
                    diverged_at,
                    guesses["target"][i],
                    {d: (logits[i], inside[i]) for d, (logits, inside) in held_out.items()},
                )
            )
    reporting.write_results(place.folder / "results.csv", results)
    reporting.write_diagnoses(place.folder / "diagnostics.csv", diagnoses)


def diagnose(
    lab: Lab,
    network: Network,
    program: Program,
    lines: Sequence[dict],
    diverged_at: int,
    guesses: np.ndarray,
    held_out: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]],
) -> Diagnosis:
    """What went well or ill with a network, as far as one can tell without the target's labels."""
    adversary = {"adversarial", "conditional"} & set(program.terms)
    told = {"domain_accuracy": math.nan, "importance_weighted_accuracy": math.nan}
    told |= {"effective_samples": math.nan, "reversal": math.nan}
    share = np.bincount(guesses.argmax(-1), minlength=guesses.shape[-1]).max() / len(guesses)
    (source, inside), (target, other) = held_out["source"], held_out["target"]
    if adversary:
        told["domain_accuracy"] = (
            float(np.mean(inside["domain"] > 0)) + float(np.mean(other["domain"] <= 0))
        ) / 2
        told["reversal"] = max(record["reversal"] for record in lines)
    if adversary and diverged_at < 0:
        weights = validation.importance_weights(inside["domain"])
        labels = lab.sources["source"].splits["validation"][1]
        told["importance_weighted_accuracy"] = float(
            validation.importance_weighted_accuracy(source.argmax(-1) == labels, weights)
        )
        told["effective_samples"] = float(validation.effective_sample_size(weights))
    density = math.nan
    if diverged_at < 0:
        density = float(validation.soft_neighbourhood_density(target[:2000]))
    return Diagnosis(
        *network,
        adversarial=int(bool(adversary)),
        top_share=float(share),
        diverged_at=diverged_at,
        neighbourhood_density=density,
        **told,
    )


def curves_of(place: Workplace) -> dict[Network, list[dict]]:
    """The lines of each network's curves."""
    curves: dict[Network, list[dict]] = {}
    for record in logs.read(place.curves):
        network = Network(*(record[field] for field in Network._fields))
        curves.setdefault(network, []).append(record)
    return curves


PANELS = {
    "label_loss": "label loss",
    "domain_loss": "domain loss",
    "domain_accuracy": "domain accuracy",
    "reversal": "λ",
    "source_accuracy": "source accuracy (validation)",
    "target_accuracy": "target accuracy (for the eye)",
}


def draw(lab: Lab, rounds: Sequence[Round], place: Workplace) -> None:
    """The figures: images of both domains, curves, and the features with and without adaptation."""
    workdir, shown = place.folder, {}
    for domain in DOMAINS:
        images, labels = lab.sources[domain].splits["train"]
        for i in np.random.default_rng(0).permutation(len(labels))[:24].tolist():
            name = lab.sources[domain].class_names[labels[i]]
            shown.setdefault(f"{domain} {name}", []).append(images[i])
    titles = [title for title, images in shown.items() for _ in images]
    sheet = np.concatenate(list(shown.values())).astype(np.float32)
    figures.samples(sheet, titles, workdir / "samples.png")

    curves = curves_of(place)
    panels: dict[str, dict[str, list]] = {}
    for network in sorted(curves, key=lambda n: (reporting.place_of(n.method), n.seed)):
        for field, label in PANELS.items():
            if kept := [(r["step"], r[field]) for r in curves[network] if field in r]:
                group = panels.setdefault(label, {}).setdefault(
                    reporting.name_of(network.method), []
                )
                group.append(np.array(kept, dtype=float).T)
    figures.curves({p: panels[p] for p in PANELS.values() if p in panels}, workdir / "curves.png")

    features = {}
    for each in rounds:
        wanted = {n.method: i for i, n in enumerate(each.networks) if n.seed == 0}
        states, hypers = fit(lab, each, place)
        found = [
            each.program.insides(
                states,
                of_domain(hypers, domain),
                [lab.places[domain, "validation"][:EMBEDDED]] * len(each.networks),
                lab.feed.fetch,
            )
            for domain in DOMAINS
        ]
        for method, i in wanted.items():
            of = tuple(inside[i]["features"] for inside in found)
            if all(map(np.isfinite, map(np.sum, of))):
                features[method] = of
    ordered = sorted(features, key=reporting.place_of)
    points = figures.embed({reporting.name_of(m): features[m] for m in ordered})
    labels = [lab.sources[d].splits["validation"][1][:EMBEDDED] for d in DOMAINS]
    is_source = np.repeat([True, False], list(map(len, labels)))
    figures.embeddings(
        {name: (at, is_source, np.concatenate(labels)) for name, at in points.items()},
        workdir / "features.png",
    )


EMBEDDED = 300
"""Images of each domain whose features are drawn."""


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the whole study; the report."""
    began = time.monotonic()
    with _run.user_input():
        lab = make_lab(config)
        rounds = make_rounds(lab)
        about = {
            domain: {
                "name": source.name,
                "version": source.version,
                "classes": source.class_names,
                "sizes": {split: len(labels) for split, (_, labels) in source.splits.items()}
                | {"test": source.test.size},
                "fingerprint": source.fingerprint,
            }
            for domain, source in lab.sources.items()
        }
        _run.claim(workdir, config, about | {"mesh": dict(lab.mesh.shape)})
        finished = workdir / "report.md"
        if finished.exists():
            return finished.read_text()
        resumed = (workdir / "checkpoints").exists()
    total = sum(len(each.networks) * each.program.settings["steps"] for each in rounds)
    with tqdm(total=total, unit="step", unit_scale=True, mininterval=0.5) as bar:

        def progress(name: str, steps: int) -> None:
            bar.set_description(name, refresh=False)
            bar.update(steps)

        place = Workplace(workdir, stop, progress, config.seconds_between_saves)
        for each in rounds:
            fit(lab, each, place)
    quiet = dataclasses.replace(place, progress=lambda *_: None)
    # Everything is trained: here, and nowhere before, the test images are read.
    tests = {domain: source.test.open() for domain, source in lab.sources.items()}
    measure(lab, rounds, quiet, tests)
    draw(lab, rounds, quiet)
    elapsed = f"{time.monotonic() - began:.0f} s" + (" since it was resumed" if resumed else "")
    report = reporting.report(
        reporting.read_results(workdir / "results.csv"),
        reporting.read_diagnoses(workdir / "diagnostics.csv"),
        (*DANN_2015, *DANN_2016, *DANN_LATER),
        facts={"Time": elapsed} | facts(lab, rounds),
        chosen_by="the last step's; no label of the target was used in training or selection",
    )
    write_atomically(finished, report)
    return report


def facts(lab: Lab, rounds: Sequence[Round]) -> dict[str, str]:
    """What a reader of the report must know of the run."""
    config = lab.config
    sizes = {
        domain: f"{source.name} ({len(lab.places[domain, 'train']):,} training, "
        f"{source.test.size:,} test images)"
        for domain, source in lab.sources.items()
    }
    first = rounds[0].program
    parameters = trees.count(jax.eval_shape(first.init, jax.random.key(0))["params"])
    return {
        "Source": sizes["source"],
        "Target": sizes["target"],
        "Network": f"{config.model}, {parameters:,} parameters with both heads, "
        f"{config.base.steps:,} steps of {config.base.batch} images of each domain",
        "Device": _run.describe_devices(),
    }


if __name__ == "__main__":
    _run.run(study, "dann", get_config())
