"""Data sets by name: ``load("tfds", dataset="mnist")``, ``load("folder", path="pictures")``."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from jaxdl.data.builders import glyphs as _glyphs
from jaxdl.data.folder import folder
from jaxdl.data.prepared import prepared
from jaxdl.data.source import Source, by_split, divide, make_source, printable, split_of
from jaxdl.files import user_path
from jaxdl.types import DamagedFile


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


def digits(seed: int = 0, *, size: int = 8, channels: int = 1) -> Source:
    """1,797 real handwritten digits, 8×8 grey, split 60/20/20 within each class.

    scikit-learn's `load_digits`: the test part of "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak 1998, UCI); grey values 0..16 are scaled to 0..255. `seed` draws the split.

    Args:
      size: the side to resize to, bilinearly.
      channels: 1, or 3 equal ones.
    """
    splits = _digits(seed, size)
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: the digits are grey, 1, or grey in colour, 3")
    coloured = {
        split: {"image": np.repeat(images[..., None], channels, -1), "label": labels}
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


def iris(seed: int = 0) -> Source:
    """150 flowers of 3 species by 4 lengths in cm (Fisher 1936)."""
    from sklearn.datasets import load_iris

    return _table("iris", load_iris(), seed)


def wine(seed: int = 0) -> Source:
    """178 wines of 3 growers by 13 chemical measurements (Forina et al. 1991)."""
    from sklearn.datasets import load_wine

    return _table("wine", load_wine(), seed)


def breast_cancer(seed: int = 0) -> Source:
    """569 tumours, malignant or benign, by 30 measurements of their cells (Street et al. 1993)."""
    from sklearn.datasets import load_breast_cancer

    return _table("breast_cancer", load_breast_cancer(), seed)


def diabetes(seed: int = 0) -> Source:
    """442 patients by 10 measurements, and as target how far the disease has come after a year,
    25 to 346 (Efron et al. 2004). The features are scikit-learn's, of mean 0 and norm 1."""
    from sklearn.datasets import load_diabetes

    return _table("diabetes", load_diabetes(), seed)


def _table(name: str, table: Mapping, seed: int) -> Source:
    """One of scikit-learn's tables, split 60/20/20 at random, within each class if it has any.

    ``features`` [n, d] are as they come, not standardized; with them ``label`` or ``target``.
    """
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


def npz(
    path: str = "",
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    unlabelled: bool = False,
) -> Source:
    """Arrays in NumPy's archive: ``train_images``, ``train_labels`` (or ``images``, ``labels``),
    and the same of ``test`` and ``validation`` where it has them.

    Case does not matter, nor which of :data:`jaxdl.data.source.SPLIT_NAMES` a split is called by:
    ``Val_images`` will do. Splits that are missing are taken from the training images.

    Images are [n, h, w] or [n, h, w, c], uint8, or floating-point numbers from 0 to 1 (rounded to
    256 levels, so that roundings beyond are no matter). Labels are integers from 0.
    ``class_names`` and ``class_groups``, a string a class, are optional.

    Args:
      validation, test: shares (below 1) or numbers of images to take for splits that are missing.
      seed: draws them.
      unlabelled: whether images without labels will do: an archive of nothing but images.

    Raises:
      DamagedFile: if it is no such archive.
      ValueError: an array is missing, or not what is said above; or one is called as if it held
        images, and would not be read.
    """
    if not path:
        raise ValueError("which file? Set path to an .npz with train_images and train_labels")
    arrays = _plain_arrays(path)
    bare = unlabelled and all(name.casefold().endswith("images") for name in arrays)
    parts = {
        split: {
            "image": _pixels(path, images, arrays),
            "label": _labels(path, images if bare else labels, arrays, bare),
        }
        for split, (images, labels) in _names(path, arrays).items()
    }
    if "class_names" in arrays:
        names = _strings(path, "class_names", arrays)
    else:
        names = tuple(map(str, range(int(parts["train"]["label"].max(initial=-1)) + 1)))
    for split, part in parts.items():
        if len(part["image"]) != len(part["label"]):
            description = f"{len(part['image'])} images and {len(part['label'])} labels"
            raise ValueError(
                f"{path}: split {split!r} has {description}; expected a label an image"
            )
    empty = np.setdiff1d(np.arange(len(names)), parts["train"]["label"])
    if len(empty):
        raise ValueError(
            f"{path}: {len(names)} classes, by class_names or the highest label, but no training "
            f"image has label {empty[0]}"
        )
    groups = _strings(path, "class_groups", arrays) if "class_groups" in arrays else ()
    splits = divide(parts, {"test": test, "validation": validation}, seed)
    return make_source(printable(Path(path).stem), names, splits, class_groups=groups)


def _plain_arrays(path: str) -> dict[str, np.ndarray]:
    """All of an archive; ValueError for arrays of objects, whose pickles could run any code."""
    arrays, objects, file = {}, [], user_path(path)
    try:
        with file.open("rb") as stream, np.load(stream) as stored:
            for name in stored.files:
                try:
                    content = stored[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    objects.append(name)
                else:
                    if isinstance(content, np.ndarray):  # archives can hold anything beside
                        arrays[name] = content
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged file can make the reader raise nearly anything
        raise DamagedFile(
            f"{path}: not a whole .npz of plain arrays ({type(error).__name__}): write it again "
            "with np.savez"
        ) from None
    if objects:
        raise ValueError(
            f"{path}: {', '.join(objects)} holds Python objects, which are not read since they "
            "could run any code: save numbers or strings (astype) in its place, or leave it out"
        )
    return arrays


def _names(path: str, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """What a split's images and labels are called, by split; "train" is always there."""
    by_kind = {}
    for kind in ("images", "labels"):
        words = {n: n[: -len(kind)].rstrip("_") for n in arrays if n.casefold().endswith(kind)}
        by_kind[kind] = by_split({n: word or "train" for n, word in words.items()}, path)
    names = {}
    for split in ("train", "test", "validation"):
        images, labels = by_kind["images"].get(split), by_kind["labels"].get(split)
        if split == "train" or images or labels:
            # One that is missing is asked for by a name like the other's.
            images = images or (labels or "train_labels")[: -len("labels")] + "images"
            names[split] = images, labels or images[: -len("images")] + "labels"
    # Images that look held out are not passed over: training images would take their place.
    for name in sorted(arrays.keys() - {images for images, _ in names.values()}):
        held_out = {split_of(word) for word in name.split("_")} & {"test", "validation"}
        if name.casefold().endswith("images") or (held_out and np.ndim(arrays[name]) > 2):
            raise ValueError(
                f"{path}: the array {name} would not be read: call it train_images, test_images or "
                "validation_images, with labels called alike, or leave it out"
            )
    return names


def _array(path: str, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{path} has no array {name}, but {', '.join(sorted(arrays)) or 'none'}")
    return arrays[name]


def _strings(path: str, name: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    strings = arrays[name]
    if strings.ndim != 1:
        shape = list(strings.shape)
        raise ValueError(f"{path}: {name} is {shape}; expected one row, a string a class")
    return tuple(strings.astype(str).tolist())


def _pixels(path: str, name: str, arrays: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "n h w c"]:
    images = _array(path, name, arrays)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        shape = list(images.shape)
        raise ValueError(f"{path}: {name} is {shape}; expected [n, h, w] or [n, h, w, 1 or 3]")
    if np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all():
            bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
            raise ValueError(f"{path}: {name} has NaN or infinities, first in image {bad[0]}")
        levels = np.rint(images * 255)  # of fractions a rounding beyond 0 and 1, too
        if images.size and (levels.min() < 0 or levels.max() > 255):
            span = f"{images.min():g} to {images.max():g}"
            raise ValueError(f"{path}: {name} spans {span}; fractions must lie in 0 to 1")
        images = levels.astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: {name} is {images.dtype}; expected uint8, or floats 0 to 1")
    return images if images.ndim == 4 else images[..., None]


def _labels(
    path: str, name: str, arrays: Mapping[str, np.ndarray], bare: bool
) -> Int32[np.ndarray, " n"]:
    """The labels of that name; with ``bare``, -1 for each of the images of that name."""
    if bare:
        return np.full(len(arrays[name]), -1, np.int32)
    labels = _array(path, name, arrays)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        description = f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"{path}: {name} is {description}; expected integers, one an image")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**31):
        raise ValueError(
            f"{path}: {name} spans {labels.min()} to {labels.max()}; labels begin at 0"
        )
    return labels.astype(np.int32)


SOURCES: dict[str, Callable[..., Source]] = {
    "glyphs": glyphs,
    "digits": digits,
    "digits_m": digits_m,
    "iris": iris,
    "wine": wine,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "tfds": prepared,
    "folder": folder,
    "npz": npz,
}


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
