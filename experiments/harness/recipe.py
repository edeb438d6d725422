"""Training settings shared by studies: optimizer, loss, model, examples, data options.

Numeric settings are traced: methods that differ only in them share a program. A number that is off
in one method and on in another takes two programs, so that what is off costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments.harness.settings import (
    Between,
    Count,
    Flag,
    Kinds,
    Method,
    Multiple,
    OneOf,
    SomeOf,
    TupleOf,
)
from experiments.harness.user_functions import NamedFunction
from jaxdl.data import augment, features, preparation, sampling, splits
from jaxdl.data.encoded import Images, in_memory
from jaxdl.data.features import FEATURES, make_features
from jaxdl.nn.layers import ACTIVATIONS
from jaxdl.nn.models import MODELS
from jaxdl.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, penalized
from jaxdl.predict import VIEWS
from jaxdl.supervised import classification_loss, regression_loss
from jaxdl.types import Batch, Collections, Hyper, LossFn, Metrics, Params

OFF: Mapping[str, float | None] = {
    **dict.fromkeys(("rate", "weight_decay")),
    **dict.fromkeys(("momentum", "b1", "b2", "eps"), -1),
    **dict.fromkeys(("l1", "l2", "max_norm", "max_abs", "clip_norm"), 0),
    **dict.fromkeys(("dropout", "noise", "smoothing", "soft"), 0),
    **dict.fromkeys(("stop", "temperature"), 1),
}
"""The numeric settings of a member, each with the value that turns it off; None if it is always
on."""
MODEL_OPTIONS = ("hidden", "activation", "normalization", "dropout", "noise")
"""Settings that are arguments of models' functions."""
MIXING = ("mixup", "cutmix")
CHANGES = ("similarity", "elastic", "noise", "colour", "augmix", *MIXING)

KINDS: Kinds = {
    # The examples.
    "share": Between(0, above=True),
    "examples": OneOf(("all", "bootstrap", "folds")),
    "folds": Count(2),
    "wrong_labels": Between(0, 1),
    "wrong_to": OneOf(("any", "next")),
    "balance": OneOf(("", "weights", "over", "under")),
    # The network.
    "hidden": TupleOf(Count(), "(256, 256), widths"),
    "activation": OneOf(("", *ACTIVATIONS)),
    "normalization": OneOf(("", "batch")),
    **dict.fromkeys(("dropout", "smoothing", "average"), Between(0, 1, below=True)),
    # The loss.
    "loss": OneOf(("cross_entropy", "squared_error")),
    **dict.fromkeys(("l1", "l2", "noise"), Between(0)),
    "soft": Between(0, 1),
    # What it sees.
    "features": OneOf(("", *FEATURES)),
    "changes": SomeOf(CHANGES),
    "subtract": OneOf(("channels", "pixels", "middle")),
    "flip": Flag(),
    "views": OneOf(VIEWS),
    **dict.fromkeys(("count", "crop", "padding", "warmup"), Count(0)),
    # The optimizer.
    "steps": (Count(), Multiple("steps_per_dispatch")),
    "batch": (Count(), Multiple("parallel.data")),
    "optimizer": OneOf(tuple(OPTIMIZERS)),
    "schedule": OneOf(tuple(SCHEDULES)),
    **dict.fromkeys(("rate", "bias_rate", "strength", "temperature"), Between(0, above=True)),
    "stop": Between(0, 1, above=True),
    **dict.fromkeys(("momentum", "b1", "b2"), Between(-1, 1, below=True)),
    "eps": Between(-1),
    **dict.fromkeys(("weight_decay", "max_norm", "max_abs", "clip_norm"), Between(0)),
    "drops": TupleOf(Between(0, 1), "(1 / 3, 2 / 3), parts of the steps"),
}
"""The kinds of these settings."""


DATA = ("share", "examples", "folds", "wrong_labels", "wrong_to", "teacher", "sweep", "values")
"""Settings of a member that select its data and do not change its program."""
FITTED = tuple(name for name in FEATURES if name not in features.PLAIN)


def check(trial: Method, *, images: bool, classes: bool) -> None:
    """Raise ValueError for settings that would not be read, or do not go together.

    Args:
      images: whether these are what networks see; else columns of a table.
      classes: whether these are predicted; else numbers.
    """
    settings = trial.settings
    squared, subset = settings["loss"] == "squared_error", settings["examples"] == "folds"
    subset |= settings["share"] != 1
    mixing = {*settings["changes"]} & {*MIXING}
    image_settings = ("crop", "padding", "flip", "views", "changes")
    make = NamedFunction(trial.path("model"), settings["model"], MODELS, nn.Module)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in make.parameters.values())
    ignored = [n for n in MODEL_OPTIONS if not accepts_any and n not in make.parameters]
    for names, read, reason in (
        (("wrong_labels", "balance", "smoothing", "soft"), classes, "the answers are numbers"),
        (image_settings, images, "it is for images"),
        (image_settings, not settings["features"], "features have none"),
        (("smoothing",), not squared, "squared errors have no smoothing"),
        (("balance",), not (squared and settings["balance"] == "weights"), "loss=squared_error"),
        (("soft",), not mixing, f"the teacher has not seen what {' and '.join(mixing)} make"),
        (ignored, False, f"{make.title} has no such argument"),
    ):
        for setting in names:
            if (value := settings[setting]) and not read:
                path, off = trial.path(setting), type(value)()  # 0, False or empty
                raise ValueError(f"{path}={value} is not used: {reason}; set it to {off!r}")
    if settings["features"] in FITTED and subset:
        raise ValueError(
            f"{trial.path('features')}={settings['features']} is fitted to all training examples, "
            "held-out ones included: not with examples=folds, and only with share=1"
        )
    for name in ("momentum", "b1", "b2", "eps"):
        value, numbers = settings[name], OPTIMIZERS[settings["optimizer"]].numbers
        if value != -1 and (value < 0 or name not in numbers):
            raise ValueError(
                f"{trial.path(name)}={value}: {settings['optimizer']} takes "
                f"{', '.join(numbers) or 'none'}, from 0, or -1 for its own"
            )
    if settings["share"] > 1 and settings["share"] % 1:
        raise ValueError(f"{trial.path('share')}={settings['share']} is no number of examples")


def program_key(settings: Mapping[str, Any], excluded: Collection[str] = DATA) -> tuple:
    """The key by which methods share a program: all settings that are not numbers, and which
    numbers are on.

    Args:
      excluded: settings that a program does not depend on.
    """
    names = (name for name in settings if name not in excluded)
    return tuple((n, settings[n] != OFF[n] if n in OFF else settings[n]) for n in names)


def numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric settings that are on, as a member's hyper-parameters; ``stop`` in steps."""
    values = {n: settings[n] for n, off in OFF.items() if settings.get(n, off) != off}
    if {"l1", "l2"} & {*values}:
        values |= {name: settings[name] for name in ("l1", "l2")}
    arrays = {name: np.float32(value) for name, value in values.items()}
    if "stop" in values:
        arrays["stop"] = np.int32(round(values["stop"] * settings["steps"]))
    return arrays


Trials = Mapping[tuple[str, str], Method]
"""Methods by name and value, see :func:`experiments.harness.settings.sweeps`."""


def trained_first(trials: Trials, name: str, switch: str = "") -> Trials:
    """Trials sorted so that those which need another method, the value of their setting ``name``,
    come after all that need none.

    Args:
      switch: the setting that says whether there is such a need; ``name`` itself by default.

    Raises:
      ValueError: for what is no method, is swept over, or needs another itself.
    """
    switch = switch or name
    first = [m for (m, value), trial in trials.items() if not (value or trial.settings[switch])]
    for trial in trials.values():
        needed, value = trial.settings[name], trial.settings[switch]
        if needed and not value and trial.settings["sweep"] != switch:
            raise ValueError(f"{trial.path(name)}={needed!r} is not used: {switch} is 0")
        if value and needed not in first:
            listing = ", ".join(first) or "of which there is none"
            problem = f"{trial.path(name)}={needed!r} is no method without {switch} and sweep"
            reason = "" if switch == name else f"{trial.path(switch)}={value} needs a {name}, and "
            raise ValueError(f"{reason}{problem}: {listing}")
    return dict(sorted(trials.items(), key=lambda item: bool(item[1].settings[switch])))


def draw_size(trials: Trials, seeds: int, bag: int) -> int:
    """The number of seeds that share their examples: the folds, or the size of a bag."""
    if bag > seeds:
        raise ValueError(f"config.bag={bag} networks need as many seeds, not config.seeds={seeds}")
    settings = [trial.settings for trial in trials.values()]
    folds = {row["folds"] for row in settings if row["examples"] == "folds"}
    if folds and bag:
        raise ValueError(f"config.bag={bag}: seeds divide the folds, and cannot be bags as well")
    return max({bag, 1} | folds)


class Examples(NamedTuple):
    """The examples from which the networks of a study draw theirs. A seed draws the same examples
    for all methods, and so do groups of ``draw`` seeds, except for bootstrap samples and folds
    drawn within them."""

    train: np.ndarray
    """The ids of the training split."""
    validation: np.ndarray
    """The ids of the validation split."""
    labels: np.ndarray | None
    """Labels by id; None where the answers are numbers."""
    classes: int
    draw: int

    def sample(self, settings: Mapping[str, Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a network's training and validation examples; with folds, validation is on the
        fold that is left out."""
        share, draw = settings["share"], seed // self.draw
        count = max(1, round(share * len(self.train) if share <= 1 else share))
        if count > len(self.train):
            raise ValueError(f"share={share}: there are {len(self.train)} training examples")
        ids, held_out = np.random.default_rng(draw).permutation(self.train)[:count], self.validation
        labels = np.zeros(count, np.int32) if self.labels is None else self.labels[ids]
        if settings["examples"] == "folds":
            k = settings["folds"]
            training, rest = splits.folds(labels, k, seed // k)[seed % k]
            ids, held_out, labels = ids[training], ids[rest], labels[training]
        rng = np.random.default_rng([seed, 1])
        if settings["examples"] == "bootstrap":
            ids = sampling.bootstrap(ids, rng)
            labels = labels if self.labels is None else self.labels[ids]
        if settings["balance"] in ("over", "under"):
            resample = {"over": sampling.oversample, "under": sampling.undersample}
            ids = resample[settings["balance"]](ids, labels, rng)
        return ids, held_out

    def noisy_labels(self, settings: Mapping[str, Any], seed: int) -> np.ndarray:
        """The labels, by id, that a network is trained on: of the training examples some are
        wrong."""
        assert self.labels is not None
        rng = np.random.default_rng(seed // self.draw)
        rng.permutation(self.train)  # as the examples are drawn
        share, systematic = settings["wrong_labels"], settings["wrong_to"] == "next"
        draws = self.labels, self.train, share, self.classes, rng
        return sampling.wrong_labels(*draws, systematic=systematic)


def update_rule(settings: Mapping[str, Any]) -> Callable[[Hyper], optax.GradientTransformation]:
    """A function from a member's numbers to its optimizer."""

    def rule(hyper: Hyper) -> optax.GradientTransformation:
        schedule = {k: settings[k] for k in ("steps", "warmup", "drops") if k in settings}
        schedule |= {k: hyper[k] for k in ("stop",) if k in hyper}
        names = ("weight_decay", "momentum", "b1", "b2", "eps", "max_norm", "max_abs", "clip_norm")
        return make_optimizer(
            settings["optimizer"],
            make_schedule(settings["schedule"], hyper["rate"], **schedule),
            bias_rate=settings.get("bias_rate", 1.0),
            **{name: hyper[name] for name in names if name in hyper},
        )

    return rule


def make_model(settings: Mapping[str, Any], outputs: int, axis_name: str | None, path: str) -> Any:
    """The Flax module.

    Args:
      outputs: number of outputs.
      axis_name: mesh axis of the devices that share a batch, for batch normalization.
      path: the setting that names the model, for messages.

    Raises:
      ValueError: for an unknown model, or one that refuses its arguments.
    """
    options = {name: settings[name] for name in MODEL_OPTIONS if settings[name]}
    make = NamedFunction(path, settings["model"], MODELS, nn.Module)
    return over_devices(make(outputs, **options), axis_name)


def over_devices(model: Any, axis_name: str | None) -> Any:
    """The module, its batch statistics averaged over the devices that share a batch, if it has
    any."""
    return model.clone(axis_name=axis_name) if hasattr(model, "axis_name") else model


def make_see(
    settings: Mapping[str, Any], inputs: Images, answers: np.ndarray
) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
    """``see(inputs, key)``: stored images or features as network inputs; with a key augmented as in
    training.

    Args:
      inputs, answers: all training examples, to which means and features are fitted.
    """
    if settings["features"] or len(inputs.shape) == 2:
        name = settings["features"] or "standardized"
        transform = make_features(name, in_memory(inputs), answers, count=settings["count"])
        return lambda x, key: transform(x)
    changes = [name for name in settings["changes"] if name not in MIXING]
    change = preparation.augmentations(changes, settings["strength"], inputs.shape[1])
    options = {k: settings[k] for k in ("subtract", "crop", "padding", "flip")}
    return preparation.standardized(inputs, **options, change=change)


def mix(
    settings: Mapping[str, Any], key: jax.Array, x: jax.Array, labels: jax.Array, classes: int
) -> tuple[jax.Array, jax.Array]:
    """MixUp and CutMix, where they are among the changes, of images and labels."""
    names = [name for name in settings["changes"] if name in MIXING]
    if names:
        labels = jax.nn.one_hot(labels, classes)
    for i, name in enumerate(names):
        mixture = {"mixup": augment.mixup, "cutmix": augment.cutmix}[name]
        x, labels = mixture(jax.random.fold_in(key, i), x, labels, settings["strength"])
    return x, labels


def make_loss(model: Any, settings: Mapping[str, Any], inputs: str) -> LossFn:
    """The loss of a network, with a member's numbers and ``class_weights``, if any.

    Args:
      inputs: the name of the array in a batch that the network sees.
    """

    def loss_fn(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: jax.Array
    ) -> tuple[Any, tuple[Collections, Metrics]]:
        network = model.clone(**{k: hyper[k] for k in ("dropout", "noise") if k in hyper})
        if "target" in batch:
            loss = regression_loss(network, inputs=inputs)
        else:
            names = ("smoothing", "soft", "temperature")
            options = {name: hyper[name] for name in names if name in hyper}
            squared = settings.get("loss") == "squared_error"
            options |= {
                "inputs": inputs,
                "class_weights": hyper.get("class_weights"),
                "squared": squared,
            }
            loss = classification_loss(network, **options)
        return loss(params, collections, batch, hyper, key)

    return penalized(loss_fn) if "l1" in numbers(settings) else loss_fn
