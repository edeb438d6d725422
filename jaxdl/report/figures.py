"""Figures that studies share: the data as the network sees it, curves, features, solutions."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdl.report.tables import write_atomically

if TYPE_CHECKING:  # slow to import, and only needed by what draws
    from matplotlib.figure import Figure


@contextmanager
def own_style() -> Iterator[None]:
    """Within, or within a function decorated by it, matplotlib has its own defaults.

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


def save(figure: Figure, path: str | os.PathLike, **options: Any) -> None:
    """Write a figure as a PNG file, in one piece; ``options`` are those of ``savefig``."""
    image = io.BytesIO()
    figure.savefig(image, format="png", **options)
    write_atomically(path, image.getvalue())


def check() -> None:
    """Draw something, and throw it away, so that a figure cannot be what a run dies of at its end.

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
    """The text for matplotlib to show as it is: names from elsewhere are no formulas ("$"), and
    what no font can show, as from file names that are not UTF-8, becomes an escape."""
    return str(text).encode(errors="backslashreplace").decode().replace("$", r"\$")


@own_style()
def samples(
    images: Float[np.ndarray, "n h w c"], titles: Sequence[str], path: Path, columns: int = 12
) -> None:
    """A sheet of images, each with its title; grey levels or colours span what occurs in them."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(0.75 * columns, 0.95 * rows))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: as many would take seconds to draw
    low, high = float(images.min()), float(images.max())
    shown = (images - low) / max(high - low, 1e-12)
    shown = shown if shown.shape[-1] == 3 else shown[..., 0]
    height, width = (0.68 * side / max(images.shape[1:3]) for side in images.shape[1:3])  # inches
    for place, (image, title) in enumerate(zip(shown, titles, strict=True)):
        middle, bottom = 0.75 * (place % columns + 0.5), 0.95 * (rows - 1 - place // columns) + 0.03
        at = (middle - width / 2, middle + width / 2, bottom, bottom + height)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=at)
        axes.text(middle, bottom + height + 0.04, plain(title), fontsize=8, ha="center")
    axes.set(xlim=(0, 0.75 * columns), ylim=(0, 0.95 * rows))
    axes.set_axis_off()
    save(figure, path, dpi=150)


@own_style()
def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Float[np.ndarray, " t"], ...]]]],
    path: Path,
    xlabel: str = "step",
    *,
    logarithmic: bool = False,
) -> None:
    """Curves of single networks (thin) and their mean (thick), on a logarithmic scale their median.

    Entries of a panel with the same curves are drawn as one, since they would hide each other. More
    than six entries have one legend for all panels, and more than ten other lines, too.

    Args:
      panels: the y axis's label -> legend entry -> one ``(steps, values)`` a network; the
        networks of an entry are logged at the same steps.
    """
    from matplotlib.figure import Figure

    panels = {label: _without_repetition(groups) for label, groups in panels.items()}
    order = list(dict.fromkeys(name for groups in panels.values() for name in groups))
    styles = [{"color": f"C{i % 10}", "linestyle": LINES[i // 10 % 4]} for i in range(len(order))]
    shared = len(order) > 6
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns + 2 * shared, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (label, groups) in zip(grid, panels.items(), strict=False):
        for name, lines in groups.items():
            style = styles[order.index(name)]
            for steps, values in lines:
                axes.plot(steps, values, **style, alpha=0.25, linewidth=0.8)
            middle = np.median if logarithmic else np.mean
            mean = middle([values for _, values in lines], axis=0)
            axes.plot(lines[0][0], mean, **style, linewidth=2, label=plain(name))
        axes.set(
            xlabel=plain(xlabel), ylabel=plain(label), yscale="log" if logarithmic else "linear"
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if not shared:
            axes.legend(frameon=False, fontsize=8)
    if shared:
        handles = [axes.plot([], [], **style, linewidth=2)[0] for style in styles]
        names = list(map(plain, order))
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)
    save(figure, path, dpi=150)


LINES = ("-", "--", ":", "-.")


def _without_repetition(groups: Mapping[str, Sequence]) -> dict[str, Sequence]:
    """Entries with equal curves as one."""
    names: dict[bytes, list[str]] = {}
    for name, lines in groups.items():
        names.setdefault(b"".join(np.round(line, 6).tobytes() for line in lines), []).append(name)
    return {
        ", ".join(same) if len(same) < 4 else f"{same[0]} and {len(same) - 1} more": groups[same[0]]
        for same in names.values()
    }


def embed(
    features: Mapping[str, tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]],
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "n+m 2"]]:
    """Points in the plane for the features of source and target, the source's first.

    Args:
      features: name -> features of source images and of target images.
      method: "pca", or "tsne" (van der Maaten & Hinton 2008) of the first 50 components.

    Raises:
      ValueError: features that are not finite, as those of a diverged network.
    """
    from sklearn.decomposition import PCA  # slow to import, and only needed here
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points = {}
    for name, domains in features.items():
        x = np.concatenate(domains).astype(np.float64)
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: features that are not finite cannot be embedded")
        if not np.ptp(x, axis=0).any():  # all images are one point
            points[name] = np.zeros((len(x), 2))
            continue
        if method == "tsne":
            x = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
            perplexity = min(30.0, (len(x) - 1) / 3)
            with threadpool_limits(1):  # its threads would wait for each other on busy cores
                points[name] = TSNE(perplexity=perplexity, random_state=seed).fit_transform(x)
        else:
            points[name] = PCA(2, random_state=seed).fit_transform(x)
    return points


@own_style()
def embeddings(
    panels: Mapping[
        str, tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]
    ],
    path: Path,
) -> None:
    """Draw features of both domains, in the form of the paper's Figure 3, as a PNG file.

    Above by domain, source blue and target red; below the same points by class, up to 10 classes
    with their number at the median of the source's points, and grey where there is no label (-1).
    Target labels are for the eye only.

    Args:
      panels: title -> points, whether they are of the source, and their classes.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((0.6 + 4 * columns, 8.2 * rows + 0.2), dpi=150, layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    pairs = [pair for i in range(rows) for pair in grid[2 * i : 2 * i + 2].T]
    for axes in np.ravel(pairs[len(panels) :]):
        axes.set_axis_off()
    classes = 1 + max((int(labels.max()) for _, _, labels in panels.values()), default=0)
    hues = colormaps["tab10"].colors
    if classes > 10:  # neighbouring classes far apart on a cycle of colours
        hues = colormaps["hsv"](np.arange(classes) * 0.381966 % 1)[:, :3] * 0.85
    hues = np.append(hues, [[0.6, 0.6, 0.6]], axis=0)  # the last, of label -1
    style = {"s": 7, "lw": 0, "alpha": 0.45}
    for (top, bottom), (title, (points, is_source, labels)) in zip(
        pairs, panels.items(), strict=False
    ):
        shuffled = np.random.default_rng(0).permutation(len(points))  # so that none covers another
        x, y = points[shuffled].T
        domain = np.where(is_source[shuffled, None], (0.12, 0.32, 0.85), (0.85, 0.1, 0.1))
        top.scatter(x, y, c=domain, **style)
        top.set_title(plain(title), fontsize=11)
        bottom.scatter(x, y, c=hues[labels[shuffled]], **style)
        for k in range(classes if classes <= 10 else 0):
            if (mine := is_source & (labels == k)).any():
                place = np.median(points[mine], axis=0)
                text = bottom.text(*place, k, ha="center", va="center", weight="bold")
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        for axes in (top, bottom):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.8")
    for i, axes in enumerate(grid[:, 0]):
        axes.set_ylabel("by class" if i % 2 else "by domain", fontsize=10)
    domains = {"source": (0.12, 0.32, 0.85), "target": (0.85, 0.1, 0.1)}
    handles = [grid[0, 0].scatter([], [], s=30, color=colour) for colour in domains.values()]
    figure.legend(handles, domains, loc="outside upper center", ncols=2, frameon=False)
    save(figure, path)


@own_style()
def surfaces(
    panels: Mapping[
        str,
        tuple[str, Float[np.ndarray, "n d"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    ],
    path: Path,
    title: str,
) -> None:
    """Functions found and exact, and the error on a logarithmic scale: of two coordinates as
    colours, of one as lines, of more on the slice where the first ones are largest.

    Args:
      panels: title -> names of the coordinates, points (of a grid, or of a part of one), the
        function found there, and the exact one.
      title: of the whole figure: which network this is.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure((12, 3.2 * len(panels) + 0.4), dpi=150, layout="constrained")
    figure.suptitle(plain(title))
    rows = np.atleast_1d(figure.subfigures(len(panels), 1))
    for row, (name, (names, points, found, exact)) in zip(rows, panels.items(), strict=True):
        with np.errstate(invalid="ignore"):
            error = np.abs(found - exact)
        # Infinite values have no colour, as NaN has none; nor do they stretch the others' scale.
        found, exact, error = (np.where(np.isfinite(v), v, np.nan) for v in (found, exact, error))
        if points.shape[1] == 1:
            values, errors = row.subplots(1, 2)
            values.plot(points[:, 0], exact, color="0.7", linewidth=4, label="exact")
            values.plot(points[:, 0], found, color="C0", linewidth=1.2, label="found")
            values.set(xlabel=plain(names[0]), title=plain(name))
            values.legend(frameon=False)
            errors.plot(points[:, 0], error, color="C3")
            errors.set(xlabel=plain(names[0]), title="|error|", yscale="log")
            continue
        earlier, plane = points[:, :-2], points[:, -2:]
        last = (earlier == earlier.max(axis=0)).all(axis=1)
        slice_ = ", ".join(
            f"{c} = {x:g}" for c, x in zip(names[:-2], earlier.max(axis=0), strict=True)
        )
        where = f" at {slice_}" if slice_ else ""
        axis = [np.unique(column) for column in plane[last].T]
        place = tuple(np.searchsorted(a, c) for a, c in zip(axis, plane[last].T, strict=True))
        top = max(float(np.nanmax(error[last], initial=0.0)), 1e-30)  # of a slice that is exact
        colours = {"cmap": "viridis"}
        if (known := exact[last][np.isfinite(exact[last])]).size:
            colours |= {"vmin": known.min(), "vmax": known.max()}
        parts = (
            (f"{name}{where}", found, colours),
            (f"exact{where}", exact, colours),
            (f"|error|{where}", error, {"norm": LogNorm(top / 1e4, top), "cmap": "magma"}),
        )
        for axes, (label, values, style) in zip(row.subplots(1, 3), parts, strict=True):
            image = np.full([len(a) for a in axis], np.nan)
            image[place] = np.maximum(values[last], top / 1e4) if "norm" in style else values[last]
            drawn = axes.pcolormesh(*axis, image.T, shading="nearest", rasterized=True, **style)
            row.colorbar(drawn, ax=axes)
            axes.set(xlabel=plain(names[-2]), ylabel=plain(names[-1]), title=plain(label))
    save(figure, path)


@own_style()
def scattered(
    panels: Mapping[str, tuple[str, Mapping[str, Float[np.ndarray, "n d"]]]],
    path: Path,
    title: str,
) -> None:
    """Points, by their first two coordinates; those of one coordinate in a line for each name.

    Args:
      panels: title -> the coordinates' names, points by name.
      title: of the whole figure: which network's points these are.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((5.2 * columns, 4 * rows), dpi=150, layout="constrained")
    figure.suptitle(plain(title))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, (names, groups)) in zip(grid, panels.items(), strict=False):
        for height, (group, points) in enumerate(groups.items()):
            x, y = points.T[:2] if len(names) > 1 else (points[:, 0], [height] * len(points))
            axes.scatter(x, y, s=3, lw=0, label=plain(f"{group}: {len(points):,}"))
        along = f", seen along {', '.join(names[2:])}" if len(names) > 2 else ""
        axes.set(xlabel=plain(names[0]), title=plain(f"{name}{along}"))
        if len(names) > 1:
            axes.set_ylabel(plain(names[1]))
        else:
            axes.set_yticks(range(len(groups)), map(plain, groups))
            axes.set_ylim(-0.5, len(groups) - 0.5)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, markerscale=4
        )
    save(figure, path)
