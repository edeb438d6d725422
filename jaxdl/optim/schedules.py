"""Learning rates over training: a linear warm-up to a peak, then one of several courses."""

import math
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdl.types import AnyArray, Integer, Scalar

SCHEDULES = (
    "constant",
    "cosine",
    "linear",
    "steps",
    "exponential",
    "inverse_time",
    "one_cycle",
    "annealed",
)


def annealed(
    p: float | Float[AnyArray, " *n"],
    initial: Scalar = 0.01,
    alpha: float = 10.0,
    beta: float = 0.75,
) -> float | Float[AnyArray, " *n"]:
    """The rate ``initial / (1 + alpha p)^beta`` when the part ``p`` of all steps is done (Ganin &
    Lempitsky 2015)."""
    return initial / (1 + alpha * p) ** beta


def one_cycle(
    p: float | Float[AnyArray, " *n"],
    peak: Scalar,
    rise: float = 0.3,
    initial: float = 1 / 25,
    final: float = 4e-6,
) -> Float[Array, " *n"]:
    """Half a cosine from ``initial peak`` up to the peak at ``p = rise``, and half a cosine down to
    ``final peak`` at ``p = 1`` (Smith & Topin 2018)."""
    p = jnp.minimum(p, 1.0)
    height = jnp.where(p < rise, p / rise, (1 - p) / (1 - rise))
    low = jnp.where(p < rise, initial, final)
    return jnp.asarray(peak) * (low + (1 - low) * (1 - jnp.cos(jnp.pi * height)) / 2)


def make_schedule(
    name: str,
    peak: Scalar,
    *,
    steps: int,
    warmup: int = 0,
    drops: tuple[float, ...] = (1 / 3, 2 / 3),
    factor: Scalar = 0.1,
    stop: Integer | None = None,
) -> optax.Schedule:
    """The rate at step ``t`` of ``steps``; ``p = (t - warmup) / (steps - warmup)`` below.

    Linear over the first ``warmup`` steps from 0 to where the rest begins, and then

    - ``constant``: ``peak``;
    - ``cosine``: ``peak (1 + cos(pi p)) / 2`` (Loshchilov & Hutter 2017, without restarts);
    - ``linear``: ``peak (1 - p)``;
    - ``steps``: ``peak`` times ``factor`` for every entry of ``drops`` that ``p`` has reached;
    - ``exponential``: ``peak factor^p``;
    - ``inverse_time``: ``peak / (1 + (1 / factor - 1) p)``, which ends at ``factor peak``, too;
    - ``one_cycle``: half cosines from ``peak / 25`` up to ``peak`` at ``p = .3`` and down to
      ``peak / 250,000``, :func:`one_cycle` (Smith & Topin 2018; these numbers are Optax's);
    - ``annealed``: ``peak / (1 + 10 p)^.75`` (Ganin & Lempitsky 2015), :func:`annealed`.

    Args:
      peak, factor, stop: may be traced, so that members of a population can differ in them.
      stop: the rate is 0 from this step on, warm-up included in the count, and parameters stay as
        they are then: members of one program train for different numbers of steps. (Statistics of
        batch normalization go on with the parameters that they have.) None: it never is.

    Raises:
      ValueError: for an unknown name, or unless ``0 <= warmup < steps``.
    """
    if not 0 <= warmup < steps:
        raise ValueError(
            f"a warm-up of {warmup} steps does not fit into {steps} steps: "
            f"choose one below {steps}, or more steps"
        )
    rest, first = steps - warmup, peak
    match name:
        case "constant":
            rate = optax.constant_schedule(peak)
        case "cosine":
            rate = optax.cosine_decay_schedule(peak, rest)
        case "linear":
            rate = optax.linear_schedule(peak, 0.0, rest)
        case "steps":
            # p reaches d at step ceil(d * rest); the tolerance is for products such as 0.1 * 30.
            # (Optax's own refuses a traced factor, and so does its exponential.)
            starts = [math.ceil(drop * rest - 1e-9) for drop in drops]

            def rate(step: int | AnyArray) -> Any:
                value = jnp.asarray(peak)
                for start in starts:
                    value = jnp.where(step < start, value, factor * value)
                return value

        case "exponential":

            def rate(step: int | AnyArray) -> Any:
                return peak * factor ** (step / rest)

        case "inverse_time":

            def rate(step: int | AnyArray) -> Any:
                return peak / (1 + (1 / factor - 1) * (step / rest))

        case "one_cycle":
            first = one_cycle(0.0, peak)

            def rate(step: int | AnyArray) -> Any:
                return one_cycle(step / rest, peak)

        case "annealed":

            def rate(step: int | AnyArray) -> Any:
                return annealed(step / rest, peak)

        case _:
            raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, first, warmup), rate], [warmup])
    if stop is None:
        return rate
    return lambda step: jnp.where(step < stop, rate(step), 0.0)
