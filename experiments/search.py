"""Which settings are best? A search trains its trials as populations.

python -m experiments.search --config configs/search.py[:variant]

Any settings of `experiments/supervised.py`, by a grid, at random, by successive halving, Hyperband
or population-based training. Trials that differ in numbers alone are trained by one program; those
that go on, and copies, are copied on the devices. Validation examples alone steer; the winner is
trained again from fresh seeds, and then the test split is opened.
"""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.search import get_config
from experiments.harness import classification, recipe, single_source
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Multiple, Settings, SomeOf, TupleOf
from experiments.harness.spaces import SEARCHES, as_tuple, make_search, make_space, with_settings
from experiments.harness.study import Headline, conduct
from experiments.supervised import Supervised
from jaxdl import search
from jaxdl.data.source import Split
from jaxdl.report import predictions, search_figures
from jaxdl.report import search as reporting
from jaxdl.report.importance import importance
from jaxdl.report.search import NOT_SEARCHED, Result, SearchRound
from jaxdl.report.tables import write_rows
from jaxdl.search import NEW, Stretch
from jaxdl.train.groups import Group, Member, Program, to_trained
from jaxdl.train.loop import Trainer
from jaxdl.train.rounds import States, last_values, train_round

KINDS = {
    **classification.COMMON,
    "searches": SomeOf(SEARCHES, 1),
    **dict.fromkeys(("repetitions", "budget"), Count()),
    **dict.fromkeys(("levels", "eta"), Count(2)),
    **dict.fromkeys(("least", "interval"), (Count(), Multiple("steps_per_dispatch"))),
    "replaced": Between(0, 0.5),
    "factors": TupleOf(Between(0, above=True), "(0.8, 1.2)", 1),
}
SETTINGS = Settings(KINDS, ("options", "methods", "space"), ("data.workers",))
FEW = 8  # with fewer trials nothing is said of importance


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    search: str
    trial: int  # numbered through all repetitions
    seed: int


class Search(Supervised):
    """Searches, their winners on fresh seeds, and the methods that these are compared with."""

    settings, network = SETTINGS, Network
    headline = Headline(
        Result, "score", lambda n: n.trial != NOT_SEARCHED, averaged=("trial",), signed=True
    )

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        if any(value for _, value in self.trials):
            raise ValueError("config.base.sweep: a search tries values: put them into config.space")
        if namesakes := {name for name, _ in self.trials} & {*config.searches}:
            raise ValueError(f"config.methods.{namesakes.pop()} has the name of a search")
        self.compared = {(name, NOT_SEARCHED): m for (name, _), m in self.trials.items()}
        self.trials, self.space = dict(self.compared), make_space(config)
        self.plans = list(itertools.product(config.searches, range(config.repetitions)))
        rehearsals = {plan: search.rehearse(self.plan(*plan)) for plan in self.plans}
        self.costs = {kind: search.cost(rehearsals[kind, 0]) for kind in config.searches}
        for (kind, _), history in rehearsals.items():
            for stretch in search.trials(history):
                self.trials[kind, stretch.trial] = with_settings(config, stretch.settings)
        self.fresh_seeds = range(config.repetitions, config.repetitions + config.seeds)

    def plan(self, kind: str, repetition: int) -> search.Search:
        """A search before its first round."""
        return make_search(self.config, self.space, kind, repetition)

    @property
    def steps(self) -> int:
        """The steps of all networks."""
        fresh = sum(method.settings["steps"] for method in self.compared.values())
        fresh += len(self.plans) * self.config.base.steps
        return sum(self.costs.values()) * self.config.repetitions + self.config.seeds * fresh

    def build(self) -> None:
        """The data on the devices, and all programs, for their errors."""
        single_source.SingleSourceStudy.build(self)
        self.programs: dict[tuple, tuple[Program, classification.Starter]] = {}
        self.parts: dict[tuple[Program, int], Program] = {}  # up to a step
        self.states: States = {}
        networks = itertools.product(self.trials, range(self.fresh_seeds.stop))
        self.longest = max(len(self.draw_examples(Network(*n, s))[0]) for n, s in networks)
        for key, method in self.trials.items():
            program_key = recipe.program_key(method.settings)
            if program_key not in self.programs:
                try:
                    self.programs[program_key] = self.make(key)
                except ValueError as error:
                    raise ValueError(f"{key[0]}, trial {key[1]}: {error}") from None

    def train(self, trainer: Trainer) -> None:
        """Run all searches; then train their winners and the methods that these are compared with,
        from fresh seeds."""
        self.histories = {plan: self.search(trainer, *plan) for plan in self.plans}
        self.validation, self.members = {}, []
        courses = [(kind, self.course(history)) for (kind, _), history in self.histories.items()]
        for (name, trial), method in self.compared.items():
            courses.append((name, [Stretch(trial, {}, method.settings["steps"])]))
        ends = {stretch.steps for _, stretches in courses for stretch in stretches}
        for i, end in enumerate(sorted(ends)):  # a population is at one step
            runs = []
            for name, stretches in courses:
                if segment := next((s for s in stretches if s.steps >= end), None):
                    part = segment._replace(steps=end, parent=segment.trial if i else NEW)
                    runs += [(name, part, seed) for seed in self.fresh_seeds]
            groups, scores = self.advance(trainer, f"fresh-{i}", runs)
            self.validation |= scores
            for group in groups:
                if group.program in self.outputs:  # to the end
                    self.trained_groups.append(to_trained(group, self.states[group.networks[0]][0]))
                    self.members += group.members

    def search(self, trainer: Trainer, kind: str, repetition: int) -> search.History:
        """Run one search, from its first round to its last. All its networks have one seed."""
        numbers = itertools.count()

        def train(stretches: Sequence[Stretch]) -> list[float]:
            runs = [(kind, stretch, repetition) for stretch in stretches]
            name = f"{kind}-{repetition}-{next(numbers)}"
            return list(self.advance(trainer, name, runs)[1].values())

        return search.drive(self.plan(kind, repetition), train)

    def course(self, history: search.History) -> list[Stretch]:
        """The stretches of training of a search's winner, from its start on, as if none were
        copied."""
        trial = search.winner(history)[0].trial
        return [
            list(part)[-1]._replace(trial=trial)
            for _, part in itertools.groupby(search.ancestry(history, trial), lambda s: s.settings)
        ]

    def advance(
        self, trainer: Trainer, name: str, runs: Sequence[tuple[str, Stretch, int]]
    ) -> tuple[list[Group], dict[Network, float]]:
        """Train a stretch of each of several trials; their groups and validation scores."""
        members, parents = [], {}
        for kind, stretch, seed in runs:
            if stretch.trial != NOT_SEARCHED:
                self.trials[kind, stretch.trial] = with_settings(self.config, stretch.settings)
            members.append(self.member(Network(kind, stretch.trial, seed), stretch.steps))
            if stretch.parent != NEW:
                parents[members[-1].networks[0]] = Network(kind, stretch.parent, seed)
        size = self.config.members_per_round
        groups, self.states = train_round(name, members, parents, self.states, trainer, size)
        scores = last_values(trainer, groups, self.fields["images"], Network)
        return groups, {network: scores[network] for (network,) in (m.networks for m in members)}

    def member(self, network: Network, steps: int) -> Member:
        """The member that trains a network to a step."""
        key, seed = network[:2], network.seed
        program, start = self.programs[recipe.program_key(self.trials[key].settings)]
        if steps != program.steps:
            part = replace(program, steps=steps)
            program = self.parts.setdefault((program, steps), part)
        hyper = self.hyper(key, seed)  # now: the settings may change
        return Member([network], program, partial(start, seed, lambda: hyper), lambda: hyper)

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """``rounds.csv`` and ``results.csv``; fresh networks alone meet the test split."""
        self.tests, faults = tests, trainer.curves.faults(Network)
        self.rounds = [
            SearchRound(*plan, number, s.trial, s.parent, s.steps, score, json.dumps(s.settings))
            for plan, history in self.histories.items()
            for number, (stretches, scores) in enumerate(history)
            for s, score in zip(stretches, scores, strict=True)
        ]
        results = reporting.final_trials(self.rounds)
        repetitions = {(row.search, row.trial): row.repetition for row in self.rounds}
        parts = (
            self.feed,
            partial(self.examples, source="images", tests={}),
            lambda network, ids: self.stored_answers[ids],
        )
        if tests:
            parts = self.answered(tests["images"])
        for network, judged in self.judge(lambda trained: {"": parts}, faults).items():
            settings, score = self.trials[network[:2]].settings, predictions.score(judged[""])
            values = json.dumps({name: settings[name] for name in self.space})
            facts = settings["steps"], self.validation[network], score, values
            repetition = repetitions.get(network[:2], 0)
            results.append(Result(*network, "fresh", repetition, *facts))
        write_rows(trainer.folder / "rounds.csv", SearchRound, self.rounds)
        reporting.write_results(trainer.folder / "results.csv", results)

    def entry(self, network: Network) -> str | None:
        """Curves are those of fresh networks."""
        return network.search if network.seed in self.fresh_seeds else None

    def positions(self, rows: Sequence[Result | SearchRound]) -> np.ndarray:
        """The positions of settings in the space, [n, d]."""
        settings = [json.loads(row.settings) for row in rows]
        space = self.space.items()
        return np.array([[v.position(as_tuple(s[name])) for name, v in space] for s in settings])

    def draw(self, trainer: Trainer) -> None:
        """Trials, progress, importance, schedules; and the curves of fresh networks."""
        folder, score = trainer.folder, f"validation {self.score}"
        super(Supervised, self).draw(trainer)
        trials, results = {}, reporting.read_results(folder / "results.csv")
        for kind in self.config.searches:
            rows = reporting.ranked_trials(results, kind, 0)
            trials[kind] = self.positions(rows), np.array([row.validation for row in rows])
        axes = {
            name: [(values.position(v), reporting.text(v)) for v in values.grid(3)]
            for name, values in self.space.items()
        }
        search_figures.parallel_coordinates(trials, axes, score, folder / "parallel.png")
        courses: dict[str, list[np.ndarray]] = {}
        for kind, repetition in self.plans:
            size = trainer.clock.by_population, self.config.steps_per_dispatch
            course = reporting.progress(
                trainer.curves.records, f"{kind}-{repetition}-", self.fields["images"], *size
            )
            courses.setdefault(kind, []).append(course)
        search_figures.best_so_far(courses, score, folder / "best.png")
        if shares := self.shares():
            search_figures.importances(shares, folder / "importance.png")
        for kind, line in self.lines().items():
            rounds = [row for row in self.rounds if row[:2] == (kind, 0)]
            logarithmic = [name for name, values in self.space.items() if values.log]
            search_figures.schedules(rounds, line, logarithmic, folder / "schedules.png")

    def shares(self) -> dict[str, dict[str, float]]:
        """Each setting's share in the variance of the first round's scores, by search."""
        shares = {}
        for kind in self.config.searches:
            rows = [row for row in self.rounds if row[:3] == (kind, 0, 0)]
            if len(rows) >= FEW:
                scores = np.array([row.validation for row in rows])
                values = importance(self.positions(rows), scores).tolist()
                shares[kind] = dict(zip(self.space, values, strict=True))
        return shares

    def lines(self) -> dict[str, list[SearchRound]]:
        """The rounds that led to the winner of population-based training."""
        if "pbt" not in self.config.searches:
            return {}
        history = self.histories["pbt", 0]
        line = search.ancestry(history, search.winner(history)[0].trial)
        rows = {(row.trial, row.steps): row for row in self.rounds if row[:2] == ("pbt", 0)}
        return {"pbt": [rows[stretch.trial, stretch.steps] for stretch in line]}

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config, base = self.config, declared.method(self.config).settings
        usual = declared.neutral(get_config().base) | {name: base[name] for name in self.space}
        settings = {name: method.settings for (name, _), method in self.compared.items()}
        others = {name: base[name] for name in base if name not in self.space}
        kind = "images" if self.inputs == "image" else "examples"
        facts = {
            "Data": self.describe_data(f"{len(self.ids['images', 'train']):,} training {kind}"),
            "Space": ", ".join(f"{name} {value}" for name, value in config.space.items()),
            "All other settings": declared.describe(base, usual),
            **declared.describe_changes(settings, others),
            **facts,
        }
        return reporting.report(
            reporting.read_results(trainer.folder / "results.csv"),
            config.baseline,
            facts,
            score=self.score,
            split=config.report_on,
            costs=self.costs,
            shares=self.shares(),
            lines=self.lines(),
        )


study = partial(conduct, Search)

if __name__ == "__main__":
    most = operator.attrgetter("members_per_round")
    run(study, "search", get_config(), members=most, free=SETTINGS.free)
