"""Dense quasi-Newton methods of the self-scaled Broyden family, for full batches in float64.

With s the last step, y the change of the gradient along it and H the inverse Hessian before it,

    H⁺ = (H - Hy Hyᵀ / (y·Hy) + φ v vᵀ) / τ + s sᵀ / (y·s),  v = √(y·Hy) (s / (y·s) - Hy / (y·Hy)),

so that H⁺y = s. τ = φ = 1 is BFGS. Urbán, Stefanou & Pons, "Unveiling the optimization process of
physics informed neural networks", J. Comput. Phys. 523, 2025, chose τ and φ by Al-Baali 1998
(SSBFGS) and Al-Baali & Khalfan 2005 (SSBroyden) from two numbers, each the curvature of H
along one of the two vectors in multiples of what was seen:

    b = s·Bs / (y·s) with B = H⁻¹,  h = y·Hy / (y·s),  b h ≥ 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from jaxdl.optim.line_search import SearchState, wolfe_searched
from jaxdl.types import PyTree

Scalar = Float[Array, ""]
Scaling = Callable[[Scalar, Scalar, int], tuple[Scalar, Scalar]]  # (b, h, n) -> (τ, φ)


class SelfScaledState(NamedTuple):
    """The state of the methods; n is the number of parameters, raveled."""

    inverse_hessian: Float[Array, "n n"]
    last_params: Float[Array, " n"]
    last_grad: Float[Array, " n"]
    last_direction: Float[Array, " n"]
    """H g of the last update, of which a line search may have taken a multiple."""
    fresh: Bool[Array, ""]
    """Whether there is no usable earlier gradient: at the start, after a change of the objective,
    after a discarded direction."""
    pairs: Int[Array, ""]
    """Number of pairs of s and y in ``inverse_hessian``; with none it is a multiple of I."""


def ssbfgs_scaling(b: Scalar, h: Scalar, n: int) -> tuple[Scalar, Scalar]:
    """``τ = min(1, 1/b)``, ``φ = 1``: equation 11 of Urbán et al."""
    return jnp.minimum(1.0, 1.0 / b), jnp.ones_like(b)


def ssbroyden_scaling(b: Scalar, h: Scalar, n: int) -> tuple[Scalar, Scalar]:
    """Equations 13-23 of Urbán et al., with ``a = b h - 1`` and ``c = √(a / (1 + a))``.

    ``θ`` is ``(1 - b) / b``, but no less than ``(ρ - 1) / a`` and no more than ``1/ρ``, where
    ``ρ = min(1, h (1 - c))``. Then ``σ = 1 + a θ`` and ``φ = (1 - θ) / σ``; ``τ`` is
    ``min(1, 1/b) min(σ^(-1/(n-1)), 1/θ)`` if ``θ > 0``, else
    ``min(min(1, 1/b) σ^(-1/(n-1)), σ)``. Never is ``τ > 1``.
    """
    # a = 0 where s is along Hy; then v = 0 and φ does not matter, but it must not be 0 / 0.
    a = jnp.maximum(b * h - 1.0, jnp.finfo(b.dtype).eps)
    # h (1 - c) is 1 / (b (1 + c)), which does not cancel for large a.
    rho = jnp.minimum(1.0, 1.0 / (b * (1.0 + jnp.sqrt(a / (1.0 + a)))))
    theta = jnp.clip((1.0 - b) / b, (rho - 1.0) / a, 1.0 / rho)
    sigma = 1.0 + a * theta  # at least ρ, hence positive: H⁺ stays positive definite
    shrink, volume = jnp.minimum(1.0, 1.0 / b), sigma ** (-1.0 / max(n - 1, 1))
    limit = jnp.where(theta > 0, shrink / theta, sigma)
    return jnp.minimum(shrink * volume, limit), (1.0 - theta) / sigma


def inverse_update(
    H: Float[Array, "n n"],
    Hy: Float[Array, " n"],
    s: Float[Array, " n"],
    y: Float[Array, " n"],
    tau: Scalar,
    phi: Scalar,
) -> Float[Array, "n n"]:
    """``H⁺`` of the module's formula. Elementwise in H, so XLA makes it one pass over H.

    Positive definite if H is, ``y·s > 0``, ``τ > 0`` and ``1 + (b h - 1) φ > 0``; symmetric to
    the last bit if H is, since every term is a number times a product of an entry with an entry.
    """
    ys, yHy = y @ s, y @ Hy
    v = s / ys - Hy / yHy

    def square(u):
        return u[:, None] * u[None, :]

    # Reciprocals of numbers, for the sake of no division in the loop.
    update = square(v) * (phi * yHy / tau) - square(Hy) * (1.0 / (tau * yHy))
    return H * (1.0 / tau) + update + square(s) * (1.0 / ys)


def scale_by_self_scaled(scaling: Scaling) -> optax.GradientTransformation:
    """``H g`` with the inverse Hessian of the family member that ``scaling`` names.

    - The first direction is ``g / |g|``, since nothing is known of the scale of H; so a loss and
      a multiple of it are minimized alike.
    - Before its first update H is scaled to ``y·s / (y·Hy)`` times itself (Shanno & Phua 1978):
      ``τ ≤ 1`` never makes an H smaller that was chosen too large.
    - A pair without safely positive curvature, or not finite, leaves H as it is.
    - Should rounding have cost H its positive definiteness so that ``H g`` is no descent, or should
      the last update have led nowhere, all of it is forgotten and the method starts anew, in the
      latter case with a hundredth of the step that H took along g.

    Raises:
      ValueError: on update, if no parameters are given.
    """

    def init(params: PyTree) -> SelfScaledState:
        flat, _ = ravel_pytree(params)
        # Three arrays and not one three times, which could not be donated.
        return SelfScaledState(
            inverse_hessian=jnp.eye(flat.size, dtype=flat.dtype),
            last_params=jnp.zeros_like(flat),
            last_grad=jnp.zeros_like(flat),
            last_direction=jnp.zeros_like(flat),
            fresh=jnp.asarray(True),
            pairs=jnp.asarray(0, jnp.int32),
        )

    def update(updates: PyTree, state: SelfScaledState, params: PyTree | None = None):
        if params is None:
            raise ValueError("quasi-Newton needs the parameters: tx.update(grads, state, params)")
        g, unravel = ravel_pytree(updates)
        x, _ = ravel_pytree(params)
        H, norm = state.inverse_hessian, jnp.linalg.norm
        first, fresh = state.pairs == 0, jnp.asarray(state.fresh)  # may be given as a bool

        s, y = x - state.last_params, g - state.last_grad
        Hy = H @ y
        ys, yHy = y @ s, y @ Hy
        # s = -α H g of the last update, hence Bs = -α g without a B.
        alpha = (s @ s) / -(s @ state.last_direction)
        b, h = -alpha * (s @ state.last_grad) / ys, yHy / ys
        gain = jnp.where(first, 1.0 / h, 1.0)  # a gain of H goes straight into 1/b, h and 1/τ
        tau, phi = scaling(b / gain, h * gain, g.size)
        tau = tau / gain
        curved = (ys > jnp.finfo(g.dtype).eps * norm(s) * norm(y)) & (yHy > 0) & (b > 0)
        usable = ~fresh & curved & (tau > 0) & jnp.isfinite(tau) & jnp.isfinite(phi)

        length = norm(g)
        unit = jnp.where(jnp.isfinite(length) & (length > 0), 1.0 / length, 1.0)
        # Both selects join the loop of the update; vmap would make the same of a `cond`.
        H = jnp.where(usable, inverse_update(H, Hy, s, y, tau, phi), H)
        d = H @ g
        stuck = ~fresh & (s @ s == 0) & (y @ y == 0)  # nothing lower was found along H g
        restart = stuck | (fresh & first)
        # A unit step would be too long by far where H has become small; and the next time shorter.
        short = 0.01 * (g @ d) / (g @ g)
        unit = jnp.where(stuck & (short > 0) & jnp.isfinite(short), short, unit)
        H = jnp.where(restart, unit * jnp.eye(g.size, dtype=g.dtype), H)
        d = jnp.where(restart, unit * g, d)
        is_lost = ~(g @ d > 0) & (length > 0) & jnp.isfinite(length)
        d = jnp.where(is_lost, unit * g, d)
        # Fresh without pairs: the next update writes H anew.
        pairs = jnp.where(is_lost | stuck, 0, state.pairs + usable)
        return unravel(d), SelfScaledState(H, x, g, d, is_lost, pairs)

    return optax.GradientTransformation(init, update)


def scale_by_ssbfgs() -> optax.GradientTransformation:
    """:func:`scale_by_self_scaled` with :func:`ssbfgs_scaling`."""
    return scale_by_self_scaled(ssbfgs_scaling)


def scale_by_ssbroyden() -> optax.GradientTransformation:
    """:func:`scale_by_self_scaled` with :func:`ssbroyden_scaling`."""
    return scale_by_self_scaled(ssbroyden_scaling)


def ssbfgs(**search: Any) -> optax.GradientTransformationExtraArgs:
    """:func:`ssbroyden` with the simpler scaling of :func:`ssbfgs_scaling`."""
    return wolfe_searched(scale_by_ssbfgs(), **search)


def ssbroyden(**search: Any) -> optax.GradientTransformationExtraArgs:
    """Self-scaled Broyden with a line search; memory and time a step are O(n²).

    Args:
      search: options of :func:`jaxdl.optim.wolfe_searched`.
    """
    return wolfe_searched(scale_by_ssbroyden(), **search)


def restart(state: PyTree) -> PyTree:
    """The optimizer's state for an objective that has changed: new points, new weights.

    Of a line search's state the value becomes unknown, and a :class:`SelfScaledState` becomes
    ``fresh``, so that H is kept and the pair that would mix two objectives is left out. L-BFGS,
    which cannot leave out a pair, is reset. Any other state (Adam's) is left as it is. Shapes and
    types stay, so it may be jitted and mapped.
    """

    def renew(node: Any) -> Any:
        match node:
            case SearchState():
                unknown = jnp.full_like(node.value, jnp.inf)
                return node._replace(rule=restart(node.rule), value=unknown)
            case SelfScaledState():
                return node._replace(fresh=jnp.ones_like(node.fresh))
            case optax.ScaleByLBFGSState():
                return jax.tree.map(jnp.zeros_like, node)
            case optax.ScaleByZoomLinesearchState() | optax.ScaleByBacktrackingLinesearchState():
                return node._replace(value=jnp.full_like(node.value, jnp.inf))
            case _:
                return node

    state_types = (
        *(SearchState, SelfScaledState, optax.ScaleByLBFGSState),
        *(optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState),
    )
    return jax.tree.map(renew, state, is_leaf=lambda node: isinstance(node, state_types))
