"""Tables of numbers: scikit-learn's, your own, and made-up ones of which the truth is known.

A table has ``features`` [n, d], float32 and not standardized, with ``label`` or ``target`` (see
:mod:`jaxdl.data.source`). Of the made-up ones each split is drawn by itself, so that it does not
depend on the sizes of the others.
"""

import csv
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from jaxdl.data.source import Source, divide, make_source
from jaxdl.files import user_path
from jaxdl.types import DamagedFile

Draw = Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]
"""``draw(n, rng)``: arrays of n examples."""


def iris(seed: int = 0) -> Source:
    """150 flowers of 3 species by 4 lengths in cm (Fisher 1936)."""
    from sklearn.datasets import load_iris  # slow to import, as all of scikit-learn

    return _divided("iris", load_iris(), seed)


def wine(seed: int = 0) -> Source:
    """178 wines of 3 growers by 13 chemical measurements (Forina et al. 1991)."""
    from sklearn.datasets import load_wine

    return _divided("wine", load_wine(), seed)


def breast_cancer(seed: int = 0) -> Source:
    """569 tumours, malignant or benign, by 30 measurements of their cells (Street et al. 1993)."""
    from sklearn.datasets import load_breast_cancer

    return _divided("breast_cancer", load_breast_cancer(), seed)


def diabetes(seed: int = 0) -> Source:
    """442 patients by 10 measurements, and as target how far the disease has come after a year,
    25 to 346 (Efron et al. 2004). The features are scikit-learn's, of mean 0 and norm 1."""
    from sklearn.datasets import load_diabetes

    return _divided("diabetes", load_diabetes(), seed)


def table(path: str = "", *, answer: str = "", classes: bool = False, seed: int = 0) -> Source:
    """Your own table: a CSV file whose first line names the columns; all are numbers but the
    answer.

    It is split 60/20/20 at random, within each class if it has any.

    Args:
      answer: the column that is to be predicted; by default the last. Words are classes, in
        alphabetical order, and numbers are numbers,
      classes: unless these are to be classes, too.

    Raises:
      DamagedFile: naming the line, for a file that is no such table; for fewer than 10 rows; for
        answers that are all the same.
      ValueError: without a path, and for an answer that is no column.
      OSError: if the file cannot be read.
    """
    if not path:
        raise ValueError("which file? Set path to a CSV file whose first line names its columns")
    with open(user_path(path), newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        (_, header), *lines = [(reader.line_num, row) for row in reader if row] or [(1, [])]
    if len(header) < 2:
        problem = f"only 1 column, {header[0]!r}: columns are separated by commas" if header else ""
        raise DamagedFile(f"{path}: {problem or 'the file is empty'}")
    for name in header:
        if _is_number(name):
            problem = f"{name!r} is a number: the first line is to name the columns"
            raise DamagedFile(f"{path}: {problem}")
    if answer and answer not in header:
        raise ValueError(f"{path}: there is no column {answer!r}: choose from {', '.join(header)}")
    column = header.index(answer) if answer else len(header) - 1
    rows, answers = [], []
    for number, cells in lines:
        if len(cells) != len(header):
            raise DamagedFile(f"{path}, line {number}: {len(cells)} of {len(header)} columns")
        for i, (name, cell) in enumerate(zip(header, cells, strict=True)):
            problem = ""
            if not cell.strip():
                problem = "an empty cell: fill it, or leave out the row"
            elif i != column and not _is_number(cell):
                problem = f"{cell!r} is no number, as all but the answer are"
            if problem:
                raise DamagedFile(f"{path}, line {number}, column {name!r}: {problem}")
        answers.append(cells.pop(column))
        rows.append(list(map(float, cells)))
    if len(rows) < 10:
        raise DamagedFile(f"{path}: {len(rows)} rows are too few: it takes 10 to be split")
    if len({*answers}) < 2:
        problem = f"every answer in column {header[column]!r} is {answers[0]!r}"
        raise DamagedFile(f"{path}: {problem}: it takes 2 to have anything to learn")
    with suppress(ValueError):
        if not classes:
            targets = np.array(list(map(float, answers)))
            return _divided(Path(path).stem, {"data": np.array(rows), "target": targets}, seed)
    names, labels = np.unique(answers, return_inverse=True)
    data = {"data": np.array(rows), "target": labels, "target_names": names}
    return _divided(Path(path).stem, data, seed)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _divided(name: str, table: Mapping, seed: int) -> Source:
    """A table, split 60/20/20 at random, within each class if it has any."""
    arrays = {"features": table["data"].astype(np.float32)}
    classes: tuple[str, ...] = ()
    if "target_names" in table:
        arrays["label"] = table["target"].astype(np.int32)
        classes = tuple(map(str, table["target_names"]))
    else:
        arrays["target"] = table["target"].astype(np.float32)
    n = len(table["target"])
    shares = {"test": round(0.2 * n), "validation": round(0.2 * n)}
    return make_source(name, classes, divide({"train": arrays}, shares, seed))


def sinusoid(
    train: int = 200,
    validation: int = 200,
    test: int = 1000,
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> Source:
    """A noisy sinusoid: ``target = sin(2π x) + noise N(0, 1)``, ``x`` uniform in −1 … 1.

    The RMSE of the truth, :func:`sinusoid_truth`, is ``noise``.

    Args:
      train, validation, test: numbers of examples.

    Raises:
      ValueError: a count is below 1, or the noise is negative.
    """
    _check_noise(noise)

    def draw(n: int, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        x = rng.uniform(-1, 1, n)
        return {"features": x[:, None], "target": sinusoid_truth(x) + noise * rng.normal(size=n)}

    return _drawn("sinusoid", (), draw, (train, validation, test), seed)


def sinusoid_truth(x: Float[np.ndarray, " *n"]) -> Float[np.ndarray, " *n"]:
    """The target of :func:`sinusoid` without noise, ``sin(2π x)``: two periods in −1 … 1."""
    return np.sin(2 * math.pi * x)


def interlaced(
    train: int = 200,
    validation: int = 200,
    test: int = 2000,
    *,
    kind: str = "spirals",
    noise: float = 0.25,
    seed: int = 0,
) -> Source:
    """Two classes in the plane, one around the other, equally many of each.

    No line tells them apart; one does on the right features, and which those are depends on the
    data. Both kinds begin with a radius ``1 + label + noise N(0, 1)`` and a uniform angle:

    - "rings": the plane is then pressed together by 0.4 along an axis and turned by 45°. The best
      boundary is an ellipse, linear in the kernel features ``(x1², √2 x1 x2, x2²)`` and not in the
      polar ones.
    - "spirals": the radius then grows by 2 a turn, so that the classes alternate outwards. The best
      boundary is Archimedes' spiral, linear in the polar features (radius, angle) and not in the
      kernel ones.

    The best possible accuracy is :func:`interlaced_best`.

    Args:
      train, validation, test: numbers of examples.
      noise: deviation of the radius; the classes are 1 apart.

    Raises:
      ValueError: an unknown kind, a count below 1, or a negative noise.
    """
    if kind not in ("rings", "spirals"):
        raise ValueError(f"kind={kind!r} is not one of rings, spirals")
    _check_noise(noise)

    def draw(n: int, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        label, angle = rng.permutation(np.arange(n) % 2), rng.uniform(-math.pi, math.pi, n)
        radius = 1 + label + noise * rng.normal(size=n)
        if kind == "spirals":
            radius += (angle + math.pi) / math.pi
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        if kind == "rings":
            x = (x * [1, 0.4]) @ np.array([[1, 1], [-1, 1]]) / math.sqrt(2)
        return {"features": x, "label": label}

    return _drawn("interlaced", ("inner", "outer"), draw, (train, validation, test), seed)


def interlaced_best(noise: float) -> float:
    """The accuracy of the best possible classifier of :func:`interlaced`, ``Φ(1 / (2 noise))``.

    It compares the radius, before the plane is pressed or less the spiral's growth, with 3/2.
    (Negative radii are neglected, of which there are 3 in 100,000 of a class at noise 0.25.)
    """
    return NormalDist().cdf(0.5 / noise) if noise else 1.0


def imbalanced(
    train: int = 20_000,
    validation: int = 10_000,
    test: int = 20_000,
    *,
    share: float = 0.01,
    seed: int = 0,
) -> Source:
    """Few positive examples among many negative ones, by 6 numbers.

    Negative examples are N(0, 1) in every column. Positive ones have mean 1.5 in the first two
    columns and deviation 0.4 in the third, which makes the best boundary quadratic; the other three
    columns say nothing. The best possible score is :func:`imbalanced_log_odds`.

    Args:
      train, validation, test: numbers of examples.
      share: share of positive examples, rounded.

    Raises:
      ValueError: a count below 1, or a split without positive or without negative examples.
    """

    def draw(n: int, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        positives = round(share * n)
        if not 0 < positives < n:
            raise ValueError(f"share={share} of {n} examples is {positives}: both classes need 1")
        label = rng.permutation(np.arange(n) < positives)
        scale, mean = np.where(label[:, None], _POSITIVE_DEVIATION, 1), label[:, None] * _SHIFT
        return {"features": mean + scale * rng.normal(size=(n, len(_SHIFT))), "label": label}

    return _drawn("imbalanced", ("negative", "positive"), draw, (train, validation, test), seed)


_SHIFT = np.array([1.5, 1.5, 0, 0, 0, 0])
_POSITIVE_DEVIATION = np.array([1, 1, 0.4, 1, 1, 1])


def imbalanced_log_odds(
    features: Float[np.ndarray, "n 6"], share: float = 0.01
) -> Float[np.ndarray, " n"]:
    """``log p(positive | x) / p(negative | x)`` of :func:`imbalanced`: no score ranks better."""
    standard = (features - _SHIFT) / _POSITIVE_DEVIATION
    log_ratio = np.sum(features**2 - standard**2, -1) / 2 - np.sum(np.log(_POSITIVE_DEVIATION))
    return log_ratio + math.log(share / (1 - share))


def latent(
    train: int = 200,
    validation: int = 200,
    test: int = 2000,
    *,
    kind: str = "wide",
    seed: int = 0,
) -> Source:
    """Classes that lie in few directions out of many, which no column shows alone.

    - "wide": 200 columns hold a plane, turned at random, with three classes in it, of deviation 1.5
      along either axis, around the corners of a triangle, 3.75 from its middle; and noise N(0, 1)
      in every column. The classes lie in the directions of greatest variance: two principal
      components keep them and leave the noise out, which a network would learn by heart.
    - "mixed": 10 columns are 10 independent signals, turned at random. One is ``±1 + 0.35 N(0, 1)``
      by the class, of two; the others are uniform, of deviation 5, and say nothing. The classes lie
      in the direction of least variance: principal components lose them, unless all are kept.
      Independent component analysis finds that signal, which is least like a Gaussian.

    Args:
      train, validation, test: numbers of examples, equally many of each class.
      seed: seed of examples and directions.

    Raises:
      ValueError: an unknown kind, or a count below 1.
    """
    if kind not in ("wide", "mixed"):
        raise ValueError(f"kind={kind!r} is not one of wide, mixed")
    columns, class_names = (200, ("a", "b", "c")) if kind == "wide" else (10, ("a", "b"))
    # The splits draw from [seed, 0], [seed, 1] and [seed, 2].
    normal = np.random.default_rng([seed, 3]).normal(size=(columns, columns))
    directions = np.linalg.qr(normal)[0]

    def draw(n: int, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        label = rng.permutation(np.arange(n) % len(class_names))
        if kind == "wide":
            angle = 2 * math.pi * label / 3
            plane = 3.75 * np.stack([np.cos(angle), np.sin(angle)], -1)
            plane += 1.5 * rng.normal(size=(n, 2))
            x = plane @ directions[:2] + rng.normal(size=(n, columns))
        else:
            signal = 2 * label - 1 + 0.35 * rng.normal(size=n)
            bound = 5 * math.sqrt(3)
            nuisance = rng.uniform(-bound, bound, (n, columns - 1))
            x = np.concatenate([signal[:, None], nuisance], -1) @ directions
        return {"features": x, "label": label}

    return _drawn("latent", class_names, draw, (train, validation, test), seed)


def _drawn(
    name: str, class_names: tuple[str, ...], draw: Draw, sizes: tuple[int, int, int], seed: int
) -> Source:
    """A synthetic table, each split from its own stream of random numbers."""
    dtypes = {"features": np.float32, "target": np.float32, "label": np.int32}
    splits = {}
    for number, split in enumerate(("train", "validation", "test")):
        if sizes[number] < 1:
            raise ValueError(f"{split}={sizes[number]}: ask for 1 example or more")
        arrays = draw(sizes[number], np.random.default_rng([seed, number]))
        splits[split] = {key: array.astype(dtypes[key]) for key, array in arrays.items()}
    return make_source(name, class_names, splits)


def _check_noise(noise: float) -> None:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise}: a deviation is 0 or more")
