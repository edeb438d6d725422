"""Means with standard errors, Markdown tables, and tidy files, for the reports of all studies.

An `Estimate` is a mean over *independent* values, as a rule over seeds. What was measured several
times within a seed (directions, folds) is averaged before it comes here, since it would make the
standard error look smaller than it is.
"""

import csv
import io
import math
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from jaxdl.types import DamagedFile

Row = TypeVar("Row", bound=tuple)

MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"


class Estimate(NamedTuple):
    """A mean, its standard error, and how many values it rests on; NaN where it has none."""

    mean: float
    se: float
    used: int
    excluded: int = 0
    """Number of NaN values, such as those of diverged networks."""


def mean_and_standard_error(values: Sequence[float] | Float[np.ndarray, " values"]) -> Estimate:
    """Mean and standard error √(Σ(x − x̄)² / (m − 1) / m) of the m values that are not NaN.

    The standard error is NaN for fewer than two values, the mean for none.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    present = numbers[~np.isnan(numbers)]
    m = present.size
    return Estimate(
        mean=float(present.mean()) if m else math.nan,
        se=float(present.std(ddof=1) / math.sqrt(m)) if m > 1 else math.nan,
        used=m,
        excluded=numbers.size - m,
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's (1927) two-sided 95% interval of a probability, by its share in ``count`` draws."""
    z = 1.959964
    middle, scale = share + z**2 / (2 * count), 1 + z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - half) / scale, (middle + half) / scale


def confidence_interval(estimate: Estimate, level: float = 0.95) -> tuple[float, float]:
    """Student's two-sided interval mean ± t((1 + level)/2; m − 1) s.e.; NaN for m < 2.

    For three values the factor is 4.3, not 2: two standard errors are weak evidence there.
    """
    if estimate.used < 2:
        return math.nan, math.nan
    reach = float(stdtrit(estimate.used - 1, (1 + level) / 2)) * estimate.se
    return estimate.mean - reach, estimate.mean + reach


def format_number(value: float, scale: float = 1.0, digits: int = 1, signed: bool = False) -> str:
    """`scale · value` with a typographic minus and no negative zero; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    sign = "+" if signed else "-"
    return f"{scale * value:{sign}z.{digits}f}".replace("-", MINUS)


def format_mean(
    mean: float, se: float, scale: float = 100.0, digits: int = 1, signed: bool = False
) -> str:
    """`"73.2 ± 0.4"` for .732 and .004; no error where it is NaN, a dash without a mean."""
    text = format_number(mean, scale, digits, signed)
    if math.isnan(mean) or math.isnan(se):
        return text
    return f"{text} ± {format_number(se, scale, digits)}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table, padded so that it also reads well as plain text.

    Args:
      header: the titles of the columns.
      rows: rows of as many cells; `str` is applied to them.
      left: number of columns aligned to the left; the others, numbers, to the right.

    Raises:
      ValueError: a row has another number of cells than the header.
    """
    grid = [[str(cell).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    for cells in grid:
        if len(cells) != len(header):
            raise ValueError(f"a row has {len(cells)} cells, the header {len(header)}: {cells}")
    widths = [max(3, *map(len, column)) for column in zip(*grid, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(cells) for cells in (grid[0], rule, *grid[1:]))


def bullets(sentences: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill in the middle, finds the old one or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            # Names of files that are not UTF-8 become escapes: to end here would lose the rest.
            if isinstance(content, str):
                content = content.encode("utf-8", "backslashreplace")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(
    path: str | os.PathLike, kind: type[Row], rows: Iterable[Row], float_format: str = ".6f"
) -> None:
    """Write NamedTuples of one `kind` as a tidy CSV file, in the order given, in one piece."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(typing.get_type_hints(kind))
    for row in rows:
        writer.writerow(format(x, float_format) if isinstance(x, float) else x for x in row)
    write_atomically(path, text.getvalue())


def read_rows(
    path: str | os.PathLike,
    kind: type[Row],
    *,
    key: int = 0,
    limits: Mapping[str, float] | None = None,
) -> list[Row]:
    """Read what `write_rows` wrote; the types of the columns are those of `kind`'s fields.

    Args:
      key: number of first fields that name a network, which has one row; 0 for no names.
      limits: the greatest value of a field, whose least is 0; NaN is allowed.

    Raises:
      OSError: the file cannot be read.
      DamagedFile: it is not such a file; the message names the line or row and what is wrong there.
    """
    hints = typing.get_type_hints(kind)
    fields, types = tuple(hints), list(hints.values())
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = tuple(next(reader, ()))
            if header != fields:
                raise ValueError(f"the columns are {header}, not {fields}")
            for cells in reader:
                if len(cells) != len(types):
                    raise ValueError(
                        f"line {reader.line_num} has {len(cells)} of {len(types)} cells"
                    )
                try:
                    rows.append(kind(*(t(cell) for t, cell in zip(types, cells, strict=True))))
                except ValueError as error:
                    raise ValueError(f"line {reader.line_num}: {error}") from None
        names = set()
        for row in rows:
            for field, limit in (limits or {}).items():
                value = getattr(row, field)
                if not (math.isnan(value) or 0 <= value <= limit):
                    negative = ", a negative number" * (value < 0)
                    raise ValueError(f"{field} out of [0, {limit:g}]{negative}: {row}")
            if key and row[:key] in names:
                raise ValueError(f"two rows for one network: {row}")
            names.add(row[:key])
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"{os.fspath(path)}: damaged table: {error}") from None
    return rows
