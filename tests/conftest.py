"""What all tests share: types checked, eight devices on any machine, a cache of their own."""

import gc
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import beartype
import jax
import jaxtyping
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

_checks: dict[tuple[str, ...], Callable] = {}


def check_types(function: Callable) -> Callable:
    """beartype's check of a signature.

    jaxtyping passes an empty function of that signature, never the function itself, so functions of
    equal names and annotations can share one: an inner function is defined anew at every call.
    """
    key = function.__module__, function.__qualname__, str(inspect.signature(function))
    if key not in _checks:
        # That an int will do for a float is PEP 484's rule, which beartype has to be asked for.
        configuration = beartype.BeartypeConf(is_pep484_tower=True)
        _checks[key] = beartype.beartype(conf=configuration)(function)
    return _checks[key]


# Before anything imports it: in the tests every call is held to the annotated types and shapes.
jaxtyping.install_import_hook("jaxdl", "tests.conftest.check_types")

# Before any test file touches a device. A machine with a GPU runs the suite on its CPU unless told
# otherwise, so that everyone tests the same.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Broadcasting that is not spelled is a mistake more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling takes longer than running here, and most of what a test compiles another one has. The
# emitters of loops before MLIR's take a third of their time to compile. (Later versions do not have
# them, and XLA ends the process at a flag that it does not know.)
if jax.__version_info__ < (0, 11):
    FAST = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}".strip()
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_traceback_in_locations_limit", 0)  # which programs would carry with them
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Every example may compile, so time says nothing; the same examples on every run.
settings.register_profile("jaxdl", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("jaxdl")


# Tracing makes millions of objects that live as long as the process; each is looked at once, when
# its file of tests has ended.
gc.disable()


@pytest.fixture(scope="module", autouse=True)
def garbage_collection():
    yield
    gc.collect()
    gc.freeze()


LONGEST = ("experiments", "train")
"""Folders with the files that take the longest."""


def pytest_collection_modifyitems(items):
    """These first, so that at the end no worker waits for another's file."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("/")[1], len(LONGEST)))


@pytest.fixture
def types_unchecked():
    """For what a function itself says of wrong input, which its types would refuse before."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory) -> Path:
    """The folder that all workers share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory, common_folder):
    """The tests' own XDG_CACHE_HOME, not the user's; compiled programs are for all workers."""
    jax.config.update("jax_compilation_cache_dir", str(common_folder / "programs"))
    compilation_cache.reset_cache()  # what tests compile when they are collected was not kept
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
