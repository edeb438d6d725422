"""Figures that studies share: the data as the network sees it, and curves."""

import io
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

from jaxdl.report.tables import write_atomically

if TYPE_CHECKING:  # slow to import, and only needed by what draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@contextmanager
def own_style() -> Iterator[None]:
    """A context, or a decorator, in which matplotlib has its own defaults.

    A figure is made after hours of training: it must neither need the backend that the user's
    environment names, nor the fonts and the LaTeX that the user's settings do.
    """
    if "matplotlib" not in sys.modules:
        backend = os.environ.pop("MPLBACKEND", "")  # it is not imported beside an unknown one
        import matplotlib

        if backend:
            os.environ["MPLBACKEND"] = backend
            with suppress(ValueError):
                matplotlib.rcParams["backend"] = backend
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def save(
    figure: "Figure", path: str | os.PathLike, *, full_colour: bool = False, **options: Any
) -> None:
    """Write a figure as a PNG file, in one piece.

    Args:
      full_colour: whether it keeps all colours, as photographs and colour maps need; else it has a
        palette of 256, at a third of the size.
      options: those of ``savefig``.
    """
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    quick = {"compress_level": 0}  # it is read again at once
    figure.savefig(drawn, format="png", pil_kwargs=quick, **options)
    image = Image.open(drawn).convert("RGB")
    if not full_colour:
        image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(content, "PNG")
    write_atomically(path, content.getvalue())


def check() -> None:
    """Draw a figure and discard it, so that a run does not fail at its end because figures cannot
    be drawn.

    Raises:
      ValueError: if nothing can be drawn, with what is wrong.
    """
    try:
        with own_style():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(1, 1), layout="constrained")
            figure.subplots().set_title("λ")
            figure.savefig(io.BytesIO(), format="png")
    except Exception as error:  # whatever an installation may lack
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"matplotlib cannot draw ({type(error).__name__}: {reason}): install it again, for the "
            "report needs figures"
        ) from error


def plain(text: str) -> str:
    """A text that matplotlib shows literally: names from elsewhere are no formulas ("$"), and what
    no font can show, as from file names that are not UTF-8, becomes an escape."""
    return str(text).encode(errors="backslashreplace").decode().replace("$", r"\$")


def panels(
    count: int, width: float, height: float, beside: float = 0
) -> tuple["Figure", Sequence["Axes"], Sequence["Axes"]]:
    """A figure of so many panels, up to four a row; and cells without a panel.

    Args:
      width, height: of a panel, in inches.
      beside: room to their right.
    """
    from matplotlib.figure import Figure

    columns = count if count < 5 else min((4, 3), key=lambda columns: -count % columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns + beside, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count], axes[count:]


@own_style()
def samples(
    images: Float[np.ndarray, "n h w c"],
    titles: Sequence[str],
    path: Path,
    columns: int = 12,
    *,
    side: float = 0.75,
    colours: Sequence[str] = (),
) -> None:
    """A sheet of images, each with its title; grey levels or colours span what occurs in them.

    Args:
      side: side of an image with its margin, in inches.
      colours: colours of the titles; black by default.
    """
    from matplotlib.figure import Figure

    rows, lines = math.ceil(len(images) / columns), max(title.count("\n") + 1 for title in titles)
    step = side + 0.05 + 0.15 * lines  # from row to row
    figure = Figure(figsize=(side * columns, step * rows))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: as many would take seconds to draw
    low, high = float(images.min()), float(images.max())
    shown = (images - low) / max(high - low, 1e-12)
    shown = shown if shown.shape[-1] == 3 else shown[..., 0]
    longer = (side - 0.07) / max(images.shape[1:3])
    height, width = (longer * pixels for pixels in images.shape[1:3])  # inches
    for index, (image, title) in enumerate(zip(shown, titles, strict=True)):
        middle = side * (index % columns + 0.5)
        bottom = step * (rows - 1 - index // columns) + 0.03
        extent = (middle - width / 2, middle + width / 2, bottom, bottom + height)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
        colour = colours[index] if colours else "black"
        top = bottom + height + 0.04
        axes.text(middle, top, plain(title), fontsize=8, ha="center", va="bottom", color=colour)
    axes.set(xlim=(0, side * columns), ylim=(0, step * rows))
    axes.set_axis_off()
    save(figure, path, full_colour=True, dpi=150)


Numbers = Sequence[float] | Num[np.ndarray, " _"]
Line = tuple[Numbers, Numbers] | Float[np.ndarray, "2 _"]
"""The steps and the values of a network, as :func:`jaxdl.train.logs.series` has them."""


@own_style()
def curves(
    panels: Mapping[str, Mapping[str, Sequence[Line]]],
    path: Path,
    xlabel: str = "step",
    *,
    logarithmic: bool = False,
    order: Iterable[str] = (),
) -> None:
    """Curves of single networks (thin) and their mean (thick), on a logarithmic scale their median.

    Entries of a panel with the same curves are drawn as one, since they would hide each other. More
    than four entries have one legend for all panels, and more than ten other lines, too.

    Args:
      panels: the y axis's label -> legend entry -> one ``(steps, values)`` a network; the
        networks of an entry are logged at the same steps.
      order: entries, in the order of their colours, before all others.
    """
    from matplotlib.figure import Figure

    distinct = {label: _without_repetition(groups) for label, groups in panels.items()}
    firsts = {entry: first for groups in distinct.values() for entry, (first, _) in groups.items()}
    names = (name for groups in panels.values() for name in groups)
    by_name, owners = styles([*order, *names, *firsts]), dict[str, str]()
    # Entries that are drawn as one have the style of their first, if no other entry has that.
    for entry in sorted(firsts, key=lambda entry: entry != firsts[entry]):
        owners.setdefault(firsts[entry], entry)
    shown = {
        entry: by_name[first if owners[first] == entry else entry]
        for entry, first in firsts.items()
    }
    common_legend = len(shown) > 4
    columns = min(3, len(distinct))
    rows = math.ceil(len(distinct) / columns)
    figure = Figure(figsize=(4.2 * columns + 2 * common_legend, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(distinct) :]:
        axes.set_axis_off()
    for axes, (label, groups) in zip(grid, distinct.items(), strict=False):
        for name, (_, lines) in groups.items():
            style = shown[name]
            for steps, values in lines:
                axes.plot(steps, values, **style, alpha=0.25, linewidth=0.8)
            middle = np.median if logarithmic else np.mean
            mean = middle(np.stack([np.asarray(values) for _, values in lines]), axis=0)
            marker = "o" if len(mean) == 1 else ""  # a line of one point cannot be seen
            axes.plot(lines[0][0], mean, **style, marker=marker, linewidth=2, label=plain(name))
        axes.set(
            xlabel=plain(xlabel), ylabel=plain(label), yscale="log" if logarithmic else "linear"
        )
        if re.search("accuracy|probability|R²", label) and not logarithmic:  # in %, as in tables
            axes.set_ylabel(f"{plain(label)}, %")
            axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.6g}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if not common_legend:
            axes.legend(frameon=False, fontsize=8)
    if common_legend:
        handles = [axes.plot([], [], **style, linewidth=2)[0] for style in shown.values()]
        figure.legend(
            handles, list(map(plain, shown)), loc="outside right upper", frameon=False, fontsize=9
        )
    save(figure, path, dpi=150)


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and line by name, in this order."""
    return {
        name: {"color": f"C{i % 10}", "linestyle": LINES[i // 10 % 4]}
        for i, name in enumerate(dict.fromkeys(names))
    }


LINES = ("-", "--", ":", "-.")


def _without_repetition(groups: Mapping[str, Sequence]) -> dict[str, tuple[str, Sequence]]:
    """Entries with equal curves as one: the first of its names, and the curves."""
    names: dict[bytes, list[str]] = {}
    for name, lines in groups.items():
        names.setdefault(b"".join(np.round(line, 6).tobytes() for line in lines), []).append(name)
    return {
        ", ".join(entries) if len(entries) < 4 else f"{entries[0]} and {len(entries) - 1} more": (
            entries[0],
            groups[entries[0]],
        )
        for entries in names.values()
    }
