"""Weights in files: what comes back is what was written, and others read it, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from experiments import export
from jaxdl.nn.weights import read_safetensors, write_safetensors
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.parallel import make_placement
from jaxdl.types import DamagedFile

VARIABLES = {
    "params": {
        "conv1": {"kernel": np.arange(12.0, dtype=np.float32).reshape(2, 6).T},  # not contiguous
        "scale": np.float32(3),
    },
    "batch_stats": {"conv1": {"count": np.array([1, 2])}},
}


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_a_network_comes_back_bit_for_bit_and_has_paths_as_names(tmp_path):
    path = tmp_path / "network.safetensors"
    write_safetensors(path, VARIABLES)
    assert_equal(read_safetensors(path), jax.tree.map(np.asarray, VARIABLES))
    with safe_open(path, "numpy") as file:
        names = ["batch_stats/conv1/count", "params/conv1/kernel", "params/scale"]
        assert sorted(file.keys()) == names
        kernel = file.get_tensor("params/conv1/kernel")
    np.testing.assert_array_equal(kernel, VARIABLES["params"]["conv1"]["kernel"])


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(DamagedFile, match=r"network\.safetensors is no safetensors file: "):
        read_safetensors(path)


def test_a_command_exports_a_network_of_a_run(tmp_path):
    placement = make_placement(1, 1, devices=jax.devices()[:1])
    kernel = jnp.arange(6.0).reshape(2, 3)
    state = {"params": {"fc1": {"kernel": kernel}}, "opt_state": kernel}
    notes = {"networks": [{"method": "dann", "seed": seed} for seed in range(2)]}
    with Checkpoints(tmp_path / "checkpoints" / "networks-0") as checkpoints:
        checkpoints.save(1, placement.shard_members(state), notes)
        checkpoints.wait()
    path = tmp_path / "network.safetensors"
    assert export.main([str(tmp_path), str(path), "method=dann", "seed=1"]) == f"wrote {path}: fc1"
    assert_equal(read_safetensors(path), {"params": {"fc1": {"kernel": np.asarray(kernel[1])}}})
    with pytest.raises(ValueError, match="no network with method='cdan'"):
        export.main([str(tmp_path), str(path), "method=cdan"])
    with pytest.raises(ValueError, match="usage: "):
        export.main([str(tmp_path)])
