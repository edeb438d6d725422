"""What is read of the command line and of the environment, without a study."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

import configs
from configs import transferability
from experiments.harness import devices
from experiments.harness.command_line import _last_of_each, _resolved, check_methods
from experiments.harness.study import claim

ROOT = Path(configs.__file__).parents[1]


def test_the_last_of_what_is_given_twice_counts():
    given = ["program", "--config.a=1", "-config.b", "2", "--config", "x.py:y", "--flag", "--flag"]
    again = ["--config.b=3", "--config.a", "-4", "--config=z.py", "stray", "--config.on"]
    assert _last_of_each([*given, *again]) == [
        *("program", "--flag", "--flag", "--config.b=3", "--config.a=-4", "--config=z.py"),
        *("stray", "--config.on"),
    ]


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
def test_a_tuple_given_twice_is_the_last(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'hidden': (1, 2), 'rate': 0.5})\n"
    )
    options = ["--config.hidden=30", "--config.rate", ".1", "--config.hidden", "(20, 10)"]
    argv, values = _last_of_each(["program", f"--config={file}", *options]), flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    assert values.config.to_dict() == {"hidden": (20, 10), "rate": 0.1}


def test_configurations_are_had_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shipped = Path(configs.__file__).parent / "dann.py"
    assert _resolved("configs/dann.py") == str(shipped)
    assert _resolved("./configs/dann.py:ablation") == f"{shipped}:ablation"
    assert _resolved("configs/none.py:x") == "configs/none.py:x"
    assert _resolved("dann.py") == "dann.py"
    assert _resolved("~/mine.py:x") == f"{tmp_path}/home/mine.py:x"
    Path("configs").mkdir()
    Path("configs/dann.py").touch()  # the user's own comes first
    assert _resolved("configs/dann.py") == "configs/dann.py"


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    updated = {}
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    return updated


def test_devices_that_xla_is_asked_for_are_not_silently_others(unset, monkeypatch):
    flag = "--xla_force_host_platform_device_count=4"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_other=1 {flag}")
    with pytest.raises(ValueError, match=f"XLA_FLAGS={flag} .* set JAX_NUM_CPU_DEVICES=4"):
        devices.use_cores(2)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    devices.use_cores(2)
    assert not unset
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "0")
    with pytest.raises(ValueError, match="at least 1"):
        devices.use_cores(2)


def test_cores_become_devices(unset):
    devices.use_cores(3)
    assert unset == {"jax_num_cpu_devices": 3}


@pytest.mark.parametrize("error", [RuntimeError("no 'cuda'\nand more"), AssertionError()])
def test_a_platform_that_is_missing_is_named(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match=r"cannot compute on JAX_PLATFORMS=.*set it to cpu$") as e:
        devices.check_platform()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("parallel", "members", "expected"),
    [
        ({}, 5, 5),
        ({"member": -1}, 5, 5),
        ({"member": -1}, 500, 64),
        ({"member": -1}, 0, 1),
        ({"member": -1}, -3, 1),
        ({"member": -1, "data": 2}, 5, 10),
        ({"member": -1, "data": 1}, 1, 1),
        ({"member": 8, "data": 2}, 5, 16),
        ({"member": 80, "data": 2}, 5, 64),
        ({"member": 2, "data": -1}, 5, 64),
    ],
)
def test_there_are_no_more_devices_than_share_the_work(parallel, members, expected, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 64)
    config = ConfigDict({"parallel": parallel}) if parallel else ConfigDict()
    assert devices.device_count(config, members) == expected


@pytest.mark.filterwarnings("ignore:the load_module")  # by which ml_collections reads a file
def test_a_method_that_there_is_not():
    """Beside those of the variant that is asked for."""
    argv = ["dann", "--config.methods.dann.adversarial=0.5"]
    check_methods(argv, "configs/dann.py")
    for change in ("dan={}", "dan.rate=1.0"):
        with pytest.raises(ValueError, match="no method 'dan', but dann, dann_consistency, sour"):
            check_methods([*argv, f"--config.methods.{change}"], "configs/dann.py")
    argv = ["dann", "--config=configs/dann.py:ablation", "--config.methods.target_only.rate=1.0"]
    with pytest.raises(
        ValueError, match=r"no method 'target_only', but .*padded, .*{'target_only'"
    ):
        check_methods(argv, "configs/dann.py")


def test_how_many_members_a_study_has():
    from experiments import dann, pinn
    from experiments.harness import classification
    from experiments.transferability import most_members

    config = transferability.get_config("digits")
    config.update({"seeds": 1, "splits": ("random",), "treatments": ()})
    assert most_members(config) == 2  # a base each way
    config.treatments = ("AnB", "BnB", "nonsense")
    assert most_members(config) == 6
    config.treatments = ("AnB", "AnB+")
    assert most_members(config) == config.members_per_round
    config.update({"seeds": 10**20, "treatments": ()})
    assert most_members(config) == config.members_per_round
    config = dann.get_config()
    config.seeds = 3
    assert classification.most_members(config) == 3 * len(config.methods)
    assert pinn.get_config().seeds == 5


@pytest.fixture
def claimed(tmp_path):
    config = ConfigDict({"variant": "a", "steps": 3})
    claim(tmp_path / "new" / "run", config, {"classes": [f"class {i}" for i in range(1000)]})
    return tmp_path / "new" / "run", config


def test_another_run_is_refused_in_few_words(claimed):
    folder, config = claimed
    classes = [f"other {i}" for i in range(1000)]
    config.variant = "b"
    with pytest.raises(ValueError) as error:
        claim(folder, config, {"classes": classes, "name": "x" * 1000})
    line = str(error.value)
    assert len(line) < 600 and "differs in variant (a there, b now), data.classes" in line
    assert "data.classes (['class 0', 'class 1'" in line
    assert "data.name (nothing there, xxxx" in line and "x…" in line
    for value in line.split("(")[1:]:
        for part in value.split(")")[0].replace(" now", "").split(" there, "):
            assert len(part) <= 60


def test_a_config_with_letters_of_any_alphabet_is_known_again(claimed):
    folder, config = claimed
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.variant = text["config"]["variant"] = "μ \udcfc"
    (folder / "config.json").write_text(json.dumps(text))
    claim(folder, config, text["data"])


def test_without_a_home_it_is_said_that_nothing_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(devices.cache, "folder", lambda: None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    devices.keep_programs()
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "no home folder" in line and "XDG_CACHE_HOME" in line


def test_jax_s_own_cache_may_be_below_the_home_folder(unset, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/programs")
    shortest = "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.delenv(shortest.upper(), raising=False)
    devices.keep_programs()
    assert unset == {"jax_compilation_cache_dir": "/somewhere/programs", shortest: 0}
    monkeypatch.setenv(shortest.upper(), "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/x")  # as it is
    unset.clear()
    devices.keep_programs()
    assert not unset


def test_what_jax_cannot_read_of_the_environment_is_one_line(tmp_path):
    """Before anything else: importing JAX is what fails."""
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.pinn", f"--workdir={tmp_path}/run"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "two", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: JAX_NUM_CPU_DEVICES=two: ")
    assert ended.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_ctrl_c_while_a_study_is_imported(tmp_path):
    command = [sys.executable, "-Ximporttime", "-m", "experiments.pinn", f"--workdir={tmp_path}/x"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as study:
        next(line for line in study.stderr if "jax.version" in line)
        study.send_signal(signal.SIGINT)
        *_, last = study.stderr
    assert (study.returncode, last) == (130, "stopped\n")
    assert not list(tmp_path.iterdir())


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
