"""The fine-tuning study in tiny and in this process: digits on photographs, and donors of digits."""

import csv
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs.finetune import VARIANTS, get_config
from experiments import finetune, predict
from experiments.finetune import Network
from experiments.harness import classification
from experiments.harness.run import UserError, user_input
from experiments.harness.settings import check
from experiments.harness.study import COMMON, make_study
from experiments.networks import from_run
from jaxdl import transfer
from jaxdl.data import sources
from jaxdl.nn.models.pretrained import PRETRAINED, shapes
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.report import finetune as reporting
from jaxdl.report.finetune import DONOR, Layout, Result, findings, read_results
from jaxdl.train.checkpoint import load_network
from jaxdl.train.features import FeatureFeeds, make_features
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.parallel import make_mesh

STAGES = 5


def tiny():
    """Methods of every kind, on two numbers of images."""
    config = get_config()
    config.seeds, config.images, config.stages, config.stages_at = 2, (10, 20), (2,), 20
    config.model, config.seconds_between_saves = "digit_net", 0.0
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
        "fine_tuned": {},
        "head_first": {"start": "frozen"},
        "changed": {"frozen": 2, "changes": ("noise",)},
    }.items():
        config.methods[name] = section(settings)
    return config


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Two of the devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "make_mesh", lambda *n: make_mesh(*n, jax.devices()[:2]))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    return folder, finetune.study(tiny(), folder, StopFlag())


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
    rows = read_results(folder / "results.csv")
    stages = {
        "scratch": (0,),
        "frozen": (4,),
        "fine_tuned": (0,),
        "head_first": (0,),
        "changed": (2,),
    }
    expected = {(DONOR, 0, 0, seed) for seed in range(2)} | {
        (method, images, n, seed)
        for method, own in stages.items()
        for images in (10, 20)
        for n in (*own, *((2,) if (method, images) == ("fine_tuned", 20) else ()))
        for seed in range(2)
    }
    assert {row[:4] for row in rows} == expected and len(rows) == len(expected)
    for part in ("minus scratch", "**frozen** against scratch", "first n of 5 stages", "Speed of"):
        assert part in text
    assert finetune.study(tiny(), folder, StopFlag()) == text


def test_a_run_that_is_stopped_ends_bit_for_bit_as_one_that_is_not(finished, tmp_path):
    """Stopped among the donors, and, by a copy without its report, before the end."""
    stop = StopFlag()
    folder, run = finished[0], tmp_path / "run"
    stop.received = 15
    with pytest.raises(Interrupted):
        finetune.study(tiny(), run, stop)
    finetune.study(tiny(), run, StopFlag())
    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / "report.md").unlink()
    shutil.rmtree(cut / "checkpoints" / "continued-0")
    finetune.study(tiny(), cut, StopFlag())
    for other in (run, cut):
        assert (other / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()


def test_frozen_stages_are_the_donors_bit_for_bit(finished):
    """What is trained has no others, and what predicts has the donor's."""
    folder, _ = finished
    donor = load_network(folder, **name_of(DONOR, images=0, seed=1))
    for method, n in (("frozen", 4), ("changed", 2), ("fine_tuned", 2)):
        trained = load_network(folder, **name_of(method, frozen=n, seed=1))
        assert len(trained["params"]) == STAGES - n
        _, network = from_run(folder, **name_of(method, frozen=n, seed=1))
        jax.tree.map(
            np.testing.assert_array_equal,
            transfer.cut(network.variables, n)[0],
            transfer.cut(donor, n)[0],
        )
    moved = load_network(folder, **name_of("fine_tuned"))
    donor = load_network(folder, **name_of(DONOR, images=0))
    assert (moved["params"]["conv1"]["kernel"] != donor["params"]["conv1"]["kernel"]).any()


@pytest.mark.parametrize(
    "network",
    [("frozen", 10, 4, 1), ("changed", 20, 2, 0), ("head_first", 20, 0, 1), (DONOR, 0, 0, 1)],
)
def test_a_network_of_the_run_has_the_accuracy_that_the_run_says(finished, network):
    folder, _ = finished
    (row,) = (row for row in read_results(folder / "results.csv") if row[:4] == network)
    _, classifier = from_run(folder, **Network(*network)._asdict())
    maker, channels = (sources.digits, 1) if network[0] == DONOR else (sources.digits_m, 1)
    test = maker(0, size=8, channels=channels).test.open()
    logits = classifier.model.apply(classifier.variables, classifier.see(test["image"]))
    assert np.mean(np.argmax(logits, -1) == test["label"]) == pytest.approx(row.accuracy, abs=1e-6)


def test_a_folder_of_images_by_the_best_network(finished, tmp_path):
    split = sources.digits_m(0, size=8, channels=1).splits["validation"]
    for i in range(5):
        Image.fromarray(split["image"][i, ..., 0]).save(tmp_path / f"{i}.png")
    text = predict.main(
        [
            "--run",
            str(finished[0]),
            "seed=1",
            "--images",
            str(tmp_path),
            "--out",
            str(tmp_path / "o"),
        ]
    )
    assert "seed=1" in text and DONOR not in text
    with (tmp_path / "o" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    words = text.splitlines()[0].split(", ")[1].split()
    name = {k: int(v) if v.isdigit() else v for k, v in (word.split("=") for word in words)}
    _, network = from_run(finished[0], **name)
    logits = network.model.apply(network.variables, network.see(split["image"][:5]))
    assert [row["predicted"] for row in rows] == [str(i) for i in np.argmax(logits, -1)]


def test_features_are_those_of_the_network_that_is_not_cut():
    """Of several networks, on two devices, in batches that do not divide the images."""
    model = PRETRAINED["resnet20"].build(classes=3)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    both = [model.init(jax.random.key(seed), images[:1] / 255.0) for seed in range(2)]
    mesh = make_mesh(2, 1, jax.devices()[:2])
    features = make_features(lambda v, x: model.apply(v, x / 255.0, stop=10), mesh, 3)
    feeds = FeatureFeeds(
        lambda n: lambda v, x: model.apply(v, x / 255.0, stop=n),
        lambda n: [transfer.cut(v, n, model.names())[0] for v in both],
        mesh,
        4,
    )
    labels = np.arange(7, dtype=np.int32)
    feed = feeds.feed(10, "train", {"train": {"image": images, "label": labels}})
    assert feeds.feed(10, "train", {}) is feed and not feeds.rates
    for i, variables in enumerate(both):
        above = transfer.Above(model, 10)
        expected = model.apply(variables, images / 255.0)
        stored = np.asarray(feed.data["features"][7 * i : 7 * i + 7])
        for h in (features(variables, images), stored):
            ours = above.apply(transfer.cut(variables, 10, model.names())[1], h)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(feed.data["label"], [*labels, *labels])
    assert feeds.rates[10] > 0


def test_statistics_stay_as_they_are_where_they_are_not_updated():
    model = PRETRAINED["resnet20"].build(classes=3)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    _, above = transfer.cut(variables, 9, model.names())
    h = np.random.default_rng(0).normal(size=(4, 2, 2, 64)).astype(np.float32)
    outputs = {}
    for updates in (True, False):
        network = transfer.Above(model, 9, updates=updates).clone(dtype=np.float32)
        outputs[updates], new = network.apply(above, h, train=True, mutable=["batch_stats"])
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()), new["batch_stats"], above["batch_stats"]
        )
        assert all(jax.tree.leaves(same)) is not updates
    np.testing.assert_array_equal(outputs[False], model.apply(above, h, start=9))


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
    frozen = next(m for m in study.members if m.networks[0].method == "frozen")
    start = frozen.start()
    assert [*start.params] == ["fc11"] and start.params["fc11"]["dense"]["kernel"].shape == (64, 10)
    tuned = next(m for m in study.members if m.networks[0].method == "fine_tuned").start()
    np.testing.assert_array_equal(
        tuned.params["conv1"]["conv"]["kernel"], variables["params"]["conv1"]["conv"]["kernel"]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": (10, 5000)}, r"config\.images=\(10, 5000\): there are 1078 training images"),
        ({"baseline": "frozen"}, r"config\.baseline=frozen does not start fresh"),
        ({"every_stage": "none"}, r"config\.every_stage: 'none' is not one of '', changed, fine"),
        (
            {"stages": (5,)},
            r"config\.stages: config\.model=digit_net has 5 stages, not 5 to freeze|has 5",
        ),
        ({"stages_at": 30}, r"config\.stages_at=30 is not one of config\.images"),
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
        ({"weights": "w.npz"}, r"config\.model: 'digit_net' is not one of resnet20"),
        ({"model": "lite"}, r"config\.model: there is no model 'lite'"),
        ({"source.training.rate": 0.0}, r"config\.source\.training\.rate must be above 0"),
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
    assert set(finetune.check_methods(config)) == {*config.methods}


LAYOUT = Layout({"scratch": 0, "tuned": 0, "frozen": 4}, "scratch", "tuned", 10, 5)
VALUES = {
    ("scratch", 10, 0): (0.2, 0.3, 0.25),
    ("tuned", 10, 0): (0.5, 0.6, 0.56),
    ("frozen", 10, 4): (0.6, 0.7, 0.64),
    ("tuned", 10, 2): (0.5, 0.6, 0.55),
    ("scratch", 90, 0): (0.62, 0.72, 0.66),
    ("tuned", 90, 0): (0.7, 0.8, 0.75),
    ("frozen", 90, 4): (0.5, 0.6, 0.52),
}
ROWS = [
    Result(*name, seed, x, x, 1.0, 0.5) for name, xs in VALUES.items() for seed, x in enumerate(xs)
]


def test_findings_are_paired_and_say_what_a_donor_is_worth():
    sentences = findings(ROWS, LAYOUT)
    (worth,) = (s for s in sentences if s.startswith("**frozen** has 64.7 % with 10"))
    assert "need 90 for that" in worth
    (frozen,) = (s for s in sentences if s.startswith("**frozen** against scratch"))
    assert "above with 10 (+39.7 ± 0.3); below with 90 (−12.7 ± 0.7)." in frozen
    (stages,) = (s for s in sentences if "with the first n of 5 stages frozen" in s)
    assert "not shown to differ n = 2 (−0.3 ± 0.3)" in stages
    assert sentences[-1].startswith("These are 7 comparisons")
    assert reporting.best(ROWS, LAYOUT) == ("tuned", 90, 0, 0)


def test_diverged_networks_are_in_no_mean_and_named():
    rows = [*ROWS, Result("tuned", 90, 0, 3, *[float("nan")] * 4)]
    text = reporting.report(rows, LAYOUT, {})
    assert "- tuned 90 0 3" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| 90     | tuned"))
    assert "75.0 ± 2.9" in line and "3 of 4" in line
