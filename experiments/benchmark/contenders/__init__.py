"""The contenders that are not ours: what one would write instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Task(NamedTuple):
    """Data, order of examples and settings that all contenders train with."""

    images: Float[np.ndarray, "n h w c"]
    """Images as the network sees them."""
    labels: Int[np.ndarray, " n"]
    ids: Int[np.ndarray, "steps batch"]
    """Examples of each step; the source's come first."""
    rates: Sequence[float]
    """Learning rate of each step."""
    weight_decay: float
    """Weight decay of kernels."""
    scales: Sequence[float] = ()
    """Scale of the reversed gradient in each step."""
    weight: float = 0.0
    """Weight of the domain classifier's loss."""
    nesterov: bool = False
    """Whether to use Nesterov's momentum, of .9."""
