"""Many networks, one program.

A population is a pytree whose leaves have a leading member axis. Members are divided over the
mesh's "member" axis; the members on one device are batched (`vmap`) on GPU and TPU and mapped
(`lax.map`) on CPU, where XLA is slow at the grouped convolutions that batching makes of
convolutions with different kernels. The mesh's "data" axis divides each member's batch. What all
members share, the data above all, exists once a device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray

from jaxdl.data.batches import batch_ids
from jaxdl.train.parallel import shard_members
from jaxdl.train.state import Step, TrainState
from jaxdl.types import Batch, Hyper, Metrics, PyTree

Gather = Callable[[PyTree, Hyper, Int[Array, " b"]], Batch]
"""From the resident data, a member and places (in its examples) to its batch."""


def over_members(
    fn: Callable[..., PyTree],
    mesh: Mesh,
    *,
    batched: bool | None = None,
    donate: bool = False,
) -> Callable[..., PyTree]:
    """Compile ``fn(*member, shared)`` for populations: ``run(*populations, shared)``.

    Args:
      fn: a pure function of one member's trees and, last, of what all members share.
      batched: whether the members on a device are batched or mapped; default by platform.
      donate: reuse the memory of the first argument, which is lost to the caller.

    The number of members must be a multiple of the mesh's "member" axis
    (:func:`population_of`). A member's result does not depend on its neighbours, on their order or
    on the number of devices along "member".
    """
    if batched is None:
        batched = mesh.devices.flat[0].platform != "cpu"

    def local(populations: tuple[PyTree, ...], shared: PyTree) -> PyTree:
        def one(member: tuple[PyTree, ...]) -> PyTree:
            return fn(*member, shared)

        return jax.vmap(one)(populations) if batched else lax.map(one, populations)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("member"), P()), out_specs=P("member"))

    def run(first: PyTree, *rest_and_shared: PyTree) -> PyTree:
        *rest, shared = rest_and_shared
        return sharded((first, *rest), shared)

    return jax.jit(run, donate_argnums=(0,) if donate else ())


def train_steps(
    step: Step,
    gather: Gather,
    mesh: Mesh,
    *,
    steps: int,
    batch: int,
    examples: int,
    batched: bool | None = None,
) -> Callable[[TrainState, Hyper, PyTree], tuple[TrainState, Metrics]]:
    """``run(states, hypers, data)`` trains every member for ``steps`` steps in one dispatch.

    Args:
      step: from :func:`jaxdl.train.state.make_step` with ``axis_name="data"``.
      gather: makes a batch on the device.
      batch: the size of a whole batch; a multiple of the mesh's "data" axis.
      examples: the length of each member's sequence of examples.

    Returns:
      the function; its metrics have a leading [members, steps]. The states given to it are
      consumed.

    Raises:
      ValueError: if the batch does not divide over the devices.
    """
    shards = mesh.shape["data"]
    if batch % shards:
        raise ValueError(f"a batch of {batch} does not divide over {shards} devices")

    def member(state: TrainState, hyper: Hyper, data: PyTree) -> tuple[TrainState, Metrics]:
        ids = batch_ids(hyper["key"], state.step, steps=steps, batch=batch, examples=examples)
        share = batch // shards
        ids = lax.dynamic_slice_in_dim(ids, lax.axis_index("data") * share, share, axis=1)

        def body(state: TrainState, ids: Int[Array, " b"]) -> tuple[TrainState, Metrics]:
            return step(state, gather(data, hyper, ids), hyper)

        return lax.scan(body, state, ids)

    return over_members(member, mesh, batched=batched, donate=True)


def member_key(*name: object) -> PRNGKeyArray:
    """A random key that depends on a member's name and on nothing else: not on its place among
    others, and not on the process (Python's own ``hash`` is salted)."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4], "big") >> 1)


def population_of(members: Sequence[PyTree], size: int, mesh: Mesh) -> PyTree:
    """Members stacked, filled up to ``size`` or the next multiple of the mesh's "member" axis by
    repeating the last, and divided over the devices. A constant size saves compilations."""
    devices = mesh.shape["member"]
    missing = -(-max(size, len(members)) // devices) * devices - len(members)

    def stack(*leaves: Array | np.ndarray) -> Array | np.ndarray:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return np.stack(leaves)  # on the host: on a device each new shape would be compiled

    filled = [*jax.device_get(list(members)), *[jax.device_get(members[-1])] * missing]
    return shard_members(jax.tree.map(stack, *filled), mesh)


def first_non_finite(metrics: Metrics, first_step: int) -> PyTree:
    """The step at which each network's loss first was NaN or infinite, -1 where it never was.

    Args:
      metrics: with ``loss`` of shape [members, steps, ...].
      first_step: the step that ``metrics`` begin with.
    """
    bad = ~np.isfinite(metrics["loss"])
    return np.where(bad.any(1), first_step + np.argmax(bad, axis=1), -1)
