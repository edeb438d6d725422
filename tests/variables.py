"""Variables of networks for tests: what ``init`` draws takes long to compile."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np


def draw_variables(model: nn.Module, *inputs: np.ndarray) -> dict[str, Any]:
    """Normal variables, of which no two arrays are alike and no bias is 0, for such inputs."""
    shapes, rng = jax.eval_shape(model.init, jax.random.key(0), *inputs), np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
