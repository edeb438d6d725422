"""The numbers by which runs of a study are listed and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.report.comparisons import over_seeds
from jaxdl.report.tables import Estimate, format_mean, mean_and_standard_error, read_rows
from jaxdl.types import DamagedFile

Values = Mapping[tuple, float]
"""Values by network name."""


class Headline(NamedTuple):
    """A column of ``results.csv``, whose rows are networks that have a ``seed``."""

    row: type[tuple]
    """The NamedTuple of a row, which begins with the fields of the network's name."""
    column: str
    counts: Callable[[Any], bool] = lambda network: True
    """Whether networks of this name enter the list of runs; if none qualifies, all do."""
    averaged: tuple[str, ...] = ()
    """Fields of the name, over which the values of a seed are averaged: networks that differ in
    them alone are one row of a comparison."""
    logarithm: bool = False
    """Whether values differ by factors, so that their decimal logarithms are averaged; else they
    are fractions."""
    signed: bool = False
    """Whether values may be below 0, as R² may."""

    @property
    def name(self) -> str:
        """The name of the averaged value."""
        return "log10 " * self.logarithm + self.column

    @property
    def unit(self) -> str:
        """The unit of :meth:`format`'s text."""
        return "" if self.logarithm else " %"

    def format(self, x: Estimate, signed: bool = False) -> str:
        """Mean ± standard error."""
        scale, digits = (1, 2) if self.logarithm else (100, 1)
        return format_mean(x.mean, x.se, scale, digits, signed)

    def read(self, path: Path, network: type[tuple]) -> Values:
        """The values of all networks; NaN where one diverged.

        Raises:
          OSError: if the table cannot be read.
          DamagedFile: if it is not one of such rows.
        """
        key = len(network._fields)
        limits = {} if self.signed else {self.column: math.inf if self.logarithm else 1}
        rows = read_rows(path, self.row, key=key, limits=limits)
        values = {network(*row[:key]): getattr(row, self.column) for row in rows}
        if self.signed and (excess := [x for x in values.values() if x > 1]):
            raise DamagedFile(f"{path}: damaged table: {self.column} is {excess[0]:g}, above 1")
        if not self.logarithm:
            return values
        return {n: math.log10(x) if 0 < x < math.inf else math.nan for n, x in values.items()}

    def groups(self, values: Values) -> dict[tuple[str, ...], Values]:
        """The values of networks that differ in seeds and averaged fields only, by the others."""
        groups: dict[tuple[str, ...], dict] = {}
        for network, value in values.items():
            name = tuple(str(getattr(network, field)) for field in self.fields(type(network)))
            groups.setdefault(name, {})[network] = value
        return groups

    def counted(self, values: Values) -> Values:
        """The values that the list of runs shows."""
        return {n: x for n, x in values.items() if self.counts(n)} or values

    def fields(self, network: type[tuple]) -> list[str]:
        """The fields of a name that tell groups apart."""
        return [field for field in network._fields if field not in ("seed", *self.averaged)]


def estimate(values: Values) -> Estimate:
    """The mean over seeds of the means over the networks of a seed, without NaN."""
    by_seed: dict[int, list[float]] = {}
    for network, value in values.items():
        by_seed.setdefault(network.seed, []).append(value)
    return over_seeds({s: mean_and_standard_error(xs).mean for s, xs in by_seed.items()})
