"""Search for settings: which trials are trained further, given how they have scored.

A search is a generator. It yields a round, the trials that are to be trained side by side, and is
sent their scores, greater for better, NaN for a trial that has diverged::

    space = {"rate": Range(1e-4, 1.0, log=True), "hidden": Choice(((64,), (128, 128)))}
    rungs = make_rungs(least=100, most=900, eta=3)
    history = drive(halving(sample(space, 27, seed=0), rungs, eta=3), train_and_score)
    best = winner(history)

``train_and_score`` is given a whole round at once, so that it can train a population. What a search
does is a function of its arguments and the scores: run again with the same ones, as after a
restart, it yields the same rounds.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Settings = Mapping[str, Any]
"""Names and values of the searched settings."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Raises:
      ValueError: unless ``low < high``, both above 0 for logarithms, and integers for integers.
    """

    low: float
    high: float
    log: bool = False
    """Whether logarithms are drawn uniformly instead of the numbers."""
    integer: bool = False
    """Whether the numbers are integers, each equally probable."""

    def __post_init__(self):
        ends = f"{self.low} to {self.high}"
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"{ends} is no range: it has to begin below its end")
        if self.log and self.low <= 0:
            raise ValueError(f"{ends} has no logarithms: it has to begin above 0")
        if self.integer and (self.log or self.low % 1 or self.high % 1):
            raise ValueError(f"{ends} is no range of whole numbers")

    def value(self, position: float) -> float | int:
        """The value at a position 0 … 1."""
        low, high = self.low, self.high
        if self.integer:
            return min(int(low) + math.floor(position * (high - low + 1)), int(high))
        if self.log:
            value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
        else:
            value = low + position * (high - low)
        return self.clip(value)

    def position(self, value: float) -> float:
        """The inverse of :meth:`value`; for an integer the middle of its positions."""
        low, high = self.low, self.high
        if self.integer:
            return (value - low + 0.5) / (high - low + 1)
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def grid(self, count: int) -> list:
        """``count`` evenly spaced values from ``low`` to ``high``; at most all integers."""
        if self.integer:
            return np.unique(np.round(np.linspace(self.low, self.high, count)).astype(int)).tolist()
        return [self.value(float(position)) for position in np.linspace(0, 1, count)]

    def clip(self, value: float) -> float:
        """The nearest value in the range."""
        return min(max(value, self.low), self.high)

    def scale(self, value: float, factor: float) -> float | int:
        """The product, kept in the range; an integer is rounded away from the value."""
        if self.integer:
            return int(self.clip((math.ceil if factor > 1 else math.floor)(value * factor)))
        return self.clip(value * factor)


@dataclass(frozen=True)
class Choice:
    """One of several values, each equally probable.

    Raises:
      ValueError: if there is none, or one comes twice.
    """

    values: tuple

    def __post_init__(self):
        if not self.values or any(value in self.values[:i] for i, value in enumerate(self.values)):
            raise ValueError(f"{self.values} is no choice of different values")

    def value(self, position: float) -> Any:
        """The value at a position 0 … 1."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def position(self, value: Any) -> float:
        """The middle of a value's positions."""
        return (self.values.index(value) + 0.5) / len(self.values)

    def grid(self, count: int) -> list:
        """All values, whatever the count."""
        return list(self.values)


Space = Mapping[str, Range | Choice]
"""Ranges and choices by setting."""


def sample(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Settings drawn independently (Bergstra & Bengio, "Random Search for Hyper-Parameter
    Optimization", JMLR 2012). The first of many are those of few."""
    positions = np.random.default_rng(seed).random((count, len(space))).tolist()
    return [
        {name: values.value(u) for (name, values), u in zip(space.items(), row, strict=True)}
        for row in positions
    ]


def grid(space: Space, count: int) -> list[dict[str, Any]]:
    """All combinations of ``count`` values of each range, and all values of each choice."""
    values = product(*(values.grid(count) for values in space.values()))
    return [dict(zip(space, row, strict=True)) for row in values]


NEW = -1
"""The parent of a trial with a fresh start."""


class Stretch(NamedTuple):
    """Part of a trial's training, from one decision to the next."""

    trial: int
    settings: Settings
    steps: int
    """The step to which it is trained."""
    parent: int = NEW
    """The trial from whose last state this one continues."""


Search = Generator[list[Stretch], Sequence[float], None]
History = list[tuple[list[Stretch], list[float]]]
"""The rounds of a search, with the scores of their trials."""


def drive(search: Search, train: Callable[[list[Stretch]], Sequence[float]]) -> History:
    """Run a search to its end; ``train`` makes the scores of a round."""
    history: History = []
    try:
        stretches = next(search)
        while True:
            scores = list(train(stretches))
            history.append((stretches, scores))
            stretches = search.send(scores)
    except StopIteration:
        return history


def rehearse(search: Search) -> History:
    """The numbers of trials and steps of a search's rounds, which do not depend on scores."""
    return drive(search, lambda stretches: [0.0] * len(stretches))


def cost(history: History) -> int:
    """Steps of networks that a search takes."""
    steps_by_trial, total = {NEW: 0}, 0
    for stretches, _ in history:
        total += sum(stretch.steps - steps_by_trial[stretch.parent] for stretch in stretches)
        steps_by_trial |= {stretch.trial: stretch.steps for stretch in stretches}
    return total


def trials(history: History) -> list[Stretch]:
    """The first stretch of every trial."""
    return list({s.trial: s for stretches, _ in reversed(history) for s in stretches}.values())


def winner(history: History) -> tuple[Stretch, float]:
    """The best of the trials that were trained longest, and its score: the greatest of many, which
    is more than the same settings are worth in expectation."""
    pairs = [pair for stretches, scores in history for pair in zip(stretches, scores, strict=True)]
    longest = max(stretch.steps for stretch, _ in pairs)
    pairs = [pair for pair in pairs if pair[0].steps == longest]
    return pairs[ranked([score for _, score in pairs])[0]]


def ancestry(history: History, trial: int) -> list[Stretch]:
    """All stretches that led to a trial's last state, from a fresh start on."""
    line: list[Stretch] = []
    for stretches, _ in reversed(history):
        for stretch in stretches:
            if stretch.trial == (line[0].parent if line else trial):
                line.insert(0, stretch)
                break
    return line


def ranked(scores: Sequence[float]) -> list[int]:
    """Places by score, the best first, NaN last, and of equal scores the one that comes first."""
    return sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))


# In all of these ``first`` is the number of the first trial.


def all_at_once(candidates: Sequence[Settings], steps: int, *, first: int = 0) -> Search:
    """Every candidate trained to the end: a grid, or random search."""
    yield [Stretch(i, settings, steps) for i, settings in enumerate(candidates, first)]


def halving(
    candidates: Sequence[Settings], rungs: Sequence[int], eta: int, *, first: int = 0
) -> Search:
    """Successive halving (Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and
    Hyperparameter Optimization", AISTATS 2016).

    Of n trials that were trained to a rung, the best ``max(1, n // eta)`` continue to the next.

    Args:
      rungs: steps, from :func:`make_rungs`.
    """
    stretches = [Stretch(i, settings, rungs[0]) for i, settings in enumerate(candidates, first)]
    for steps in rungs[1:]:
        scores = yield stretches
        survivors = sorted(ranked(scores)[: max(1, len(stretches) // eta)])
        stretches = [
            stretches[i]._replace(steps=steps, parent=stretches[i].trial) for i in survivors
        ]
    yield stretches


def make_rungs(least: int, most: int, eta: int, unit: int = 1) -> list[int]:
    """Steps ``most / eta^s``, …, ``most / eta``, ``most``, the first at least ``least``; rounded to
    multiples of ``unit``, of which ``most`` is one."""
    count = 1
    while least * eta**count <= most:
        count += 1
    return [round(most / eta**s / unit) * unit for s in range(count - 1, -1, -1)]


def halving_size(rungs: Sequence[int], eta: int, budget: int) -> int:
    """The greatest number of trials, at least 1, whose halving takes at most ``budget`` steps."""
    sizes = range(1, budget // rungs[0] + 2)
    affordable = bisect_right(
        sizes, budget, key=lambda size: cost(rehearse(halving([{}] * size, rungs, eta)))
    )
    return max(1, affordable)


def hyperband(
    candidates: Sequence[Settings],
    rungs: Sequence[int],
    eta: int,
    sizes: Sequence[int],
    *,
    first: int = 0,
) -> Search:
    """Hyperband (Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar, JMLR 2018): halvings, called
    brackets, of which each begins a rung later than the one before.

    Args:
      candidates: settings, as many as all sizes together.
      sizes: sizes of the brackets, from :func:`bracket_sizes`.
    """
    start = 0
    for i, size in enumerate(sizes):
        bracket = candidates[start : start + size]
        yield from halving(bracket, rungs[i:], eta, first=first + start)
        start += size


def bracket_sizes(rungs: int, eta: int, trainings: int | None = None) -> list[int]:
    """The number of trials that each bracket begins with: ``ceil(B eta^s / (s + 1))`` for s from
    ``rungs - 1`` to 0, where a bracket may cost B trainings to the last rung, each begun anew.

    Args:
      trainings: B of all brackets together; default ``rungs²``, the paper's.
    """
    total = rungs**2 if trainings is None else trainings
    return [-(-total * eta**s // (rungs * (s + 1))) for s in range(rungs - 1, -1, -1)]


def population_based(
    population: Sequence[Settings],
    space: Mapping[str, Range],
    ends: Sequence[int],
    seed: int,
    *,
    share: float = 0.2,
    factors: Sequence[float] = (0.8, 1.2),
    first: int = 0,
) -> Search:
    """Population-based training (Jaderberg et al., "Population Based Training of Neural Networks",
    2017): at the end of each interval the worst continue from copies of the best (:func:`exploit`),
    with other settings (:func:`explore`).

    Args:
      ends: the steps at which intervals end.
      share: share of the population that is replaced.
    """
    stretches = [Stretch(i, settings, ends[0]) for i, settings in enumerate(population, first)]
    for interval, steps in enumerate(ends[1:], 1):
        scores = yield stretches
        rng = np.random.default_rng([seed, interval])
        next_stretches = []
        for i, parent in enumerate(exploit(scores, share, rng)):
            settings = stretches[parent].settings
            settings = settings if parent == i else explore(space, settings, factors, rng)
            next_stretches.append(Stretch(first + i, settings, steps, first + parent))
        stretches = next_stretches
    yield stretches


def exploit(scores: Sequence[float], share: float, rng: np.random.Generator) -> list[int]:
    """By index, the trial whose state each trial continues from: for the worst ``share``, and for
    all that have diverged, one of the best ``share``, drawn uniformly; for all others their own."""
    count = min(max(1, int(share * len(scores))), len(scores) // 2)
    order, diverged = ranked(scores), [math.isnan(score) for score in scores]
    best = [i for i in order[: max(1, count)] if not diverged[i]]
    worst = {*order[len(order) - count :], *(i for i in order if diverged[i])}
    return [int(rng.choice(best)) if best and i in worst else i for i in range(len(scores))]


def explore(
    space: Mapping[str, Range],
    settings: Settings,
    factors: Sequence[float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The settings, each times one of the factors and kept in its range."""
    return {
        name: values.scale(settings[name], float(rng.choice(factors)))
        for name, values in space.items()
    }
