"""``configs/benchmark.py:data``: how many images a second reach the network, if there were one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
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

from experiments.benchmark.summaries import paragraph, series, spread, verdict
from experiments.benchmark.turns import MILLI, Benchmark, Contender, Measurements, Row, Setup, Slice
from jaxdl.data import streams
from jaxdl.data.batches import batch_ids, normalize
from jaxdl.data.encoded import cores, statistics
from jaxdl.data.folder import folder
from jaxdl.data.source import length
from jaxdl.report.tables import bullets, markdown_table
from jaxdl.train.population import member_key
from jaxdl.types import Batch

RESIDENT, TORCH = "resident", "PyTorch's DataLoader"
RESIDENT_GOAL, STREAMED_GOAL = 20.0, 1.0
"""Least ratios of our speed to the DataLoader's."""
CLASSES = ("a", "b")
SETTLE = 0.5  # seconds after which what others have read ahead is complete
AHEAD = 12  # batches: more than any worker reads ahead


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    data = config.data
    if len(data.images) != len(data.sizes) or min(data.sizes, default=0) < 8:
        raise ValueError("config.data.sizes must be 8 or more, with config.data.images of each")
    if not 1 <= data.batch <= min(data.images) or data.batches < 1:
        raise ValueError("config.data.batch must be 1 … config.data.images, batches 1 or more")
    if min(data.images) < len(CLASSES):
        raise ValueError(f"config.data.images must be {len(CLASSES)} or more")
    if min(data.workers) < 0 or data.loader_workers < 1 or data.loader_workers not in data.workers:
        raise ValueError("config.data.loader_workers must be 1 or more, and among data.workers")


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name, and their images in ``scratch``."""
    for size, images in zip(config.data.sizes, config.data.images, strict=True):
        write_images(scratch / str(size), size, images)
    streamed = {
        stream_name(workers): Setup(partial(make_streamed, scratch, workers), 1)
        for workers in config.data.workers
    }
    resident = Setup(partial(make_resident, scratch), 1)
    loader = Setup(partial(make_loader, scratch), 1, questions=("bytes",))
    return {RESIDENT: resident, **streamed, TORCH: loader}


def stream_name(workers: int) -> str:
    """The contender that streams with a number of worker processes."""
    return "streamed, " + {0: "threads", 1: "1 worker"}.get(workers, f"{workers} workers")


def kind_name(size: int) -> str:
    """The work with images of this size."""
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
            Image.fromarray(draw_picture(rng, size)).save(path, quality=90)


def draw_picture(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Noise whose amplitude falls as 1/frequency, as photographs' does, so that decoding it takes
    as long; its colours are half as strong as its light."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(4, size, size))) / frequency
    light, *colours = np.fft.irfft2(spectrum, (size, size))
    pixels = np.stack([light + colour / 2 for colour in colours], axis=-1)
    return np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)


# --- contenders --------------------------------------------------------------------------------


def make_resident(scratch: Path, config: ConfigDict) -> Contender:
    """Images on the device as bytes, each batch gathered and normalized there, in a scan, as
    :func:`jaxdl.train.population.train_resident` does."""
    slices, batches = {}, config.data.batches
    for size in config.data.sizes:
        split = folder(str(scratch / str(size))).splits["train"]
        images = streams.read(split["image"], np.arange(length(split)))
        data = jax.device_put({**split, "image": images})
        mean, deviation = statistics(images)
        draw = make_draw(mean.mean((0, 1)), deviation, steps=batches, batch=config.data.batch)
        run = partial(draw_further, draw, data, itertools.count(0, batches))
        slices[kind_name(size)] = Slice(1, batches, run, before=lambda: time.sleep(SETTLE))
    return Contender(slices)


def draw_further(draw: Callable, data: Batch, first_steps: Iterator[int]) -> None:
    """A dispatch that begins where the last one ended."""
    draw(data, next(first_steps)).block_until_ready()


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

        def gather(ids: Int[Array, " b"]) -> Batch:
            stored = jax.tree.map(lambda leaf: leaf[ids], data)
            return stored | {"image": normalize(stored["image"], mean, deviation)}

        def body(carry: tuple[Array, Batch], ids: Int[Array, " b"]) -> tuple[tuple, None]:
            total, last = carry
            pixel = jnp.unravel_index(ids[0] % last["image"].size, last["image"].shape)
            total += last["image"][pixel] + last["label"][ids[0] % batch]
            return (total, gather(ids)), None

        (total, last), _ = jax.lax.scan(body, (jnp.float32(0), gather(ids[0])), ids)
        return total + last["image"].sum() + last["label"].sum()

    return draw


def make_streamed(scratch: Path, workers: int, config: ConfigDict) -> Contender:
    """Files read while it trains, by :func:`jaxdl.data.streams.stream`; batches are put on the
    device."""
    slices, readings = {}, []
    words = np.asarray(jax.random.key_data(member_key("data")))
    for size in config.data.sizes:
        split = folder(str(scratch / str(size))).splits["train"]
        batches = streams.stream(
            split,
            [streams.Order(words, np.arange(length(split)))],
            batch=config.data.batch,
            steps=range(10**9),
            workers=workers,
        )
        arrivals = (jax.block_until_ready(jax.device_put(batch)) for batch in batches)
        slices[kind_name(size)] = take_batches(arrivals, config.data.batches, workers)
        readings.append(batches)
    return Contender(slices, close=lambda: [batches.close() for batches in readings])


def make_loader(scratch: Path, config: ConfigDict) -> Contender:
    """A PyTorch DataLoader for the same batches."""
    from torch.utils.data import DataLoader  # torch is an extra

    data, slices, loaders, sizes = config.data, {}, [], {}
    for size in data.sizes:
        files, kind = Files(scratch / str(size)), kind_name(size)
        loader = DataLoader(
            files,
            batch_size=data.batch,
            shuffle=True,
            drop_last=True,
            num_workers=data.loader_workers,
            persistent_workers=True,
        )
        loaders.append(endless(loader))
        slices[kind] = take_batches(loaders[-1], data.batches, data.loader_workers)
        sizes[kind] = float(np.mean([path.stat().st_size for path in files.paths]))

    def close() -> None:
        time.sleep(SETTLE)  # stopped in the midst of their work, PyTorch's workers may abort
        for loader in loaders:
            loader.close()

    return Contender(slices, {"bytes": lambda: sizes}, close)


class Files:
    """A data set for PyTorch: pairs of an image, uint8 [h, w, c], and a label."""

    def __init__(self, root: Path):
        from torch import from_numpy

        self.from_numpy, self.paths = from_numpy, sorted((root / "train").glob("*/*.jpg"))
        self.labels = [CLASSES.index(path.parent.name) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        with Image.open(self.paths[i]) as image:
            return self.from_numpy(np.array(image)), self.labels[i]


def endless(loader) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def take_batches(arrivals: Iterator[Any], batches: int, workers: int) -> Slice:
    """Work that takes ``batches`` batches of an endless stream in its steady state."""

    def take(count: int) -> None:
        for _ in range(count):
            next(arrivals)

    def warm_up() -> None:
        time.sleep(SETTLE)
        # What was read ahead is used up, so that as much is read as is drawn while it is timed.
        take(AHEAD * max(workers, 1))

    return Slice(1, batches, partial(take, batches), warm_up)


# --- the report --------------------------------------------------------------------------------


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    config, rows, answers, _ = measurements
    data, processors, text = config.data, cores(), []
    for size, images in zip(data.sizes, data.images, strict=True):
        kind, table = kind_name(size), []
        for name in [RESIDENT, *map(stream_name, data.workers), TORCH]:
            ms = series(rows, name, kind)
            rate = MILLI * data.batch / np.median(ms)
            ratio = spread(series(rows, TORCH, kind) / ms)
            table.append([name, f"{rate:,.0f}", f"{rate / processors:,.0f}", ratio])
        kilobytes = answers[TORCH]["bytes"][kind] / 1e3
        text += [
            f"## {images:,} JPEGs of {size} x {size} pixels, {kilobytes:.1f} kB each",
            markdown_table(["", "images/s", "a core", "times the DataLoader"], table),
        ]
    return [
        *text,
        paragraph(f"""Batches of {data.batch}; {data.batches * data.batch:,} images a round and
            contender. Images a second of all {processors} cores and divided by them, medians of
            {config.rounds} rounds; ratios round by round: the median (least–most). Resident are
            bytes on the device, gathered in the order of the key and normalized to float32 there.
            Streamed and the DataLoader ({data.loader_workers} workers, persistent, else PyTorch's
            defaults) decode the same files with Pillow {PIL.__version__}; their batches are bytes,
            ours then put on the device. Files are in the system's cache; there is no network to
            feed."""),
        "## Goals",
        bullets(goals(config, rows)),
    ]


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[str]:
    """Verdicts on the goals, by the median of the ratios."""
    streamed = stream_name(config.data.loader_workers)
    pairs = [(RESIDENT, min(config.data.sizes), RESIDENT_GOAL)]
    pairs += [(streamed, size, STREAMED_GOAL) for size in config.data.sizes]
    lines = []
    for name, size, least in pairs:
        kind = kind_name(size)
        ratio = series(rows, TORCH, kind) / series(rows, name, kind)
        goal = f"{name}, {kind}: at least {least:g} times the DataLoader"
        lines.append(verdict(goal, np.median(ratio) >= least, spread(ratio)))
    return lines


BENCHMARK = Benchmark(check, setups, sections, peers={"torch": "PyTorch"})
