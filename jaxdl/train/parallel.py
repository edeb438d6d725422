"""Meshes, the ways to run one step on all devices of one, and what is placed where on it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from jaxdl.types import PyTree


def make_mesh(member: int = -1, data: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ("member", "data"): networks along one, a batch along the other.

    Args:
      member, data: devices along each axis; -1, for at most one of them, takes what is left.
      devices: default is all of them, those of a process side by side.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    if devices is None:  # their own order may be another, as that of a TPU's wiring
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    shape = [member, data]
    if -1 in shape:
        place = shape.index(-1)
        shape[place] = len(devices) // abs(shape[1 - place]) if shape[1 - place] else 0
    if min(shape) < 1 or shape[0] * shape[1] != len(devices):
        raise ValueError(
            f"a mesh of member={member} times data={data} is not one of all {len(devices)} "
            "device(s): these are to be multiplied to that, and -1 is what is left (on CPU "
            "JAX_NUM_CPU_DEVICES says how many there are)"
        )
    # Auto: arrays need no sharding in their types, which Flax's modules do not know about.
    return Mesh(
        np.asarray(devices).reshape(shape), ("member", "data"), axis_types=(AxisType.Auto,) * 2
    )


MODES = ("shard_map", "jit", "fsdp", "pmap")
"""Who divides the work: a program for each device; the compiler, by shardings, with each network
whole on its devices or (fully sharded data parallel) its arrays divided over them; pmap."""


def axis_of(mode: str, mesh: Mesh) -> str | None:
    """The axis over which a step itself must average, for ``make_step`` and normalization.

    None where it sees whole batches: under jit, whose compiler adds what communication is needed,
    and under pmap where the members, and not their batches, are divided.

    Raises:
      ValueError: for an unknown mode, or pmap on a mesh of two axes or with several processes.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    if mode == "pmap" and min(mesh.shape.values()) > 1:
        raise ValueError(
            f"pmap divides members or batches, not both: this mesh is {dict(mesh.shape)}"
        )
    if mode == "pmap" and jax.process_count() > 1:
        raise ValueError("pmap is for one process: choose shard_map or jit")
    if mode in ("jit", "fsdp") or (mode == "pmap" and mesh.shape["data"] == 1):
        return None
    return "data"


@dataclasses.dataclass(frozen=True)
class MeshPlacement:
    """How populations lie on the devices: a mesh, and who divides the work on it.

    Raises:
      ValueError: for a mode that is unknown, or that the mesh does not allow.
    """

    mesh: Mesh
    mode: str = "shard_map"
    """One of :data:`MODES`."""

    def __post_init__(self):
        axis_of(self.mode, self.mesh)

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step averages: see :func:`axis_of`."""
        return axis_of(self.mode, self.mesh)

    @property
    def member_devices(self) -> int:
        """Devices along "member": the number of members of a population is a multiple of it."""
        return self.mesh.shape["member"]

    @property
    def data_devices(self) -> int:
        """Devices along "data", which share each batch."""
        return self.mesh.shape["data"]


def row_mesh(mesh: Mesh, mode: str) -> Mesh | None:
    """The devices on which one member is trained, the first that all belong to this process.

    One device where the step sees whole batches (:func:`axis_of`); None if the devices of every
    member belong to several processes, or "fsdp" divides networks that one may not hold.
    """
    if mode == "fsdp" and mesh.shape["data"] > 1:
        return None
    process = jax.process_index()
    rows = [row for row in mesh.devices if all(d.process_index == process for d in row)]
    if not rows:
        return None
    row = rows[0] if axis_of(mode, mesh) is not None else rows[0][:1]
    return Mesh(row.reshape(1, -1), mesh.axis_names, axis_types=mesh.axis_types)


def array_spec(shape: Sequence[int], mesh: Mesh) -> P:
    """How an array of one network is divided over "data": along its longest axis that can be."""
    devices = mesh.shape["data"]
    able = [axis for axis, size in enumerate(shape) if size and size % devices == 0]
    if devices == 1 or not able:
        return P()
    longest = max(able, key=lambda axis: shape[axis])
    return P(*[None] * longest, "data")


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of every leaf on every device."""
    return place(tree, NamedSharding(mesh, P()))


def shard_members(tree: PyTree, mesh: Mesh) -> PyTree:
    """Members divided over the mesh's member axis, by the leading axis of each leaf."""
    return place(tree, NamedSharding(mesh, P("member")))


def place(tree: PyTree, sharding: Sharding) -> PyTree:
    """Arrays of the host, the same on every process, divided over the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(leaf: Array | np.ndarray) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(one, tree)


def part_of_process(mesh: Mesh) -> tuple[slice, slice]:
    """Which of the mesh's places along "member", and along "data", are devices of this process.

    Raises:
      ValueError: unless these are a rectangle of the mesh, and its columns one of the equal parts
        into which the processes divide "data".
    """
    process, data = jax.process_index(), mesh.shape["data"]
    local = np.array([[device.process_index == process for device in row] for row in mesh.devices])
    if not local.any():
        raise ValueError(f"no device of process {process} is on the mesh")
    rows, columns = (slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(local))
    width = columns.stop - columns.start
    if not local[rows, columns].all() or data % width or columns.start % width:
        raise ValueError(
            f"the {local.sum()} device(s) of process {process} are no rectangle of the mesh, "
            f"member={len(local)} times data={data}, or no equal part: order devices by process, "
            "as make_mesh does, and let data be a divisor or a multiple of each process's number"
        )
    return rows, columns


def to_host(tree: PyTree) -> PyTree:
    """Arrays of the host, whole on every process, of what is divided over the devices of all."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, Array)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
