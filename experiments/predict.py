"""Which classes a folder of images shows, by a network that a run trained or that others did:

python -m experiments.predict --run runs/finetune-default --images FOLDER [COLUMN=VALUE ...]
python -m experiments.predict --model resnet20 --weights FILE --images FOLDER [--classes FILE]

Words such as ``method=frozen seed=0`` name the network as RUN/results.csv does; without them it is
the run's best by validation, of those trained on most images. In the folder --out (by default
``predictions``) are afterwards ``predictions.csv``, a row an image, and ``predictions.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from experiments import runs
from experiments.harness.networks import from_run, from_weights, parse_name, write_name
from experiments.harness.run import print_or_fail
from jaxdl.data.source import printable
from jaxdl.files import user_path
from jaxdl.predict import Classifier, classify, list_images
from jaxdl.report.figures import samples
from jaxdl.report.tables import write_rows

SHOWN = 96
"""Images on the sheet, at most; of more images, as many at equal distances in their list."""


class Row(NamedTuple):
    """A row of ``predictions.csv``."""

    file: str
    predicted: str
    probability: float


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; usage: {' '.join(USAGE.split())}")


USAGE = """python -m experiments.predict (--run RUN [COLUMN=VALUE ...] | --model NAME --weights FILE
[--classes FILE]) --images FOLDER [--out FOLDER]"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ValueError for another one."""
    parser = Parser("experiments.predict", allow_abbrev=False, add_help=False)
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", default="predictions")
    for name in ("run", "model", "weights", "classes"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("name", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    if bool(options.run) == bool(options.model) or bool(options.model) != bool(options.weights):
        parser.error("name either a --run, or a --model and its --weights")
    if options.run and options.classes:
        parser.error("--classes are those of a --model")
    if options.model and options.name:
        parser.error(f"{options.name[0]!r}: a --model has one network")
    return options


def find_network(options: argparse.Namespace) -> tuple[str, Classifier]:
    """The requested network and its description."""
    if options.run:
        folder = user_path(options.run)
        network, classifier = from_run(folder, **parse_name(options.name))
        unfinished = "" if runs.is_finished(folder) else " (of a run that is not finished)"
        return f"{options.run}, {write_name(network._asdict())}{unfinished}", classifier
    names: list[str] = []
    if options.classes:
        names = user_path(options.classes).read_text(encoding="utf-8").split("\n")
        names = [name.strip() for name in names if name.strip()]
    classifier = from_weights(options.model, user_path(options.weights), names)
    return f"{options.model} with {options.weights}", classifier


def main(arguments: Sequence[str]) -> str:
    """Classify the images; lines that say what was seen.

    Raises:
      ValueError: for wrong arguments, a missing network, an image that cannot be read.
      OSError: if a file cannot be read or written.
    """
    options = parse(arguments)
    folder, output_folder = user_path(options.images), user_path(options.out)
    paths = list_images(folder)
    network, classifier = find_network(options)
    output_folder.mkdir(parents=True, exist_ok=True)
    indices = {*np.linspace(0, len(paths) - 1, min(SHOWN, len(paths))).round().astype(int).tolist()}
    rows, sheet = [], []
    for probabilities, pixels in classify(classifier, paths):
        for image, chances in zip(pixels, probabilities, strict=True):
            if len(rows) in indices:
                sheet.append((len(rows), image))
            name = printable(str(paths[len(rows)].relative_to(folder)))
            best = int(chances.argmax())
            rows.append(Row(name, classifier.class_names[best], float(chances[best])))
    write_rows(output_folder / "predictions.csv", Row, rows)
    # Where folders are called as classes are, they say what images show.
    truths = [path.parent.name for path in paths]
    has_truths = {*truths} <= {*classifier.class_names}
    right = [row.predicted == truth for row, truth in zip(rows, truths, strict=True)]
    titles = [f"{rows[i].predicted}: {100 * rows[i].probability:.0f} %" for i, _ in sheet]
    titles = [
        f"{title}\n{_short(rows[i].file)}" for title, (i, _) in zip(titles, sheet, strict=True)
    ]
    colours = ["firebrick" if has_truths and not right[i] else "black" for i, _ in sheet]
    images = np.stack([image for _, image in sheet]) / 255
    samples(images, titles, output_folder / "predictions.png", 8, side=1.3, colours=colours)
    counts = Counter(row.predicted for row in rows).most_common()
    classes = ", ".join(f"{name} ({n:,})" for name, n in counts[:10])
    classes += f" and {len(counts) - 10} more classes" * (len(counts) > 10)
    lines = [f"network: {network}", f"{len(rows):,} images, by predicted class: {classes}"]
    if has_truths:
        share = f"{100 * np.mean(right):.1f} %"
        lines.append(f"right, by the names of their folders: {sum(right):,}, {share}")
    return "\n".join(
        [
            *lines,
            f"written: {output_folder / 'predictions.csv'}, {output_folder / 'predictions.png'}",
        ]
    )


def _short(name: str, length: int = 18) -> str:
    """The end of a name."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


if __name__ == "__main__":
    print_or_fail(lambda: main(sys.argv[1:]))
