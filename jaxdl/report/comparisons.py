"""Comparisons and their judgement in words, and the skeleton of a report.

A difference is taken within a seed, between networks that share what the seed decides, so that
seeds are the independent values of its :class:`jaxdl.report.tables.Estimate`. It shows when the
two-sided 95% t interval over seeds excludes zero.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from jaxdl.report.tables import (
    Estimate,
    bullets,
    confidence_interval,
    format_mean,
    format_number,
    mean_and_standard_error,
)

Key = TypeVar("Key", bound=Hashable)

ALIKE = 1e-9
"""A standard error up to this is only rounding: values that are all alike have no interval."""


def minus(a: Mapping[Key, float], b: Mapping[Key, float]) -> dict[Key, float]:
    """Paired differences, where both have a value."""
    return {key: value - b[key] for key, value in a.items() if key in b}


def over_seeds(values: Mapping[int, float]) -> Estimate:
    """The mean of one value a seed."""
    return mean_and_standard_error(list(values.values()))


def judged(x: Estimate) -> bool:
    """Whether there is an interval: not for one value, nor for several equal ones."""
    return x.used > 1 and x.se > ALIKE


def shows(sign: int, *estimates: Estimate) -> bool | None:
    """Whether the intervals of all estimates exclude zero, on the side of ``sign``; None if one has
    no interval."""
    if not all(map(judged, estimates)):
        return None
    return all(min(sign * bound for bound in confidence_interval(x)) > 0 for x in estimates)


def quote(x: Estimate, unit: str = "seed") -> str:
    """A difference of fractions: ``"+1.2 ± 0.3 points (95% interval +0.2 to +2.2, 4 seeds)"``."""
    if not x.used:
        return "not measured"
    text = f"{format_mean(x.mean, x.se, signed=True)} points"
    if x.used == 1:
        return f"{text} (1 {unit}, no standard error)"
    return f"{text} (95% interval {interval(x)}, {x.used} {unit}s)"


def interval(x: Estimate) -> str:
    """The ends of the interval, in points with their signs: with as many digits as show them."""
    ends = confidence_interval(x)
    digits = next((d for d in (1, 2, 3) if all(round(100 * end, d) or not end for end in ends)), 4)
    return " to ".join(format_number(end, 100, digits, signed=True) for end in ends)


def reach(count: int, unit: str = "seed") -> str:
    """Half the interval of ``count`` values: ``"4.3 standard errors with 3 seeds"``."""
    if count < 2:
        return f"one {unit} has no interval"
    _, high = confidence_interval(Estimate(0.0, 1.0, count))
    return f"{high:.1f} standard errors with {count} {unit}s"


def compare(
    subject: str,
    x: Estimate,
    reference: str,
    words: tuple[str, str] = ("above", "below"),
    unit: str = "seed",
) -> str:
    """A sentence that says which of two is above, by the interval of their difference.

    Args:
      words: the words for a positive and for a negative difference.
      unit: the unit that a value is of, such as "seed".
    """
    if not judged(x):
        value = f"{format_number(x.mean, 100, signed=True)} points in "
        values = f"each of {x.used} {unit}s, which gives no interval"
        value += f"one {unit}" if x.used == 1 else values
        value = value if x.used else f"no {unit} has both, or they diverged"
        return f"It cannot be judged how {subject} compares with {reference}: {value}."
    side = words[0] if x.mean > 0 else words[1]
    is_shown = shows(+1, x) or shows(-1, x)
    if not is_shown and format_number(x.mean, 100) == "0.0":
        side = " or ".join(words)  # a sign that is not printed is no direction
    opening = "This run shows that" if is_shown else "This run does not show that"
    return f"{opening} {subject} is {side} {reference}: {quote(x, unit)}."


Comparison = tuple[str, Estimate, str]
"""The subject, the difference, and the reference of a comparison."""


def compare_all(comparisons: Sequence[Comparison]) -> list[str]:
    """:func:`compare` each; of several in a single seed, whose values are in a table, one
    sentence."""
    if len(comparisons) > 1 and all(x.used == 1 for _, x, _ in comparisons):
        return [
            f"None of {len(comparisons)} comparisons can be judged, since {reach(1)}: the table "
            "has the values."
        ]
    return [compare(*comparison) for comparison in comparisons]


def warn_of_several(count: int) -> list[str]:
    """A sentence on the number of comparisons in one report, if there are several."""
    if count < 2:
        return []
    return [
        f"These are {count} comparisons, each by its own 95% interval and none corrected for "
        f"their number: if nothing differed, {0.05 * count:.1f} of them would be expected to "
        "show a difference."
    ]


def list_seeds(seeds: Sequence[int]) -> str:
    """``"seed 0"``, ``"seeds 0, 2"``."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def percent(*values: float) -> str:
    """``"81.5, 76.7 %"``, of fractions."""
    return ", ".join(format_number(x, 100) for x in values) + " %"


def assemble(title: str, facts: Mapping[str, str], sections: Iterable[tuple[str, str]]) -> str:
    """A report in Markdown: its title, facts of the run, sections; empty ones are left out.

    Args:
      sections: headings, empty to go on in the section before, and texts.
    """
    parts = [f"# {title}", bullets(f"{key}: {value}" for key, value in facts.items())]
    for heading, text in sections:
        if text:
            parts += [f"## {heading}"] * bool(heading) + [text]
    return "\n\n".join(part for part in parts if part) + "\n"
