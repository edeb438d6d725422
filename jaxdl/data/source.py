"""Data sets: named arrays in splits, the test split sealed.

A split has one row an example in each of its arrays. Common names are

- ``image``: uint8 [n, height, width, channels], or what reads files of such images;
- ``label``: int32 [n], the class; -1 where it is missing;
- ``mask``: integers [n, height, width], the class of each pixel; -1, or the largest value of an
  unsigned type, where it is missing;
- ``instances``: int32 [n, height, width], the number of the object at each pixel, from 1; 0 where
  there is none;
- ``field``: integers [n, height, width], 0 where the mask is not known;
- ``point``: float32 [n, 2], a row and a column in pixels; NaN where there is none;
- ``points``: float32 [n, most, 2], several of them, NaN after the last;
- ``count``: float32 [n], how many there are;
- ``features``: float32 [n, d], the columns of a table;
- ``target``: float32 [n] or [n, d], what is to be predicted;
- ``text``: integers [n, length], bytes or tokens.
"""

import dataclasses
import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from jaxdl.data import encoded
from jaxdl.data.encoded import Images
from jaxdl.data.splits import stratified

Split = Mapping[str, Images]
"""Arrays by name, with one row an example."""

DTYPES = ("bool", "uint8", "int32", "float32")
"""Types of arrays that go to the devices as they are."""

PARTIAL = ("point", "points")
"""Arrays in which NaN marks a missing value."""

FLOATS = (*PARTIAL, "count")
"""Answers that may be fractions."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Names that data sets give their splits, in any case."""


class Sealed:
    """The test split of a source: it opens once, for the final report.

    Training and selection are given a :class:`Source`, which offers the test examples through this
    object alone; whoever opens it does so in a line that a reader, or a test, can find.
    """

    def __init__(self, split: Split, classes: int):
        self._split: Split | None = split
        labels = np.asarray(split.get("label", np.zeros(0, np.int32)))
        self.counts = np.bincount(labels[labels >= 0], minlength=classes)
        """Examples of each class."""
        self.size = length(split)
        """The number of examples."""

    def verify(self) -> None:
        """Check that every image can be read, without keeping it: better now than at the end.

        Raises:
          DamagedFile: naming one that cannot.
        """
        for array in (self._split or {}).values():
            encoded.verify(array)

    def changed(self, change: Callable[[Split], Split]) -> "Sealed":
        """A sealed split of the same examples with arrays computed from theirs.

        Raises:
          ValueError: as ``change`` does, before anything is trained.
        """
        split, self._split = self._split, None
        assert split is not None, "it was opened, or changed, before"
        return Sealed(change(split), len(self.counts))

    def open(self) -> Split:
        """The test examples.

        Raises:
          RuntimeError: the second time.
        """
        if self._split is None:
            raise RuntimeError("the test split was read before: it is for the final report alone")
        split, self._split = self._split, None
        return split


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Source:
    """A data set. Labels index ``class_names``; where all of them are missing, or there are targets
    of another kind, there are no ``class_names``."""

    name: str
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]
    """The group of each class; empty where the data set has none."""
    splits: Mapping[str, Split]
    """The splits "train" and "validation"."""
    test: Sealed
    version: str = ""
    fingerprint: str = ""
    """Digest of the content of all splits."""
    omissions: str = ""
    """Files and splits that were not read: ``3 .heic, split extra``."""

    @property
    def labelled(self) -> bool:
        """Whether the data set has labels."""
        return bool(self.class_names)


def length(split: Split) -> int:
    """The number of examples."""
    return next(iter(split.values())).shape[0]


def take(split: Split, places: Int[np.ndarray, " m"]) -> Split:
    """Some of the examples."""
    return {name: encoded.take(array, places) for name, array in split.items()}


def end_to_end(
    sources: Mapping[str, Source],
) -> tuple[dict[tuple[str, str], Split], dict[tuple[str, str], np.ndarray]]:
    """The training and validation splits of several data sets, by data set and split, and the
    indices of each one's examples when they are concatenated.

    Raises:
      ValueError: if examples of one array differ in shape.
    """
    splits = {
        (name, split): part
        for name, source in sources.items()
        for split, part in source.splits.items()
    }
    shapes: dict[str, tuple[str, list[int]]] = {}
    for (name, _), part in splits.items():
        for array, values in part.items():
            shape = list(values.shape[1:])
            first_split, first_shape = shapes.setdefault(array, (name, shape))
            if shape != first_shape:
                raise ValueError(
                    f"{array} in {first_split} is {first_shape}, in {name} {shape}: networks are "
                    "trained on examples of one shape, so the options of both data sets must "
                    "agree in size"
                )
    return splits, ids_end_to_end(splits)


def ids_end_to_end(splits: Mapping[Any, Split]) -> dict[Any, Int32[np.ndarray, " _"]]:
    """The indices of each split's examples when the splits are concatenated."""
    sizes = list(map(length, splits.values()))
    ids = np.split(np.arange(sum(sizes), dtype=np.int32), np.cumsum(sizes)[:-1])
    return dict(zip(splits, ids, strict=True))


def make_source(
    name: str,
    class_names: tuple[str, ...],
    splits: Mapping[str, Split],
    *,
    class_groups: tuple[str, ...] = (),
    version: str = "",
    fingerprint: str | None = None,
    omissions: str = "",
    unlabelled: bool = False,
) -> Source:
    """A checked source of "train", "validation" and "test", the last one sealed.

    Args:
      fingerprint: digest of the data; by default that of the arrays.
      omissions: see :class:`Source`.
      unlabelled: whether some labels may be missing, -1; with no ``class_names`` all may.

    Raises:
      ValueError: one line naming the data set, the split, what is wrong and what is expected.
    """
    _check(name, class_names, class_groups, splits, unlabelled or not class_names)
    return Source(
        name,
        class_names,
        class_groups,
        {split: splits[split] for split in ("train", "validation")},
        Sealed(splits["test"], len(class_names)),
        version,
        digest_arrays(splits) if fingerprint is None else fingerprint,
        omissions,
    )


def split_of(name: str) -> str | None:
    """The split of a folder or an array, by its name, or None; see :data:`SPLIT_NAMES`."""
    plain = name.strip().casefold()
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def by_split(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Names by the split that they hold; names of no split are left out.

    Args:
      names: by name, the part of it that may name a split.
      prefix: prefix of an error's message.

    Raises:
      ValueError: if two names are of the same split.
    """
    names_by_split: dict[str, str] = {}
    for name, word in names.items():
        split = split_of(word)
        if split in names_by_split:
            raise ValueError(
                f"{prefix}: {names_by_split[split]} and {name} are both its {split} split, by "
                "their names: rename or remove one"
            )
        if split:
            names_by_split[split] = name
    return names_by_split


def printable(name: str) -> str:
    """A name that the file system gave, as text: bytes that are no UTF-8 are written ``\\xfc``.

    Without that, reports and tables (UTF-8) could not hold it.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def divide(
    parts: Mapping[str, Split], sizes: Mapping[str, float], seed: int, *, by_class: bool = True
) -> dict[str, Split]:
    """Take the splits that are missing from the training examples, class by class.

    Args:
      parts: "train", and those splits that are there.
      sizes: shares (below 1) of the training examples, or numbers of them, by split. What the
        first gets does not depend on the others: name "test" first.
      by_class: False takes examples at random, whatever their labels; so it is without labels.

    Raises:
      ValueError: for a share that is not above 0, or if a class has too few examples for that.
    """
    divided, total = dict(parts), length(parts["train"])
    for split, share in sizes.items():
        if split in parts:
            continue
        if not 0 < share < math.inf:
            raise ValueError(f"{split}={share}: this data set has none, so take some: above 0")
        train, size = divided["train"], length(divided["train"])
        count = round(share * total) if share < 1 else int(share)
        unit = "images" if "image" in train else "examples"
        if count >= size:
            raise ValueError(f"{split}={share} would take all {size} training {unit}")
        try:
            labels = train["label"] if by_class and "label" in train else np.zeros(size, np.int32)
            remaining, selection = stratified(np.asarray(labels), count, seed + (split == "test"))
        except ValueError as error:
            raise ValueError(f"{split}={share}, out of the training {unit}: {error}") from None
        divided["train"], divided[split] = take(train, remaining), take(train, selection)
    return divided


def _check(
    name: str,
    class_names: tuple[str, ...],
    class_groups: tuple[str, ...],
    splits: Mapping[str, Split],
    missing: bool,
) -> None:
    classes = len(class_names)
    twins = [n for n, times in Counter(class_names).items() if times > 1]
    if twins:
        raise ValueError(f"data set {name!r}: two classes have one name, {twins[0]!r}")
    if class_groups and len(class_groups) != classes:
        groups = len(class_groups)
        raise ValueError(
            f"data set {name!r}: {groups} class_groups for {classes} classes; give one each"
        )
    arrays = {split: sorted(columns) for split, columns in splits.items()}
    if len(set(map(tuple, arrays.values()))) > 1:
        raise ValueError(f"data set {name!r}: the splits have other arrays each, {arrays}")
    for array in next(iter(splits.values())):
        shapes = {split: columns[array].shape[1:] for split, columns in splits.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"data set {name!r}: {array} shapes differ between splits, {shapes}")
    for split, columns in splits.items():
        prefix = f"data set {name!r}, split {split!r}"
        n = length(columns)
        for array, column in columns.items():
            _check_array(prefix, array, column, n, missing)
        if n == 0:
            raise ValueError(f"{prefix}: no {'images' if 'image' in columns else 'examples'}")
        labels = np.asarray(columns.get("label", np.zeros(0, np.int32)))
        if missing:
            labels = labels[labels != -1]
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            span = f"{labels.min()}..{labels.max()}"
            raise ValueError(
                f"{prefix}: labels are {span}; {classes} classes need 0..{classes - 1}"
            )


def _check_array(prefix: str, name: str, array: Images, n: int, missing: bool) -> None:
    """Raise ValueError unless an array has ``n`` examples and values that networks accept."""
    dtype, shape = np.dtype(getattr(array, "dtype", np.uint8)), array.shape
    description = f"{dtype}{list(shape)}"
    if name == "image" and (dtype != np.uint8 or len(shape) != 4):
        raise ValueError(
            f"{prefix}: images are {description}; expected uint8 [n, height, width, channels]"
        )
    if name == "label" and (dtype != np.int32 or shape != (n,)):
        raise ValueError(f"{prefix}: labels are {description}; expected int32 [{n}]")
    if dtype.name not in DTYPES or not shape or shape[0] != n:
        raise ValueError(
            f"{prefix}: {name} is {description}; expected {', '.join(DTYPES)} [{n}, ...], a row an "
            "example"
        )
    if dtype != np.float32 or name in PARTIAL or (missing and name == "target"):
        return
    finite = np.isfinite(np.asarray(array)).reshape(n, -1).all(1)
    if not finite.all():
        index = np.argmin(finite)
        raise ValueError(f"{prefix}: {name} has NaN or infinities, first in example {index}")


def digest_arrays(splits: Mapping[str, Split]) -> str:
    """16 hexadecimal digits of a SHA-256 over every split's name and arrays, by their names."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for name in sorted(splits[split]):
            array = np.asarray(splits[split][name])
            if array.dtype == object:
                raise ValueError(f"{split}/{name} reads its rows: give make_source a fingerprint")
            digest.update(f"{split} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
