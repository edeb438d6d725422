"""Domain-adversarial training of neural networks (Ganin & Lempitsky, ICML 2015; JMLR 2016).

python -m experiments.dann --config configs/dann.py[:pair]

Networks learn the labels of a source domain and are tested on a target domain: without adaptation
(``source_only``), with one method or several, which see the target's images and none of its labels,
and, as the bound from above, with the target's labels (``target_only``). A target may come without
labels (a folder of pictures, an archive of images alone): then there are no target accuracies, and
the report has the criteria that need none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.dann import get_config
from experiments import _run
from experiments._dann_setup import (
    DOMAINS,
    Lab,
    Program,
    assemble_hyper,
    first_images,
    make_lab,
    make_program,
    signature,
    terms_of,
)
from jaxdl import adaptation, trees, validation
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
        every = [Network(lab.pair, m, s) for s, m in product(range(config.seeds), methods)]
        size = -(-len(every) // -(-len(every) // config.members_per_round))  # as even as can be
        for start in range(0, len(every), size):
            some = every[start : start + size]
            rounds.append(Round(f"networks-{len(rounds)}", program, some, size))
    return rounds


def assemble(lab: Lab, each: Round) -> tuple[TrainState, Hyper]:
    """The population before its first step, and what differs between its members."""
    hypers = [assemble_hyper(lab, each.program, n.method, n.seed) for n in each.networks]
    starts = [each.program.init(member_key("init", n.seed)) for n in each.networks]
    states = [each.program.start(*both) for both in zip(starts, hypers, strict=True)]
    states = population_of(states, each.size, lab.mesh, mode=lab.config.parallel.mode)
    return states, population_of(hypers, each.size, lab.mesh)


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
            if lab.sources[domain].labelled
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


class Findings(NamedTuple):
    """What is known of the trained networks."""

    results: list[Result]
    diagnoses: list[Diagnosis]
    features: dict[str, tuple[np.ndarray, np.ndarray]]
    """Of held-out source and target images, by method, for the first seed; none of a network that
    has diverged."""


def examine(
    lab: Lab, rounds: Sequence[Round], place: Workplace, tests: dict[str, Split]
) -> Findings:
    """Test all networks, and look into them with images that were held out."""
    feed = make_feed(lab.config.feed, tests, lab.mesh)
    counts = [len(tests[domain]["label"]) for domain in DOMAINS]
    test_places = dict(zip(DOMAINS, np.split(np.arange(sum(counts)), counts[:1]), strict=True))
    known = held_out(lab)
    curves, faults = (of(place.curves, Network) for of in (logs.by_network, logs.faults))
    found = Findings([], [], {})
    for each in rounds:
        states, hypers = fit(lab, each, place)
        guesses, insides = {}, {}
        for domain in DOMAINS:
            of = states, of_domain(hypers, domain)
            tested = [test_places[domain]] * len(each.networks)
            kept = [known[domain].places] * len(each.networks)
            guesses[domain] = each.program.logits(*of, tested, feed.fetch)
            insides[domain] = each.program.insides(*of, kept, lab.feed.fetch)
        for i, network in enumerate(each.networks):
            lines, fault = curves[network], faults.get(network, logs.Fault(-1, ""))
            accuracies, told = [math.nan, math.nan], Diagnosis.unknown()
            if fault.step < 0:
                for at, d in enumerate(DOMAINS):
                    if lab.sources[d].labelled:
                        accuracies[at] = float(
                            np.mean(guesses[d][i].argmax(-1) == tests[d]["label"])
                        )
                inside = [insides[d][i] for d in DOMAINS]
                told |= diagnose(
                    *inside,
                    labels=known["source"].labels,
                    tested=guesses["target"][i],
                    adversarial=is_adversarial(each.program),
                )
                if network.seed == 0:
                    found.features[network.method] = tuple(
                        of["features"][:EMBEDDED] for of in inside
                    )
            if is_adversarial(each.program) and fault.step < 0:
                height = lab.methods[network.method]["reversal"]
                told["reversal"] = (
                    logs.series(lines, "reversal")[1].max() / height if height else 0.0
                )
            found.results.append(Result(*network, *accuracies))
            found.diagnoses.append(
                Diagnosis(
                    *network,
                    adversarial=int(is_adversarial(each.program)),
                    diverged_at=fault.step,
                    diverged_in=fault.array,
                    **{name: float(value) for name, value in told.items()},
                )
            )
    return found


HELD_OUT, EMBEDDED = 1000, 300
"""Images of each domain that networks are examined with, and whose features are drawn."""


def is_adversarial(program: Program) -> bool:
    """Whether a domain classifier takes part in the training."""
    return bool(set(adaptation.ADVERSARIES) & set(program.terms))


class HeldOut(NamedTuple):
    """Validation images of a domain."""

    places: np.ndarray
    """In the lab's feed."""
    labels: np.ndarray


def held_out(lab: Lab) -> dict[str, HeldOut]:
    """What networks are examined with, by domain.

    In a random order, since many data sets list their images by class; in the same one for domains
    of the same size, so that a digit and its blended twin are in the same half of them.
    """
    found = {}
    for domain in DOMAINS:
        labels = lab.sources[domain].splits["validation"]["label"]
        chosen = np.random.default_rng(0).permutation(len(labels))[:HELD_OUT]
        found[domain] = HeldOut(lab.places[domain, "validation"][chosen], labels[chosen])
    return found


def diagnose(
    source: dict[str, np.ndarray],
    target: dict[str, np.ndarray],
    *,
    labels: np.ndarray,
    tested: np.ndarray,
    adversarial: bool,
) -> dict[str, float]:
    """What can be told of a network without the target's labels, as in :class:`Diagnosis`.

    Args:
      source, target: "features", "logits" and "domain" (logits of "this is a source image") of
        held-out images.
      labels: of the source's.
      tested: logits of the target's test images.
      adversarial: whether the domain classifier was trained.
    """
    weights, rest = importance(source["features"], target["features"])
    hits = (source["logits"].argmax(-1) == labels)[rest]
    told = {
        "top_share": np.bincount(tested.argmax(-1)).max() / len(tested),
        "neighbourhood_density": validation.soft_neighbourhood_density(target["logits"]),
        "importance_weighted_accuracy": validation.importance_weighted_accuracy(hits, weights),
        "effective_samples": validation.effective_sample_size(weights),
    }
    if adversarial:
        told["domain_accuracy"] = adaptation.domain_accuracy(source["domain"], target["domain"])
    return told


def importance(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, slice]:
    """How much more probable features of source images are in the target, and of which images.

    By a domain classifier of its own, fitted to the first half of the features of each domain, for
    the source images of the second: that of an adversary would not do, since the features are
    trained to deceive it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n, m = len(source) // 2, len(target) // 2
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    )
    classifier.fit(np.concatenate([source[:n], target[:m]]), np.repeat([1, 0], [n, m]))
    return np.asarray(
        validation.importance_weights(classifier.decision_function(source[n:]))
    ), slice(n, None)


PANELS = {
    "label_loss": "label loss",
    "domain_loss": "domain loss",
    "domain_accuracy": "domain accuracy",
    "reversal": "λ",
    "source_accuracy": "source accuracy (validation)",
    "target_accuracy": "target accuracy (for the eye)",
}


def draw(lab: Lab, rounds: Sequence[Round], place: Workplace, found: Findings) -> None:
    """The figures: images of both domains, curves, and the features with and without adaptation."""
    workdir = place.folder
    first = max(rounds, key=lambda each: len(each.program.terms))
    figures.samples(
        *first_images(lab, first.program, first.networks[0].method), workdir / "samples.png"
    )

    curves, panels = logs.by_network(place.curves, Network), {}
    for network in sorted(curves, key=lambda n: (reporting.place_of(n.method), n.seed)):
        for field, label in PANELS.items():
            if (kept := logs.series(curves[network], field)).size:
                group = panels.setdefault(label, {})
                group.setdefault(reporting.name_of(network.method), []).append(kept)
    # λ is the same for many, and one curve would hide the others.
    shared = {}
    for name, curves_of in panels.get(PANELS["reversal"], {}).items():
        shared.setdefault(np.round(curves_of, 6).tobytes(), []).append(name)
    if shared:
        group = panels[PANELS["reversal"]]
        panels[PANELS["reversal"]] = {
            ", ".join(n) if len(n) < 4 else f"{n[0]} and {len(n) - 1} more": group[n[0]]
            for n in shared.values()
        }
    figures.curves({p: panels[p] for p in PANELS.values() if p in panels}, workdir / "curves.png")

    known = held_out(lab)
    labels = [known[d].labels[:EMBEDDED] for d in DOMAINS]
    what = f"seed 0, {len(labels[0])} + {len(labels[1])} held-out images"
    ordered = sorted(found.features, key=reporting.place_of)
    points = figures.embed({f"{reporting.name_of(m)}\n{what}": found.features[m] for m in ordered})
    is_source = np.repeat([True, False], list(map(len, labels)))
    if points:  # not where all have diverged
        figures.embeddings(
            {name: (at, is_source, np.concatenate(labels)) for name, at in points.items()},
            workdir / "features.png",
        )


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the whole study; the report."""
    with _run.user_input():
        lab = make_lab(config)
        rounds = make_rounds(lab)
        about = {domain: _run.describe_source(of) for domain, of in lab.sources.items()}
        _run.claim(workdir, config, about)
        if omissions := _run.describe_omissions(*lab.sources.values()):
            _run.say(f"not read: {omissions}")
        finished = workdir / "report.md"
        if finished.exists():
            return finished.read_text(encoding="utf-8")
    with stop:  # there is something to save from here on
        total = sum(len(each.networks) * each.program.settings["steps"] for each in rounds)
        with _run.progress_bar(total) as progress:
            place = _run.workplace(config, workdir, stop, progress)
            for each in rounds:
                fit(lab, each, place)
        # Everything is trained: here, and nowhere before, the test images are read.
        tests = {domain: source.test.open() for domain, source in lab.sources.items()}
        found = examine(lab, rounds, place.quiet, tests)
        reporting.write_results(workdir / "results.csv", found.results)
        reporting.write_diagnoses(workdir / "diagnostics.csv", found.diagnoses)
        draw(lab, rounds, place.quiet, found)
        report = reporting.report(
            reporting.read_results(workdir / "results.csv"),
            reporting.read_diagnoses(workdir / "diagnostics.csv"),
            (*DANN_2015, *DANN_2016, *DANN_LATER) if config.beside_published else (),
            colours={method: settings["colours"] for method, settings in lab.methods.items()},
            facts=facts(lab, rounds) | _run.describe_run(place),
            chosen_by="the last step; adapted networks saw no label of the target",
        )
        write_atomically(finished, report)
        return report


def most_members(config: ConfigDict) -> int:
    """How many networks are trained at a time, at most: all methods may share a program."""
    return min(config.members_per_round, config.seeds * len(config.methods))


def facts(lab: Lab, rounds: Sequence[Round]) -> dict[str, str]:
    """What a reader of the report must know of the run."""
    config = lab.config
    sizes = {
        domain: f"{source.name} ({len(lab.places[domain, 'train']):,} training, "
        f"{source.test.size:,} test images{', no labels' * (not source.labelled)})"
        for domain, source in lab.sources.items()
    }
    programs = [each.program for each in rounds]
    parameters = {
        trees.count(jax.eval_shape(p.init, jax.random.key(0))["params"]) for p in programs
    }
    # The one base that no variant has changed: in others, settings of all methods may be changed.
    recipe = get_config("mnist_to_mnist_m").base.to_dict()
    lengths = {(p.settings["steps"], p.settings["batch"]) for p in programs}
    absent = {"Published numbers": "not beside these runs, which are shorter"}
    omissions = _run.describe_omissions(*lab.sources.values())
    return {
        "Source": sizes["source"],
        "Target": sizes["target"],
        **({"Not read": omissions} if omissions else {}),
        "Network": f"{config.model}, "
        + " or ".join(f"{n:,} parameters" for n in sorted(parameters)),
        "Training": " or ".join(f"{n:,} steps of {b} images a domain" for n, b in sorted(lengths)),
        **({} if config.beside_published else absent),
        "Settings come from": config.settings_from,
        **{
            f"Settings of {reporting.name_of(method)}": ", ".join(
                f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in lab.methods[method].items()
                if value != recipe.get(key)
            )
            or "the paper's recipe for MNIST → MNIST-M"
            for method in sorted(lab.methods, key=reporting.place_of)
        },
    }


if __name__ == "__main__":
    _run.run(study, "dann", get_config(), most_members)
