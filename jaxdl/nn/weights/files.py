"""Files of weights: which format a file has, and its tensors by their names there.

Nothing that a file holds is run, and none takes memory beyond what its size justifies: what a file
claims of itself is compared with its length before an array is made.
"""

import importlib.util
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.nn.weights import pytorch
from jaxdl.types import DamagedFile, PyTree, Variables

COMPRESSION = 64
"""The most that an npz file's arrays may be larger than the file."""
LARGEST = 8 * 2**30
"""Bytes of a file that is read; it is read whole."""


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays of the host by their paths: ``params/conv1/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts whose paths are the names: the inverse of :func:`flatten`."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def write_safetensors(path: Path, variables: Variables) -> None:
    """Write a network's collections, bit for bit, ``{"params": ..., "batch_stats": ...}``; or
    tensors by the names that their source gives them (:func:`jaxdl.nn.weights.to_source`).

    Raises:
      OSError: if the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in flatten(variables).items()}
    path.write_bytes(save(arrays, metadata={"format": "jaxdl"}))


def read_safetensors(path: Path) -> Variables:
    """The collections that :func:`write_safetensors` wrote, or what others wrote, as nested dicts.

    Raises:
      DamagedFile: if it is no such file.
      OSError: if it cannot be read.
    """
    return unflatten(_read(path, "safetensors file", _safetensors, path.read_bytes()))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by their names there; the format is recognized by the file's first
    bytes:

    * safetensors;
    * npz, without pickled objects;
    * PyTorch's, zip and legacy; of a checkpoint only the network; names of nested containers are
      joined by ``/``;
    * Flax's msgpack, with paths as names: ``params/conv1/kernel``;
    * HDF5, as Keras writes it, with the paths of data sets as names; needs h5py.

    Raises:
      DamagedFile: if it is none of these, damaged, larger than :data:`LARGEST`, or holds more than
        tensors, containers and numbers.
      ValueError: if it is HDF5, and h5py is not installed.
      OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is no file: name the file with the weights")
    if (size := path.stat().st_size) > LARGEST:
        raise DamagedFile(f"{path} has {size:,} bytes, more than the {LARGEST:,} that are read")
    data = path.read_bytes()
    if data.startswith(b"PK\x03\x04"):
        torch = pytorch.PICKLE.encode() in data
        kind, reader = ("PyTorch file", pytorch.read_zip) if torch else ("npz file", _npz)
    elif data.startswith(pytorch.MAGIC):
        kind, reader = "legacy PyTorch file", pytorch.read_legacy
    elif data.startswith(b"\x89HDF\r\n\x1a\n"):
        _require_h5py(path)
        kind, reader = "HDF5 file", _hdf5
    elif data[8:9] == b"{":
        kind, reader = "safetensors file", _safetensors
    elif data[:1] and (0x81 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        kind, reader = "Flax msgpack file", _msgpack
    else:
        raise DamagedFile(
            f"{path} begins as no file of weights: it must be safetensors, npz, PyTorch's, Flax's "
            "msgpack or HDF5"
        )
    arrays = _read(path, kind, reader, data)
    if not arrays:
        raise DamagedFile(f"{path} is a {kind} without tensors")
    for name, array in arrays.items():
        if not name.isprintable():
            raise DamagedFile(f"{path}: {name[:100]!r} is no name of a tensor")
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise DamagedFile(f"{path}: {name} is {array.dtype}, no array of numbers")
    return arrays


def _read(path: Path, kind: str, reader: Any, data: bytes) -> dict[str, np.ndarray]:
    """The result of a reader for a file, or an error of one line that says what is wrong with
    it."""
    try:
        return reader(data)
    except Exception as error:  # damaged, a file can make its reader raise nearly anything
        words = " ".join(str(error)[:300].split())
        reason = "".join(c if c.isprintable() else "?" for c in words) or type(error).__name__
        if isinstance(error, KeyError | IndexError | TypeError | AttributeError | RecursionError):
            reason = f"damaged ({type(error).__name__}: {reason})"
        raise DamagedFile(f"{path} is no {kind}: {reason}") from None


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


def _npz(data: bytes) -> dict[str, np.ndarray]:
    """Like `numpy.load`, which would make room for what a header claims before it reads it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > COMPRESSION * len(data):
            raise ValueError(f"its arrays claim more than {COMPRESSION} times the file's size")
        arrays = {}
        for member in members:
            with archive.open(member) as stream:
                # By its size: without one, all that a member holds would be made before it is cut.
                array = _npy(stream.read(member.file_size))
            arrays[member.filename.removesuffix(".npy")] = array
        return arrays


def _npy(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    rest = memoryview(data)[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{dtype}{list(shape)} was announced, and {len(rest)} bytes are there")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")


def _msgpack(data: bytes) -> dict[str, np.ndarray]:
    from flax.serialization import msgpack_restore

    leaves = flatten(msgpack_restore(data))
    return {name: leaf for name, leaf in leaves.items() if leaf.dtype.kind not in "OUS"}


def _require_h5py(path: Path) -> None:
    if importlib.util.find_spec("h5py") is None:  # no dependency of this project
        raise ValueError(f"{path}: reading HDF5 needs h5py; install it (pip install h5py)")


def _hdf5(data: bytes) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        items: list[tuple[str, Any]] = []
        file.visititems(lambda *item: items.append(item))  # follows no links, meets none twice
        sets = {name: item for name, item in items if isinstance(item, h5py.Dataset)}
        numbers = {name: item for name, item in sets.items() if item.dtype.kind in "biuf"}
        if any(item.is_virtual or item.external for item in numbers.values()):
            raise ValueError("its arrays lie in other files, which are not read")
        if sum(item.nbytes for item in numbers.values()) > len(data):
            raise ValueError("its arrays claim more than the file: are they compressed?")
        return {name: item[()] for name, item in numbers.items()}
