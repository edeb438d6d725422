"""A study called from Python: in any thread, within a running loop, again in the same process."""

import asyncio
import signal
import threading

import jax
import pytest

from configs.pinn import get_config as pinn_config
from configs.transferability import get_config
from experiments import pinn, transferability
from experiments.harness.run import UserError
from jaxdl.train.interruption import Interrupted, StopFlag


@pytest.fixture
def config():
    """Two networks, of which each step is a dispatch."""
    config = get_config("digits")
    config.schedule.warmup = 0
    config.seconds_between_saves = 0.0
    config.update({"model": "mlp", "seeds": 1, "steps": 2, "steps_per_dispatch": 1})
    config.treatments = ()
    return config


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.usefixtures("quick_figures")
def test_it_stops_in_a_thread_and_goes_on_in_the_running_loop(config, tmp_path):
    """As a notebook does it, whose cells run within a loop."""
    before, stop, workdir = handlers(), StopFlag(), tmp_path / "new" / "run"

    def begin():
        stop.received = signal.SIGINT  # before the first step
        with pytest.raises(Interrupted):
            transferability.study(config, workdir, stop)
        assert handlers()[1] == before[1]

    async def cells():
        await asyncio.to_thread(begin)
        mine = handlers()
        report = transferability.study(config, workdir, stop)
        assert handlers() == mine
        return report

    report = asyncio.run(cells())
    assert report == (workdir / "report.md").read_text(encoding="utf-8")
    assert handlers() == before
    again = []
    thread = threading.Thread(
        target=lambda: again.append(transferability.study(config, workdir, StopFlag()))
    )
    thread.start()
    thread.join()
    assert again == [report]


def test_wrong_settings_are_an_error_that_python_code_can_catch(config, tmp_path):
    config.steps = 0
    with pytest.raises(UserError, match=r"^config\.steps must be at least 1"):
        transferability.study(config, tmp_path, StopFlag())


def test_precision_is_what_it_was_before(tmp_path):
    config, seen = pinn_config(), []
    config.seeds = 0
    assert not jax.config.jax_enable_x64

    class Config:
        """Asks whether numbers are double when the study first reads a setting."""

        def __getattr__(self, name):
            seen.append(jax.config.jax_enable_x64)
            return getattr(config, name)

        def __getitem__(self, name):
            return getattr(self, name)

    with pytest.raises(UserError, match="seeds"):
        pinn.study(Config(), tmp_path, StopFlag())
    assert seen[0] and not jax.config.jax_enable_x64
