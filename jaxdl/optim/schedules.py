"""Learning rates over training: a linear warm-up, then a decay to a fraction of the peak."""

import math
from typing import Any

import optax
from jaxtyping import Array, Float

from jaxdl.types import AnyArray, Scalar

SCHEDULES = ("constant", "cosine", "linear", "steps", "annealed")


def annealed(
    p: float | Float[AnyArray, " *n"],
    initial: Scalar = 0.01,
    alpha: float = 10.0,
    beta: float = 0.75,
) -> float | Float[AnyArray, " *n"]:
    """The rate ``initial / (1 + alpha p)^beta`` when the part ``p`` of all steps is done (Ganin &
    Lempitsky 2015)."""
    return initial / (1 + alpha * p) ** beta


def make_schedule(
    name: str,
    peak: Scalar,
    *,
    steps: int,
    warmup: int = 0,
    drops: tuple[float, ...] = (1 / 3, 2 / 3),
    factor: float = 0.1,
) -> optax.Schedule:
    """The rate at step ``t`` of ``steps``; ``p = (t - warmup) / (steps - warmup)`` below.

    Linear from 0 to ``peak`` over the first ``warmup`` steps, then

    - ``constant``: ``peak``;
    - ``cosine``: ``peak (1 + cos(pi p)) / 2`` (Loshchilov & Hutter 2017, without restarts);
    - ``linear``: ``peak (1 - p)``;
    - ``steps``: ``peak`` times ``factor`` for every entry of ``drops`` that ``p`` has reached;
    - ``annealed``: ``peak / (1 + 10 p)^.75`` (Ganin & Lempitsky 2015), :func:`annealed`.

    Args:
      peak: may be traced, so that members of a population can differ in it.

    Raises:
      ValueError: for an unknown name, or unless ``0 <= warmup < steps``.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps} steps")
    rest = steps - warmup
    match name:
        case "constant":
            decay = optax.constant_schedule(peak)
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, rest)
        case "linear":
            decay = optax.linear_schedule(peak, 0.0, rest)
        case "steps":
            # p reaches d at step ceil(d * rest); the tolerance is for products such as 0.1 * 30.
            scales: dict[int, float] = {}
            for drop in drops:
                at = math.ceil(drop * rest - 1e-9)
                scales[at] = scales.get(at, 1.0) * factor
            decay = optax.piecewise_constant_schedule(peak, scales)
        case "annealed":

            def decay(step: Array) -> Any:
                return annealed(step / rest, peak)

        case _:
            raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])
