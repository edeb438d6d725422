"""Class probabilities of image files by a trained network."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxdl.data.encoded import Form, cores, decode
from jaxdl.data.folder import SUFFIXES
from jaxdl.data.source import printable
from jaxdl.trees import map_batches
from jaxdl.types import AnyArray, DamagedFile, Variables


class Classifier(NamedTuple):
    """A trained network with all that it takes to classify image files::

    pixels = classifier.decode(path.read_bytes(), path.name)
    logits = classifier.model.apply(classifier.variables, classifier.see(pixels[None]))
    """

    model: Any
    """The Flax module: ``model.apply(variables, x)`` are logits [b, k]."""
    variables: Variables
    see: Callable[[UInt8[AnyArray, "b h w c"]], Float[AnyArray, "b oh ow c"]]
    """A function from pixels to the network's input; may be traced."""
    decode: Callable[[bytes, str], UInt8[np.ndarray, "h w c"]]
    """A function from a file's content, and its name for messages, to pixels of the network's image
    size; raises DamagedFile."""
    class_names: tuple[str, ...]
    views: str = ""
    """One of :data:`VIEWS`."""


VIEWS = ("", "mirrored", "turned")
"""Views whose outputs are averaged: the image; also mirrored; also both turned by 0, 90, 180 and
270 degrees."""


def make_logits(
    apply: Callable[[Variables, AnyArray], Float[Array, "b ..."]], views: str
) -> Callable[[Variables, AnyArray], Float[Array, "b ..."]]:
    """``logits(variables, x)`` of a network: the mean over :data:`VIEWS` of images [b, h, w, c].
    Maps of logits, [b, h, w, k], are first mirrored and turned back."""
    if not views:
        return apply
    turns = range(4 if views == "turned" else 1)

    def logits(variables: Variables, x: AnyArray) -> Float[Array, "b ..."]:
        outputs = []
        for turn, side in product(turns, (1, -1)):
            y = apply(variables, jnp.rot90(x, turn, (1, 2))[:, :, ::side])
            outputs.append(jnp.rot90(y[:, :, ::side], -turn, (1, 2)) if y.ndim == 4 else y)
        return sum(outputs[1:], outputs[0]) / len(outputs)

    return logits


def decoder(
    shape: Sequence[int], fit: str = "crop"
) -> Callable[[bytes, str], UInt8[np.ndarray, "h w c"]]:
    """``decode(content, name)``: a file's image in the shape [h, w, c] of a data set's images.

    Where those are squares it is made one, as ``fit`` of :class:`jaxdl.data.encoded.Form` says;
    otherwise one of another size raises DamagedFile.
    """
    height, width, channels = shape
    form = Form(height if height == width else 0, fit, channels).check()

    def decode_as(content: bytes, name: str) -> UInt8[np.ndarray, "h w c"]:
        pixels = decode(content, name, form)
        if pixels.shape != tuple(shape):
            raise DamagedFile(
                f"{name}: the image is {pixels.shape[1]} pixels wide and {pixels.shape[0]} high, "
                f"the network's are {width} by {height}: cut or resize it"
            )
        return pixels

    return decode_as


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder and those below it, by name.

    Raises:
      ValueError: if there is no such folder, or no image (:data:`jaxdl.data.folder.SUFFIXES`).
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one with images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(SUFFIXES)})")
    return paths


def classify(
    classifier: Classifier, paths: Sequence[Path], batch: int = 64
) -> Iterator[tuple[Float[np.ndarray, "b k"], UInt8[np.ndarray, "b h w c"]]]:
    """The probabilities of all classes for image files, and their pixels, ``batch`` by batch.

    Raises:
      DamagedFile: naming a file that is no whole image.
      OSError: if one cannot be read.
    """
    logits = make_logits(classifier.model.apply, classifier.views)

    @jax.jit
    def probabilities(variables: Variables, pixels: AnyArray) -> AnyArray:
        return jax.nn.softmax(logits(variables, classifier.see(pixels)))

    def read(path: Path) -> UInt8[np.ndarray, "h w c"]:
        return classifier.decode(path.read_bytes(), printable(str(path)))

    batch = min(batch, len(paths))
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(paths), batch):
            pixels = np.stack(list(threads.map(read, paths[start : start + batch])))
            yield map_batches(batch, partial(probabilities, classifier.variables), pixels), pixels
