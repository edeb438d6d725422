"""The study of representations on drawn pictures, in tiny and in this process."""

import dataclasses
import inspect
from functools import partial

import jax
import numpy as np
import pytest

from configs.dense import VARIANTS, get_config
from experiments import dense
from experiments.harness import classification
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.study import COMMON, make_study
from jaxdl.data import sources
from jaxdl.data.source import make_source
from jaxdl.train.groups import Trained, make_groups
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.parallel import make_placement
from tests.experiments.tiny import Stops, rows


def tiny(variant="macula", methods=("class", "mask")):
    """Two representations, of two numbers of images."""
    config = get_config(variant)
    config.seeds, config.base.steps, config.base.batch, config.base.widths = 1, 4, 4, (2,)
    config.steps_per_dispatch, config.seconds_between_saves = 2, 1e9
    drawn = {"train": 8, "validation": 6, "test": 8, "size": 18}
    if variant == "vessels":
        drawn["size"] = 48  # each has some
    if "path" not in config.data.options:
        config.data.options.update(drawn)
    if "name" in config.data.shifted:
        config.data.shifted.update({**drawn, "size": 48})
    config.base.patch = min(config.base.patch, 12)
    for method in config.methods.values():
        method.steps = 4
        if method.get("sweep") == "images":
            method["values"] = (4, 8)
    for name in set(config.methods) - {*methods}:
        del config.methods[name]
    if variant == "macula":
        config.base.values = (4, 8)
    return config


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        restricted = partial(make_placement, devices=jax.devices()[:1])
        patch.setattr(classification, "make_placement", restricted)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    return folder, dense.study(tiny(), folder, StopFlag())


def test_a_run_has_a_row_for_each_network(finished):
    folder, text = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {"answers.png", "curves.png", "samples.png", "sweep.png", "report.html"}
    names = [(r["method"], r["value"], r["seed"]) for r in rows(folder)]
    assert names == [(m, v, "0") for m in ("class", "mask") for v in ("4", "8")]
    for row in rows(folder):
        assert float(row["score"]) * 8 == pytest.approx(round(float(row["score"]) * 8))
        assert (row["overlap"] == "nan") == (row["method"] == "class")
    for part in (
        "comparisons can be judged, since",
        "minus class",
        "Question: locate",
        "within 4 ",
    ):
        assert part in text


def assert_goes_on_bit_for_bit(config, workdir, finished):
    with pytest.raises(Interrupted):
        dense.study(config, workdir, Stops())
    dense.study(config, workdir, StopFlag())
    for path in finished.iterdir():
        if path.suffix in (".csv", ".jsonl", ".png"):
            assert (workdir / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_was_stopped_goes_on_bit_for_bit(finished, tmp_path):
    assert_goes_on_bit_for_bit(tiny(), tmp_path, finished[0])


@pytest.fixture(scope="module")
def built():
    study = make_study(dense.Dense, tiny())
    study.build()
    return study


def test_all_methods_of_a_seed_see_the_same_images(built):
    groups = make_groups("networks", built.members, 24, even=True)
    assert [{n.method for n in group.networks} for group in groups] == [{"class"}, {"mask"}]
    few, many = (built.draw_images(("class", value), 0) for value in ("4", "8"))
    np.testing.assert_array_equal(few, many[:4])
    np.testing.assert_array_equal(few, built.draw_images(("mask", "4"), 0))
    first = [built.members[i].start().params["encoder"] for i in (0, 2)]  # of both methods
    jax.tree.map(np.testing.assert_array_equal, *first)


def test_a_patch_moves_its_mask():
    config = tiny("vessels", ("cross_entropy",))
    config.base.patch, config.base.flip = 10, True
    study = make_study(dense.Dense, config)
    settings = study.trials["cross_entropy", ""].settings
    prepare, images = jax.jit(study.make_prepare(settings)), np.zeros((5, 18, 18, 3), np.uint8)
    images[:, 4:9, 7:12] = 255
    mask = np.stack([images[..., 0] > 0, images[..., 0] < 0], 1).astype(np.uint8)
    stored = {"image": images, "mask": mask}
    hyper = {"mask": np.int32(0)}
    batch = prepare(stored, hyper, jax.random.key(0))
    assert batch["image"].shape == (5, 10, 10, 3) and batch["mask"].any()
    bright = batch["image"][..., 0] > batch["image"].min()
    np.testing.assert_array_equal(bright, batch["mask"])
    assert not prepare(stored, {"mask": np.int32(1)}, jax.random.key(0))["mask"].any()
    np.testing.assert_array_equal(prepare(stored, hyper, None)["mask"], mask[:, 0])


@pytest.mark.parametrize("views", ["", "turned"])
def test_with_all_views_an_answer_turns_with_its_image(views):
    config = tiny("vessels", ("cross_entropy",))
    config.base.views = views
    study = make_study(dense.Dense, config)
    study.build()
    (group,) = make_groups("networks", study.members, 1)
    study.trained_groups = [Trained(group, [study.members[0].start()])]
    split = study.source.splits["validation"]
    turned = {
        "image": np.rot90(split["image"], 1, (1, 2)),
        "mask": np.rot90(split["mask"], 1, (2, 3)),
    }
    parts = {"": study.apart(split), "turned": study.apart(turned)}
    ((_, outputs),) = study.predict_parts(parts)
    expected = np.rot90(outputs[""], 1, (1, 2))
    assert np.allclose(outputs["turned"], expected, rtol=1e-3, atol=1e-4) == (views == "turned")


@pytest.fixture
def real(monkeypatch):
    """Drawn pictures in the place of photographs, by the options of those who read them."""

    def draw(reader, draw, **size):
        def load(**options):
            inspect.signature(reader).bind(**options)
            return draw(8, 2, 4, **size)

        return load

    drive, bccd = (sources.SOURCES[name] for name in ("drive", "bccd"))
    monkeypatch.setitem(sources.SOURCES, "drive", draw(drive, sources.fundus, size=48))
    monkeypatch.setitem(sources.SOURCES, "bccd", draw(bccd, sources.cells, size=20))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_can_be_built(variant, real):
    config = tiny(variant, get_config(variant).methods)
    if "crowding" in config.data.options:
        config.data.options.size = 20
    study = make_study(dense.Dense, config)
    questions = {"macula": "locate", "cells": "count", "bccd": "count"}
    assert study.question == questions.get(variant, "segment")
    check(config, {**dense.SETTINGS.kinds, **COMMON})


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    ("variant", "methods"),
    [
        ("cells", ("density",)),
        # Patches, and networks that go on from another's.
        pytest.param("simulated_to_real", ("drawn", "drawn_first"), marks=pytest.mark.slow),
    ],
)
def test_other_variants_go_on_bit_for_bit(variant, methods, real, tmp_path):
    config = tiny(variant, methods)
    config.baseline = methods[0]
    config.base.average = 0.9
    if variant == "cells":
        config.data.options.size = 20
    dense.study(config, tmp_path / "whole", StopFlag())
    assert_goes_on_bit_for_bit(config, tmp_path / "stopped", tmp_path / "whole")


def test_a_network_goes_on_from_anothers(real):
    study = make_study(
        dense.Dense, tiny("simulated_to_real", ("drawn", "drawn_first", "real_alone"))
    )
    study.build()
    drawn, first = (
        m for m in study.members if m.networks[0][:2] in (("drawn", ""), ("drawn_first", "8"))
    )
    ids = [set(m.hyper()["examples"].tolist()) for m in (drawn, first)]
    assert not ids[0] & ids[1]
    (group,) = make_groups("networks", [drawn], 1)
    fresh = drawn.start()
    params, collections = jax.tree.map(lambda x: x + 1, (fresh.params, fresh.collections))
    trained = dataclasses.replace(fresh, params=params, collections=collections, step=4)
    study.trained_groups = [Trained(group, [trained])]
    start = first.start()
    jax.tree.map(np.testing.assert_array_equal, start.params, params)
    jax.tree.map(np.testing.assert_array_equal, start.collections, collections)
    assert start.step == 0 and first.program is not drawn.program


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "none"}, r"config\.baseline: 'none' is not one of class"),
        ({"base.answer": "box"}, r"config\.base\.answer: 'box' is not one of class, coordinates"),
        ({"methods.mask.answer": "number"}, r"methods answer different questions \(config\.m"),
        ({"base.values": (8, 9)}, r"config\.base\.images=9: there are 8 training images"),
        ({"base.patch": 20}, r"config\.base\.patch=20 is not used: answer=class is not cut"),
        (
            {"base.changes": ("colour", "elastic")},
            r"config\.base\.changes=\('colour', 'elastic'\) is",
        ),
        (
            {"base.views": "turned", "methods.mask.answer": "coordinates"},
            r"config\.base\.views=turned is not used: coordinates are not",
        ),
        ({"base.weights": "x"}, r"config\.base\.weights=x is not used: U-Net's own encoder has"),
        ({"base.damage": "torn"}, r"config\.base\.damage: 'torn' is not one of '', shifted"),
        ({"base.amount": 2.0}, r"config\.base\.amount=2\.0 is not used: there is no damage"),
        ({"base.damage": "polygons"}, r"config\.base\.amount of polygons must be at least 3"),
        (
            {"base.damage": "missing", "base.amount": 1.5},
            r"config\.base\.amount of missing must be above 0 and at most 1, got 1\.5",
        ),
        ({"base.damage": "shifted"}, r"config\.base\.amount of shifted must be above 0 and fin"),
        ({"base.widths": (2,) * 7}, r"config\.base\.widths on images of 18 x 18 x 3: a pooling"),
        (
            {"data.name": "digits", "data.options": {}},
            r"split 'train' has image, label: this study n",
        ),
        ({"base.losses": ()}, r"config\.base\.losses is empty"),
        ({"base.start": "mask"}, r"config\.base\.start='mask' is no method without start and"),
        (
            {"methods.class.values": (), "methods.class.sweep": "", "methods.mask.start": "class"},
            r"config\.methods\.mask\.start=class, whose answer is another",
        ),
        (
            {"base.source": "shifted"},
            r"config\.base\.source=shifted is not used: there is no such data",
        ),
        (
            {"base.source": "shifted", "data.shifted": {"size": 20}},
            r"image in images is \[18, 18, 3\], in shifted \[20, 20, 3\]: networks are",
        ),
        ({"data.name": "nope"}, r"^config\.data\.name: unknown data set 'nope'; known ones are"),
        (
            {"data.shifted": {"name": "npz", "path": "nowhere.npz"}},
            r"^config\.data\.shifted\.path: No such file or directory: nowhere",
        ),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        dense.study(config, tmp_path / "run", StopFlag())


def own(folder, **changed):
    """An archive of images with bright squares, and masks of these; arrays that are changed."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 6), ("test", 4)):
        masks = np.zeros((count, 9, 11), bool)
        for mask, (row, column) in zip(masks, rng.integers(0, 7, (count, 2)), strict=True):
            mask[row : row + 3, column : column + 3] = True
        arrays[f"{split}_images"] = np.uint8(100 * masks + rng.integers(0, 99, masks.shape))
        arrays[f"{split}_masks"] = masks
    path = folder / "own.npz"
    np.savez(path, **{n: x for n, x in (arrays | changed).items() if x is not None})
    return path


OWN = {"data.name": "npz", "data.mask": "mask", "data.field": ""}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train_images": np.zeros((5, 9, 11), np.uint8)}, "'train' has 5 images and 6 masks; ex"),
        ({"test_images": None}, "has no array test_images, but test_masks"),
        ({"train_masks": None, "test_masks": None}, "has image: this study needs mask"),
        ({"test_masks": np.ones((4, 9, 10), bool)}, "mask shapes differ between splits"),
        ({"test_masks": np.full((4, 9, 11), 3)}, "split 'test': .* 0 has pixels of class 3: exp"),
        ({"test_masks": np.zeros((4, 9, 11), bool)}, "split 'test': the mask of example 0 is emp"),
        ({"train_vessels": np.zeros((6, 9, 11), bool)}, "the array train_vessels would not be re"),
    ],
)
def test_own_masks_that_do_not_fit_are_one_line(changed, words, tmp_path):
    config = tiny("vessels", ("cross_entropy",))
    config.update_from_flattened_dict(OWN)
    config.data.options = type(config)({"path": str(own(tmp_path, **changed)), "validation": 2})
    with pytest.raises(UserError, match=words) as error:
        dense.study(config, tmp_path / "run", StopFlag())
    assert "\n" not in str(error.value)


def test_own_masks_come_in_by_a_command(launcher, tmp_path):
    options = {"path": str(own(tmp_path)), "validation": 2}
    tiny = {"base.steps": 2, "steps_per_dispatch": 2, "seeds": 1, "base.widths": "(2,)"}
    settings = OWN | {"data.options": options} | tiny
    command = ["--config=configs/dense.py:rough_labels", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    ended = launcher.start("dense", command).wait()
    assert ended.code == 0, ended.complaint
    assert "Data: own, 4 training images; F1 on the test split, 4 examples" in ended.out
    assert {float(row["score"]) > 0 for row in rows(tmp_path / "run")} == {True}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((3, 9, 10), np.uint8), r"split 'train': masks are \[3, 9, 10\]"),
        (np.full((3, 9, 11), 7, np.uint8), r"split 'train': .* of class 7"),
        (np.zeros((3, 9, 11), np.uint8), r"split 'train': .* 0 is empty"),
        (None, r"split 'train' has image: this study needs mask"),
    ],
)
def test_masks_that_do_not_fit_are_one_line(mask, words, monkeypatch, tmp_path):
    split = {"image": np.zeros((3, 9, 11, 3), np.uint8)} | ({} if mask is None else {"mask": mask})
    own = make_source("own", (), dict.fromkeys(("train", "validation", "test"), split))
    monkeypatch.setitem(sources.SOURCES, "own", lambda: own)
    config = tiny("vessels", ("cross_entropy",))
    config.data.name, config.data.mask, config.data.field = "own", "mask", ""
    config.data.options = type(config)()
    with pytest.raises(UserError, match=words):
        dense.study(config, tmp_path / "run", StopFlag())
