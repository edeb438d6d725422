"""Pure functions on pytrees: members stacked and unstacked, paths, counts, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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


def pad_members(population: PyTree, to: int) -> PyTree:
    """Repeat the last member until there are ``to``: the filling that makes members divide
    evenly over devices. Whoever pads drops the filling's results."""
    present = members(population)
    if to < present:
        raise ValueError(f"{present} members do not fit into {to}")
    which = jnp.minimum(jnp.arange(to), present - 1)
    return jax.tree.map(lambda leaf: leaf[which], population)


def map_with_path(fn: Callable[[str, PyTree], PyTree], tree: PyTree) -> PyTree:
    """``fn(path, leaf)`` at every leaf, the path spelled like ``conv1/kernel``."""

    def spelled(path: tuple, leaf: PyTree) -> PyTree:
        return fn(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(spelled, tree)


def select(chosen: Bool[Array, ""] | PyTree, yes: PyTree, no: PyTree) -> PyTree:
    """``where(chosen, yes, no)`` at every leaf; ``chosen`` is one boolean or a tree of them."""
    if jax.tree.structure(chosen) == jax.tree.structure(True):
        chosen = jax.tree.map(lambda _: chosen, yes)
    return jax.tree.map(lambda c, y, n: jnp.where(c, y, n), chosen, yes, no)


def count(tree: PyTree) -> int:
    """The number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no leaf holds NaN or an infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.asarray(True)


def squared_norm(tree: PyTree) -> Float[Array, ""]:
    """``sum of x^2`` over all leaves."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))
