"""Every pair of domains that the study has by name: its configuration, and a few steps of it.

TFDS's own data sets are prepared here with images of noise; those whose builders are in this
project are made by them, in tiny.
"""

import csv
import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs.dann import PAIRS, VARIANTS, get_config
from experiments import dann
from experiments.harness import classification
from experiments.harness.settings import check
from jaxdl.data import prepared
from jaxdl.nn.models import ADVERSARIAL_MODELS
from jaxdl.train.interruption import StopFlag
from jaxdl.train.parallel import make_placement
from tests.data.test_gtsrb import whole as official_archive

CLASSES = {"syn_signs_to_gtsrb": 43}
DATA = {
    "mnist_to_mnist_m": ("mnist", "mnist_m"),
    "syn_numbers_to_svhn": ("syn_numbers", "svhn_cropped"),
    "svhn_to_mnist": ("svhn_cropped", "mnist"),
    "syn_signs_to_gtsrb": ("syn_signs", "gtsrb"),
    "mnist_to_usps": ("mnist", "usps"),
    "syn_numbers_to_mnist_m": ("syn_numbers", "mnist_m"),
    "syn_numbers_to_usps": ("syn_numbers", "usps"),
}
archive = official_archive  # a fixture: a folder GTSRB as the official archives unpack


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_run_if_its_data_are_there(variant):
    config = get_config(variant)
    check(config, dann.SETTINGS.kinds)
    every = dann.check(config)
    assert config.settings_from
    assert config.beside_published == (variant != "ablation")
    sides = [config[domain].options.size for domain in dann.DOMAINS]
    assert sides[0] == sides[1]
    assert set(every) == set(config.methods)
    for settings, _ in every.values():
        model = ADVERSARIAL_MODELS[config.model](
            CLASSES.get(variant, 10),
            padding=settings["padding"],
            dropout=settings["dropout"],
            start=dann.STARTS[settings["start"]],
        )
        side = settings["size"] or sides[0]
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), image)
    if variant in DATA:
        names = [config[domain].options.dataset for domain in dann.DOMAINS]
        assert tuple(names) == DATA[variant]
    if variant != "ablation":
        assert {"source_only", "target_only"} <= set(config.methods)


def test_pairs_are_all_known():
    assert set(PAIRS) == set(DATA) < set(VARIANTS)
    with pytest.raises(ValueError, match=r"unknown pair 'mnist'.*mnist_to_usps"):
        get_config("mnist")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """MNIST and SVHN as TFDS has them, but for their content."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()

    def examples(shape, count, seed):
        rng = np.random.default_rng(seed)
        for place in range(count):
            pixels = rng.integers(0, 256, shape, np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels.squeeze()).save(file, "PNG")
            example = {"image": io.BytesIO(file.getvalue()), "label": place % 10}
            yield place, example | ({"id": str(place)} if shape[-1] == 3 else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_online", lambda: True)
        for name, shape, splits in (
            ("mnist", (28, 28, 1), {"train": 120, "test": 30}),
            ("svhn_cropped", (32, 32, 3), {"train": 120, "test": 30, "extra": 10}),
        ):

            def generators(self, _, shape=shape, splits=splits):
                known = set(self.info.features)
                return {
                    split: (
                        (k, {f: v for f, v in example.items() if f in known})
                        for k, example in examples(shape, count, i)
                    )
                    for i, (split, count) in enumerate(splits.items())
                }

            patch.setattr(tfds.builder_cls(name), "_split_generators", generators)
            prepared.prepared(name, data_dir=str(folder))
    yield folder
    tfds.enable_progress_bar()


@pytest.fixture
def run(data_dir, monkeypatch, tmp_path):
    """Four steps of a pair, in this process; its results and what was trained on."""
    restricted = partial(make_placement, devices=jax.devices()[:1])
    monkeypatch.setattr(classification, "make_placement", restricted)

    def run(pair, changes):
        config = get_config(pair)
        config.seeds, config.base.steps, config.base.batch = 1, 4, 2
        config.steps_per_dispatch, config.evaluation_batch = 2, 30
        for domain in dann.DOMAINS:
            config[domain].options.data_dir = str(data_dir)
            config[domain].options.validation = 20
        config.update_from_flattened_dict(changes)
        (tmp_path / pair).mkdir()
        report = dann.study(config, tmp_path / pair, StopFlag())
        with (tmp_path / pair / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(r["pair"], r["method"]) for r in rows] == [
            (pair, method) for method in ("source_only", "dann", "target_only")
        ]
        for row in rows:
            assert 0 <= float(row["source_accuracy"]) <= 1
            assert 0 <= float(row["target_accuracy"]) <= 1
        return report

    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


NUMBERS = {"train": 120, "test": 30}
SMALL = {"model": "dann_mnist", "base.padding": "VALID"}
"""In the place of SVHN's network, which has 33 million parameters."""


def made(domain, **fields):
    return {f"{domain}.options.builder.{field}": value for field, value in fields.items()}


@pytest.mark.slow
def test_syn_numbers_to_svhn(run, monkeypatch):
    smaller(monkeypatch, "syn_numbers", **NUMBERS)
    report = run("syn_numbers_to_svhn", SMALL)
    assert "SYN NUMBERS → SVHN" in report
    assert "syn_numbers (100 training, 30 test" in report
    assert "svhn_cropped (100 training, 30 test" in report


@pytest.mark.slow
def test_svhn_to_mnist(run):
    report = run("svhn_to_mnist", SMALL)
    assert "SVHN → MNIST" in report and "mnist (100 training, 30 test" in report


@pytest.mark.slow
def test_syn_signs_to_gtsrb(run, archive, monkeypatch):
    smaller(monkeypatch, "syn_signs", train=86, test=43)
    changes = made("target", folder=str(archive))
    for domain in dann.DOMAINS:
        changes[f"{domain}.options.validation"] = 43
    changes |= {"model": "dann_mnist", "target.options.test": 0.2}
    report = run("syn_signs_to_gtsrb", changes)
    assert "SYN SIGNS → GTSRB" in report and "gtsrb (44 training, 5 test" in report


@pytest.mark.slow
def test_mnist_to_usps_of_one_channel(run, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 120), ("test", 30)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(tmp_path / "usps.npz", **arrays)
    changes = made("target", file=str(tmp_path / "usps.npz"))
    changes |= {f"{domain}.options.channels": 1 for domain in dann.DOMAINS}
    report = run("mnist_to_usps", changes)
    assert "usps (100 training, 30 test" in report


def smaller(monkeypatch, dataset, **sizes):
    """Have a data set made of so many images, whatever the configuration says."""
    whole = prepared._builder

    def with_sizes(name, data_dir, settings):
        return whole(name, data_dir, settings | sizes if name == dataset else settings)

    monkeypatch.setattr(prepared, "_builder", with_sizes)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["syn_numbers_to_svhn", "svhn_to_mnist"])
def test_the_papers_network_for_house_numbers(pair, run, monkeypatch):
    smaller(monkeypatch, "syn_numbers", **NUMBERS)
    assert "dann_svhn, 33,371,083 parameters" in run(pair, {})
