"""What does a network see? Its filters, what drives its units, what its predictions rest on.

python -m experiments.visualize --config configs/visualize.py[:variant]

Attributions (gradient, integrated gradients, occlusion, Grad-CAM) are drawn and put to the test:
pixels are deleted and inserted in their order, beside a random one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.visualize import get_config
from experiments import runs, supervised
from experiments.harness import datasets, networks
from experiments.harness import settings as kinds
from experiments.harness.classification import most_members
from experiments.harness.progress import map_with_bar
from experiments.harness.run import run
from experiments.harness.study import Headline, Study, conduct, describe_source, make_study
from experiments.harness.user_functions import blame
from jaxdl import attribution
from jaxdl.data.encoded import in_memory, take
from jaxdl.data.source import Source, Split
from jaxdl.files import user_path
from jaxdl.nn.models.staged import Staged
from jaxdl.predict import Classifier, list_images
from jaxdl.report import prediction_figures
from jaxdl.report import visualize as reporting
from jaxdl.report import visualize_figures as drawing
from jaxdl.report.predictions import Prediction, probabilities
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Trainer
from jaxdl.types import Variables
from jaxdl.units import enlarge, peaks, receptive_fields, stage_activations, view

SIZES = ("most_images", "evaluation_batch", "examples", "shown", "units", "patches")
SETTINGS = kinds.Settings(
    {
        **dict.fromkeys((*SIZES, "integration_steps", "perturbation_steps"), kinds.Count()),
        **dict.fromkeys(("window", "stride"), kinds.Count(0)),
        "data.options": kinds.Options(),
        "report_on": kinds.OneOf(("test", "validation", "train")),
    },
    free=("options", "methods"),
    computing=("training.parallel", "training.checkpoints", "training.seconds_between_saves"),
)
MOST_CLASSES = 30  # of a confusion that can be read


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    attribution: str
    seed: int


class Visualize(Study):
    """One network, or several that differ in their seeds."""

    settings, network, members = SETTINGS, Network, ()
    headline = Headline(reporting.Result, "insertion", lambda n: n.attribution != reporting.RANDOM)

    def __init__(self, config: ConfigDict):
        self.config = config
        self.classifier, self.title, source = self.find_network()
        variables = self.classifier.variables  # of a network that is trained already
        self.variables: dict[int, Variables] = {0: variables} if variables else {}  # by seed
        self.model = self.classifier.model
        self.files = list_images(user_path(config.images)) if config.images else []
        if self.files:
            self.identity = {"images": [str(path) for path in self.files]}
        else:
            source = datasets.load(config.data, "config.data") if config.data.name else source
            if source is None:
                raise ValueError("name the images: config.images=FOLDER, or config.data.name")
            self.sources, self.identity = {"images": source}, describe_source(source)
        self.opens_test = bool(self.sources) and config.report_on == "test"
        content = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(self.variables))
        self.identity = {**self.identity, "network": zlib.crc32(content)}

    def find_network(self) -> tuple[Classifier, str, Source | None]:
        """The network, its title, and the data of its run."""
        config = self.config
        if config.run and config.pretrained:
            raise ValueError("config.run and config.pretrained name two networks: choose one")
        if config.pretrained:
            title = f"{config.pretrained} with the weights of {user_path(config.weights).name}"
            return networks.from_weights(config.pretrained, user_path(config.weights)), title, None
        if config.run:
            folder, name = user_path(config.run), networks.parse_name(config.network)
            network, classifier = networks.from_run(folder, **name)
            content = runs.load(folder).content["config"]
            data = ConfigDict(content.get("data") or content["target"])  # of two domains
            title = f"{networks.write_name(network._asdict())} of {config.run}"
            return classifier, title, datasets.load(data, f"the configuration of {folder}: data")
        study = make_study(supervised.Supervised, config.training)
        network = supervised.Network(config.training.baseline, "", 0)
        classifier = networks.BY_STUDY["supervised"](study, network, lambda _: {})
        image = jax.ShapeDtypeStruct((1, *study.image_shape()), jnp.uint8)
        key, init, see = jax.random.key(0), classifier.model.init, classifier.see
        self.shapes = jax.eval_shape(lambda x: init(key, see(x)), image)
        title = f"{config.training.base.model} trained on {study.source.name} (folder network)"
        return classifier, title, study.source

    def build(self) -> None:
        """Compute receptive fields, and check that all else can be computed, before training."""
        see, model = self.classifier.see, self.model
        splits = [source.splits["train"]["image"] for source in self.sources.values()]
        shape = self.read(0).shape if self.files else splits[0].shape[1:]
        variables, number = self.variables.get(0) or self.shapes, jnp.zeros(1, jnp.int32)
        with blame(f"images of {shape} for {self.title}", type(model), shipped=False):
            x = jax.eval_shape(see, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
            outputs = jax.eval_shape(model.apply, variables, x)
        self.staged = isinstance(model, Staged)
        self.fields = receptive_fields(model, x.shape[1:]) if self.staged else {}
        kinds.SomeOf(tuple(self.fields)).check("config.stages", self.config.stages, self.config)
        kinds.OneOf(("", *self.fields)).check("config.stage", self.config.stage, self.config)
        self.cam_stage = self.config.stage or next(reversed(self.fields), "")
        self.classifies = len(outputs.shape) == 2 and outputs.shape[1] > 1
        if self.classifies:
            jax.eval_shape(self.explain, variables, x, number, number)

    def read(self, i: int) -> np.ndarray:
        """The pixels of an image file."""
        return self.classifier.decode(self.files[i].read_bytes(), str(self.files[i]))

    def train(self, trainer: Trainer) -> None:
        """Networks to look into, unless there is one: by a study of their own."""
        training, folder = self.config.training, trainer.folder / "network"
        if not self.variables:
            conduct(supervised.Supervised, training, folder, StopFlag())
            for seed in range(training.seeds):
                _, trained = networks.from_run(folder, method=training.baseline, seed=seed)
                self.variables[seed] = trained.variables

    def choose_images(self, tests: Mapping[str, Split]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of images drawn at random, and their labels among the network's classes, -1 where
        it has not the image's class."""
        numbers = {name: i for i, name in enumerate(self.classifier.class_names)}
        rng, most = np.random.default_rng(0), self.config.most_images
        if self.files:
            ids = rng.permutation(len(self.files))[:most]
            labels = [numbers.get(self.files[i].parent.name, -1) for i in ids]
            return np.stack([self.read(i) for i in ids]), np.array(labels)
        source = self.sources["images"]
        split = tests["images"] if tests else source.splits[self.config.report_on]
        ids = rng.permutation(split["image"].shape[0])[:most]
        translation = np.array([*(numbers.get(name, -1) for name in source.class_names), -1])
        return in_memory(take(split["image"], ids)), translation[np.asarray(split["label"])[ids]]

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Outputs and greatest activations for all images, attributions for some."""
        pixels, self.labels = self.choose_images(tests)
        self.batches = partial(map_with_bar, trainer.stop, self.config.evaluation_batch)
        self.inputs = self.batches("images", jax.jit(self.classifier.see), pixels)
        look, explain = jax.jit(self.look), jax.jit(self.explain)
        # By seed; by attribution and seed; by attribution, in the order of seeds.
        self.logits, self.areas, self.curves = {}, {}, {}
        for seed, variables in self.variables.items():
            outputs, units = self.batches("activations", partial(look, variables), self.inputs)
            self.units = self.units if seed else units
            if self.classifies:
                self.logits[seed] = outputs
                self.compare(partial(explain, variables), seed)
        reporting.write_results(trainer.folder / "results.csv", self.areas)

    def look(self, variables: Variables, x: jax.Array) -> tuple[jax.Array, list]:
        """Outputs, and each stage's greatest activations."""
        if not self.staged:
            return self.model.apply(variables, x), []
        activations = stage_activations(self.model, variables, x)
        return activations[-1], [peaks(maps) for maps in activations[: len(self.fields)]]

    def explain(
        self, variables: Variables, x: jax.Array, labels: jax.Array, numbers: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
        """Maps, and probabilities while pixels are deleted and inserted, by attribution."""
        config, scores = self.config, partial(self.model.apply, variables)
        key, own_key = jax.random.split(jax.random.fold_in(jax.random.key(0), numbers[0]))
        baseline, steps = jnp.zeros((1, *x.shape[1:])), config.integration_steps
        integrated = attribution.integrated_gradients(scores, x, labels, baseline, steps=steps)
        window = config.window or max(1, min(x.shape[1:3]) // 5)
        squares = {"window": window, "stride": config.stride or -(-window // 2)}
        maps = {
            "gradient": jnp.abs(attribution.gradients(scores, x, labels)).sum(-1),
            "integrated gradients": integrated.sum(-1),
            "occlusion": attribution.occlusion(scores, x, labels, baseline, **squares),
        }
        if self.cam_stage:
            cut = self.model.names().index(self.cam_stage) + 1
            head = partial(self.model.apply, variables, start=cut)
            cam = attribution.grad_cam(head, self.model.apply(variables, x, stop=cut), labels)
            maps["Grad-CAM"] = enlarge(cam, self.fields[self.cam_stage], x.shape[1:3])
        maps[reporting.RANDOM] = jax.random.uniform(own_key, x.shape[:3])
        example = lambda x: jax.nn.softmax(scores(x)), x, labels
        steps = config.perturbation_steps
        return maps, attribution.perturbation_curves(*example, maps, baseline, key, steps=steps)

    def compare(self, explain: Callable, seed: int) -> None:
        """Attributions of the predicted classes of the first images, and their curves; of the first
        network maps of those that are shown, too."""
        labels, numbers = self.logits[seed].argmax(-1), np.arange(len(self.labels))
        rows, count = numbers[: self.config.examples], self.config.shown
        examples = len(rows)
        if seed == 0:
            wrong = np.flatnonzero((labels != self.labels) & (self.labels >= 0))
            confidence = probabilities(self.logits[seed][wrong]).max(-1, initial=0)
            self.mistakes = wrong[np.argsort(-confidence, kind="stable")]
            self.chosen = np.r_[np.delete(numbers, wrong)[:count], self.mistakes[:count]]
            rows = np.union1d(rows, self.chosen)
        arrays = (x[rows] for x in (self.inputs, labels, numbers))
        maps, curves = self.batches(f"attributions, network {seed}", explain, *arrays)
        for name, pair in curves.items():
            pair = np.stack(pair)[:, :examples]
            self.areas[name, seed] = tuple(np.asarray(attribution.area(curve)) for curve in pair)
            self.curves.setdefault(name, []).append(pair.mean(1))
        if seed == 0:
            self.maps = {name: x[np.searchsorted(rows, self.chosen)] for name, x in maps.items()}

    def draw(self, trainer: Trainer) -> None:
        """Filters, maps, units, attributions, mistakes of one network; curves, confusion of all."""
        folder, images = trainer.folder, drawing.to_rgb(self.inputs)
        if self.staged:
            stages, variables = self.model.names(), self.variables[0]
            shown = self.config.stages or stages
            kernels = [x for x in jax.tree.leaves(variables["params"][stages[0]]) if x.ndim == 4]
            if kernels:
                drawing.filters(np.asarray(kernels[0]), folder / "filters.png")
            maps = jax.jit(partial(stage_activations, self.model))(variables, self.inputs[:1])
            rows = [(n, np.asarray(x)[0]) for n, x in zip(stages, maps, strict=True) if n in shown]
            drawing.feature_maps(self.inputs[0], rows, folder / "feature_maps.png")
            drawing.units(dict(self.unit_patches(images)), folder / "units.png")
        if not self.classifies:
            return
        drawing.perturbation(self.curves, folder / "perturbation.png")
        names, logits = self.classifier.class_names, self.logits[0]
        maps = {name: x for name, x in self.maps.items() if name != reporting.RANDOM}
        captions = drawing.captions(logits[self.chosen], self.labels[self.chosen], names)
        drawing.attributions(images[self.chosen], maps, captions, folder / "attributions.png")
        if (worst := self.mistakes[: 4 * self.config.shown]).size:
            captions = drawing.captions(logits[worst], self.labels[worst], names)
            drawing.sheet(images[worst], captions, folder / "mistakes.png")
        if len(names) <= MOST_CLASSES and (self.labels >= 0).any():
            parts = {s: {"all": Prediction(x, self.labels)} for s, x in self.logits.items()}
            title = f"{len(self.labels):,} images, {len(parts)} network{'s' * (len(parts) > 1)}"
            prediction_figures.confusion(parts, "all", names, title, folder / "confusion.png")

    def unit_patches(self, images: np.ndarray) -> Iterator[tuple[str, drawing.Patches]]:
        """Patches that drive each channel's units most, and their positions, by stage."""
        config, local = self.config, list(self.fields)
        for name in config.stages or drawing.spread(local, 4):
            field, (values, units) = self.fields[name], self.units[local.index(name)]
            for channel in drawing.spread(np.flatnonzero(values.max(0) > 0), config.units):
                strongest = np.argsort(-values[:, channel], kind="stable")[: config.patches]
                examples = [(images[i], units[i, channel]) for i in strongest]
                patches = [view(image, field, unit) for image, unit in examples]
                framed = [drawing.framed(x, field.corner(u), field.size) for x, u in examples]
                yield f"{name}\nchannel {channel}", (patches, framed)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config, count, sections = self.config, len(self.labels), []
        data = [f"{x.name}, {config.report_on} split" for x in self.sources.values()]
        lines = {"Network": self.title, "Images": f"{count:,} of {(data or [config.images])[0]}"}
        if self.classifies:
            lines["Explained"] = (
                f"the predicted classes of {min(config.examples, count):,} images; a pixel that "
                f"goes becomes 0 in the network's input, the mean that was subtracted; "
                f"{f'Grad-CAM at {self.cam_stage}' if self.cam_stage else 'no stage for Grad-CAM'}"
            )
            shares = {seed: probabilities(x) for seed, x in self.logits.items()}
            predictions = shares, self.labels, self.classifier.class_names
            sections = [
                ("Findings", reporting.findings(self.areas)),
                ("Which pixels matter", reporting.table(self.areas)),
                ("Predictions", reporting.predictions(*predictions)),
            ]
        if self.staged:
            x, silent = self.inputs[:1], [int(np.sum(v.max(0) <= 0)) for v, _ in self.units]
            stages = jax.eval_shape(partial(stage_activations, self.model), self.variables[0], x)
            shapes = [stage.shape[1:] for stage in stages]
            table = reporting.stages(self.model.names(), shapes, [*self.fields.values()], silent)
            sections.append(("Stages", table))
        return reporting.report(lines | facts, sections)


study = partial(conduct, Visualize)

if __name__ == "__main__":
    config = get_config()
    run(study, "visualize", config, members=lambda c: most_members(c.training), free=SETTINGS.free)
