"""A second computation of a population's first losses, by which a run checks the program that
trains it.

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
from jax.sharding import PartitionSpec as P
from jax.sharding import Sharding
from jaxtyping import Array, Float

from jaxdl.train.parallel import MeshPlacement
from jaxdl.types import PyTree

FirstLosses = Callable[..., Mapping[int, Float[np.ndarray, "*networks"]]]
"""``first_losses(*populations, shared)``: the loss of each member's first step, by its index in the
population; of the members whose devices all belong to this process."""


class WrongNumbers(RuntimeError):
    """Two programs that compute the same loss disagree by more than rounding."""


def rounding(platform: str) -> float:
    """The relative difference of two programs' losses that may be rounding: by default GPUs and
    TPUs multiply float32 with fewer digits (TF32, bfloat16)."""
    return 1e-4 if platform == "cpu" else 2e-2


def make_first_losses(
    make_loss: Callable[[MeshPlacement], Callable[..., Array]],
    placement: MeshPlacement,
    *,
    specs: Sequence[P],
) -> FirstLosses:
    """The losses of members' first steps, one member after the other.

    No losses, ``{}``, where one process does not see all devices of a member, in mode "fsdp" on
    several devices (a network need not fit one) and with random keys that are not threefry's.

    Args:
      make_loss: makes, for the placement of one member, ``loss(*member, shared)``: the loss (a
        vector where a member is several networks) of its first step.
      specs: how each argument is divided over the mesh; populations are divided over "member".
    """
    member_placement = placement.member_placement
    generator = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]  # JAX sets it later
    # Other random numbers than threefry's may differ between members that are batched and alone.
    if member_placement is None or generator != "threefry2x32":
        return lambda *args: {}
    loss, sharding = make_loss(member_placement), member_placement.sharding
    populations = [len(spec) > 0 and spec[0] == "member" for spec in specs]
    member_specs = [
        P(*spec[1:]) if population else spec
        for spec, population in zip(specs, populations, strict=True)
    ]
    if placement.axis_name is None:  # one device, which sees whole batches
        member_specs = [P()] * len(specs)
    else:
        mesh = member_placement.mesh
        loss = jax.shard_map(loss, mesh=mesh, in_specs=tuple(member_specs), out_specs=P())
    loss = jax.jit(loss)

    def first_losses(*args: PyTree) -> dict[int, np.ndarray]:
        (states, *_), losses = args, {}
        args = tuple(
            jax.tree.map(_on_host, arg) if population else _put(arg, None, sharding(P()))
            for arg, population in zip(args, populations, strict=True)
        )
        for index in placement.local_members(len(jax.tree.leaves(states)[0])):
            member = [
                _put(arg, index, sharding(spec)) if population else arg
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
      expected: the result of :data:`FirstLosses`.
      losses: those of the program that trains.
      describe: ``describe(member, network)`` names a network in messages, by the index of its
        member and its own within the member.

    Raises:
      WrongNumbers: naming the network that differs most.
    """
    worst, largest = None, 0.0
    floor = 10 * float(np.finfo(losses.dtype).eps) / tolerance
    for member, values in expected.items():
        pairs = zip(values.reshape(-1).tolist(), losses[member].reshape(-1).tolist(), strict=True)
        for network, (plain, trained) in enumerate(pairs):
            if math.isfinite(plain) or math.isfinite(trained):
                difference = abs(plain - trained) / (abs(plain) + floor)
                difference = math.inf if math.isnan(difference) else difference
                if difference > largest:
                    largest, worst = difference, (member, network, plain, trained)
    if worst is not None and largest > tolerance:
        *indices, plain, trained = worst
        raise WrongNumbers(
            f"{describe(*indices)}: its loss is {trained:.7g} by the program that trains and "
            f"{plain:.7g} by a plain one, so this jaxlib or this machine computes wrong numbers; "
            "nothing of this step was kept. On CPU try JAX_NUM_CPU_DEVICES=1, else another jaxlib"
        )
    return largest


def _put(tree: PyTree, index: int | None, sharding: Sharding) -> PyTree:
    """A member of a population, or with None a tree that all members share, on the devices of a
    sharding."""

    def put_leaf(leaf: Array | np.ndarray) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put_leaf(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        if index is not None:
            return jax.device_put(_on_host(leaf)[index], sharding)
        if not isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        devices = sharding.device_set  # on each of them already: not once more
        shards = [s.data for s in leaf.addressable_shards if s.device in devices]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)

    return jax.tree.map(put_leaf, tree)


def _on_host(leaf: Array | np.ndarray) -> Array | np.ndarray:
    """A population's array as one of NumPy, which slices it without compiling anything. Members of
    other processes are left uninitialized; random keys are returned unchanged.

    The array is copied, since a view would keep the devices from reusing its memory.
    """
    if not isinstance(leaf, jax.Array) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    copy = np.empty(leaf.shape, leaf.dtype)
    for shard in {str(shard.index): shard for shard in leaf.addressable_shards}.values():
        copy[shard.index] = np.asarray(shard.data)  # replicas once
    return copy
