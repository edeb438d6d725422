"""A folder with a sub-folder of image files for each class."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from jaxdl.data import imagenet
from jaxdl.data.encoded import Form, digest_files, encoded
from jaxdl.data.source import Source, divide, make_source

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class _Files:
    """A reader of files."""

    paths: tuple[str, ...]

    def __call__(self, place: int) -> tuple[bytes, str]:
        path = self.paths[place]
        return Path(path).read_bytes(), path


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
    ``test``, ``val`` or ``validation`` is (as in ImageNet, whose test labels are not public), else
    the validation split. What is not there is taken from the training images, class by class.

    Args:
      path: the folder.
      validation, test: shares (below 1) or numbers of images to take for these splits.
      seed: draws them.
      size, fit, channels: see :class:`jaxdl.data.encoded.Form`.
      unlabelled: whether images without labels will do: ``PATH/*.png``, ``PATH/train/*.png``.

    Raises:
      ValueError: no class folders, one without images, two with one name, a class in test that
        is not in train, images of several sizes or kinds.
      OSError: what cannot be read.
    """
    if not path:
        raise ValueError("which folder? Set path to one with a sub-folder of images for each class")
    root, form = Path(path).expanduser(), Form(size, fit, channels)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: set path to one with class sub-folders")
    whole = root / "train" if (root / "train").is_dir() else root
    bare = unlabelled and not _folders(whole) and bool(_pictures(whole))
    class_names = () if bare else _classes(whole)
    listed = {"train": _list(whole, class_names)}
    if whole != root:
        # ImageNet's own test folder has no classes: its labels are not public.
        beside = [root / name for name in ("test", "val", "validation")]
        content = _pictures if bare else _folders
        held_out = [f.name for f in beside if f.is_dir() and content(f)]
        for name, split in zip(held_out, ("test", "validation"), strict=False):
            listed[split] = _list(root / name, class_names)
    paths = [p for files, _ in listed.values() for p in files]
    content = digest_files(paths, root)
    read = _Files(tuple(map(str, paths)))
    images, parts, start = encoded(read, len(paths), form, content), {}, 0
    for split, (files, labels) in listed.items():
        parts[split] = (images.take(np.arange(start, start + len(files))), labels)
        start += len(files)
    splits = divide(parts, {"test": test, "validation": validation}, seed)
    return make_source(
        root.resolve().name,  # also of "."
        class_names,
        splits,
        class_groups=imagenet.GROUPS if imagenet.is_imagenet(class_names) else (),
        fingerprint=content,
    )


def _classes(where: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted."""
    names = _folders(where)
    if len(names) < 2:
        raise ValueError(
            f"{where} has {len(names)} class folders: it takes 2 or more to tell apart"
        )
    seen: dict[str, str] = {}
    for name in names:
        plain = " ".join(name.casefold().split())
        if plain in seen:
            raise ValueError(f"{where}: two classes with one name, {seen[plain]!r} and {name!r}")
        seen[plain] = name
    return tuple(names)


def _folders(where: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(where) if e.is_dir() and e.name[0] != ".")


def _pictures(where: Path) -> list[str]:
    """The paths of the image files in a folder, sorted."""
    return sorted(
        entry.path
        for entry in os.scandir(where)
        if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "." and not entry.is_dir()
    )


def _list(where: Path, class_names: tuple[str, ...]) -> tuple[list[Path], Int32[np.ndarray, " n"]]:
    """All image files in the order of classes and names, and their labels: -1 without classes."""
    if not class_names:
        paths = list(map(Path, _pictures(where)))
        return paths, np.full(len(paths), -1, np.int32)
    unknown = sorted(set(_classes(where)) - set(class_names))
    if unknown:
        raise ValueError(f"{where}: class {unknown[0]!r} is not among the training classes")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if not (where / name).is_dir():
            raise ValueError(f"{where}: there is no folder for class {name!r}")
        files = _pictures(where / name)
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"{where / name} has no images ({kinds}): add some or remove it")
        paths += map(Path, files)
        labels += [label] * len(files)
    return paths, np.array(labels, np.int32)
