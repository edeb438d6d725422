"""Between the names of a source (PyTorch's modules) and a Flax tree: one map a family of networks.

A map is a dict with an :class:`Entry` for each tensor of the source, by its name there. It is
written with the functions below, a line a layer:

    conv("layer1.0.conv1", "block2/conv1") | norm("layer1.0.bn1", "block2/norm1") | ...
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxdl.nn.weights.files import flatten, unflatten
from jaxdl.types import PyTree, Variables


class Layout(NamedTuple):
    """The order of axes in Flax and at the source, as two functions, each the inverse of the
    other."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_source: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """The path and the layout of a source's tensor in the Flax tree."""

    path: str
    """``params/conv1/kernel``"""
    layout: Layout


Names = Mapping[str, Entry]

EQUAL = Layout(lambda x: x, lambda x: x)
KERNEL = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""OIHW there, HWIO here; depthwise too, where I is 1."""
REVERSED = Layout(lambda x: x[:, :, ::-1], lambda x: x[:, :, ::-1])
"""HWIO, with the input's channels (red, green, blue) in the opposite order."""
TRANSPOSED = Layout(np.transpose, np.transpose)
"""A dense layer's outputs first there, last here."""

COUNTERS = ("num_batches_tracked",)
"""Last parts of names that no network here has a use for: PyTorch counts training batches."""


def flattened(height: int, width: int) -> Layout:
    """The layout of a dense layer that reads a flattened image, channels first there, last here."""

    def to_flax(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, height, width).transpose(2, 3, 1, 0).reshape(-1, len(x))

    def to_source(x: np.ndarray) -> np.ndarray:
        outputs = x.shape[-1]
        return x.reshape(height, width, -1, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)

    return Layout(to_flax, to_source)


def conv(source: str, path: str, bias: bool = False) -> dict[str, Entry]:
    """A convolution's kernel, and its bias where it has one."""
    return dense(source, path, KERNEL, bias)


def dense(
    source: str, path: str, layout: Layout = TRANSPOSED, bias: bool = True
) -> dict[str, Entry]:
    """A dense layer."""
    entries = {f"{source}.weight": Entry(f"params/{path}/kernel", layout)}
    return entries | ({f"{source}.bias": Entry(f"params/{path}/bias", EQUAL)} if bias else {})


def layer_norm(source: str, path: str) -> dict[str, Entry]:
    """Scale and bias of a normalization."""
    return {
        f"{source}.weight": Entry(f"params/{path}/scale", EQUAL),
        f"{source}.bias": Entry(f"params/{path}/bias", EQUAL),
    }


def norm(source: str, path: str) -> dict[str, Entry]:
    """Batch normalization, with its running statistics."""
    return layer_norm(source, path) | {
        f"{source}.running_mean": Entry(f"batch_stats/{path}/mean", EQUAL),
        f"{source}.running_var": Entry(f"batch_stats/{path}/var", EQUAL),
    }


def to_flax(
    arrays: Mapping[str, np.ndarray], names: Names, like: PyTree, unused: tuple[str, ...] = ()
) -> Variables:
    """The Flax tree of a source's tensors.

    Args:
      arrays: arrays by the source's names, all of which may begin with ``module.``, as those of
        networks that were trained in PyTorch's DataParallel do.
      names: the family's map.
      like: the network's variables, or their shapes and types (`jax.eval_shape` of its ``init``).
      unused: prefixes of the names of tensors that are left out.

    Returns:
      Variables of the shapes and types of ``like``.

    Raises:
      ValueError: naming tensors that are missing, that the map has no use for, that have another
        shape, or parameters that the map does not set.
    """
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    left_out = (n for n in arrays if n.startswith(unused) or n.rpartition(".")[2] in COUNTERS)
    surplus = arrays.keys() - names.keys() - {*left_out}
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(like)
    }
    paths = {entry.path for entry in names.values()}
    for problem, tensor_names in (
        ("the file lacks", names.keys() - arrays.keys()),
        ("this network has no use for", surplus),
        ("the map does not set", shapes.keys() - paths),
        ("the network does not have", paths - shapes.keys()),
    ):
        if tensor_names:
            raise ValueError(
                f"other weights than of this network: {problem} {_listed(tensor_names)}"
            )
    leaves = {}
    for name, (path, layout) in names.items():
        array, leaf = arrays[name], shapes[path]
        try:
            converted = layout.to_flax(array)
        except ValueError:  # too few axes, or too few numbers
            converted = array
        if converted.shape != leaf.shape:
            raise ValueError(
                f"other weights than of this network: {name} is {list(array.shape)}, here "
                f"{path} is {list(leaf.shape)}"
            )
        leaves[path] = converted.astype(leaf.dtype)
    return unflatten(leaves)


def to_source(variables: Variables, names: Names) -> dict[str, np.ndarray]:
    """A network's tensors by their names at the source, as :func:`to_flax` takes them.

    Raises:
      ValueError: naming arrays that the map lacks, or that the network lacks.
    """
    arrays = flatten(variables)
    paths = {entry.path for entry in names.values()}
    if different := paths ^ arrays.keys():
        raise ValueError(f"the map is of another network: it differs in {_listed(different)}")
    return {name: layout.to_source(arrays[path]) for name, (path, layout) in names.items()}


def _listed(names) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")
