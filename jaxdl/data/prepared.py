"""Data sets of TensorFlow Datasets, read without TensorFlow."""

import dataclasses
import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from tqdm import tqdm

from jaxdl.data import imagenet
from jaxdl.data.cache import cached
from jaxdl.data.encoded import MODES, Form, digest_files, encoded
from jaxdl.data.source import Source, Split, by_split, divide, make_source, split_of
from jaxdl.files import user_path
from jaxdl.types import DamagedFile

BUILDERS = ("mnist_m", "syn_numbers", "syn_signs", "gtsrb", "usps")
"""The data sets whose builders are here, in ``jaxdl/data/builders/``; the others are TFDS's own."""

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CLASS_NAMES = {"cifar10": tuple(_CIFAR10.split())}
"""Class names of data sets that may have been prepared without them."""

_MADE = {"airplane", "automobile", "ship", "truck"}
CLASS_GROUPS = {
    "cifar10": tuple("man-made" if n in _MADE else "natural" for n in _CIFAR10.split()),
    "imagenet2012": imagenet.GROUPS,
}


@dataclasses.dataclass(frozen=True)
class _Records:
    """A reader of the concatenated records of several splits."""

    sources: tuple[Any, ...]
    names: tuple[str, ...]

    def __call__(self, index: int) -> tuple[bytes, str]:
        for source, name in zip(self.sources, self.names, strict=True):
            if index < len(source):
                return _read(source, [index], name)[0]["image"], f"{name}, record {index}"
            index -= len(source)
        raise IndexError(index)


def prepared(
    dataset: str = "",
    *,
    data_dir: str = "",
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    by_class: bool = True,
    size: int = 0,
    fit: str = "crop",
    channels: int = 0,
    builder: Mapping[str, Any] | None = None,
) -> Source:
    """A data set of TFDS with images and labels, such as ``mnist`` or ``imagenet2012``.

    A data set is prepared if necessary (as array_record): with a network connection, or without one
    if its builder is among :data:`BUILDERS`. "train" and "test" are used as they are; without a
    "test" that has labels, "validation" is the test split, else the validation split. Alternative
    split names (:data:`jaxdl.data.source.SPLIT_NAMES`) are used only if the usual one is missing.
    Missing splits are taken from the training images, class by class; unused splits are named in
    ``omissions``.

    Args:
      dataset: its name, perhaps with a configuration and version (``syn_numbers/NAME:1.0.0``).
      data_dir: the folder of TFDS's data; empty for its default, ``~/tensorflow_datasets``.
      validation, test: shares (below 1) or numbers of images to take for these splits.
      seed: seed of that choice, class by class unless ``by_class`` is False.
      size, fit, channels: see :class:`jaxdl.data.encoded.Form`.
      builder: for one of :data:`BUILDERS`, fields of its configuration, ``{"train": 500_000}``;
        an empty string leaves a field as it is by default.

    Raises:
      ValueError: an unknown name, no images or labels in it, not prepared and no network, or
        prepared in a format that takes TensorFlow to read.
      DamagedFile: a file of records cannot be read.
    """
    settings = {field: value for field, value in (builder or {}).items() if value != ""}
    tfds_builder = _builder(dataset, data_dir, settings)
    name, info = tfds_builder.name, tfds_builder.info
    import tensorflow_datasets as tfds

    for key, kind in {"image": tfds.features.Image, "label": tfds.features.ClassLabel}.items():
        if key not in info.features or not isinstance(info.features[key], kind):
            features = ", ".join(f"{k} ({type(f).__name__})" for k, f in info.features.items())
            raise ValueError(f"{dataset}: it has no {key} of type {kind.__name__}, but {features}")
    # Other names of a split count where it is not there by its own: nobody can rename TFDS's.
    exact = {"train", "validation", "test"} & set(info.splits)
    candidates = [s for s in info.splits if s in exact or split_of(s) not in exact]
    split_names = by_split({split: split for split in candidates}, dataset)
    if "train" not in split_names:
        raise ValueError(f"{dataset}: it has no split train, but {', '.join(info.splits)}")
    held_out = [split_names[s] for s in ("test", "validation") if s in split_names]
    held_out = [split for split in held_out if _is_labelled(tfds_builder, split)]
    origin = {"train": split_names["train"]} | dict(
        zip(("test", "validation"), held_out, strict=False)
    )

    sources = [_records(tfds_builder, part) for part in origin.values()]
    folder = Path(tfds_builder.data_path)
    content = digest_files(sorted(p for p in folder.iterdir() if p.is_file()), folder)

    names = tuple(f"{folder}, split {part}" for part in origin.values())

    def read_labels() -> dict[str, np.ndarray]:
        records = zip(origin, sources, names, strict=True)
        return {split: _labels(source, name) for split, source, name in records}

    labels = cached(f"labels-{name}", (content, tuple(origin.items())), read_labels)
    declared = info.features["image"].shape[-1]
    channels = channels or (declared if declared in MODES else 0)
    sizes = [len(source) for source in sources]
    images = encoded(
        _Records(tuple(sources), names), sum(sizes), Form(size, fit, channels), content
    )
    ends = np.cumsum(sizes)
    parts: dict[str, Split] = {
        split: {"image": images.take(np.arange(end - n, end)), "label": labels[split]}
        for split, n, end in zip(origin, sizes, ends, strict=True)
    }
    feature = info.features["label"]
    class_names = CLASS_NAMES.get(name) or tuple(feature.names)
    return make_source(
        name,
        class_names,
        divide(parts, {"test": test, "validation": validation}, seed, by_class=by_class),
        class_groups=CLASS_GROUPS.get(name, ()),
        version=str(info.full_name.removeprefix(f"{name}/")),
        fingerprint=content,
        omissions=", ".join(f"split {s}" for s in info.splits if s not in origin.values()),
    )


def _builder(dataset: str, data_dir: str, settings: dict):
    """Prepare a data set if necessary; returns its builder."""
    if not dataset:
        raise ValueError("which data set? Set dataset to a name that TFDS knows, as in mnist")
    # The loader speaks of decoders that would be faster, and of every retry of a download.
    for talker in ("absl", "urllib3.connectionpool"):
        logging.getLogger(talker).setLevel(logging.CRITICAL)
    os.environ.setdefault("NO_GCE_CHECK", "true")  # do not search for a cloud's metadata server
    import tensorflow_datasets as tfds

    name = dataset.split("/")[0].split(":")[0]
    folder = user_path(data_dir or tfds.core.constants.DATA_DIR)
    keywords: dict[str, Any] = {"data_dir": str(folder)}
    if name in BUILDERS:
        importlib.import_module(f"jaxdl.data.builders.{name}")
        if settings:
            try:
                keywords["config"] = type(tfds.builder_cls(name).BUILDER_CONFIGS[0])(**settings)
            except TypeError as error:
                raise ValueError(f"data set {dataset!r}: {error}") from None
    elif settings:
        raise ValueError(f"{dataset} takes no {', '.join(settings)}")
    try:
        builder = tfds.builder(dataset, **keywords)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(f"TFDS knows no data set {dataset!r}, and {folder} holds none") from None
    except Exception as error:  # no such version or configuration, a damaged dataset_info.json
        raise ValueError(f"data set {dataset!r} in {folder}: {_line(error)}") from None
    command = _command(dataset, folder)
    if not builder.data_path.exists():
        builder = tfds.builder(dataset, **keywords, file_format="array_record")
        if name not in BUILDERS and not _online():
            raise ValueError(
                f"data set {dataset} is not in {folder}, and there is no network to fetch it: "
                f"where there is one, run {command}"
            )
        try:
            with redirect_stdout(sys.stderr):  # where TFDS tells how far it is
                builder.download_and_prepare()
        except Exception as error:  # whatever a builder's own code may raise
            raise ValueError(
                f"data set {dataset} cannot be prepared in {folder} ({_line(error)}); "
                f"to try it alone, run {command}"
            ) from None
    info_path = Path(builder.data_path) / "dataset_info.json"
    stored = json.loads(info_path.read_text(encoding="utf-8"))
    kind = stored.get("fileFormat", "tfrecord")
    if kind != "array_record":
        other_folder = folder.with_name(f"{folder.name}-array_record")
        raise ValueError(
            f"{builder.data_path} is prepared as {kind}, which takes TensorFlow to read: prepare "
            f"it again in another folder, {_command(dataset, other_folder)}, and set data_dir to it"
        )
    return builder


def _command(dataset: str, folder: Path) -> str:
    """The command that prepares a data set without this project."""
    name = dataset.split("/")[0].split(":")[0]
    known_by = f", jaxdl.data.builders.{name}" if name in BUILDERS else ""
    return (
        f'python -c "import tensorflow_datasets as tfds{known_by}; tfds.builder('
        f"'{dataset}', data_dir='{folder}', file_format='array_record').download_and_prepare()\""
    )


def _line(error: Exception) -> str:
    """An exception in one line of bearable length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _is_labelled(builder, split: str) -> bool:
    """Whether a split has labels; those of ImageNet's test images are not public, and -1 here."""
    (first,) = _read(_records(builder, split), [0], f"{builder.data_path}, split {split}")
    return bool(first["label"] >= 0)


def _records(builder, split: str):
    """The records of a split, their images as files."""
    import tensorflow_datasets as tfds

    images = [k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
    try:
        return builder.as_data_source(split, decoders=decoders)
    except Exception as error:  # of what dataset_info.json says of the split's files
        raise _damaged(f"{builder.data_path}, split {split}", "its files", _line(error)) from None


def _labels(source, name: str) -> Int32[np.ndarray, " n"]:
    parts = [range(len(source))[start : start + 256] for start in range(0, len(source), 256)]
    parts = tqdm(parts, "reading labels, once", delay=3, leave=False, disable=None)
    return np.array(
        [record["label"] for places in parts for record in _read(source, places, name)], "i4"
    )


def _read(source, places: Sequence[int], name: str) -> list[dict[str, Any]]:
    span = f"record {places[0]}" + (f" to {places[-1]}" if len(places) > 1 else "")
    try:
        # Many at once take a third of the time; for one, that way would start a thread.
        records = [source[places[0]]] if len(places) == 1 else source.__getitems__(list(places))
    except Exception as error:  # the reader's, which names no file
        raise _damaged(name, span, _line(error)) from None
    # Of a file that ends between two of its blocks the reader makes records that hold nothing.
    if any(record[key] is None for record in records for key in ("image", "label")):
        raise _damaged(name, span, "no image or no label: the file is not whole")
    return records


def _damaged(name: str, prefix: str, reason: str) -> DamagedFile:
    return DamagedFile(
        f"{name}: {prefix} cannot be read ({reason}): delete the folder to prepare it again"
    )


def _online() -> bool:
    """Whether a download is worth trying: TFDS itself retries for minutes before it gives up."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=5).close()
    except OSError:
        return False
    return True
