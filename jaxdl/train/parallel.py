"""Meshes, and the three ways to run one step on all devices of one."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdl.train.state import Step
from jaxdl.types import PyTree


def make_mesh(member: int = -1, data: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ("member", "data"): networks along one, a batch along the other.

    Args:
      member, data: devices along each axis; -1, for at most one of them, takes what is left.
      devices: default is all of them.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = [member, data]
    if -1 in shape:
        place = shape.index(-1)
        shape[place] = len(devices) // abs(shape[1 - place]) if shape[1 - place] else 0
    if min(shape) < 1 or shape[0] * shape[1] != len(devices):
        raise ValueError(
            f"a mesh of member={member} times data={data} does not fit {len(devices)} device(s)"
        )
    # Auto: arrays need no sharding in their types, which Flax's modules do not know about.
    return Mesh(
        np.asarray(devices).reshape(shape), ("member", "data"), axis_types=(AxisType.Auto,) * 2
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_members(tree: PyTree, mesh: Mesh) -> PyTree:
    """Members divided over the mesh's member axis, by the leading axis of each leaf."""
    return jax.device_put(tree, NamedSharding(mesh, P("member")))


def jit_step(step: Step, mesh: Mesh) -> Step:
    """One network, the batch divided over "data" by shardings: the compiler adds what
    communication is needed. Build ``step`` without an axis name."""
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    return jax.jit(step, in_shardings=(whole, split, whole), out_shardings=(whole, whole))


def shard_map_step(step: Step, mesh: Mesh) -> Step:
    """The same, with the program of one device written out; build ``step`` with
    ``axis_name="data"``."""
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=(P(), P()))
    )


def pmap_step(step: Step, devices: Sequence[jax.Device] | None = None) -> Step:
    """The same through pmap: the batch has a leading device axis, the state and what comes back
    too (equal on all devices). Build ``step`` with ``axis_name="data"``."""
    return jax.pmap(step, axis_name="data", devices=devices, in_axes=(0, 0, None))
