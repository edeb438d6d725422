"""The benchmark of scale: what it times is what it says, and its arithmetic is right."""

import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import scale as ours
from experiments.benchmark.turns import Row
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.report.tables import read_rows
from jaxdl.train.interruption import StopFlag
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, cells, stand_in


@pytest.fixture
def little(monkeypatch) -> ConfigDict:
    """A small network, one on each of two devices."""
    monkeypatch.setitem(MODELS, "digit_net", lambda k, **_: ConvNet((), (3,), k))
    monkeypatch.setattr(ours, "cores", lambda: 2)
    config = configs.get_config("scale")
    config.rounds, scale = 2, config.scale
    scale.members, scale.steps, scale.saves, scale.seconds_between_saves = 1, 2, 3, 1e-6
    study, scale.accelerator_members = scale.study, (1, 4)
    study.model, study.batch, study.steps_per_dispatch, study.steps = "digit_net", 4, 2, 100
    return config


def test_networks_on_one_device_and_on_two(little, tmp_path, monkeypatch):
    """Each device has as many, and trains them as one alone does; saves are counted."""
    make_noise, programs = ours.make_noise, {}

    def compile_once(study, *sizes):
        if sizes not in programs:
            programs[sizes] = make_noise(study, *sizes)
        return programs[sizes]

    monkeypatch.setattr(ours, "make_noise", compile_once)
    contender = ours.make_cores(tmp_path, little)
    pieces = {kind: piece[:2] for kind, piece in contender.slices.items()}
    assert pieces == {"1 device": (1, 2), "2 devices": (2, 2)}
    assert set(contender.answers[ours.BUSY]()) == set(pieces)
    # Every dispatch takes longer than the interval, so all but the last are followed by a save.
    saved, unsaved = (contender.answers[kind]() for kind in (ours.SAVED, ours.UNSAVED))
    assert saved.steps == unsaved.steps
    assert len(saved.waits) == saved.steps / 4 - 1 >= 3
    assert unsaved.waits == []
    assert min(saved.last, unsaved.last, *saved.waits) > 0
    assert saved.training > sum(saved.waits)
    assert not list(tmp_path.iterdir())

    states = {}
    for devices in (1, 2):
        noise = ours.make_noise(little.scale.study, devices, devices, 2)
        states[devices], _ = noise.training(*noise.start(), noise.data)
        leaves = jax.tree.leaves(states[devices].params)
        assert {len(leaf.sharding.device_set) for leaf in leaves} == {devices}

    def compare(alone, beside):
        np.testing.assert_allclose(alone[0], beside[0], rtol=1e-5, atol=1e-6)

    jax.tree.map(compare, states[1].params, states[2].params)


STUDY = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1].removeprefix("--workdir="))
signal.signal(signal.SIGINT, lambda *_: Path(os.environ["NOTE"]).write_text("stopped"))
time.sleep(0.2)
folder.mkdir()
with open(folder / "metrics.jsonl", "w") as curves:  # a file without lines is not a step
    time.sleep(0.2)
    curves.write("{}\\n")
signal.pause()
"""


def test_a_start_is_timed_until_there_are_lines(tmp_path):
    note, scratch = tmp_path / "note", tmp_path / "scratch"
    scratch.mkdir()
    command = (sys.executable, "-c", STUDY)
    assert 0.4 <= ours.first_line(command, scratch, {"NOTE": str(note)}) < 20
    assert note.read_text() == "stopped"
    assert not list(scratch.iterdir())


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="no step was made: out of luck"):
        ours.first_line((sys.executable, "-c", "exit('out of luck')"), tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_the_command_is_the_default_study_s(tmp_path, monkeypatch):
    """But for when its lines are written; with caches that stay from start to start."""
    called = []
    monkeypatch.setattr(ours, "first_line", lambda *args: called.append(args))
    monkeypatch.chdir(tmp_path)
    contender = ours.make_start(tmp_path.relative_to(tmp_path), None)
    contender.answers[ours.COLD]()
    contender.answers[ours.WARM]()
    (command, scratch, environment), second = called
    assert second == (command, scratch, environment)
    study = configs.get_config("scale").scale.study
    assert study.variant == "default"
    settings = dict(word.split("=") for word in command[4:])
    assert study.steps / int(settings["--config.steps_per_dispatch"]) == int(
        settings["--config.dispatches_per_evaluation"]
    )
    assert scratch == tmp_path.resolve()
    folders = {environment[name] for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")}
    assert len(folders) == 2 and all(folder.startswith(str(scratch)) for folder in folders)


def test_operations_of_a_step(little, monkeypatch):
    """Of the products alone, by hand; what is done to single numbers comes on top."""
    study = little.scale.study
    convolutions = (Conv(16, padding="VALID"),)
    monkeypatch.setitem(MODELS, "digit_net", lambda k, **_: ConvNet(convolutions, (32,), k))
    study.batch = 32
    positions, inputs, hidden, classes = 18 * 18, 18 * 18 * 16, 32, ours.CLASSES
    convolution = 2 * positions * 3 * 3 * 16  # forwards, and for the kernel's gradient
    dense = 3 * (inputs * hidden + hidden * classes)  # and for that of what goes in
    products = 2 * study.batch * (convolution + dense)
    single = 100 * (study.batch * inputs + inputs * hidden)
    assert products < ours.step_flops(study) < products + single


# --- the report --------------------------------------------------------------------------------


class Measured(StandIn):
    """Two devices are twice as fast as one; four networks on an accelerator as one alone."""

    MS = {  # noqa: RUF012
        ours.make_cores: {"1 device": 1.0, "2 devices": 0.5},
        ours.make_accelerator: {"1": 1.0, "4": 0.5},
    }
    ANSWERS = {  # noqa: RUF012
        ours.SAVED: ours.Fitted(2, 1.1, 100, [0.2, 0.3, 0.9], 0.8),
        ours.UNSAVED: ours.Fitted(2, 1.0, 100, [], 0.7),
        ours.BUSY: {"1 device": 1.25, "2 devices": 2.0},
        ours.COLD: 40.0,
        ours.WARM: 9.0,
        # 1 Gflop a step: 1,000 steps a second are 1e12 FLOP/s, of 156e12 and 312e12.
        ours.ABOUT: ("NVIDIA A100-SXM4-80GB", 1e9),
    }

    def make_sizes(self):
        return dict.fromkeys(self.MS.get(self.make, {}), (1, 2))

    def time(self, kind):
        return self.MS[self.make][kind]

    def ask(self, question):
        return self.ANSWERS[question]


@pytest.fixture
def measured(monkeypatch):
    stand_in(monkeypatch, Measured)
    monkeypatch.setattr(ours.turns, "in_new_process", lambda function: "cpu")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_report(little, tmp_path, measured, monkeypatch, platform):
    monkeypatch.setattr(ours.turns, "in_new_process", lambda function: platform)
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)  # it compares with no one
    report = benchmark.study(little, tmp_path, StopFlag())
    lines = cells(report)
    assert "throughput of 2 devices: at least 1.7 times one's: met, 2.00 (2.00–2.00)." in report
    # The middle one of .2, .3 and .9 s, of the 20 s between the study's saves.
    assert "% of training that waits for saves: below 2: met, 1.50 (1.00–4.50)." in report
    assert "programs cached: at most 4: NOT met, 9.00 (9.00–9.00)." in report
    assert ["2 devices", "2000.00 (2000.00–2000.00)", "2.00 (2.00–2.00)", "2.00"] in lines
    assert [ours.SAVED, "11.00 (11.00–11.00)", "1.10 (1.10–1.10)"] in lines
    assert [ours.SAVE, "300.00 (200.00–900.00)", "–"] in lines
    assert [ours.LAST, "700.00 (700.00–700.00)", "–"] in lines
    assert "40.0 s with empty caches" in report and "each of 6 asynchronous" in " ".join(
        report.split()
    )
    on_gpu = ["4", "2,000", "2.00 (2.00–2.00)", "1.28%", "0.64%"]
    assert (on_gpu in lines) == (tmp_path / ours.FIGURE).exists() == (platform == "gpu")
    assert (ours.NONE in report) == (platform == "cpu")
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * (2 + 2 + 3 + 1 + 1 + 2 * (platform == "gpu"))
    trained = [row.kind for row in rows if row.kind in (ours.SAVED, ours.UNSAVED)]
    assert trained == [ours.UNSAVED, ours.SAVED, ours.SAVED, ours.UNSAVED]
    assert (tmp_path / "report.md").read_text() == report


def test_goals_that_are_missed_or_not_measured(little):
    rows = [Row(ours.CORES, "1 device", 1, 1.0, 0), Row(ours.CORES, "2 devices", 2, 0.6, 0)]
    rows.append(Row(ours.START, ours.WARM, 1, 4000.0, 0))
    scaling, waiting, start = ours.goals(little, rows)
    assert scaling.endswith(": NOT met, 1.67 (1.67–1.67).")
    assert waiting.endswith(": NOT met, –.")
    assert start.endswith(": met, 4.00 (4.00–4.00).")
    waits = [Row(ours.CORES, ours.SAVE, 2, ms, 0) for ms in (400.0, 400.0)]
    assert ours.goals(little, rows + waits)[1].endswith(": NOT met, 2.00 (2.00–2.00).")


def test_peaks_of_unknown_machines_are_not_guessed(little):
    rows = [Row(ours.FAST, str(n), n, 1.0, 0) for n in (1, 4)]
    table, _ = ours.describe_accelerator(little, rows, "NVIDIA H200 NVL", 1e9)
    assert table.count("–") - table.count("(1.00–1.00)") == 2 * 2
    table, _ = ours.describe_accelerator(little, rows, "NVIDIA H100 80GB HBM3", 4947e8)
    assert table.count("100.00%") == table.count("50.00%") == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale.devices": 3}, "of 2 here"),
        ({"scale.devices": 1}, "each is a core"),
        ({"scale.members": 0}, "config.scale.members must be at least 1"),
        ({"scale.seconds_between_saves": 0.0}, "above 0"),
        ({"scale.accelerator_members": (0, 1)}, "no tuple such as"),
        ({"scale.study.model": "alexnet"}, "alexnet"),
    ],
)
def test_wrong_settings_are_one_line(little, tmp_path, measured, change, words):
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)
