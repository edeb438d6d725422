"""What starts studies, and one finished run, the same for all files."""

import fcntl
import json
import shutil
import textwrap
from functools import partial

import jax
import pytest
from matplotlib.figure import Figure

from experiments.harness import classification
from jaxdl.train.parallel import make_placement
from tests.experiments.launcher import Ended, Launcher, quick_environment, save_nothing
from tests.experiments.tiny import FIGURES, WATCH, tiny


@pytest.fixture(scope="module")
def two_devices():
    """Studies that run in this process have two of its devices."""
    with pytest.MonkeyPatch.context() as patch:
        restricted = partial(make_placement, devices=jax.devices()[:2])
        patch.setattr(classification, "make_placement", restricted)
        yield


@pytest.fixture
def quick_figures(monkeypatch):
    """For runs beside one whose figures are drawn."""
    monkeypatch.setattr(Figure, "savefig", save_nothing)


@pytest.fixture(scope="session")
def environment(common_folder):
    return quick_environment(common_folder)


@pytest.fixture(scope="session")
def launcher(environment, tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("streams"), environment) as launcher:
        yield launcher


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def finished(start, common_folder):
    """The workdir of an uninterrupted run, which no test disturbs, and how it ended; beside the
    folder is what was in it when test images were opened. The first worker that needs it runs it
    for all."""
    folder = common_folder / "whole"
    folder.mkdir(exist_ok=True)
    workdir, outcome = folder / "run", folder / "outcome.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            outcome.write_text(json.dumps(start(workdir, prelude=WATCH).wait()))
    return workdir, Ended(*json.loads(outcome.read_text()))


@pytest.fixture
def unreported(finished, tmp_path):
    """A copy of the finished run's workdir as a kill before the report leaves it."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for name in ("report.md", *FIGURES):
        (workdir / name).unlink()
    return workdir
