"""Cores, platforms and the cache of compiled programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
from ml_collections import ConfigDict

from experiments.harness.processes import is_alone, say
from jaxdl.data import cache
from jaxdl.data.encoded import cores
from jaxdl.files import user_path


def device_count(config: ConfigDict, members: int) -> int:
    """The number of CPU cores to use as devices: all that this process may use, but no more than
    can share the work of ``members`` networks."""
    parallel = config.get("parallel", {})  # benchmarks have none
    along_data = parallel.get("data", 1)
    if along_data < 1:  # a batch can be divided over any number
        return cores()
    along_member = parallel.get("member", -1)
    if along_member < 0:
        along_member = min(members, cores() // along_data)
    return min(cores(), max(1, along_member) * along_data)


def use_cores(count: int) -> None:
    """Use ``count`` CPU cores as devices, unless the user set their number (`JAX_NUM_CPU_DEVICES`).

    Raises:
      ValueError: if the user set it in a way that would be overruled, or to 0.
    """
    setting = os.environ.get("JAX_NUM_CPU_DEVICES")
    if setting is None:
        option = "--xla_force_host_platform_device_count"
        if flag := re.search(rf"{option}=(\S*)", os.environ.get("XLA_FLAGS", "")):
            raise ValueError(
                f"XLA_FLAGS={flag[0]} is overruled here: set JAX_NUM_CPU_DEVICES={flag[1]} instead"
            )
        jax.config.update("jax_num_cpu_devices", count)
    elif int(setting) < 1:  # JAX itself sees that it is a number
        raise ValueError(f"JAX_NUM_CPU_DEVICES={setting}: there must be at least 1")


def keep_programs() -> None:
    """Store all compiled programs, however fast to compile, in `JAX_COMPILATION_CACHE_DIR` or, if
    unset, in this project's cache folder, if there can be one. They may be deleted at any time.

    Raises:
      ValueError: a folder below the home of a user who has none.
    """
    setting, folder = os.environ.get("JAX_COMPILATION_CACHE_DIR"), cache.folder()
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if folder is None:
        say("no home folder, so nothing is kept for later runs: set XDG_CACHE_HOME to a folder")
    if setting is not None:
        if setting.startswith("~"):
            jax.config.update("jax_compilation_cache_dir", str(user_path(setting)))
    elif folder is not None:
        with suppress(OSError):
            (folder / "programs").mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))


def check_platform() -> None:
    """Raise ValueError where JAX does not have the platform of `JAX_PLATFORMS`."""
    try:
        jax.devices()
    except Exception as error:  # also an AssertionError
        reason = next(iter(str(error).splitlines()), "it is not installed")
        platforms = jax.config.jax_platforms or ""
        raise ValueError(
            f"JAX cannot compute on JAX_PLATFORMS={platforms} ({reason}): unset it, or set it to "
            "cpu"
        ) from None


def describe_devices() -> str:
    """Devices and version of JAX, in words."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU core"
    processes = "" if is_alone() else f" of {jax.process_count()} processes"
    return f"{len(devices)} x {kind}{processes}, jax {jax.__version__}"


@contextmanager
def float64() -> Iterator[None]:
    """Within, or within a function decorated by it, JAX computes in double precision, in all
    threads."""
    setting = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", setting)
