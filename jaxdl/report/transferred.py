"""The networks of a transferability study: the rows of its table, and their paired estimates.

A treatment is compared with the base trained on the same target task, of the same split, seed and
direction. These paired differences are averaged over the directions of a seed, and seeds are the
independent samples: the networks of one seed share their bases, and are not more samples.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxdl.report.comparisons import minus, over_seeds
from jaxdl.report.tables import Estimate, mean_and_standard_error, read_rows, write_rows
from jaxdl.types import DamagedFile

SPLITS = {
    "random": "Random halves",
    "dissimilar": "Dissimilar halves",
    "whole1000": "All 1000 classes",  # the paper's split of the random-features control
}
TREATMENTS = ("base", "BnB", "BnB+", "AnB", "AnB+", "random")
"""Treatments in the order of tables."""


class Result(NamedTuple):
    """One trained network, a row of `results.csv`."""

    split: str  # how the classes were halved: random, dissimilar
    seed: int
    direction: str  # the target task: AB is tested on B, BA on A, bases too
    treatment: str  # a key of TREATMENTS
    n: int  # the layers taken over; 0 for base
    accuracy: float  # fraction; NaN where training diverged


class Cell(NamedTuple):
    """A treatment at one cut, summarized: our rows and published ones alike."""

    split: str
    treatment: str
    n: int
    accuracy: Estimate  # over seeds, as fractions
    difference: Estimate  # to base, paired; empty for base itself and where there is none
    networks: int  # that were trained to the end
    diverged: int = 0


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    results = read_rows(path, Result, limits={"accuracy": 1})
    for row in results:
        if row.treatment not in TREATMENTS:
            raise DamagedFile(f"{os.fspath(path)}: damaged table: unknown treatment: {row}")
    return results


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results, key=order))


Pair = tuple[int, str]
"""Seed and direction: networks with the same are compared."""
Index = dict[tuple[str, str, int], dict[Pair, float]]
"""Accuracies by split, treatment and n, then by pair."""


def order(row: Result | Cell) -> tuple:
    """The sort key: splits and treatments in the order of tables."""
    splits = list(SPLITS)
    split = splits.index(row.split) if row.split in splits else len(splits)
    rest = (row.seed, row.direction) if isinstance(row, Result) else ()
    return split, row.split, TREATMENTS.index(row.treatment), row.n, *rest


def index_of(results: Iterable[Result]) -> Index:
    """Accuracies to look up.

    Raises:
      ValueError: two rows describe the same network.
    """
    index: Index = {}
    for row in results:
        networks = index.setdefault((row.split, row.treatment, row.n), {})
        if (row.seed, row.direction) in networks:
            raise ValueError(f"two rows for one network: {row}")
        networks[row.seed, row.direction] = row.accuracy
    return index


def cuts_of(index: Index, split: str, *treatments: str) -> list[int]:
    """The cuts that all these treatments have."""
    cuts = [{n for s, t, n in index if (s, t) == (split, treatment)} for treatment in treatments]
    return sorted(set.intersection(*cuts))


def profile_of(index: Index, split: str, treatment: str, cuts: Sequence[int]) -> dict[Pair, float]:
    """Mean over the cuts, for the pairs that have them all; NaN where one diverged."""
    columns = [index.get((split, treatment, n), {}) for n in cuts]
    if not columns:
        return {}
    pairs = sorted(set.intersection(*map(set, columns)))
    return {pair: float(np.mean([column[pair] for column in columns])) for pair in pairs}


def by_seed(values: Mapping[Pair, float]) -> dict[int, float]:
    """Mean over the directions of each seed; a direction that diverged leaves the other."""
    seeds = sorted({seed for seed, _ in values})
    return {
        s: mean_and_standard_error([x for (t, _), x in values.items() if t == s]).mean
        for s in seeds
    }


def estimate(values: Mapping[Pair, float]) -> Estimate:
    """The mean over seeds of the means over directions."""
    return over_seeds(by_seed(values))


def summarize(results: Iterable[Result]) -> list[Cell]:
    """Accuracy and paired difference to base, mean ± s.e. over seeds, by split, treatment and cut.

    With x the accuracy of a network and b that of the base of the same split, seed and direction,
    the difference is the mean over seeds of mean over directions of x − b. Diverged networks are
    left out, and counted.

    Raises:
      ValueError: two rows describe the same network.
    """
    index = index_of(results)
    cells = []
    for (split, treatment, n), networks in index.items():
        base = index.get((split, "base", 0), {}) if treatment != "base" else {}
        diverged = sum(map(math.isnan, networks.values()))
        cells.append(
            Cell(
                split,
                treatment,
                n,
                accuracy=estimate(networks),
                difference=estimate(minus(networks, base)),
                networks=len(networks) - diverged,
                diverged=diverged,
            )
        )
    return sorted(cells, key=order)


def pick(cells: Iterable[Cell], split: str, treatment: str) -> list[Cell]:
    """The cells of a split and treatment that have an accuracy."""
    return [c for c in cells if (c.split, c.treatment) == (split, treatment) and c.accuracy.used]
