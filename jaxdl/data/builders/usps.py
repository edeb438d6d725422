"""USPS: handwritten digits from envelopes, 16×16 grey, 7,291 to train on and 2,007 to test.

Hull, "A database for handwritten text recognition research", PAMI 1994; in the form and split of
Le Cun et al., "Handwritten digit recognition with a back-propagation network", NIPS 1989. The file
must be provided, by default in TFDS's `manual_dir`. It is one of

    usps.npz  arrays train_images [n, 16, 16, 1] uint8, train_labels [n], test_images, test_labels
    usps.h5   groups train and test, in each data [n, 256] from 0 to 1 and target [n]

of which the first is taken if both are there. Reading the second needs h5py.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32, UInt8
from PIL import Image

from jaxdl.data.builders.settings import SettingsBuilder
from jaxdl.files import user_path

SPLITS = ("train", "test")
CLASS_NAMES: tuple[str, ...] = tuple("0123456789")
SIDE = 16  # pixels of an image

Split = tuple[UInt8[np.ndarray, "n 16 16 1"], Int32[np.ndarray, " n"]]


def read_usps(file: str | os.PathLike) -> dict[str, Split]:
    """Images 0..255, ink bright, and labels 0..9 of both splits, in the file's order.

    Values 0..1 are scaled to 0..255 and rounded.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: damaged, arrays that are missing or not as the module says, or h5py is not
        installed and the file asks for it.
    """
    file = user_path(file)
    if not file.is_file():
        raise FileNotFoundError(f"usps: no file {file}; provide usps.npz or usps.h5")
    arrays = _read_hdf5(file) if file.suffix.lower() in (".h5", ".hdf5") else _read_npz(file)
    return {split: _check(f"usps: {file}, split {split!r}", *arrays[split]) for split in SPLITS}


def _read_npz(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = {split: (f"{split}_images", f"{split}_labels") for split in SPLITS}
    try:
        with file.open("rb") as stream, np.load(stream) as stored:
            return {
                split: (stored[images], stored[labels]) for split, (images, labels) in names.items()
            }
    except KeyError as error:
        raise ValueError(
            f"usps: {file}: {error.args[0]}; expected {', '.join(sum(names.values(), ()))}"
        ) from None
    except Exception:  # a damaged file can make the reader raise nearly anything
        raise ValueError(f"usps: {file}: not a whole npz file; replace it") from None


def _read_hdf5(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        import h5py  # no dependency of this project: only this file format asks for it
    except ImportError:
        raise ValueError(
            f"usps: {file}: reading HDF5 needs h5py; install it (pip install h5py), or provide "
            "usps.npz"
        ) from None
    try:
        with h5py.File(file, "r") as stored:
            return {
                split: (stored[split]["data"][:], stored[split]["target"][:]) for split in SPLITS
            }
    except KeyError as error:
        raise ValueError(
            f"usps: {file}: {error.args[0]}; expected groups train and test, in "
            "each data and target"
        ) from None
    except Exception:
        raise ValueError(f"usps: {file}: not a whole HDF5 file; replace it") from None


def _check(prefix: str, images: np.ndarray, labels: np.ndarray) -> Split:
    """The arrays in their final form, or an error that begins with `prefix`."""
    description = f"{images.dtype}{list(images.shape)}"
    if images.shape[1:] not in ((SIDE * SIDE,), (SIDE, SIDE), (SIDE, SIDE, 1)):
        raise ValueError(f"{prefix}: images are {description}; expected [n, 256] or [n, 16, 16, 1]")
    if not len(images):
        raise ValueError(f"{prefix}: no images")
    if images.dtype.kind == "f":
        if not np.isfinite(images).all():
            raise ValueError(f"{prefix}: some values are NaN or infinite; replace the file")
        if images.min() < 0 or images.max() > 1:
            raise ValueError(
                f"{prefix}: values are {images.min():g}..{images.max():g}; {images.dtype} images "
                "must lie in 0..1"
            )
        images = np.rint(255 * images.astype(np.float64)).astype(np.uint8)
    elif images.dtype != np.uint8:
        raise ValueError(
            f"{prefix}: images are {description}; expected uint8 0..255 or floats 0..1"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{prefix}: labels are {labels.dtype}{list(labels.shape)}; expected {len(images)} "
            "integers"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{prefix}: labels are {labels.min()}..{labels.max()}; expected 0..9")
    return images.reshape(-1, SIDE, SIDE, 1), labels.astype(np.int32)


@dataclasses.dataclass(eq=False, kw_only=True)
class UspsConfig(tfds.core.BuilderConfig):
    """Configuration of USPS: the file with the data."""

    name: str = dataclasses.field(init=False, default="digits")
    file: str | os.PathLike | None = None
    """The npz or HDF5 file; None: `usps.npz` or `usps.h5` in TFDS's manual_dir."""


class Usps(SettingsBuilder):
    """USPS in TFDS's hands, in the file's order."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [UspsConfig()]  # noqa: RUF012 — TFDS's own form
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put usps.npz or usps.h5 there (jaxdl.data.builders.usps says what they hold), or name the "
        "file in UspsConfig(file=…)."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits from envelopes, 16×16 grey (Hull 1994).",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        file = self.builder_config.file or self._provided(dl_manager)
        return {split: self._generate_examples(*data) for split, data in read_usps(file).items()}

    def _provided(self, dl_manager) -> Path:
        """The file in TFDS's manual_dir."""
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError:  # TFDS, when the folder is missing or empty
            raise FileNotFoundError(
                "usps: no data; name the file in UspsConfig(file=…), or put usps.npz or "
                f"usps.h5 into {self.data_dir_root}/downloads/manual, TFDS's manual_dir by default"
            ) from None
        files = [folder / name for name in ("usps.npz", "usps.h5")]
        if file := next((f for f in files if f.is_file()), None):
            return file
        raise FileNotFoundError(
            f"usps: neither usps.npz nor usps.h5 in {folder}; provide one of them there, or name "
            "the file in UspsConfig(file=…)"
        )

    def _generate_examples(
        self, images: UInt8[np.ndarray, "n 16 16 1"], labels: Int32[np.ndarray, " n"]
    ) -> Iterator:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": Image.fromarray(image[..., 0]), "label": int(label)}
