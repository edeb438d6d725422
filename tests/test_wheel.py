"""A wheel of the project is all that a study needs, in any folder."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.experiments.launcher import quick_environment

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_runs_a_study_in_another_folder(tmp_path):
    """Built from a copy, for nothing may be left beside the source. The environment is fresh, but
    for the packages that the wheel depends on, which are those of this one."""
    source, elsewhere, venv = (tmp_path / name for name in ("source", "elsewhere", "venv"))
    elsewhere.mkdir()
    for name in ("jaxdl", "experiments", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= quick_environment(tmp_path / "caches")

    def run(*command):
        options = {"capture_output": True, "text": True, "cwd": elsewhere, "env": environment}
        ended = subprocess.run([*map(str, command)], **options)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
        return ended.stdout

    run(sys.executable, "-m", "venv", "--without-pip", venv)
    pip, python = (sys.executable, "-m", "pip", "--disable-pip-version-check"), venv / "bin/python"
    # What builds it is there already, or else pip fetches it.
    recent = int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    run(*pip, "wheel", source, "--no-deps", "-w", tmp_path, *["--no-build-isolation"] * recent)
    (wheel,) = tmp_path.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[:-1]
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("jaxdl", "experiments", "configs"):
        file = run(python, "-c", f"import {name}; print({name}.__file__)")
        assert Path(file).is_relative_to(packages)
    assert "supervised: What trains" in run(python, "-m", "experiments")
    settings = {"methods": {"one": {}}, "baseline": "one", "seeds": 1}
    settings |= {"base.model": "mlp", "base.steps": 100}
    arguments = (f"--config.{name}={value}" for name, value in settings.items())
    report = run(python, "-m", "experiments.supervised", *arguments)
    folder = elsewhere / "runs" / "supervised-default"
    assert report.strip() == (folder / "report.md").read_text().strip()
    assert (folder / "results.csv").exists() and (folder / "report.html").exists()
