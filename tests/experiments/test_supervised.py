"""The supervised study on scikit-learn's digits, in tiny and in this process."""

import csv
import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs.supervised import VARIANTS, get_config
from experiments import supervised
from experiments.harness import recipe
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.study import COMMON, make_study
from jaxdl.data import sources
from jaxdl.nn.models import MODELS
from jaxdl.report import idle
from jaxdl.report import supervised as reporting
from jaxdl.report.predictions import Prediction
from jaxdl.report.supervised import Result, findings, read_results, report, table
from jaxdl.train.checkpoint import load_network
from jaxdl.train.groups import make_groups
from jaxdl.train.interruption import StopFlag

pytestmark = pytest.mark.usefixtures("two_devices")


def tiny():
    """Four methods in two populations: two programs, and two rates or shares of each."""
    config = get_config()
    config.seeds, config.base.steps, config.base.batch = 2, 4, 8
    config.steps_per_dispatch, config.seconds_between_saves = 2, 1e9
    config.base.model, config.base.hidden, config.baseline = "mlp", (16,), "momentum"
    section = type(config)
    config.methods = section(
        {
            "momentum": section({}),
            "slow": section({"sweep": "rate", "values": (1e-3, 1e-4)}),
            "adam": section({"optimizer": "adam", "rate": 1e-3}),
            "spoilt": section({"optimizer": "adam", "share": 0.5, "wrong_labels": 0.25}),
        }
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    return folder, supervised.study(tiny(), folder, StopFlag())


@pytest.fixture(scope="module")
def built():
    study = make_study(supervised.Supervised, tiny())
    study.build()
    return study


def test_a_run_has_a_row_for_each_network_and_is_reprinted(finished):
    folder, text = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "run.json", "results.csv", "metrics.jsonl", "checkpoints"),
        *("report.md", "report.html"),
        *("samples.png", "curves.png", "scores.png", "sweep.png", "confusion.png"),
    }
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = [("adam", ""), ("momentum", ""), ("slow", "0.0001"), ("slow", "0.001"), ("spoilt", "")]
    expected = [(*point, str(seed)) for point in points for seed in range(2)]
    assert [(r["method"], r["value"], r["seed"]) for r in rows] == expected
    tested = json.loads((folder / "config.json").read_text())["data"]["sizes"]["test"]
    for row in rows:  # a whole number of the test images
        assert float(row["score"]) * tested == pytest.approx(
            round(float(row["score"]) * tested), abs=1e-3
        )
    for part in ("**adam**", "minus momentum", "accuracy on the test split", "sweep rate"):
        assert part in text
    assert supervised.study(tiny(), folder, StopFlag()) == text


def test_methods_that_differ_in_numbers_are_one_population(built):
    groups = make_groups("networks", built.members, 24, even=True)
    names = [{network.method for network in group.networks} for group in groups]
    assert names == [{"adam", "spoilt"}, {"momentum", "slow"}]
    assert [group.size for group in groups] == [4, 6]


def test_a_seed_draws_the_same_for_all_methods(built):
    true = np.concatenate([arrays["label"] for arrays in built.source.splits.values()])
    training = built.ids["images", "train"]
    for seed in range(2):
        plain, spoilt = (built.hyper((name, ""), seed) for name in ("adam", "spoilt"))
        assert (plain["labels"] == true).all() and plain["count"] == len(training)
        changed = np.flatnonzero(spoilt["labels"] != true)
        assert len(changed) == round(len(training) / 4) and np.isin(changed, training).all()
        assert spoilt["count"] == round(len(training) / 2)
        half = spoilt["examples"][: spoilt["count"]]
        np.testing.assert_array_equal(half, plain["examples"][: len(half)])
        assert sorted(plain["examples"]) == sorted(training)
        other = built.hyper(("spoilt", ""), 1 - seed)
        assert (other["labels"] != spoilt["labels"]).any()
    first = [built.members[i].start().params for i in (0, 1)]  # of the same seed
    jax.tree.map(np.testing.assert_array_equal, *first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "none"}, r"config\.baseline: 'none' is not one of adam"),
        ({"base.model": "resnet"}, r"config\.base\.model: there is no model 'resnet'"),
        ({"base.optimizer": "newton"}, r"config\.base\.optimizer: 'newton' is not one of sgd"),
        (
            {"methods.slow.values": ()},
            r"config\.methods\.slow\.values=\(\): give a tuple of values of rate",
        ),
        ({"methods.slow.values": (0.1, -1.0)}, r"config\.methods\.slow\.rate must be above 0"),
        ({"methods.slow.sweep": "speed"}, r"config\.methods\.slow\.sweep: 'speed' is not one of"),
        ({"base.share": 5000.0}, r"share=5000\.0: there are 1078 training examples"),
        (
            {"base.model": "linear"},
            r"^config\.base\.hidden=\(16,\) is not used: config\.base\.model=linear has no such "
            r"argument; set it to \(\)$",
        ),
        ({"base.warmup": 4}, r"method adam: a warm-up of 4 steps"),
        ({"base.steps": 5}, r"config\.base\.steps=5 is not a multiple of config\.steps_per"),
        ({"base.share": 0.0}, r"config\.base\.share must be above 0 and finite, got 0\.0"),
        ({"base.wrong_labels": 1.5}, r"config\.base\.wrong_labels must be at least 0 and at most"),
        ({"base.crop": 9}, r"method adam: crop=9 does not fit images of 8 x 8"),
        (
            {"methods.slow.flip": "no"},
            r"config\.methods\.slow\.flip must be True or False",
        ),
        ({"base.rate": -0.1}, r"config\.base\.rate must be above 0 and finite, got -0\.1"),
        ({"methods.slow.rate": -1.0}, r"config\.methods\.slow\.rate must be above 0"),
        (
            {"data.name": "npz", "data.options": ConfigDict({"path": "missing.npz"})},
            r"^config\.data\.options\.path: No such file or directory: missing\.npz$",
        ),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        supervised.study(config, tmp_path / "run", StopFlag())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_every_variant_can_be_had(variant):
    config = get_config(variant)
    check(config, {**supervised.SETTINGS.kinds, **COMMON})
    trials = supervised.declared.sweeps(config, recipe.KINDS)
    assert config.baseline in {name for name, _ in trials}
    # Whatever is not here would not divide methods into programs, nor be checked.
    assert {*config.base} == {*recipe.KINDS, "model", "teacher", "sweep", "values"}
    if config.data.name != "tfds":
        make_study(supervised.Supervised, config)


def rows_of(values, value=""):
    """A row a network: the same scores everywhere."""
    return [
        Result(method, value, seed, *[score] * 3, 0.0)
        for method, scores in values.items()
        for seed, score in enumerate(scores)
    ]


ROWS = rows_of({"a": (0.5, 0.52, 0.54), "b": (0.7, 0.76, 0.73), "c": (0.5, 0.6)})


def test_findings_are_paired_t_tests():
    (first, second, last) = findings(ROWS, "a", "accuracy")
    gain = np.subtract((0.7, 0.76, 0.73), (0.5, 0.52, 0.54))
    low, high = 100 * np.array(stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain)))
    assert first.startswith("This run shows that **b** is above a, by accuracy")
    assert f"(95% interval +{low:.1f} to +{high:.1f}, 3 seeds)" in first
    assert second.startswith("This run does not show that **c** is above a")
    assert last.startswith("These are 2 comparisons")


def test_diverged_networks_are_in_no_mean_and_named():
    rows = [*ROWS, *rows_of({"c": (0, 0, float("nan"))})[2:]]
    line = next(
        line for line in table(rows, "a", "accuracy").splitlines() if line.startswith("| c ")
    )
    assert "55.0 ± 5.0" in line and "2 of 3" in line
    assert "- c, seed 2" in report(rows, "a", {})


SWEPT = [
    *rows_of({"a": (0.50, 0.52, 0.54)}),
    *rows_of({"b": (0.10, 0.12, 0.11)}, "0.001"),
    *rows_of({"b": (0.60, 0.63, 0.61)}, "0.1"),
    *rows_of({"b": (0.61, 0.62, 0.64)}, "1"),
    *rows_of({"b": (0.90, math.nan, 0.90)}, "10"),
]


def test_a_method_stands_at_its_best_value_by_validation():
    """Not at the one with the best test scores, nor where a network has diverged."""
    assert reporting.best_values(SWEPT) == {"a": "", "b": "1"}
    on_test = [row._replace(score=0.99) if row.value == "0.1" else row for row in SWEPT]
    assert reporting.best_values(on_test)["b"] == "1"
    (line,) = [x for x in table(SWEPT, "a", "accuracy").splitlines() if x.startswith("| b ")]
    assert "| 1 " in line and "62.3 ± 0.9" in line
    edges = reporting.edges(SWEPT, "b", "rate")
    assert "4 values of `rate` by validation is 1; from 0.1 to 1 none" in edges
    assert edges.endswith("networks diverged at 10.")


@pytest.mark.parametrize(("values", "end"), [(("0.1", "1"), "greatest"), (("1", "3"), "smallest")])
def test_a_best_value_at_the_end_of_a_sweep_is_said_to_be_there(values, end):
    rows = [row for v in values for row in rows_of({"b": (0.6 + 0.1 * (v == "1"),) * 2}, v)]
    words = f" 1 is the {end} of those that were tried, so that a better one may lie beyond."
    assert reporting.edges(rows, "b", "rate").endswith(words)
    inside = [*rows, *rows_of({"b": (0.5, 0.5)}, "9"), *rows_of({"b": (0.5, 0.5)}, "0")]
    assert "beyond" not in reporting.edges(inside, "b", "rate")
    none = [row._replace(value="0") if row.value == "1" else row for row in rows]
    assert "beyond" not in reporting.edges(none, "b", "decay")  # nothing is less than 0
    words = [row._replace(value={"1": "all", "3": "none"}.get(row.value, "some")) for row in rows]
    assert "beyond" not in reporting.edges(words, "b", "examples")
    assert "beyond" not in reporting.edges(rows_of({"b": (0.6, 0.6)}, "1"), "b", "rate")


THREE = np.arange(12) % 3
CONSTANT = np.tile([0.0, 1.0, 0.5], (12, 1))


@pytest.mark.parametrize(
    ("outputs", "answers", "expected"),
    [
        (CONSTANT, THREE, True),
        (CONSTANT, np.minimum(THREE, 1), True),  # right for two of three
        (np.eye(3)[(THREE + 1) % 3], THREE, True),
        (np.eye(3)[np.where(np.arange(12) < 1, 0, 1)], THREE, False),  # one right beside
        (np.eye(3)[np.where(np.arange(12) < 6, 0, 1)], np.arange(12) // 11, False),  # the rare one
        (CONSTANT, np.ones(12, int), False),  # of one class
        (np.full((12, 3), np.nan), THREE, False),  # diverged
        (np.full((12, 1), 1.0), np.arange(12.0), True),
        (np.arange(12.0)[:, None], np.arange(12.0), False),
    ],
)
def test_a_network_is_idle_that_is_no_better_than_one_answer(outputs, answers, expected):
    assert idle.is_idle(Prediction(outputs, answers)) is expected


def test_networks_that_learnt_nothing_are_named_in_the_report(built, monkeypatch):
    parts = {True: {"train": Prediction(CONSTANT, THREE)}}
    parts[False] = {"train": Prediction(np.eye(3)[THREE], THREE)}
    names = [("sgd", "", 2), ("sgd", "", 0), ("adam", "0.1", 1), ("momentum", "", 0)]
    networks = {supervised.Network(*n): parts[n[0] != "momentum"] for n in names}
    (sentence,) = idle.describe(networks)
    assert sentence.startswith(
        "Networks that learnt nothing: **sgd**, seeds 0, 2; **adam 0.1**, seed 1. In training"
    )
    assert idle.describe({n: parts[False] for n in networks}) == []
    for name, value in (
        ("networks", networks),
        ("results", rows_of({"momentum": (0.5, 0.6), "sgd": (0.3, 0.4)})),
        ("sections", lambda: ()),
        ("describe_copies", dict),
        ("sweeps", {}),
    ):
        monkeypatch.setattr(built, name, value, raising=False)
    assert f"## Findings\n\n- {sentence}\n- It cannot" in built.report(None, {})


def test_conditions_are_compared_at_the_same_value():
    rows = [*rows_of({"a": (0.5, 0.6, 0.7), "b": (0.6, 0.8, 0.8)}, "0.5")]
    rows += rows_of({"a": (0.9, 0.9, 0.9), "b": (0.8, 0.9, 0.9)}, "0")
    gains = reporting.gains(rows, "a", choose=False)
    assert {point: {s: round(x, 6) for s, x in g.items()} for point, g in gains.items()} == {
        ("b", "0.5"): {0: 0.1, 1: 0.2, 2: 0.1},
        ("b", "0"): {0: -0.1, 1: 0.0, 2: 0.0},
    }
    text = table(rows, "a", "accuracy", choose=False).splitlines()
    assert [line.split("|")[1:3] for line in text[2:]] == [
        [" a      ", " 0     "],
        [" b      ", " 0     "],
        [" a      ", " 0.5   "],
        [" b      ", " 0.5   "],
    ]


def test_results_round_trip(finished):
    rows = read_results(finished[0] / "results.csv")
    assert len(rows) == 10 and all(0 <= row.score <= 1 for row in rows)


def test_folds_leave_each_example_out_once(built):
    settings = built.trials["adam", ""].settings | {"examples": "folds", "folds": 3}
    data = built.data._replace(draw=3)
    for first in (0, 3):
        pairs = [data.sample(settings, first + i) for i in range(3)]
        held_out = np.concatenate([validation for _, validation in pairs])
        assert sorted(held_out) == sorted(data.train)
        for training, validation in pairs:
            assert sorted([*training, *validation]) == sorted(data.train)
    balanced = settings | {"balance": "over", "share": 300}
    training, _ = data.sample(balanced, 0)
    assert len(set(np.bincount(data.labels[training]))) == 1


def test_wrong_labels_may_be_those_of_the_class_that_follows(built):
    settings, data = built.trials["spoilt", ""].settings | {"wrong_to": "next"}, built.data
    given = data.noisy_labels(settings, 0)
    wrong = np.flatnonzero(given != data.labels)
    assert len(wrong) == round(len(data.train) / 4)
    np.testing.assert_array_equal(given[wrong], (data.labels[wrong] + 1) % 10)


def test_the_seeds_of_a_bag_share_examples_and_mistakes_and_draw_their_own_samples(built):
    settings = built.trials["spoilt", ""].settings
    data = built.data._replace(draw=2)
    same, other, apart = (data.sample(settings, seed)[0] for seed in (0, 1, 2))
    np.testing.assert_array_equal(same, other)
    assert {*same} != {*apart}
    mistakes = [data.noisy_labels(settings, seed) for seed in (0, 1)]
    np.testing.assert_array_equal(*mistakes)
    drawn = settings | {"examples": "bootstrap"}
    first, second = (data.sample(drawn, seed)[0] for seed in (0, 1))
    assert {*first} != {*second} and {*first} <= {*same}


def test_seeds_that_share_their_examples_count_as_one_draw():
    rows = rows_of({"a": (0.5, 0.7, 0.2, math.nan)})
    assert [row.score for row in reporting.pool(rows, 2)] == pytest.approx([0.6, 0.2])
    assert [row.seed for row in reporting.pool(rows, 2)] == [0, 1]
    assert reporting.pool(ROWS, 1) == ROWS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base.momentum": 0.5}, r"adam takes b1, b2, eps, from 0, or -1 for its own"),
        ({"base.eps": -0.5}, r"config\.base\.eps=-0\.5: "),
        ({"base.features": "pca", "base.share": 0.5}, r"features=pca is fitted to all training ex"),
        ({"base.features": "raw", "base.flip": True}, r"flip=True is not used: features have none"),
        ({"base.loss": "squared_error", "base.smoothing": 0.1}, r"squared errors have no smoothi"),
        ({"base.share": 3.5}, r"share=3\.5 is no number of examples"),
        ({"base.values": (1, 2)}, r"config\.base\.values=\(1, 2\): of which sweep"),
        ({"bag": 3}, r"config\.bag=3 networks need as many seeds, not config\.seeds=2"),
        ({"bag": 2, "base.examples": "folds"}, r"config\.bag=2: seeds divide the folds"),
        ({"data.name": "diabetes"}, r"wrong_labels=0\.25 is not used: the answers are numbers"),
        ({"data.name": "iris", "base.crop": 3}, r"crop=3 is not used: it is for images"),
    ],
)
def test_settings_that_would_not_be_read_are_refused(change, words, tmp_path):
    config = tiny()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        supervised.study(config, tmp_path / "run", StopFlag())


def test_a_table_of_numbers_and_a_plane_of_classes(tmp_path):
    """R² and least squares; fits; regions, precision and recall: what suits the data is drawn."""
    config = tiny()
    config.data.name, config.report_on, config.base.batch = "diabetes", "validation", 16
    linear = {"model": "linear", "hidden": ()}
    config.methods = type(config)({"momentum": type(config)(linear)})
    text = supervised.study(config, tmp_path / "numbers", StopFlag())
    assert "R², %" in text and "of least squares" in text and "LinearRegression" in text
    config.data.name = "interlaced"
    supervised.study(config, tmp_path / "plane", StopFlag())
    figures = {path.name for path in (tmp_path / "plane").glob("*.png")}
    assert figures == {"curves.png", "scores.png", "predictions.png"}
    config.data.name, config.data.options.train = "imbalanced", 1000
    assert "Precision and recall" in supervised.study(config, tmp_path / "rare", StopFlag())
    assert (tmp_path / "rare" / "operating.png").exists()


@pytest.mark.usefixtures("quick_figures")
def test_views_are_an_image_and_its_mirror_image(tmp_path):
    config = tiny()
    section = type(config)
    mirrored = section({"views": "mirrored"})
    config.methods, config.seeds = section({"momentum": section({}), "both": mirrored}), 1
    supervised.study(config, tmp_path, StopFlag())
    variables = load_network(tmp_path, method="both", seed=0)
    alone = load_network(tmp_path, method="momentum", seed=0)  # trained alike
    jax.tree.map(np.testing.assert_array_equal, variables, alone)
    splits = sources.load("digits").splits
    mean, deviation = splits["train"]["image"].mean(), splits["train"]["image"].std()
    images, label = (splits["validation"][name] for name in ("image", "label"))
    x = np.float32((images - mean) / deviation)
    model = MODELS["mlp"](10, hidden=(16,))
    views = [model.apply(variables, view) for view in (x, x[:, :, ::-1])]
    expected = {
        name: float(np.mean(np.argmax(logits, -1) == label))
        for name, logits in (("momentum", views[0]), ("both", (views[0] + views[1]) / 2))
    }
    assert expected["momentum"] != expected["both"]
    rows = read_results(tmp_path / "results.csv")
    assert {row.method: row.validation for row in rows} == pytest.approx(expected)


@pytest.mark.usefixtures("quick_figures")
def test_a_student_learns_from_its_teacher_and_every_number_can_be_had(tmp_path):
    """All labels of the student are wrong: what it knows it has from the teacher's logits."""
    config = tiny()
    config.seeds, config.base.steps, config.steps_per_dispatch = 1, 100, 50
    config.base.batch, config.base.optimizer, config.base.rate = 32, "adam", 1e-2
    section = type(config)
    wrong = {"wrong_labels": 1.0, "teacher": "good", "soft": 1.0, "temperature": 2.0}
    odd = {"l1": 1e-4, "dropout": 0.1, "noise": 0.1, "smoothing": 0.1, "stop": 0.9, "b1": 0.8}
    odd |= {"max_norm": 3.0, "max_abs": 2.0, "clip_norm": 5.0, "average": 0.9, "balance": "weights"}
    odd |= {"changes": ("similarity", "mixup"), "normalization": "batch", "activation": "tanh"}
    config.methods = section({"good": section({}), "a_student": section(wrong)})
    config.methods["odd"] = section(odd)
    config.methods["lost"] = section({"rate": 1e30})
    config.methods["its_student"] = section({**wrong, "teacher": "lost"})
    config.baseline = "good"
    supervised.study(config, tmp_path / "run", StopFlag())
    scores = {row.method: row.score for row in read_results(tmp_path / "run" / "results.csv")}
    assert scores["good"] > 0.85 and scores["a_student"] > 0.75 and scores["odd"] > 0.6, scores
    assert np.isnan([scores["lost"], scores["its_student"]]).all(), scores
    config.methods.a_student.teacher = "odd one"
    with pytest.raises(UserError, match=r"a_student\.teacher='odd one' is no method"):
        supervised.study(config, tmp_path / "other", StopFlag())
