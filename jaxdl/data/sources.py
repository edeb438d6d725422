"""Sources: labelled images in memory, with names and groups of their classes, already split.

A source is data and nothing else: `load("glyphs", train=25, validation=10, test=50)`, or a `Source`
of your own arrays, passed through `check`. None here needs a network.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int32, UInt8

from jaxdl.data.builders import glyphs as _glyphs

Split = tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Source:
    """Images 0..255 and labels of every split; labels index `class_names`."""

    name: str
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]  # the group of each class; empty where the data set has none
    splits: Mapping[str, Split]  # "train", "validation", "test"


def glyphs(train: int, validation: int, test: int, seed: int = 0) -> Source:
    """Characters in 20×20 grey: 48 letters, 48 symbols. Counts are images per class of each split.

    Raises:
      ValueError: a count is below 1.
    """
    counts = {"train": train, "validation": validation, "test": test}
    splits = {split: _glyphs.glyphs(split, n, seed=seed) for split, n in counts.items()}
    return Source("glyphs", _glyphs.CLASS_NAMES, _glyphs.CLASS_GROUPS, splits)


def digits(seed: int = 0) -> Source:
    """1,797 real handwritten digits, 8×8 grey, split 60/20/20 within each class.

    scikit-learn's `load_digits`: the test part of "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak 1998, UCI); grey values 0..16 are scaled to 0..255. `seed` draws the split.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    rng = np.random.default_rng(seed)
    parts = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        parts.append(np.split(members, [round(0.6 * len(members)), round(0.8 * len(members))]))
    splits = {}
    for split, chosen in zip(
        ("train", "validation", "test"), zip(*parts, strict=True), strict=True
    ):
        chosen = np.sort(np.concatenate(chosen))  # the data set's own order, which mixes classes
        splits[split] = (images[chosen], labels[chosen])
    return Source("digits", tuple("0123456789"), (), splits)


SOURCES: dict[str, Callable[..., Source]] = {"glyphs": glyphs, "digits": digits}


def load(name: str, **options) -> Source:
    """The source of that name, built with its function's options, and checked.

    Raises:
      ValueError: unknown name, options its function does not take, or data that `check` refuses.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known ones are {', '.join(SOURCES)}")
    signature = inspect.signature(SOURCES[name])
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise ValueError(f"data set {name!r}: {error}; its options are ({takes})") from None
    return check(SOURCES[name](**options))


def check(source: Source) -> Source:
    """The source itself, if its arrays are what `Source` promises.

    Raises:
      ValueError: one line naming the data set, the split, what is wrong and what is expected.
    """
    name, classes = source.name, len(source.class_names)
    if source.class_groups and len(source.class_groups) != classes:
        groups = len(source.class_groups)
        raise ValueError(
            f"data set {name!r}: {groups} class_groups for {classes} classes; give one each"
        )
    shapes = {split: images.shape[1:] for split, (images, _) in source.splits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"data set {name!r}: image shapes differ between splits, {shapes}")
    for split, (images, labels) in source.splits.items():
        where = f"data set {name!r}, split {split!r}"
        if images.dtype != np.uint8 or images.ndim != 4:
            found = f"{images.dtype}{list(images.shape)}"
            raise ValueError(
                f"{where}: images are {found}; expected uint8 [n, height, width, channels]"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            found = f"{labels.dtype}{list(labels.shape)}"
            raise ValueError(f"{where}: labels are {found}; expected int32 [{len(images)}]")
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            found = f"{labels.min()}..{labels.max()}"
            raise ValueError(
                f"{where}: labels are {found}; {classes} classes need 0..{classes - 1}"
            )
    return source


def fingerprint(source: Source) -> str:
    """16 hexadecimal digits of a SHA-256 over every split's name, shapes, images and labels."""
    digest = hashlib.sha256()
    for split in sorted(source.splits):
        images, labels = source.splits[split]
        for array in (images, labels):
            digest.update(f"{split} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
