"""Drawn data sets, which need no files: random blocks, configuration, TFDS builder."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32, UInt8
from PIL import Image

from jaxdl.data.builders.settings import SettingsBuilder

SPLITS = ("train", "test")
Examples = tuple[UInt8[np.ndarray, "n h w 3"], Int32[np.ndarray, " n"]]
"""Images and labels."""


def draw_examples(
    draw: Callable[[np.random.Generator], Examples],
    block: int,
    name: str,
    split: str,
    count: int,
    *,
    seed: int,
    start: int,
) -> Examples:
    """Examples ``start`` … ``start + count - 1`` of a split, drawn with their blocks.

    Block i has a random stream of its own, so that asking for more examples appends.

    Raises:
      ValueError: ``split`` is not one of SPLITS, ``count`` is below 1 or ``start`` below 0.
    """
    if split not in SPLITS:
        raise ValueError(f"{name}: unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    for argument, value, least in (("count", count, 1), ("start", start, 0)):
        if value < least:
            raise ValueError(
                f"{name}: {argument} is {value} in split {split!r}; ask for {least} or more"
            )
    # Python's hash is salted; this one is the same everywhere.
    entropy = int.from_bytes(hashlib.sha256(f"jaxdl {name} {split} {seed}".encode()).digest())
    streams = (
        np.random.SeedSequence(entropy, spawn_key=(i,))
        for i in range(start // block, -(-(start + count) // block))
    )
    images, labels = zip(*(draw(np.random.default_rng(stream)) for stream in streams), strict=True)
    rows = slice(start % block, start % block + count)
    return np.concatenate(images)[rows], np.concatenate(labels)[rows]


@dataclasses.dataclass(eq=False, kw_only=True)
class DrawnConfig(tfds.core.BuilderConfig):
    """Configuration of a drawn data set: images of each split, a seed. The name is made of the
    fields in ``least``.

    Raises:
      ValueError: a number below that in ``least``, or not a whole one.
    """

    dataset: ClassVar[str]
    least: ClassVar[Mapping[str, float]] = {"train": 1, "test": 1, "seed": 0}
    name: str = dataclasses.field(init=False, default="")
    train: int = 100_000
    test: int = 10_000
    seed: int = 0

    def __post_init__(self):
        for field, least in self.least.items():
            value = getattr(self, field)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(
                    f"{self.dataset}: {field} is {value!r}; it must be a whole number, "
                    f"{least} or more"
                )
        self.name = "_".join(f"{field}{getattr(self, field)}" for field in self.least)


class DrawnBuilder(SettingsBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS data set of "image" and "label", splits "train" and "test".

    Its ``examples(split, count, start=…, …)``, which also take the configuration's other fields,
    are drawn ``block`` at a time and stored in their order only if they are ``ordered``. The
    configuration's ``size`` is an image's side in pixels.
    """

    examples: ClassVar[Callable[..., Examples]]
    block: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]
    description: ClassVar[str]
    ordered: ClassVar[bool] = False

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.size,) * 2 + (3,)
        image = tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png")
        label = tfds.features.ClassLabel(names=self.class_names)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage="https://arxiv.org/abs/1409.7495",
            disable_shuffling=self.ordered,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        count = getattr(config, split)
        options = {name: getattr(config, name) for name in config.least if name not in SPLITS}
        for start in range(0, count, self.block):
            size = min(self.block, count - start)
            images, labels = self.examples(split, size, start=start, **options)
            for i, (image, label) in enumerate(zip(images, labels, strict=True), start):
                yield i, {"image": Image.fromarray(image), "label": int(label)}
