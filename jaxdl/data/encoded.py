"""Images in files, decoded when they are read."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL
from jaxtyping import Float, Int, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from jaxdl.data.cache import cached
from jaxdl.types import DamagedFile


@runtime_checkable
class Images(Protocol):
    """Images of one shape, each by its index: an array, or something that reads files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, height, width, channels)``"""

    def __getitem__(self, index: Any, /) -> Any:
        """One image, [height, width, channels]."""


Reader = Callable[[int], tuple[bytes, str]]
"""A function from an image's index to its file's content and its name in messages."""

BAR = {"delay": 3, "leave": False, "disable": None}
"""Options of progress bars, shown on terminals after some seconds."""

DECODER = 2
"""The version of :func:`decode`, for the cache; 2 heeds EXIF orientations."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by number of channels."""


@dataclasses.dataclass(frozen=True)
class Form:
    """The size and the channels of decoded images."""

    size: int = 0
    """The side of square images; 0 keeps files as they are, and all must be of one size."""
    fit: str = "crop"
    """The fit of an image to a square: "crop" scales the shorter side to ``size`` and keeps the
    middle of the longer one, "stretch" scales both (as Caffe did with ImageNet)."""
    channels: int = 0
    """1 or 3 to convert every image to grey or colour (transparency is dropped); 0 converts none,
    and all must be of one kind."""

    def check(self) -> "Form":
        """The form itself; ValueError if there is no such form."""
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {self.size}")
        if self.fit not in ("crop", "stretch"):
            raise ValueError(f"fit={self.fit!r} is not one of crop, stretch")
        if self.channels not in (0, 1, 3):
            raise ValueError(f"channels={self.channels} is not one of 0, 1, 3")
        return self


def decode(content: bytes, name: str, form: Form) -> UInt8[np.ndarray, "h w c"]:
    """One image file (PNG, JPEG, WebP, PPM, … whatever Pillow reads) as an array.

    It is turned as its EXIF orientation says. Of several pictures in a file, the first is read.

    Raises:
      DamagedFile: truncated, no image at all, neither grey nor colour with ``channels=0``, or grey
        levels in 32 bits.
    """
    _hush_pillow()
    try:
        with Image.open(io.BytesIO(content)) as image:
            if form.size:
                # JPEGs can be decoded at 1/2, 1/4, 1/8 of their size, and much faster so.
                image.draft(None, (form.size, form.size))
            image.load()
            # 32 bits may hold 0 to 1, 0 to 255 or anything; a PGM of 16 bits, too, has mode I.
            deep = image.mode == "F" or (image.mode == "I" and image.format != "PPM")
            upright = _upright(image)
            mode = MODES.get(form.channels, upright.mode)
            supported = mode in MODES.values() and not deep
            if supported:
                pixels = upright if upright.mode == mode else _convert(upright, mode)
                if form.size and pixels.size != (form.size, form.size):
                    pixels = _to_square(pixels, form)
                array = np.asarray(pixels, np.uint8)
    except UnidentifiedImageError:
        raise DamagedFile(f"{name}: no image that Pillow knows: replace or remove it") from None
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedFile(f"{name}: not a whole image ({reason}): replace or remove it") from None
    if deep:
        raise DamagedFile(
            f"{name}: its grey levels are 32-bit numbers (mode {image.mode}), whose range is not "
            "known: save it with 8 or 16 bits"
        )
    if not supported:
        raise DamagedFile(
            f"{name}: the image's mode is {mode}, neither grey (L) nor colour (RGB): set channels "
            "to 1 or 3 to have every image converted"
        )
    return array if array.ndim == 3 else array[..., None]


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 1 is upright."""


def _upright(image: Image.Image) -> Image.Image:
    """The image turned upright: cameras store it as the sensor saw it, and their orientation in
    EXIF."""
    if not any("exif" in key or "xmp" in key for key in map(str.lower, map(str, image.info))):
        return image  # to look for it takes a fifth of the time of a small image
    try:
        method = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata can raise nearly anything, and are no damage to the pixels
        return image
    return image if method is None else image.transpose(method)


def _hush_pillow() -> None:
    """No warnings of odd metadata, which do not touch the pixels, nor log entries, from here on.

    ``catch_warnings`` would let others' warnings be lost: it is not made for several threads.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    rule = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if rule not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode[0] == "I":  # 16 bits, of which Pillow would cut off the upper 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)


def _to_square(image: Image.Image, form: Form) -> Image.Image:
    (w, h), side = image.size, min(image.size)
    left, top = (w - side) // 2, (h - side) // 2
    box = None if form.fit == "stretch" else (left, top, left + side, top + side)
    return image.resize((form.size, form.size), Image.Resampling.BILINEAR, box)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Images in files that serve as an array ``[n, h, w, c]``; see :func:`encoded`."""

    shape: tuple[int, int, int, int]
    read: Reader
    form: Form
    content: str
    """Identifies what ``read`` returns, in the cache."""
    ids: Int[np.ndarray, " n"]
    """The reader's indices of these images."""

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """One image, decoded at every call.

        Raises:
          DamagedFile: see :func:`decode`; or if it is of another shape than the others.
        """
        content, name = self.read(int(self.ids[index]))
        image = decode(content, name, self.form)
        if image.shape != self.shape[1:]:
            raise DamagedFile(
                f"{name}: the image is {_size(image.shape)} where others are "
                f"{_size(self.shape[1:])}: set size (and channels) to have every image converted"
            )
        return image

    def take(self, ids: Int[np.ndarray, " m"]) -> "Encoded":
        """Some of the images."""
        shape = (len(ids), *self.shape[1:])
        return dataclasses.replace(self, shape=shape, ids=self.ids[ids])

    def array(self) -> UInt8[np.ndarray, "n h w c"]:
        """All images, decoded, or read from the cache."""
        return cached("decoded", self.recipe, lambda: {"images": self._decode()})["images"]

    @property
    def recipe(self) -> tuple:
        """The settings that the arrays depend on, for the cache."""
        return self.content, self.form, self.ids.tobytes(), PIL.__version__, DECODER

    def _decode(self) -> UInt8[np.ndarray, "n h w c"]:
        images = np.empty(self.shape, np.uint8)

        def fill(start: int) -> None:
            for i in range(start, min(start + 64, len(images))):
                images[i] = self[i]

        list(_in_threads(fill, range(0, len(images), 64), "decoding, once"))
        return images


def _in_threads(function: Callable, items: Sequence, title: str) -> Iterator:
    """The function's values, in order, with a progress bar; Pillow decodes without the GIL."""
    with ThreadPoolExecutor(cores()) as pool:
        yield from tqdm(pool.map(function, items), title, len(items), **BAR)


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def encoded(read: Reader, count: int, form: Form, content: str) -> Encoded:
    """Images behind a reader, of the shape of the first one.

    Raises:
      ValueError: if the first one cannot be decoded in this form.
    """
    first = decode(*read(0), form.check())
    return Encoded((count, *first.shape), read, form, content, np.arange(count))


def cores() -> int:
    """The number of the machine's cores that this process may use: by its affinity, and by the
    quota of its container, a part of a core counted as one."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        count = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(count, quota())))


def quota(root: Path = Path("/")) -> float:
    """Seconds of computing a second that Linux grants this process's control groups: the least of
    theirs and of those around them, of version 2 or 1; infinity where nothing is said."""
    share = math.inf
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return share
    for line in groups.splitlines():  # NUMBER:CONTROLLERS:PATH, of version 2 without controllers
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts, files = ["sys/fs/cgroup"], ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts = [f"sys/fs/cgroup/{name}" for name in ("cpu", controllers)]
            files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))  # within a container, as often as not, not there
        for mount, group in itertools.product(mounts, (inner, *inner.parents)):
            with contextlib.suppress(OSError, ValueError):  # not there; "max", for no limit
                group_path = root / mount / group
                words = " ".join(
                    (group_path / name).read_text(encoding="utf-8") for name in files
                ).split()
                budget, period = map(int, words)
                if budget > 0 and period > 0:  # -1 is version 1's word for no limit
                    share = min(share, budget / period)
    return share


def in_memory(images: Images) -> np.ndarray:
    """The images as an array, decoded if they are not; other arrays as they are."""
    if isinstance(images, Encoded):
        return images.array()
    if isinstance(images, np.ndarray):
        return images
    return np.stack([images[i] for i in range(images.shape[0])])


def statistics(images: Images) -> tuple[Float[np.ndarray, "h w c"], Float[np.ndarray, " c"]]:
    """The mean of every pixel, and the standard deviation of every channel, of grey levels 0 … 255.

    A channel of one grey level is given the deviation 1, so that to divide by it is harmless. Of
    images in files the answer is kept in the cache: it takes reading them all.
    """
    if isinstance(images, Encoded):
        moments = cached("statistics", images.recipe, lambda: _statistics(images))
    else:
        moments = _statistics(images)
    return moments["mean"], moments["deviation"]


def verify(images: Images) -> None:
    """Read every image once, ever: what was found whole is noted in the cache.

    Raises:
      DamagedFile: naming one that cannot be read or has another shape.
    """

    def read_all() -> dict[str, np.ndarray]:
        list(_in_threads(lambda i: images[i] is None, range(images.shape[0]), "checking, once"))
        return {"whole": np.array(True)}

    if isinstance(images, Encoded):
        cached("whole", images.recipe, read_all)


def _statistics(images: Images) -> dict[str, np.ndarray]:
    count, *shape = images.shape
    total, squares = np.zeros(shape), np.zeros(shape[-1])
    parts = np.array_split(np.arange(count), -(-count // 32))

    def part(ids: Int[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
        chunk = np.stack([images[int(i)] for i in ids]).astype(np.float64)
        return chunk.sum(0), (chunk**2).sum((0, 1, 2))

    for part_total, part_squares in _in_threads(part, parts, "mean image, once"):
        total, squares = total + part_total, squares + part_squares
    mean, channel = total / count, total.mean((0, 1)) / count
    variance = squares / (count * shape[0] * shape[1]) - channel**2
    # Differences of rounding size, of a channel that is one grey level, are no deviation.
    deviation = np.sqrt(np.where(variance > 1e-6, variance, 1))
    return {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}


def take(images: Images, ids: Int[np.ndarray, " m"]) -> Images:
    """Some of the images, of an array or of files."""
    return images.take(ids) if isinstance(images, Encoded) else images[ids]


def digest_files(paths: Sequence[Path], root: Path) -> str:
    """16 hexadecimal digits of a SHA-256 over the files' names below ``root`` and their contents;
    over names and sizes alone if they hold more than 2 GB."""
    digest, sizes = hashlib.sha256(), [path.stat().st_size for path in paths]
    small = sum(sizes) < 2e9
    for path, size in zip(paths, sizes, strict=True):
        # The bytes of the name: not every file system's are UTF-8.
        digest.update(os.fsencode(path.relative_to(root)) + f" {size} ".encode())
        if small:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
