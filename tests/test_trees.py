"""Trees against NumPy, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

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


def test_frozen_dicts_and_dicts_are_stacked():
    members = [tree(0), freeze(tree(1)), {**tree(2), "conv1": freeze(tree(2)["conv1"])}]
    population = trees.stack(members)
    assert_equal(population, trees.stack([tree(seed) for seed in range(3)]))
    frozen = trees.stack([freeze(tree(0)), freeze(tree(1))])
    assert jax.tree.structure(trees.member(frozen, 1)) == jax.tree.structure(freeze(tree(1)))
    assert_equal(trees.plain({"state": (freeze(tree(0)), None)}), {"state": (tree(0), None)})


def test_members_of_other_structure_are_refused():
    other = {"conv1": tree(1)["conv1"], "fc3": []}
    with pytest.raises(ValueError, match=r"^members 0 and 1 differ.*only one of them has fc2/0$"):
        trees.stack([tree(0), other])


def test_members_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"members: \[2, 3\]"):
        trees.members({"a": jnp.zeros((2, 1)), "b": jnp.zeros((3, 1))})


def test_count():
    leaves = jax.tree.leaves(tree(0))
    assert trees.count(tree(0)) == sum(np.size(leaf) for leaf in leaves) == 18 + 2 + 4 + 1
    assert trees.count({}) == 0


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_rows_that_are_mapped_in_batches_of_one_size_are_those_mapped_at_once(count):
    a = np.arange(3.0 * count).reshape(count, 3)
    b, sizes, rows = np.arange(count), [], []

    def function(x, y):
        sizes.append((len(x), len(y)))
        return {"sum": x.sum(1) + y, "rows": jnp.asarray(x)}

    outputs = trees.map_batches(4, function, a, b, progress=rows.append)
    np.testing.assert_array_equal(outputs["sum"], a.sum(1) + b)
    np.testing.assert_array_equal(outputs["rows"], a)
    assert sizes == [(4, 4)] * -(-count // 4)
    assert sum(rows) == count and max(rows) <= 4
