"""Declared settings: each has a kind with its range, and one function checks all.

A study has a table from the names of its settings to their kinds. Relations between two settings
other than :class:`Multiple` are checked by the study. What a library function refuses is not
checked here again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

from ml_collections import ConfigDict


class Kind(Protocol):
    """A kind of setting: the values that it may have."""

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """Raise ValueError, which begins with the setting's full name, unless the value is of this
        kind."""


@dataclass(frozen=True)
class Count:
    """A whole number."""

    least: int = 1

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        _check_number(name, value)
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number from {self.least}, not {value}")
        if not self.least <= value < 2**31:
            raise ValueError(f"{name} must be at least {self.least} and below 2^31, got {value}")


@dataclass(frozen=True)
class Between:
    """A finite number from ``low`` to ``high``, which may themselves be excluded."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        _check_number(name, value)
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        if not (low and high and abs(value) < math.inf):
            least = f"above {self.low}" if self.above else f"at least {self.low}"
            most = f"below {self.high}" if self.below else f"at most {self.high}"
            most = "finite" if self.high == math.inf else most
            raise ValueError(f"{name} must be {least} and {most}, got {value}")


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class OneOf:
    """One word of a choice."""

    choices: Sequence[str]

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        if value not in self.choices:
            choices = ", ".join(choice or "''" for choice in self.choices)
            raise ValueError(f"{name}: {value!r} is not one of {choices}")


@dataclass(frozen=True)
class SomeOf:
    """A tuple of different words of a choice, at least ``least``."""

    choices: Sequence[str]
    least: int = 0

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name}: {value!r} is no tuple of {', '.join(self.choices)}")
        if len(set(value)) < len(value):
            raise ValueError(f"{name} names one thing twice: {value}")
        if len(value) < self.least:
            raise ValueError(f"{name} is empty: choose from {', '.join(self.choices)}")
        for word in value:
            OneOf(self.choices).check(name, word, config)


@dataclass(frozen=True)
class TupleOf:
    """A tuple of at least ``least`` values of a kind, such as the example."""

    kind: Kind
    example: str
    least: int = 0

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        problem = f"{name}: {value!r} is no tuple such as {self.example}"
        if not isinstance(value, tuple | list):
            raise ValueError(problem)
        if len(value) < self.least:
            raise ValueError(f"{problem}: at least {self.least} of them")
        for item in value:
            try:
                self.kind.check(name, item, config)
            except ValueError:
                raise ValueError(f"{problem}: {item!r} cannot be in it") from None


@dataclass(frozen=True)
class Multiple:
    """A multiple of another setting, unless that is below 1, as ``parallel.data`` is before the
    devices are known."""

    other: str

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        divisor = value_of(config, self.other)
        if divisor >= 1 and value % divisor:
            problem = f"{name}={value} is not a multiple of config.{self.other}={divisor}"
            candidates = range(min(divisor, value), 0, -1)[:1000]  # either may be any number
            example = next((n for n in candidates if value % n == 0), 1)
            raise ValueError(f"{problem}: give a divisor, as --config.{self.other}={example}")


@dataclass(frozen=True)
class Options:
    """A section of a data set's own options, whose numbers are not negative."""

    def check(self, name: str, value: Any, config: ConfigDict) -> None:
        """See :class:`Kind`."""
        for key, option in value.items():
            if isinstance(option, int | float) and not isinstance(option, bool):
                Between(0).check(f"{name}.{key}", option, config)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: {value!r} is not a number")


Kinds = Mapping[str, Kind | tuple[Kind, ...]]
"""Kinds by the name of a setting, dots for sections: ``"data.feed"``; of several kinds all
apply."""


class Settings(NamedTuple):
    """The declaration of a study's configuration."""

    kinds: Kinds
    free: tuple[str, ...] = ()
    """Last names of sections whose keys are not fixed: "methods", "options"."""
    computing: tuple[str, ...] = ()
    """Settings that change how, and not what, is computed: they may differ at a restart."""


def check(config: ConfigDict, kinds: Kinds) -> None:
    """Raise ValueError where a setting of a configuration is not of its kind."""
    _check(kinds, lambda name: value_of(config, name), lambda name: f"config.{name}", config)


def check_counts(config: ConfigDict, *names: str) -> None:
    """Raise ValueError where a setting is not a number of things, 1 or more."""
    check(config, dict.fromkeys(names, Count()))


def _check(
    kinds: Kinds, value: Callable[[str], Any], path: Callable[[str], str], config: ConfigDict
) -> None:
    for name, kind in kinds.items():
        for part in kind if isinstance(kind, tuple) else (kind,):
            part.check(path(name), value(name), config)


def value_of(config: Any, name: str) -> Any:
    """The value behind dots: ``value_of(config, "data.feed")``."""
    for part in name.split("."):
        config = config[part]
    return config


def suggestion(word: str, words: Iterable[str], prefix: str = "", cutoff: float = 0.8) -> str:
    """``is it PREFIX-WORD? `` for the one of some words that a misspelled one is most like, at a
    ratio of at least ``cutoff`` (as in ``difflib``); empty if there is none."""
    return "".join(f"is it {prefix}{w}? " for w in get_close_matches(word, list(words), 1, cutoff))


class Method(NamedTuple):
    """All settings of a method: those of ``config.base``, some of them changed."""

    settings: dict[str, Any]
    sections: dict[str, str]
    """The section that each setting comes from, such as ``config.base``."""

    def path(self, name: str) -> str:
        """A setting as the user would write it, for messages."""
        return f"{self.sections[name]}.{name}"

    def check(self, config: ConfigDict, kinds: Kinds) -> None:
        """Raise ValueError where a setting is not of its kind."""
        _check(kinds, self.settings.__getitem__, self.path, config)


def method(config: ConfigDict, *names: tuple[str, str]) -> Method:
    """``config.base``, changed by the sections of these names: ``("methods", "dann")``.

    Raises:
      ValueError: for a value that is not a section, or a setting that ``config.base`` does not
        have.
    """
    settings = config.base.to_dict()
    sections = dict.fromkeys(settings, "config.base")
    for section, name in names:
        path, changes = f"config.{section}.{name}", config[section][name]
        if not isinstance(changes, ConfigDict):
            raise ValueError(f"{path}: {changes!r} is not a ConfigDict of settings")
        if unknown := sorted(set(changes) - set(config.base)):
            hint = suggestion(unknown[0], config.base)
            raise ValueError(
                f"{path}: there is no setting {unknown[0]!r}: {hint}config.base has them all"
            )
        settings |= changes.to_dict()
        sections |= dict.fromkeys(changes, path)
    return Method(settings, sections)


def methods(config: ConfigDict, kinds: Kinds, section: str = "methods") -> dict[str, Method]:
    """All methods of a configuration, checked.

    Raises:
      ValueError: where there is none, or a setting of one, or of ``config.base``, is not of its
        kind.
    """
    check_section(config, section)
    method(config).check(config, kinds)  # config.base, whose settings methods need not use
    by_name = {name: method(config, (section, name)) for name in config[section]}
    for variant in by_name.values():
        variant.check(config, kinds)
    return by_name


def sweeps(config: ConfigDict, kinds: Kinds) -> dict[tuple[str, str], Method]:
    """All methods, checked, each at all ``values`` of the setting that it names as its ``sweep``;
    by name and value, the value as :func:`text` writes it, empty without a sweep.

    Raises:
      ValueError: as :func:`methods` does.
    """
    trials = {}
    for name, variant in methods(config, kinds).items():
        setting, values = variant.settings["sweep"], variant.settings["values"]
        if not setting:
            if values:
                raise ValueError(f"{variant.path('values')}={values}: of which sweep?")
            trials[name, ""] = variant
            continue
        OneOf(tuple(kinds)).check(variant.path("sweep"), setting, config)
        if not isinstance(values, tuple | list) or not values:
            path = variant.path("values")
            raise ValueError(f"{path}={values!r}: give a tuple of values of {setting}, to sweep it")
        for value in values:
            sections = {**variant.sections, setting: variant.sections["values"]}
            trial = Method({**variant.settings, setting: value}, sections)
            trial.check(config, kinds)
            trials[name, text(value)] = trial
    return trials


def text(value: Any) -> str:
    """A setting's value, as a table names it."""
    if isinstance(value, tuple | list):
        return " ".join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_section(config: ConfigDict, section: str) -> None:
    """Raise ValueError where a section of methods is empty."""
    if not config[section]:
        raise ValueError(f"config.{section} is empty: what is to be trained?")


def describe(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The settings that differ from the usual ones, in words; empty if none does. Empty values are
    left out, or ``none`` where the usual one is not empty."""
    lines = []
    for key, value in settings.items():
        if value in ("", ()):
            lines += [f"{key} none"] * bool(usual.get(key))
        elif value != usual.get(key):
            lines.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(lines)


def neutral(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are off, or 1, in the base of a study's default, which reports leave
    out."""
    return {key: value for key, value in defaults.items() if value in (False, -1, 0, 1)}


def describe_changes(
    methods: Mapping[str, Mapping[str, Any]],
    usual: Mapping[str, Any],
    none: str = "those of the base",
) -> dict[str, str]:
    """The settings that differ from the usual ones, by method, for a report; ``none`` where none
    differs."""
    return {
        f"Settings of {name}": describe(settings, usual) or none
        for name, settings in methods.items()
    }


def describe_methods(config: ConfigDict, defaults: ConfigDict) -> dict[str, str]:
    """The base's differences from the :func:`neutral` ``defaults``, and each method's from the
    base, for a report."""
    base = config.base.to_dict()
    settings = {name: variant.settings for name, variant in methods(config, {}).items()}
    return {"Base": describe(base, neutral(defaults))} | describe_changes(settings, base)
