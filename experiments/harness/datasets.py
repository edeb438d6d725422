"""Data sets that settings name, with messages that name the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdl.data import sources
from jaxdl.data.source import Source


def load_named(section: str, name: str, **options: Any) -> Source:
    """:func:`jaxdl.data.sources.load`, for options that come from a section of settings.

    Raises:
      ValueError: unknown name, wrong options, data that cannot be used, or a file that cannot be
        read. The message begins with the setting.
    """
    try:
        return sources.load(name, **options)
    except ValueError as error:
        setting = section if name in sources.SOURCES else f"{section.removesuffix('.options')}.name"
        raise ValueError(f"{setting}: {error}") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if not (options.get("path") and error.filename):
            raise
        raise ValueError(f"{section}.path: {error.strerror}: {error.filename}") from error


def check_digit_splits(config: ConfigDict, sections: Sequence[str]) -> None:
    """Raise ValueError where two sections name the same digits, divided by different seeds."""
    seeds = {
        f"config.{section}.options.seed": config[section].options.get("seed", 0)
        for section in sections
        if config[section].name in ("digits", "digits_m")
    }
    if len({*seeds.values()}) > 1:
        values = ", ".join(f"{setting}={seed}" for setting, seed in seeds.items())
        raise ValueError(
            f"{values}: digits and digits_m need the same seed, or test digits of the one train "
            "the other"
        )


def load(
    settings: ConfigDict,
    setting: str,
    inputs: Sequence[str] = ("image",),
    answers: Sequence[str] = ("label",),
    **options: Any,
) -> Source:
    """The data set that settings name; ``settings.options`` override ``options``.

    Raises:
      ValueError: if it cannot be read, or has none of the inputs or none of the answers, naming
        the setting.
    """
    source = load_named(f"{setting}.options", settings.name, **{**options, **settings.options})
    arrays = sorted(source.splits["train"])
    if not ({*inputs} & {*arrays} and {*answers} & {*arrays}):
        needed = ", ".join(" or ".join(names) for names in (inputs, answers))
        raise ValueError(
            f"{setting}.name={settings.name} has {', '.join(arrays)}: this study needs {needed}"
        )
    return source
