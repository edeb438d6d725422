"""What all tests share: eight devices on any machine, a cache of their own, settings."""

import os

import jax
import pytest
from hypothesis import settings

# Before any test file touches a device. A machine with a GPU runs the suite on its CPU unless told
# otherwise, so that everyone tests the same.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Compiling takes longer than running here.
jax.config.update("jax_disable_most_optimizations", True)

# Every example may compile, so time says nothing; the same examples on every run.
settings.register_profile("jaxdl", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("jaxdl")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The tests' own XDG_CACHE_HOME, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
