"""Wrong settings, arguments and configurations end a run before it begins, in one line."""

import signal

import pytest

from tests.experiments.launcher import assert_refused
from tests.experiments.tiny import contents


@pytest.mark.parametrize(
    "arguments, words",
    [
        pytest.param("foo=1", ["config.foo"], id="unknown key"),
        pytest.param("data.foo=1", ["config.data.foo"], id="unknown inner key"),
        pytest.param("steps.foo=1", ["config.steps is a value"], id="key of a value"),
        pytest.param("steps=abc", ["config.steps=abc: give a whole number"], id="no number"),
        pytest.param("steps=1.5", ["config.steps=1.5: give a whole number"], id="no integer"),
        pytest.param("steps=None", ["config.steps", "None"], id="none"),
        pytest.param("steps=0", ["config.steps"], id="no steps"),
        pytest.param("steps=-2", ["config.steps"], id="negative steps"),
        pytest.param("seeds=0", ["config.seeds"], id="no seeds"),
        pytest.param("batch=0", ["config.batch"], id="no batch"),
        pytest.param("members_per_round=0", ["config.members_per_round"], id="no members"),
        pytest.param("evaluation_batch=-1", ["config.evaluation_batch"], id="evaluation"),
        pytest.param("optimizer.learning_rate=x", ["rate=x: give a number"], id="no rate"),
        pytest.param("image.flip=maybe", ["flip=maybe: give True or False"], id="no truth"),
        pytest.param(
            "splits=(1,", ["config.splits=(1,: give a tuple such as", "never closed"], id="no tuple"
        ),
        pytest.param("data=3", ["config.data=3: give a section"], id="a number for a section"),
        pytest.param("data.name=mnist", ["config.data.name", "digits"], id="unknown data"),
        pytest.param("data.options.train=3", ["train"], id="unknown option"),
        pytest.param("data.options.sed=1", ["is it --config.data.options.seed?"], id="misspelled"),
        pytest.param("data.options.seed=-1", ["seed"], id="negative seed"),
        pytest.param("model=vgg", ["vgg", "digit_net"], id="unknown model"),
        pytest.param("model=glyph_net", ["glyph_net"], id="model too large"),
        pytest.param(
            "model=tests.layered_networks:doubling",
            ["config.model=tests.layered_networks:doubling", "do not compute"],
            id="model with wrong layers",
        ),
        pytest.param("model=linear", ["config.model=linear", "nothing to cut"], id="one layer"),
        pytest.param("model=tests.layered_networks:Alone", ["axis_name"], id="statistics"),
        pytest.param("model=tests.layered_networks:wide", ["(1, 8), not (1, 5)"], id="outputs"),
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
        pytest.param("schedule.warmup=1.0", ["schedule.warmup", "below 1"], id="long warm-up"),
        pytest.param("schedule.warmup=-1.0", ["schedule.warmup", "-1"], id="negative warm-up"),
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
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["--foo", "stray", "--config.model", "--config="])
def test_bad_argument(argument, start, tmp_path):
    assert_refused(start(tmp_path, argument).wait(), argument.strip("-="))


@pytest.mark.parametrize(
    "text, words",
    [
        pytest.param("def get_config(:\n", ["line 1"], id="syntax"),
        pytest.param("x = 1\n", ["it has no function get_config()"], id="no get_config"),
        pytest.param("x = 1\ny = z\n", ["mine.py: line 2: NameError: name 'z'"], id="no name"),
        pytest.param(
            "from configs.transferability import get_config as usual\n"
            "def get_config():\n    config = usual()\n    config.sedes = 3\n    return config\n",
            ["there is no setting config.sedes: is it config.seeds? configs/transferability.py"],
            id="misspelled setting",
        ),
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
        pytest.param(
            "configs/pinn.py:heat",
            ["a configuration of pinn: python -m experiments.pinn --config=configs/pinn.py:heat"],
            id="another study",
        ),
        pytest.param("configs/transferability.py:foo", ["foo", "quick"], id="variant"),
        pytest.param(
            "configs/transferability.py:folder", ["config.data.options: which folder"], id="no path"
        ),
        pytest.param("configs/transferability.py:npz", ["which file", "path"], id="no archive"),
        pytest.param("configs/transferability.py:tfds", ["which data set"], id="no data set"),
        pytest.param("configs/transferability.py:imagenet", ["which folder"], id="no ImageNet"),
    ],
)
def test_no_such_config(config, words, start, tmp_path):
    ended = start(tmp_path, config=config).wait()
    assert_refused(ended, *words)


@pytest.mark.parametrize("path", ["{file}", "{file}/under/it", "/proc/run"])
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
