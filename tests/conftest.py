"""What all tests share: eight devices on any machine, a cache of their own, settings."""

import os

import jax
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

# Before any test file touches a device. A machine with a GPU runs the suite on its CPU unless told
# otherwise, so that everyone tests the same.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Compiling takes longer than running here, and most of what a test compiles another one has.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Every example may compile, so time says nothing; the same examples on every run.
settings.register_profile("jaxdl", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("jaxdl")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The tests' own XDG_CACHE_HOME, not the user's, and beside it the compiled programs."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    compilation_cache.reset_cache()  # what tests compile when they are collected was not kept
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
