"""Photographs whose answers are drawn on them: the vessels of DRIVE, the cells of BCCD."""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxdl.data.encoded import Form, decode, digest_files
from jaxdl.data.folder import SUFFIXES
from jaxdl.data.source import Source, divide, make_source, printable, split_of
from jaxdl.files import user_path
from jaxdl.types import DamagedFile

DRIVE_FOLDERS = {"image": "images", "vessels": "1st_manual", "field": "mask"}
"""Where DRIVE has the photographs, the vessels by its first observer and the field of view."""

BCCD_COLUMNS = ("image", "split", "kind", "left", "top", "right", "bottom")
BCCD_KINDS = ("RBC", "WBC", "Platelets")


def drive(path: str = "", *, validation: float = 0.2, seed: int = 0, size: int = 0) -> Source:
    """DRIVE (Staal et al. 2004): photographs of the retina, and its vessels by hand.

    The folder is as published: ``PATH/{training,test}/{images,1st_manual,mask}``, files that belong
    together beginning with the same number and an underscore. The splits are the published ones,
    20 and 20; the validation split is taken from "training".

    Its arrays are "image", uint8 [n, h, w, 3], and "vessels" and "field" (of view), uint8
    [n, h, w], 0 or 1.

    Args:
      path: the folder.
      validation: the share (below 1) or number of training images to validate by.
      seed: draws them.
      size: the side of squares to which photographs are reduced, black where they have nothing; a
        pixel is of a vessel, or in the field, that covers a third of it, as in drawn fundi. 0 keeps
        photographs as they are.

    Raises:
      ValueError: a folder is missing, a mask has no image or an image no mask, sizes differ, or
        photographs would be enlarged.
      DamagedFile: a file is no whole image, or no mask with two grey levels.
    """
    if not path:
        raise ValueError("which folder? Set path to DRIVE's, with training and test in it")
    root = user_path(path)
    parts, files = {}, []
    for split, folder in {"train": "training", "test": "test"}.items():
        paths = {name: _numbered(root / folder / sub) for name, sub in DRIVE_FOLDERS.items()}
        for name in ("vessels", "field"):
            _check_pairs(root / folder, paths["image"], paths[name], DRIVE_FOLDERS[name])
        rows = sorted(paths["image"])
        images = _stack([paths["image"][row] for row in rows])
        parts[split] = {"image": images} | {
            name: np.stack(
                [_mask(paths[name][row], paths["image"][row], images.shape[1:3]) for row in rows]
            )
            for name in ("vessels", "field")
        }
        if size > max(images.shape[1:3]):
            height, width = images.shape[1:3]
            raise ValueError(f"size={size}: photographs are {height} x {width}, and not enlarged")
        if size:
            parts[split] = {"image": _squares(images, size)} | {
                name: (_squares(255 * parts[split][name], size) >= 255 / 3).astype(np.uint8)
                for name in ("vessels", "field")
            }
        files += [paths[name][row] for name in DRIVE_FOLDERS for row in rows]
    splits = divide(parts, {"validation": validation}, seed)
    return make_source("drive", (), splits, fingerprint=digest_files(files, root))


def bccd(path: str = "", *, reduce: int = 1, least: int = 0) -> Source:
    """BCCD: blood smears, and where their red cells are.

    The folder has the images and ``boxes.csv``, whose columns are :data:`BCCD_COLUMNS`: a box, in
    pixels, a line, and the image's split.

    Its arrays are "image", uint8 [n, h, w, 3]; "points", float32 [n, most, 2], the row and column
    of the middle of each red cell's box, NaN beyond their number; and "count", float32 [n], that
    number.

    Args:
      path: the folder.
      reduce: images are made smaller by this factor, a pixel the mean of so many by so many.
      least: images with fewer boxes of red cells are left out. With 1 these are the 15 in which
        red cells are to be seen, and none has a box.

    Raises:
      ValueError: there is no ``boxes.csv``, a split is missing, images differ in size, or none is
        left.
      DamagedFile: a line of the table is no box, or a file no whole image.
    """
    if not path:
        raise ValueError("which folder? Set path to BCCD's, with its images and boxes.csv")
    root = user_path(path)
    table = root / "boxes.csv"
    if not table.is_file():
        raise ValueError(f"{root}: there is no boxes.csv; set path to a folder that has one")
    points: dict[str, list[tuple[float, float]]] = {}
    split_by_image: dict[str, str] = {}
    omitted: Counter[str] = Counter()
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := set(BCCD_COLUMNS) - set(reader.fieldnames or ()):
            raise DamagedFile(f"{table}: it has no column {', '.join(sorted(missing))}")
        for row in reader:
            try:
                image, split, centre = _box(row)
                if split_by_image.setdefault(image, split) != split:
                    raise ValueError(f"{image} is in {split_by_image[image]}, too")
            except ValueError as error:
                raise DamagedFile(f"{table}, line {reader.line_num}: {error}") from None
            red = points.setdefault(image, [])
            if centre is None:
                omitted["boxes with nothing in them"] += 1
            elif row["kind"] == "RBC":
                red.append(centre)
    if absent := set(("train", "validation", "test")) - set(split_by_image.values()):
        raise ValueError(f"{table}: no image is in split {', '.join(sorted(absent))}")
    files = [root / image for image in points]
    for image_file in files:
        if not image_file.is_file():
            raise ValueError(f"{table} has boxes for {image_file.name}, and {root} no such file")
    if not 1 <= reduce <= 8:
        raise ValueError(f"reduce={reduce}: ask for a factor from 1 to 8")
    images = np.stack([np.asarray(Image.fromarray(x).reduce(reduce)) for x in _stack(files)])
    most = max(map(len, points.values()))
    columns = {
        "image": images,
        "points": (np.stack([_padded(p, most) for p in points.values()]) + 0.5) / reduce - 0.5,
        "count": np.array(list(map(len, points.values())), np.float32),
    }
    names, enough = np.array(list(split_by_image.values())), columns["count"] >= least
    rows = {split: enough & (names == split) for split in ("train", "validation", "test")}
    if empty := [split for split, chosen in rows.items() if not chosen.any()]:
        raise ValueError(f"least={least}: no image of split {empty[0]} has so many boxes")
    splits = {
        split: {name: column[chosen] for name, column in columns.items()}
        for split, chosen in rows.items()
    }
    omitted[f"images with fewer than {least} boxes of red cells"] = int(np.sum(~enough))
    omitted["images without a box"] = len(set(filter(_is_image, root.iterdir())) - set(files))
    omissions = ", ".join(f"{n} {problem}" for problem, n in omitted.items() if n)
    fingerprint = digest_files([table, *files], root)
    return make_source("bccd", (), splits, fingerprint=fingerprint, omissions=omissions)


def _box(row: Mapping[Any, Any]) -> tuple[str, str, tuple[float, float] | None]:
    """The image of a line, its split, and the row and column of the box's middle: None if nothing
    is in the box, as in two lines of the published table."""
    split = split_of(row["split"] or "")
    if split is None:
        raise ValueError(f"{row['split']!r} is no split; it may be train, val or test")
    if row["kind"] not in BCCD_KINDS:
        raise ValueError(f"{row['kind']!r} is none of {', '.join(BCCD_KINDS)}")
    try:
        left, top, right, bottom = (float(row[side]) for side in BCCD_COLUMNS[3:])
    except (TypeError, ValueError):
        raise ValueError("left, top, right and bottom are not four numbers") from None
    if not (0 <= left <= right < np.inf and 0 <= top <= bottom < np.inf):
        raise ValueError(f"{left:g}, {top:g} to {right:g}, {bottom:g} is no box")
    if left == right or top == bottom:
        return row["image"], split, None
    return row["image"], split, ((top + bottom) / 2, (left + right) / 2)


def _padded(points: list[tuple[float, float]], most: int) -> Float32[np.ndarray, "most 2"]:
    padded = np.full((most, 2), np.nan, np.float32)
    padded[: len(points)] = np.reshape(points, (-1, 2))
    return padded


def _squares(
    images: UInt8[np.ndarray, "n h w *c"], size: int
) -> UInt8[np.ndarray, "n {size} {size} *c"]:
    """Images filled up to squares with 0, each pixel of the smaller ones the mean of those that it
    covers."""
    h, w = images.shape[1:3]
    margins = [((max(h, w) - side) // 2, (max(h, w) - side + 1) // 2) for side in (h, w)]
    squares = np.pad(images, [(0, 0), *margins] + [(0, 0)] * (images.ndim - 3))
    reduced = [Image.fromarray(x).resize((size, size), Image.Resampling.BOX) for x in squares]
    return np.stack([np.asarray(x) for x in reduced])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _numbered(folder: Path) -> dict[str, Path]:
    """The image files in a folder, by what is before the first underscore of their names."""
    if not folder.is_dir():
        subs = ", ".join(DRIVE_FOLDERS.values())
        problem = f"there is no folder {folder}: set path to DRIVE's"
        raise ValueError(f"{problem}, with {subs} in training and in test")
    paths: dict[str, Path] = {}
    for path in sorted(filter(_is_image, folder.iterdir())):
        number = path.stem.split("_")[0]
        if number in paths:
            raise ValueError(f"{path} and {paths[number].name} both begin with {number}")
        paths[number] = path
    if not paths:
        raise ValueError(f"{folder}: there are no images in it")
    return paths


def _check_pairs(folder: Path, images: dict[str, Path], masks: dict[str, Path], name: str) -> None:
    """Raise ValueError unless every image has a mask and every mask an image."""
    for files, partners, kind, where in (
        (masks, images, "image", "images"),
        (images, masks, "mask", name),
    ):
        for number in sorted(set(files) - set(partners)):
            raise ValueError(
                f"{files[number]} has no {kind}: none in {folder / where} begins with {number}_"
            )


def _stack(paths: list[Path]) -> UInt8[np.ndarray, "n h w 3"]:
    """The images in files, in colour, which must be of one size."""
    images = [_decode(path, 3) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{path}: the image is {_size(image)}, {paths[0].name} {_size(images[0])}; all "
                "must be of one size"
            )
    return np.stack(images)


def _mask(path: Path, image: Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    """A mask in a file: 1 where it is not black."""
    mask = _decode(path, 1)[..., 0]
    if mask.shape != size:
        height, width = size
        raise ValueError(
            f"{path}: the mask is {_size(mask)}, its image {image.name} "
            f"{width}×{height}; they must be of one size"
        )
    levels = np.unique(mask)
    if len(levels) > 2 or levels[0] != 0:
        raise DamagedFile(
            f"{path}: a mask has two grey levels, one of them 0, and this has "
            f"{len(levels)}, from {levels[0]} to {levels[-1]}"
        )
    if len(levels) == 1:
        raise DamagedFile(f"{path}: the mask is empty: nothing in it is marked")
    return (mask > 0).astype(np.uint8)


def _decode(path: Path, channels: int) -> UInt8[np.ndarray, "h w c"]:
    return decode(path.read_bytes(), printable(str(path)), Form(channels=channels))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
