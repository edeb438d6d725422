"""The contract of a study, as a user meets it: arguments in, files and an exit code out.

The transferability study stands for all. It runs on scikit-learn's digits for so few steps that it
takes seconds, most of which are compilation: hence one cache of compiled programs for all runs.
"""

import ast
import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from tests.experiments.launcher import ROOT, Launcher, assert_refused, quick_environment

CONFIG = "configs/transferability.py:digits"
SEEDS, STEPS, CUTS = 1, 12, 4
TINY = (
    f"--config.seeds={SEEDS}",
    f"--config.steps={STEPS}",
    "--config.steps_per_dispatch=2",
    "--config.schedule.warmup=0",
    "--config.members_per_round=2",
    "--config.seconds_between_saves=0.0",
    "--config.treatments=('AnB','AnB+')",
)
BASES, TUNED, FROZEN = 2 * SEEDS, CUTS * SEEDS, 2 * CUTS * SEEDS
NETWORKS = BASES + TUNED + FROZEN
FIGURES = ("transferability.png", "curves.png", "samples.png")
RECORDS = ("config.json", "run.json", "metrics.jsonl", "report.md", "report.html")
FILES = {*RECORDS, "results.csv", "checkpoints", *FIGURES}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return quick_environment(folder)


@pytest.fixture(scope="module")
def launcher(environment, tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("streams"), environment) as launcher:
        yield launcher


def tiny(*arguments):
    """The arguments of the tiny study, and others that replace some of them."""
    return [f"--config={CONFIG}", *TINY, *arguments]


@pytest.fixture(scope="module")
def start(launcher, tmp_path_factory):
    """Start the tiny study with further arguments, or the study with another configuration.

    ``prelude`` is code that runs in the study's process before it, with its ``workdir``.
    """

    def start(workdir, *arguments, config=None, prelude=""):
        arguments = tiny(*arguments) if config is None else [f"--config={config}", *arguments]
        arguments = [*arguments, f"--workdir={workdir}"]
        if not prelude:
            return launcher.start("transferability", arguments)
        file = tmp_path_factory.mktemp("prelude") / "prelude.py"
        known = f"import os, signal\nfrom pathlib import Path\nworkdir = Path({str(workdir)!r})\n"
        file.write_text(known + textwrap.dedent(prelude))
        return launcher.start("transferability", arguments, prelude=file)

    return start


@pytest.fixture(scope="module")
def runs(start, environment, tmp_path_factory):
    """Workdirs and runs that no test disturbs, begun together: compiling takes one core each."""
    whole, alone, lost = (tmp_path_factory.mktemp(name) for name in ("whole", "alone", "lost"))
    # Bases only, for the time it takes to compile.
    division = ("members_per_round=3", "steps_per_dispatch=6", "treatments=()")
    division = [*tiny(*(f"--config.{value}" for value in division)), f"--workdir={alone}"]
    one = environment | {"JAX_NUM_CPU_DEVICES": "1"}
    with Launcher(tmp_path_factory.mktemp("streams"), one) as launcher:
        yield {
            "whole": (whole, start(whole)),
            "alone": (alone, launcher.start("transferability", division)),
            "lost": (
                lost,
                start(lost, "--config.treatments=()", "--config.optimizer.learning_rate=1e6"),
            ),
        }


@pytest.fixture(scope="module")
def finished(runs):
    """The workdir of an uninterrupted run, and how it ended."""
    workdir, study = runs["whole"]
    return workdir, study.wait()


@pytest.fixture
def unreported(finished, tmp_path):
    """A copy of the finished run's workdir as a kill before the report leaves it."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for name in ("report.md", *FIGURES):
        (workdir / name).unlink()
    return workdir


def contents(folder):
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def rows(workdir):
    with open(workdir / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def curves(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(workdir, lines):
    """Whether so many lines of curves are written: so far it has trained."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def timeless(report):
    """A report without the line that says how long it took."""
    measured = ("- Time:", "- Speed:", "- Memory at most:")
    return [line for line in report.splitlines() if not line.startswith(measured)]


def assert_same_run(workdir, finished):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    ours, theirs = ((at / "report.md").read_text() for at in (workdir, finished))
    assert timeless(ours) == timeless(theirs)
    assert {path.name for path in workdir.iterdir()} == FILES


# What a finished run leaves behind.


def test_files(finished):
    workdir, ended = finished
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert ended.out.strip() == (workdir / "report.md").read_text().strip()
    for name in FIGURES:
        assert (workdir / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    stored = json.loads((workdir / "config.json").read_text())
    config, data = stored["config"], stored["data"]
    assert (config["steps"], config["variant"]) == (STEPS, "digits")
    assert (data["name"], data["version"]) == ("digits", "")
    assert data["classes"] == list("0123456789")
    assert sum(data["sizes"].values()) == len(load_digits().target)
    assert set(data["sizes"]) == {"train", "validation", "test"}
    assert len(data["fingerprint"]) == 16 and int(data["fingerprint"], 16)


def test_results_have_a_row_for_each_network(finished):
    found = rows(finished[0])
    assert list(found[0]) == ["split", "seed", "direction", "treatment", "n", "accuracy"]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in found)
    names = [tuple(row.values())[:-1] for row in found]
    expected = [("random", "0", way, "base", "0") for way in ("AB", "BA")]
    for cut in map(str, range(1, CUTS + 1)):
        expected += [("random", "0", way, "AnB", cut) for way in ("AB", "BA")]
        expected += [("random", "0", "AB", "AnB+", cut)]
    assert sorted(names) == sorted(expected)


def test_curves_have_a_line_for_each_network_and_dispatch(finished):
    lines = curves(finished[0])
    assert len(lines) == NETWORKS * STEPS // 2
    keys = [(r["split"], r["seed"], r["direction"], r["treatment"], r["n"]) for r in lines]
    assert {keys.count(key) for key in keys} == {STEPS // 2}
    assert {record["step"] for record in lines} == set(range(2, STEPS + 1, 2))
    assert all(math.isfinite(record["loss"]) for record in lines)


def test_standard_error_has_a_progress_bar_and_little_else(finished):
    _, ended = finished
    assert "100%" in ended.err and "step/s" in ended.err
    assert ended.complaint == f"everything is in {finished[0]}"


def test_finished_run_is_reprinted_at_once(finished, start):
    workdir, first = finished
    before = contents(workdir)
    began = time.monotonic()
    again = start(workdir).wait()
    assert time.monotonic() - began < 15
    assert (again.code, again.out) == (0, first.out)
    assert contents(workdir) == before


def test_no_closed_stream_encoding_or_backend_of_a_notebook_costs_the_run(
    finished, environment, tmp_path
):
    """Standard error closed, a locale and an output that lack the report's letters, and a backend
    of matplotlib that is not installed."""
    workdir, bases = tmp_path / "run", tiny("--config.treatments=()")
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    poor |= {"PYTHONIOENCODING": "latin-1", "MPLBACKEND": "module://nowhere.backend_inline"}
    command = [sys.executable, "-m", "experiments.transferability", *bases, f"--workdir={workdir}"]
    for _ in range(2):  # the second time it prints what it reads
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
            cwd=ROOT,
            env=os.environ | environment | poor,
            stdout=subprocess.PIPE,
        )
        assert ended.returncode == 0
        report = (workdir / "report.md").read_text(encoding="utf-8")
        assert "±" in report and "\N{EN DASH}" in report
        shown = report.encode("latin-1", "replace")
        assert b"?" in shown and ended.stdout.strip() == shown.strip()
    assert {path.name for path in workdir.iterdir()} == FILES
    assert rows(workdir) == [row for row in rows(finished[0]) if row["treatment"] == "base"]


# Stopping and going on.


@pytest.mark.slow
def test_stopped_three_times_it_ends_as_if_it_had_not(finished, start, tmp_path):
    """A kill while bases train, SIGTERM and SIGINT while others do."""
    dispatches = STEPS // 2
    moments = (
        (signal.SIGKILL, 2 * BASES, -signal.SIGKILL),
        (signal.SIGTERM, BASES * dispatches + 2, 128 + signal.SIGTERM),
        (signal.SIGINT, (BASES + TUNED) * dispatches + CUTS, 128 + signal.SIGINT),
    )
    for number, lines, code in moments:
        study = start(tmp_path)
        assert study.wait_until(logged(tmp_path, lines))
        study.kill(number)
        ended = study.wait()
        assert ended.code == code, ended.err[-2000:]
        assert "Traceback" not in ended.err
        if number != signal.SIGKILL:
            assert "same command again" in ended.complaint and str(tmp_path) in ended.complaint
        assert not (tmp_path / "report.md").exists()
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_killed_while_it_measures_and_draws_it_measures_again(finished, start, unreported):
    """Before the test images are opened, before and after their results are there, at a figure."""
    results = (unreported / "results.csv").read_bytes()
    (unreported / "results.csv").unlink()
    for function, moment in (
        ("jaxdl.data.source.Sealed.open", "before"),
        ("jaxdl.report.transferred.write_results", "before"),
        ("jaxdl.report.transferred.write_results", "after"),
        ("jaxdl.report.figures.samples", "before"),
    ):
        place, _, name = function.rpartition(".")
        study = start(unreported, prelude=DEADLY.format(place=place, name=name, moment=moment))
        assert study.wait().code == -signal.SIGKILL
        measured = moment == "after" or name == "samples"
        assert (unreported / "results.csv").exists() == measured
        assert not measured or (unreported / "results.csv").read_bytes() == results
        assert not (unreported / "report.md").exists()
    assert start(unreported).wait().code == 0
    assert_same_run(unreported, finished[0])


DEADLY = """
    from pkgutil import resolve_name
    place = resolve_name({place!r})
    whole = getattr(place, {name!r})

    def deadly(*arguments):
        if {moment!r} == "after":
            whole(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, {name!r}, deadly)
"""


@pytest.mark.slow
def test_killed_before_the_report_it_only_reports(finished, start, unreported):
    checkpoints = contents(unreported / "checkpoints")
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_run(unreported, finished[0])
    assert contents(unreported / "checkpoints") == checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_stopped_at_any_moment_it_ends_as_if_it_had_not(number, part, finished, start, tmp_path):
    lines = max(1, round(part * NETWORKS * STEPS / 2))
    for _ in range(2):  # the second time, when it has been resumed and has gone on
        study = start(tmp_path)
        study.wait_until(logged(tmp_path, lines))
        lines = len(curves(tmp_path)) + 2
        study.kill(number)
        assert study.wait().code in ({-9} if number == signal.SIGKILL else {128 + number, 0})
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "checkpoints", *FIGURES, "report.md"])
def test_killed_when_a_file_appears(name, finished, start, tmp_path):
    study = start(tmp_path)
    study.wait_until((tmp_path / name).exists)
    study.kill(signal.SIGKILL)
    study.wait()
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_second_signal_ends_it_at_once(start, finished, tmp_path):
    study = start(tmp_path)
    study.wait_until((tmp_path / "config.json").exists)
    study.kill(signal.SIGINT)
    time.sleep(0.2)
    study.kill(signal.SIGINT)
    assert study.wait().code in (-signal.SIGINT, 130)
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


# The same results, however they are computed.


def test_another_division_of_the_work_gives_the_same_accuracies(finished, runs):
    """One device, other rounds, fewer dispatches."""
    workdir, study = runs["alone"]
    ended = study.wait()
    assert ended.code == 0, ended.err[-2000:]
    assert rows(workdir) == [row for row in rows(finished[0]) if row["treatment"] == "base"]


def test_a_stream_gives_the_same_results_also_when_it_is_stopped(finished, start, tmp_path):
    """Killed while bases train, stopped while frozen networks do."""
    trained = (BASES + TUNED) * STEPS // 2
    moments = ((signal.SIGKILL, 2 * BASES), (signal.SIGTERM, trained + CUTS))
    for number, lines in moments:
        study = start(tmp_path, "--config.data.feed=streamed")
        assert study.wait_until(logged(tmp_path, lines))
        study.kill(number)
        ended = study.wait()
        assert ended.code in (-number, 128 + number), ended.err[-2000:]
        assert "Traceback" not in ended.err
    ended = start(tmp_path, "--config.data.feed=streamed").wait()
    assert ended.code == 0, ended.err[-2000:]
    for name in ("results.csv", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.slow
def test_processes_that_read_a_stream_give_the_same_results(finished, start, tmp_path):
    ended = start(tmp_path, "--config.data.feed=streamed", "--config.data.workers=2").wait()
    assert ended.code == 0, ended.err[-2000:]
    for name in ("results.csv", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name


@pytest.fixture
def rows_computed(environment, tmp_path):
    """The rows of a run on so many devices."""

    def rows_computed(devices, *arguments):
        (tmp_path / "streams").mkdir()
        other = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
        with Launcher(tmp_path / "streams", other) as launcher:
            arguments = [*tiny(*arguments), f"--workdir={tmp_path / 'run'}"]
            ended = launcher.start("transferability", arguments).wait()
        assert ended.code == 0, ended.err[-2000:]
        return rows(tmp_path / "run")

    return rows_computed


@pytest.mark.slow
@pytest.mark.parametrize("devices, members, dispatch", [(1, 1, 12), (2, 5, 3), (4, 4, 4)])
def test_any_division_of_the_work_gives_the_same_accuracies(
    devices, members, dispatch, finished, rows_computed
):
    arguments = (f"--config.members_per_round={members}", f"--config.steps_per_dispatch={dispatch}")
    assert rows_computed(devices, *arguments) == rows(finished[0])


@pytest.mark.slow
def test_two_runs_are_identical(finished, start, tmp_path):
    assert start(tmp_path).wait().code == 0
    assert_same_run(tmp_path, finished[0])


# The test images.


def test_the_test_images_are_opened_once_when_everything_is_trained(start, finished, tmp_path):
    """What is on disk when they are: all curves to the end, all checkpoints, and no result."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for path in workdir.iterdir():
        if path.name not in ("config.json", "checkpoints", "metrics.jsonl"):
            path.unlink()
    # The last population is trained once more, so that this is no run of measuring alone.
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: path.name)
    assert last.name == "frozen-0"
    shutil.rmtree(last)
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"frozen-0"' not in line]
    assert len(lines) - len(kept) == FROZEN * STEPS // 2
    (workdir / "metrics.jsonl").write_text("".join(kept))
    ended = start(workdir, prelude=WATCH).wait()
    assert ended.code == 0, ended.err[-2000:]
    (seen,) = (tmp_path / "opened").read_text().splitlines()
    trained = {f"checkpoints/{name}/{STEPS}" for name in POPULATIONS}
    assert json.loads(seen) == {
        "lines": NETWORKS * STEPS // 2,
        "files": sorted({"config.json", "metrics.jsonl"} | trained),
    }
    assert_same_run(workdir, finished[0])


POPULATIONS = ("bases-0", "fine-tuned-0", "fine-tuned-1", "frozen-0")
WATCH = """
    import json
    from jaxdl.data.source import Sealed
    whole = Sealed.open

    def watched(self):
        curves = workdir / "metrics.jsonl"
        files = [path.name for path in workdir.iterdir() if path.is_file()]
        checkpoints = [max(each.iterdir(), key=lambda step: int(step.name))
                       for each in (workdir / "checkpoints").iterdir()]
        files += [str(path.relative_to(workdir)) for path in checkpoints]
        seen = {"lines": curves.read_text().count(chr(10)), "files": sorted(files)}
        with (workdir.parent / "opened").open("a") as file:
            print(json.dumps(seen), file=file)
        return whole(self)

    Sealed.open = watched
"""


def test_a_run_that_reports_on_validation_leaves_them_closed(start, tmp_path):
    prelude = """
        from jaxdl.data.source import Sealed

        def refuse(self):
            raise AssertionError("opened")

        Sealed.open = refuse
    """
    arguments = ("--config.report_on=validation", "--config.treatments=()")
    ended = start(tmp_path, *arguments, prelude=prelude).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert "accuracy on the validation split" in ended.out
    # What is reported is the end of the curves.
    last = {
        (r["direction"], r["treatment"]): r["validation_accuracy"]
        for r in curves(tmp_path)
        if r["step"] == STEPS
    }
    found = {(r["direction"], r["treatment"]): float(r["accuracy"]) for r in rows(tmp_path)}
    assert found == pytest.approx(last, abs=1e-6)


def test_one_line_of_the_study_leads_to_the_test_images():
    """``source.test.open()``, in ``conduct``, after the training and before the measurement."""
    harness = sorted((ROOT / "experiments/harness").glob("*.py"))
    studies = [ROOT / f"experiments/{name}.py" for name in ("transferability", "dann", "pinn")]
    parsed = {path: ast.parse(path.read_text()) for path in (*studies, *harness)}
    source = ast.parse((ROOT / "jaxdl/data/source.py").read_text())
    uses = [
        ast.unparse(node)
        for tree in parsed.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("test", "open", "_split")
        if ast.unparse(node) != "os.open"
    ]
    # The others ask for its size and counts, and whether it is whole.
    assert sorted(uses) == [*["source.test"] * 5, "source.test.open"]
    study = parsed[ROOT / "experiments/harness/study.py"]
    (body,) = [node.body for node in study.body if getattr(node, "name", "") == "conduct"]
    names = ("study.train", "source.test.open", "study.measure")
    calls = [
        (node.lineno, node.col_offset, ast.unparse(node.func))
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]
    calls = [name for *_, name in sorted(calls)]  # as they stand in the file
    assert calls == list(names)
    (sealed,) = [node for node in source.body if getattr(node, "name", "") == "Sealed"]
    hidden = [n for n in ast.walk(source) if getattr(n, "attr", "") == "_split"]
    assert hidden and set(hidden) <= set(ast.walk(sealed))


# Images from elsewhere: the same ones as files, as an archive, as a data set of TFDS.

CLASSES, COUNTS = ("ant", "bee", "cat", "dog"), {"train": 12, "test": 5}
PICTURES = (
    "--config.data.options.validation=0.25",
    "--config.model=digit_net",
    "--config.image.flip=True",
    "--config.image.padding=1",
    "--config.batch=8",
    "--config.treatments=()",
)


class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The images of a folder."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, root, **options):
        self.root = root
        super().__init__(**options)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        for i, path in enumerate(sorted((self.root / split).glob("*/*.png"))):
            yield i, {"image": path, "label": path.parent.name}


def pictures(folder):
    """Bright quarters, one a class, under noise: the same images in three forms."""
    rng, arrays, root = np.random.default_rng(0), {}, folder / "pictures"
    for split, count in COUNTS.items():
        images = rng.integers(0, 160, (4, count, 8, 8)).astype(np.uint8)
        for i, name in enumerate(CLASSES):
            row, column = 4 * (i // 2), 4 * (i % 2)
            images[i, :, row : row + 4, column : column + 4] += 90
            (root / split / name).mkdir(parents=True)
            for j, image in enumerate(images[i]):
                Image.fromarray(image).save(root / split / name / f"{j:03}.png")
        arrays[f"{split}_images"] = images.reshape(-1, 8, 8)
        arrays[f"{split}_labels"] = np.repeat(np.arange(4), count)
    np.savez(folder / "pictures.npz", class_names=np.array(CLASSES), **arrays)
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("album"))
    TinyPictures(folder / "pictures", data_dir=folder).download_and_prepare(
        file_format="array_record"
    )
    return folder


def of_album(folder):
    """By variant, the settings that lead to the data."""
    return {
        "folder": [f"--config.data.options.path={folder / 'pictures'}"],
        "npz": [f"--config.data.options.path={folder / 'pictures.npz'}"],
        "tfds": [
            "--config.data.options.dataset=tiny_pictures",
            f"--config.data.options.data_dir={folder}",
        ],
    }


@pytest.fixture(scope="module")
def start_with(start):
    """Start a variant with data of one's own, in tiny."""

    def start_with(variant, workdir, *arguments, **options):
        config = f"configs/transferability.py:{variant}"
        return start(workdir, *TINY, *PICTURES, *arguments, config=config, **options)

    return start_with


@pytest.fixture(scope="module")
def archived(album, start_with, tmp_path_factory):
    """The workdir of a run on the archive."""
    workdir = tmp_path_factory.mktemp("archived")
    ended = start_with("npz", workdir, *of_album(album)["npz"]).wait()
    assert ended.code == 0, ended.err[-2000:]
    return workdir


def assert_same_pictures(workdir, archived):
    for name in ("results.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (archived / name).read_bytes(), name
    assert {path.name for path in workdir.iterdir()} == FILES


def data_of(workdir):
    data = json.loads((workdir / "config.json").read_text())["data"]
    data.pop("fingerprint")
    return data


def test_images_in_an_archive(archived):
    assert {path.name for path in archived.iterdir()} == FILES
    assert data_of(archived) == {
        "name": "pictures",
        "version": "",
        "classes": list(CLASSES),
        "sizes": {"train": 36, "validation": 12, "test": 20},
    }
    assert len(rows(archived)) == BASES


def test_images_of_tfds_give_the_same_results(archived, album, start_with, tmp_path):
    ended = start_with("tfds", tmp_path, *of_album(album)["tfds"]).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_pictures(tmp_path, archived)
    data = {"name": "tiny_pictures", "version": "1.0.0"}
    assert data_of(tmp_path) == data_of(archived) | data


@pytest.mark.slow
def test_files_that_are_damaged_and_mended_meanwhile_give_the_same_results(
    archived, start_with, tmp_path
):
    """Files in a stream: one line names the file that cannot be read; mended, it goes on."""
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    train = folder / "pictures" / "train"
    whole = {path: path.read_bytes() for path in train.rglob("*.png")}
    arguments = (*of_album(folder)["folder"], "--config.data.feed=streamed")
    prelude = f"""
        from jaxdl.train import logs
        append = logs.append

        def damage(curves, records):
            if records and not curves.exists():
                for path in Path({str(train)!r}).rglob("*.png"):
                    path.write_bytes(path.read_bytes()[:-30])
            append(curves, records)

        logs.append = damage
    """
    ended = start_with("folder", workdir, *arguments, prelude=prelude).wait()
    assert_refused(ended, str(train), ".png", "not a whole image")
    assert 0 < len(curves(workdir)) < BASES * STEPS // 2
    assert not (workdir / "results.csv").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    ended = start_with("folder", workdir, *arguments).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_pictures(workdir, archived)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


def of_another_size(path):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(path)


@pytest.mark.parametrize("spoil", [truncated, of_another_size])
def test_a_bad_test_image_is_named_before_anything_is_trained(spoil, start_with, tmp_path):
    path = pictures(tmp_path) / "pictures" / "test" / "cat" / "003.png"
    spoil(path)
    ended = start_with("folder", tmp_path / "run", *of_album(tmp_path)["folder"]).wait()
    assert_refused(ended, str(path))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_five_classes_have_unequal_halves(start_with, tmp_path):
    pictures(tmp_path)
    five = {f"{split}_labels": lambda labels: np.arange(len(labels)) % 5 for split in COUNTS}
    change(tmp_path, **five, class_names=lambda names: np.append(names, "eel"))
    streamed = "--config.data.feed=streamed"
    for name, arguments in (("resident", ()), ("streamed", (streamed,))):
        arguments = (*of_album(tmp_path)["npz"], *arguments, "--config.treatments=('AnB','AnB+')")
        ended = start_with("npz", tmp_path / name, *arguments, "--config.parallel.data=2").wait()
        assert ended.code == 0, ended.err[-2000:]
        assert "14 to 22 training images a task" in ended.out
    assert len(rows(tmp_path / "resident")) == NETWORKS
    for name in ("results.csv", "metrics.jsonl"):
        one, other = ((tmp_path / kind / name).read_bytes() for kind in ("resident", "streamed"))
        assert one == other, name


# Unusual grids.


def test_diverged_bases_are_named_and_reported(runs):
    """Nothing but bases, and none survives."""
    workdir, study = runs["lost"]
    ended = study.wait()
    assert ended.code == 0, ended.err[-2000:]
    assert {path.name for path in workdir.iterdir()} == FILES
    assert [row["accuracy"] for row in rows(workdir)] == ["nan"] * BASES
    steps = [r["diverged_at"] for r in curves(workdir) if "diverged_at" in r]
    assert steps and all(0 <= step < STEPS for step in steps)
    for way in ("AB", "BA"):
        first = min(
            r["diverged_at"]
            for r in curves(workdir)
            if r["direction"] == way and "diverged_at" in r
        )
        assert f"{way}/base/0 at step {first}" in ended.out


@pytest.mark.parametrize(
    "treatment, gives",
    [("base", None), ("BnB+", "AB"), ("AnB", "BA"), ("AnB+", "BA"), ("random", None)],
)
def test_who_gives_a_network_its_first_layers(treatment, gives):
    """What falls with a base that diverges."""
    from experiments.transferability import Network, donor_of

    expected = gives and Network("random", 1, gives, "base", 0)
    assert donor_of(Network("random", 1, "AB", treatment, 3)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, networks",
    [
        (["--config.treatments=('AnB+',)"], BASES + TUNED),
        (["--config.treatments=('BnB',)"], BASES + FROZEN),
        (["--config.treatments=('random',)"], BASES + FROZEN),
        (["--config.fine_tuned_directions=('BA',)"], NETWORKS),
        (["--config.fine_tuned_directions=('AB','BA')"], NETWORKS + TUNED),
        (["--config.fine_tuned_splits=()"], BASES + FROZEN),
        (["--config.optimizer.learning_rate=1e6"], NETWORKS),
        (["--config.report_on=validation"], NETWORKS),
        (["--config.batch=1000"], NETWORKS),  # more than a task has: several epochs a step
    ],
    ids=lambda value: value[0].removeprefix("--config.") if isinstance(value, list) else "",
)
def test_grid(arguments, networks, start, tmp_path):
    ended = start(tmp_path, *arguments).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert len(rows(tmp_path)) == networks
    assert {path.name for path in tmp_path.iterdir()} == FILES


# What cannot be had.


@pytest.mark.parametrize(
    "arguments, words",
    [
        pytest.param("foo=1", ["config.foo"], id="unknown key"),
        pytest.param("data.foo=1", ["config.data.foo"], id="unknown inner key"),
        pytest.param("steps=abc", ["config.steps", "abc"], id="no number"),
        pytest.param("steps=1.5", ["config.steps", "1.5"], id="no integer"),
        pytest.param("steps=None", ["config.steps", "None"], id="none"),
        pytest.param("steps=0", ["config.steps"], id="no steps"),
        pytest.param("steps=-2", ["config.steps"], id="negative steps"),
        pytest.param("seeds=0", ["config.seeds"], id="no seeds"),
        pytest.param("batch=0", ["config.batch"], id="no batch"),
        pytest.param("members_per_round=0", ["config.members_per_round"], id="no members"),
        pytest.param("evaluation_batch=-1", ["config.evaluation_batch"], id="evaluation"),
        pytest.param("data=3", ["config.data"], id="a number for a section"),
        pytest.param("data.name=mnist", ["mnist", "digits"], id="unknown data"),
        pytest.param("data.options.train=3", ["train"], id="unknown option"),
        pytest.param("data.options.seed=-1", ["seed"], id="negative seed"),
        pytest.param("model=vgg", ["vgg", "digit_net"], id="unknown model"),
        pytest.param("model=glyph_net", ["glyph_net"], id="model too large"),
        pytest.param("optimizer.name=foo", ["optimizer", "foo", "adam"], id="optimizer"),
        pytest.param("schedule.name=foo", ["schedule", "foo", "cosine"], id="schedule"),
        pytest.param("splits=('random','foo')", ["config.splits", "foo"], id="split"),
        pytest.param("splits=()", ["config.splits"], id="no split"),
        pytest.param("splits=('dissimilar',)", ["digits", "splits"], id="no groups"),
        pytest.param("treatments=('AnC',)", ["treatments", "AnC", "AnB+"], id="treatment"),
        pytest.param("treatments=(5,)", ["treatments", "5", "AnB+"], id="treatment number"),
        pytest.param("treatments=('base',)", ["treatments", "base"], id="base a treatment"),
        pytest.param("fine_tuned_splits=('foo',)", ["fine_tuned_splits"], id="tuned split"),
        pytest.param("fine_tuned_directions=('AA',)", ["directions", "AA"], id="direction"),
        pytest.param("report_on=train", ["report_on", "train", "test"], id="report on"),
        pytest.param("optimizer.learning_rate=-1.0", ["learning_rate"], id="negative rate"),
        pytest.param("optimizer.learning_rate=nan", ["learning_rate"], id="rate nan"),
        pytest.param("optimizer.learning_rate=inf", ["learning_rate"], id="rate inf"),
        pytest.param("optimizer.weight_decay=-1.0", ["weight_decay"], id="negative decay"),
        pytest.param("optimizer.max_norm=-1.0", ["max-norm"], id="negative radius"),
        pytest.param("schedule.warmup=12", ["warm-up", "12"], id="long warm-up"),
        pytest.param("schedule.warmup=-1", ["warm-up", "-1"], id="negative warm-up"),
        pytest.param("steps_per_dispatch=5", ["12", "5"], id="dispatches"),
        pytest.param("steps_per_dispatch=24", ["12", "24"], id="a dispatch too long"),
        pytest.param("optimizer.bias_rate=0.0", ["bias_rate", "0.0"], id="rate of biases"),
        pytest.param("image.subtract=median", ["image.subtract", "median"], id="subtract"),
        pytest.param("image.crop=9", ["image.crop=9", "8 x 8"], id="crop too large"),
        pytest.param("image.crop=9 image.padding=1", ["image.crop=9"], id="crop of padding"),
        pytest.param("image.crop=-1", ["image.crop", "-1"], id="negative crop"),
        pytest.param("data.feed=disk", ["data.feed", "disk", "streamed"], id="feed"),
        pytest.param("data.workers=-1", ["data.workers", "-1"], id="negative workers"),
        pytest.param("schedule.name=steps schedule.drops=('x',)", ["drops"], id="drops"),
        pytest.param("schedule.name=steps schedule.drops=(-0.5,)", ["drops"], id="negative drop"),
        pytest.param(
            "optimizer={'name':'adam'}",
            ["--config.optimizer replaces", "optimizer.learning_rate", "config.optimizer.KEY="],
            id="a section",
        ),
        pytest.param("parallel.member=3", ["mesh", "3"], id="mesh"),
        pytest.param("parallel.member=0", ["mesh", "0"], id="empty mesh"),
        pytest.param("parallel.data=-1", ["mesh"], id="mesh of two unknowns"),
        pytest.param("parallel.data=2 batch=31", ["31", "2"], id="batch over devices"),
        pytest.param("seeds=99999999999999999999", ["config.seeds"], id="huge"),
    ],
)
def test_bad_setting(arguments, words, start, tmp_path):
    study = start(tmp_path / "run", *(f"--config.{argument}" for argument in arguments.split()))
    if study.wait_until((tmp_path / "run" / "config.json").exists):  # accepted: do not wait
        study.kill(signal.SIGKILL)
    assert_refused(study.wait(), *words)
    assert contents(tmp_path / "run") == {}


@pytest.mark.parametrize("argument", ["--foo", "stray", "--config.model", "--config="])
def test_bad_argument(argument, start, tmp_path):
    assert_refused(start(tmp_path, argument).wait(), argument.strip("-="))


@pytest.mark.parametrize(
    "text, words",
    [
        pytest.param("def get_config(:\n", ["line 1"], id="syntax"),
        pytest.param("x = 1\n", ["get_config"], id="no get_config"),
        pytest.param("import nonexistent\n", ["nonexistent"], id="import"),
        pytest.param("def get_config():\n    return 1 / 0\n", ["zero"], id="exception"),
        pytest.param(
            "def get_config():\n    return None\n",
            ["get_config"],
            id="none",
        ),
        pytest.param(
            "from ml_collections import ConfigDict\ndef get_config():\n"
            "    return ConfigDict({'a': 1})\n",
            ["batch", "more"],
            id="other study",
        ),
        pytest.param(
            "def get_config():\n    return {'a': 1}\n", ["no ConfigDict"], id="a dictionary"
        ),
    ],
)
def test_bad_config_file(text, words, start, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert_refused(start(tmp_path / "run", config=str(path)).wait(), "mine.py", *words)


@pytest.mark.parametrize(
    "config, words",
    [
        pytest.param("configs/missing.py", ["configs/missing.py", "no such file"], id="missing"),
        pytest.param("configs", ["configs"], id="folder"),
        pytest.param("configs/transferability.py:foo", ["foo", "quick"], id="variant"),
        pytest.param("configs/transferability.py:folder", ["which folder", "path"], id="no path"),
        pytest.param("configs/transferability.py:npz", ["which file", "path"], id="no archive"),
        pytest.param("configs/transferability.py:tfds", ["which data set"], id="no data set"),
        pytest.param("configs/transferability.py:imagenet", ["which folder"], id="no ImageNet"),
    ],
)
def test_no_such_config(config, words, start, tmp_path):
    ended = start(tmp_path, config=config).wait()
    assert_refused(ended, *words)


def truncated_image(folder):
    path = folder / "pictures" / "train" / "bee" / "002.png"
    path.write_bytes(path.read_bytes()[:-30])
    return "folder", [str(path), "not a whole image"]


def truncated_image_of_a_stream(folder):
    truncated_image(folder)
    return "folder", ["002.png", "not a whole image"], "--config.data.feed=streamed"


def no_image(folder):
    path = folder / "pictures" / "train" / "ant" / "000.png"
    path.write_text("<html>not found</html>")
    return "folder", [str(path), "no image"]


def odd_size(folder):
    path = folder / "pictures" / "train" / "dog" / "007.png"
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(path)
    return "folder", [str(path), "8×9", "size"]


def odd_classes(folder):
    for split in COUNTS:
        shutil.rmtree(folder / "pictures" / split / "dog")
    return "folder", ["3 classes", "halves"]


def empty_class(folder):
    shutil.rmtree(folder / "pictures" / "train" / "dog")
    (folder / "pictures" / "train" / "dog").mkdir()
    return "folder", [str(folder / "pictures" / "train" / "dog"), "no images"]


def no_folder(folder):
    shutil.rmtree(folder / "pictures")
    return "folder", [str(folder / "pictures")]


def file_for_a_folder(folder):
    shutil.rmtree(folder / "pictures")
    (folder / "pictures").write_text("")
    return "folder", [str(folder / "pictures")]


def change(folder, **changed):
    with np.load(folder / "pictures.npz") as stored:
        arrays = dict(stored)
    for name, alter in changed.items():
        arrays[name] = alter(arrays[name])
    np.savez(folder / "pictures.npz", **arrays)


def not_a_number(folder):
    def spoil(images):
        images = images / 255
        images[7, 3, 3] = np.nan
        return images

    change(folder, train_images=spoil)
    return "npz", ["train_images", "NaN", "image 7"]


def class_without_test(folder):
    change(folder, test_labels=lambda labels: 0 * labels)
    return "npz", ["'test'"]


def unknown_label(folder):
    change(folder, test_labels=lambda labels: labels + 1)
    return "npz", ["'test'", "labels are 1..4"]


def truncated_archive(folder):
    cut(folder / "pictures.npz")
    return "npz", [str(folder / "pictures.npz")]


def no_archive(folder):
    (folder / "pictures.npz").unlink()
    return "npz", [str(folder / "pictures.npz")]


def unknown_dataset(folder):
    return "tfds", ["'cats_and_frogs'", str(folder)], "--config.data.options.dataset=cats_and_frogs"


def not_prepared(folder):
    return (
        "tfds",
        ["mnist", str(folder), "no network", "run python -c"],
        ("--config.data.options.dataset=mnist"),
    )


OFFLINE = """
    from jaxdl.data import prepared
    prepared._online = lambda: False
"""


@pytest.mark.parametrize(
    "spoil",
    [
        truncated_image,
        truncated_image_of_a_stream,
        no_image,
        odd_size,
        odd_classes,
        empty_class,
        no_folder,
        file_for_a_folder,
        not_a_number,
        unknown_label,
        pytest.param(
            class_without_test,
            marks=pytest.mark.xfail(reason="a task without test images is noticed at the end"),
        ),
        truncated_archive,
        no_archive,
        unknown_dataset,
        not_prepared,
    ],
)
def test_bad_data(spoil, start_with, tmp_path):
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    variant, words, *arguments = spoil(folder)
    arguments = (*of_album(folder)[variant], *arguments)
    ended = start_with(variant, workdir, *arguments, prelude=OFFLINE).wait()
    assert_refused(ended, *words)
    assert contents(workdir) == {}


def test_what_is_not_read_is_told_in_a_line(start_with, tmp_path):
    folder, workdir = pictures(tmp_path), tmp_path / "run"
    (folder / "pictures" / "train" / "bee" / "0.heic").write_text("")
    workdir.mkdir()
    (workdir / "report.md").write_text("of a run that has ended")
    ended = start_with("folder", workdir, *of_album(folder)["folder"]).wait()
    assert (ended.code, ended.out) == (0, "of a run that has ended\n"), ended.err[-2000:]
    assert "not read: pictures: 1 .heic" in ended.err.splitlines()


@pytest.mark.parametrize("path", ["{file}", "{file}/under/it", "/proc/run", "/sys/run"])
def test_bad_workdir(path, start, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    workdir = path.format(file=file)
    assert_refused(start(workdir).wait(), "--workdir", workdir)
    assert file.read_text() == "mine"


def test_the_configuration_is_had_from_any_folder(launcher, tmp_path):
    ended = launcher.start("transferability", ["--config.steps=0"], cwd=tmp_path).wait()
    assert_refused(ended, "config.steps must be at least 1")
    assert contents(tmp_path / "runs") == {}


def test_help(launcher):
    ended = launcher.start("transferability", ["--help"]).wait()
    assert "Traceback" not in ended.err and ended.code in (0, 1)
    assert "--workdir" in ended.out and "--config" in ended.out


# What is there already.


def test_changed_config_is_refused(finished, start):
    workdir, _ = finished
    before = contents(workdir)
    ended = start(workdir, "--config.steps=14", "--config.optimizer.learning_rate=0.5").wait()
    assert_refused(ended, "steps", "optimizer.learning_rate", "--workdir", str(workdir))
    assert "seeds" not in ended.complaint
    assert contents(workdir) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}', "\0\xff"], ids=range(5))
def test_damaged_config(text, start, unreported):
    (unreported / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(unreported)
    assert_refused(start(unreported).wait(), str(unreported))
    assert contents(unreported) == before


def test_damaged_results_are_made_again(finished, start, unreported):
    (unreported / "results.csv").write_bytes(b"split,seed\n\0\xff")
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_run(unreported, finished[0])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "pattern, damage",
    [
        pytest.param("**/*", cut, id="all cut"),
        pytest.param("**/d/*", flip, id="a bit flipped", marks=pytest.mark.slow),
        pytest.param(
            "*/*/state/manifest.ocdbt", Path.unlink, id="a file lost", marks=pytest.mark.slow
        ),
    ],
)
def test_damaged_checkpoints_are_named_and_not_used(pattern, damage, finished, start, unreported):
    checkpoints = unreported / "checkpoints"
    for path in [path for path in checkpoints.glob(pattern) if path.is_file()]:
        damage(path)
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    for population in checkpoints.iterdir():
        assert f"{population / str(STEPS)} was damaged" in ended.err
    # What was trained again comes last in the curves.
    assert (unreported / "results.csv").read_bytes() == (finished[0] / "results.csv").read_bytes()
    ours, theirs = (sorted(map(str, curves(at))) for at in (unreported, finished[0]))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        "results.csv",
        "metrics.jsonl",
        "config.json",
    ],
)
def test_lost_file_is_made_again_or_missed(missing, finished, start, unreported):
    """Without its curves or its table a run is completed, or refused in one line."""
    (unreported / missing).unlink()
    ended = start(unreported).wait()
    assert "Traceback" not in ended.err, ended.err[-1500:]
    if ended.code:
        assert_refused(ended, missing)
    else:
        assert_same_run(unreported, finished[0])


def test_damaged_curves(finished, start, unreported):
    """A line of garbage within the curves must not cost the lines behind it."""
    path = unreported / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], "garbage\n", *lines[5:]]))
    before = path.read_bytes()
    ended = start(unreported).wait()
    assert_refused(ended, str(path))
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk(start, unreported):
    """Where nothing more can be written, it says so."""
    with (unreported / "metrics.jsonl").open("a") as file:
        file.write("half a line")  # so that it is written anew
    (unreported / "metrics.jsonl.tmp").symlink_to("/dev/full")
    ended = start(unreported).wait()
    assert_refused(ended, "space")


# Compiled programs are kept for the next run.


@pytest.mark.parametrize("where", ["default", "named", "nowhere"])
def test_programs_are_kept(where, tmp_path):
    user, named = tmp_path / "user", tmp_path / "named"
    environment = os.environ | {
        "XDG_CACHE_HOME": str(user if where != "nowhere" else tmp_path / "file" / "user"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if where == "named":
        environment["JAX_COMPILATION_CACHE_DIR"] = str(named)
    (tmp_path / "file").write_text("no folder can be made in here")
    code = (
        "from experiments.harness.devices import keep_programs; keep_programs(); "
        "import jax; jax.jit(jax.lax.sin)(1.)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    kept = {path.parent for path in tmp_path.rglob("jit_sin*")}
    expected = {"default": {user / "jaxdl" / "programs"}, "named": {named}, "nowhere": set()}
    assert kept == expected[where]
