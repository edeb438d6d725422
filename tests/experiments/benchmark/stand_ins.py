"""What the tests of the benchmark share: workers that are not there, and packages."""

import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.harness.run import UserError
from jaxdl.train.interruption import StopFlag


class StandIn:
    """A worker without a process; tests give speeds and answers."""

    def __init__(self, setup, config):
        self.setup, self.config = setup, config
        self.make = getattr(setup.make, "func", setup.make)
        self.sizes = self.make_sizes()
        self.first_seconds = dict.fromkeys(self.sizes, 1.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def stand_in(monkeypatch, worker):
    """Let stand-ins be measured, as if all packages were installed."""
    monkeypatch.setattr(benchmark, "Worker", worker)
    monkeypatch.setattr(benchmark, "find_spec", lambda name: True)
    monkeypatch.setattr(benchmark, "version", lambda name: "1.0")


def assert_refused(config, folder, words):
    """One line with these words, nothing written."""
    with pytest.raises(UserError, match=words) as refusal:
        benchmark.study(config, folder, StopFlag())
    assert "\n" not in str(refusal.value)
    assert not list(folder.iterdir())


def cells(report):
    """The cells of all lines of a report's tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines()]
