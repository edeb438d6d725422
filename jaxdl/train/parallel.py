"""Placement of populations on devices: a mesh, and who divides the work over it."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from jaxdl.types import PyTree

T = TypeVar("T")

MODES = ("shard_map", "jit", "fsdp", "pmap")
"""Who divides the work: a program for each device; the compiler, by shardings, with each network
whole on its devices or (fully sharded data parallel) its arrays divided over them; pmap."""

MEMBERS, BATCHES, STREAM = P("member"), P("member", "data"), P("member", None, "data")
"""How arrays are divided over the mesh: a population's; batches [members, batch]; and those of
several steps, [members, steps, batch]."""


@dataclasses.dataclass(frozen=True)
class MeshPlacement:
    """A mesh with the axes ("member", "data"), networks along one, their batches along the other,
    and who divides the work over it. See :func:`make_placement`.

    Raises:
      ValueError: for an unknown mode, or pmap on a mesh of two axes or with several processes.
    """

    mesh: Mesh
    mode: str = "shard_map"
    """One of :data:`MODES`."""

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if self.mode == "pmap" and min(self.mesh.shape.values()) > 1:
            raise ValueError(
                f"pmap divides members or batches, not both: this mesh is {dict(self.mesh.shape)}"
            )
        if self.mode == "pmap" and jax.process_count() > 1:
            raise ValueError("pmap is for one process: choose shard_map or jit")

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step itself must average, for ``make_step`` and normalization.

        None where it sees whole batches: under jit and fsdp, whose compiler adds the communication,
        and under pmap where the members, and not their batches, are divided.
        """
        averages = self.mode == "shard_map" or (self.mode == "pmap" and self.data_devices > 1)
        return "data" if averages else None

    @property
    def member_devices(self) -> int:
        """Devices along "member": the number of members of a population is a multiple of it."""
        return self.mesh.shape["member"]

    @property
    def data_devices(self) -> int:
        """Devices along "data", which share each batch."""
        return self.mesh.shape["data"]

    @property
    def platform(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``."""
        return self.mesh.devices.flat[0].platform

    @property
    def member_placement(self) -> "MeshPlacement | None":
        """The devices on which one member is trained, the first that all belong to this process.

        One device where the step sees whole batches; None if the devices of every member belong to
        several processes, or "fsdp" divides networks that one may not hold.
        """
        rows = self.mesh.devices[self._local.all(axis=1)]
        if not len(rows) or (self.mode == "fsdp" and self.data_devices > 1):
            return None
        devices = rows[:1] if self.axis_name is not None else rows[:1, :1]
        return MeshPlacement(_make_mesh(devices), self.mode)

    def fill(self, members: Sequence[T], size: int = 0) -> list[T]:
        """Members, and copies of the last up to ``size``, or the next multiple of
        ``member_devices``."""
        devices = self.member_devices
        missing = -(-max(size, len(members)) // devices) * devices - len(members)
        return [*members, *[members[-1]] * missing]

    def local_members(self, members: int) -> list[int]:
        """The indices, among so many members, of those whose devices all belong to this process."""
        local_rows = self._local.all(axis=1)
        return np.flatnonzero(np.repeat(local_rows, members // self.member_devices)).tolist()

    @property
    def _local(self) -> np.ndarray:
        """Bools [member, data]: whether a device belongs to this process."""
        process, devices = jax.process_index(), self.mesh.devices
        return np.array([[device.process_index == process for device in row] for row in devices])

    def part_of_process(self) -> tuple[slice, slice]:
        """Which of the mesh's rows, along "member", and columns, along "data", are devices of this
        process.

        Raises:
          ValueError: unless these are a rectangle of the mesh, and its columns one of the equal
            parts into which the processes divide "data".
        """
        process, data, local = jax.process_index(), self.data_devices, self._local
        if not local.any():
            raise ValueError(f"no device of process {process} is on the mesh")
        rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(local))
        width = columns.stop - columns.start
        if not local[rows, columns].all() or data % width or columns.start % width:
            raise ValueError(
                f"the {local.sum()} device(s) of process {process} are no rectangle of the mesh, "
                f"member={len(local)} times data={data}, or no equal part: order devices by "
                "process, as make_placement does, and let data be a divisor or a multiple of each "
                "process's number"
            )
        return rows, columns

    def sharding(self, spec: P) -> NamedSharding:
        """The devices of this mesh, over which arrays are divided by ``spec``."""
        return NamedSharding(self.mesh, spec)

    def array_spec(self, shape: Sequence[int]) -> P:
        """How "fsdp" divides an array of one network over "data": along its longest axis that can
        be."""
        devices = self.data_devices
        divisible = [axis for axis, size in enumerate(shape) if size and size % devices == 0]
        if devices == 1 or not divisible:
            return P()
        longest = max(divisible, key=lambda axis: shape[axis])
        return P(*[None] * longest, "data")

    def replicate(self, tree: PyTree) -> PyTree:
        """A copy of every leaf on every device."""
        return put(tree, self.sharding(P()))

    def shard_members(self, tree: PyTree) -> PyTree:
        """Members divided over "member", by the leading axis of each leaf."""
        return put(tree, self.sharding(MEMBERS))


def make_placement(
    member: int = -1,
    data: int = 1,
    mode: str = "shard_map",
    devices: Sequence[jax.Device] | None = None,
) -> MeshPlacement:
    """A placement on ``member`` times ``data`` devices; by default every network whole on one of
    all devices.

    Args:
      member, data: devices along each axis; -1, for at most one of them, takes all that are left.
      mode: one of :data:`MODES`.
      devices: default is all of them, those of a process side by side.

    Raises:
      ValueError: if the axes do not multiply to the number of devices; see :class:`MeshPlacement`.
    """
    if devices is None:  # their own order may be another, as that of a TPU's wiring
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    shape = [member, data]
    if -1 in shape:
        axis = shape.index(-1)
        shape[axis] = len(devices) // abs(shape[1 - axis]) if shape[1 - axis] else 0
    if min(shape) < 1 or shape[0] * shape[1] != len(devices):
        raise ValueError(
            f"a mesh of member={member} times data={data} does not take all {len(devices)} "
            "device(s): choose two numbers of that product, or -1 for one of them (on CPU "
            "JAX_NUM_CPU_DEVICES is the number of devices)"
        )
    return MeshPlacement(_make_mesh(np.asarray(devices).reshape(shape)), mode)


def _make_mesh(devices: np.ndarray) -> Mesh:
    # Auto: arrays need no sharding in their types, which Flax's modules do not know about.
    return Mesh(devices, ("member", "data"), axis_types=(AxisType.Auto,) * 2)


def put(tree: PyTree, sharding: Sharding) -> PyTree:
    """Arrays of the host, the same on every process, divided over the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put_leaf(leaf: Array | np.ndarray) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put_leaf(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put_leaf, tree)


def to_host(tree: PyTree) -> PyTree:
    """Arrays of the host, whole on every process, from arrays divided over the devices of all."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, Array)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
