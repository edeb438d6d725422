"""The report on what networks see: which attributions are right, stages, confusions.

Images are the independent values here: a number of an image is first averaged over the networks.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdl.report.comparisons import assemble, compare, percent, warn_of_several
from jaxdl.report.tables import (
    Estimate,
    bullets,
    format_mean,
    markdown_table,
    mean_and_standard_error,
    write_rows,
)

RANDOM = "random"
"""The attribution of which nothing is expected."""


class Result(NamedTuple):
    """An attribution of a network's predictions, a row of `results.csv`; areas under curves of the
    predicted class's probability, means over images."""

    attribution: str
    seed: int
    deletion: float  # while the pixels go: small where the first are those that matter
    insertion: float  # while they come: large


Areas = Mapping[tuple[str, int], tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]
"""Each image's areas of deletion and of insertion, by attribution and seed."""


def write_results(path: str | os.PathLike, areas: Areas) -> None:
    """Write `results.csv` in one piece."""
    rows = (Result(*name, *(float(part.mean()) for part in parts)) for name, parts in areas.items())
    write_rows(path, Result, rows)


def by_image(areas: Areas, attribution: str, part: int) -> Float[np.ndarray, " n"]:
    """The mean over networks of each image's area: 0 deletion, 1 insertion."""
    return np.mean([parts[part] for (name, _), parts in areas.items() if name == attribution], 0)


def ranking(areas: Areas) -> list[str]:
    """Attributions by their mean area of insertion, the greatest first."""
    means = {name: float(by_image(areas, name, 1).mean()) for name, _ in areas}
    return sorted(means, key=lambda name: means[name], reverse=True)


def gains(areas: Areas, part: int) -> dict[str, Estimate]:
    """The gain of each attribution's area over that of a random order, over images: smaller is
    better for deletion, larger for insertion."""
    chance, sign = by_image(areas, RANDOM, part), (-1, 1)[part]
    return {
        name: mean_and_standard_error(sign * (by_image(areas, name, part) - chance))
        for name in ranking(areas)
        if name != RANDOM
    }


def findings(areas: Areas) -> str:
    """Sentences on the attributions that are better than a random order of the pixels."""
    sentences = [
        compare(
            f"**{name}**",
            gain,
            f"a random order, by {PARTS[part]}",
            ("better than", "worse than"),
            "image",
        )
        for part in (1, 0)
        for name, gain in gains(areas, part).items()
    ]
    return bullets([*sentences, *warn_of_several(len(sentences))])


PARTS = ("deletion", "insertion")


def table(areas: Areas) -> str:
    """Mean areas over images in percent, and by how many points they are better than a random
    order's."""
    differences = [gains(areas, part) for part in (0, 1)]
    rows = []
    for name in ranking(areas):
        cells: list[str] = []
        for part, gain in enumerate(differences):
            area = mean_and_standard_error(by_image(areas, name, part))
            cells.append(format_mean(area.mean, area.se))
            value = gain.get(name)
            cells.append(format_mean(value.mean, value.se, signed=True) if value else "")
        rows.append((name, *cells))
    better = "better than random"
    header = ("order of the pixels", *(x for part in PARTS for x in (f"{part}, %", better)))
    return markdown_table(header, rows)


Field = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Size, stride and first pixel of receptive fields, rows and columns."""


def stages(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    fields: Sequence[Field],
    silent: Sequence[int],
) -> str:
    """The stages of a network.

    Args:
      shapes: shapes of each stage's output for an image.
      fields: of the units of the first stages, in pixels of the network's input; units of the
        others see all of the image.
      silent: number of channels of these first stages that are 0 in all images.
    """

    def sides(values: tuple[int, int]) -> str:
        return str(values[0]) if values[0] == values[1] else f"{values[0]} x {values[1]}"

    local = [(*map(sides, field), count) for field, count in zip(fields, silent, strict=True)]
    rest = [("all", "", "", "")] * (len(names) - len(local))
    rows = [
        (name, " x ".join(map(str, shape)), *cells)
        for name, shape, cells in zip(names, shapes, [*local, *rest], strict=True)
    ]
    header = ("stage", "output", "a unit sees", "every", "first pixel", "silent channels")
    return markdown_table(header, rows, 2)


def predictions(
    probabilities: Mapping[int, Float[np.ndarray, "n k"]],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
) -> str:
    """Accuracy and confidence of networks by seed, and their commonest confusions, in words.

    Args:
      labels: -1 where the class of an image is not known.
    """
    labelled = labels >= 0
    if not labelled.any():
        return f"The classes of the {len(labels):,} images are not known."
    guesses = {seed: p.argmax(-1) for seed, p in probabilities.items()}
    right = np.stack([guess[labelled] == labels[labelled] for guess in guesses.values()])
    accuracy = mean_and_standard_error(right.mean(1))
    confidence = np.stack([p[labelled].max(-1) for p in probabilities.values()])
    mean = format_mean(accuracy.mean, accuracy.se)
    sentences = [
        f"Of {labelled.sum():,} images with a known class {mean} % are classified rightly"
        + f", mean over {len(guesses)} networks." * (len(guesses) > 1)
        + "." * (len(guesses) == 1)
    ]
    if right.any() and not right.all():
        sentences.append(
            "The mean probability of the predicted class is "
            f"{percent(float(confidence[right].mean()))} where it is right, "
            f"{percent(float(confidence[~right].mean()))} where it is wrong."
        )
        counts = np.zeros((len(class_names),) * 2, int)
        for guess in guesses.values():
            np.add.at(counts, (labels[labelled], guess[labelled]), 1)
        np.fill_diagonal(counts, 0)
        worst = np.argsort(-counts, axis=None, kind="stable")[:3]
        places = [np.unravel_index(i, counts.shape) for i in worst if counts.flat[i]]
        words = (f"{class_names[i]} for {class_names[j]} ({counts[i, j]})" for i, j in places)
        sentences.append(f"Most often taken: {', '.join(words)}.")
    return bullets(sentences)


def report(facts: Mapping[str, str], sections: Iterable[tuple[str, str]]) -> str:
    """The report in Markdown."""
    return assemble("What does the network see?", facts, sections)
