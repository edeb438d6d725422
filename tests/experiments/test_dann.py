"""The domain-adaptation study, as a user meets it, and what its steps may know.

On the data of :mod:`tests.experiments.tiny_dann`. Most of the time is compilation, hence one cache
of compiled programs for all runs. What every study does alike is tested with the transferability
study.
"""

import ast
import csv
import dataclasses
import itertools
import json
import math
import signal
import textwrap
from contextlib import closing
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_digits

from configs.dann import VARIANTS, get_config
from experiments import dann
from experiments.harness.study import describe_omissions, make_study
from jaxdl import adaptation, trees, validation
from jaxdl.data import sources
from jaxdl.train.checkpoint import load_network
from jaxdl.train.feed import make_feed
from jaxdl.train.groups import make_groups
from jaxdl.train.parallel import to_host
from tests.experiments.launcher import USERS, Launcher, assert_refused, quick_environment
from tests.experiments.tiny import WATCH
from tests.experiments.tiny_dann import (
    BATCH,
    DISPATCH,
    PAIR,
    SEEDS,
    SIZES,
    STEPS,
    archive,
    pictures,
    small,
    tiny,
)
from tests.test_validation import density

METHODS = ("source_only", "dann", "cdan", "target_only")
FIGURES = ("curves.png", "logits.png", "samples.png")
TABLES = ("results.csv", "diagnostics.csv")
RECORDS = ("config.json", "run.json", "metrics.jsonl", "report.md", "report.html")
FILES = {*RECORDS, "checkpoints", *TABLES, *FIGURES}
REST = ("mmd", "coral", "entropy", "vat_source", "vat_target", "consistency")

NETWORK = small(4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    for domain in SIZES:
        archive(folder / f"{domain}.npz", domain)
    return folder


# A user's run.


@pytest.fixture(scope="module")
def start(launcher, data, tmp_path_factory):
    """Start the tiny study; ``change`` is code that changes ``config``, in a file of the user's."""

    def start(workdir, *arguments, change="", config=None, prelude="", folder=data):
        own = tmp_path_factory.mktemp("own")
        if config is None:
            config = own / "config.py"
            config.write_text(
                "from pathlib import Path\nfrom tests.experiments.tiny_dann import tiny\n\n\n"
                f"def get_config():\n    config = tiny(Path({str(folder)!r}))\n"
                "    with config.unlocked():\n        pass\n"
                f"{textwrap.indent(textwrap.dedent(change), ' ' * 8)}\n    return config\n"
            )
        file = None
        if prelude:
            file = own / "prelude.py"
            known = f"from pathlib import Path\nworkdir = Path({str(workdir)!r})\n"
            file.write_text(known + textwrap.dedent(prelude))
        arguments = [f"--config={config}", *arguments, f"--workdir={workdir}"]
        return launcher.start("dann", arguments, prelude=file)

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """The workdir of an uninterrupted run, and how it ended; beside the folder is what was in it
    when test images were opened."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, start(workdir, prelude=WATCH).wait()


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def curves(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def logged(workdir, lines):
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def assert_done(ended):
    assert ended.code == 0, ended.err[-2000:]
    assert "Traceback" not in ended.err


def assert_same_run(workdir, finished):
    for name in (*TABLES, "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    assert {path.name for path in workdir.iterdir()} == FILES


def test_files(finished):
    workdir, ended = finished
    assert_done(ended)
    assert {path.name for path in workdir.iterdir()} == FILES
    assert ended.out.strip() == (workdir / "report.md").read_text().strip()
    assert ended.complaint == f"everything is in {workdir}"
    for name in FIGURES:
        assert (workdir / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    data = json.loads((workdir / "config.json").read_text())["data"]
    for domain, sizes in SIZES.items():
        assert data[domain]["sizes"] == sizes
        assert data[domain]["classes"] == list("0123")
        assert len(data[domain]["fingerprint"]) == 16


def test_results_have_a_row_for_each_network(finished):
    found = rows(finished[0] / "results.csv")
    fields = ["pair", "method", "seed", "source_accuracy", "target_accuracy"]
    assert list(found[0]) == fields
    networks = sorted((row["method"], int(row["seed"])) for row in found)
    assert networks == sorted((m, s) for m in METHODS for s in range(SEEDS))
    for row in found:
        assert row["pair"] == PAIR
    told = rows(finished[0] / "diagnostics.csv")
    for row in told:
        adversary = row["method"] in ("dann", "cdan")
        assert row["adversarial"] == str(int(adversary))
        assert math.isnan(float(row["domain_accuracy"])) == (not adversary)
        assert row["diverged_at"] == "-1"
    assert len(told) == len(found)


@jax.jit
def predict(variables, images):
    features = NETWORK.apply(variables, images, method="encode")
    return NETWORK.apply(variables, features, method="classify")


def test_accuracies_are_those_of_the_networks(finished):
    """Of a network of each method, on the archive's test images in plain NumPy and Flax."""
    mean = np.mean([pictures(domain, "train")[0].mean((0, 1, 2)) for domain in SIZES], axis=0)
    results = {(r["method"], r["seed"]): r for r in rows(finished[0] / "results.csv")}
    for method in METHODS:
        variables = load_network(finished[0], method=method, seed=1)
        for domain in SIZES:
            images, labels = pictures(domain, "test")
            logits = predict(variables, (images - mean) / 255 * 2)
            expected = float(np.mean(np.argmax(logits, -1) == labels))
            value = float(results[method, "1"][f"{domain}_accuracy"])
            assert value == pytest.approx(expected, abs=1e-6), (method, domain)


def test_curves_have_a_line_for_each_network_and_dispatch(finished):
    lines = curves(finished[0])
    assert len(lines) == len(METHODS) * SEEDS * STEPS // DISPATCH
    name = {"population", "pair", "method", "seed", "step"}
    plain = name | {"loss", "label_loss", "source_accuracy", "target_accuracy"}
    adversary = plain | {"domain_loss", "domain_accuracy", "reversal"}
    fields = dict.fromkeys(METHODS, plain) | {"dann": adversary}
    fields["cdan"] = adversary | {"confident"}
    for record in lines:
        assert set(record) == fields[record["method"]]
        assert all(math.isfinite(v) for v in record.values() if isinstance(v, float))
        if "reversal" in record:  # the mean of lambda over the dispatch's steps
            parts = np.arange(record["step"] - DISPATCH, record["step"]) / STEPS
            assert record["reversal"] == pytest.approx(np.tanh(5 * parts).mean(), abs=1e-5)


def test_the_test_images_are_opened_once_each_when_everything_is_trained(finished):
    workdir = finished[0]
    seen = [json.loads(line) for line in (workdir.parent / "opened").read_text().splitlines()]
    populations = {record["population"] for record in curves(workdir)}
    assert len(populations) == 3
    trained = [f"checkpoints/{name}/{STEPS}" for name in populations]
    lines = len(METHODS) * SEEDS * STEPS // DISPATCH
    files = sorted(["config.json", "run.json", "metrics.jsonl", *trained])
    assert seen == [{"lines": lines, "files": files}] * 2


def test_the_report_says_how_the_numbers_were_chosen(finished):
    text = finished[1].out
    assert "source only" in text and "DANN" in text and "train on target" in text
    assert "the last step; an adapted network's loss has no target label" in text


def test_finished_run_is_reprinted_at_once(finished, start):
    workdir, first = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    again = start(workdir).wait()
    assert (again.code, again.out) == (0, first.out)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_stopped_twice_it_ends_as_if_it_had_not(finished, start, tmp_path):
    """A kill in the first population, SIGINT in the last."""
    last, often = 2 * SEEDS * STEPS // DISPATCH, "--config.seconds_between_saves=0.0"
    for number, lines in ((signal.SIGKILL, 2 * SEEDS), (signal.SIGINT, last + 2)):
        study = start(tmp_path, often)
        assert study.wait_until(logged(tmp_path, lines))
        study.kill(number)
        ended = study.wait()
        assert ended.code == (-number if number == signal.SIGKILL else 128 + number), ended.err
        assert not (tmp_path / "results.csv").exists()
    assert_done(start(tmp_path, often).wait())
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_a_stream_gives_the_same_results(start, tmp_path):
    resident, streamed = tmp_path / "resident", tmp_path / "streamed"
    assert_done(start(resident, prelude=USERS).wait())
    assert_done(start(streamed, "--config.feed=streamed", prelude=USERS).wait())
    assert_same_run(streamed, resident)


@pytest.mark.slow
def test_another_division_of_the_work_gives_the_same_accuracies(finished, start, tmp_path):
    arguments = ("--config.members_per_round=1", "--config.steps_per_dispatch=8")
    assert_done(start(tmp_path, *arguments).wait())
    assert rows(tmp_path / "results.csv") == rows(finished[0] / "results.csv")


def test_changed_config_is_refused(finished, start):
    ended = start(finished[0], "--config.base.rate=0.5", "--config.seeds=3").wait()
    assert_refused(ended, "base.rate (0.02 there, 0.5 now)", "seeds", "--workdir")


def test_a_setting_that_a_method_does_not_change(start, tmp_path):
    ended = start(tmp_path, "--config.methods.dann.rate=0.5").wait()
    words = "config.methods.dann does not change 'rate': --config.base.rate=VALUE is for all"
    assert_refused(ended, words)


def test_a_base_setting_that_each_method_has_its_own_of_is_refused(start, tmp_path):
    change = "for method in config.methods.values():\n    method.rate = 0.1"
    ended = start(tmp_path, "--config.base.rate=0.5", change=change).wait()
    words = "--config.base.rate would change nothing, since each method has its own"
    assert_refused(ended, words, "--config.methods.NAME.rate=VALUE")


def test_changed_data_are_refused(finished, start, tmp_path, data):
    """The same file with other labels is no longer the run's data."""
    for domain in SIZES:
        archive(tmp_path / f"{domain}.npz", domain, permuted=domain == "target")
    assert_refused(start(finished[0], folder=tmp_path).wait(), "target.fingerprint")


@pytest.mark.slow
def test_where_all_diverge_a_report_says_so(start, tmp_path):
    ended = start(tmp_path, "--config.base.rate=1e30", "--config.seeds=1").wait()
    assert_done(ended)
    assert {row["target_accuracy"] for row in rows(tmp_path / "results.csv")} == {"nan"}
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"logits.png"}


@pytest.fixture
def unlabelled(data, tmp_path):
    """The folder of the tiny study's data, but of its target the images alone."""
    folder = tmp_path / "data"
    folder.mkdir()
    archive(folder / "source.npz", "source")
    with np.load(data / "target.npz") as arrays:
        images = {name: array for name, array in arrays.items() if name.endswith("images")}
        np.savez(folder / "target.npz", **images)
    return folder


def test_a_target_without_labels_and_a_diverged_network_change_no_other(
    finished, start, unlabelled, tmp_path
):
    """All is as with labels, except what needs them; and the pair is called as the data are. What
    has a rate of its own that is too large takes no other down. (That CDAN, too, reads no label of
    the target is seen below, without a program of its own.)"""
    change = """
        del config.methods.target_only, config.methods.cdan
        config.pair = ''
        config.methods.diverged = type(config)({'adversarial': 1.0, 'rate': 1e30})
    """
    workdir = tmp_path / "run"
    ended = start(workdir, change=change, folder=unlabelled).wait()
    assert_done(ended)
    pair = "source_to_target"
    for name, blank in (("results.csv", {"target_accuracy": "nan"}), ("diagnostics.csv", {})):
        expected = [
            row | {"pair": pair} | blank
            for row in rows(finished[0] / name)
            if row["method"] in ("source_only", "dann")
        ]
        assert [row for row in rows(workdir / name) if row["method"] != "diverged"] == expected
    for row in rows(workdir / "results.csv"):
        assert (row["source_accuracy"] == "nan") == (row["method"] == "diverged")
    diverged = {
        row["method"] for row in rows(workdir / "diagnostics.csv") if row["diverged_at"] != "-1"
    }
    assert diverged == {"diverged"}
    for before in curves(finished[0]):
        if before["method"] in ("source_only", "dann"):
            del before["target_accuracy"]
            before["pair"] = pair
            (after,) = (c for c in curves(workdir) if place_of(c) == place_of(before))
            assert after == before | {"population": after["population"]}
    assert ended.out.startswith("# Domain adaptation: source → target")
    assert "The target has no labels" in ended.out and "density would choose" in ended.out
    assert "target (28 training, 24 test images, no labels)" in ended.out
    assert {path.name for path in workdir.iterdir()} == FILES


def place_of(record):
    return record["method"], record["seed"], record["step"]


def test_a_method_that_learns_labels_that_are_not_there(start, unlabelled, tmp_path):
    ended = start(tmp_path / "run", folder=unlabelled).wait()
    words = "config.methods.target_only learns the target's labels, and target has none"
    assert_refused(ended, words, "--config.methods=")
    methods = ended.err.partition('--config.methods="')[2].partition('"')[0]
    assert ast.literal_eval(methods) == {"source_only": {}, "dann": {"adversarial": 1.0}}


def test_a_source_without_labels(start, unlabelled, tmp_path):
    (unlabelled / "target.npz").rename(unlabelled / "source.npz")
    archive(unlabelled / "target.npz", "target")
    ended = start(tmp_path / "run", folder=unlabelled).wait()
    assert_refused(ended, "source.npz has no array train_labels")


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model=resnet"], ["config.model", "'resnet'", "dann_mnist"]),
        (["--config.feed=disk"], ["config.feed", "'disk'", "streamed"]),
        (["--config.seeds=0"], ["config.seeds", "at least 1"]),
        (["--config.evaluation_batch=0"], ["config.evaluation_batch"]),
        (["--config.base.steps=9"], ["steps=9", "not a multiple", "steps_per_dispatch=2"]),
        (["--config.base.steps=0"], ["steps", "at least 1"]),
        (["--config.base.batch=-2"], ["batch"]),
        (["--config.base.rate=nan"], ["config.base.rate", "nan"]),
        (["--config.base.weight_decay=-1."], ["weight_decay", "at least 0"]),
        (["--config.base.dropout=1."], ["dropout", "below 1"]),
        (["--config.base.padding=FULL"], ["padding", "'FULL'", "VALID, SAME"]),
        (["--config.base.start=cold"], ["start", "'cold'", "glorot"]),
        (["--config.base.labels=both"], ["labels", "'both'", "source, target"]),
        (["--config.base.subtract=mean"], ["subtract", "common, own, none"]),
        (["--config.base.schedule=steps"], ["schedule", "annealed, constant, cosine"]),
        (["--config.base.adversarial=1.0"], ["one domain classifier"]),
        (["--config.methods.dann.conditional=1.0"], ["conditional"]),
        (["--config.parallel.member=3"], ["mesh", "2 device(s)"]),
        (["--config.parallel.data=2", "--config.base.batch=3"], ["batch", "parallel.data"]),
        (["--config.base.lambda=1"], ["config.base.lambda: configs/dann.py has"]),
        (["--config.base.optimiser=adam"], ["is it config.base.optimizer? configs/dann.py"]),
        (["--config.base.optimizer=best"], ["optimizer", "'best'", "momentum", "muon"]),
        (["--config.model=dann_gtsrb"], ["config.model=dann_gtsrb on images of 12"]),
        (["--config.base.size=4"], ["tests.experiments.tiny_dann:small on images of 4"]),
        (["--config.model=builtins:bool"], ["config.model=builtins:bool: TypeError: bool()"]),
        (["--config.model=unittest.mock:Mock"], ["returns Mock", "adversarial.AdversarialNet"]),
        (
            ["--config.model=tests.experiments.tiny_dann:broken"],
            ["images of 12 x 12 x 3: TypeError", "tiny_dann.py, line", "in encode"],
        ),
        (["--config.source.name=none"], ["unknown data set 'none'"]),
        (["--config.target.options.path=/nowhere.npz"], ["/nowhere.npz"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_bad_setting(arguments, words, start, tmp_path):
    assert_refused(start(tmp_path, *arguments).wait(), *words)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("config.methods.dann.lamda = 1.0", ["config.methods.dann", "'lamda'"]),
        ("config.methods.dann.conditional = 1.0", ["config.methods.dann", "one domain classifier"]),
        ("config.methods.target_only.mmd = 1.0", ["target_only", "nothing to adapt"]),
        (
            "config.methods.target_only.backgrounds = 0.5",
            ["target_only: backgrounds: labels=target", "nothing to adapt"],
        ),
        ("config.methods.dann.warps = .3", ["config.methods.dann: warps: not used, consistency=0"]),
        ("config.methods.dann.rate = 'fast'", ["dann.rate", "'fast'", "not a number"]),
        ("config.methods.dann.batch = 2.5", ["dann.batch", "whole number"]),
        ("config.methods.dann.batch = True", ["dann.batch", "True is not a number"]),
    ],
)
def test_bad_method(change, words, start, tmp_path):
    assert_refused(start(tmp_path, change=change).wait(), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.source.options.size=20"], ["[20, 20, 3]", "[16, 16, 3]", "alike"]),
        (
            ["--config.source.options.seed=1"],
            ["config.source.options.seed=1", "config.target.options.seed=0", "the same seed"],
        ),
        (["--config.source.options.channels=1"], ["[16, 16, 1]", "[16, 16, 3]", "alike"]),
        (
            ["--config.source.options.size=8", "--config.target.options.size=8"],
            ["config.model=dann_digits", "images of 8"],
        ),
    ],
)
def test_images_that_do_not_fit(arguments, words, start, tmp_path):
    assert_refused(start(tmp_path, *arguments, config="configs/dann.py").wait(), *words)


def test_numbers_of_classes_that_differ(start, data, tmp_path):
    archive(tmp_path / "source.npz", "source")
    archive(tmp_path / "target.npz", "target", classes=5)
    ended = start(tmp_path / "run", folder=tmp_path).wait()
    assert_refused(ended, "the source has 4 classes, the target 5")


def test_unknown_pair(start, tmp_path):
    ended = start(tmp_path, config="configs/dann.py:mnist_to_nothing").wait()
    assert_refused(ended, "unknown pair 'mnist_to_nothing'", "mnist_to_mnist_m")


@pytest.mark.parametrize(
    "variant", [VARIANTS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS[1:])]
)
def test_every_variant_is_read(variant, start, tmp_path):
    """So far as to see that there is no such network."""
    ended = start(tmp_path, "--config.model=none", config=f"configs/dann.py:{variant}").wait()
    assert_refused(ended, "config.model: there is no model 'none': name one of dann_")


# What the steps may know.


@pytest.fixture(scope="module")
def seen():
    """The structure of all batches that the loss was traced with."""
    return []


@pytest.fixture(scope="module")
def lab(two_devices, data, seen):
    """With CDAN of every other term, too; with one seed, of 4 steps."""
    config = tiny(data)
    config.seeds, config.base.steps = 1, 4
    with config.unlocked():
        config.methods.cdan.update({**dict.fromkeys(REST, 0.5), "threshold": 0.0})
    whole = adaptation.adaptation_loss

    def spied(model, terms, steps):
        loss = whole(model, terms, steps)

        def loss_fn(params, stats, batch, hyper, key):
            seen.append((tuple(terms), jax.tree.map(jnp.shape, batch)))
            return loss(params, stats, batch, hyper, key)

        return loss_fn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "adaptation_loss", spied)
        yield assembled(config)


def assembled(config):
    """The study with its programs, and the groups that it trains."""
    lab = make_study(dann.Adaptation, config)
    lab.build()
    return lab, make_groups("networks", lab.members, config.members_per_round, even=True)


def end_of(lab, group):
    """The last state of each of the networks that are trained together, by method."""
    program, (states, hypers) = group.program, group.start()
    with closing(program.dispatches(hypers, 0)) as dispatches:
        for _ in range(0, program.steps, program.steps_per_dispatch):
            states, _ = program.training(states, hypers, next(dispatches))
    ends = trees.unstack(to_host(states))[: len(group.networks)]  # without what fills up
    return {n.method: jax.tree.leaves(end) for n, end in zip(group.networks, ends, strict=True)}


def with_labels(lab, monkeypatch, domain, change):
    """The same groups where the training labels of a domain were changed."""
    load = sources.load

    def changed(name, path, **options):
        source = load(name, path=path, **options)
        if path == lab.config[domain].options.path:
            train = source.splits["train"]
            splits = {**source.splits, "train": {**train, "label": change(train["label"])}}
            source = dataclasses.replace(source, splits=splits)
        return source

    monkeypatch.setattr(sources, "load", changed)
    other = assembled(lab.config)
    monkeypatch.setattr(sources, "load", load)
    return other


def by_the_program(group, other):
    """The other group, with its own data, trained by the compiled program of the first."""
    program = dataclasses.replace(group.program, dispatches=other.program.dispatches)
    members = [dataclasses.replace(member, program=program) for member in other.members]
    return dataclasses.replace(other, members=members)


# Slow, since its three programs take half a minute to compile: that a step's batch depends on no
# target label, and has none, is tested below.
@pytest.mark.slow
def test_target_labels_change_no_parameter(lab, seen, monkeypatch):
    lab, groups = lab

    def shuffle(labels):
        return np.random.default_rng(3).permutation(labels)

    target = with_labels(lab, monkeypatch, "target", shuffle)
    source = with_labels(lab, monkeypatch, "source", shuffle)
    compared = {}
    for i, group in enumerate(groups):
        ends = [
            end_of(other, by_the_program(group, others[i]))
            for other, others in ((lab, groups), target, source)
        ]
        for method, leaves in ends[0].items():
            compared[method] = [
                all(map(np.array_equal, leaves, other[method])) for other in ends[1:]
            ]
    # The labels of the source, on the other hand, matter to all but the last.
    assert compared.pop("target_only") == [False, True]
    assert set(compared) == {"source_only", "dann", "cdan"}
    assert all(equal == [True, False] for equal in compared.values()), compared
    image = (BATCH, 12, 12, 3)
    labelled = {"image": image, "label": (BATCH,)}
    assert {terms for terms, _ in seen} == {
        dann.terms_of(settings) for settings in lab.methods.values()
    }
    for terms, batch in seen:
        expected = {"source": labelled}
        if terms:
            expected["target"] = {"image": image}
        if "consistency" in terms:
            expected["target"]["changed"] = image
        assert batch == expected, terms


@pytest.mark.parametrize("terms", [("adversarial",), ("conditional", "consistency"), ("mmd",)])
def test_no_number_of_a_batch_depends_on_target_labels(terms):
    settings = get_config().base.to_dict() | {"colours": 0.5, "changes": 0.5, "size": 9}
    settings |= dict.fromkeys(terms, 1.0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 2, 12, 12, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, (5, 2)).astype(np.int32)
    hyper = {"means": jnp.ones((2, 3)), "range": 2.0, "domain": 0}
    prepare = jax.jit(dann.make_prepare(settings))

    def batch_of(labels):
        return prepare({"image": images, "label": labels}, hyper, jax.random.key(0))

    first, other = batch_of(labels), batch_of(labels + np.array([0, 100]))
    jax.tree.map(np.testing.assert_array_equal, first, other)
    np.testing.assert_array_equal(first["source"]["label"], labels[:, 0])
    assert set(first["target"]) == {"image", *(["changed"] if "consistency" in terms else [])}
    changed = batch_of(labels + np.array([1, 0]))
    np.testing.assert_array_equal(changed["source"]["label"], labels[:, 0] + 1)


@pytest.mark.parametrize("subtract", ["common", "own", "none"])
def test_images_as_the_network_sees_them(subtract):
    settings = get_config().base.to_dict() | {"subtract": subtract}
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 6, 6, 3)).astype(np.uint8)
    means = np.array([[10, 20, 30], [50, 80, 0]], np.float32)
    hyper = {"means": jnp.asarray(means), "range": jnp.float32(3), "domain": jnp.int32(1)}
    taken = {"common": (means.sum(0) / 2,) * 2, "own": means, "none": np.zeros((2, 3))}[subtract]
    stored = {"image": images, "label": np.zeros((5, 2), np.int32)}
    adversarial = settings | {"adversarial": 1.0}
    both = dann.make_prepare(adversarial)(stored, hyper, jax.random.key(0))
    for i, domain in enumerate(("source", "target")):
        expected = (images[:, i] - taken[i]) / 255 * 3
        np.testing.assert_allclose(both[domain]["image"], expected, atol=1e-5)
    alone = {"image": images[:, 1], "label": stored["label"][:, 1]}
    for prepare in (
        lambda *of: dann.make_prepare(settings)(*of)["source"],
        lambda stored, hyper, key: dann.make_prepare(settings)(stored, hyper, None),
    ):
        seen = prepare(alone, hyper, jax.random.key(0))["image"]
        np.testing.assert_allclose(seen, (images[:, 1] - taken[1]) / 255 * 3, atol=1e-5)


def test_networks_of_a_seed_see_the_same_source_images_in_the_same_order(lab):
    """Batch by batch, as a stream delivers them, over more than an epoch of the source."""
    lab, groups = lab
    parts = [lab.sources[domain].splits.values() for domain in SIZES]
    feed = make_feed("streamed", dict(enumerate(itertools.chain(*parts))), lab.placement)
    batches = {}
    for group in groups:
        hypers = group.hypers()
        with closing(feed.dispatches(hypers, range(12), steps=12, batch=BATCH)) as dispatches:
            images = np.asarray(next(dispatches)["image"])
        for i, n in enumerate(group.networks):
            batches[n.method] = images[i] if images[i].ndim == 5 else images[i][:, :, 0]
    plain, target = batches.pop("source_only"), batches.pop("target_only")
    assert set(batches) == {"dann", "cdan"}
    for method, images in batches.items():
        np.testing.assert_array_equal(images, plain, err_msg=method)
    # Images of the source they are, and those of its first epoch are all different.
    known = {image.tobytes() for image in pictures("source", "train")[0]}
    flat = plain.reshape(-1, *plain.shape[2:])
    assert {image.tobytes() for image in flat[: SIZES["source"]["train"]]} == known
    assert not known & {image.tobytes() for image in target.reshape(flat.shape)}


def test_networks_of_a_seed_begin_alike(lab):
    lab, groups = lab
    starts = {}
    for group in groups:
        states = jax.device_get(group.start()[0])
        for i, n in enumerate(group.networks):
            starts[n.method] = jax.tree.map(lambda leaf, i=i: leaf[i], states.params)
    plain = starts.pop("source_only")
    for method, params in starts.items():
        assert set(params) == set(plain)
        for name in params:  # CDAN's domain head reads more features
            if name.startswith(("encoder", "label")) or method != "cdan":
                jax.tree.map(np.testing.assert_array_equal, params[name], plain[name])


# What is told of a trained network.


def test_held_out_images_are_in_no_order_of_classes(lab):
    lab, _ = lab
    for domain in SIZES:
        places, labels = lab.held_out(domain)
        known = lab.ids[domain, "validation"]
        assert sorted(places) == list(known) != list(places)
        members = lab.placement.member_devices
        fetched = lab.feed.fetch(np.tile(places, (members, 1)))
        np.testing.assert_array_equal(np.asarray(fetched["label"])[0], labels)
    by_class = np.repeat(np.arange(10), 200)
    source = SimpleNamespace(splits={"validation": {"label": by_class}})
    places = np.arange(5000, 7000)
    listed = SimpleNamespace(
        sources=dict.fromkeys(SIZES, source),
        ids={(domain, "validation"): places for domain in SIZES},
    )
    for domain in SIZES:
        chosen, labels = dann.Adaptation.held_out(listed, domain)
        assert len(set(chosen)) == dann.HELD_OUT
        np.testing.assert_array_equal(by_class[chosen - 5000], labels)
        for half in np.split(labels, 2):
            assert np.bincount(half, minlength=10).min() > 25


def test_diagnosis_by_hand():
    """One feature, 0 or 1: 0 in 3/4 of the source, in 1/4 of the target. Right are the ones."""
    n, rng = 400, np.random.default_rng(0)
    ones = {"source": np.arange(n) % 4 == 3, "target": np.arange(n) % 4 != 3}
    labels = np.arange(n) % 3
    logits = 4.0 * np.eye(3)[np.where(ones["source"], labels, (labels + 1) % 3)]
    unlabelled = 3 * rng.standard_normal((n, 3))
    domain = {"source": np.where(np.arange(n) < 0.9 * n, 2.0, -1.0)}
    domain["target"] = np.where(np.arange(n) < 0.7 * n, -1.0, 2.0)
    inside = [
        {"features": ones[d][:, None].astype(float), "logits": x, "domain": domain[d]}
        for d, x in (("source", logits), ("target", unlabelled))
    ]
    told = validation.unlabelled_criteria(*inside, labels)
    with_domains = validation.unlabelled_criteria(*inside, labels, adversarial=True)
    assert with_domains == told | {"domain_accuracy": pytest.approx((0.9 + 0.7) / 2)}
    assert told["top_share"] == np.bincount(unlabelled.argmax(-1)).max() / n
    accuracy = adaptation.domain_accuracy(*(of["domain"] for of in inside))
    assert float(accuracy) == pytest.approx((0.9 + 0.7) / 2)
    assert told["neighbourhood_density"] == pytest.approx(density(unlabelled, 0.05), abs=1e-4)
    # Logistic regression on the standardised feature, z of -1 and +1: scikit-learn's C multiplies
    # the sum of the losses beside w^2 / 2. The odds of the target, by symmetry, are e^-w and e^w.
    counts = {-1: (150, 50), 1: (50, 150)}  # of source and target, in the halves that it learns

    def objective(w):
        losses = (
            source * np.logaddexp(0, w * z) + target * np.logaddexp(0, -w * z)
            for z, (source, target) in counts.items()
        )
        return 0.01 * sum(losses) + w**2 / 2

    w = minimize_scalar(objective, tol=1e-10).x
    assert 0.4 < w < np.log(3)  # shrunk; 1.1 would be the ratio of the densities
    weights = np.repeat(np.exp([-w, w]), [150, 50])
    right = weights[150:].sum() / weights.sum()
    assert told["importance_weighted_accuracy"] == pytest.approx(right, abs=1e-3)
    size = weights.sum() ** 2 / (weights**2).sum()
    assert told["effective_samples"] == pytest.approx(size, rel=1e-3)


def test_facts_tell_what_is_not_the_papers(lab):
    facts = lab[0].facts()
    common = "batch 4", "rate 0.02", "steps 4"
    expected = {
        "source only": common,
        "DANN": (*common, "adversarial 1"),
        "train on target": (*common, "labels target"),
    }
    for name, settings in expected.items():
        assert sorted(facts[f"Settings of {name}"].split(", ")) == sorted(settings)
    assert {"colours 0.5", "conditional 1"} < set(facts["Settings of CDAN+E"].split(", "))
    assert "target validation accuracies" in facts["Settings come from"]
    assert "Not read" not in facts


def test_the_report_tells_what_was_not_read(lab):
    partial = {
        domain: dataclasses.replace(source, omissions=f"{place} .heic")
        for place, (domain, source) in enumerate(lab[0].sources.items(), 1)
    }
    assert describe_omissions(*partial.values()) == "source: 1 .heic; target: 2 .heic"


# The default pair.


@pytest.mark.slow
def test_the_default_pair(tmp_path):
    """As a user has it: compiled with all optimizations."""
    environment = quick_environment(tmp_path / "caches")
    del environment["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    environment["XLA_FLAGS"] = ""
    workdir, streams = tmp_path / "run", tmp_path / "streams"
    streams.mkdir()
    with Launcher(streams, environment) as launcher:
        arguments = ["--config=configs/dann.py", f"--workdir={workdir}"]
        assert_done(launcher.start("dann", arguments).wait())
    assert {path.name for path in workdir.iterdir()} == FILES
    data = json.loads((workdir / "config.json").read_text())["data"]
    sizes = data["source"]["sizes"]
    assert sum(sizes.values()) == len(load_digits().target)
    assert data["target"]["sizes"] == sizes | {"train": 4 * sizes["train"]}
    found = {}
    for row in rows(workdir / "results.csv"):
        found.setdefault(row["method"], []).append(row)

    def mean(method, domain):
        assert len(found[method]) == 5
        return np.mean([float(row[f"{domain}_accuracy"]) for row in found[method]])

    assert mean("source_only", "source") > 0.95
    source_only, dann_, consistency, target_only = (
        mean(method, "target")
        for method in ("source_only", "dann", "dann_consistency", "target_only")
    )
    assert source_only < dann_ < consistency < target_only
    assert consistency > source_only + 0.2
    assert (
        "This run shows that **DANN + consistency** is above source only, recoloured"
        in (workdir / "report.md").read_text()
    )
