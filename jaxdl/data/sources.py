"""Data sets by name: ``load("tfds", dataset="mnist")``, ``load("folder", path="pictures")``."""

import inspect
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdl.data import tables
from jaxdl.data.annotated import bccd, drive
from jaxdl.data.archive import npz
from jaxdl.data.builders import cells as _cells
from jaxdl.data.builders import fundus as _fundus
from jaxdl.data.builders import glyphs as _glyphs
from jaxdl.data.folder import folder
from jaxdl.data.prepared import prepared
from jaxdl.data.source import Source, Split, make_source


def glyphs(train: int, validation: int, test: int, seed: int = 0) -> Source:
    """Characters in 20×20 grey: 48 letters, 48 symbols. Counts are images per class of each split.

    Raises:
      ValueError: a count is below 1.
    """
    counts = {"train": train, "validation": validation, "test": test}
    examples = {split: _glyphs.glyphs(split, n, seed=seed) for split, n in counts.items()}
    splits = {
        split: {"image": images, "label": labels} for split, (images, labels) in examples.items()
    }
    return make_source(
        "glyphs",
        _glyphs.CLASS_NAMES,
        splits,
        class_groups=_glyphs.CLASS_GROUPS,
        version=str(_glyphs.RECIPE),
    )


def fundus(
    train: int = 1000, validation: int = 200, test: int = 500, *, size: int = 64, seed: int = 0
) -> Source:
    """Drawn photographs of the retina: whether the macula is visible ("label"), where ("point",
    "mask"), the "vessels" and the "field" of view; see
    :func:`jaxdl.data.builders.fundus.make_fundus`.

    Args:
      train, validation, test: numbers of images.
      size: their side in pixels.

    Raises:
      ValueError: a count is below 1, or ``size`` below 16.
    """
    splits = _drawn(partial(_fundus.make_fundus, size=size), train, validation, test, seed)
    return make_source("fundus", _fundus.CLASS_NAMES, splits, version=str(_fundus.RECIPE))


def cells(
    train: int = 1000,
    validation: int = 200,
    test: int = 500,
    *,
    size: int = 64,
    crowding: float = 0.5,
    seed: int = 0,
) -> Source:
    """Drawn blood smears: "instances" of red cells, their "points" and their "count"; see
    :func:`jaxdl.data.builders.cells.make_cells`.

    Args:
      train, validation, test: numbers of images.
      size: their side in pixels.
      crowding: the area of all red cells over that of the image, on average.

    Raises:
      ValueError: a count is below 1, ``size`` below 16, or ``crowding`` not in 0.1 … 3.
    """
    draw = partial(_cells.make_cells, size=size, crowding=crowding)
    splits = _drawn(draw, train, validation, test, seed)
    return make_source("cells", (), splits, version=str(_cells.RECIPE))


def _drawn(
    draw: Callable[[int, tuple[int, int]], Split], train: int, validation: int, test: int, seed: int
) -> dict[str, Split]:
    """Splits of these numbers of images, each drawn by ``draw(count, seed)``."""
    counts = {"train": train, "validation": validation, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"{split}={count}: ask for 1 image or more")
    return {
        split: draw(count, (seed, number)) for number, (split, count) in enumerate(counts.items())
    }


def digits(
    seed: int = 0, *, size: int = 8, margin: int = 0, channels: int = 1, positions: int = 1
) -> Source:
    """1,797 real handwritten digits, 8×8 grey, split 60/20/20 within each class.

    scikit-learn's `load_digits`: the test part of "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak 1998, UCI); grey values 0..16 are scaled to 0..255. `seed` draws the split.

    Args:
      size: the side to resize to, bilinearly.
      margin: black pixels on every side of that: the digits themselves fill their images.
      channels: 1, or 3 equal ones.
      positions: each digit comes so many times, at neighbouring places along the width, and is
        narrower by one pixel for each beyond the first (LeCun 1989 has 4, of 13 x 16 pixels in
        16 x 16).

    Raises:
      ValueError: for a number that is out of its range.
    """
    if not 1 <= positions <= max(1, size):
        raise ValueError(f"positions={positions}: ask for 1 to size={size}")
    splits = _digits(seed, size, margin, size - positions + 1)
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: the digits are grey, 1, or grey in colour, 3")
    coloured = {
        split: {
            "image": np.repeat(_shifted(images, positions)[..., None], channels, -1),
            "label": np.repeat(labels, positions),
        }
        for split, (images, labels) in splits.items()
    }
    return make_source("digits", tuple("0123456789"), coloured)


def digits_m(
    seed: int = 0, *, size: int = 16, margin: int = 0, patches: int = 1, channels: int = 3
) -> Source:
    """scikit-learn's digits, each blended with a patch of one of its two photographs, a temple and
    a flower: MNIST-M's recipe (:func:`jaxdl.data.builders.mnist_m.blend`), but with the digits'
    grey levels: enlarged from 8×8, "wherever there is ink" makes blots of them.

    Args:
      size, margin: see :func:`digits`.
      patches: number of copies of each training digit, each on another patch.
      channels: 3, or 1 for grey, their mean.
    """
    if patches < 1:
        raise ValueError(f"patches={patches}: each digit needs at least one")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: the photographs are in colour, 3, or grey, 1")
    from sklearn.datasets import load_sample_images

    from jaxdl.data.builders.mnist_m import blend  # TFDS, which it imports, is slow to come

    # At half their size a patch shows more than one colour.
    photos = [np.asarray(Image.fromarray(photo).reduce(2)) for photo in load_sample_images().images]
    splits = {}
    for number, (split, (images, labels)) in enumerate(_digits(seed, size, margin).items()):
        if split == "train":
            images, labels = np.tile(images, (patches, 1, 1)), np.tile(labels, patches)
        images = blend(images, photos, np.random.default_rng([seed, number]))
        if channels == 1:
            images = images.mean(-1, keepdims=True).astype(np.uint8)
        splits[split] = {"image": images, "label": labels}
    return make_source("digits_m", tuple("0123456789"), splits)


def _shifted(images: UInt8[np.ndarray, "n h w"], positions: int) -> UInt8[np.ndarray, "_ h _"]:
    """Each image at all places along a width that is greater by ``positions - 1`` black pixels."""
    spare = positions - 1
    places = [np.pad(images, ((0, 0), (0, 0), (left, spare - left))) for left in range(positions)]
    return np.stack(places, 1).reshape(-1, images.shape[1], images.shape[2] + spare)


def _digits(
    seed: int, size: int, margin: int, width: int | None = None
) -> dict[str, tuple[UInt8[np.ndarray, "n h w"], np.ndarray]]:
    """scikit-learn's digits by split; ``width`` in pixels if that is not the ``size``."""
    from sklearn.datasets import load_digits  # slow to import, and only these sources need it

    if not 1 <= size <= 256:
        raise ValueError(f"size={size}: ask for 1 to 256 pixels")
    if not 0 <= margin <= 256:
        raise ValueError(f"margin={margin}: ask for 0 to 256 pixels")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    shape = (width or size, size)
    if shape != (8, 8):
        resize = [Image.fromarray(i).resize(shape, Image.Resampling.BILINEAR) for i in images]
        images = np.stack([np.asarray(image) for image in resize])
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    labels = labels.astype(np.int32)
    rng = np.random.default_rng(seed)
    parts = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        parts.append(np.split(members, [round(0.6 * len(members)), round(0.8 * len(members))]))
    splits = {}
    for split, ids in zip(("train", "validation", "test"), zip(*parts, strict=True), strict=True):
        ids = np.sort(np.concatenate(ids))  # the data set's own order, which mixes classes
        splits[split] = (images[ids], labels[ids])
    return splits


SOURCES: dict[str, Callable[..., Source]] = {
    "glyphs": glyphs,
    "fundus": fundus,
    "cells": cells,
    "digits": digits,
    "digits_m": digits_m,
    "iris": tables.iris,
    "wine": tables.wine,
    "breast_cancer": tables.breast_cancer,
    "diabetes": tables.diabetes,
    "table": tables.table,
    "sinusoid": tables.sinusoid,
    "interlaced": tables.interlaced,
    "imbalanced": tables.imbalanced,
    "latent": tables.latent,
    "tfds": prepared,
    "folder": folder,
    "npz": npz,
    "drive": drive,
    "bccd": bccd,
}
TRUTHS = {"sinusoid": tables.sinusoid_truth}
"""Noise-free targets of synthetic tables, as functions of the features."""


def load(
    name: str, *, unlabelled: bool = False, answers: Collection[str] = (), **options
) -> Source:
    """The source of a name, with options of its function.

    Args:
      unlabelled: whether images without labels are accepted, of a source that may have such.
      answers: the arrays to learn from, of a source that may have other answers than labels.

    Raises:
      ValueError: unknown name, options its function does not take, or data it cannot use.
      OSError: files that cannot be read.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known ones are {', '.join(SOURCES)}")
    signature = inspect.signature(SOURCES[name])
    needs = {"unlabelled": unlabelled, "answers": answers}
    options |= {need: x for need, x in needs.items() if x and need in signature.parameters}
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise ValueError(f"data set {name!r}: {error}; its options are ({takes})") from None
    return SOURCES[name](**options)
