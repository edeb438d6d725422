"""Masks and what else is learnt from pictures: checked, made of each other, and damaged.

A mask has 1 where something is, 0 where it is not, and 255 (or -1) where that is not known.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxdl.data.encoded import in_memory
from jaxdl.data.source import Source, Split

MISSING = 255
Damage = tuple[str, float]
"""A word of :data:`DAMAGES`, empty for none, and how much."""


def check_masks(
    images: tuple[int, ...], masks: Integer[np.ndarray, "n ..."], prefix: str, *, filled: bool
) -> None:
    """Raise ValueError, in one line, for masks that cannot be learnt from.

    Args:
      images: their shape, [n, height, width, channels].
      prefix: prefix of the message.
      filled: whether every mask must have something in it; else one of all.
    """
    if masks.shape != images[:3]:
        raise ValueError(
            f"{prefix}: masks are {list(masks.shape)}, images {list(images)}: a mask has the "
            "height and width of its image"
        )
    classes = [c for c in np.unique(masks).tolist() if c not in (-1, 0, 1, MISSING)]
    if classes:
        example = int(np.argmax((masks == classes[0]).any((1, 2))))
        raise ValueError(
            f"{prefix}: the mask of example {example} has pixels of class {classes[0]}: expected 0 "
            "and 1, and 255 or -1 where it is not known"
        )
    empty = ~(masks == 1).any((1, 2))
    if empty.all() and (masks == MISSING).any():
        raise ValueError(
            f"{prefix}: masks have no pixel of 1, but of 255, which means that it is not known: "
            "where 255 is something, divide by 255"
        )
    if filled and empty.any():
        raise ValueError(
            f"{prefix}: the mask of example {int(np.argmax(empty))} is empty, with no pixel of "
            "class 1: leave the example out"
        )
    if empty.all():
        raise ValueError(f"{prefix}: all {len(masks)} masks are empty, with no pixel of class 1")


def check_rows(name: str, split: Split, prefix: str) -> None:
    """Raise ValueError, in one line, for an answer, other than a mask, that does not fit its
    images."""
    n, h, w, _ = split["image"].shape
    shapes = {"label": (n,), "count": (n,), "point": (n, 2), "points": (n, "most", 2)}
    expected, shape = shapes.get(name, (n, h, w)), split[name].shape
    pairs = zip(shape, expected, strict=False)
    if len(shape) != len(expected) or any(need not in (side, "most") for side, need in pairs):
        raise ValueError(
            f"{prefix}: {name} is {list(shape)}: images of {h} x {w} need "
            f"[{', '.join(map(str, expected))}]"
        )
    if name == "label" and (unknown := sorted({*np.asarray(split[name]).tolist()} - {0, 1})):
        raise ValueError(f"{prefix}: label {unknown[0]}: expected 0 (absent) or 1 (present)")


def depth_map(labels: Integer[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The distance of each pixel of an instance to the outside, over the instance's greatest such
    distance: 1 in the middle, towards 0 at borders, 0 in the background."""
    depth = np.zeros(labels.shape, np.float32)
    for i, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            interior = np.pad(labels[box] == i, 1)
            distance = ndimage.distance_transform_edt(interior)[1:-1, 1:-1]
            depth[box] += (distance / distance.max()).astype(np.float32)
    return depth


BinaryMask = UInt8[np.ndarray, "h w"]


def shifted(mask: BinaryMask, pixels: float, rng: np.random.Generator) -> BinaryMask:
    """A mask moved by ``pixels`` in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return ndimage.shift(mask, (pixels * np.sin(angle), pixels * np.cos(angle)), order=0)


def dilated(mask: BinaryMask, pixels: float, rng: np.random.Generator) -> BinaryMask:
    """A mask enlarged by ``pixels`` on every side."""
    distant = ndimage.distance_transform_edt(mask == 0) > pixels
    return np.where(distant, 0, np.uint8(mask.any()))


def polygons(mask: BinaryMask, corners: float, rng: np.random.Generator) -> BinaryMask:
    """A mask whose connected components are polygons: the corners are the farthest pixels from a
    component's middle in ``corners`` sectors of equal angle, the first of which begins at
    random."""
    labels, count = ndimage.label(mask)
    canvas = Image.new("L", mask.shape[::-1])
    for i in range(1, count + 1):
        rows, columns = np.nonzero(labels == i)
        offsets = rows - rows.mean(), columns - columns.mean()
        turns = (np.arctan2(*offsets) / (2 * np.pi) + rng.uniform()) % 1
        sectors, radii = (turns * corners).astype(int), np.hypot(*offsets)
        order = [np.flatnonzero(sectors == s) for s in range(int(corners))]
        ends = [pixels[np.argmax(radii[pixels])] for pixels in order if len(pixels)]
        outline = [(int(columns[end]), int(rows[end])) for end in ends]
        ImageDraw.Draw(canvas).polygon(outline * (1 if len(outline) > 1 else 2), fill=1)
    return np.array(canvas)


def missing(mask: BinaryMask, share: float, rng: np.random.Generator) -> BinaryMask:
    """A mask without a share of its connected components."""
    labels, count = ndimage.label(mask)
    remains = np.r_[False, rng.permutation(count) >= round(share * count)]
    return remains[labels].astype(np.uint8)


DAMAGES: Mapping[str, Callable[[BinaryMask, float, np.random.Generator], BinaryMask]] = {
    "shifted": shifted,
    "dilated": dilated,
    "polygons": polygons,
    "missing": missing,
}
"""Damages of rough labels (Heller, Dean & Papanikolopoulos 2018), by name."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The arrays of a split that are learnt from, and how they are made."""

    arrays: Sequence[str]
    """``label``, ``point``, ``count``, ``points``, ``instances``; ``depth``, made of instances; and
    ``mask``."""
    mask: str = "mask"
    """The array that is the mask; of ``instances`` all that is not background."""
    field: str = ""
    """The array of the pixels in which the mask is known; empty for all."""
    damages: Sequence[Damage] = (("", 0.0),)
    """Versions of the mask."""
    filled: bool = False
    """Whether every mask must have something in it."""

    @property
    def stored(self) -> Sequence[str]:
        """The arrays that a data set may have beside images: any answers, and the field."""
        names = ("label", "point", "points", "count", "instances", self.mask, self.field)
        return tuple(name for name in dict.fromkeys(names) if name)

    def of_split(self, split: Split, prefix: str) -> Split:
        """The split's ``image`` and these arrays; ``mask`` is uint8 [n, versions, h, w].

        Raises:
          ValueError: in one line, for arrays that it does not have, or that do not fit its images.
        """
        required = {"image", *self.arrays} - {"mask", "depth"}
        required |= {self.mask, self.field} - {""} if "mask" in self.arrays else set()
        required |= {"instances"} if "depth" in self.arrays else set()
        if absent := sorted(required - {*split}):
            raise ValueError(f"{prefix} has {', '.join(split)}: this study needs {absent[0]}")
        for name in sorted(required - {"image", self.mask}):
            check_rows(name, split, prefix)
        arrays = {name: split[name] for name in ("image", *self.arrays) if name in split}
        if "depth" in self.arrays:
            arrays["depth"] = np.stack([depth_map(x) for x in in_memory(split["instances"])])
        if "mask" in self.arrays:
            masks = np.asarray(in_memory(split[self.mask]))
            masks = np.minimum(masks, 1) if self.mask == "instances" else masks
            check_masks(split["image"].shape, masks, prefix, filled=self.filled)
            arrays["mask"] = self._versions(masks, split)
        return arrays

    def _versions(
        self, masks: Integer[np.ndarray, "n h w"], split: Split
    ) -> UInt8[np.ndarray, "n versions h w"]:
        ignored = (masks == -1) | (masks == MISSING)
        if self.field:
            ignored |= np.asarray(in_memory(split[self.field])) == 0
        clean = np.where(masks == 1, 1, 0).astype(np.uint8)
        versions = [clean]
        for name, amount in self.damages[1:]:
            rngs = (np.random.default_rng([i, 3]) for i in range(len(masks)))
            pairs = zip(clean, rngs, strict=True)
            versions.append(np.stack([DAMAGES[name](m, amount, rng) for m, rng in pairs]))
        return np.where(ignored[:, None], np.uint8(MISSING), np.stack(versions, 1))

    def of_source(self, source: Source) -> Source:
        """A data set with these arrays in all its splits: see :meth:`of_split`."""
        prefix = f"data set {source.name!r}, split"
        splits = {name: self.of_split(s, f"{prefix} {name!r}") for name, s in source.splits.items()}
        test = source.test.changed(lambda split: self.of_split(split, f"{prefix} 'test'"))
        return dataclasses.replace(source, splits=splits, test=test)
