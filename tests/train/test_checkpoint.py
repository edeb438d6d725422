"""Checkpoints: what comes back is what was saved, or one line says what is wrong."""

import gc
import re
import resource
import shutil
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import trees
from jaxdl.train import checkpoint
from jaxdl.train.checkpoint import Checkpoints, load_network
from jaxdl.train.parallel import make_placement
from jaxdl.train.state import TrainState
from jaxdl.types import DamagedFile

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(scope="module", autouse=True)
def dropped_coroutines():
    """When reading fails, Orbax drops coroutines, and whichever thread collects them next warns
    where nothing can catch it: have them collected in this module, and not in a later test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda _: None)
        yield
        gc.collect()


def placement_of(member):
    return make_placement(member, 1, devices=jax.devices()[:member])


def population(seed, placement):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32)
    state = TrainState(
        jnp.full(8, seed, jnp.int32),
        {"fc1": {"kernel": kernel, "mask": kernel > 0}},
        {"fc1": {}},
        ({"trace": kernel + 1}, jnp.arange(8, dtype=jnp.int32)),
        jnp.ones(8, bool),
    )
    return placement.shard_members(state)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def test_the_latest_comes_back_on_any_mesh(tmp_path):
    two = placement_of(2)
    with Checkpoints(tmp_path / "a", keep=2) as checkpoints:
        blank = population(0, two)
        assert checkpoints.restore(blank) == (blank, 0, {})
        for step in (10, 20, 30):
            checkpoints.save(step, population(step, two), {"seconds": step / 8})
        checkpoints.wait()
    assert {int(p.name) for p in (tmp_path / "a").iterdir() if p.name.isdigit()} == {20, 30}
    for members in (1, 2, 8):
        like = population(0, placement_of(members))
        with Checkpoints(tmp_path / "a") as checkpoints:
            restored, step, notes = checkpoints.restore(like)
        assert (step, notes) == (30, {"seconds": 3.75})
        assert_equal(restored, population(30, two))
        for ours, target in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert ours.sharding.is_equivalent_to(target.sharding, ours.ndim)


def saved(folder, *steps):
    placement = placement_of(2)
    with Checkpoints(folder) as checkpoints:
        for step in steps or (5,):
            checkpoints.save(step, population(step, placement))
        checkpoints.wait()
    return placement


def truncate(step):
    largest = max(step.rglob("d/*"), key=lambda f: f.stat().st_size)
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
def test_for_a_damaged_checkpoint_the_one_before_is_used(tmp_path, damage):
    placement, messages = saved(tmp_path / "a", 3, 5), []
    damage(tmp_path / "a" / "5")
    for step, lost, fallback in ((3, 5, "that at step 3 is used"), (0, 3, "training begins anew")):
        with Checkpoints(tmp_path / "a", say=messages.append) as checkpoints:
            restored = checkpoints.restore(population(0, placement))
            assert restored.step == step
            assert_equal(restored.states, population(step, placement))
        assert str(tmp_path / "a" / str(lost)) in messages[-1] and fallback in messages[-1]
        assert "\n" not in messages[-1]
        if step:
            damage(tmp_path / "a" / "3")
    assert len(messages) == 2
    assert {p.name for p in (tmp_path / "a").iterdir()} >= {"3.damaged", "5.damaged"}
    assert not [p for p in (tmp_path / "a").iterdir() if p.name.isdigit()]


@pytest.mark.parametrize("fault", ["memory", "files"])
def test_what_is_no_fault_of_the_files_leaves_them(tmp_path, monkeypatch, fault):
    placement = saved(tmp_path / "a", 3, 5)

    def refuse(*_):
        if fault == "memory":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(*{"memory": (checkpoint, "put"), "files": (zlib, "crc32")}[fault], refuse)
    with (
        Checkpoints(tmp_path / "a") as checkpoints,
        pytest.raises((jax.errors.JaxRuntimeError, OSError), match=r"out of memory|Too many"),
    ):
        checkpoints.restore(population(0, placement))
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"3", "5"}


@pytest.mark.parametrize("members", [8, 16])
def test_other_numbers_of_members_are_restored(tmp_path, members):
    """What fills up the population are copies of its last member, as many as the devices need."""
    placement = placement_of(4)
    ten = jax.tree.map(lambda leaf: np.asarray(leaf)[np.arange(12) % 8], population(7, placement))
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(1, placement.shard_members(ten))
        checkpoints.wait()
        other = jax.tree.map(lambda leaf: np.zeros((members, *leaf.shape[1:]), leaf.dtype), ten)
        restored = checkpoints.restore(placement.shard_members(other)).states
    places = np.minimum(np.arange(members), 11)
    assert_equal(jax.device_get(restored), jax.tree.map(lambda leaf: leaf[places], ten))


def test_another_version_is_told_of_and_no_damage(tmp_path, monkeypatch):
    placement, messages = saved(tmp_path / "a"), []
    for versions, words in (
        ({"jaxdl": "9.9", "jax": jax.__version__}, r"was written by jaxdl \d\S*, this is 9\.9: "),
        ({"xla": "9.9"}, r"was written by xla None, this is 9\.9: results differ by rounding"),
    ):
        monkeypatch.setattr(checkpoint, "_versions", lambda versions=versions: versions)
        with Checkpoints(tmp_path / "a", say=messages.append) as checkpoints:
            assert_equal(
                checkpoints.restore(population(0, placement)).states, population(5, placement)
            )
        assert re.search(words, messages[-1]) and "\n" not in messages[-1]
    assert len(messages) == 2


# Trained networks.


def named(seed):
    return {"task": "A", "seed": seed}


def run_folder(tmp_path):
    """Two populations: eight networks, one a member, and three members of two networks."""
    with Checkpoints(tmp_path / "checkpoints" / "whole") as checkpoints:
        for step in (5, 6):
            notes = {"networks": [named(seed) for seed in range(7)]}  # the eighth fills up
            checkpoints.save(step, population(step, placement_of(2)), notes)
        checkpoints.wait()
    kernel = jnp.arange(3 * 4.0).reshape(3, 4)
    cuts = {f"cut{n:02}": {"fc": {"kernel": kernel + 100 * n}} for n in (1, 2)}
    stats = {name: {"fc": {"mean": cut["fc"]["kernel"] / 2}} for name, cut in cuts.items()}
    state = TrainState(
        step=jnp.ones(3, jnp.int32),
        params=cuts,
        collections={"batch_stats": stats},
        opt_state=(),
        alive={name: jnp.ones(3, bool) for name in cuts},
    )
    networks = [{"task": "B", "seed": i, "n": n} for i in range(3) for n in (1, 2)]
    with Checkpoints(tmp_path / "checkpoints" / "frozen") as checkpoints:
        checkpoints.save(1, state, {"networks": networks})
        checkpoints.wait()
    return tmp_path


def test_a_network_is_loaded_by_its_name(tmp_path, monkeypatch):
    run = run_folder(tmp_path)
    monkeypatch.setattr(checkpoint, "_versions", lambda: {"jax": "another"})
    variables = load_network(run, task="A", seed=3)
    assert_equal(
        variables,
        {"params": trees.member(jax.device_get(population(6, placement_of(2)).params), 3)},
    )
    variables = load_network(run, task="B", seed=1, n=2)
    kernel = np.arange(4, 8, dtype=np.float32) + 200
    expected = {"params": {"fc": {"kernel": kernel}}, "batch_stats": {"fc": {"mean": kernel / 2}}}
    assert_equal(variables, expected)


def test_a_name_must_tell_one_network_from_the_others(tmp_path):
    run = run_folder(tmp_path)
    words = r"several networks with task='B': name one, as task=B seed=0 n=1; .* and 3 more"
    with pytest.raises(ValueError, match=words):
        load_network(run, task="B")
    with pytest.raises(ValueError, match="no network with seed=7: name one, as "):
        load_network(run, seed=7)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no checkpoints of named networks"):
        load_network(tmp_path / "empty", seed=0)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        load_network(tmp_path / "nowhere", seed=0)


@pytest.mark.parametrize("damage", [scramble, hollow, lose_arrays, flip])
def test_a_network_of_a_damaged_checkpoint_is_refused(tmp_path, damage):
    run = run_folder(tmp_path)
    damage(run / "checkpoints" / "whole" / "6")
    with pytest.raises(DamagedFile, match=r"checkpoint \S+/whole/6 is damaged: "):
        load_network(run, task="A", seed=3)


def test_what_cannot_be_written_is_an_os_error(tmp_path):
    """And the checkpoint before stays."""
    placement = saved(tmp_path / "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # until all is closed: what is written later would be whole
        with (
            pytest.raises(OSError, match=f"cannot save: .*'{tmp_path / 'a'}'") as refused,
            Checkpoints(tmp_path / "a") as checkpoints,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
            checkpoints.save(6, population(6, placement))
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "='" not in str(refused.value)  # what TensorStore appends in brackets
    with Checkpoints(tmp_path / "a") as checkpoints:
        restored = checkpoints.restore(population(0, placement))
    assert restored.step == 5
    assert_equal(restored.states, population(5, placement))


def test_a_folder_that_is_moved_away_is_missed(tmp_path, monkeypatch):
    """Even where there is another one, as Orbax makes it while it saves."""
    placement = saved(tmp_path / "a")

    def refuse(*_, **__):
        raise ValueError("No ArrayMetadata found for process_index=0")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", refuse)
    with (
        pytest.raises(OSError, match=f"the folder is gone: move it back: '{tmp_path / 'a'}'"),
        Checkpoints(tmp_path / "a") as checkpoints,
    ):
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").mkdir()
        checkpoints.save(6, population(6, placement))


def test_the_version_is_known_without_the_package(monkeypatch):
    """Beside a folder called jaxdl, the clone, an editable install is a namespace."""
    monkeypatch.delattr("jaxdl.__version__")
    assert checkpoint._versions() == {"jaxdl": "0.1.0", "jax": jax.__version__}


@pytest.mark.parametrize("change", ["another shape", "an array less", "an array more"])
def test_a_checkpoint_of_another_tree_is_refused(tmp_path, change):
    placement = saved(tmp_path / "a")
    like = population(0, placement)
    layer = dict(like.params["fc1"])
    if change == "another shape":
        layer["kernel"] = layer["kernel"][:, :4]
    elif change == "an array less":
        del layer["mask"]
    else:
        layer["bias"] = layer["mask"]
    with (
        Checkpoints(tmp_path / "a") as checkpoints,
        pytest.raises(DamagedFile, match=r"of another program: its \S+ is .*, now it is "),
    ):
        checkpoints.restore(like.replace(params={"fc1": layer}))


def test_memory_may_be_reused_while_a_save_is_under_way(tmp_path):
    placement = placement_of(2)

    def ones():
        return {"w": placement.shard_members(jnp.ones((2, 2**22), jnp.float32))}

    overwrite = jax.jit(lambda t: jax.tree.map(lambda w: w * 0 - 7, t), donate_argnums=0)
    overwrite(ones())  # compiled before the race begins
    with Checkpoints(tmp_path / "a") as checkpoints:
        tree = ones()
        checkpoints.save(1, tree)
        for _ in range(5):
            tree = overwrite(tree)
        jax.block_until_ready(tree)
        checkpoints.wait()
        restored, *_ = checkpoints.restore(ones())
    assert float(restored["w"].min()) == float(restored["w"].max()) == 1
