"""The physics study computes in float64."""

import jax
import pytest


@pytest.fixture(autouse=True)
def float64():
    """Only here: the rest of the suite runs in float32, as users do."""
    with jax.enable_x64(True):
        yield
