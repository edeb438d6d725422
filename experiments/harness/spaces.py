"""Search spaces and searches from a configuration's ``config.space`` and ``config.searches``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.harness import recipe
from experiments.harness.settings import Method, Multiple, check_section, method
from jaxdl import search
from jaxdl.search import Choice, Range, Space

SEARCHES = ("random", "grid", "halving", "hyperband", "pbt")
FIXED = ("steps", "sweep", "values", "teacher", "soft", "temperature", "examples", "folds")
"""Settings that cannot be searched: the cost of a network, names of other networks, and the choice
of validation examples."""


def make_space(config: ConfigDict) -> Space:
    """The search space of a configuration, checked.

    Raises:
      ValueError: in one line that begins with the setting, for what cannot be searched, or not by
        all of ``config.searches``.
    """
    check_section(config, "space")
    space = {name: make_values(name, value) for name, value in config.space.items()}
    for name, values in space.items():
        path = f"config.space.{name}"
        if name not in config.base:
            raise ValueError(f"{path} is no setting: config.base has them all")
        if name in FIXED:
            raise ValueError(f"{path} cannot be searched")
        ends = values.values if isinstance(values, Choice) else (values.low, values.high)
        for value in ends:
            with_settings(config, {name: value}).check(config, recipe.KINDS)
        if "pbt" not in config.searches:
            continue
        if isinstance(values, Choice) or values.integer or name not in recipe.OFF:
            raise ValueError(
                f"{path}: population-based training changes numbers in training, such as "
                f"{', '.join(list(recipe.OFF)[:4])}; search this one otherwise"
            )
        if (off := recipe.OFF[name]) is not None and values.low <= off <= values.high:
            raise ValueError(
                f"{path}: {off} turns it off, which takes another program: population-based "
                "training needs a range without it"
            )
    return space


def make_values(name: str, value: Any) -> Range | Choice:
    """The range or choice of a setting's values; raises as :func:`make_space` does."""
    try:
        match value:
            case ("log" | "uniform" | "integers" as kind, int() | float(), int() | float()):
                return Range(*value[1:], log=kind == "log", integer=kind == "integers")
            case ("choice", tuple() | list()):
                return Choice(tuple(map(as_tuple, value[1])))
        raise ValueError(f'{value!r} is not such as ("log", 1e-4, 1.0) or ("choice", (16, 32))')
    except ValueError as error:
        raise ValueError(f"config.space.{name}: {error}") from None


def as_tuple(value: Any) -> Any:
    """The value; a list, as JSON has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def with_settings(config: ConfigDict, settings: Mapping[str, Any]) -> Method:
    """``config.base`` with settings of the space."""
    base = method(config)
    sections = base.sections | dict.fromkeys(settings, "config.space")
    return Method({**base.settings, **settings}, sections)


def make_search(config: ConfigDict, space: Space, kind: str, repetition: int) -> search.Search:
    """A search, one of :data:`SEARCHES`, before its first round. Its trials are numbered through
    all repetitions.

    Raises:
      ValueError: where settings do not suit each other.
    """
    steps, eta, budget = config.base.steps, config.eta, config.budget
    rungs = search.make_rungs(config.least, steps, eta, config.steps_per_dispatch)
    sizes = search.bracket_sizes(len(rungs), eta, budget)
    counts = {"halving": search.halving_size(rungs, eta, budget * steps), "hyperband": sum(sizes)}
    trials = search.sample(space, counts.get(kind, budget), repetition)
    if kind == "grid":
        trials = search.grid(space, config.levels)
    first = {"first": repetition * len(trials)}
    match kind:
        case "halving":
            return search.halving(trials, rungs, eta, **first)
        case "hyperband":
            return search.hyperband(trials, rungs, eta, sizes, **first)
        case "pbt":
            Multiple("interval").check("config.base.steps", steps, config)
            ends = range(config.interval, steps + 1, config.interval)
            replacement = {"share": config.replaced, "factors": config.factors}
            return search.population_based(trials, space, ends, repetition, **replacement, **first)
    return search.all_at_once(trials, steps, **first)
