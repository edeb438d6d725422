"""Functions on pytrees: members stacked, unstacked and counted; rows mapped in batches."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, unfreeze
from jaxtyping import Shaped

from jaxdl.types import AnyArray, PyTree


def plain(tree: PyTree) -> PyTree:
    """A tree with dicts in place of Flax's FrozenDicts, which have another structure for JAX."""
    return jax.tree.map(unfreeze, tree, is_leaf=lambda node: isinstance(node, FrozenDict))


def stack(members: Sequence[PyTree]) -> PyTree:
    """Members of equal structure as one pytree whose leaves have a leading member axis.

    Where some have FrozenDicts and others dicts, the result has dicts.

    Raises:
      ValueError: if the structures differ otherwise, naming what only one of two members has.
    """
    if len({jax.tree.structure(member) for member in members}) > 1:
        members = [plain(member) for member in members]
        for i, member in enumerate(members):
            if len({jax.tree.structure(member), jax.tree.structure(members[0])}) > 1:
                different = sorted(_paths(member) ^ _paths(members[0]))
                difference = f": only one of them has {different[0]}" if different else ""
                raise ValueError(f"members 0 and {i} differ in structure{difference}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def _paths(tree: PyTree) -> set[str]:
    paths = (path for path, _ in jax.tree.leaves_with_path(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}


def unstack(population: PyTree) -> list[PyTree]:
    """The members of a stacked pytree, in order: the inverse of :func:`stack`."""
    return [member(population, i) for i in range(members(population))]


def member(population: PyTree, index: int) -> PyTree:
    """Member ``index`` of a stacked pytree."""
    return jax.tree.map(lambda leaf: leaf[index], population)


def members(population: PyTree) -> int:
    """The length of the leading axis that all leaves share."""
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(population)}
    if len(sizes) != 1:
        raise ValueError(f"leaves disagree on the number of members: {sorted(sizes)}")
    return sizes.pop()


def count(tree: PyTree) -> int:
    """The number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def map_batches(
    size: int,
    function: Callable[..., PyTree],
    *arrays: Shaped[AnyArray, "n ..."],
    progress: Callable[[int], object] = lambda rows: None,
) -> PyTree:
    """The results of ``function(*batch)`` for all rows of arrays, on the host, in batches of one
    size: copies of its first row fill up the last, so that the function is compiled once.

    Args:
      progress: called after each batch with its number of rows.
    """
    parts = []
    for start in range(0, len(arrays[0]), size):
        batch = [np.asarray(array[start : start + size]) for array in arrays]
        count = len(batch[0])
        filled = [np.concatenate([x, np.repeat(x[:1], size - count, 0)]) for x in batch]
        outputs = jax.device_get(function(*filled))
        parts.append(jax.tree.map(lambda x, n=count: x[:n], outputs))
        progress(count)
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
