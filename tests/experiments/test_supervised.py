"""The supervised study on scikit-learn's digits, in tiny and in this process."""

import csv
import json

import jax
import numpy as np
import pytest
from scipy import stats

from configs.supervised import VARIANTS, get_config
from experiments import supervised
from experiments.harness import classification
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.study import COMMON, make_study
from jaxdl.report.supervised import Result, findings, read_results, report, table
from jaxdl.train.groups import make_groups
from jaxdl.train.interruption import StopFlag
from jaxdl.train.parallel import make_mesh


def tiny():
    """Four methods in two populations: two programs, and two rates or shares of each."""
    config = get_config()
    config.seeds, config.base.steps, config.base.batch = 2, 4, 8
    config.steps_per_dispatch, config.seconds_between_saves = 2, 1e9
    config.base.model, config.baseline = "mlp", "momentum"
    section = type(config)
    config.methods = section(
        {
            "momentum": section({}),
            "slow": section({"rate": 1e-3}),
            "adam": section({"optimizer": "adam", "rate": 1e-3}),
            "spoilt": section({"optimizer": "adam", "share": 0.5, "wrong_labels": 0.25}),
        }
    )
    return config


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Two of the devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "make_mesh", lambda *n: make_mesh(*n, jax.devices()[:2]))
        yield


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
        *("samples.png", "curves.png"),
    }
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(m, str(s)) for m in ("adam", "momentum", "slow", "spoilt") for s in range(2)]
    assert [(r["method"], r["seed"]) for r in rows] == expected
    tested = json.loads((folder / "config.json").read_text())["data"]["sizes"]["test"]
    for row in rows:  # a whole number of the test images
        assert float(row["accuracy"]) * tested == pytest.approx(
            round(float(row["accuracy"]) * tested), abs=1e-3
        )
    for part in ("**adam**", "minus momentum", "accuracy on the test split", "rate 0.001"):
        assert part in text
    assert supervised.study(tiny(), folder, StopFlag()) == text


def test_methods_that_differ_in_numbers_are_one_population(built):
    groups = make_groups("networks", built.members, 24, even=True)
    names = [{network.method for network in group.networks} for group in groups]
    assert names == [{"adam", "spoilt"}, {"momentum", "slow"}]
    assert [group.size for group in groups] == [4, 4]


def test_a_seed_draws_the_same_for_all_methods(built):
    true = np.concatenate([arrays["label"] for arrays in built.source.splits.values()])
    training = built.ids["images", "train"]
    for seed in range(2):
        plain, spoilt = (built.hyper(name, seed) for name in ("adam", "spoilt"))
        assert (plain["labels"] == true).all() and plain["count"] == len(training)
        changed = np.flatnonzero(spoilt["labels"] != true)
        assert len(changed) == round(len(training) / 4) and np.isin(changed, training).all()
        assert spoilt["count"] == round(len(training) / 2)
        half = spoilt["examples"][: spoilt["count"]]
        np.testing.assert_array_equal(half, plain["examples"][: len(half)])
        assert sorted(plain["examples"]) == sorted(training)
        other = built.hyper("spoilt", 1 - seed)
        assert (other["labels"] != spoilt["labels"]).any()
    first = [built.members[i].start().params for i in (0, 1)]  # of the same seed
    jax.tree.map(np.testing.assert_array_equal, *first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "none"}, r"config\.baseline: 'none' is not one of adam"),
        ({"base.model": "resnet"}, r"config\.base\.model: there is no model 'resnet'"),
        ({"base.optimizer": "newton"}, r"method momentum: unknown optimizer 'newton'"),
        ({"base.warmup": 4}, r"method adam: a warm-up of 4 steps"),
        ({"base.steps": 5}, r"config\.base\.steps=5 is not a multiple of config\.steps_per"),
        ({"base.share": 0.0}, r"config\.base\.share must be above 0 and at most 1, got 0\.0"),
        ({"base.wrong_labels": 1.5}, r"config\.base\.wrong_labels must be at least 0 and at most"),
        ({"base.crop": 9}, r"method adam: crop=9 does not fit images of 8 x 8"),
        (
            {"data.name": "iris"},
            r"config\.data\.name=iris has features, label: this study needs im",
        ),
        (
            {"methods.slow.flip": "no"},
            r"config\.methods\.slow\.flip must be True or False",
        ),
        ({"base.rate": -0.1}, r"config\.base\.rate must be above 0 and finite, got -0\.1"),
        ({"methods.slow.rate": -1.0}, r"config\.methods\.slow\.rate must be above 0"),
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
    methods = supervised.declared.methods(config, supervised.METHOD)
    assert config.baseline in methods


ROWS = [
    Result(method, seed, accuracy)
    for method, values in {"a": (0.5, 0.52, 0.54), "b": (0.7, 0.76, 0.73), "c": (0.5, 0.6)}.items()
    for seed, accuracy in enumerate(values)
]


def test_findings_are_paired_t_tests():
    (first, second, last) = findings(ROWS, "a")
    gain = np.subtract((0.7, 0.76, 0.73), (0.5, 0.52, 0.54))
    low, high = 100 * np.array(stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain)))
    assert first.startswith("This run shows that **b** is above a, by accuracy")
    assert f"(95% interval +{low:.1f} to +{high:.1f}, 3 seeds)" in first
    assert second.startswith("This run does not show that **c** is above a")
    assert last.startswith("These are 2 comparisons")


def test_diverged_networks_are_in_no_mean_and_named():
    rows = [*ROWS, Result("c", 2, float("nan"))]
    line = next(line for line in table(rows, "a").splitlines() if line.startswith("| c "))
    assert "55.0 ± 5.0" in line and "2 of 3" in line
    assert "- c, seed 2" in report(rows, "a", {})


def test_results_round_trip(finished):
    rows = read_results(finished[0] / "results.csv")
    assert len(rows) == 8 and all(0 <= row.accuracy <= 1 for row in rows)
