"""Data sets by name: ``load("tfds", dataset="mnist")``, ``load("folder", path="pictures")``."""

import inspect
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxdl.data import tables
from jaxdl.data.archive import npz
from jaxdl.data.builders import glyphs as _glyphs
from jaxdl.data.folder import folder
from jaxdl.data.prepared import prepared
from jaxdl.data.source import Source, make_source


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


def digits(seed: int = 0, *, size: int = 8, margin: int = 0, channels: int = 1) -> Source:
    """1,797 real handwritten digits, 8×8 grey, split 60/20/20 within each class.

    scikit-learn's `load_digits`: the test part of "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak 1998, UCI); grey values 0..16 are scaled to 0..255. `seed` draws the split.

    Args:
      size: the side to resize to, bilinearly.
      margin: black pixels on every side of that: the digits themselves fill their images.
      channels: 1, or 3 equal ones.
    """
    splits = _digits(seed, size)
    if not 0 <= margin <= 256:
        raise ValueError(f"margin={margin}: ask for 0 to 256 pixels")
    around = ((0, 0), (margin, margin), (margin, margin))
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: the digits are grey, 1, or grey in colour, 3")
    coloured = {
        split: {
            "image": np.repeat(np.pad(images, around)[..., None], channels, -1),
            "label": labels,
        }
        for split, (images, labels) in splits.items()
    }
    return make_source("digits", tuple("0123456789"), coloured)


def digits_m(seed: int = 0, *, size: int = 16, patches: int = 1) -> Source:
    """The same digits, each blended with a patch of one of the two photographs, a temple and a
    flower, that scikit-learn has: MNIST-M's recipe (:func:`jaxdl.data.builders.mnist_m.blend`), but
    with the digits' grey levels: enlarged from 8×8, "wherever there is ink" makes blots of them.

    Args:
      patches: how often each training digit comes, each time on another patch.
    """
    if patches < 1:
        raise ValueError(f"patches={patches}: each digit needs at least one")
    from sklearn.datasets import load_sample_images

    from jaxdl.data.builders.mnist_m import blend  # TFDS, which it imports, is slow to come

    # At half their size a patch shows more than one colour.
    photos = [np.asarray(Image.fromarray(photo).reduce(2)) for photo in load_sample_images().images]
    blended = {}
    for place, (split, (images, labels)) in enumerate(_digits(seed, size).items()):
        if split == "train":
            images, labels = np.tile(images, (patches, 1, 1)), np.tile(labels, patches)
        images = blend(images, photos, np.random.default_rng([seed, place]))
        blended[split] = {"image": images, "label": labels}
    return make_source("digits_m", tuple("0123456789"), blended)


def _digits(seed: int, size: int) -> dict[str, tuple[UInt8[np.ndarray, "n s s"], np.ndarray]]:
    """scikit-learn's digits by split."""
    from sklearn.datasets import load_digits  # slow to import, and only these sources need it

    if not 1 <= size <= 256:
        raise ValueError(f"size={size}: ask for 1 to 256 pixels")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    if size != 8:
        resize = [
            Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR) for i in images
        ]
        images = np.stack([np.asarray(image) for image in resize])
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
    return splits


SOURCES: dict[str, Callable[..., Source]] = {
    "glyphs": glyphs,
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
}
TRUTHS = {"sinusoid": tables.sinusoid_truth}
"""Of made-up tables: the targets without noise, by the features."""


def load(name: str, *, unlabelled: bool = False, **options) -> Source:
    """The source of that name, built with its function's options.

    Args:
      unlabelled: whether images without labels will do, of a source that may have such.

    Raises:
      ValueError: unknown name, options its function does not take, or data it cannot use.
      OSError: files that cannot be read.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known ones are {', '.join(SOURCES)}")
    signature = inspect.signature(SOURCES[name])
    if unlabelled and "unlabelled" in signature.parameters:
        options = {**options, "unlabelled": True}
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise ValueError(f"data set {name!r}: {error}; its options are ({takes})") from None
    return SOURCES[name](**options)
