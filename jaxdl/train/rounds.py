"""Members that are trained in rounds, each from states of the round before.

Between rounds states are copied on the devices: a member may go on from its own state or, with
settings of its own, from a copy of another's. A round's groups have checkpoints of their own, so
that a restart finds finished rounds as they are.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array

from jaxdl import trees
from jaxdl.train.groups import Group, Member, fit, make_groups
from jaxdl.train.logs import Name
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MeshPlacement
from jaxdl.train.state import TrainState
from jaxdl.types import PyTree

States = Mapping[Any, tuple[TrainState, int]]
"""By a network's name, the population that it is in, on the devices, and its index there."""


def train_round(
    name: str,
    members: Sequence[Member],
    parents: Mapping[Any, Any],
    states: States,
    trainer: Trainer,
    largest: int,
) -> tuple[list[Group], States]:
    """Train members, of one network each, to the last steps of their programs.

    Args:
      name: the round's; :func:`jaxdl.train.groups.make_groups` makes its groups' names of it.
      parents: by network, the one from whose state it goes on, of a program with the same arrays.
        The members of a program all have a parent, or all begin with their own starts.
      states: those after the round before.
      largest: the greatest number of members that are trained at a time.

    Returns:
      the groups, and the states after this round.
    """
    groups = make_groups(name, members, largest, even=True)
    new_states: dict[Any, tuple[TrainState, int]] = {}
    for group in groups:
        start = None
        if group.networks[0] in parents:
            origins = [states[parents[network]] for network in group.networks]
            start = copies(origins, group.placement, group.size)
        population = fit(group, trainer, start)
        new_states |= {network: (population, i) for i, network in enumerate(group.networks)}
    return groups, new_states


def last_values(
    trainer: Trainer, groups: Sequence[Group], field: str, kind: type[Name]
) -> dict[Name, float]:
    """A field of the curves at the last step of each network's group; NaN for networks that have
    diverged.

    Args:
      kind: the NamedTuple that names a network.
    """
    ends = {group.name: group.program.steps for group in groups}
    names = get_type_hints(kind)
    return {
        kind(*(record[name] for name in names)): float(record[field])
        for record in trainer.curves.records
        if record["step"] == ends.get(record["population"])
    }


def copies(
    origins: Sequence[tuple[PyTree, int]], placement: MeshPlacement, size: int = 0
) -> PyTree:
    """Members of populations of equal structure as a new population, copied on the devices, over
    which they are divided as the first of those populations is.

    Args:
      origins: populations, and the indices of members there; a member may come several times.
      size: the new population is filled up as by
        :func:`jaxdl.train.population.population_of`.
    """
    populations: list[PyTree] = []
    rows, firsts = [], {}
    for population, row in origins:
        if id(population) not in firsts:
            firsts[id(population)] = sum(map(trees.members, populations))
            populations.append(population)
        rows.append(firsts[id(population)] + row)
    leaves, structure = jax.tree.flatten(populations[0])
    copy = _copying(structure, tuple(leaf.sharding for leaf in leaves))
    return copy(populations, np.array(placement.fill(rows, size)))


@functools.lru_cache
def _copying(structure: Any, shardings: tuple[Sharding, ...]) -> jax.stages.Wrapped:
    def copy(populations: Sequence[PyTree], rows: Array) -> PyTree:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[rows], *populations)

    return jax.jit(copy, out_shardings=jax.tree.unflatten(structure, shardings))
