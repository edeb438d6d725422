"""Many networks, one program.

A population is a pytree whose leaves have a leading member axis. Members are divided over the
mesh's "member" axis; the members on one device are batched (`vmap`) on GPU and TPU and mapped
(`lax.map`) on CPU, where XLA is slow at the grouped convolutions that batching makes of
convolutions with different kernels. The mesh's "data" axis divides each member's batch. Data that
all members share exist once a device.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Key, PRNGKeyArray

from jaxdl.data.batches import batch_ids
from jaxdl.train.parallel import MEMBERS, STREAM, MeshPlacement, put, to_host
from jaxdl.train.state import PREPARE, Step, TrainState, step_key
from jaxdl.train.verification import FirstLosses, make_first_losses
from jaxdl.types import Batch, Hyper, Metrics, PyTree

Prepare = Callable[[Batch, Hyper, PRNGKeyArray | None], Batch]
"""``prepare(stored, hyper, key)``: the batch that a member's network sees, from images 0 … 255 and
labels as they are stored; with a key in training, for augmentation, and without one in
evaluation."""


def over_members(
    fn: Callable[..., PyTree],
    placement: MeshPlacement,
    *,
    specs: Sequence[P] | None = None,
    out_spec: P = MEMBERS,
    batched: bool | None = None,
    donate: bool = False,
    check_vma: bool = True,
) -> jax.stages.Wrapped:
    """Compile ``fn(*member, shared)`` for populations: ``run(*populations, shared)``.

    Args:
      fn: a pure function of one member's trees and, last, of a tree that all members share.
      placement: in the modes ``shard_map`` and ``pmap`` a device runs ``fn`` with its share of a
        batch, else ``fn`` sees it whole: see
        :attr:`jaxdl.train.parallel.MeshPlacement.axis_name`.
      specs: how each argument is divided over the mesh; those whose first axis is "member" are
        populations. Default: all but the last are, and that is on every device.
      out_spec: how the result is divided.
      batched: whether the members on a device are batched or mapped; default by platform.
      donate: reuse the memory of the first argument, which is lost to the caller.
      check_vma: see `jax.shard_map`; off for functions that its types do not allow, such as line
        searches, and only where a member is not divided over the mesh's "data" axis.

    The number of members must be a multiple of the mesh's "member" axis
    (:func:`population_of`). A member's result does not depend on its neighbours or on their order;
    on the number of devices along "member" it depends by float32 rounding at most. XLA makes other
    programs for one device and for several, and for another number of members on a device. Mapped
    networks that are trained whole (bases, fine-tuned ones) are equal bit for bit on 1, 2 and 4
    CPU devices. Those that share a frozen prefix (:func:`jaxdl.transfer.shared_prefix_loss`), and
    batched ones of any kind, differ by 1e-7 of their first losses, as much as each does from
    float64, and training enlarges that as it does any rounding.
    """
    mesh = placement.mesh
    batched = placement.platform != "cpu" if batched is None else batched

    def specs_of(args: tuple) -> tuple[P, ...]:
        return tuple(specs or (*[MEMBERS] * (len(args) - 1), P()))

    def split(args: tuple) -> tuple[tuple, Callable[[tuple], tuple]]:
        """The populations among the arguments; and the function that puts a member of each in its
        population's place."""
        divided = [len(spec) > 0 and spec[0] == "member" for spec in specs_of(args)]

        def join(member: tuple) -> tuple:
            values = iter(member)
            return tuple(next(values) if d else arg for arg, d in zip(args, divided, strict=True))

        return tuple(arg for arg, d in zip(args, divided, strict=True) if d), join

    def map_members(members: tuple, join: Callable[[tuple], tuple]) -> PyTree:
        def call(member: tuple) -> PyTree:
            return fn(*join(member))

        return jax.vmap(call)(members) if batched else lax.map(call, members)

    def local(*args: PyTree) -> PyTree:
        return map_members(*split(args))

    def with_shard_map(*args: PyTree) -> PyTree:
        return jax.shard_map(
            local, mesh=mesh, in_specs=specs_of(args), out_specs=out_spec, check_vma=check_vma
        )(*args)

    def with_shardings(*args: PyTree) -> PyTree:
        members, join = split(args)
        devices = placement.member_devices
        by_device = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), members)
        run = functools.partial(map_members, join=join)
        result = jax.vmap(run, spmd_axis_name="member")(by_device)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

    with_pmap = _with_pmap(local, specs_of, out_spec, placement)
    return jax.jit(
        {"shard_map": with_shard_map, "pmap": with_pmap}.get(placement.mode, with_shardings),
        donate_argnums=(0,) if donate else (),
        out_shardings=NamedSharding(mesh, out_spec) if placement.mode != "fsdp" else None,
    )


def _with_pmap(
    local: Callable, specs_of: Callable, out_spec: P, placement: MeshPlacement
) -> Callable[..., PyTree]:
    """``local`` on each device, which has its share of the members or of each batch.

    For use within `jax.jit`, which keeps the program (pmap compiles anew for every function) and
    donates the arguments themselves (pmap would donate the copies that reshaping makes of them).
    """
    name = "data" if placement.data_devices > 1 else "member"
    devices = list(placement.mesh.devices.flat)

    def divided_axis(spec: P) -> int | None:
        """The axis of an array along which it is divided, if it is: pmap wants the devices
        there."""
        return next((i for i, entry in enumerate(spec) if entry == name), None)

    def run(*args: PyTree) -> PyTree:
        axes = list(map(divided_axis, specs_of(args)))

        def divide(leaf: Array, axis: int) -> Array:
            return leaf.reshape(*leaf.shape[:axis], len(devices), -1, *leaf.shape[axis + 1 :])

        divided = [
            arg if axis is None else jax.tree.map(functools.partial(divide, axis=axis), arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        axis = divided_axis(out_spec)  # devices that share a batch may end with the same
        # pmap wants an argument that it divides, also where all that differs is the device.
        numbers, call = np.arange(len(devices)), lambda _, *args: local(*args)
        mapped = jax.pmap(call, name, in_axes=(0, *axes), out_axes=axis, devices=devices)
        results = mapped(numbers, *divided)
        if axis is None:
            return results
        return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), results)

    return run


@dataclasses.dataclass(frozen=True)
class Training:
    """A population's training: ``training(states, hypers, data) -> (states, metrics)``."""

    run: jax.stages.Wrapped
    """``run(states, hypers, data)``, jitted; consumes the states."""
    first_losses: FirstLosses
    """The losses of the first step of ``run`` by another program, for the same arguments."""
    placement: MeshPlacement
    """Where the populations are."""

    def __call__(self, *args: PyTree) -> tuple[TrainState, Metrics]:
        return self.run(*args)


def train_resident(
    step: Step,
    prepare: Prepare,
    placement: MeshPlacement,
    *,
    steps: int,
    batch: int,
    batched: bool | None = None,
) -> Training:
    """``run(states, hypers, data)`` trains every member for ``steps`` steps in one dispatch.

    ``data`` are all images and labels, on every device. A member is trained on the first
    ``hyper["count"]`` of the data's indices ``hyper["examples"]``, in the order that
    :func:`jaxdl.data.batches.batch_ids` makes of :func:`order_keys`. With ``count`` of shape
    [s] and ``examples`` [s, n], s streams of batches come side by side: of stored images
    [batch, s, h, w, c].

    Args:
      step: from :func:`jaxdl.train.state.make_step` with ``placement.axis_name``.
      prepare: makes of a stored batch one for the network.
      batch: the size of a whole batch; a multiple of the mesh's "data" axis.
      batched: see :func:`over_members`.

    Returns:
      the training; its metrics have a leading [members, steps].

    Raises:
      ValueError: if the batch does not divide over the devices.
    """
    if batch % placement.data_devices:
        raise ValueError(
            f"a batch of {batch} does not divide over {placement.data_devices} devices"
        )

    def make_member(placement: MeshPlacement) -> tuple[Callable, Callable]:
        advance, axis_name = _prepared_step(step, prepare, placement), placement.axis_name
        share = batch // placement.data_devices

        def order(state: TrainState, hyper: Hyper) -> Int[Array, "steps b *s"]:
            def member_ids(key: PRNGKeyArray, examples: Array, count: Array) -> Array:
                ids = batch_ids(key, state.step, steps=steps, batch=batch, examples=count)
                if axis_name is not None:
                    start = lax.axis_index(axis_name) * share
                    ids = lax.dynamic_slice_in_dim(ids, start, share, axis=1)
                return examples[ids]

            streams = order_keys(hyper), hyper["examples"], hyper["count"]
            if hyper["count"].ndim:
                return jax.vmap(member_ids, out_axes=-1)(*streams)
            return member_ids(*streams)

        def train(state: TrainState, hyper: Hyper, data: Batch) -> tuple[TrainState, Metrics]:
            def body(state: TrainState, ids: Int[Array, " b *s"]) -> tuple[TrainState, Metrics]:
                return advance(state, jax.tree.map(lambda leaf: leaf[ids], data), hyper)

            return lax.scan(body, state, order(state, hyper))

        def first_loss(state: TrainState, hyper: Hyper, data: Batch) -> Array:
            ids = order(state, hyper)[0]
            stored = jax.tree.map(lambda leaf: leaf[ids], data)
            return advance(state, stored, hyper)[1]["loss"]

        return train, first_loss

    return _training(make_member, placement, (MEMBERS, MEMBERS, P()), batched)


def train_streamed(step: Step, prepare: Prepare, placement: MeshPlacement) -> Training:
    """As :func:`train_resident`, where the batches themselves are given:
    ``run(states, hypers, batches)``.

    ``batches`` are stored images and labels with a leading [members, steps, batch, *streams],
    divided over the devices as :data:`jaxdl.train.parallel.STREAM`.
    """

    def make_member(placement: MeshPlacement) -> tuple[Callable, Callable]:
        advance = _prepared_step(step, prepare, placement)

        def train(state: TrainState, hyper: Hyper, batches: Batch) -> tuple[TrainState, Metrics]:
            return lax.scan(lambda state, stored: advance(state, stored, hyper), state, batches)

        def first_loss(state: TrainState, hyper: Hyper, batches: Batch) -> Array:
            return advance(state, jax.tree.map(lambda leaf: leaf[0], batches), hyper)[1]["loss"]

        return train, first_loss

    return _training(make_member, placement, (MEMBERS, MEMBERS, STREAM))


def _training(
    make_member: Callable[[MeshPlacement], tuple[Callable, Callable]],
    placement: MeshPlacement,
    specs: Sequence[P],
    batched: bool | None = None,
) -> Training:
    """Training and its check.

    Args:
      make_member: gives, for a placement, the function that trains one member there and the one
        that computes that member's first loss.
    """
    train, _ = make_member(placement)
    return Training(
        over_members(train, placement, specs=specs, batched=batched, donate=True),
        make_first_losses(lambda member: make_member(member)[1], placement, specs=specs),
        placement,
    )


def _prepared_step(step: Step, prepare: Prepare, placement: MeshPlacement) -> Step:
    """The step on images as they are stored."""
    axis_name, mode = placement.axis_name, placement.mode

    def divided(tree: PyTree, spec_of: Callable[[tuple[int, ...]], P]) -> PyTree:
        specs = jax.tree.map(lambda leaf: placement.sharding(spec_of(leaf.shape)), tree)
        return lax.with_sharding_constraint(tree, specs)

    def advance(state: TrainState, stored: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key = step_key(hyper["key"], PREPARE, state.step, axis_name)
        if axis_name is None and mode != "pmap":  # for the compiler
            stored = divided(stored, lambda shape: P("data"))
        if mode == "fsdp":
            state = divided(state, placement.array_spec)
        return step(state, prepare(stored, hyper, key), hyper)

    return advance


def order_keys(hyper: Hyper) -> Key[Array, " *streams"]:
    """The keys that order a member's examples: its own key, and for further streams others.

    So the first stream's order is the same, whether others run beside it or not. (The order is
    computed by another function than JAX's, so that a key that is also divided into others is no
    second use of the same random numbers; those of steps are others, see
    :func:`jaxdl.train.state.step_key`.)
    """
    if not hyper["count"].ndim:
        return hyper["key"]
    streams = jnp.arange(1, len(hyper["count"]))
    streams = jax.vmap(jax.random.fold_in, (None, 0))(hyper["key"], streams)
    return jnp.concatenate([hyper["key"][None], streams])


def member_key(*name: object) -> PRNGKeyArray:
    """A random key that depends on a member's name and on nothing else: not on its index in a
    population, and not on the process (Python's own ``hash`` is salted)."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return jax.random.key(int.from_bytes(digest[:4], "big") >> 1)


def population_of(members: Sequence[PyTree], placement: MeshPlacement, size: int = 0) -> PyTree:
    """Members stacked, filled up by :meth:`jaxdl.train.parallel.MeshPlacement.fill`, and divided
    over the devices. A constant size saves compilations.

    In the mode "fsdp" each array of a :class:`TrainState` goes to the devices of its member in
    parts, as training keeps it: none of them ever holds it whole.
    """

    def stack(*leaves: Array | np.ndarray) -> Array | np.ndarray:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return np.stack(leaves)  # on the host: on a device each new shape would be compiled

    stacked = jax.tree.map(stack, *placement.fill(to_host(list(members)), size))
    if placement.mode != "fsdp" or not isinstance(members[0], TrainState):
        return placement.shard_members(stacked)

    def divide(leaf: Array | np.ndarray) -> Array:
        spec = P("member", *placement.array_spec(leaf.shape[1:]))
        return put(leaf, placement.sharding(spec))

    return jax.tree.map(divide, stacked)
