"""Numbers on the studies' pages are what today's commands give.

``pytest -m slow tests/test_page_numbers.py`` runs each command to its end, some minutes each, and
names every number that differs from its page by more than the standard error there, or lies beyond
the range there.
"""

import csv
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from experiments.harness.study import Study
from jaxdl.report.tables import mean_and_standard_error

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, str]]
Value = Callable[[Rows], list[float]]
"""From a run's ``results.csv`` to the values, one a seed, whose mean a number is."""


class Claim(NamedTuple):
    """A number on a page: a mean with its standard error, or a median with the least and the
    most."""

    line: str
    """What the line begins with, a paragraph being one line."""
    position: str | int
    """The words before the number, or the number of its table cell, from 0."""
    value: Value
    median: bool = False
    after: str = ""
    """What stands above the line, where an earlier one begins alike."""


class Quote(NamedTuple):
    """A claim's text, and from where to where a run's number may lie."""

    text: str
    low: float
    high: float


def values(column: str, *, scale: float = 100, **names: str) -> Value:
    """Of one method: its rows have these names."""

    def value(rows: Rows) -> list[float]:
        assert all({column, *names} <= {*row} for row in rows)
        return [
            scale * float(row[column])
            for row in rows
            if all(row[key] == name for key, name in names.items())
        ]

    return value


def difference_to_base(treatment: str, *cuts: int, split: str = "random") -> Value:
    """Of the transferability study: by seed, over cuts and directions the mean of a treatment's
    accuracy minus that of the base trained on the same task."""

    def value(rows: Rows) -> list[float]:
        accuracy = {
            (row["treatment"], int(row["n"]), row["direction"][-1], row["seed"]): row["accuracy"]
            for row in rows
            if row["split"] == split
        }
        seeds: dict[str, list[float]] = {}
        for (name, n, task, seed), reached in accuracy.items():
            if name == treatment and n in cuts:
                base = accuracy["base", 0, task, seed]
                seeds.setdefault(seed, []).append(100 * (float(reached) - float(base)))
        return [float(np.mean(differences)) for differences in seeds.values()]

    return value


def table(
    methods: Mapping[str, str], *columns: Callable[[str], Value], after: str = ""
) -> list[Claim]:
    """Claims of rows whose labels stand for methods, a column a cell."""
    return [
        Claim(f"| {label} |", i, column(method), after=after)
        for label, method in methods.items()
        for i, column in enumerate(columns, 1)
    ]


def scores(column: str, *, scale: float = 100, **names: str) -> Callable[[str], Value]:
    """A column of a table: a method's values."""
    return lambda method: values(column, scale=scale, method=method, **names)


def finetuned(images: str) -> Callable[[str], Value]:
    """A column: with so many images, and as many stages frozen as the method has."""
    return lambda method: values(
        "accuracy", method=method, images=images, frozen="6" if method == "frozen" else "0"
    )


def freezing(images: str, frozen: str) -> Value:
    """What so many frozen stages are worth in fine-tuning, by seed."""
    tuned = partial(values, "accuracy", method="fine_tuned", images=images)
    return gain(tuned(frozen=frozen), tuned(frozen="0"))


def better_than_random(column: str, sign: int) -> Callable[[str], Value]:
    """A column: by network, how much better than a random order of the pixels."""
    return lambda order: gain(
        values(column, attribution=order, scale=100 * sign),
        values(column, attribution="random", scale=100 * sign),
    )


def fresh(column: str, search: str) -> Value:
    """Of a search's winner from fresh seeds: a value a repetition, or a seed where there is one."""

    def value(rows: Rows) -> list[float]:
        own = [row for row in rows if row["search"] == search and row["stage"] == "fresh"]
        key = "repetition" if len({row["repetition"] for row in own}) > 1 else "seed"
        by_key: dict[str, list[float]] = {}
        for row in own:
            by_key.setdefault(row[key], []).append(100 * float(row[column]))
        return [float(np.mean(numbers)) for numbers in by_key.values()]

    return value


def chosen(method: str) -> Value:
    """Of a method that was trained at several values: at the one with the best validation mean, of
    equal ones the first."""

    def value(rows: Rows) -> list[float]:
        by_value: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["method"] == method:
                scores = float(row["validation"]), 100 * float(row["score"])
                by_value.setdefault(row["value"], []).append(scores)
        # Means are equal to the digits that the table has.
        best = max(by_value.values(), key=lambda pairs: round(np.mean(pairs, 0)[0], 5), default=[])
        return [score for _, score in best]

    return value


def gain(method: Value, baseline: Value) -> Value:
    """By seed: a method's score minus the baseline's."""
    return lambda rows: [a - b for a, b in zip(method(rows), baseline(rows), strict=True)]


def cost(difference: Value) -> Value:
    """By seed: by how much the baseline is above."""
    return lambda rows: [-x for x in difference(rows)]


def steps_to_minimum(surface: str) -> Callable[[str], Value]:
    """A column of the landscape study: an optimizer's steps at its best rate, from the starts that
    did not choose it."""

    def column(optimizer: str) -> Value:
        def value(rows: Rows) -> list[float]:
            own = [r for r in rows if (r["surface"], r["optimizer"]) == (surface, optimizer)]
            first = [r for r in own if r["seed"] == "0" and r["steps"] not in ("", "nan")]
            rate = min(first, key=lambda r: float(r["steps"]), default={"rate": ""})["rate"]
            return [float(r["steps"]) for r in own if r["rate"] == rate and r["seed"] != "0"]

        return value

    return column


supervised_score = partial(values, "score")
CUTS = range(1, 7)
PAGES: dict[str, list[Claim]] = {
    "dann": table(
        {
            "source only": "source_only",
            "source only, recoloured": "source_recoloured",
            "DANN": "dann",
            "DANN + consistency": "dann_consistency",
            "train on target": "target_only",
        },
        *(scores("source_accuracy"), scores("target_accuracy")),
    ),
    "dann:mnist_to_mnist_m_best": table(
        {
            "source only, recoloured": "source_only",
            "source on target backgrounds": "source_on_target",
            "DANN + consistency, on target backgrounds": "dann_consistency",
            "train on target, recoloured": "target_only",
        },
        scores("target_accuracy"),
        after="Our best with the paper's network",
    ),
    "dense": table(
        {f"`{name}`": name for name in ("mask", "heat_map", "coordinates", "class")},
        *(scores("score", value=images) for images in ("16", "48", "144")),
        *(scores("auc", value=images) for images in ("16", "48", "144")),
        *(scores("error", scale=1, value=images) for images in ("16", "48", "144")),
    ),
    "dense:cells": table(
        {f"`{name}`": name for name in ("density", "number", "instances")},
        *(scores(column, scale=1) for column in ("error", "rmse")),
        scores("score"),
        scores("shifted_error", scale=1),
        scores("shifted"),
    ),
    "dense:vessels": table(
        {
            "`dice`": "dice",
            "`tversky`, .3 and .7": "tversky",
            "`sum` of cross-entropy and Dice": "sum",
            "`cross_entropy`": "cross_entropy",
            "`focal`": "focal",
        },
        *(scores("score"), scores("auc")),
    ),
    "dense:rough_labels": [
        Claim(f"| {label} |", cell, values(column, method=method, value=value))
        for label, (method, value) in {
            "whole": ("clean", ""),
            "a quarter of all cells missing": ("missing", "0.25"),
            "half": ("missing", "0.5"),
            "three quarters": ("missing", "0.75"),
            "shifted by 1 pixel, anywhere": ("shifted", "1"),
            "by 2": ("shifted", "2"),
            "by 3": ("shifted", "3"),
            "polygons of 12 corners": ("polygons", "12"),
            "of 6": ("polygons", "6"),
            "of 3": ("polygons", "3"),
            "dilated by 1 pixel": ("dilated", "1"),
        }.items()
        for cell, column in ((2, "score"), (3, "auc"))
    ],
    "finetune": [
        *table(
            {
                name: name
                for name in (
                    *("scratch", "frozen", "fine_tuned", "head_first"),
                    *("fixed_statistics", "augmented"),
                )
            },
            *(finetuned(images) for images in ("10", "30", "100", "300")),
        ),
        *(
            Claim("How many stages to freeze", words, freezing(*networks))
            for words, networks in {
                "frozen are worth": ("10", "6"),
                "and three": ("10", "3"),
            }.items()
        ),
        *(
            Claim("How many stages to freeze", words, cost(freezing(*networks)))
            for words, networks in {
                "and six cost": ("100", "6"),
                "three cost": ("300", "3"),
                "and six": ("300", "6"),
            }.items()
        ),
    ],
    "landscape": table(
        {"Adam": "adam", "momentum": "momentum", "Nesterov": "nesterov", "RMSprop": "rmsprop"},
        *map(steps_to_minimum, ("saddle", "valley", "plateau")),
    ),
    "pinn": [
        Claim(f"| {label} |", 1, values(column, scale=1, problem="heat"), median=True)
        for label, column in {
            "loss on the points trained on": "train_loss",
            "loss on a grid of 10,000 others": "heldout_loss",
            "relative L2 error": "rel_l2",
        }.items()
    ],
    "pinn:all": [
        Claim(f"| `:{problem}`", 2, values("rel_l2", scale=1, problem=problem), median=True)
        for problem in (
            *("allen_cahn", "burgers", "heat", "heat_fast", "helmholtz", "korteweg_de_vries"),
            *("kovasznay", "poisson", "poisson_disc", "wave"),
        )
    ],
    "search": [
        Claim("| random | 32 |", 4, fresh("validation", "random")),
        Claim("| random | 32 |", 5, fresh("score", "random")),
        Claim("| random | 32 |", 6, fresh("score", "base")),
    ],
    "search:pbt": [
        Claim("| PBT | 32 |", 4, fresh("validation", "pbt")),
        Claim("| PBT | 32 |", 5, fresh("score", "pbt")),
        Claim("| PBT | 32 |", 6, fresh("score", "base")),
    ],
    "search:pays": [
        *(
            Claim(line, cell, fresh(column, search))
            for line, search in (
                *(("| random | 16 |", "random"), ("| halving | 68 |", "halving")),
                *(("| PBT | 16 |", "pbt"), ("| `base`, set by hand |", "base")),
            )
            for cell, column in ((4, "validation"), (5, "score"))
        )
    ],
    "supervised": table(
        {
            "SGD, rate .1": "sgd",
            "momentum, .03 (the baseline)": "momentum",
            "Nesterov, .03": "nesterov",
            "Adam, .002": "adam",
            "AdamW, .002, decay .05": "adamw",
        },
        *(scores("score"), lambda method: supervised_score(method=f"{method}_mlp")),
    ),
    "supervised:augmentation": [
        Claim("| `augmentation` |", "none", supervised_score(method="none")),
        *(
            Claim(
                "| `augmentation` |",
                words,
                gain(supervised_score(method=method), supervised_score(method="none")),
            )
            for words, method in {
                "elastic": "elastic",
                "with similarities": "similarity_elastic",
                "0.7, similarities": "similarity",
                "AugMix": "augmix",
            }.items()
        ),
    ],
    "supervised:bias_variance": [
        Claim("| `bias_variance` |", words, values("loss", scale=1, method="mlp", value=widths))
        for words, widths in {"squared error": "1 1", "(1),": "8 8", "(8),": "128 128"}.items()
    ],
    "supervised:binary": [
        Claim("| `binary` |", "x₂²)", supervised_score(method="linear_kernel")),
        Claim("| `binary` |", "raw plane", supervised_score(method="mlp")),
    ],
    "supervised:breast_cancer": [
        Claim("| `iris`, `wine`", "97.8 ± 0.8,", supervised_score(method="mlp"))
    ],
    "supervised:diabetes": [Claim("| `diabetes` |", "was tried,", chosen("mlp"))],
    "supervised:distillation": [
        Claim(
            "| `distillation` |", 2, gain(chosen("distilled"), supervised_score(method="student"))
        )
    ],
    "supervised:folds": [
        *(
            Claim("| `folds` |", words, values("validation", method=method))
            for words, method in {"MLP": "wide", "narrow": "narrow", "linear": "linear"}.items()
        ),
    ],
    "supervised:label_noise": [
        Claim("| `label_noise` |", "at random", supervised_score(method="random", value="0.5")),
        Claim(
            "| `label_noise` |", "for the next", supervised_score(method="systematic", value="0.5")
        ),
        Claim("| `label_noise` |", "none", supervised_score(method="random", value="0")),
    ],
    "supervised:lecun1989": [
        Claim("| `lecun1989` |", network, supervised_score(method=network, value=rate))
        for network, rate in {
            **{"net1": "0.01", "net2": "0.03"},
            **dict.fromkeys(("net3", "net4", "net5"), "0.1"),
        }.items()
    ],
    "supervised:optimizers": [
        Claim("| `optimizers` |", name, chosen(name.lower()))
        for name in ("RMSprop", "Muon", "SGD", "Adam", "momentum", "Nesterov")
    ],
    "supervised:pca": [
        Claim("| `pca` |", 2, supervised_score(method="pca")),
        Claim("| `pca` |", "against", supervised_score(method="all")),
    ],
    "supervised:pca_fails": [
        Claim("| `pca_fails` |", "all columns", supervised_score(method="all")),
        Claim("| `pca_fails` |", "of PCA", supervised_score(method="pca")),
        Claim("| `pca_fails` |", "of ICA", supervised_score(method="ica")),
    ],
    "supervised:regularization": [
        Claim("| `regularization` |", "none", supervised_score(method="none"))
    ],
    "supervised:spirals": [
        Claim("| `spirals` |", "polar features", supervised_score(method="linear_polar")),
        Claim("| `spirals` |", "raw ones", supervised_score(method="mlp")),
    ],
    "supervised:wine": [
        Claim("| `iris`, `wine`", "linear 96.7,", supervised_score(method="linear")),
        Claim("| `iris`, `wine`", "MLP 96.7,", supervised_score(method="mlp")),
    ],
    "visualize": table(
        {
            "integrated gradients": "integrated gradients",
            **{name: name for name in ("occlusion", "gradient", "Grad-CAM")},
        },
        lambda order: values("deletion", attribution=order),
        better_than_random("deletion", -1),
        lambda order: values("insertion", attribution=order),
        better_than_random("insertion", +1),
    ),
    "transferability": [
        Claim("| features become specific", 1, difference_to_base("AnB", CUTS[-1])),
        Claim("| layers are co-adapted", 1, difference_to_base("BnB", *CUTS[1:-1])),
        Claim("| layers are co-adapted", "n = 5, at", difference_to_base("BnB", 5)),
        Claim("| A's data help", 1, difference_to_base("AnB+", *CUTS)),
        Claim("| A's data help", "BnB+, gives", difference_to_base("BnB+", *CUTS)),
        Claim(
            "| A's data help",
            "what is left for A is",
            gain(difference_to_base("AnB+", *CUTS), difference_to_base("BnB+", *CUTS)),
        ),
        Claim("| distance matters", 1, difference_to_base("AnB", CUTS[-1], split="dissimilar")),
        Claim(
            "| distance matters",
            "a difference of",
            gain(
                difference_to_base("AnB", CUTS[-1], split="dissimilar"),
                difference_to_base("AnB", CUTS[-1]),
            ),
        ),
        Claim("| (control) random", 1, difference_to_base("random", CUTS[-1])),
    ],
    "transferability:cifar10": [
        Claim(f"| {label} |", n, difference_to_base(treatment, n, split=split))
        for label, treatment, split in (
            *(("BnB, random halves", "BnB", "random"), ("BnB+", "BnB+", "random")),
            *(("AnB", "AnB", "random"), ("AnB+", "AnB+", "random")),
            ("AnB, dissimilar halves", "AnB", "dissimilar"),
        )
        for n in CUTS
    ],
}
DOWNLOADED = ("dann:mnist_to_mnist_m_best", "transferability:cifar10")
"""Studies of data sets that may not be at hand."""


MEAN = r"[*+]*((−?)(\d*\.\d+) ± (\d*\.\d+))"
MEDIAN = r"(\S+ \((\S+) to (\S+)\))"


def quoted(study: str, claim: Claim) -> Quote:
    """The number on the page."""
    page = ROOT / "experiments" / f"{study.partition(':')[0]}.md"
    if isinstance(claim.position, int):
        before = r"[^|]*\|" * (claim.position + 1)
    else:
        before = f".*?{re.escape(claim.position)}"
    number = MEDIAN if claim.median else MEAN
    pattern = re.compile(rf"{before}\s*{number}")
    page_text = page.read_text(encoding="utf-8")
    lines = whole_lines(page_text[page_text.index(claim.after) :])
    matches = filter(None, (pattern.match(line) for line in lines if line.startswith(claim.line)))
    match = next(matches, None)  # the default's table comes first
    assert match, f"{page} has no number after {claim.position!r} in {claim.line!r}"
    text, *numbers = match.groups()
    if claim.median:
        return Quote(text, *map(float, numbers))
    sign, mean, se = numbers
    middle, digit = float(f"{'-' * bool(sign)}{mean}"), 10.0 ** -len(se.partition(".")[2])
    # Processors and versions that round otherwise move the mean of the same seeds so far, too.
    distance = float(se) + 0.5 * digit
    return Quote(text, middle - distance, middle + distance)


def whole_lines(text: str) -> list[str]:
    """The lines of a page, a paragraph being one."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        lines += (
            block.split("\n") if block.startswith(("|", " ")) else [" ".join(block.split("\n"))]
        )
    return lines


def summary(claim: Claim, rows: Rows) -> tuple[float, str]:
    """A run's number, and how it stands on a page."""
    numbers = claim.value(rows)
    if claim.median:
        least, middle, most = np.quantile(numbers or [math.nan], (0, 0.5, 1))
        return middle, f"{middle:.1e} ({least:.1e} to {most:.1e})"
    estimate = mean_and_standard_error(numbers)
    return estimate.mean, f"{estimate.mean:.3g} ± {estimate.se:.2g}"


def differences(study: str, rows: Rows) -> list[str]:
    """What of a page a run has otherwise: a line each."""
    lines = []
    for claim in PAGES[study]:
        page, (ours, text) = quoted(study, claim), summary(claim, rows)
        if not page.low <= ours <= page.high:
            position = f"{claim.line.strip('| ')}, {claim.position}"
            lines.append(f"{position}: {page.text} there, {text} now")
    return lines


@pytest.mark.parametrize("study", PAGES)
def test_numbers_stand_on_the_page_and_columns_in_the_table(study):
    module = import_module(f"experiments.{study.partition(':')[0]}")
    (kind,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and issubclass(value, Study)
    )
    for claim in PAGES[study]:
        page = quoted(study, claim)
        assert 0 < page.high - page.low < 40  # points: else the claim proves nothing
        claim.value([dict.fromkeys(kind.headline.row._fields, "")])
    assert len(differences(study, [])) == len(PAGES[study])  # a run without rows has none of them


@pytest.mark.slow
@pytest.mark.parametrize("study", PAGES)
def test_the_command_gives_the_numbers_of_its_page(study, tmp_path):
    name, _, variant = study.partition(":")
    config = f"configs/{name}.py{f':{variant}' * bool(variant)}"
    command = ["-m", f"experiments.{name}", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    # Those of the pages: on another number rounding leads some networks elsewhere.
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL}
    process = subprocess.run([sys.executable, *command], **options)
    if study in DOWNLOADED and process.returncode == 2:
        pytest.skip("refused, where its data are not at hand: see above")
    assert process.returncode == 0
    with open(tmp_path / "run" / "results.csv", newline="") as file:
        lines = differences(study, list(csv.DictReader(file)))
    assert not lines, "\n".join(lines)
