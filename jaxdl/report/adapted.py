"""The networks of a domain-adaptation study: the rows of its tables, and which of them count.

A network that diverged, or whose target predictions collapsed into one class, is in no mean.
"""

import math
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxdl.report.comparisons import minus
from jaxdl.report.tables import Estimate, mean_and_standard_error, read_rows, write_rows

METHODS = {  # in the order of tables; others come by name before the last
    "source_only": "source only",
    "source_recoloured": "source only, recoloured",
    "source_on_target": "source on target backgrounds",
    "dann": "DANN",
    "dann_consistency": "DANN + consistency",
    "cdan": "CDAN+E",
    "mmd": "MMD",
    "coral": "Deep CORAL",
    "entropy": "entropy minimisation",
    "idann": "iDANN",
    "vada": "VADA",
    "dirt_t": "DIRT-T",
    "target_only": "train on target",
}
CURVES = {
    "label_loss": "label loss",
    "domain_loss": "domain loss",
    "domain_accuracy": "domain accuracy",
    "reversal": "λ",
    "source_accuracy": "source accuracy (validation)",
    "target_accuracy": "target accuracy (for the eye)",
}
"""Fields of ``metrics.jsonl``, and how figures call them."""
COLLAPSED, CLOSE = 0.9, 0.5  # of the target predictions in one class, where classes are many
BOUNDS = ("source_only", "target_only")  # of the gap
MINIMAL_GAP = 0.02  # between source only and train on target, in which a share makes sense


class Result(NamedTuple):
    """One trained network, a row of `results.csv`: accuracies on test images, NaN if diverged;
    that of a target without labels is NaN."""

    pair: str
    method: str
    seed: int
    source_accuracy: float
    target_accuracy: float


class Changes(NamedTuple):
    """How a method's labelled images are changed."""

    recolouring: float = 0.0  # strength
    backgrounds: float = 0.0  # share drawn on target images


class Diagnosis(NamedTuple):
    """Numbers of one trained network that need no target labels, a row of `diagnostics.csv`."""

    pair: str
    method: str
    seed: int
    adversarial: int  # 1 if it was trained with a domain classifier
    domain_accuracy: float = math.nan  # of that, on held-out images, mean of both domains
    reversal: float = math.nan  # the largest λ in its curves, of the height it was to rise to
    top_share: float = math.nan  # of held-out target images, in the most frequent class
    diverged_at: int = -1  # the first step whose update was not finite; -1 never
    diverged_in: str = ""  # the first array that was not
    neighbourhood_density: float = math.nan  # of target validation images; higher is better
    importance_weighted_accuracy: float = math.nan  # of source validation images
    effective_samples: float = math.nan  # of those weights
    source_share: float = math.nan  # of held-out source images, that have the commonest class


def place_of(method: str) -> tuple[float, str]:
    """The sort key of methods: source only first, train on target last, unknown ones before it."""
    names = list(METHODS)
    return names.index(method) if method in METHODS else len(names) - 1.5, method


def name_of(method: str) -> str:
    """The name of a method in tables and figures."""
    return METHODS.get(method, method.replace("_", " "))


def order(row: Any) -> tuple:
    """The sort key of rows with a method (by :func:`place_of`), a pair and a seed."""
    return (*place_of(row.method), row.pair, row.seed)


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return read_rows(path, Result, key=3, limits={"source_accuracy": 1, "target_accuracy": 1})


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results, key=order))


def read_diagnoses(path: str | os.PathLike) -> list[Diagnosis]:
    """Read `diagnostics.csv`; raises as `read_results` does."""
    shares = ("domain_accuracy", "top_share", "source_share", "importance_weighted_accuracy")
    limits = dict.fromkeys(("adversarial", *shares), 1) | {"effective_samples": math.inf}
    return read_rows(path, Diagnosis, key=3, limits=limits)


def write_diagnoses(path: str | os.PathLike, diagnoses: Iterable[Diagnosis]) -> None:
    """Write `diagnostics.csv`, as `write_results` does."""
    write_rows(path, Diagnosis, sorted(diagnoses, key=order))


def collapsed(diagnosis: Diagnosis) -> bool:
    """Whether at least .9 of the target predictions are in one class; where a class has more than
    .8 of the source, the middle between its share and all.

    Labels of the target are unknown, so that shares of the classes are those of the source. No
    class of the pairs at hand has more than .2 of the images (SVHN's 1s; of the 43 signs, .06), so
    that such a network is wrong for at least .7 of them.
    """
    return diagnosis.top_share >= _limit(diagnosis)


def nearly_collapsed(diagnosis: Diagnosis) -> bool:
    """Whether the share is below the limit, but at least .5 and midway to it from the source's.

    Such networks are named in the report, but stay in the means: a network that was not adapted may
    well be that one-sided, and without it the mean would be too good.
    """
    limit = _limit(diagnosis)
    return max(CLOSE, (diagnosis.source_share + limit) / 2) <= diagnosis.top_share < limit


def _limit(diagnosis: Diagnosis) -> float:
    return max(COLLAPSED, (1 + diagnosis.source_share) / 2)  # the first where the share is NaN


def diverged(result: Result, diagnosis: Diagnosis) -> bool:
    """Whether the network ceased to be finite."""
    return diagnosis.diverged_at >= 0 or math.isnan(result.source_accuracy)


Networks = dict[str, dict[int, tuple[Result, Diagnosis]]]
"""Networks by method, in the order of tables, and seed."""


def join(results: Iterable[Result], diagnoses: Iterable[Diagnosis]) -> Networks:
    """Join both rows of every network.

    Raises:
      ValueError: two rows for one network, a result without diagnosis, or several pairs.
    """
    results, diagnoses = list(results), list(diagnoses)
    by_network = {d[:3]: d for d in diagnoses}
    keys = {r[:3] for r in results}
    if len(keys) < len(results) or len(by_network) < len(diagnoses):
        raise ValueError("two rows for one network")
    if unpaired := sorted(keys ^ set(by_network)):
        raise ValueError(
            f"not both a result and a diagnosis of {unpaired[0]}, and {len(unpaired) - 1} more"
        )
    if len(pairs := sorted({r.pair for r in results})) > 1:
        raise ValueError(f"a report is of one pair of domains, not of {', '.join(pairs)}")
    networks: Networks = {}
    for r in sorted(results, key=order):
        networks.setdefault(r.method, {})[r.seed] = r, by_network[r[:3]]
    return networks


def sound_networks(networks: Networks) -> Networks:
    """The networks that neither collapsed nor diverged."""
    return {
        method: {s: (r, d) for s, (r, d) in rows.items() if not (collapsed(d) or diverged(r, d))}
        for method, rows in networks.items()
    }


def unlabelled(networks: Networks) -> bool:
    """Whether the target has no labels: no network that is used has a target accuracy."""
    rows = [r for members in sound_networks(networks).values() for r, _ in members.values()]
    return bool(rows) and all(math.isnan(r.target_accuracy) for r in rows)


def target(networks: Networks, method: str) -> dict[int, float]:
    """Target accuracies by seed."""
    return {s: r.target_accuracy for s, (r, _) in networks.get(method, {}).items()}


class Summary(NamedTuple):
    """A method: means over the seeds whose network is used, and the other seeds."""

    method: str
    source_accuracy: Estimate
    target_accuracy: Estimate
    gap_covered: Estimate
    """Gap covered by seed; empty where it is not computed."""
    networks: int
    """Number of networks in the means."""
    collapsed: tuple[int, ...] = ()
    """Seeds of collapsed networks."""
    diverged: tuple[int, ...] = ()


def gaps_of(networks: Networks) -> dict[int, float]:
    """Train on target minus source only, by seed."""
    return minus(target(networks, "target_only"), target(networks, "source_only"))


def summarize(results: Iterable[Result], diagnoses: Iterable[Diagnosis]) -> list[Summary]:
    """Mean ± s.e. over seeds of both accuracies, and of the gap covered, by method.

    The gap covered is (method − source only) / (train on target − source only) of the target
    accuracies of a seed. It is computed only if the denominator is .02 or more in every seed that
    has one, and never for the two methods that define it. Raises as `join` does.
    """
    networks = join(results, diagnoses)
    counted = sound_networks(networks)
    gaps, lower = gaps_of(counted), target(counted, "source_only")
    wide = bool(gaps) and min(gaps.values()) >= MINIMAL_GAP
    summary = []
    for method, members in networks.items():
        rows = [r for r, _ in counted[method].values()]
        gains = minus(target(counted, method), lower) if wide and method not in BOUNDS else {}
        diverged_seeds = tuple(s for s, pair in members.items() if diverged(*pair))
        collapsed_seeds = tuple(
            s for s, (_, d) in members.items() if collapsed(d) and s not in diverged_seeds
        )
        estimates = (
            mean_and_standard_error([r.source_accuracy for r in rows]),
            mean_and_standard_error([r.target_accuracy for r in rows]),
            mean_and_standard_error([g / gaps[s] for s, g in gains.items() if s in gaps]),
        )
        summary.append(Summary(method, *estimates, len(rows), collapsed_seeds, diverged_seeds))
    return summary
