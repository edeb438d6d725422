"""Trees against NumPy, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import trees

SHAPES = {"conv1": {"kernel": (3, 3, 1, 2), "bias": (2,)}, "fc2": [(4,), ()]}


def tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda value: isinstance(value, tuple),
    )


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def test_stack_and_unstack_are_inverse():
    members = [tree(seed) for seed in range(3)]
    population = trees.stack(members)
    assert trees.members(population) == 3
    expected = np.stack([m["conv1"]["kernel"] for m in members])
    np.testing.assert_array_equal(population["conv1"]["kernel"], expected)
    for i, (ours, given_) in enumerate(zip(trees.unstack(population), members, strict=True)):
        assert_equal(ours, given_)
        assert_equal(trees.member(population, i), given_)
    keys = trees.stack([{"key": jax.random.key(i)} for i in range(2)])
    assert trees.unstack(keys)[1]["key"] == jax.random.key(1)


def test_members_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"members: \[2, 3\]"):
        trees.members({"a": jnp.zeros((2, 1)), "b": jnp.zeros((3, 1))})


@pytest.mark.parametrize(("present", "extra"), [(1, 0), (1, 3), (3, 0), (3, 2)])
def test_padding_repeats_the_last_member(present, extra):
    population = {"a": jnp.arange(present * 2.0).reshape(present, 2)}
    padded = np.asarray(trees.pad_members(population, present + extra)["a"])
    given_ = np.asarray(population["a"])
    np.testing.assert_array_equal(padded, np.concatenate([given_, *[given_[-1:]] * extra]))
    if present > 1:
        with pytest.raises(ValueError, match="do not fit"):
            trees.pad_members(population, present - 1)


def test_paths_are_spelled_with_slashes():
    paths = trees.map_with_path(lambda path, leaf: path, tree(0))
    assert paths == {
        "conv1": {"kernel": "conv1/kernel", "bias": "conv1/bias"},
        "fc2": ["fc2/0", "fc2/1"],
    }
    sizes = trees.map_with_path(lambda path, leaf: leaf.size, tree(0))
    assert sizes["conv1"]["kernel"] == 18


@pytest.mark.parametrize("yes", [False, True])
def test_select_by_one_boolean(yes):
    a, b = tree(0), tree(1)
    assert_equal(trees.select(yes, a, b), a if yes else b)
    assert_equal(jax.jit(trees.select)(jnp.asarray(yes), a, b), a if yes else b)


def test_select_by_a_tree_of_booleans():
    a, b = tree(0), tree(1)
    mask = {
        "conv1": {"kernel": True, "bias": False},
        "fc2": [jnp.asarray(False), jnp.asarray(True)],
    }
    mixed = {
        "conv1": {"kernel": a["conv1"]["kernel"], "bias": b["conv1"]["bias"]},
        "fc2": [b["fc2"][0], a["fc2"][1]],
    }
    assert_equal(trees.select(mask, a, b), mixed)


def test_counts_and_norms():
    t = tree(0)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]).astype(np.float64)
    assert trees.count(t) == flat.size == 18 + 2 + 4 + 1
    np.testing.assert_allclose(trees.squared_norm(t), flat @ flat, rtol=1e-6)
    assert trees.count({}) == 0 and trees.squared_norm({}) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite(bad):
    t = tree(0)
    assert trees.all_finite(t) and trees.all_finite({}) and trees.all_finite({"n": jnp.arange(2)})
    t["conv1"]["kernel"] = t["conv1"]["kernel"].at[2, 1, 0, 1].set(bad)
    assert not trees.all_finite(t)
