"""MNIST-M: the digits of MNIST blended with patches of colour photographs.

The data set of Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015,
by the recipe of the authors' own file: a digit is black and white, wherever MNIST has any ink
(``digit > 0``), in the middle of 32×32 pixels; each digit takes a patch of a photograph chosen at
random, whose colours are inverted under the ink. Both splits draw from the same photographs, as in
the paper, which took the training photographs of BSDS500 (Arbeláez, Maire, Fowlkes & Malik, PAMI
2011). A network trained on this builder's images is as accurate on the authors' test images as on
those made here (.963 and .964); with the digits' grey levels kept, which outlines every digit in
dark and makes them easier to see, it is not (.893 and .977).

MNIST is read from where TFDS has it. The photographs, JPEG or PNG, must be provided: by default in
the folder `bsds500` of TFDS's `manual_dir`.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from jaxdl.data.builders.settings import SettingsBuilder
from jaxdl.data.encoded import Form, decode, digest_files
from jaxdl.files import user_path

CLASS_NAMES: tuple[str, ...] = tuple("0123456789")
SIDE = 28  # pixels of a digit
_SUFFIXES = (".jpg", ".jpeg", ".png")
_CHUNK = 1000  # images blended at once; what they look like does not depend on it


def blend(
    digits: UInt8[np.ndarray, "n h w"],
    photos: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "n h w 3"]:
    """``|patch − digit|`` in each of three channels, each digit with a patch of its own.

    The photograph is uniform over `photos`, the patch uniform over the places where it lies whole
    in that photograph. Every digit takes three numbers from `rng`: an image does not depend on how
    many follow, and two calls in a row make what one would.

    Args:
      digits: grey values 0..255 of any size, ink bright.
      photos: colour photographs 0..255, which may differ in size.
      rng: advanced by 3 n draws.

    Raises:
      ValueError: no photographs, one smaller than a digit, or arrays of another kind.
    """
    if digits.ndim != 3 or digits.dtype != np.uint8:
        raise ValueError(
            f"mnist_m: digits are {digits.dtype}{list(digits.shape)}; expected uint8 [n, h, w]"
        )
    if not photos:
        raise ValueError("mnist_m: no photographs to blend with; give at least one")
    n, h, w = digits.shape
    for i, photo in enumerate(photos):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(
                f"mnist_m: photograph {i} is {photo.dtype}{list(photo.shape)}; "
                "expected uint8 [height, width, 3]"
            )
        if photo.shape[0] < h or photo.shape[1] < w:
            raise ValueError(
                f"mnist_m: photograph {i} has {photo.shape[0]}×{photo.shape[1]} pixels, "
                f"fewer than a digit, {h}×{w}; leave it out"
            )
    sizes = np.asarray([photo.shape[:2] for photo in photos])
    draws = rng.random((n, 3))
    photo_ids = (draws[:, 0] * len(photos)).astype(int)
    corners = (draws[:, 1:] * (sizes[photo_ids] - (h, w) + 1)).astype(int)
    patches = np.empty((n, h, w, 3), np.uint8)
    for patch, photo, (top, left) in zip(patches, photo_ids, corners, strict=True):
        patch[:] = photos[photo][top : top + h, left : left + w]
    digits = digits[..., None]
    return np.maximum(patches, digits) - np.minimum(patches, digits)  # uint8 has no sign


def frame(
    digits: UInt8[np.ndarray, "n h w"], padding: int, *, grey: bool = False
) -> UInt8[np.ndarray, "n hp wp"]:
    """Digits as they are blended: in black and white unless ``grey``, with an empty margin.

    Ink is 255 wherever a digit is above 0, as in the authors' file.
    """
    levels = digits if grey else np.where(digits > 0, 255, 0).astype(np.uint8)
    return np.pad(levels, ((0, 0), (padding, padding), (padding, padding)))


def photo_files(folder: str | os.PathLike) -> list[Path]:
    """The JPEG and PNG files of a folder (not of folders in it), by name.

    Raises:
      FileNotFoundError: there is no such folder, or it has none.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"mnist_m: no folder {folder}; put photographs (JPEG or PNG) there, or name the folder "
            "that has them in MnistMConfig(photos=…)"
        )
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and f.is_file())
    if not files:
        raise FileNotFoundError(
            f"mnist_m: no photographs ({', '.join(_SUFFIXES)}) in {folder}; folders in it do not "
            "count"
        )
    return files


def read_photo(file: str | os.PathLike, side: int = SIDE) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph in colour; a grey one gets three equal channels.

    Raises:
      ValueError: damaged, or narrower or lower than ``side`` pixels.
    """
    photo = decode(Path(file).read_bytes(), f"mnist_m: {os.fspath(file)}", Form(channels=3))
    if min(photo.shape[:2]) < side:
        raise ValueError(
            f"mnist_m: {os.fspath(file)}: {photo.shape[0]}×{photo.shape[1]} pixels, fewer than an "
            f"image's {side}×{side}; remove it"
        )
    return photo


@dataclasses.dataclass(eq=False, kw_only=True)
class MnistMConfig(tfds.core.BuilderConfig):
    """Configuration of MNIST-M. The folders are no part of the name."""

    name: str = dataclasses.field(init=False, default="")
    train: int = 60_000
    """Number of MNIST's training examples, the first in TFDS's order."""
    test: int = 10_000
    """Number of its test examples."""
    seed: int = 0
    """Seed of the patches."""
    padding: int = 2
    """Empty pixels around each 28×28 digit; 2 makes images of 32×32, as the authors' are."""
    grey: bool = False
    """Whether to keep the grey levels of the digits, ``|patch - digit|``, instead of black and
    white."""
    photos: str | os.PathLike | None = None
    """The folder of the photographs; None: `bsds500` in TFDS's manual_dir."""
    mnist_dir: str | os.PathLike | None = None
    """TFDS's data_dir for MNIST; None: the builder's own."""

    def __post_init__(self):
        for split in ("train", "test"):
            if getattr(self, split) < 1:
                raise ValueError(f"mnist_m: {split} is {getattr(self, split)}; ask for 1 or more")
        if not 0 <= self.padding <= 32:
            raise ValueError(f"mnist_m: padding is {self.padding}; choose 0 to 32 pixels")
        # TFDS takes paths as they are.
        self.photos = self.photos and user_path(self.photos)
        self.mnist_dir = self.mnist_dir and user_path(self.mnist_dir)
        self.name = f"train{self.train}-test{self.test}-seed{self.seed}-pad{self.padding}"
        if self.grey:
            self.name += "-grey"

    @property
    def side(self) -> int:
        """Pixels of an image."""
        return SIDE + 2 * self.padding


class MnistM(SettingsBuilder):
    """MNIST-M in TFDS's hands: 32×32 colour images in the order of TFDS's MNIST."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "black and white digits in 32×32 pixels, as in the authors' file",
        "1.0.0": "grey digits in 28×28 pixels",
    }
    BUILDER_CONFIGS = [MnistMConfig()]  # noqa: RUF012 — TFDS's own form
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put photographs (JPEG or PNG; the paper took the training photographs of BSDS500) into "
        "its folder bsds500, or name their folder in MnistMConfig(photos=…)."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.side
        return tfds.core.DatasetInfo(
            builder=self,
            description="MNIST's digits blended with photographs (Ganin & Lempitsky 2015).",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://arxiv.org/abs/1409.7495",
            disable_shuffling=True,  # example i is MNIST's example i
            metadata=tfds.core.MetadataDict(),
        )

    def download_and_prepare(self, **options) -> None:
        """As TFDS's method, with an error for data prepared from other photographs than those asked
        for.

        Raises:
          FileNotFoundError: no photographs, or MNIST is not prepared.
          ValueError: a damaged photograph, more examples than MNIST has, or other photographs than
            those of the data already here.
        """
        photos = self.builder_config.photos
        # What is prepared needs no photographs any more: those that have gone are no error.
        if photos is not None and Path(photos).is_dir() and self.data_path.exists():
            before = (self.info.metadata or {}).get("photographs")
            if before != digest_files(photo_files(photos), Path(photos)):
                raise ValueError(
                    f"mnist_m: {self.data_dir} was built from other photographs than {photos}; "
                    "remove it, or build in another data_dir"
                )
        super().download_and_prepare(**options)

    def _split_generators(self, dl_manager):
        config = self.builder_config
        mnist_dir = config.mnist_dir or self.data_dir_root
        digits = {split: _mnist(mnist_dir, split) for split in ("train", "test")}
        for split, source in digits.items():
            if getattr(config, split) > len(source):
                raise ValueError(
                    f"mnist_m: {split} is {getattr(config, split)}, but MNIST in {mnist_dir} has "
                    f"{len(source)} {split} examples; ask for so many or fewer"
                )
        folder = config.photos
        if folder is None:
            try:
                folder = Path(dl_manager.manual_dir, "bsds500")
            except AssertionError:  # TFDS, when the folder is missing or empty
                raise FileNotFoundError(
                    "mnist_m: no photographs; name their folder in MnistMConfig(photos=…), or "
                    f"put them into {self.data_dir_root}/downloads/manual/bsds500, in TFDS's "
                    "manual_dir by default"
                ) from None
        files = photo_files(folder)
        photos = [read_photo(file, config.side) for file in files]
        self.info.metadata["photographs"] = digest_files(files, Path(folder))
        return {
            split: self._generate_examples(split, source, getattr(config, split), photos)
            for split, source in digits.items()
        }

    def _generate_examples(
        self, split: str, source, count: int, photos: list[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Iterator:
        config = self.builder_config
        # Python's hash is salted; this one is the same everywhere.
        entropy = hashlib.sha256(f"jaxdl mnist_m {split} {config.seed}".encode())
        rng = np.random.default_rng(int.from_bytes(entropy.digest()))
        places = iter(range(count))
        while chunk := list(itertools.islice(places, _CHUNK)):
            examples = [source[i] for i in chunk]
            digits = np.stack([e["image"][..., 0] for e in examples])
            images = blend(frame(digits, config.padding, grey=config.grey), photos, rng)
            for i, example, image in zip(chunk, examples, images, strict=True):
                yield i, {"image": Image.fromarray(image), "label": int(example["label"])}


def _mnist(data_dir: str | os.PathLike, split: str) -> Sequence[dict]:
    """A split of MNIST, as TFDS has it in that folder."""
    data_dir = os.fspath(data_dir)
    builder = tfds.builder("mnist", data_dir=data_dir)
    command = (
        "python -c \"import tensorflow_datasets as tfds; tfds.builder('mnist', "
        f"data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\" "
        "(TFDS needs TensorFlow and a network for that, once)"
    )
    if not builder.data_path.exists():
        raise FileNotFoundError(f"mnist_m: no MNIST in {data_dir}; to prepare it run {command}")
    try:
        return builder.as_data_source(split)
    except NotImplementedError:
        raise ValueError(
            f"mnist_m: {builder.data_dir} is not stored as array_record; remove it, then run "
            f"{command}"
        ) from None
