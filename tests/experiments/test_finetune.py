"""The fine-tuning study in tiny, in this process: digits on photographs, and donors of digits."""

import csv
import shutil
from itertools import product

import jax
import numpy as np
import pytest
from PIL import Image

from configs.finetune import VARIANTS, get_config
from experiments import export, finetune, predict
from experiments.finetune import Network
from experiments.harness import donors
from experiments.harness.networks import from_run
from experiments.harness.run import UserError, user_input
from experiments.harness.settings import check
from experiments.harness.study import COMMON, make_study
from jaxdl import transfer
from jaxdl.data import sources
from jaxdl.nn.models.mlp import MLP
from jaxdl.nn.models.pretrained import PRETRAINED, load, shapes
from jaxdl.nn.models.resnet import ResNet
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.report import finetune as reporting
from jaxdl.report import finetune_figures as figures
from jaxdl.report.finetune import DONOR, Layout, Result, findings
from jaxdl.report.tables import wilson_interval
from jaxdl.train.checkpoint import load_network
from jaxdl.train.features import FeatureFeeds, make_features
from jaxdl.train.interruption import StopFlag
from jaxdl.train.parallel import make_placement

pytestmark = pytest.mark.usefixtures("two_devices")

STAGES = 3


def small(classes, **options):
    """A network that compiles quickly, with statistics."""
    return MLP((8, 8), classes, batch_norm=True, **options)


def tiny():
    """Methods of every kind, on two numbers of images."""
    config = get_config()
    config.seeds, config.images, config.stages = 2, (10, 20), (1,)
    config.every_stage, config.model = "frozen", f"{__name__}:small"
    config.seconds_between_saves = 1e9
    for data, name in ((config.data, "digits_m"), (config.source, "digits")):
        data.name, data.options = name, type(config)({"seed": 0, "size": 8})
    config.data.options.channels = 1
    config.base.steps = config.source.training.steps = 4
    config.source.training.warmup, config.steps_per_dispatch, config.base.batch = 0, 2, 8
    section = type(config)
    config.methods = section()
    for name, settings in {
        "scratch": {"start": "fresh"},
        "frozen": {"frozen": -1},
        "head_first": {"start": "frozen"},
        "changed": {"frozen": 1, "changes": ("noise",)},
    }.items():
        config.methods[name] = section(settings)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    return folder, finetune.study(tiny(), folder, StopFlag())


def read_names_and_accuracies(path):
    """Of a run's `results.csv`: method, images, frozen stages and seed, and the accuracy."""
    with path.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    names = [(row["method"], *(int(row[k]) for k in ("images", "frozen", "seed"))) for row in rows]
    assert [*rows[0]] == [*Result._fields] and len({*names}) == len(rows)
    return {name: float(row["accuracy"]) for name, row in zip(names, rows, strict=True)}


def name_of(method, images=20, frozen=0, seed=0):
    return Network(method, images, frozen, seed)._asdict()


def test_a_run_has_a_row_for_each_network_and_is_reprinted(finished):
    folder, text = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "run.json", "results.csv", "metrics.jsonl", "checkpoints"),
        *("report.md", "report.html", "samples.png", "curves.png"),
        *("images.png", "stages.png", "predictions.png"),
    }
    rows = read_names_and_accuracies(folder / "results.csv")
    stages = {"scratch": 0, "frozen": 2, "head_first": 0, "changed": 1}
    expected = {(DONOR, 0, 0, seed) for seed in range(2)}
    expected |= {("frozen", images, 1, seed) for images in (10, 20) for seed in range(2)}
    expected |= {
        (method, images, n, seed)
        for (method, n), images, seed in product(stages.items(), (10, 20), range(2))
    }
    assert {*rows} == expected
    for part in ("minus scratch", "**frozen** against scratch", "first n of 3 stages", "Speed of"):
        assert part in text
    assert finetune.study(tiny(), folder, StopFlag()) == text


@pytest.mark.usefixtures("quick_figures")
def test_a_run_that_is_stopped_ends_bit_for_bit_as_one_that_is_not(finished, tmp_path):
    """With donors and features of their checkpoints, and curves that are ahead of these."""
    folder, _ = finished
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "report.md").unlink()
    for group in ("networks-1", "continued-0"):
        shutil.rmtree(run / "checkpoints" / group)
    finetune.study(tiny(), run, StopFlag())
    for name in ("results.csv", "metrics.jsonl"):
        lines = (sorted((at / name).read_text().splitlines()) for at in (run, folder))
        assert next(lines) == next(lines)


def test_frozen_stages_are_not_trained_and_those_of_the_donor_predict(finished):
    """What is trained has none of them; the next test shows that the run, too, had the donor's."""
    folder, _ = finished
    donor = load_network(folder, **name_of(DONOR, images=0, seed=1))
    for method, n in (("frozen", 2), ("frozen", 1), ("changed", 1)):
        trained = load_network(folder, **name_of(method, frozen=n, seed=1))
        assert len(trained["params"]) == STAGES - n
        _, network = from_run(folder, **name_of(method, frozen=n, seed=1))
        jax.tree.map(
            np.testing.assert_array_equal,
            transfer.cut(network.variables, n)[0],
            transfer.cut(donor, n)[0],
        )
    moved = load_network(folder, **name_of("head_first", seed=1))
    for kind, path in (("params", "kernel"), ("batch_stats", "BatchNorm_0")):
        a, b = (jax.tree.leaves(v[kind]["layer_0"][path])[0] for v in (moved, donor))
        assert (a != b).any()


@pytest.mark.parametrize(
    "network",
    [("frozen", 10, 2, 1), ("changed", 20, 1, 0), ("head_first", 20, 0, 1), (DONOR, 0, 0, 1)],
)
def test_a_network_of_the_run_has_the_accuracy_that_the_run_says(finished, network):
    folder, _ = finished
    accuracy = read_names_and_accuracies(folder / "results.csv")[network]
    _, classifier = from_run(folder, **Network(*network)._asdict())
    maker, channels = (sources.digits, 1) if network[0] == DONOR else (sources.digits_m, 1)
    test = maker(0, size=8, channels=channels).test.open()
    apply = jax.jit(classifier.model.apply)
    logits = apply(classifier.variables, classifier.see(test["image"]))
    assert np.mean(np.argmax(logits, -1) == test["label"]) == pytest.approx(accuracy, abs=1e-6)


def test_a_folder_of_images_by_the_best_network(finished, tmp_path):
    split = sources.digits_m(0, size=8, channels=1).splits["validation"]
    for i in range(5):
        Image.fromarray(split["image"][i, ..., 0]).save(tmp_path / f"{i}.png")
    options = {"run": finished[0], "images": tmp_path, "out": tmp_path / "o"}
    text = predict.main(["seed=1", *(f"--{key}={value}" for key, value in options.items())])
    assert "seed=1" in text and DONOR not in text
    with (tmp_path / "o" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    words = text.splitlines()[0].split(", ")[1].split()
    name = {k: int(v) if v.isdigit() else v for k, v in (word.split("=") for word in words)}
    assert name["images"] == 20  # of two numbers the larger
    _, network = from_run(finished[0], **name)
    logits = jax.jit(network.model.apply)(network.variables, network.see(split["image"][:5]))
    assert [row["predicted"] for row in rows] == [str(i) for i in np.argmax(logits, -1)]


def test_features_are_those_of_the_network_that_is_not_cut():
    """Of several networks, on two devices, in batches that do not divide the images."""
    model = ResNet((1, 1), 4, 3)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    init, apply = jax.jit(model.init), jax.jit(model.apply)
    both = [init(jax.random.key(seed), images[:1] / 255.0) for seed in range(2)]
    placement = make_placement(2, 1, devices=jax.devices()[:2])
    features = make_features(lambda v, x: model.apply(v, x / 255.0, stop=3), placement, 3)
    feeds = FeatureFeeds(
        lambda n: lambda v, x: model.apply(v, x / 255.0, stop=n),
        lambda n: [transfer.cut(v, n, model.names())[0] for v in both],
        placement,
        4,
    )
    labels = np.arange(7, dtype=np.int32)
    feed = feeds.feed(3, "train", {"train": {"image": images, "label": labels}})
    assert feeds.feed(3, "train", {}) is feed and not feeds.rates
    above = jax.jit(transfer.Above(model, 3).apply)
    for i, variables in enumerate(both):
        expected = apply(variables, images / 255.0)
        stored = np.asarray(feed.data["features"][7 * i : 7 * i + 7])
        for h in (features(variables, images), stored):
            ours = above(transfer.cut(variables, 3, model.names())[1], h)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(feed.data["label"], [*labels, *labels])
    assert feeds.rates[3] > 0


def test_statistics_stay_as_they_are_where_they_are_not_updated():
    model = ResNet((1, 1), 4, 3)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    _, above = transfer.cut(variables, 2, model.names())
    h = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype(np.float32)

    @jax.jit
    def apply(variables, h):
        """Outputs and new statistics with updates and without; and outputs in evaluation."""
        networks = (transfer.Above(model, 2, updates=updates) for updates in (True, False))
        trained = [
            network.clone(dtype=np.float32).apply(variables, h, train=True, mutable=["batch_stats"])
            for network in networks
        ]
        return *trained, model.apply(variables, h, start=2)

    (_, updated), (outputs, kept), expected = apply(above, h)
    for new, updates in ((updated, True), (kept, False)):
        same = jax.tree.map(np.array_equal, new["batch_stats"], above["batch_stats"])
        assert all(jax.tree.leaves(same)) is not updates
    np.testing.assert_array_equal(outputs, expected)


def test_weights_of_a_file_take_the_place_of_donors(tmp_path):
    """And what they do not fit is named before anything is trained."""
    row, config = PRETRAINED["resnet20"], tiny()
    model, rng = row.build(), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.uniform(0.1, 0.2, x.shape).astype(np.float32), shapes(model, 32)
    )
    write_safetensors(tmp_path / "w.safetensors", to_source(variables, row.names(model)))
    config.model, config.weights, config.stages = "resnet20", str(tmp_path / "w.safetensors"), ()
    with pytest.raises(
        UserError, match=r"config\.model=resnet20 with config\.weights on images of 8"
    ):
        study = make_study(finetune.FineTuning, config)
        with user_input():
            study.build()
    config.data.options.channels = 3
    study = make_study(finetune.FineTuning, config)
    study.build()
    assert [kind for kind, members in study.plan.items() if members] == ["networks", "continued"]
    fresh = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), study.shapes)
    start = study.donors.transplanted(0, fresh)
    below, above = transfer.cut(start, 10, study.stages)
    jax.tree.map(np.testing.assert_array_equal, below, transfer.cut(variables, 10, study.stages)[0])
    assert [*above["params"]] == ["fc11"] and above["params"]["fc11"]["dense"]["kernel"].min() == 1


@pytest.mark.usefixtures("quick_figures")
def test_what_is_exported_in_the_names_of_the_source_comes_in_again(tmp_path, monkeypatch):
    """Bit for bit, with the stages that were frozen; though the donor had other classes."""

    def build(classes=7, **options):
        return ResNet((1,), 2, classes, **options)

    row = PRETRAINED["resnet20"]._replace(build=build, size=8)
    monkeypatch.setitem(PRETRAINED, "resnet20", row)
    rng, model, path = np.random.default_rng(0), build(), tmp_path / "exported.safetensors"
    variables = jax.tree.map(
        lambda x: rng.uniform(0.1, 0.2, x.shape).astype(np.float32), shapes(model, 8)
    )
    write_safetensors(tmp_path / "w.safetensors", to_source(variables, row.names(model)))
    config, run = tiny(), tmp_path / "run"
    config.model, config.weights, config.seeds = "resnet20", str(tmp_path / "w.safetensors"), 1
    config.data.options.channels, config.images, config.stages = 3, (10,), ()
    config.base.steps = 2
    for method in ("changed", "scratch"):
        del config.methods[method]
    config.baseline = "frozen"
    finetune.study(config, run, StopFlag())
    for method, n in (("frozen", 2), ("head_first", 0)):
        assert export.main([str(run), str(path), f"method={method}", "--names=source"])
        _, network = from_run(run, **name_of(method, images=10, frozen=n))
        _, again = load("resnet20", path, classes=10)
        jax.tree.map(np.testing.assert_array_equal, again, network.variables)
        below = (transfer.cut(arrays, 2, model.names())[0] for arrays in (again, variables))
        equal = jax.tree.map(np.array_equal, *below)
        assert all(jax.tree.leaves(equal)) is (n > 0)


def test_networks_that_no_source_has_names_for_are_not_exported_in_these(finished, tmp_path):
    path = tmp_path / "network.safetensors"
    words = [str(finished[0]), str(path), "method=scratch", "images=20", "seed=1"]
    with pytest.raises(
        ValueError, match=r"no source has names for its networks; --names=source is"
    ):
        export.main([*words, "--names=source"])
    assert not path.exists() and export.main(words)
    with pytest.raises(ValueError, match=r"usage: .*--names=source"):
        export.main([*words, "--names=flax"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": (10, 5000)}, r"config\.images=\(10, 5000\): there are 1078 training images"),
        ({"baseline": "none"}, r"config\.baseline: 'none' is not one of changed, f"),
        ({"every_stage": "none"}, r"config\.every_stage: 'none' is not one of '', changed, fro"),
        ({"methods.scratch.frozen": 1}, r"config\.methods\.scratch: frozen=1 stages that nothing"),
        (
            {"methods.head_first.start": "nobody"},
            r"config\.methods\.head_first\.start: 'nobody' is",
        ),
        (
            {"methods.changed.start": "head_first"},
            r"changed\.start=head_first, which itself starts",
        ),
        (
            {"source.name": ""},
            r"config\.weights is empty: name the file with weights of config\.mod",
        ),
        ({"weights": "w.npz"}, r"config\.model: 'tests.*small' is not one of resnet20"),
        ({"model": "lite"}, r"config\.model: there is no model 'lite'"),
        (
            {"source.options.seed": 1},
            r"config\.source\.options\.seed=1, config\.data\.options\.seed=0: digits and digits_m",
        ),
        ({"source.training.rate": 0.0}, r"config\.source\.training\.rate must be above 0"),
        (
            {"methods.frozen.frozen": 3},
            r"config\.methods\.frozen: frozen=3, but config\.model=.*small has 3 stages",
        ),
        (
            {"methods.head_first.start": "changed", "methods.head_first.frozen": 2},
            r"methods\.head_first: frozen=2, but only 1 stages of changed are still the donor's",
        ),
        (
            {"every_stage": "head_first", "methods.head_first.start": "changed", "stages": (1, 2)},
            r"methods\.head_first: frozen=2, but only 1 stages of changed are still the donor's",
        ),
        ({"methods.changed.changes": ("mixup",)}, r"'mixup' is not one of similarity, elastic"),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        finetune.study(config, tmp_path / "run", StopFlag())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_every_variant_can_be_had(variant):
    config = get_config(variant)
    check(config, {**finetune.SETTINGS.kinds, **COMMON})
    assert set(donors.check_methods(config)) == {*config.methods}


LAYOUT = Layout({"scratch": 0, "tuned": 0, "frozen": 4}, "scratch", "tuned", 5, 20)
VALUES = {
    ("scratch", 10, 0): (0.2, 0.3, 0.25),
    ("tuned", 10, 0): (0.5, 0.6, 0.56),
    ("frozen", 10, 4): (0.6, 0.7, 0.64),
    ("tuned", 10, 2): (0.5, 0.6, 0.55),
    ("scratch", 90, 0): (0.62, 0.72, 0.66),
    ("tuned", 90, 0): (0.7, 0.8, 0.75),
    ("frozen", 90, 4): (0.5, 0.6, 0.52),
    ("tuned", 90, 2): (0.6, 0.7, 0.64),
}
ROWS = [
    Result(*name, seed, x, x, 1.0, 0.5) for name, xs in VALUES.items() for seed, x in enumerate(xs)
]


def test_findings_are_paired_and_say_what_a_donor_is_worth():
    sentences = findings(ROWS, LAYOUT)
    (worth,) = (s for s in sentences if s.startswith("**frozen** has 64.7 % with 10"))
    assert "scratch, by the means of this run, needs 90 for that" in worth
    (frozen,) = (s for s in sentences if s.startswith("**frozen** against scratch"))
    assert "above with 10 (+39.7 ± 0.3); below with 90 (−12.7 ± 0.7)." in frozen
    few, many = (s for s in sentences if "with the first n of 5 stages frozen" in s)
    assert "10 images" in few and "not shown to differ n = 2 (−0.3 ± 0.3)" in few
    assert "90 images" in many and "below n = 2 (−10.3 ± 0.3)" in many
    assert sentences[-1].startswith("These are 8 comparisons")
    assert reporting.best(ROWS, LAYOUT) == ("tuned", 90, 0, 0)
    low, high = wilson_interval(0.75, 20)
    assert sentences[0].startswith("**tuned** with 90 images, the best by validation, has a mean")
    assert "75.0 % on 20 images" in sentences[0]
    assert f"images is {100 * low:.1f} to {100 * high:.1f} %" in sentences[0]


def test_legends_have_the_order_of_the_lines(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(figures, "save", lambda x, path, **_: drawn.update({path.name: x}))
    figures.draw(ROWS, LAYOUT, tmp_path)
    legends = {k: [text.get_text() for text in v.legends[0].get_texts()] for k, v in drawn.items()}
    assert legends == {
        "images.png": ["tuned", "scratch", "frozen"],
        "stages.png": ["90 images", "10 images", "scratch"],
    }


def test_diverged_networks_are_in_no_mean_and_named():
    rows = [*ROWS, Result("tuned", 90, 0, 3, *[float("nan")] * 4)]
    text = reporting.report(rows, LAYOUT, {})
    assert "- tuned 90 0 3" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| 90     | tuned"))
    assert "75.0 ± 2.9" in line and "3 of 4" in line


@pytest.mark.usefixtures("quick_figures")
def test_what_goes_on_from_a_diverged_network_has_diverged(tmp_path):
    """Even where its own training is finite, and through another method; others are judged."""
    config = tiny()
    config.every_stage, config.stages = "", ()
    config.source.training.rate = 1e30  # a number: the programs are those of the finished run
    del config.methods["changed"]
    finetune.study(config, tmp_path / "run", StopFlag())
    accuracies = read_names_and_accuracies(tmp_path / "run" / "results.csv")
    assert {name[0] for name, x in accuracies.items() if np.isnan(x)} == {
        *(DONOR, "frozen", "head_first")
    }
    assert {name[0] for name, x in accuracies.items() if x >= 0} == {"scratch"}


def test_a_report_is_written_where_all_networks_on_most_images_diverged():
    """But no page of predictions, for which there is no network."""
    lost = (float("nan"),) * 4
    rows = [row if row.images < 90 else Result(*row[:4], *lost) for row in ROWS]
    assert reporting.best(rows, LAYOUT) is None
    text = reporting.report(rows, LAYOUT, {})
    assert "**frozen** has 64.7 % with 10 images" in text and "- tuned 90 0 2" in text
