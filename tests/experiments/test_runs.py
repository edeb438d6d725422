"""What is logged of every run, the page to send, and how runs are listed and compared."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import import_module
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

import configs
from experiments import runs
from experiments.__main__ import list_studies
from experiments.harness import records
from experiments.harness.progress import progress_bar
from experiments.harness.run import UserError, print_or_fail
from experiments.harness.settings import Count, Settings
from experiments.harness.study import Headline, Study, conduct, describe_time
from jaxdl.report import figures
from jaxdl.report.comparisons import assemble
from jaxdl.report.page import write_page
from jaxdl.report.tables import markdown_table, write_rows
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Clock

ROOT = Path(configs.__file__).parents[1]
STUDIES = (
    "dann",
    "dense",
    "finetune",
    "pinn",
    "search",
    "supervised",
    "transferability",
    "visualize",
)
START = records.Start(
    "python", "2026-01-01T00:00:00+00:00", "3.11.7", {"jax": "0.10"}, "0123456789abcdef", True, 65.0
)


# A run, of a study that trains nothing.


class Coin(NamedTuple):
    """Names a network."""

    seed: int


class Toss(NamedTuple):
    """A row of ``results.csv``."""

    seed: int
    heads: float


class Coins(Study):
    """Tosses a coin for each seed."""

    settings, network, headline = Settings({"seeds": Count()}), Coin, Headline(Toss, "heads")

    def __init__(self, config):
        self.config, self.members = config, []

    def build(self):
        pass

    def train(self, trainer):
        pass

    def measure(self, trainer, tests):
        rng = np.random.default_rng(0)
        self.rows = [Toss(seed, rng.uniform()) for seed in range(self.config.seeds)]
        write_rows(trainer.folder / "results.csv", Toss, self.rows)

    def draw(self, trainer):
        for name in ("curves", "heads"):
            figures.curves({name: {"a": [([1, 2], [1, 2])]}}, trainer.folder / f"{name}.png")

    def report(self, trainer, facts):
        table = markdown_table(Toss._fields, self.rows)
        return assemble("Coins", facts, [("Findings", "- None."), ("Results", table)])


def study(folder):
    """Run the study; its report."""
    settings = {"variant": "default", "seeds": 3, "checkpoints": 2, "seconds_between_saves": 9.0}
    return conduct(Coins, ConfigDict(settings), folder, StopFlag())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that has ended, and its report."""
    folder = tmp_path_factory.mktemp("run")
    return folder, study(folder)


def test_a_start_is_recorded_with_command_versions_and_commit(finished):
    folder, report = finished
    record = records.read(folder / "run.json")
    assert record.study == "test_runs"
    (start,) = record.starts
    assert start.command.split()[0] == sys.orig_argv[0]
    assert start.python == ".".join(map(str, sys.version_info[:3]))
    assert {n: v for n, v in start.versions.items() if n != "jaxdl"} == {
        name: version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    }
    if (ROOT / ".git").exists() and shutil.which("git"):
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, encoding="utf-8")
        assert start.commit == head.strip() and start.clean in (True, False)
    assert 0 < start.seconds < 600
    (line,) = [line for line in report.splitlines() if line.startswith("- Code: ")]
    assert f"commit {(start.commit or 'unknown')[:12]}" in line
    assert f"jax {jax.__version__}, " in line and f"Python {start.python}" in line


def test_a_restart_is_one_more_start_and_a_reprint_is_none(finished):
    folder, report = finished
    names = ("run.json", "results.csv", "report.html", "report.md")
    before = {name: (folder / name).read_bytes() for name in names}

    def changed():
        return [name for name in names if (folder / name).read_bytes() != before[name]]

    assert study(folder) == report
    assert not changed()
    (folder / "report.html").unlink()  # as in a folder of an earlier version
    study(folder)
    assert not changed()
    (folder / "report.md").unlink()
    again = study(folder)
    assert "run.json" in changed() and "results.csv" not in changed()
    assert ("report.html" in changed()) == ("report.md" in changed())  # where times are others
    first, second = records.read(folder / "run.json").starts
    assert json.loads(before["run.json"])["starts"] == [first._asdict()]
    assert second.began >= first.began and second.commit == first.commit
    assert re.search(r"^- Time: \d+ s, 0 s of them compilation, 0 s training", report, re.M)
    sums = r"^- Time: \d+ s: \d+ s before it was resumed, 0 s of them training; then \d+ s, 0 s of"
    assert re.search(sums, again, re.M)
    code = [line for line in report.splitlines() if line.startswith("- Code: ")]
    assert [line for line in again.splitlines() if line.startswith("- Code: ")] == code


def test_the_time_of_a_run_is_that_of_all_its_starts():
    """Of those that were killed at least what they trained."""
    clock = Clock(training=5.0, by_population={"a": 12.0, "b": 3.0})
    before = "65 s before it was resumed, 10 s of them training; then 7 s, "
    assert describe_time(clock, 7.0, [START]).startswith(f"72 s: {before}")
    killed = START._replace(seconds=None)
    assert describe_time(clock, 7.0, [START, killed]).startswith(f"≥ 72 s: ≥ {before}")
    assert describe_time(clock, 7.0, [killed]).startswith("≥ 17 s: ≥ 10 s before it was ")
    assert describe_time(clock, 7.0, []).startswith("7 s, 0 s of them compilation, 5 s training")


def test_a_folder_of_another_study_is_refused(finished, tmp_path):
    (tmp_path / "run.json").write_text((finished[0] / "run.json").read_text())
    records.check_study(tmp_path, "test_runs")
    with pytest.raises(ValueError, match=r"holds a run of test_runs: choose another --workdir"):
        records.check_study(tmp_path, "dann")
    (tmp_path / "run.json").write_text(json.dumps({"study": "dann", "starts": [START._asdict()]}))
    with pytest.raises(UserError, match="holds a run of dann"):
        study(tmp_path)
    (tmp_path / "run.json").write_text("{")  # which is set aside
    records.check_study(tmp_path, "dann")


def test_a_damaged_record_is_set_aside(finished, tmp_path, capsys):
    for content in (
        "{",
        "[]",
        '{"study": "supervised", "starts": []}',
        json.dumps({"study": 3, "starts": [START._asdict()]}),
        '{"study": "supervised", "starts": [{"command": "python"}]}',
    ):
        (tmp_path / "run.json").write_text(content)
        with records.recorded(tmp_path, "supervised", time.monotonic()) as starts:
            assert len(starts) == 1
        assert "run.json is no record of a run" in capsys.readouterr().err
        assert (tmp_path / "run.json.damaged").read_text() == content
        assert len(records.read(tmp_path / "run.json").starts) == 1


def test_a_record_of_a_later_version_is_read(tmp_path):
    later = {**START._asdict(), "host": "a"}
    (tmp_path / "run.json").write_text(json.dumps({"study": "supervised", "starts": [later]}))
    assert records.read(tmp_path / "run.json").starts == [START]


def test_of_a_run_that_fails_the_time_is_recorded_and_the_failure_stays_what_it_is(tmp_path):
    with pytest.raises(KeyError), records.recorded(tmp_path, "supervised", time.monotonic()):
        assert records.read(tmp_path / "run.json").starts[0].seconds is None  # if it is killed now
        raise KeyError
    assert records.read(tmp_path / "run.json").starts[0].seconds >= 0
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.raises(KeyError), records.recorded(folder, "supervised", time.monotonic()):
        (folder / "run.json").unlink()
        folder.rmdir()
        raise KeyError


@pytest.fixture
def repository(tmp_path):
    """A folder with a commit, and a function that calls git there."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    folder.mkdir()
    names = product(("AUTHOR", "COMMITTER"), ("NAME", "EMAIL"))
    who = {f"GIT_{role}_{what}": "a@b" for role, what in names}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | who

    def git(*arguments):
        return subprocess.check_output(
            ["git", "-C", folder, *arguments], env=environment, encoding="utf-8"
        ).strip()

    git("init", "--quiet")
    (folder / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "--message=one")
    return folder, git


def test_commit_and_whether_the_tree_is_clean(repository, monkeypatch):
    folder, git = repository
    commit = git("rev-parse", "HEAD")
    assert records.find_commit(folder) == (commit, True)
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))  # as in a hook of another repository
    (folder / "notes").write_text("not tracked")
    assert records.find_commit(folder) == (commit, True)
    (folder / "study.py").write_text("")  # added, and not tracked
    assert records.find_commit(folder) == (commit, False)
    (folder / "study.py").unlink()
    (folder / "file").write_text("b")
    assert records.find_commit(folder) == (commit, False)
    (folder / "packages").mkdir()  # an environment within somebody's repository
    assert records.find_commit(folder / "packages") == (None, None)
    monkeypatch.setenv("PATH", "")
    assert records.find_commit(folder) == (None, None)


def test_no_repository_is_no_commit(tmp_path):
    assert records.find_commit(tmp_path) == (None, None)


def test_the_bar_says_that_a_program_is_compiled_until_its_first_steps_are_done(capsys):
    with progress_bar(40) as progress:
        progress("a", 0)
        assert capsys.readouterr().err.split("\r")[-1].startswith("a: compiling, first steps: ")
        progress("a", 20)
        progress("b", 10)  # that it had before it was resumed
        assert "b: compiling" not in capsys.readouterr().err
        progress("c", 10)
    assert capsys.readouterr().err.split("\r")[-1].startswith("c: 100%")


# The page.


class Page(HTMLParser):
    """All tags with their attributes, texts, and the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def test_the_page_has_the_report_and_its_figures_and_loads_nothing(finished):
    folder, _ = finished
    text = (folder / "report.html").read_text(encoding="utf-8")
    report = (folder / "report.md").read_text(encoding="utf-8")
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert {image["alt"] for image in images} == {"curves", "heads"}
    for image in images:
        scheme, _, data = image["src"].partition(",")
        assert scheme == "data:image/png;base64"
        assert base64.b64decode(data) == (folder / f"{image['alt']}.png").read_bytes()
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert [loading & attributes.keys() for tag, attributes in page.tags if tag != "img"] == [
        set()
    ] * (len(page.tags) - len(images))
    assert "url(" not in text and "@import" not in text and not page.count("script")
    assert "prefers-color-scheme: dark" in text
    # A row of the table for each row in Markdown, but for the rule below the header.
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert page.count("table") == 1 and page.count("tr") == len(rows) - 1
    assert page.count("h2") == report.count("\n## ")
    assert page.count("li") == sum(line.startswith("- ") for line in report.splitlines())
    assert page.texts.count("Coins") == 2  # title and heading


def test_names_are_shown_and_not_run_and_results_stand_before_details(tmp_path):
    for name in ("curves", "a<b>", "samples", "solution"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    write_page(
        tmp_path,
        "# <script>alert(1)</script>\n\n- a\n\n## Findings\n\nNone.\n\n## Results\n\n<b>5</b>\n",
    )
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.count("script") and not page.count("b")
    assert "<script>alert(1)</script>" in page.texts and "<b>5</b>" in page.texts
    names = [text.partition(":")[0] for text in page.texts]  # a caption may say more
    order = [t for t in names if t in ("Findings", "Results", "a<b>", "solution", "curves")]
    assert order == ["Findings", "a<b>", "solution", "Results", "curves"]
    write_page(tmp_path, "")  # no report is too short
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).count("img") == 4


# Lists and comparisons, of folders made by hand.


def make_run(folder, rows, study="supervised", starts=(START,), finished=True, **changes):
    """A run's folder; ``changes`` are of its configuration's base."""
    folder.mkdir(parents=True)
    config = import_module(f"configs.{study}").get_config()
    if changes:
        config.base.update(changes)
    content = {"config": config.to_dict(), "data": {"fingerprint": "f"}}
    (folder / "config.json").write_text(json.dumps(content))
    records.write(folder / "run.json", records.Record(study, list(starts)))
    kind = runs.study_named(study).headline.row
    if study == "supervised":  # of which rows here are method, seed and score
        rows = [(method, "", seed, *[score] * 3, 0.0) for method, seed, score in rows]
    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([kind._fields, *rows])
    if finished:
        (folder / "report.md").write_text("# Report\n")
    return folder


def rows_of(text):
    """The rows of a report's Markdown tables, as cells."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


ACCURACIES = {"momentum": [0.9, 0.92, 0.95], "adam": [0.8, 0.85, 0.81]}
ROWS = [(m, s, x) for m, values in ACCURACIES.items() for s, x in enumerate(values)]


def test_the_list_has_numbers_settings_time_commit_and_state(tmp_path):
    make_run(tmp_path / "a", ROWS)
    later = START._replace(commit="f" * 40, clean=False, seconds=None)
    make_run(
        *(tmp_path / "deep" / "b", ROWS[:3]),
        **{"starts": [START, later], "finished": False, "rate": 0.5, "steps": 100},
    )
    (tmp_path / "a" / "checkpoints" / "x").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "x" / "run.json").touch()  # nothing below a run is one
    _, _, *rows = rows_of(runs.main([str(tmp_path)]))
    low, high = (
        f"{100 * np.mean(xs):.1f} ± {100 * stats.sem(xs):.1f} % ({method})"  # over seeds alone
        for method, xs in sorted(ACCURACIES.items())
    )
    assert rows[0] == [
        *(str(tmp_path / "a"), "supervised", "default", f"score {low} to {high}"),
        *("01:05", "0123456789ab", "finished", ""),
    ]
    xs = ACCURACIES["momentum"]
    result = f"score {100 * np.mean(xs):.1f} ± {100 * stats.sem(xs):.1f} % (momentum)"
    assert rows[1] == [
        *(str(tmp_path / "deep" / "b"), "supervised", "default", result, "≥ 01:05"),
        *("0123456789ab, ffffffffffff + changes", "unfinished", "base.rate=0.5, base.steps=100"),
    ]
    assert len(rows) == 2
    assert rows_of(runs.main([str(tmp_path / "a")]))[2:] == rows[:1]


def test_what_says_only_how_it_was_computed_and_the_variant_are_no_changes(tmp_path):
    folder = make_run(tmp_path / "run", ROWS)
    content = json.loads((folder / "config.json").read_text())
    config = content["config"]
    config["parallel"]["mode"], config["data"]["workers"] = "jit", 3  # as declared by the study
    config["variant"] = "of my own"  # of a file that is not the project's
    del config["methods"]["adam_mlp"]
    (folder / "config.json").write_text(json.dumps(content))
    ((*_, settings),) = rows_of(runs.main([str(folder)]))[2:]
    assert settings == "without methods.adam_mlp.model, " + ", ".join(
        f"without methods.adam_mlp.{name}" for name in ("optimizer", "rate")
    )


COLUMNS = "method,value,seed,score,validation,train,loss"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{", "damaged: config.json is no configuration of a run"),
        ("config.json", '{"config": 3}', "damaged: config.json is no configuration of a run"),
        ("config.json", None, "damaged: No such file or directory: config.json"),
        ("run.json", "garbage", "damaged: run.json is no record of a run"),
        ("run.json", None, "run.json is missing: this is no run of a study"),
        ("results.csv", "method,seed\n", "damaged: results.csv: damaged table: the columns are"),
        ("results.csv", f"{COLUMNS}\na,,0,2.0,1,1,0\n", "score is 2, above 1"),
        ("results.csv", f"{COLUMNS}\n" + 2 * "a,,0,.5,1,1,0\n", "two rows for one network"),
    ],
)
def test_damaged_folders_are_listed_as_such_beside_the_others(name, content, words, tmp_path):
    for folder in ("a", "b"):
        make_run(tmp_path / folder, ROWS)
    (tmp_path / "a" / name).unlink()
    if content is not None:
        (tmp_path / "a" / name).write_text(content)
    damaged, whole = rows_of(runs.main([str(tmp_path)]))[2:]
    assert words in damaged[6] and damaged[1:6] == ["–"] * 5
    assert whole[6] == "finished"
    with pytest.raises((ValueError, OSError)):
        runs.main([str(tmp_path / "b"), str(tmp_path / "a")])


def test_a_run_of_an_unknown_study_is_listed_and_not_imported(tmp_path):
    folder = make_run(tmp_path / "run", ROWS)
    for name in ("os.path", "export", "nothing", "harness"):
        records.write(folder / "run.json", records.Record(name, [START]))
        ((*_, state, _),) = rows_of(runs.main([str(folder)]))[2:]
        assert state.startswith(f"damaged: there is no study '{name}'")


def test_a_run_without_results_has_a_dash_and_is_not_compared(tmp_path):
    folder = make_run(tmp_path / "run", ROWS, finished=False)
    (folder / "results.csv").unlink()
    ((_, _, _, result, *_),) = rows_of(runs.main([str(folder)]))[2:]
    assert result == "–"
    with pytest.raises(ValueError, match=r"run has no results\.csv yet"):
        runs.main([str(folder), str(make_run(tmp_path / "other", ROWS))])


def test_differences_are_paired_and_starred_as_a_t_test_has_it(tmp_path):
    rng = np.random.default_rng(0)
    first = {m: rng.uniform(0.5, 0.9, 4) for m in ("a", "b", "c")}
    second = {
        "a": first["a"] + 0.02 + rng.normal(0, 0.003, 4),  # shows only because it is paired
        "b": first["b"] + rng.normal(0, 0.03, 4),
        "d": first["c"],
    }
    folders = [
        make_run(tmp_path / name, [(m, s, f"{x:.6f}") for m in v for s, x in enumerate(v[m])], **c)
        for name, v, c in (("one", first, {}), ("two", second, {"rate": 0.5}))
    ]
    text = runs.main(list(map(str, folders)))
    settings, numbers = text.split("## score %")
    assert rows_of(settings)[2:] == [["base.rate", "0.03", "0.5"]]
    rows = {row[0]: row[1:] for row in rows_of(numbers)[2:]}
    assert list(rows) == ["a", "b", "c", "d"]
    for method in ("a", "b"):
        x, y = first[method], second[method]
        mean, error = 100 * np.mean(y - x), 100 * stats.sem(y - x)
        star = " *" if stats.ttest_rel(y, x).pvalue < 0.05 else ""
        sign = "+" if mean > 0 else "−"
        assert rows[method][2] == f"{sign}{abs(mean):.1f} ± {error:.1f}{star}"
        assert rows[method][0] == f"{100 * x.mean():.1f} ± {100 * stats.sem(x):.1f}"
    assert "*" in rows["a"][2] and stats.ttest_ind(second["a"], first["a"]).pvalue > 0.05
    assert rows["c"][1:] == ["–", "–"] and rows["d"][0] == rows["d"][2] == "–"
    assert "These are 2 comparisons" in text


def test_runs_that_are_alike_show_nothing_and_one_seed_has_no_interval(tmp_path):
    folders = [make_run(tmp_path / name, ROWS) for name in "ab"]
    text = runs.main(list(map(str, folders)))
    assert "Settings that differ\n\nNone." in text and "*" not in str(rows_of(text))
    folders = [
        make_run(tmp_path / f"{x}", [("m", 0, x), ("n", 0, "nan")], finished=False)
        for x in (0.5, 0.75)
    ]
    rows = rows_of(runs.main(list(map(str, folders))))[2:]
    assert rows == [["m", "50.0", "75.0", "+25.0"], ["n", "–", "–", "–"]]
    ((_, _, _, result, *_),) = rows_of(runs.main([str(folders[0])]))[2:]
    assert result == "score 50.0 % (m), of 2"


def test_directions_are_averaged_within_a_seed_and_a_lost_one_is_lost_in_both(tmp_path):
    def table(*values):
        names = [("random", s, d, "AnB", 1) for s in (0, 1) for d in ("AB", "BA")]
        base = ("random", 0, "AB", "base", 0, 0.1)
        return [base, *((*name, x) for name, x in zip(names, values, strict=True))]

    folders = [
        make_run(tmp_path / "one", table(0.5, 0.7, 0.4, 0.2), "transferability"),
        make_run(tmp_path / "two", table(0.6, 0.9, "nan", 0.5), "transferability"),
    ]
    text = runs.main(list(map(str, folders)))
    (row,) = [row for row in rows_of(text) if row[1:3] == ["AnB", "1"]]
    # One: means .6 and .3 of the seeds. Two: .75, and .5 of the direction that is left. The
    # differences: .1 and .2 of seed 0, .3 of seed 1.
    assert row[3:] == ["45.0 ± 15.0", "62.5 ± 12.5", "+22.5 ± 7.5"]
    ((_, _, _, result, *_),) = rows_of(runs.main([str(folders[0])]))[2:]
    assert result == "accuracy 45.0 ± 15.0 % (random, AnB, 1)"  # bases do not count


def test_errors_that_differ_by_factors_are_averaged_as_logarithms(tmp_path):
    errors = [1e-3, 4e-3, 2e-3]
    rows = [("heat", "adam", s, 1, 1, x, 5, 1.0) for s, x in enumerate(errors)]
    rows.append(("heat", "adam", 3, "nan", "nan", "nan", 5, 1.0))
    folder = make_run(tmp_path / "run", rows, "pinn")
    ((_, _, _, result, *_),) = rows_of(runs.main([str(folder)]))[2:]
    logs = np.log10(errors)
    expected = f"log10 rel_l2 −{-logs.mean():.2f} ± {stats.sem(logs):.2f} (heat, adam)"
    assert result == expected


def test_only_runs_of_one_study_are_compared(tmp_path):
    folders = [
        make_run(tmp_path / "a", ROWS),
        make_run(tmp_path / "b", [("p", "dann", 0, 0.5, 0.5)], "dann"),
    ]
    with pytest.raises(ValueError, match=r"only runs of one study .*a is of supervised, .*of dann"):
        runs.main(list(map(str, folders)))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_declares_what_is_compared(study):
    kind = runs.study_named(study)
    line, fields = kind.headline, kind.network._fields
    assert line.row._fields[: len(fields)] == fields
    assert line.column in line.row._fields[len(fields) :]
    assert {"seed", *line.averaged} <= set(fields)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no folder runs: name the --workdir of a run"),
        (["nowhere"], "there is no folder nowhere"),
        (["file"], "there is no folder file"),
        (["empty"], "there is no run in empty"),
        (["empty", "nowhere"], "empty/run.json is missing"),
        (["--all"], "usage: python -m experiments.runs"),
        (["~nobody-of-that-name/runs"], "there is no home folder"),
    ],
)
def test_a_bad_folder_ends_in_a_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        print_or_fail(lambda: runs.main(arguments))
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: ") and words in line
    assert not printed.out


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_the_docstring_of_the_program(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", word])
    monkeypatch.setitem(sys.modules, "__main__", runs)
    print_or_fail(lambda: runs.main(sys.argv[1:]))
    assert capsys.readouterr().out == f"{runs.__doc__}\n"


def test_a_list_is_printed_where_the_encoding_lacks_its_letters(tmp_path, monkeypatch):
    make_run(tmp_path / "run", ROWS)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_or_fail(lambda: runs.main([str(tmp_path)]))
    assert b"score 82.0 ? " in stream.buffer.getvalue()


def test_the_studies_are_listed_by_their_own_first_lines():
    text = list_studies()
    for study in STUDIES:
        module = import_module(f"experiments.{study}")
        assert f"{study}: {module.__doc__.splitlines()[0]}\n" in text
        for variant in import_module(f"configs.{study}").VARIANTS:
            assert variant in text
    assert "python -m experiments.supervised --config configs/supervised.py" in text
    for command in ("benchmark.__main__", "export", "predict", "runs"):
        doc = import_module(f"experiments.{command}").__doc__
        line, *rest = doc.splitlines()
        assert f"{command.partition('.')[0]}: {line.rstrip(':')}\n" in text
        for usage in (words for words in rest if words.startswith("python -m")):
            assert usage in text
    assert "networks: " not in text
