"""Sentences and series that the reports of all benchmarks share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from experiments.benchmark.turns import Row
from jaxdl.report.tables import MISSING


def series(
    rows: Iterable[Row], contender: str, weights: Mapping[str, float] | str
) -> Float[np.ndarray, " rounds"]:
    """By round, the sum over kinds of work of weight times ``ms_per_network_step``; a single kind
    has weight 1."""
    weights = {weights: 1.0} if isinstance(weights, str) else weights
    rounds: dict[int, float] = {}
    for row in rows:
        if row.contender == contender and row.kind in weights:
            weighted = weights[row.kind] * row.ms_per_network_step
            rounds[row.round] = rounds.get(row.round, 0.0) + weighted
    return np.array([rounds[number] for number in sorted(rounds)])


def spread(values: Float[np.ndarray, " values"], form: str = ".2f") -> str:
    """The median, with the least and the greatest value."""
    if not len(values):
        return MISSING
    return f"{np.median(values):{form}} ({values.min():{form}}–{values.max():{form}})"


def verdict(goal: str, is_met: bool, figure: object) -> str:
    """A sentence that says whether a goal is met."""
    return f"{goal}: {'met' if is_met else 'NOT met'}, {figure}."


def unjudged(text: str) -> str:
    """A report whose verdicts are withdrawn, keeping their figures."""
    return text.replace(": met, ", ": not judged, ").replace(": NOT met, ", ": not judged, ")


def paragraph(text: str) -> str:
    """The text with its lines refilled."""
    return textwrap.fill(" ".join(text.split()), width=100)
