"""A second way to a population's first loss, by which a run checks the program that trains it.

Compilers and their libraries have faults that no test of a network's code can show: a convolution
that is right on one device has been wrong on two that ran at the same time. So the loss of every
member's first step is computed once more by a program that has little in common with the compiled
dispatch: one member at a time, nothing mapped or looped, with the compiler's default options. That
loss is the one before the update (of line searches, the one after it), so that for most optimizers
it is the forward pass that is checked.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxdl.train.parallel import axis_of, row_mesh
from jaxdl.types import PyTree

FirstLosses = Callable[..., Mapping[int, Float[np.ndarray, "*networks"]]]
"""``first_losses(*populations, shared)``: the loss of each member's first step, by its place in the
population; of the members whose devices all belong to this process."""


class WrongNumbers(RuntimeError):
    """Two programs that compute the same loss disagree by more than rounding."""


def rounding(mesh: Mesh) -> float:
    """The relative difference of two programs' losses that may be rounding: GPUs and TPUs multiply
    float32 with fewer digits unless told otherwise (TF32, bfloat16)."""
    return 1e-4 if mesh.devices.flat[0].platform == "cpu" else 2e-2


def make_first_losses(
    make_loss: Callable[[Mesh], Callable[..., Array]],
    mesh: Mesh,
    *,
    specs: Sequence[P],
    mode: str = "shard_map",
) -> FirstLosses:
    """The losses of members' first steps, one member after the other.

    Args:
      make_loss: makes, for the mesh of the devices of one member, ``loss(*member, shared)``: the
        loss (a vector where a member is several networks) of its first step.
      specs: how each argument is divided over ``mesh``; populations are divided over "member".
      mode: see :func:`jaxdl.train.population.over_members`.

    No losses, ``{}``, where one process does not see all devices of a member, in mode "fsdp" on
    several devices (a network need not fit one) and with random keys that are not threefry's.
    """
    row = row_mesh(mesh, mode)
    generator = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]  # JAX sets it later
    # Other random numbers than threefry's may differ between members that are batched and alone.
    if row is None or generator != "threefry2x32":
        return lambda *args: {}
    loss, divided = make_loss(row), axis_of(mode, mesh) is not None
    populations = [len(spec) > 0 and spec[0] == "member" for spec in specs]
    member_specs = [
        P(*spec[1:]) if population else spec
        for spec, population in zip(specs, populations, strict=True)
    ]
    if divided:
        loss = jax.shard_map(loss, mesh=row, in_specs=tuple(member_specs), out_specs=P())
    loss = jax.jit(loss)

    def first_losses(*args: PyTree) -> dict[int, np.ndarray]:
        (states, *_), losses = args, {}
        args = tuple(
            jax.tree.map(_on_host, arg) if population else _put(arg, None, row, P())
            for arg, population in zip(args, populations, strict=True)
        )
        for index in _local_members(mesh, len(jax.tree.leaves(states)[0])):
            member = [
                _put(arg, index, row, spec if divided else P()) if population else arg
                for arg, population, spec in zip(args, populations, member_specs, strict=True)
            ]
            losses[index] = np.asarray(loss(*member))
        return losses

    return first_losses


def compare(
    expected: Mapping[int, np.ndarray | np.floating],
    losses: Float[np.ndarray, " m *networks"],
    describe: Callable[[int, int], str],
    tolerance: float,
) -> float:
    """The largest difference ``|a - b| / (|a| + 10 eps / tolerance)`` between two computations of
    members' first losses, with the rounding unit ``eps`` of the losses' type.

    Up to ``tolerance`` passes, and so do losses that are not finite in both.

    Args:
      expected: of :data:`FirstLosses`.
      losses: the same of the program that trains.
      describe: from a member's place and a network's place within it to how a message names it.

    Raises:
      WrongNumbers: naming the network that differs most.
    """
    worst, largest = None, 0.0
    floor = 10 * float(np.finfo(losses.dtype).eps) / tolerance
    for index, values in expected.items():
        pairs = zip(values.reshape(-1).tolist(), losses[index].reshape(-1).tolist(), strict=True)
        for place, (plain, trained) in enumerate(pairs):
            if math.isfinite(plain) or math.isfinite(trained):
                difference = abs(plain - trained) / (abs(plain) + floor)
                difference = math.inf if math.isnan(difference) else difference
                if difference > largest:
                    largest, worst = difference, (index, place, plain, trained)
    if worst is not None and largest > tolerance:
        index, place, plain, trained = worst
        raise WrongNumbers(
            f"{describe(index, place)}: its loss is {trained:.7g} by the program that trains and "
            f"{plain:.7g} by a plain one, so this jaxlib or this machine computes wrong numbers; "
            "nothing of this step was kept. On CPU try JAX_NUM_CPU_DEVICES=1, else another jaxlib"
        )
    return largest


def _local_members(mesh: Mesh, members: int) -> list[int]:
    """Members whose devices all belong to this process."""
    share, process = members // mesh.shape["member"], jax.process_index()
    rows = [i for i, row in enumerate(mesh.devices) if all(d.process_index == process for d in row)]
    return [row * share + place for row in rows for place in range(share)]


def _put(tree: PyTree, index: int | None, mesh: Mesh, spec: P) -> PyTree:
    """A member of a population, or with None what all members share, on the devices of a mesh."""

    def put(leaf: Array | np.ndarray) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        sharding = NamedSharding(mesh, spec)
        if index is not None:
            return jax.device_put(_on_host(leaf)[index], sharding)
        if not isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        devices = set(mesh.devices.flat)  # on each of them already: not once more
        shards = [s.data for s in leaf.addressable_shards if s.device in devices]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)

    return jax.tree.map(put, tree)


def _on_host(leaf: Array | np.ndarray) -> Array | np.ndarray:
    """A population's array as one of NumPy, which slices it without compiling anything. Members of
    other processes are left uninitialized; random keys are returned unchanged.

    A copy of the whole: a view would keep the devices from reusing the array's memory.
    """
    if not isinstance(leaf, jax.Array) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    copy = np.empty(leaf.shape, leaf.dtype)
    for shard in {str(shard.index): shard for shard in leaf.addressable_shards}.values():
        copy[shard.index] = np.asarray(shard.data)  # replicas once
    return copy
