"""The contenders that are not ours: what one would write instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Task(NamedTuple):
    """Data, order of examples and settings that all contenders train with."""

    images: Float[np.ndarray, "n h w c"]  # as the network sees them
    labels: Int[np.ndarray, " n"]
    ids: Int[np.ndarray, "steps batch"]  # examples of each step; the source's come first
    rates: Sequence[float]  # of each step
    weight_decay: float  # of kernels
    scales: Sequence[float] = ()  # of the reversed gradient in each step
    weight: float = 0.0  # of the domain classifier's loss
