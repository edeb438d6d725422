"""A folder with a sub-folder of image files for each class."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from jaxdl.data import imagenet
from jaxdl.data.encoded import Form, digest_files, encoded
from jaxdl.data.source import Source, Split, by_split, divide, make_source, printable, split_of
from jaxdl.files import user_path

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Suffixes of images that Pillow reads by itself: for others (``.eps``) it starts programs."""


@dataclasses.dataclass(frozen=True)
class _Files:
    """A reader of files."""

    paths: tuple[str, ...]

    def __call__(self, index: int) -> tuple[bytes, str]:
        path = self.paths[index]
        return Path(path).read_bytes(), printable(path)


def folder(
    path: str = "",
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    size: int = 0,
    fit: str = "crop",
    channels: int = 0,
    unlabelled: bool = False,
) -> Source:
    """Images in class sub-folders: ``PATH/CLASS/*.png``, or ``PATH/train/CLASS/*.png``.

    With a sub-folder ``train``, one called ``test`` beside it is the test split; without a
    ``test``, ``validation`` is (as in ImageNet, whose test labels are not public), else the
    validation split. Case does not matter, nor which of :data:`jaxdl.data.source.SPLIT_NAMES` a
    split is called by. Missing splits are taken from the training images, class by class. A
    ``train`` that holds images itself, beside others that do, is a class.

    Files that are no images by their suffix (:data:`SUFFIXES`) and folders in class folders are
    passed over, and counted in the source's ``omissions``; those whose names begin with a dot are
    not there at all.

    Args:
      path: the folder.
      validation, test: shares (below 1) or numbers of images to take for these splits.
      seed: seed of that choice.
      size, fit, channels: see :class:`jaxdl.data.encoded.Form`.
      unlabelled: whether images without labels are accepted: ``PATH/*.png``, ``PATH/train/*.png``.

    Raises:
      ValueError: no class folders, one without images, two with one name, a class in test that
        is not in train, images of several sizes or kinds; or a folder beside ``train`` that has
        images and is no split.
      OSError: what cannot be read.
    """
    if not path:
        raise ValueError("which folder? Set path to one with a sub-folder of images for each class")
    root, form = user_path(path), Form(size, fit, channels)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: set path to one with class sub-folders")
    without_classes: list[str] = []
    class_names: tuple[str, ...] = ()
    if not (split_folders := _bare_splits(root) if unlabelled else {}):
        split_folders, without_classes = _splits(root)
        class_names = _classes(split_folders["train"])
    omitted: Counter[str] = Counter()
    listing = {split: _list(f, class_names, omitted) for split, f in split_folders.items()}
    paths = [p for files, _ in listing.values() for p in files]
    content = digest_files(paths, root)
    read = _Files(tuple(map(str, paths)))
    images, start = encoded(read, len(paths), form, content), 0
    parts: dict[str, Split] = {}
    for split, (files, labels) in listing.items():
        places = np.arange(start, start + len(files))
        parts[split] = {"image": images.take(places), "label": labels}
        start += len(files)
    splits = divide(parts, {"test": test, "validation": validation}, seed)
    return make_source(
        printable(root.resolve().name),  # also of "."
        tuple(map(printable, class_names)),
        splits,
        class_groups=imagenet.GROUPS if imagenet.is_imagenet(class_names) else (),
        fingerprint=content,
        omissions=_omissions(omitted, without_classes),
    )


def _splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of class folders of every split, and the folders of splits that have none."""
    folders = {path.name: path for path in _folders(root)}
    train = [path for name, path in folders.items() if split_of(name) == "train"]
    unknown = [path for name, path in folders.items() if not split_of(name)]
    is_class = train and not any(map(_folders, train)) and any(map(_has_images, unknown))
    if is_class or not train:
        return {"train": root}, []
    for path in unknown:
        if _has_images(path) or any(map(_has_images, _folders(path))):
            raise ValueError(
                f"{path} has images that would not be read, for beside {train[0].name} there are "
                f"splits: rename it (test, validation) or move it out of {root}"
            )
    names = by_split({name: name for name in folders}, str(root))
    split_folders = {split: folders[name] for split, name in names.items()}
    # ImageNet's own test folder has no classes: its labels are not public.
    held_out = [
        split_folders[s]
        for s in ("test", "validation")
        if s in split_folders and _folders(split_folders[s])
    ]
    splits = {
        "train": split_folders["train"],
        **dict(zip(("test", "validation"), held_out, strict=False)),
    }
    return splits, [path.name for path in split_folders.values() if path not in splits.values()]


def _bare_splits(root: Path) -> dict[str, Path]:
    """The folder of images of every split where there are no classes; none where there are."""
    folders = {path.name: path for path in _folders(root)}
    if not folders:
        return {"train": root} if _has_images(root) else {}
    is_unlabelled = all(
        split_of(n) and _has_images(p) and not _folders(p) for n, p in folders.items()
    )
    names = by_split({name: name for name in folders}, str(root)) if is_unlabelled else {}
    return {split: folders[name] for split, name in names.items()} if "train" in names else {}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names' bytes, which no locale changes."""
    paths = [e.path for e in os.scandir(folder) if e.is_dir() and e.name[0] != "."]
    return list(map(Path, sorted(paths, key=os.fsencode)))


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(map(_is_image, entries))


def _is_image(entry: os.DirEntry) -> bool:
    is_named = entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "."
    return is_named and not entry.is_dir()


def _omissions(omitted: Counter[str], without_classes: list[str]) -> str:
    """The omissions in words: ``8 .heic, 3 folders in class folders, folder test without class
    folders``."""
    kinds = omitted.most_common(5)
    if rest := omitted.total() - sum(count for _, count in kinds):
        kinds.append(("others", rest))
    parts = [f"{count:,} {kind}" for kind, count in kinds]
    parts += [f"folder {name} without class folders" for name in without_classes]
    return printable(", ".join(parts))


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted."""
    names = [path.name for path in _folders(folder)]
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} class folders: it takes 2 or more to tell apart"
        )
    by_casefold: dict[str, str] = {}
    for name in names:
        key = " ".join(name.casefold().split())
        if key in by_casefold:
            raise ValueError(
                f"{folder}: two classes with one name, {by_casefold[key]!r} and {name!r}"
            )
        by_casefold[key] = name
    return tuple(names)


def _list(
    folder: Path, class_names: tuple[str, ...], omitted: Counter[str]
) -> tuple[list[Path], Int32[np.ndarray, " n"]]:
    """All image files in the order of classes and names, and their labels: -1 without classes.

    What else is there is counted, by its kind, in ``omitted``.
    """
    if not class_names:
        paths = _images(folder, omitted)
        return paths, np.full(len(paths), -1, np.int32)
    unknown = sorted(set(_classes(folder)) - set(class_names))
    if unknown:
        raise ValueError(f"{folder}: class {unknown[0]!r} is not among the training classes")
    with os.scandir(folder) as entries:
        if loose := sum(map(_is_image, entries)):
            omitted["images in no class folder"] += loose
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            raise ValueError(f"{folder}: there is no folder for class {name!r}")
        files = _images(folder / name, omitted)
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"{folder / name} has no images ({kinds}): add some or remove it")
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, np.int32)


def _images(folder: Path, omitted: Counter[str]) -> list[Path]:
    """The image files in a folder, by name; what else is there is counted in ``omitted``."""
    files = []
    for entry in os.scandir(folder):
        if _is_image(entry):
            files.append(entry.path)
        elif entry.name[0] != ".":
            omitted[_kind(entry)] += 1
    return list(map(Path, sorted(files, key=os.fsencode)))


def _kind(entry: os.DirEntry) -> str:
    if entry.is_dir():
        return "folders in class folders"
    return Path(entry.name).suffix.lower() or "without a suffix"
