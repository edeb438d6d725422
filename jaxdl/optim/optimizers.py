"""Optimizers by name, with weight decay by mask, clipping, max-norm and freezing around them."""

import jax
import optax

from jaxdl.optim.projections import is_weight
from jaxdl.optim.projections import max_norm as max_norm_projection
from jaxdl.types import PyTree, Scalar

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: Scalar = 0.9,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    bias_rate: Scalar = 1.0,
    clip_norm: Scalar | None = None,
    max_norm: Scalar | None = None,
    trainable: PyTree | None = None,
) -> optax.GradientTransformation:
    """One update rule; ``g`` is the gradient, ``w`` the parameters, ``r`` the rate.

    - ``sgd``: ``w - r (g + d w)``
    - ``momentum``: ``v <- m v + g + d w``, ``w - r v`` (Polyak's, as in Caffe and PyTorch)
    - ``nesterov``: ``w - r (m v + g + d w)`` with the new ``v`` (Sutskever et al. 2013)
    - ``adam``: Adam with ``d w`` added to the gradient (Kingma & Ba 2015)
    - ``adamw``: Adam, and ``r d w`` taken off beside it (Loshchilov & Hutter 2019)

    All numbers may be traced, so that the members of a population can differ in them.

    Args:
      momentum: ``m``.
      b1, b2, eps: Adam's.
      weight_decay: ``d``, applied to :func:`jaxdl.optim.projections.is_weight` only.
      bias_rate: the rate of everything else, in multiples of ``r`` (Caffe: 2).
      clip_norm: scale ``g`` down to this global 2-norm, before the decay is added. (For one
        network: several that share a state would depend on each other.)
      max_norm: radius of :func:`jaxdl.optim.max_norm`, last in the chain.
      trainable: booleans like the parameters, from :func:`jaxdl.transfer.trainable`; False keeps
        an array as it is: no update, no decay, no projection.

    Raises:
      ValueError: for an unknown name.
    """
    decay = optax.add_decayed_weights(weight_decay, mask=is_weight)
    match name:
        case "sgd":
            rule = [decay, optax.sgd(learning_rate)]
        case "momentum":
            rule = [decay, optax.sgd(learning_rate, momentum)]
        case "nesterov":
            rule = [decay, optax.sgd(learning_rate, momentum, nesterov=True)]
        case "adam":
            rule = [decay, optax.adam(learning_rate, b1, b2, eps)]
        case "adamw":
            own_decay = {"weight_decay": weight_decay, "mask": is_weight}
            rule = [optax.adamw(learning_rate, b1, b2, eps, **own_decay)]
        case _:
            raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
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
        rule.append(max_norm_projection(max_norm))
    if trainable is not None:
        # At the start, so that the norm clipped is that of what trains; at the end for the rest.
        freeze = optax.freeze(jax.tree.map(lambda trains: not trains, trainable))
        rule = [freeze, *rule, freeze]
    return optax.chain(*rule)
