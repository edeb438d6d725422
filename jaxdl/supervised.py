"""Supervised losses of any Flax module.

:func:`make_loss` makes, of a module and one number an example, a loss for
:func:`jaxdl.train.state.make_step`; :func:`classification_loss`, :func:`regression_loss` and
:func:`binary_loss` are the three usual ones. Their settings may be traced, so that the members of
a population differ in them::

    def loss_fn(params, collections, batch, hyper, key):
        network = model.clone(dropout=hyper["dropout"])
        loss = classification_loss(network, smoothing=hyper["smoothing"])
        return loss(params, collections, batch, hyper, key)
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from jaxdl.nn.losses import binary_cross_entropy, cross_entropy, distillation, squared_error
from jaxdl.nn.metrics import correct
from jaxdl.nn.models.lecun import squash
from jaxdl.types import (
    AnyArray,
    Batch,
    Collections,
    Hyper,
    LossFn,
    Metrics,
    Params,
    PyTree,
    Scalar,
    Variables,
)

PerExample = Callable[[Array, Batch], tuple[Float[Array, " b"], Metrics]]
"""A function from a network's outputs and the batch to each example's loss and other numbers,
[b]."""


def parameters(model: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a Flax module's ``__call__``, or of ``apply`` where the module is not
    callable."""
    return dict(inspect.signature(model if callable(model) else model.apply).parameters)


def apply_train(
    model: Any, variables: Variables, x: AnyArray, key: PRNGKeyArray
) -> tuple[Array, Collections]:
    """The outputs of any Flax module in training mode, and its updated collections.

    Training mode is ``train=True``, ``training=True`` or ``deterministic=False``, as far as the
    module's ``__call__`` takes them; ``key`` is for its dropout. Every collection but ``params``
    may change; one that the module does not touch stays as it is.
    """
    arguments = parameters(model)
    modes = {"train": True, "training": True, "deterministic": False}
    modes = {name: value for name, value in modes.items() if name in arguments}
    collections = {kind: variables[kind] for kind in variables if kind != "params"}
    outputs, updated = model.apply(
        variables, x, mutable=["batch_stats", *collections], rngs={"dropout": key}, **modes
    )
    return outputs, {**collections, **updated}


def make_loss(
    model: Any, per_example: PerExample, *, inputs: str = "image", dtype: Any = None
) -> LossFn:
    """The loss of a network: the mean over a batch of one number an example.

    Where the batch has ``"weight"`` [b], means are ``sum w l / sum w``: 0 leaves out examples
    whose target is missing, which may be NaN. (Of a batch that is divided over devices it is the
    mean of theirs.)

    Args:
      model: any Flax module whose ``apply`` takes ``batch[inputs]``.
      per_example: ``per_example(outputs, batch) -> (losses, metrics)``, all of shape [b].
      inputs: the array of a batch that the network sees.
      dtype: type of the network's computations, such as `jnp.bfloat16`; parameters, other
        collections and outputs keep their own (float32). Default: as the module says.
    """

    def loss_fn(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Collections, Metrics]]:
        del hyper
        weights = batch.get("weight")
        if weights is not None:
            batch = {name: _without_missing(array, weights) for name, array in batch.items()}
        variables = {"params": _cast(params, dtype), **collections}
        outputs, updated = apply_train(model, variables, _cast(batch[inputs], dtype), key)
        if dtype is not None:
            outputs = _cast(outputs, jnp.float32)
            updated = jax.tree.map(lambda a, old: a.astype(old.dtype), updated, collections)
        losses, metrics = per_example(outputs, batch)

        def mean(values: AnyArray) -> Float[Array, ""]:
            values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
            if weights is None:
                return jnp.mean(values)
            tiny = jnp.finfo(values.dtype).tiny
            return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), tiny)

        return mean(losses), (updated, jax.tree.map(mean, metrics))

    return loss_fn


def _without_missing(array: AnyArray, weights: Shaped[AnyArray, " b"]) -> Array:
    """0 in the rows of weight 0: a NaN there would come through the gradient of any mask that is
    laid on the losses."""
    present = (weights != 0).reshape(-1, *[1] * (array.ndim - 1))
    return jnp.where(present, array, jnp.zeros((), array.dtype))


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating-point arrays in another type; with None the tree itself."""
    if dtype is None:
        return tree
    floating = jnp.floating
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, floating) else a, tree)


def classification_loss(
    model: Any,
    *,
    inputs: str = "image",
    smoothing: Scalar = 0.0,
    class_weights: Float[AnyArray, " k"] | None = None,
    squared: bool = False,
    soft: Scalar = 0.0,
    temperature: Scalar = 1.0,
    dtype: Any = None,
) -> LossFn:
    """Mean :func:`jaxdl.nn.losses.cross_entropy` of logits and ``batch["label"]``, with the metric
    ``accuracy``. Labels are integers, or distributions [b, k], as mixup makes them.

    Where ``batch["weight"]`` is 0 a label may be -1.

    Args:
      squared: instead of it, the squared distance of ``1.7159 tanh(2/3 logit)`` to targets that
        are 1 for the label and -1 for the other classes (LeCun et al. 1989).
      soft: the share of :func:`jaxdl.nn.losses.distillation` from the logits ``batch["teacher"]``
        [b, k], where there are such.
      temperature: temperature of the distillation.
    """

    def per_example(logits: Float[Array, "b k"], batch: Batch) -> tuple[Array, Metrics]:
        labels = batch["label"]
        if squared:
            shares = labels if labels.ndim > 1 else jax.nn.one_hot(labels, logits.shape[-1])
            losses = squared_error(squash(logits), 2 * shares - 1)
        else:
            weights = class_weights
            losses = cross_entropy(logits, labels, smoothing=smoothing, class_weights=weights)
        if "teacher" in batch:
            soft_loss = distillation(logits, batch["teacher"], temperature)
            losses = jnp.asarray((1 - soft) * losses + soft * soft_loss)
        right = correct(logits, labels if labels.ndim == 1 else jnp.argmax(labels, -1))
        return losses, {"accuracy": right}

    return make_loss(model, per_example, inputs=inputs, dtype=dtype)


def regression_loss(
    model: Any, *, inputs: str = "features", targets: str = "target", dtype: Any = None
) -> LossFn:
    """Mean :func:`jaxdl.nn.losses.squared_error` of outputs and ``batch[targets]``.

    Outputs [b, 1] meet targets [b].
    """

    def per_example(outputs: Float[Array, " b *d"], batch: Batch) -> tuple[Array, Metrics]:
        target = batch[targets]
        if outputs.shape == (*target.shape, 1):
            outputs = outputs[..., 0]
        return squared_error(outputs, target), {}

    return make_loss(model, per_example, inputs=inputs, dtype=dtype)


def binary_loss(
    model: Any, *, inputs: str = "image", targets: str = "label", dtype: Any = None
) -> LossFn:
    """Mean :func:`jaxdl.nn.losses.binary_cross_entropy` of logits and ``batch[targets]``, 0 … 1,
    with the metric ``accuracy``; the mean is over pixels, too, where each has a logit.

    Logits [..., 1] meet labels [...].

    Raises:
      ValueError: in use, for logits and labels of other shapes.
    """

    def per_example(logits: Float[Array, " b *d"], batch: Batch) -> tuple[Array, Metrics]:
        labels = batch[targets]
        if logits.shape == (*labels.shape, 1):
            logits = logits[..., 0]
        if logits.shape != labels.shape:
            raise ValueError(f"logits are {list(logits.shape)}, labels {list(labels.shape)}")
        losses, right = binary_cross_entropy(logits, labels), (logits > 0) == (labels > 0.5)
        axes = tuple(range(1, labels.ndim))
        return jnp.mean(losses, axes), {"accuracy": jnp.mean(right, axes, dtype=jnp.float32)}

    return make_loss(model, per_example, inputs=inputs, dtype=dtype)
