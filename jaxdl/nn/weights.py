"""Weights of networks in files that others read: safetensors, with paths as names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.types import DamagedFile, PyTree, Variables


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
    """Write a network's collections, bit for bit, ``{"params": ..., "batch_stats": ...}``.

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
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return unflatten(load(path.read_bytes()))
    except (SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} is no safetensors file: {error}") from None
