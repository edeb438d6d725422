"""``configs/benchmark.py:data``: how many images a second reach the network.

- :func:`resident`: all images on the device as bytes, each batch gathered and normalized there, in
  a scan, as :func:`jaxdl.train.population.train_resident` does, but with no network to take it;
- :func:`streamed`: files read while it trains, by :func:`jaxdl.data.streams.stream`, each batch put
  on the device;
- :func:`torch_loader`: `torch.utils.data.DataLoader` over the same files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from experiments._benchmark_transferability import paragraph
from experiments._interleave import Contender, Row, Setup, Slice, format_ratio, series
from jaxdl.data import streams
from jaxdl.data.batches import batch_ids, normalize
from jaxdl.data.encoded import cores, statistics
from jaxdl.data.folder import folder
from jaxdl.data.source import Split, length
from jaxdl.report.tables import markdown_table
from jaxdl.train.population import member_key
from jaxdl.types import Batch

RESIDENT, TORCH = "resident", "PyTorch's DataLoader"
GOALS = {"resident": 20.0, "streamed": 1.0}
CLASSES = ("a", "b")
SETTLE = 0.5  # seconds after which what others have read ahead is complete
AHEAD = 12  # batches: more than any worker reads ahead


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    of = config.data
    if len(of.images) != len(of.sizes) or min(of.sizes, default=0) < 8:
        raise ValueError("config.data.sizes must be 8 or more, with config.data.images of each")
    if not 1 <= of.batch <= min(of.images) or of.batches < 1:
        raise ValueError("config.data.batch must be 1 … config.data.images, batches 1 or more")
    if min(of.images) < len(CLASSES):
        raise ValueError(f"config.data.images must be {len(CLASSES)} or more")
    if min(of.workers) < 0 or of.loader_workers < 1 or of.loader_workers not in of.workers:
        raise ValueError("config.data.loader_workers must be 1 or more, and among data.workers")


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name, and their images in ``scratch``."""
    for size, count in zip(config.data.sizes, config.data.images, strict=True):
        write_images(scratch / str(size), size, count)
    return {
        RESIDENT: Setup(partial(resident, scratch), 1),
        **{
            name(workers): Setup(partial(streamed, scratch, workers), 1)
            for workers in config.data.workers
        },
        TORCH: Setup(partial(torch_loader, scratch), 1, questions=("bytes",)),
    }


def name(workers: int) -> str:
    """Of the contender that streams with so many worker processes."""
    how = {0: "threads", 1: "1 worker"}.get(workers, f"{workers} workers")
    return f"streamed, {how}"


def kind(size: int) -> str:
    """Of work: images of this size."""
    return f"{size} px"


# --- images ------------------------------------------------------------------------------------


def write_images(root: Path, size: int, count: int) -> None:
    """``count`` JPEGs in ``root/train``, and one a class in ``root/val`` and ``root/test``."""
    rng = np.random.default_rng(size)
    for split, number in (("train", count), ("val", len(CLASSES)), ("test", len(CLASSES))):
        for label in CLASSES:
            (root / split / label).mkdir(parents=True)
        for i in range(number):
            path = root / split / CLASSES[i % len(CLASSES)] / f"{i:06}.jpg"
            Image.fromarray(picture(rng, size)).save(path, quality=90)


def picture(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Noise whose amplitude falls as 1/frequency, as photographs' does, so that decoding it takes
    as long; its colours are half as strong as its light."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(4, size, size))) / frequency
    light, *colours = np.fft.irfft2(spectrum, (size, size))
    pixels = np.stack([light + colour / 2 for colour in colours], axis=-1)
    return np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)


def training_split(root: Path) -> Split:
    """The images and labels of ``root/train``."""
    return folder(str(root)).splits["train"]


# --- contenders --------------------------------------------------------------------------------


def resident(scratch: Path, config: ConfigDict) -> Contender:
    """Batches gathered on the device, in a scan."""
    of = config.data
    return Contender(
        {kind(size): gathering(training_split(scratch / str(size)), of) for size in of.sizes}
    )


def gathering(split: Split, of: ConfigDict) -> Slice:
    """So many batches of a split that is on the device."""
    images = streams.read(split["image"], np.arange(length(split)))
    data = jax.device_put({**split, "image": images})
    mean, deviation = statistics(images)
    draw = make_draw(mean.mean((0, 1)), deviation, steps=of.batches, batch=of.batch)
    step = 0

    def run() -> None:
        nonlocal step
        draw(data, step).block_until_ready()
        step += of.batches

    return Slice(1, of.batches, run, before=lambda: time.sleep(SETTLE))


def make_draw(
    mean: Float[np.ndarray, " c"], deviation: Float[np.ndarray, " c"], *, steps: int, batch: int
) -> Callable[[Batch, int], Float[Array, ""]]:
    """``draw(data, first)``: gather and normalize the batches of ``steps`` steps from ``first`` on.

    Each batch is carried to the next step, which adds a pixel of it that is known only then to what
    is returned in the end: so all of it must be made, as for a network, whereas of a batch that is
    only summed XLA makes the sum, pixel by pixel, and no batch.
    """

    @jax.jit
    def draw(data: Batch, first: Int[Array, ""]) -> Float[Array, ""]:
        examples = len(data["label"])
        ids = batch_ids(member_key("data"), first, steps=steps, batch=batch, examples=examples)

        def gathered(ids: Int[Array, " b"]) -> Batch:
            stored = jax.tree.map(lambda leaf: leaf[ids], data)
            return stored | {"image": normalize(stored["image"], mean, deviation)}

        def body(carry: tuple[Array, Batch], ids: Int[Array, " b"]):
            total, last = carry
            pixel = jnp.unravel_index(ids[0] % last["image"].size, last["image"].shape)
            return (
                total + last["image"][pixel] + last["label"][ids[0] % batch],
                gathered(ids),
            ), None

        (total, last), _ = jax.lax.scan(body, (jnp.float32(0), gathered(ids[0])), ids)
        return total + last["image"].sum() + last["label"].sum()

    return draw


def streamed(scratch: Path, workers: int, config: ConfigDict) -> Contender:
    """Batches out of files, put on the device."""
    of, slices, readings = config.data, {}, []
    words = np.asarray(jax.random.key_data(member_key("data")))
    for size in of.sizes:
        split = training_split(scratch / str(size))
        reading = streams.stream(
            split,
            [streams.Order(words, np.arange(len(split["label"])))],
            batch=of.batch,
            steps=range(10**9),
            workers=workers,
        )
        arriving = (jax.block_until_ready(jax.device_put(batch)) for batch in reading)
        slices[kind(size)] = drawing(arriving, of.batches, workers)
        readings.append(reading)
    return Contender(slices, close=lambda: [reading.close() for reading in readings])


def torch_loader(scratch: Path, config: ConfigDict) -> Contender:
    """What one would write with PyTorch."""
    from torch.utils.data import DataLoader  # torch is an extra

    of, slices, loaders = config.data, {}, []
    for size in of.sizes:
        loader = DataLoader(
            Files(scratch / str(size)),
            batch_size=of.batch,
            shuffle=True,
            drop_last=True,
            num_workers=of.loader_workers,
            persistent_workers=True,
        )
        loaders.append(endless(loader))
        slices[kind(size)] = drawing(loaders[-1], of.batches, of.loader_workers)
    means = {
        kind(size): float(np.mean([p.stat().st_size for p in files(scratch / str(size))]))
        for size in of.sizes
    }

    def close() -> None:
        time.sleep(SETTLE)  # stopped in the midst of their work, PyTorch's workers may abort
        for loader in loaders:
            loader.close()

    return Contender(slices, {"bytes": lambda: means}, close)


def files(root: Path) -> list[Path]:
    """The training images."""
    return sorted((root / "train").glob("*/*.jpg"))


class Files:
    """A data set for PyTorch: pairs of an image, uint8 [h, w, c], and a label."""

    def __init__(self, root: Path):
        from torch import from_numpy

        self.from_numpy, self.paths = from_numpy, files(root)
        self.labels = [CLASSES.index(path.parent.name) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int):
        with Image.open(self.paths[place]) as image:
            return self.from_numpy(np.array(image)), self.labels[place]


def endless(loader) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def drawing(arriving: Iterator[Any], batches: int, workers: int) -> Slice:
    """So many batches of an endless stream, from a steady state."""

    def draw(count: int) -> None:
        for _ in range(count):
            next(arriving)

    def before() -> None:
        time.sleep(SETTLE)
        # What was read ahead is used up, so that as much is read as is drawn while it is timed.
        draw(AHEAD * max(workers, 1))

    return Slice(1, batches, partial(draw, batches), before)


# --- the report --------------------------------------------------------------------------------


def sections(
    config: ConfigDict,
    rows: Sequence[Row],
    answers: Mapping[str, Mapping[str, Any]],
    first_seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """What the report says; see :func:`experiments._benchmark_transferability.sections`."""
    of, here = config.data, cores()
    contenders = [RESIDENT, *map(name, of.workers), TORCH]
    text = []
    for size, count in zip(of.sizes, of.images, strict=True):
        ms = {what: series(rows, what, {kind(size): 1.0}) for what in contenders}
        table = []
        for what, times in ms.items():
            rate = of.batch / np.median(times) * 1e3
            ratio = format_ratio(ms[TORCH], times)
            table.append([what, f"{rate:,.0f}", f"{rate / here:,.0f}", ratio])
        kilobytes = answers[TORCH]["bytes"][kind(size)] / 1e3
        text += [
            f"## {count:,} JPEGs of {size} x {size} pixels, {kilobytes:.1f} kB each",
            markdown_table(["", "images/s", "a core", "times the DataLoader"], table),
        ]
    text += [
        paragraph(f"""Batches of {of.batch}; {of.batches * of.batch:,} images a round and contender.
            Images a second of all {here} cores and divided by them, medians of {config.rounds}
            rounds; ratios round by round: the median (least–most). Resident are bytes on the
            device, gathered in the order of the key and normalized to float32 there. Streamed and
            the DataLoader ({of.loader_workers} workers, persistent, else PyTorch's defaults) decode
            the same files with Pillow {PIL.__version__}; their batches are bytes, ours then put on
            the device. Files are in the system's cache; there is no network to feed."""),
        "## Goals",
        "\n".join(goals(config, rows)),
    ]
    return "\n\n".join(text)


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[str]:
    """Whether they are met, by the median of the ratios."""
    of = config.data

    def line(what: str, size: int, least: float) -> str:
        weights = {kind(size): 1.0}
        reference, times = series(rows, TORCH, weights), series(rows, what, weights)
        met = "met" if np.median(reference / times) >= least else "NOT met"
        ratio = format_ratio(reference, times)
        return f"- {what}, {kind(size)}: at least {least:g} times the DataLoader: {met}, {ratio}."

    return [
        line(RESIDENT, min(of.sizes), GOALS["resident"]),
        *(line(name(of.loader_workers), size, GOALS["streamed"]) for size in of.sizes),
    ]
