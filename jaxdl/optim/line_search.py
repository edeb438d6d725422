"""A line search around any rule that gives a direction; it writes the function once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxdl.types import PyTree


class SearchState(NamedTuple):
    """The state at the end of the last search."""

    rule: PyTree
    """The state of the rule that gives directions."""
    value: Float[Array, ""]
    """Value of the function; unknown where it is not finite."""
    grad: PyTree
    """Gradient of the function."""
    descent: Float[Array, ""]
    """The fall of the value in that search; not finite where it was unknown before."""
    learning_rate: Float[Array, ""]
    """The step along the direction."""
    evaluations: Int[Array, ""]
    """Number of evaluations of the function and its gradient in the last search."""


class _Search(NamedTuple):
    """The best point's step, value, slope and gradient, and the bracket's other end."""

    step: Float[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]
    grad: PyTree
    other_step: Float[Array, ""]
    other_value: Float[Array, ""]
    other_slope: Float[Array, ""]
    bracketed: Bool[Array, ""]
    trial: Float[Array, ""]
    stop: Bool[Array, ""]
    evaluations: Int[Array, ""]


def wolfe_searched(
    rule: optax.GradientTransformation,
    max_evaluations: int = 20,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    rounding: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """Steps along the rule's direction ``-d`` so far that the strong Wolfe conditions hold::

        f(x - a d) <= f(x) - c1 a d·g(x)    and    |d·g(x - a d)| <= c2 d·g(x)

    The first trial is ``a = 2.02 D / d·g(x)``, but at most 1, where D is how much the value fell in
    the last search (Nocedal & Wright 2006, after equation 3.60): far from the quadratic that they
    model, quasi-Newton directions are mostly too long. From there ``a`` grows to where the slopes
    seen would come to 0, 2 to 30 times as far, until a bracket is found; then the minimum of the
    cubic through values and slopes at its ends is tried (algorithms 3.5 and 3.6).

    Where the value has changed by less than ``rounding |f|``, slopes decide, which stay exact for
    longer: ``d·g(x - a d) >= (2 c1 - 1) d·g(x)``, the approximate condition of Hager & Zhang
    (2006); the value may then rise by as much. Where nothing such is found, or the direction does
    not descend, nothing moves. A trial that rounds to ``x`` ends a search within a bracket, and any
    search after one that gained nothing: at the limit of precision an update is one evaluation.

    ``update(grads, state, params, value_fn=f)`` searches from the value and the gradient at which
    the last search ended; ``grads`` are not read. Without them, at the start and after
    :func:`restart`, it does nothing but look. So ``f`` and its gradient stand once in the program;
    ``optax.scale_by_zoom_linesearch`` with ``value_and_grad_from_state`` has them three times, and
    compiling is what takes longest where a network's derivatives are in ``f``.

    Args:
      rule: gives ``d`` from ``g``, as ``optax.scale_by_lbfgs()`` does.
      max_evaluations: after so many the best point is taken.
      decrease, curvature: c1 and c2.
      rounding: relative changes of the value below this are not trusted.
    """

    def init(params: PyTree) -> SearchState:
        unknown = jnp.asarray(jnp.inf, jax.tree.leaves(params)[0].dtype)
        zeros = jax.tree.map(jnp.zeros_like, params)
        none = jnp.zeros((), jnp.int32)
        step = jnp.zeros_like(unknown)
        return SearchState(rule.init(params), unknown, zeros, unknown, step, none)

    def update(
        grads: PyTree,
        state: SearchState,
        params: PyTree,
        *,
        value_fn: Callable[[PyTree], Float[Array, ""]],
        **unused: Any,
    ) -> tuple[PyTree, SearchState]:
        del grads, unused
        is_finite = jnp.isfinite(state.value)
        directions, direction_state = lax.cond(
            is_finite,
            lambda: rule.update(state.grad, state.rule, params),
            lambda: (jax.tree.map(jnp.zeros_like, params), state.rule),
        )
        slope = -optax.tree.vdot(directions, state.grad)
        descends = is_finite & (slope < 0)
        zero = jnp.zeros_like(state.value)

        def body(search: _Search) -> _Search:
            # A zero direction is not followed where it leads out of what is finite.
            trial_params = jax.tree.map(
                lambda p, d: p - jnp.where(descends, search.trial * d, 0), params, directions
            )
            value, grad = jax.value_and_grad(value_fn)(trial_params)
            changes = jax.tree.map(lambda t, p: jnp.any(t != p), trial_params, params)
            moves = jnp.stack(jax.tree.leaves(changes)).any()
            trial_slope = -optax.tree.vdot(directions, grad)
            flat = value <= state.value + rounding * jnp.abs(state.value)
            flat &= trial_slope <= (2 * decrease - 1) * slope
            low = value <= state.value + decrease * search.trial * slope
            low &= (value < search.value) | (search.step == 0)
            # What is too short to move x may still be lengthened, once.
            ends = ~moves & (search.bracketed | (state.descent == 0))
            good = (low | flat) & ~ends
            stop = (good & (jnp.abs(trial_slope) <= -curvature * slope)) | ~descends | ends
            # The bracket's other end is the trial, where it is too high, or else the best until
            # now, where the trial is better and the function rises from it in that direction.
            turns = jnp.where(
                search.bracketed,
                trial_slope * (search.other_step - search.step) >= 0,
                trial_slope >= 0,
            )
            best = (search.step, search.value, search.slope)
            trial = (search.trial, value, trial_slope)
            other_end = (search.other_step, search.other_value, search.other_slope)
            chosen: tuple[Array, Array, Array] = jax.tree.map(
                lambda b, t, o: jnp.where(good, jnp.where(turns, b, o), t), best, trial, other_end
            )
            accepted = good | ~descends  # where nothing descends, the value at x is looked at
            lowest: tuple[Array, Array, Array] = jax.tree.map(
                lambda b, t: jnp.where(accepted, t, b), best, trial
            )
            bracketed = search.bracketed | ~good | turns
            secant = search.trial + (search.trial - search.step) * trial_slope / (
                search.slope - trial_slope
            )
            secant = jnp.where(trial_slope == search.slope, jnp.inf, secant)
            extrapolation = jnp.clip(secant, 2 * search.trial, 30 * search.trial)
            next_trial = jnp.where(bracketed, _between(*lowest, *chosen), extrapolation)
            return _Search(
                *lowest,
                jax.tree.map(lambda t, b: jnp.where(accepted, t, b), grad, search.grad),
                *chosen,
                bracketed,
                next_trial,
                stop,
                search.evaluations + 1,
            )

        expected = -2.02 * state.descent / slope
        hopeful = (state.descent > 0) & (expected > 0)
        first = _Search(
            zero,
            state.value,
            slope,
            state.grad,
            zero,
            zero,
            zero,
            bracketed=jnp.asarray(False),
            trial=jnp.where(hopeful, jnp.minimum(expected, 1), jnp.ones_like(zero)),
            stop=jnp.asarray(False),
            evaluations=jnp.zeros((), jnp.int32),
        )
        result = lax.while_loop(
            lambda search: ~search.stop & (search.evaluations < max_evaluations), body, first
        )
        step = jnp.where(descends, result.step, 0)
        updates = jax.tree.map(lambda d: jnp.where(step > 0, -step * d, 0), directions)
        descent = state.value - result.value
        return updates, SearchState(
            direction_state, result.value, result.grad, descent, step, result.evaluations
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _between(a: Array, fa: Array, da: Array, b: Array, fb: Array, db: Array) -> Float[Array, ""]:
    """The minimum of the cubic through two points, not too near to either; or their middle."""
    slope = da + db - 3 * (fa - fb) / (a - b)
    root = jnp.sqrt(slope**2 - da * db) * jnp.sign(b - a)
    minimum = b - (b - a) * (db + root - slope) / (db - da + 2 * root)
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    margin = 0.03 * (high - low)
    inner = jnp.clip(minimum, low + margin, high - margin)
    return jnp.where(jnp.isfinite(minimum), inner, (a + b) / 2)
