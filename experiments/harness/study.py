"""The course of a run, which is the same for all studies.

Settings are checked, the work folder is claimed, everything is trained, the test split is opened,
tables and figures are written, and the report.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments.harness import command_line, records
from experiments.harness.devices import describe_devices
from experiments.harness.headline import Headline
from experiments.harness.processes import say
from experiments.harness.progress import progress_bar
from experiments.harness.run import user_input
from experiments.harness.settings import Between, Count, Settings, check
from jaxdl.data.source import Source, Split, length
from jaxdl.report import figures
from jaxdl.report.page import write_page
from jaxdl.report.tables import write_atomically
from jaxdl.train import logs
from jaxdl.train.groups import Member
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Clock, Trainer


class Study(ABC):
    """Base class of studies; :func:`conduct` calls these methods in this order.

    ValueError and OSError of the first two are errors of the user's.
    """

    settings: ClassVar[Settings]
    network: ClassVar[type[tuple]]
    """The NamedTuple that names a network; its fields are the first of ``results.csv``."""
    headline: ClassVar[Headline]
    """The numbers by which runs are listed and compared."""
    sources: Mapping[str, Source] = {}
    """The data sets, by a name of their own."""
    opens_test: bool = True
    """Whether results are those of the test split."""
    identity: Mapping[str, Any] = {}
    """Identification of the data in ``config.json``."""
    members: Sequence[Member]
    """All members to train; made by :meth:`build`."""

    @property
    def steps(self) -> int:
        """The steps of all networks, for the progress bar."""
        return sum(len(member.networks) * member.program.steps for member in self.members)

    @abstractmethod
    def __init__(self, config: ConfigDict):
        """Check relations between settings; load the data."""

    @abstractmethod
    def build(self) -> None:
        """Make the networks and programs to train."""

    @abstractmethod
    def train(self, trainer: Trainer) -> None:
        """Train all networks; those already trained are read from their checkpoints."""

    @abstractmethod
    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Evaluate the networks and write the tables.

        Args:
          tests: the test split of every source; empty where ``opens_test`` is False.
        """

    @abstractmethod
    def draw(self, trainer: Trainer) -> None:
        """Draw the figures."""

    @abstractmethod
    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown.

        Args:
          facts: lines about the run for its head.
        """


def conduct(kind: type[Study], config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run a study to its end, from the start or from where it was stopped; returns the report."""
    start, report_path = time.monotonic(), workdir / "report.md"
    with user_input():
        records.check_study(workdir, name_of(kind))
        study = make_study(kind, config)
        if not report_path.exists():
            study.build()
            figures.check()  # no run may fail for a figure after hours of training
        claim(workdir, config, study.identity, kind.settings.computing)
        if omissions := describe_omissions(*study.sources.values()):
            say(f"not read: {omissions}")
        if report_path.exists():
            report = report_path.read_text(encoding="utf-8")
            if not (workdir / "report.html").exists():
                write_page(workdir, report)
            return report
    # There is something to save from here on.
    with records.recorded(workdir, name_of(kind), start) as starts, stop:
        with progress_bar(study.steps) as progress:
            trainer = make_trainer(config, workdir, stop, progress)
            study.train(trainer)
        # Everything is trained and chosen: here, and nowhere before, the test images are read.
        test_sources = study.sources.items() if study.opens_test else ()
        tests = {name: source.test.open() for name, source in test_sources}
        began = time.monotonic()
        study.measure(trainer, tests)
        trainer.clock.evaluation += time.monotonic() - began
        study.draw(trainer)
        code = {"Code": records.describe_code(starts)}
        times = {"Time": describe_time(trainer.clock, time.monotonic() - start, starts[:-1])}
        report = study.report(trainer, code | times | describe_run(trainer, study))
        write_page(workdir, report)
        write_atomically(report_path, report)
        return report


def name_of(kind: type[Study]) -> str:
    """The name of a study: that of its file."""
    module = sys.modules[kind.__module__]  # "__main__" in a program
    return Path(getattr(module, "__file__", kind.__name__)).stem


def make_study(kind: type[Study], config: ConfigDict) -> Study:
    """A study with checked settings.

    Raises:
      ValueError: for a wrong setting.
      OSError: if data cannot be read.
    """
    check(config, {**kind.settings.kinds, **COMMON})
    return kind(config)


COMMON = {"checkpoints": Count(), "seconds_between_saves": Between(0)}
"""Settings of every study."""


def make_trainer(
    config: ConfigDict, workdir: Path, stop: StopFlag, progress: Callable[[str, int], None]
) -> Trainer:
    """The trainer with the options of configuration and command line."""
    # A study that is called from Python has no command line.
    options = {
        name: flags.FLAGS[name].value for name in command_line.OPTIONS if name in flags.FLAGS
    }
    first, _, last = (options.get("profile") or "0:0").partition(":")
    return Trainer(
        workdir,
        stop,
        progress,
        config.seconds_between_saves,
        checkpoints=config.checkpoints,
        events=bool(options.get("tensorboard")),
        profiled=range(int(first), int(last)),
        debug=bool(options.get("debug")),
        say=say,
    )


def claim(
    workdir: Path, config: ConfigDict, data: Mapping[str, Any], computing: Collection[str] = ()
) -> None:
    """Write ``config.json``, or check that the existing one is the same.

    Args:
      data: identification of the run's data.
      computing: settings that change how, and not what, is computed: they may differ at a restart.

    Raises:
      ValueError: if the folder belongs to another configuration, with the keys that differ.
    """
    path = workdir / "config.json"
    new = json.loads(json.dumps({"config": config.to_dict(), "data": dict(data)}))
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(old["config"], dict):
                raise ValueError("it holds no configuration")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {workdir} to start anew"
            ) from None
        differ = sorted(_differences(old, new, (*COMPUTING, *computing)))
        differ.sort(key=lambda line: not line.startswith("variant "))  # which explains the rest
        if differ:
            rest = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
            raise ValueError(
                f"{workdir} holds a run that differs in {', '.join(differ[:5])}{rest}: "
                "choose another --workdir, or delete that folder"
            )
    elif any((workdir / "checkpoints").glob("*/*")):
        raise ValueError(
            f"{path} is missing, which says what the checkpoints beside it are of: bring it back, "
            f"or delete {workdir} to start anew"
        )
    else:
        write_atomically(path, json.dumps(new, indent=2) + "\n")


COMPUTING = ("parallel", "checkpoints", "seconds_between_saves")
"""Settings of every study that may differ at a restart."""


def _differences(old: Any, new: Any, left_out: Collection[str], path: str = "") -> Iterator[str]:
    if path.removeprefix("config.") in left_out:
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield path.removeprefix("config.") + f" ({shorten(old)} there, {shorten(new)} now)"
        return
    for key in old.keys() | new.keys():
        inner = f"{path}.{key}".lstrip(".")
        values = (side.get(key, ABSENT) for side in (old, new))
        yield from _differences(*values, left_out, inner)


ABSENT = "nothing"


def shorten(value: Any) -> str:
    """A value in at most 60 characters."""
    text = str(value) or "empty"
    return text if len(text) <= 60 else f"{text[:59]}…"


def curve_panels(
    trainer: Trainer,
    kind: type[tuple],
    fields: Mapping[str, str],
    entry: Callable[[tuple], str | None],
    order: Callable[[tuple], Any] = lambda network: 0,
) -> dict[str, dict[str, list]]:
    """Curves for :func:`jaxdl.report.figures.curves`: a panel for each field that was logged.

    Args:
      fields: the panels' titles, by field.
      entry: the legend's entry of a network; None where it is not drawn.
      order: sort key of networks.
    """
    panels: dict[str, dict[str, list]] = {}
    curves = trainer.curves.by_network(kind)
    for network in sorted(curves, key=order):
        records = curves[network]
        for field, title in fields.items():
            lines = logs.series(records, field)
            if lines.size and (name := entry(network)) is not None:
                panels.setdefault(title, {}).setdefault(name, []).append(lines)
    return {title: panels[title] for title in fields.values() if title in panels}


def describe_source(source: Source) -> dict[str, Any]:
    """Identification of a data set in ``config.json``: a run with another one is refused."""
    sizes = {split: length(arrays) for split, arrays in source.splits.items()}
    return {
        "name": source.name,
        "version": source.version,
        "classes": source.class_names,
        "sizes": sizes | {"test": source.test.size},
        "fingerprint": source.fingerprint,
    }


def describe_omissions(*sources: Source) -> str:
    """Files of the data sets that were not read; empty if there are none."""
    return "; ".join(f"{source.name}: {source.omissions}" for source in sources if source.omissions)


def describe_run(trainer: Trainer, study: Study) -> dict[str, str]:
    """Lines about the run for the report: omitted files, diverged networks, devices, speed,
    memory."""
    clock, lines = trainer.clock, {}
    if omissions := describe_omissions(*study.sources.values()):
        lines["Not read"] = omissions
    if faults := trainer.curves.faults(study.network):
        lines["Diverged"] = "; ".join(
            f"{'/'.join(map(str, network))} at step {fault.step} in {fault.array}"
            for network, fault in faults.items()
        )
    lines["Device"] = describe_devices()
    if trainer.discrepancies:
        differences = trainer.discrepancies.values()
        lines["First losses"] = (
            f"of {len(differences)} of {len(clock.by_population)} population(s), computed "
            f"again by a plain program, differ by {max(differences):.0e} at most"
        )
    if clock.steps:
        rate = clock.steps / clock.training
        lines["Speed"] = f"{rate:,.0f} steps of networks a second"
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines["Memory at most"] = f"{host / 1e9:.1f} GB of the host" + (
        f", {max(peaks) / 1e9:.1f} GB of a device" if max(peaks) else ""
    )
    return lines


def describe_time(clock: Clock, seconds: float, earlier_starts: Sequence[records.Start]) -> str:
    """The total time of all starts of a run, in words. A start that was killed has no recorded
    time: with one among ``earlier_starts`` the sum is a lower bound, marked ≥."""
    line = (
        f"{seconds:.0f} s, {clock.compilation:.0f} s of them compilation, "
        f"{clock.training:.0f} s training, {clock.evaluation:.0f} s evaluation, "
        f"{clock.verification:.1f} s checking first losses, "
        f"{clock.saving:.1f} s waiting for checkpoints"
    )
    if not earlier_starts:
        return line
    training = sum(clock.by_population.values()) - clock.training
    recorded, least = records.total_seconds(earlier_starts)
    earlier = max(training, recorded)
    return (
        f"{least}{earlier + seconds:.0f} s: {least}{earlier:.0f} s before it was resumed, "
        f"{training:.0f} s of them training; then {line}"
    )
