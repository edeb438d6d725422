"""Searches over the supervised study on scikit-learn's digits, in tiny and in this process."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from configs.search import VARIANTS, get_config
from experiments import search
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.spaces import make_space
from experiments.harness.study import COMMON, make_study
from jaxdl.data.source import Sealed
from jaxdl.train import logs
from jaxdl.train.groups import make_groups
from jaxdl.train.interruption import Interrupted, StopFlag
from tests.experiments.tiny import rows

pytestmark = pytest.mark.usefixtures("two_devices")

SPACE = {"rate": ("log", 1e-3, 1e20), "momentum": ("uniform", 0.5, 0.9)}  # most rates diverge
KINDS = ("random", "halving", "pbt")


def tiny(*kinds, **space):
    """Searches for numbers, and for what is in ``space``."""
    config = get_config()
    config.searches, config.budget, config.seeds = kinds, 4, 2
    config.base.steps, config.base.batch, config.base.schedule = 12, 8, "constant"
    config.steps_per_dispatch, config.seconds_between_saves = 2, 1e9
    config.least, config.interval, config.members_per_round = 4, 4, 4
    config.space = type(config)(SPACE | space)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole run, its report, and the lines of curves that there were whenever a
    test split was opened."""
    folder, opened, whole = tmp_path_factory.mktemp("search"), [], Sealed.open

    def watched(split):
        opened.append(len((folder / "metrics.jsonl").read_text().splitlines()))
        return whole(split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sealed, "open", watched)
        yield folder, search.study(tiny(*KINDS), folder, StopFlag()), opened


def test_the_test_split_is_opened_once_after_all_and_the_report_is_reprinted(finished):
    folder, text, opened = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "run.json", "results.csv", "rounds.csv", "metrics.jsonl", "checkpoints"),
        *("report.md", "report.html", "samples.png", "curves.png"),
        *("parallel.png", "best.png", "importance.png", "schedules.png"),
    }
    assert opened == [len((folder / "metrics.jsonl").read_text().splitlines())]
    for part in ("and so biased", "on the test split", "Lineage of pbt's winner", *KINDS):
        assert part in text
    assert "- Settings of base: momentum 0.9, rate 0.03\n" in text  # of those that are searched
    assert search.study(tiny(*KINDS), folder, StopFlag()) == text and len(opened) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_a_trial_and_the_winner_over_fresh_seeds(finished, kind):
    results = [row for row in rows(finished[0]) if row["search"] in (kind, "base")]
    trials = [row for row in results if row["stage"] == "search"]
    fresh = [row for row in results if row["stage"] == "fresh"]
    assert len(trials) == len({row["trial"] for row in trials}) >= 4
    assert {row["seed"] for row in trials} == {"0"} and {row["score"] for row in trials} == {"nan"}
    assert [(row["search"], row["seed"]) for row in fresh] == [
        *(("base", "1"), ("base", "2")),
        *((kind, "1"), (kind, "2")),
    ]
    assert all(0 <= float(row["score"]) <= 1 for row in fresh)
    longest = [row for row in trials if row["steps"] == "12"]
    best = max(longest, key=quality)
    assert {row["trial"] for row in fresh if row["search"] == kind} == {best["trial"]}


def quality(row):
    return np.nan_to_num(float(row["validation"])), -int(row["trial"])


def test_trials_that_differ_in_numbers_alone_are_one_population():
    """Vectorised objectives: of 32 trials with two sizes of batches there are two programs."""
    config = tiny("random", batch=("choice", (8, 16)))
    config.budget = config.members_per_round = 32
    study = make_study(search.Search, config)
    study.build()
    first = next(study.plan("random", 0))
    members = [study.member(search.Network("random", s.trial, 0), s.steps) for s in first]
    groups = make_groups("random", members, config.members_per_round, even=True)
    sizes = [study.trials[group.networks[0][:2]].settings["batch"] for group in groups]
    assert sorted(sizes) == [8, 16] and sum(len(group.members) for group in groups) == 32


def test_no_trial_is_stuck_or_lost_after_restarts(finished, tmp_path, monkeypatch):
    """Stopped once within each search, and while winners are trained."""
    whole, append = finished[0], logs.Curves.append
    stops = {"random": 3, "halving": 3, "pbt": 4, "fresh": 2}  # dispatches there
    monkeypatch.setattr(search.Search, "draw", lambda *_: None)
    for kind, dispatches in stops.items():
        stop, left = StopFlag(), [dispatches]

        def count(curves, records, kind=kind, stop=stop, left=left):
            append(curves, records)
            left[0] -= records[0]["population"].startswith(kind)
            if not left[0]:
                stop.received = 15

        monkeypatch.setattr(logs.Curves, "append", count)
        with pytest.raises(Interrupted):
            search.study(tiny(*KINDS), tmp_path, stop)
        lines = (tmp_path / "metrics.jsonl").read_bytes()
        assert (whole / "metrics.jsonl").read_bytes().startswith(lines)
        assert not (tmp_path / "results.csv").exists()
    search.study(tiny(*KINDS), tmp_path, StopFlag())
    for name in ("metrics.jsonl", "rounds.csv", "results.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_copies_are_of_trials_with_a_score_and_settings_stay_in_their_range(finished):
    rounds = [row for row in rows(finished[0], "rounds.csv") if row["search"] == "pbt"]
    by_round = {(int(row["round"]), row["trial"]): row for row in rounds}
    assert len(by_round) == 3 * 4
    lost = [row for row in rounds if row["validation"] == "nan"]
    copied = [row for row in rounds if row["parent"] not in (row["trial"], "-1")]
    assert lost and copied  # of such rates some diverge
    for row in copied:
        before, after = by_round[int(row["round"]) - 1, row["parent"]], json.loads(row["settings"])
        assert not math.isnan(float(before["validation"]))
        for name, value in json.loads(before["settings"]).items():
            low, high = SPACE[name][1:]
            expected = [min(max(value * factor, low), high) for factor in (0.8, 1.2)]
            assert after[name] in expected and low <= after[name] <= high
    for row in lost:  # what has diverged goes on as a copy of what has not
        if (later := by_round.get((int(row["round"]) + 1, row["trial"]))) is not None:
            assert later["parent"] != row["trial"]


def test_fresh_seeds_follow_the_schedule_of_a_populations_winner(finished):
    rounds = [row for row in rows(finished[0], "rounds.csv") if row["search"] == "pbt"]
    by_round = {(int(row["round"]), row["trial"]): row for row in rounds}
    line = [max((row for row in rounds if row["steps"] == "12"), key=quality)]
    while line[0]["parent"] != "-1":
        line.insert(0, by_round[int(line[0]["round"]) - 1, line[0]["parent"]])
    changes = sum(a["settings"] != b["settings"] for a, b in pairwise(line))
    fresh = {path.name for path in (finished[0] / "checkpoints").glob("fresh-*")}
    assert {name.split("-")[1] for name in fresh} == set(map(str, range(changes + 1)))
    lines = (finished[0] / "metrics.jsonl").read_text().splitlines()
    steps = {}
    for record in map(json.loads, lines):
        if record["seed"]:  # all fresh networks have all steps, once
            steps.setdefault((record["search"], record["seed"]), []).append(record["step"])
    assert len(steps) == 4 * 2 and set(map(tuple, steps.values())) == {(2, 4, 6, 8, 10, 12)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space.rate": ("log", 0.0, 1.0)}, r"config\.space\.rate: 0\.0 to 1\.0 has no logarithms"),
        ({"space.rate": ("log", -1.0, 1.0)}, r"config\.space\.rate: -1\.0 to 1\.0 has no log"),
        ({"space.rate": ("uniform", -1.0, 1.0)}, r"config\.space\.rate must be above 0 and finite"),
        ({"space.rate": ("normal", 0.0, 1.0)}, r"config\.space\.rate: \('normal', 0\.0, 1\.0\) is"),
        ({"space.batch": ("choice", ())}, r"config\.space\.batch: \(\) is no choice"),
        ({"space.batch": ("choice", (8, 0))}, r"config\.space\.batch must be at least 1"),
        (
            {"space.model": ("choice", ("mlp", "resnot"))},
            r"random, trial 1: config\.space\.model: there",
        ),
        ({"space.rates": ("log", 0.1, 1.0)}, r"config\.space\.rates is no setting"),
        ({"space.steps": ("choice", (2, 4))}, r"config\.space\.steps cannot be searched"),
        ({"searches": ("annealing",)}, r"config\.searches: 'annealing' is not one of random, grid"),
        ({"searches": ()}, r"config\.searches is empty"),
        ({"searches": ("pbt",)}, r"config\.space\.batch: population-based training changes"),
        ({"least": 3}, r"config\.least=3 is not a multiple of config\.steps_per_dispatch=2"),
        ({"eta": 1}, r"config\.eta must be at least 2"),
        ({"factors": (0.8, -1.0)}, r"config\.factors: \(0\.8, -1\.0\) is no tuple such as"),
        ({"baseline": "none"}, r"config\.baseline: 'none' is not one of base"),
        ({"methods.random": {}}, r"config\.methods\.random has the name of a search"),
        ({"base.sweep": "rate", "base.values": (0.1, 1.0)}, r"config\.base\.sweep: a search"),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny("random", batch=("choice", (8, 16)))
    for name, value in change.items():
        section, _, key = name.rpartition(".")
        where = config[section] if section else config
        with where.ignore_type():
            where[key] = type(config)(value) if isinstance(value, dict) else value
    with pytest.raises(UserError, match=words):
        search.study(config, tmp_path / "run", StopFlag())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"dropout": ("uniform", 0.0, 0.5)}, r"config\.space\.dropout: 0 turns it off"),
        ({"rate": ("choice", (0.1, 0.2))}, r"config\.space\.rate: population-based training"),
        ({"batch": ("integers", 8, 16)}, r"config\.space\.batch: population-based training"),
    ],
)
def test_only_numbers_that_stay_on_are_changed_in_training(space, words):
    with pytest.raises(ValueError, match=words):
        make_space(tiny("pbt", **space))


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_every_variant_can_be_had(variant):
    config = get_config(variant)
    check(config, {**search.KINDS, **COMMON})
    study = make_study(search.Search, config)
    steps = config.base.steps
    for kind, cost in study.costs.items():  # a grid's is that of its points
        assert cost <= config.budget * steps or kind in ("grid", "hyperband")
        assert cost >= 0.8 * config.budget * steps or kind in ("grid", "hyperband")
