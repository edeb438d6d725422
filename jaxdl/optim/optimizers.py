"""Optimizers by name, with weight decay by mask, clipping, projections and freezing around them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxdl.optim import projections
from jaxdl.optim.projections import is_weight
from jaxdl.types import AnyArray, PyTree, Scalar


class Rule(NamedTuple):
    """An update rule: its direction as a function of gradients, and its numbers."""

    direction: Callable[..., optax.GradientTransformation]
    """The transformation from gradients to directions; takes the numbers, in their order."""
    numbers: Mapping[str, float]
    """Numbers with their defaults: the paper's where it has one, else Optax's."""
    decoupled: bool = False
    """Whether weight decay is decoupled from the gradient."""


def _muon(momentum: Scalar, b1: Scalar, b2: Scalar, eps: Scalar) -> optax.GradientTransformation:
    """Muon for kernels, each a matrix [inputs, units] as in :mod:`jaxdl.optim.projections`; Adam
    for the rest."""

    def axes(updates: PyTree) -> PyTree:
        def units_last(u: AnyArray) -> contrib.MuonDimensionNumbers:
            return contrib.MuonDimensionNumbers(tuple(range(u.ndim - 1)), u.ndim - 1)

        return jax.tree.map(units_last, updates)

    def scaled(updates: PyTree, params: PyTree) -> PyTree:
        del params

        def scale(u: AnyArray) -> AnyArray:
            units = u.shape[-1]
            return 0.2 * jnp.sqrt(max(units, u.size // units)) * u

        return jax.tree.map(scale, updates)

    orthogonal = contrib.scale_by_muon(beta=momentum, eps=eps, weight_dimension_numbers=axes)
    rules = {
        True: optax.chain(orthogonal, optax.stateless(scaled)),
        False: optax.scale_by_adam(b1, b2, eps),
    }
    return optax.partition(rules, partial(projections.named, names=("kernel",)))


OPTIMIZERS: Mapping[str, Rule] = {
    "sgd": Rule(optax.identity, {}),
    "momentum": Rule(optax.trace, {"momentum": 0.9}),
    "nesterov": Rule(partial(optax.trace, nesterov=True), {"momentum": 0.9}),
    "adagrad": Rule(partial(optax.scale_by_rss, 0.0), {"eps": 1e-7}),
    "adadelta": Rule(optax.scale_by_adadelta, {"b2": 0.95, "eps": 1e-6}),
    "rmsprop": Rule(optax.scale_by_rms, {"b2": 0.9, "eps": 1e-8}),
    "adam": Rule(optax.scale_by_adam, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "adamw": Rule(optax.scale_by_adam, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}, decoupled=True),
    "lion": Rule(optax.scale_by_lion, {"b1": 0.9, "b2": 0.99}, decoupled=True),
    "muon": Rule(_muon, {"momentum": 0.95, "b1": 0.9, "b2": 0.999, "eps": 1e-8}, decoupled=True),
}


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: Scalar | None = None,
    b1: Scalar | None = None,
    b2: Scalar | None = None,
    eps: Scalar | None = None,
    weight_decay: Scalar = 0.0,
    bias_rate: Scalar = 1.0,
    clip_norm: Scalar | None = None,
    max_norm: Scalar | None = None,
    max_abs: Scalar | None = None,
    trainable: PyTree | None = None,
) -> optax.GradientTransformation:
    """The update rule ``w <- w - r u`` of a name.

    ``g`` is the gradient, ``w`` the parameters, ``r`` the rate; ``v`` and ``s`` are 0 at first:

    - ``sgd``: ``u = g``
    - ``momentum``: ``v <- m v + g``, ``u = v`` (Polyak's, as in Caffe and PyTorch)
    - ``nesterov``: ``u = m v + g`` with the new ``v`` (Sutskever et al. 2013)
    - ``adagrad``: ``s <- s + g²``, ``u = g / sqrt(s + eps)`` (Duchi et al. 2011)
    - ``adadelta``: ``s <- b2 s + (1 - b2) g²``, ``u = g sqrt(x + eps) / sqrt(s + eps)``, then
      ``x <- b2 x + (1 - b2) u²``; the paper's rate is 1 (Zeiler 2012)
    - ``rmsprop``: ``u = g / sqrt(s + eps)`` with the same ``s`` (Tieleman & Hinton 2012)
    - ``adam``: ``v <- b1 v + (1 - b1) g``, ``u = v / (sqrt(s) + eps)`` with the same ``s``, and
      ``v`` and ``s`` divided by the sums of their weights, ``1 - b^t`` (Kingma & Ba 2015)
    - ``adamw``: the same, with decoupled decay (Loshchilov & Hutter 2019)
    - ``lion``: ``u = sign(b1 v + (1 - b1) g)``, then ``v <- b2 v + (1 - b2) g`` (Chen et al. 2023)
    - ``muon``: for kernels, of any number of axes, as matrices [inputs, units]: Nesterov's
      momentum made nearly orthogonal by five Newton-Schulz steps (Jordan et al. 2024), times
      ``0.2 sqrt(max(inputs, units))``, so that its entries are as large as Adam's and one rate
      suits both (Liu et al. 2025); for all else ``adam``'s ``u``

    Weights decay by ``d``: ``g + d w`` takes the place of ``g``, which is the gradient of
    ``d/2 |w|²``; with ``adamw``, ``lion`` and ``muon`` ``u + d w`` takes the place of ``u``. Under
    SGD that is the same. Where ``u`` is divided by the size of past gradients, so is the first
    kind of decay, and weights of large gradients hardly decay; the second, decoupled kind takes
    the share ``r d`` of every weight (Loshchilov & Hutter 2019).

    All numbers may be traced, so that the members of a population can differ in them.

    Args:
      momentum: ``m``.
      b1, b2, eps: as above. Of these and ``momentum`` a rule reads its own; None is the default
        of :data:`OPTIMIZERS`.
      weight_decay: ``d``, applied to :func:`jaxdl.optim.projections.is_weight` only.
      bias_rate: the rate of everything else, in multiples of ``r`` (Caffe: 2).
      clip_norm: scale ``g`` down to this global 2-norm, before the decay is added. (For one
        network: several that share a state would depend on each other.)
      max_norm, max_abs: radius of :func:`jaxdl.optim.max_norm` and bound of
        :func:`jaxdl.optim.max_abs`, last in the chain.
      trainable: booleans like the parameters, from :func:`jaxdl.transfer.trainable`; False keeps
        an array as it is: no update, no decay, no projection.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    direction, defaults, decoupled = OPTIMIZERS[name]
    arguments = {"momentum": momentum, "b1": b1, "b2": b2, "eps": eps}
    numbers = {key: value for key, value in arguments.items() if value is not None}
    steepest = direction(*(numbers.get(key, default) for key, default in defaults.items()))
    decay = optax.add_decayed_weights(weight_decay, mask=is_weight)
    rule = [steepest, decay] if decoupled else [decay, steepest]
    rule.append(optax.scale_by_learning_rate(learning_rate))
    if isinstance(bias_rate, jax.core.Tracer) or bias_rate != 1:
        scale_biases = optax.scale(bias_rate)
        rule.append(
            optax.masked(
                scale_biases, lambda w: jax.tree.map(lambda weight: not weight, is_weight(w))
            )
        )
    if clip_norm is not None:
        rule.insert(0, optax.clip_by_global_norm(clip_norm))
    if max_norm is not None:
        rule.append(projections.max_norm(max_norm))
    if max_abs is not None:
        rule.append(projections.max_abs(max_abs))
    if trainable is not None:
        # At the start, so that the norm clipped is that of what trains; at the end for the rest.
        freeze = optax.freeze(jax.tree.map(lambda trains: not trains, trainable))
        rule = [freeze, *rule, freeze]
    return optax.chain(*rule)
