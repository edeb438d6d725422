"""Checkpoints: what comes back is what was saved, or one line says what is wrong."""

import gc
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.parallel import make_mesh, shard_members
from jaxdl.train.state import TrainState

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(scope="module", autouse=True)
def dropped_coroutines():
    """When reading fails, Orbax drops coroutines, and whichever thread collects them next warns
    where nothing can catch it: have them collected in this module, and not in a later test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda _: None)
        yield
        gc.collect()


def mesh_of(member):
    return make_mesh(member, 1, jax.devices()[:member])


def population(seed, mesh):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32)
    state = TrainState(
        jnp.full(8, seed, jnp.int32),
        {"fc1": {"kernel": kernel, "mask": kernel > 0}},
        {"fc1": {}},
        ({"trace": kernel + 1}, jnp.arange(8, dtype=jnp.int32)),
    )
    return shard_members(state, mesh)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def test_the_latest_comes_back_on_any_mesh(tmp_path):
    two = mesh_of(2)
    with Checkpoints(tmp_path / "a", keep=2) as checkpoints:
        blank = population(0, two)
        assert checkpoints.restore(blank) == (blank, 0)
        for step in (10, 20, 30):
            checkpoints.save(step, population(step, two))
        checkpoints.save(30, population(99, two))  # is there already
        checkpoints.wait()
    assert {int(p.name) for p in (tmp_path / "a").iterdir() if p.name.isdigit()} == {20, 30}
    for members in (1, 2, 8):
        like = population(0, mesh_of(members))
        with Checkpoints(tmp_path / "a") as checkpoints:
            restored, step = checkpoints.restore(like)
        assert step == 30
        assert_equal(restored, population(30, two))
        for ours, target in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert ours.sharding.is_equivalent_to(target.sharding, ours.ndim)


def saved(folder):
    mesh = mesh_of(2)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(5, population(5, mesh))
        checkpoints.wait()
    return mesh


def truncate(step):
    files = [f for f in step.rglob("*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def scramble(step):
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00damaged\xff" * 5)


def hollow(step):
    for child in step.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def lose_arrays(step):
    for folder in list(step.rglob("d")):
        shutil.rmtree(folder)


def flip(step):
    """One byte changed in every file of arrays."""
    for file in step.rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, scramble, hollow, lose_arrays, flip])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    mesh = saved(tmp_path / "a")
    damage(tmp_path / "a" / "5")
    with Checkpoints(tmp_path / "a") as checkpoints, pytest.raises(ValueError) as error:
        checkpoints.restore(population(0, mesh))
    message = str(error.value)
    assert str(tmp_path / "a" / "5") in message and "delete that folder" in message
    assert "\n" not in message


@pytest.mark.parametrize("change", ["another shape", "an array less", "an array more"])
def test_a_checkpoint_of_another_tree_is_refused(tmp_path, change):
    mesh = saved(tmp_path / "a")
    like = population(0, mesh)
    layer = dict(like.params["fc1"])
    if change == "another shape":
        layer["kernel"] = layer["kernel"][:, :4]
    elif change == "an array less":
        del layer["mask"]
    else:
        layer["bias"] = layer["mask"]
    with (
        Checkpoints(tmp_path / "a") as checkpoints,
        pytest.raises(ValueError, match="cannot be read"),
    ):
        checkpoints.restore(like.replace(params={"fc1": layer}))


def test_memory_may_be_reused_while_a_save_is_under_way(tmp_path):
    mesh = mesh_of(2)

    def ones():
        return {"w": shard_members(jnp.ones((2, 2**22), jnp.float32), mesh)}

    overwrite = jax.jit(lambda t: jax.tree.map(lambda w: w * 0 - 7, t), donate_argnums=0)
    overwrite(ones())  # compiled before the race begins
    with Checkpoints(tmp_path / "a") as checkpoints:
        tree = ones()
        checkpoints.save(1, tree)
        for _ in range(5):
            tree = overwrite(tree)
        jax.block_until_ready(tree)
        checkpoints.wait()
        restored, _ = checkpoints.restore(ones())
    assert float(restored["w"].min()) == float(restored["w"].max()) == 1
