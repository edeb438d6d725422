"""Data in NumPy's archives, ``.npz``."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Num, UInt8

from jaxdl.data.source import (
    FLOATS,
    Source,
    by_split,
    divide,
    make_source,
    printable,
    split_of,
)
from jaxdl.files import user_path
from jaxdl.types import DamagedFile


def npz(
    path: str = "",
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    channels: int = 0,
    unlabelled: bool = False,
    answers: Collection[str] = (),
) -> Source:
    """Arrays in NumPy's archive: ``train_images``, ``train_labels`` (or ``images``, ``labels``),
    and the same of ``test`` and ``validation`` where it has them.

    Case does not matter, nor which of :data:`jaxdl.data.source.SPLIT_NAMES` a split is called by:
    ``Val_images`` is accepted. Missing splits are taken from the training images.

    Images are [n, h, w] or [n, h, w, c], uint8, or floating-point numbers from 0 to 1 (rounded to
    256 levels, so that roundings beyond are no matter). Labels are integers from 0.
    ``class_names`` and ``class_groups``, a string a class, are optional.

    A study whose answers are others names their arrays: ``train_masks`` or ``train_mask`` is then
    the "mask" of the training images, row by row; labels are one of them, and any may be missing.

    Args:
      validation, test: shares (below 1) or numbers of images to take for splits that are missing.
      seed: seed of that choice.
      channels: 3: repeat grey images along the channel axis, as networks of photographs need them;
        0: keep the stored channels.
      unlabelled: whether images without labels are accepted: an archive of nothing but images.
      answers: the arrays that a study can use beside images, such as "mask"; empty for labels.

    Raises:
      DamagedFile: if it is no such archive.
      ValueError: an array is missing, or not what is said above; or one would not be read that is
        called as if it held images or, with ``answers``, any.
    """
    if not path:
        raise ValueError("which file? Set path to an .npz with train_images and train_labels")
    if channels not in (0, 3):
        raise ValueError(f"channels={channels} is not one of 0, 3")
    arrays = _plain_arrays(path)
    parts: Mapping[str, Mapping[str, np.ndarray]]
    if answers:
        parts = _read_answers(path, arrays, channels, answers)
    else:
        without_labels = unlabelled and all(name.casefold().endswith("images") for name in arrays)
        parts = {
            split: {
                "image": _pixels(path, images, arrays, channels),
                "label": _labels(
                    path, images if without_labels else labels, arrays, without_labels
                ),
            }
            for split, (images, labels) in _names(path, arrays).items()
        }
    for split, part in parts.items():
        for name, column in part.items():
            if len(column) != len(part["image"]):
                description = f"{len(part['image'])} images and {len(column)} {_plural(name)}"
                raise ValueError(
                    f"{path}: split {split!r} has {description}; expected a row an image"
                )
    labels = np.asarray(parts["train"].get("label", ()), np.int32)
    if "class_names" in arrays:
        names = _strings(path, "class_names", arrays)
    else:
        names = tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    empty = np.setdiff1d(np.arange(len(names)), labels)
    if len(empty) and not answers:  # as answers labels say what an image has, and all may have it
        raise ValueError(
            f"{path}: {len(names)} classes, by class_names or the highest label, but no training "
            f"image has label {empty[0]}"
        )
    groups = _strings(path, "class_groups", arrays) if "class_groups" in arrays else ()
    splits = divide(parts, {"test": test, "validation": validation}, seed)
    return make_source(printable(Path(path).stem), names, splits, class_groups=groups)


def _plain_arrays(path: str) -> dict[str, np.ndarray]:
    """All arrays of an archive; ValueError for arrays of objects, whose pickles could run any
    code."""
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
    """The names of a split's images and labels, by split; "train" is always there."""
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


def _read_answers(
    path: str, arrays: Mapping[str, np.ndarray], channels: int, answers: Collection[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Images and these answers by split; every array is read, or refused by its name."""
    names = ("image", *answers)
    words = {_plural(name).casefold(): name for name in names}
    words |= {name.casefold(): name for name in names}
    usable = [name if _plural(name) in answers else _plural(name) for name in names]
    split_words: dict[str, dict[str, str]] = {name: {} for name in names}
    for stored in sorted(arrays.keys() - {"class_names", "class_groups"}):
        split, _, word = stored.casefold().partition("_")
        if not split_of(split):
            split, word = "train", stored.casefold()
        if word not in words:
            raise ValueError(
                f"{path}: the array {stored} would not be read: this study can use "
                f"{', '.join(usable)}, each of train, test or validation as in train_images; "
                "rename it, name it in the study's settings, or leave it out"
            )
        split_words[words[word]][stored] = split
    by_split_name = {name: by_split(split_words[name], path) for name in names}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for split in ("train", "test", "validation"):
        stored_names = {n: x[split] for n, x in by_split_name.items() if split in x}
        if stored_names or split == "train":
            images = stored_names.pop("image", f"{split}_images")
            parts[split] = {"image": _pixels(path, images, arrays, channels)}
            for name, stored in stored_names.items():
                read = _labels if name == "label" else _numbers
                parts[split][name] = read(path, stored, arrays, name in FLOATS)
    return parts


def _plural(name: str) -> str:
    return name if name.endswith("s") else name + "s"


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


def _pixels(
    path: str, name: str, arrays: Mapping[str, np.ndarray], channels: int
) -> UInt8[np.ndarray, "n h w c"]:
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
    images = images if images.ndim == 4 else images[..., None]
    return np.repeat(images, 3, -1) if channels > images.shape[3] else images


def _labels(
    path: str, name: str, arrays: Mapping[str, np.ndarray], without_labels: bool
) -> Int32[np.ndarray, " n"]:
    """The labels of a name; with ``without_labels``, -1 for each image in the array of the name."""
    if without_labels:
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


def _numbers(
    path: str, name: str, arrays: Mapping[str, np.ndarray], fractional: bool
) -> Num[np.ndarray, "..."]:
    """Rows of that name as float32 where they may be fractions, else as uint8 or int32."""
    values = arrays[name]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    kinds = (np.integer, np.floating) if fractional else (np.integer,)
    if not values.ndim or not any(np.issubdtype(values.dtype, kind) for kind in kinds):
        description = f"{values.dtype}{list(values.shape)}"
        expected = "numbers" if fractional else "integers"
        raise ValueError(f"{path}: {name} is {description}; expected {expected}, a row an image")
    if fractional:
        return values.astype(np.float32)
    if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
        raise ValueError(f"{path}: {name} spans {values.min()} to {values.max()}; expected int32")
    return values if values.dtype == np.uint8 else values.astype(np.int32)
