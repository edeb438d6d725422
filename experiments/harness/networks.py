"""Any network to be used on images: one that a run left in its folder, or one with weights of a
file; for :mod:`experiments.predict` and :mod:`experiments.visualize`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from experiments import runs
from experiments.harness import recipe
from experiments.harness.classification import DataStudy
from experiments.harness.settings import suggestion
from experiments.transferability import donor_of
from jaxdl import adaptation, transfer
from jaxdl.data import encoded, preparation
from jaxdl.data.batches import normalize
from jaxdl.nn.layered import layer_order
from jaxdl.nn.models.pretrained import PRETRAINED, load
from jaxdl.predict import Classifier, decoder
from jaxdl.report.finetune import DONOR
from jaxdl.train import logs
from jaxdl.train.checkpoint import list_names, load_network, write_name
from jaxdl.train.state import evaluation_variables
from jaxdl.types import Variables

Load = Callable[[tuple], Variables]
"""The variables of a run's network, by its name; their means, where they are kept."""


def parse_name(words: Sequence[str]) -> dict[str, Any]:
    """``["method=dann", "seed=0"]`` as columns and values; ValueError for other words."""
    name = {}
    for word in words:
        column, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} names no network: write COLUMN=VALUE, as in seed=0")
        try:
            name[column] = json.loads(value)  # numbers
        except ValueError:
            name[column] = value
    return name


def from_run(folder: Path, **name: Any) -> tuple[tuple, Classifier]:
    """A network of a run, and its name.

    Args:
      folder: the run's work folder. Its training data are read again, for the classes and for the
        mean that is subtracted from images.
      name: columns of ``results.csv``. Of several such networks, the one trained on most images
        with the best validation accuracy is taken.

    Raises:
      ValueError: if there is no such network, or it is not one that classifies images.
      OSError: if a file cannot be read.
      DamagedFile: if one is damaged.
    """
    run = runs.load(folder)
    if (study := run.record.study) not in BY_STUDY:
        raise ValueError(f"{folder} is a run of {study}, whose networks classify no images")
    settings = ConfigDict(_with_tuples(run.content["config"]))
    data = run.kind(settings)
    if json.loads(json.dumps(data.identity)) != run.content["data"]:
        raise ValueError(f"the data that {folder} was trained on have changed")
    network = choose(run, name)

    def variables(network: tuple) -> Variables:
        return evaluation_variables(load_network(folder, **network._asdict()))

    return network, BY_STUDY[study](data, network, variables)


def _with_tuples(value: Any) -> Any:
    """A configuration as it was before it was JSON."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def choose(run: runs.Run, name: Mapping[str, Any]) -> tuple:
    """The network of a name; of several, the one trained on most images with the best validation
    accuracy.

    Raises:
      ValueError: if there is none, or there are several without validation accuracy.
    """
    curves = logs.Curves(run.folder / "metrics.jsonl").by_network(run.kind.network)
    if unknown := {*name} - {*run.kind.network._fields}:
        fields = ", ".join(run.kind.network._fields)
        raise ValueError(f"networks of {run.folder} have no {unknown.pop()}: they have {fields}")
    matches = [n for n in curves if all(getattr(n, key) == name[key] for key in name)]
    if len(matches) == 1:
        return matches[0]
    field, best = "validation_accuracy", {}
    for network in matches:
        if getattr(network, "method", "") == DONOR:  # whose images are others
            continue
        values = logs.series(curves[network], field)[1]
        if values.size and np.isfinite(values[-1]):
            best[network] = values[-1]
    if not best:
        suffix = f" with {write_name(name)}" if name else ""
        problem = f"has no network{suffix}"
        if matches:
            problem = f"has several networks{suffix}, and no validation says which is best"
        hint = ""
        for key, value in name.items():
            values = {str(getattr(network, key)) for network in curves}
            if str(value) not in values:
                hint += suggestion(str(value), sorted(values), f"{key}=", cutoff=0.6)
        listing = list_names([network._asdict() for network in matches or curves]) or "none"
        raise ValueError(f"{run.folder} {problem}: {hint}name one, as {listing}")
    return max(best, key=lambda network: (getattr(network, "images", 0), best[network]))


def from_weights(name: str, path: Path, classes: Sequence[str] = ()) -> Classifier:
    """A network of :data:`jaxdl.nn.models.pretrained.PRETRAINED` with the weights of a file.

    Args:
      classes: their names; by default CIFAR-10's for ten, else their numbers.

    Raises:
      ValueError: as :func:`jaxdl.nn.models.pretrained.load`; for other than one name a class.
      DamagedFile, OSError: if the file cannot be read.
    """
    model, variables = load(name, path)
    row, count = PRETRAINED[name], model.classes
    names = tuple(classes) or (CIFAR10 if count == 10 else tuple(map(str, range(count))))
    if len(names) != count:
        raise ValueError(f"{len(names)} names for the {count} classes of {name}")

    def decode(content: bytes, name: str) -> np.ndarray:
        pixels = encoded.decode(content, name, encoded.Form(channels=3))
        return row.preprocessing.cut(Image.fromarray(pixels), row.size)

    mean, deviation = row.preprocessing.moments
    see = partial(normalize, mean=mean, deviation=deviation)
    return Classifier(model, variables, see, decode, names)


CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _decode(options: ConfigDict, shape: Sequence[int]) -> Callable[[bytes, str], np.ndarray]:
    return decoder(shape, options.get("fit", "crop"))


def _supervised(study: DataStudy, network: Any, variables: Load) -> Classifier:
    train, trial = study.source.splits["train"], study.trials[network[:2]]
    if study.inputs != "image" or study.regression:
        raise ValueError("its networks see columns of a table, and classify no images")
    return Classifier(
        recipe.make_model(trial.settings, study.width, None, trial.path("model")),
        variables(network),
        partial(recipe.make_see(trial.settings, train["image"], train["label"]), key=None),
        _decode(study.config.data.options, study.image_shape()),
        study.source.class_names,
        trial.settings["views"],
    )


def _transferability(study: DataStudy, network: Any, variables: Load) -> Classifier:
    config, study.tasks = study.config, study.make_tasks()
    classes = max(int(task.label_of.max()) + 1 for task in study.tasks.values())
    model = study.make_model(classes)
    arrays = variables(network)
    treatment = transfer.TREATMENTS.get(network.treatment)
    if treatment and treatment.frozen:  # the first layers are the donor's
        shape = study.image_shape(config.image.crop)
        study.init, shapes = study.initializer(model, shape, study.make_model.title)
        if treatment.source != "random":
            base = donor_of(network)
            study.variables = {base: variables(base)}
        lower, _ = transfer.cut(study.donor(network), network.n, layer_order(model, shapes))
        arrays = transfer.join(lower, arrays)
    ids = np.flatnonzero(study.task_of(network).label_of >= 0)
    names = [study.source.class_names[c] for c in ids]
    images = study.source.splits["train"]["image"]
    return Classifier(
        model,
        arrays,
        partial(preparation.standardized(images, **config.image), key=None),
        _decode(config.data.options, study.image_shape()),
        (*names, *["none"] * (classes - len(names))),
    )


def _dann(study: DataStudy, network: Any, variables: Load) -> Classifier:
    settings, domains = study.methods[network.method], study.sources
    model = study.make_network(settings)
    means = preparation.mean_colours(domains.values())
    centred = preparation.centred(settings["subtract"], settings["size"])
    hyper = {"means": means, "range": np.float32(settings["range"])}

    def logits(variables: Variables, x: jax.Array, **_: Any) -> jax.Array:
        return adaptation.outputs(model, variables, x)["logits"]

    return Classifier(
        SimpleNamespace(apply=logits),
        variables(network),
        lambda pixels: centred(pixels, hyper, 1),  # images are taken for the target's
        _decode(study.config.target.options, study.image_shape()),
        domains["source"].class_names,
    )


def _finetune(study: DataStudy, network: Any, variables: Load) -> Classifier:
    donors, target = study.donors, study.source
    data = donors.source if network.method == DONOR else target
    model = donors.make_network(len(data.class_names), None)
    _, shapes = study.initializer(model, study.image_shape(), donors.make_model.title)
    donors.fit(model, shapes, study.image_shape())
    arrays = variables(network)
    if network.frozen:
        if donors.source:
            donor = network._replace(method=DONOR, images=0, frozen=0)
            donors.networks = [variables(donor)] * donors.count  # the only one that is asked for
        arrays = transfer.join(donors.below(network.seed, network.frozen), arrays)
    see = donors.make_see(target.splits["train"]["image"])
    return Classifier(
        model,
        arrays,
        partial(see, key=None),
        _decode(study.config.data.options, study.image_shape()),
        data.class_names,
    )


BY_STUDY: Mapping[str, Callable[[Any, Any, Load], Classifier]] = {
    "supervised": _supervised,
    "transferability": _transferability,
    "dann": _dann,
    "finetune": _finetune,
}
"""By study, a function from the study with its data, a network's name and :data:`Load` to the
network."""
