"""The report of a search for settings: what won, and what that is worth on fresh seeds.

The best score of a search is the greatest of many, and of the examples that it was chosen by: it is
more than the settings are worth. So the winner is trained again, from other seeds.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdl.report.comparisons import (
    assemble,
    compare,
    judged,
    minus,
    over_seeds,
    reach,
    warn_of_several,
)
from jaxdl.report.tables import (
    Estimate,
    bullets,
    format_mean,
    format_number,
    markdown_table,
    mean_and_standard_error,
    read_rows,
    write_rows,
)

NOT_SEARCHED = -2
"""The trial of networks whose settings were not searched; -1 is none, as a parent."""


class Result(NamedTuple):
    """One network, a row of `results.csv`; NaN where training diverged."""

    search: str  # or the name of settings that were not searched
    trial: int
    seed: int
    stage: str  # "search", or "fresh": trained after it, from a seed that it did not see
    repetition: int  # of the search
    steps: int  # that it was trained
    validation: float  # accuracy, a fraction, or R²
    score: float  # of the split that the run reports on, of fresh networks only
    settings: str  # those that are searched, as they were last, in JSON


class SearchRound(NamedTuple):
    """A trial from one decision to the next, a row of `rounds.csv`."""

    search: str
    repetition: int
    round: int
    trial: int
    parent: int  # the trial whose state it began from; -1 for a fresh start
    steps: int  # to which it was trained
    validation: float
    settings: str  # in JSON


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return read_rows(path, Result, key=3)


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results))


def final_trials(rounds: Iterable[SearchRound]) -> list[Result]:
    """The trials of searches as they were after the last round that they were in; the networks of a
    repetition have its number for a seed."""
    last = {(row.search, row.trial): row for row in rounds}
    return [
        Result(
            row.search,
            row.trial,
            row.repetition,
            "search",
            row.repetition,
            row.steps,
            row.validation,
            math.nan,
            row.settings,
        )
        for row in last.values()
    ]


def describe(settings: str) -> str:
    """Settings in words: `"rate 0.0123, hidden 64 64"`."""
    return ", ".join(f"{name} {text(value)}" for name, value in json.loads(settings).items())


def text(value: Any) -> str:
    """A value in three digits."""
    if isinstance(value, list | tuple):
        return " ".join(map(text, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def searches(results: Iterable[Result]) -> list[str]:
    """The searches, in their order in the table."""
    return list(dict.fromkeys(row.search for row in results if row.trial != NOT_SEARCHED))


def ranked_trials(results: Iterable[Result], search: str, repetition: int) -> list[Result]:
    """The trials of a search, those that were trained longest first, and of these the best."""
    rows = [row for row in results if row[0] == search and row[3:5] == ("search", repetition)]
    return sorted(rows, key=lambda row: (-row.steps, np.isnan(row.validation), -row.validation))


def repetitions(results: Iterable[Result], search: str) -> list[int]:
    """The numbers of a search's repetitions."""
    return sorted({row.repetition for row in results if row.search == search})


def fresh(results: Iterable[Result], name: str, field: str = "score") -> dict[int, float]:
    """Scores on fresh seeds of a search's winner, or of settings that were not searched, by
    independent unit: the repetition where there are several, as a mean over seeds; else the seed.
    Diverged networks are left out."""
    rows = [row for row in results if row.search == name and row.stage == "fresh"]
    is_repeated = len({row.repetition for row in rows}) > 1
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.repetition if is_repeated else row.seed, []).append(
            getattr(row, field)
        )
    means = {key: mean_and_standard_error(numbers).mean for key, numbers in values.items()}
    return {key: mean for key, mean in means.items() if not np.isnan(mean)}


def best(results: Iterable[Result], search: str) -> Estimate:
    """The winner's score in the search itself, over repetitions."""
    results = list(results)
    winners = [ranked_trials(results, search, n)[0] for n in repetitions(results, search)]
    return mean_and_standard_error([row.validation for row in winners])


def findings(
    results: Sequence[Result], baseline: str, score: str, split: str, costs: Mapping[str, int]
) -> list[str]:
    """Sentences on each search's winner, its fresh score, and its gain over the baseline.

    Args:
      baseline: the name of settings that were not searched.
      score: the score's name.
      split: the split of fresh scores.
      costs: steps of networks that a search takes, by search.
    """
    names, sentences = searches(results), []
    for name in names:
        winner, *others = ranked_trials(results, name, 0)
        peak, worth = best(results, name), over_seeds(fresh(results, name))
        validation = over_seeds(fresh(results, name, "validation"))
        count = len(repetitions(results, name))
        times = f", mean of {count} searches" if count > 1 else ""
        first = ", the first time," if count > 1 else ""
        sentences.append(
            f"**{name}** found{first} {describe(winner.settings)} in {costs[name]:,} steps of "
            f"networks: {percent(peak)} % validation {score}{times}, the best of "
            f"{len(others) + 1} and so biased. Trained again from fresh seeds the winner is worth "
            f"{percent(validation)} % on validation and {percent(worth)} % on the {split} split."
        )
    pairs = [(name, baseline) for name in names] + [(name, names[0]) for name in names[1:]]
    comparisons = []
    for name, other in pairs:
        gain = over_seeds(paired(results, name, other))
        subject = f"the winner of **{name}**"
        reference = other if other == baseline else f"that of {other}"
        sentences.append(capital(compare(subject, gain, f"{reference}, by {split} {score}")))
        comparisons.append(judged(gain))
    return sentences + warn_of_several(sum(comparisons))


def paired(results: Sequence[Result], name: str, other: str) -> dict[int, float]:
    """Differences of fresh scores, by independent unit (:func:`fresh`)."""
    scores, reference = fresh(results, name), fresh(results, other)
    if scores.keys() & reference.keys() or not reference:
        return minus(scores, reference)
    return {key: value - over_seeds(reference).mean for key, value in scores.items()}


def capital(sentence: str) -> str:
    """The sentence with a capital letter."""
    return sentence[:1].upper() + sentence[1:]


def percent(x: Estimate) -> str:
    """`"97.3 ± 0.2"`, of fractions."""
    return format_mean(x.mean, x.se)


def table(results: Sequence[Result], score: str, split: str, costs: Mapping[str, int]) -> str:
    """Markdown: a row for each search and for settings that were not searched; arguments as of
    :func:`findings`."""
    rows = []
    for name in dict.fromkeys([*searches(results), *(row.search for row in results)]):
        trials = ranked_trials(results, name, 0)
        cells = ("", "", "")
        if trials:
            cells = (str(len(trials)), f"{costs[name]:,}", percent(best(results, name)))
        values = (over_seeds(fresh(results, name, f)) for f in ("validation", "score"))
        rows.append((name, *cells, *map(percent, values)))
    header = (
        "search",
        "trials",
        "network steps",
        f"best {score} in it, %",
        "fresh validation, %",
        f"fresh {split}, %",
    )
    return markdown_table(header, rows)


def ranking(results: Sequence[Result], search: str, most: int = 10) -> str:
    """Markdown: the best trials of a search's first repetition, by validation."""
    rows = ranked_trials(results, search, 0)[:most]
    names = list(json.loads(rows[0].settings))
    cells = [
        (
            row.trial,
            *(text(json.loads(row.settings)[name]) for name in names),
            row.steps,
            format_number(row.validation, 100),
        )
        for row in rows
    ]
    return markdown_table(("trial", *names, "steps", "validation, %"), cells)


def shares_table(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: each setting's share in the variance of the scores, by search."""
    settings = dict.fromkeys(name for values in shares.values() for name in values)
    rows = [(name, *(format_number(x[name], 100, 0) for x in shares.values())) for name in settings]
    return markdown_table(("setting", *(f"{search}, %" for search in shares)), rows)


def lineage(line: Sequence[SearchRound]) -> str:
    """Markdown: how the winner's settings changed, and which trials it was a copy of."""
    settings = [json.loads(row.settings) for row in line]
    rows = [
        (
            f"to {row.steps}",
            row.trial,
            *map(text, values.values()),
            format_number(row.validation, 100),
        )
        for row, values in zip(line, settings, strict=True)
    ]
    return markdown_table(("steps", "trial", *settings[0], "validation, %"), rows)


def mean_course(courses: Sequence[Float[np.ndarray, "2 _"]]) -> Float[np.ndarray, "2 _"]:
    """The mean of step functions, each given by the positions where it changes and its values from
    there on. The mean begins where the last of them does; each keeps its last value."""
    if not courses:
        return np.zeros((2, 0))
    places = np.unique(np.concatenate([x for x, _ in courses]))
    places = places[places >= max(x[0] for x, _ in courses)]
    values = [y[np.searchsorted(x, places, "right") - 1] for x, y in courses]
    return np.stack([places, np.mean(values, 0)])


def progress(
    records: Iterable[Mapping[str, Any]],
    prefix: str,
    field: str,
    seconds: Mapping[str, float],
    steps_per_dispatch: int,
) -> Float[np.ndarray, "3 n"]:
    """Steps of networks and seconds of training so far, and the best score so far.

    Args:
      records: records of the curves, in their order.
      prefix: prefix of the populations' names of one search.
      field: the score's field in a record.
      seconds: time of training by population.
      steps_per_dispatch: between two records of a network.
    """
    populations: dict[str, dict[int, list[float]]] = {}
    for record in records:
        if not record["population"].startswith(prefix):
            continue
        dispatches = populations.setdefault(record["population"], {})
        dispatches.setdefault(record["step"], []).append(float(record.get(field, "nan")))
    steps, time, highest, points = 0, 0.0, -np.inf, []
    for name, dispatches in populations.items():
        for scores in dispatches.values():
            steps += steps_per_dispatch * len(scores)
            time += seconds[name] / len(dispatches)
            highest = max([highest, *(score for score in scores if not np.isnan(score))])
            points.append((steps, time, highest))
    values = np.array(points, float).reshape(-1, 3)
    return values[np.isfinite(values[:, 2])].T


METHOD = """\
- {score} is mean ± standard error: over repetitions of a search where there are several, else over
  fresh seeds (standard deviation with m − 1, over √m).
- A search sees validation examples alone, with one seed for all its trials. Its winner is the best
  of those trained longest. It is then trained again from {seeds} seeds that the search did not see,
  and the {split} split is opened once, after that.
- Importance is the share of a setting's main effect in the variance of the scores after the first
  round, by a random forest (Hutter, Hoos & Leyton-Brown 2014); what is missing to 100 % are
  interactions, and with few trials noise.
- A finding "shows" when the two-sided 95% t interval excludes zero: {reach}. Networks that diverged
  are left out of every mean."""


def report(
    results: Sequence[Result],
    baseline: str,
    facts: Mapping[str, str],
    *,
    score: str,
    split: str,
    costs: Mapping[str, int],
    shares: Mapping[str, Mapping[str, float]],
    lines: Mapping[str, Sequence[SearchRound]],
) -> str:
    """The whole report in Markdown.

    Args:
      baseline, score, split, costs: see :func:`findings`.
      shares: shares by search and setting, from :func:`jaxdl.report.importance.importance`.
      lines: by search, the rounds that led to a winner whose settings changed in training.
    """
    seeds = len({row.seed for row in results if row.search == baseline})
    repetitions = len({row.repetition for row in results})
    independent = reach(repetitions if repetitions > 1 else seeds, "value")
    method = METHOD.format(score=score.capitalize(), split=split, seeds=seeds, reach=independent)
    arguments = results, baseline, score, split, costs
    parts = [
        ("Findings", bullets(findings(*arguments))),
        ("Results", table(results, score, split, costs)),
        *((f"Best trials of {name}", ranking(results, name)) for name in searches(results)),
        ("Importance of the settings", shares_table(shares) if shares else ""),
        *((f"Lineage of {name}'s winner", lineage(line)) for name, line in lines.items()),
        ("How the numbers are computed", method),
    ]
    return assemble("Search for settings", facts, parts)
