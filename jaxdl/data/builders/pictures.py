"""Drawn pictures with answers: a random stream for each, the cache, clouds."""

import operator
from collections.abc import Callable, Mapping

import numpy as np
import PIL
from jaxtyping import Float
from PIL import Image

from jaxdl.data.cache import cached


def draw_pictures(
    name: str,
    draw: Callable[[np.random.Generator, int], Mapping[str, np.ndarray]],
    count: int,
    seed: int | tuple[int, ...],
    size: int,
    recipe: tuple,
) -> dict[str, np.ndarray]:
    """Arrays of ``count`` pictures, each drawn with its own random stream, or read from the cache.

    Args:
      name: prefix of messages, and of the file's name in the cache.
      draw: one picture of that size in pixels, and its answers.
      recipe: other settings that the arrays depend on, for the cache.

    Raises:
      ValueError: ``count`` is below 1 or ``size`` below 16.
    """
    count, size = operator.index(count), operator.index(size)
    for argument, value, least in (("count", count, 1), ("size", size, 16)):
        if value < least:
            raise ValueError(f"{name}: {argument} is {value}; ask for {least} or more")

    def draw_all() -> dict[str, np.ndarray]:
        streams = (np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(count))
        pictures = [draw(np.random.default_rng(stream), size) for stream in streams]
        return {array: np.stack([p[array] for p in pictures]) for array in pictures[0]}

    versions = (np.__version__, PIL.__version__)
    return dict(cached(f"{name}-{count}-{size}", (recipe, count, seed, size, versions), draw_all))


def cloud(rng: np.random.Generator, cells: int, size: int) -> Float[np.ndarray, "{size} {size}"]:
    """Smooth noise, about N(0, 1), of ``cells`` cells a side."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
