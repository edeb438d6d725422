"""GTSRB: photographs of 43 German traffic signs, 39,209 to train on and 12,630 to test.

Stallkamp, Schlipsing, Salmen & Igel, "Man vs. computer: Benchmarking machine learning algorithms
for traffic sign recognition", Neural Networks 2012. The official archives must be unpacked in one
folder, by default TFDS's `manual_dir`, which gives

    GTSRB/Final_Training/Images/00000 … 00042/TTTTT_FFFFF.ppm   track and frame
    GTSRB/Final_Training/Images/00000 … 00042/GT-00000.csv …    size, region of interest, class
    GTSRB/Final_Test/Images/00000.ppm …
    GT-final_test.csv    from the archive of the ground truth; also looked for in GTSRB and with
                         the test images (whose own GT-final_test.test.csv lacks the classes)

A track is one sign filmed by a passing car: its frames, mostly 30, are near copies, so that a
validation split must not cut through tracks. The domain-adaptation papers that go from synthetic
signs to GTSRB (Ganin & Lempitsky 2015 and those after them) split the training images at random.

Signs come with a border of about a tenth of their size. Synthetic signs fill their images, and
others who do this pair cut GTSRB to its regions of interest and scale them to 40×40: so do the
defaults here.
"""

import csv
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from jaxdl.data.builders.settings import SettingsBuilder
from jaxdl.data.encoded import Form, decode
from jaxdl.files import user_path

SPLITS = ("train", "test")
CLASS_NAMES: tuple[str, ...] = (
    "speed limit 20 km/h",
    "speed limit 30 km/h",
    "speed limit 50 km/h",
    "speed limit 60 km/h",
    "speed limit 70 km/h",
    "speed limit 80 km/h",
    "end of speed limit 80 km/h",
    "speed limit 100 km/h",
    "speed limit 120 km/h",
    "no passing",
    "no passing for vehicles over 3.5 t",
    "right-of-way at next intersection",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no vehicles over 3.5 t",
    "no entry",
    "general caution",
    "dangerous curve left",
    "dangerous curve right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "beware of ice or snow",
    "wild animals crossing",
    "end of all speed and passing limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout mandatory",
    "end of no passing",
    "end of no passing for vehicles over 3.5 t",
)  # in the order of ClassId

_TRACKS = 100_000  # a class has fewer: track numbers have five digits
_COLUMNS = (
    "Filename",
    *("Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2"),
    "ClassId",
)


@dataclasses.dataclass(frozen=True)
class Sign:
    """One line of the ground truth."""

    file: Path
    roi: tuple[int, int, int, int]
    """Left, top, right, bottom; right and bottom are just outside."""
    label: int
    track: int
    """label × 100,000 + the class's own number of the track; -1 in the test split."""


def signs(folder: str | os.PathLike, split: str) -> list[Sign]:
    """All images of a split of the unpacked archive `folder` (its name is GTSRB), not yet read.

    Raises:
      FileNotFoundError: a folder, a table or an image that a table lists is not there.
      ValueError: no such split, or a line of a table that is not as the module says.
    """
    folder = user_path(folder)
    if split not in SPLITS:
        raise ValueError(f"gtsrb: unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    images = folder / ("Final_Training" if split == "train" else "Final_Test") / "Images"
    if not images.is_dir():
        archive = f"GTSRB_Final_{'Training' if split == 'train' else 'Test'}_Images.zip"
        raise FileNotFoundError(f"gtsrb: no folder {images}; unpack {archive} in {folder.parent}")
    if split == "test":
        places = (images, folder, folder.parent)
        table = next((f for p in places if (f := p / "GT-final_test.csv").is_file()), None)
        if table is None:
            raise FileNotFoundError(
                f"gtsrb: no GT-final_test.csv in {images}; unpack GTSRB_Final_Test_GT.zip there"
            )
        return _read_table(table, images, None)
    signs_of_split = []
    for label in range(len(CLASS_NAMES)):
        class_folder = images / f"{label:05d}"
        signs_of_split += _read_table(class_folder / f"GT-{label:05d}.csv", class_folder, label)
    return signs_of_split


def view(sign: Sign, *, roi: bool = True, size: int = 40) -> UInt8[np.ndarray, "h w 3"]:
    """The image in colour, 0..255: cut to its region of interest, scaled to `size`×`size`.

    Scaling is bilinear, over the area of a pixel where it shrinks, and does not keep the ratio of
    the sides; 0 leaves the size as it is.

    Raises:
      ValueError: damaged, or a region that does not lie in the image.
    """
    pixels = decode(sign.file.read_bytes(), f"gtsrb: {sign.file}", Form(channels=3))
    if roi:
        left, top, right, bottom = sign.roi
        if not (0 <= left < right <= pixels.shape[1] and 0 <= top < bottom <= pixels.shape[0]):
            raise ValueError(
                f"gtsrb: {sign.file}: the region of interest {sign.roi} does not lie in the image, "
                f"{pixels.shape[1]} wide and {pixels.shape[0]} high; unpack the archive again"
            )
        pixels = pixels[top:bottom, left:right]
    if size:
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return pixels


def _read_table(table: Path, images: Path, label: int | None) -> list[Sign]:
    """The lines of a table, of one class or (None) of all, with tracks or without."""
    if not table.is_file():
        raise FileNotFoundError(f"gtsrb: no table {table}; unpack the archive again")
    signs = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, delimiter=";")
            if missing := [c for c in _COLUMNS if c not in (rows.fieldnames or ())]:
                raise ValueError(
                    f"gtsrb: {table}: no column {', '.join(missing)}; expected {';'.join(_COLUMNS)}"
                )
            for row in rows:
                signs.append(_sign(f"gtsrb: {table}, line {rows.line_num}", row, images, label))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"gtsrb: {table}: not a table ({error}); unpack the archive again"
        ) from None
    if not signs:
        raise ValueError(f"gtsrb: {table}: no lines; unpack the archive again")
    return signs


def _sign(line: str, row: dict[str, str], images: Path, label: int | None) -> Sign:
    """One line of a table, or an error that begins with `line`."""
    try:
        _, _, *roi, class_id = (int(row[column]) for column in _COLUMNS[1:])
    except (TypeError, ValueError):  # too short a line has None
        values = ";".join(str(row[column]) for column in _COLUMNS)
        raise ValueError(f"{line}: {values} is not a name and seven integers") from None
    if not 0 <= class_id < len(CLASS_NAMES):
        raise ValueError(f"{line}: ClassId is {class_id}; expected 0..{len(CLASS_NAMES) - 1}")
    if label is not None and class_id != label:
        raise ValueError(f"{line}: ClassId is {class_id}, in the folder of class {label}")
    file, track = images / row["Filename"], -1
    if label is not None:
        name = re.fullmatch(r"(\d{5})_\d{5}\.ppm", row["Filename"])
        if not name:
            raise ValueError(f"{line}: {row['Filename']} is not named TTTTT_FFFFF.ppm")
        track = label * _TRACKS + int(name[1])
    if not file.is_file():
        raise FileNotFoundError(f"{line}: no image {file}; unpack the archive again")
    left, top, right, bottom = roi
    return Sign(file, (left, top, right, bottom), class_id, track)


@dataclasses.dataclass(eq=False, kw_only=True)
class GtsrbConfig(tfds.core.BuilderConfig):
    """Configuration of GTSRB."""

    name: str = dataclasses.field(init=False, default="")
    roi: bool = True
    """Whether images are cut to their regions of interest."""
    size: int = 40
    """Pixels of a side; 0 keeps each image's own size, so shapes differ."""
    folder: str | os.PathLike | None = None
    """The folder GTSRB of the unpacked archives, no part of the name; None: `GTSRB` in TFDS's
    manual_dir."""

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"gtsrb: size is {self.size}; give pixels, or 0 to scale nothing")
        self.name = f"{'roi' if self.roi else 'whole'}-{self.size or 'native'}"


class Gtsrb(SettingsBuilder):
    """GTSRB in TFDS's hands, shuffled as TFDS does."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [GtsrbConfig()]  # noqa: RUF012 — TFDS's own form
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack there GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and "
        "GTSRB_Final_Test_GT.zip from https://benchmark.ini.rub.de, or name the folder GTSRB that "
        "comes out in GtsrbConfig(folder=…)."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.size or None
        return tfds.core.DatasetInfo(
            builder=self,
            description="43 German traffic signs in photographs (Stallkamp et al. 2012).",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                    "track": tfds.features.Scalar(np.int32),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://benchmark.ini.rub.de",
        )

    def _split_generators(self, dl_manager):
        folder = self.builder_config.folder
        if folder is None:
            try:
                folder = Path(dl_manager.manual_dir, "GTSRB")
            except AssertionError:  # TFDS, when the folder is missing or empty
                raise FileNotFoundError(
                    "gtsrb: no data; name the folder GTSRB in GtsrbConfig(folder=…), or "
                    f"unpack the archives in {self.data_dir_root}/downloads/manual, TFDS's "
                    "manual_dir by default"
                ) from None
        tables = {split: signs(folder, split) for split in SPLITS}  # before anything is written
        return {split: self._generate_examples(table) for split, table in tables.items()}

    def _generate_examples(self, table: list[Sign]) -> Iterator:
        config = self.builder_config
        for sign in table:
            key = sign.file.name if sign.track < 0 else f"{sign.label:05d}/{sign.file.name}"
            image = view(sign, roi=config.roi, size=config.size)
            yield key, {"image": Image.fromarray(image), "label": sign.label, "track": sign.track}
