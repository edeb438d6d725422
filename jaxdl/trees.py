"""Pure functions on pytrees: members stacked, unstacked and counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdl.types import PyTree


def stack(members: Sequence[PyTree]) -> PyTree:
    """Members of equal structure as one pytree whose leaves have a leading member axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


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
