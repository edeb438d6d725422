"""Studies of one data set: its source, curves, images, and facts for the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from experiments.harness import datasets
from experiments.harness.classification import DataStudy
from experiments.harness.study import curve_panels, describe_source
from jaxdl.data import splits
from jaxdl.data.encoded import Images, in_memory
from jaxdl.report import figures
from jaxdl.report.predictions import Prediction
from jaxdl.train.feed import Feed, Resident
from jaxdl.train.groups import Member, Trained
from jaxdl.train.loop import Trainer

Part = tuple[Feed, Callable[[Member], np.ndarray], Callable[[tuple, np.ndarray], np.ndarray]]
"""A feed, each member's examples there, and ``answers(network, examples)``."""


class SingleSourceStudy(DataStudy):
    """Networks on one data set: figures and facts."""

    score: str = "accuracy"
    """The name of the score of networks."""
    entries: Sequence[str] = ()
    """Entries of the curves' legend in the order of their colours; others follow as they come."""
    mean, deviation = 0.0, 1.0
    """Mean and deviation of the targets, which networks put out standardized."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.source = datasets.load(config.data, "config.data")
        self.sources, self.identity = {"images": self.source}, describe_source(self.source)
        self.opens_test = config.report_on == "test"

    def build(self) -> None:
        """Lay the data out on the devices."""
        self.lay_out(self.config.data.feed, self.config.data.workers)

    @property
    def images(self) -> Images:
        """The training images; in memory where they are on the devices, too."""
        images = self.source.splits["train"]["image"]
        return in_memory(images) if isinstance(self.feed, Resident) else images

    def judge(
        self, parts: Callable[[Trained], Mapping[str, Part]], faults: Collection[tuple]
    ) -> dict[tuple, dict[str, Prediction]]:
        """The outputs and the answers of each network, of members with one network each, for the
        parts of the data in ``parts(group)``; NaN where the network, or the one that it continues,
        has diverged."""
        predictions: dict[tuple, dict[str, Prediction]] = {}
        diverged = {*faults}
        for trained in self.trained_groups:  # in the order of training
            diverged |= {
                network for network in trained.group.networks if self.origin(network) in diverged
            }
            for name, (feed, examples, answers) in parts(trained).items():
                outputs = self.predict(trained, feed, examples).items()
                for member, (network, values) in zip(trained.group.members, outputs, strict=True):
                    values = self.mean + self.deviation * values
                    values = np.full_like(values, np.nan) if network in diverged else values
                    prediction = Prediction(values, answers(network, examples(member)))
                    predictions.setdefault(network, {})[name] = prediction
        return predictions

    def origin(self, network: tuple) -> tuple | None:
        """The network, trained before, that a network continues or learns from; None without
        one."""
        return None

    def entry(self, network: tuple) -> str | None:
        """The network's entry in the legend of the curves; None where it is not drawn."""
        return network.method

    def draw(self, trainer: Trainer) -> None:
        """The first images that a member is trained on, as its network sees them; curves."""
        fields = {"loss": "training loss", self.fields["images"]: f"validation {self.score}"}
        panels = curve_panels(trainer, self.network, fields, self.entry)
        figures.curves(panels, trainer.folder / "curves.png", order=self.entries)
        if self.inputs != "image":
            return
        stored, batch = self.first_examples(60)
        labels = np.asarray(batch["label"] if self.numbered else stored["label"])
        labels = labels.argmax(-1) if labels.ndim > 1 else labels
        names = [self.source.class_names[label] for label in labels]
        figures.samples(np.asarray(batch["image"]), names, trainer.folder / "samples.png")

    def describe_data(self, images: str) -> str:
        """The data set, and the split of the accuracies; ``images`` says how many are trained
        on."""
        source = self.source
        classes = f", {len(source.class_names)} classes" if source.class_names else ""
        count = self.identity["sizes"][self.config.report_on]
        return (
            f"{source.name} {source.version}".strip() + classes + f", {images}; {self.score} on "
            f"the {self.config.report_on} split, {count:,} examples"
        )

    def describe_copies(self) -> dict[str, str]:
        """The number of images in other splits that are copies of training images, in words."""
        if not isinstance(self.feed, Resident):  # a stream is not read for this alone
            return {}
        evaluated = {"validation": self.source.splits["validation"]}
        if self.tests:
            evaluated["test"] = self.tests["images"]
        copies = {
            split: splits.duplicates(in_memory(arrays["image"]), self.images)[:, 0]
            for split, arrays in evaluated.items()
        }
        counts = (f"{len(np.unique(ids))} in {split}" for split, ids in copies.items())
        return {"Exact copies of training images": ", ".join(counts)}
