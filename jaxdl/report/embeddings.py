"""Features of two domains in the plane: where source and target images lie for a network."""

import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdl.report.adapted import name_of, place_of
from jaxdl.report.figures import own_style, plain, save

_LOCK = threading.Lock()  # the environment is the process's


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for scikit-learn: several would wait for each other on busy cores, and to choose
    their number it counts physical cores, with a long warning where a container hides them."""
    from threadpoolctl import threadpool_limits  # scikit-learn's, which comes with it

    name = "OMP_NUM_THREADS"
    with _LOCK, threadpool_limits(1):
        value = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def embed(
    features: Mapping[str, Sequence[Float[np.ndarray, "_ d"]]],
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "_ 2"]]:
    """Points in the plane for the features of source and target, the source's first.

    Args:
      features: name -> features of source images and of target images.
      method: "pca", or "tsne" (van der Maaten & Hinton 2008) of the first 50 components.

    Raises:
      ValueError: features that are not finite, as those of a diverged network.
    """
    from sklearn.decomposition import PCA  # slow to import, and only needed here
    from sklearn.manifold import TSNE

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
            with one_thread():
                points[name] = TSNE(perplexity=perplexity, random_state=seed).fit_transform(x)
        else:
            points[name] = PCA(2, random_state=seed).fit_transform(x)
    return points


@own_style()
def draw(
    panels: Mapping[
        str, tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]
    ],
    path: Path,
    note: str = "",
    names: Sequence[str] = (),
) -> None:
    """Draw features of both domains, in the form of the paper's Figure 3, as a PNG file.

    Above by domain, source blue and target red; below the same points by class, up to 10 classes
    with their name at the median of the source's points, and grey where there is no label (-1).
    Target labels are for the eye only.

    Args:
      panels: title -> points, whether they are of the source, and their classes.
      note: below the panels.
      names: of the classes; numbers by default.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((0.4 + 2.7 * columns, 5.5 * rows + 0.5), dpi=110, layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    pairs = [pair for i in range(rows) for pair in grid[2 * i : 2 * i + 2].T]
    for axes in np.ravel(pairs[len(panels) :]):
        axes.set_axis_off()
    classes = 1 + max((int(labels.max()) for _, _, labels in panels.values()), default=0)
    hues = colormaps["tab10"](np.arange(10))[:, :3]
    if classes > 10:  # neighbouring classes far apart on a cycle of colours
        hues = colormaps["hsv"](np.arange(classes) * 0.381966 % 1)[:, :3] * 0.85
    hues = np.append(hues, [[0.6, 0.6, 0.6]], axis=0)  # the last, of label -1
    style = {"lw": 0, "alpha": 0.45}
    for (top, bottom), (title, (points, is_source, labels)) in zip(
        pairs, panels.items(), strict=False
    ):
        order = np.random.default_rng(0).permutation(len(points))  # so that none covers another
        x, y = points[order].T
        style["s"] = min(30, max(7, 4200 / len(points)))  # few points are large
        domain = np.where(is_source[order, None], (0.12, 0.32, 0.85), (0.85, 0.1, 0.1))
        top.scatter(x, y, c=domain, **style)
        top.set_title(plain(title), fontsize=11)
        bottom.scatter(x, y, c=hues[labels[order]], **style)
        for k in range(classes if classes <= 10 else 0):
            if (mask := is_source & (labels == k)).any():
                middle = np.median(points[mask], axis=0)
                name = plain(names[k] if names else str(k))
                font = {"weight": "bold", "size": 10 if len(name) < 3 else 8}
                text = bottom.text(*middle, name, ha="center", va="center", **font)
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        for axes in (top, bottom):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.8")
    for i, axes in enumerate(grid[:, 0]):
        axes.set_ylabel("by class" if i % 2 else "by domain", fontsize=10)
    domains = {"source": (0.12, 0.32, 0.85), "target": (0.85, 0.1, 0.1)}
    style["s"] = 30
    handles = [grid[0, 0].scatter([], [], color=colour, **style) for colour in domains.values()]
    figure.legend(handles, domains, loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel(note, fontsize=9, color="0.35")
    save(figure, path)


EMBEDDED = 300
"""Images of each domain whose features are drawn."""


def draw_domains(
    features: Mapping[str, Sequence[Float[np.ndarray, "_ d"]]],
    labels: Sequence[Int[np.ndarray, " _"]],
    names: Sequence[str],
    path: Path,
) -> None:
    """Embed and draw features of held-out images of both domains, a column a network of seed 0.

    Args:
      features: method -> those of source and target images, of which the first are drawn.
      labels: labels of these images.
      names: names of the classes.
    """
    if not features:  # where all networks have diverged
        return
    labels = [domain[:EMBEDDED] for domain in labels]
    note = f"Seed 0, {len(labels[0])} and {len(labels[1])} held-out images."
    points = embed(
        {
            name_of(method): [domain[:EMBEDDED] for domain in features[method]]
            for method in sorted(features, key=place_of)
        }
    )
    is_source = np.repeat([True, False], list(map(len, labels)))
    classes = np.concatenate(labels)
    note += " Grey: images without a label." * bool((classes < 0).any())
    draw({name: (plane, is_source, classes) for name, plane in points.items()}, path, note, names)
