"""Types and shapes are checked while the tests run, and ranks are not promoted silently."""

import jax.numpy as jnp
import jaxtyping
import pytest

from jaxdl.nn.metrics import accuracy


def test_a_shape_that_is_not_the_annotated_one_is_refused():
    assert accuracy(jnp.eye(3)) == 1
    with pytest.raises(jaxtyping.TypeCheckError, match="confusion"):
        accuracy(jnp.ones((2, 3)))


def test_ranks_are_not_promoted():
    with pytest.raises(ValueError, match="could not be broadcast"):
        jnp.ones((2, 3)) + jnp.ones(3)
