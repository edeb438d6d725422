"""The report of the domain-adaptation study (Ganin & Lempitsky 2015), for one pair of domains.

Seeds are the samples. The networks of one seed are compared with each other, so that a difference
or a covered gap is a value a seed. A network that diverged, or whose target predictions collapsed
into one class, is left out of the means, and told of.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from jaxdl.report.tables import (
    MISSING,
    Estimate,
    bullets,
    confidence_interval,
    format_mean,
    format_number,
    markdown_table,
    mean_and_standard_error,
    read_rows,
    write_rows,
)
from jaxdl.types import DamagedFile

METHODS = {  # in the order of tables; others come by name before the last
    "source_only": "source only",
    "source_recoloured": "source only, recoloured",
    "dann": "DANN",
    "dann_consistency": "DANN + consistency",
    "cdan": "CDAN+E",
    "mmd": "MMD",
    "coral": "Deep CORAL",
    "entropy": "entropy minimisation",
    "idann": "iDANN",
    "vada": "VADA",
    "dirt_t": "DIRT-T",
    "target_only": "train on target",
}
PAIRS = {
    "mnist_to_mnist_m": "MNIST → MNIST-M",
    "syn_numbers_to_svhn": "SYN NUMBERS → SVHN",
    "svhn_to_mnist": "SVHN → MNIST",
    "syn_signs_to_gtsrb": "SYN SIGNS → GTSRB",
}
UNADAPTED = ("source_only", "source_recoloured")  # trained on the source alone
COLLAPSED = 0.9  # of the target predictions in one class
WON, LOST = 0.95, 0.55  # accuracy of a domain classifier
NEVER_ROSE = 0.1  # λ, of its height
MINIMAL_GAP = 0.02  # between source only and train on target, in which a share makes sense
ALIKE = 1e-9  # a standard error that is only rounding
FEW_SAMPLES = 100  # of which an accuracy has a standard error of up to 5 points


class Result(NamedTuple):
    """One trained network, a row of `results.csv`: accuracies on test images, NaN if diverged;
    that of a target without labels is NaN."""

    pair: str
    method: str
    seed: int
    source_accuracy: float
    target_accuracy: float


class Diagnosis(NamedTuple):
    """What is known of one trained network without target labels, a row of `diagnostics.csv`."""

    pair: str
    method: str
    seed: int
    adversarial: int  # 1 if it was trained with a domain classifier
    domain_accuracy: float  # of that, on held-out images, mean of both domains; NaN without
    reversal: float  # the largest λ in its curves, of the height it was to rise to; NaN if none
    top_share: float  # of the target test predictions that are in the most frequent class
    diverged_at: int  # the first step whose update was not finite; -1 never
    diverged_in: str  # the first array that was not
    neighbourhood_density: float  # of target validation images; higher is better
    importance_weighted_accuracy: float  # of source validation images; NaN if none
    effective_samples: float  # of those weights; NaN if none

    @staticmethod
    def unknown() -> dict[str, float]:
        """NaN for each number that a network may not have."""
        kinds = Diagnosis.__annotations__
        return {name: math.nan for name in kinds if kinds[name] is float}


class Published(NamedTuple):
    """A published target accuracy."""

    who: str
    pair: str
    method: str
    target_accuracy: float
    note: str = ""  # what makes it no match for the paper's networks


class Summary(NamedTuple):
    """What is told of a method: means over the seeds whose network is used, and the other seeds."""

    method: str
    source_accuracy: Estimate
    target_accuracy: Estimate
    gap_covered: Estimate  # by seed; empty where it is not computed
    networks: int  # that the means rest on
    collapsed: tuple[int, ...] = ()  # seeds
    diverged: tuple[int, ...] = ()


Row = TypeVar("Row", Result, Diagnosis)


def place_of(method: str) -> tuple[float, str]:
    """To sort methods by: source only first, train on target last, the unknown before it."""
    names = list(METHODS)
    return names.index(method) if method in METHODS else len(names) - 1.5, method


def name_of(method: str) -> str:
    """How tables and figures call a method."""
    return METHODS.get(method, method.replace("_", " "))


def _order(row: Result | Diagnosis | Summary) -> tuple:
    return (*place_of(row.method), *((row.pair, row.seed) if hasattr(row, "seed") else ()))


def _read(path: str | os.PathLike, kind: type[Row], limits: Mapping[str, float]) -> list[Row]:
    rows, seen = read_rows(path, kind), set()
    for row in rows:
        what = [f"{k} out of [0, {limits[k]:g}]" for k in limits if _outside(row, k, limits[k])]
        if row[:3] in seen:
            what.append("two rows for one network")
        if what:
            raise DamagedFile(f"{os.fspath(path)}: damaged table: {what[0]}: {row}")
        seen.add(row[:3])
    return rows


def _outside(row: tuple, field: str, limit: float) -> bool:
    value = getattr(row, field)
    return not (math.isnan(value) or 0 <= value <= limit)


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return _read(path, Result, {"source_accuracy": 1, "target_accuracy": 1})


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results, key=_order))


def read_diagnoses(path: str | os.PathLike) -> list[Diagnosis]:
    """Read `diagnostics.csv`; raises as `read_results` does."""
    shares = ("adversarial", "domain_accuracy", "top_share", "importance_weighted_accuracy")
    return _read(path, Diagnosis, dict.fromkeys(shares, 1) | {"effective_samples": math.inf})


def write_diagnoses(path: str | os.PathLike, diagnoses: Iterable[Diagnosis]) -> None:
    """Write `diagnostics.csv`, as `write_results` does."""
    write_rows(path, Diagnosis, sorted(diagnoses, key=_order))


def collapsed(diagnosis: Diagnosis) -> bool:
    """Whether at least .9 of the target predictions are in one class.

    No class of the pairs at hand has more than .2 of the images (SVHN's 1s; of the 43 signs, .06),
    so that such a network is wrong for at least .7 of them, however many classes there are. Shares
    from .5 on are told of in the report, but stay in the means: a network that was not adapted may
    well be that one-sided, and without it the mean would be too good.
    """
    return diagnosis.top_share >= COLLAPSED


def _diverged(result: Result, diagnosis: Diagnosis) -> bool:
    return diagnosis.diverged_at >= 0 or math.isnan(result.source_accuracy)


_Networks = dict[str, dict[int, tuple[Result, Diagnosis]]]  # by method, in order, and seed


def _join(results: Iterable[Result], diagnoses: Iterable[Diagnosis]) -> _Networks:
    results, diagnoses = list(results), list(diagnoses)
    by_network = {d[:3]: d for d in diagnoses}
    keys = {r[:3] for r in results}
    if len(keys) < len(results) or len(by_network) < len(diagnoses):
        raise ValueError("two rows for one network")
    if odd := sorted(keys ^ set(by_network)):
        raise ValueError(f"not both a result and a diagnosis of {odd[0]}, and {len(odd) - 1} more")
    if len(pairs := sorted({r.pair for r in results})) > 1:
        raise ValueError(f"a report is of one pair of domains, not of {', '.join(pairs)}")
    networks: _Networks = {}
    for r in sorted(results, key=_order):
        networks.setdefault(r.method, {})[r.seed] = r, by_network[r[:3]]
    return networks


def _used(networks: _Networks) -> _Networks:
    """Without those that collapsed or diverged."""
    return {
        method: {
            s: (r, d) for s, (r, d) in members.items() if not (collapsed(d) or _diverged(r, d))
        }
        for method, members in networks.items()
    }


def _unlabelled(used: _Networks) -> bool:
    """Whether the target has no labels: no network that is used has a target accuracy."""
    rows = [r for members in used.values() for r, _ in members.values()]
    return bool(rows) and all(math.isnan(r.target_accuracy) for r in rows)


def _target(networks: _Networks, method: str) -> dict[int, float]:
    return {s: r.target_accuracy for s, (r, _) in networks.get(method, {}).items()}


def _minus(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - b[seed] for seed, value in a.items() if seed in b}


def _gaps(used: _Networks) -> dict[int, float]:
    """Train on target minus source only, by seed."""
    return _minus(_target(used, "target_only"), _target(used, "source_only"))


def summarize(results: Iterable[Result], diagnoses: Iterable[Diagnosis]) -> list[Summary]:
    """Mean ± s.e. over seeds of both accuracies, and of the gap covered, by method.

    The gap covered is (method − source only) / (train on target − source only) of the target
    accuracies of a seed. It is computed only if the denominator is .02 or more in every seed that
    has one, and never for the two methods that define it.

    Raises:
      ValueError: two rows for one network, a result without diagnosis, or several pairs.
    """
    networks = _join(results, diagnoses)
    used = _used(networks)
    gaps, lower = _gaps(used), _target(used, "source_only")
    wide = bool(gaps) and min(gaps.values()) >= MINIMAL_GAP
    summary = []
    for method, members in networks.items():
        kept = [r for r, _ in used[method].values()]
        gains = _minus(_target(used, method), lower) if wide and not _bound(method) else {}
        lost = tuple(s for s, pair in members.items() if _diverged(*pair))
        summary.append(
            Summary(
                method,
                mean_and_standard_error([r.source_accuracy for r in kept]),
                mean_and_standard_error([r.target_accuracy for r in kept]),
                mean_and_standard_error([g / gaps[s] for s, g in gains.items() if s in gaps]),
                networks=len(kept),
                collapsed=tuple(
                    s for s, (_, d) in members.items() if collapsed(d) and s not in lost
                ),
                diverged=lost,
            )
        )
    return summary


def _bound(method: str) -> bool:
    return method in ("source_only", "target_only")


def _adapted(method: str) -> bool:
    return method not in (*UNADAPTED, "target_only")


def _control(method: str, used: _Networks, colours: Mapping[str, float]) -> str | None:
    """What a method is compared with, if there is anything.

    DANN, or else no adaptation, with images recoloured alike if there is such a one: what
    recolouring does alone is not the method's.
    """
    if method == "target_only":
        return None
    known = ("dann", *UNADAPTED) if _adapted(method) else ("source_only",)
    known = [m for m in known if m in used and m != method]
    alike = [m for m in known if colours.get(m, 0) == colours.get(method, 0)]
    return next(iter(alike or known), None)


# Words.


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _percent(*values: float) -> str:
    return ", ".join(format_number(x, 100) for x in values) + " %"


def _judged(x: Estimate) -> bool:
    """Whether there is an interval: not for one value, nor for several that are all alike."""
    return x.used > 1 and x.se > ALIKE


def _compare(what: str, x: Estimate, place: str) -> str:
    """Where the mean of these differences to a place lies, as far as 95% t intervals tell."""
    if not _judged(x):
        value = f"{format_number(x.mean, 100, signed=True)} points in "
        value += "one seed" if x.used == 1 else f"each of {x.used} seeds, which gives no interval"
        value = value if x.used else "too few seeds"
        return f"It cannot be judged how {what} compares with {place}: {value}."
    low, high = confidence_interval(x)
    side = "above" if x.mean > 0 else "below"
    opening = "This run shows that" if low > 0 or high < 0 else "This run does not show that"
    reach = " to ".join(format_number(bound, 100, signed=True) for bound in (low, high))
    mean = format_mean(x.mean, x.se, signed=True)
    return (
        f"{opening} {what} is {side} {place}: {mean} points (95% interval {reach}, {x.used} seeds)."
    )


def _match(method: str, published: str) -> bool:
    return _adapted(published) if _adapted(method) else published == method


def _compare_published(what: str, x: Estimate, published: Sequence[Published]) -> str:
    if not _judged(x):
        value = f"{_percent(x.mean)} in each of {x.used} seeds, which gives no interval"
        value = value if x.used > 1 else "too few seeds"
        return f"It cannot be judged how {what} compares with published numbers: {value}."
    low, high = confidence_interval(x)
    places = []
    for p in published:
        above, below = p.target_accuracy < low, p.target_accuracy > high
        side = "above" if above else "below" if below else "not shown to differ from"
        places.append(f"{side} {p.who}'s {name_of(p.method)} ({_percent(p.target_accuracy)})")
    reach = f"{format_number(max(low, 0.0), 100)} to {_percent(min(high, 1.0))}"
    return f"{what}, its mean in {reach} (95% interval, {x.used} seeds), is {'; '.join(places)}."


def findings(
    results: Iterable[Result],
    diagnoses: Iterable[Diagnosis],
    published: Sequence[Published],
    colours: Mapping[str, float],
) -> list[str]:
    """Each method against DANN, by seed, and against the published numbers, in words.

    DANN itself, without it every method, and any method whose images are recoloured as DANN's are
    not, is compared with source only, with images recoloured alike if there is such a one. A method
    is above or below where the two-sided 95% t interval over seeds excludes zero. Source only and
    train on target are compared with the published numbers of the same method, but for those on
    recoloured images, which none of the papers had; any other method with those of all other
    methods that have no note. Of a target without labels there is one sentence alone.

    Args:
      colours: how far the labelled images were recoloured, by method; 0 for others.
    """
    used = _used(_join(results, diagnoses))
    if _unlabelled(used):
        return [
            "The target has no labels: there is no target accuracy to judge a method by. The "
            "criteria below need none, and each of them can mislead."
        ]
    sentences, judged = [], 0
    for method in used:
        mine, name = _target(used, method), f"**{name_of(method)}**"
        if other := _control(method, used, colours):
            gain = mean_and_standard_error(list(_minus(mine, _target(used, other)).values()))
            strengths = [colours.get(m, 0) for m in (method, other)]
            differ = f" (recolouring {strengths[0]:g} against {strengths[1]:g})"
            differ *= strengths[0] != strengths[1]
            sentences.append(_compare(name, gain, f"{name_of(other)}{differ}, by target accuracy"))
            judged += _judged(gain)
        theirs = [p for p in published if not p.note and _match(method, p.method)]
        if theirs and _bound(method) and colours.get(method):
            sentences.append(
                f"{name} was trained on recoloured images, which no published number of it was: "
                "they are not compared."
            )
        elif theirs:
            mean = mean_and_standard_error(list(mine.values()))
            sentences.append(_compare_published(name, mean, theirs))
            judged += len(theirs) * _judged(mean)
    if judged > 1:
        sentences.append(
            f"These are {judged} comparisons, each by its own 95% interval and none corrected for "
            f"their number: if nothing differed, {0.05 * judged:.1f} of them would be expected to "
            "show a difference."
        )
    return sentences


def _left_out(networks: _Networks) -> Iterator[str]:
    """The networks that no mean contains, with their accuracies."""
    for method, members in networks.items():
        for seed, (r, d) in members.items():
            who = f"{name_of(method)}, seed {seed}"
            if _diverged(r, d):
                when = f" at step {d.diverged_at}" * (d.diverged_at >= 0)
                where = f" in {d.diverged_in}" * bool(d.diverged_in)
                yield f"{who}, diverged{when}: NaN or infinity{where}. It stayed as it was before."
            elif collapsed(d):
                known = {"source": r.source_accuracy, "target": r.target_accuracy}
                known = {k: x for k, x in known.items() if not math.isnan(x)}
                yield (
                    f"{who}, collapsed: {_percent(d.top_share)} of its target predictions are in "
                    f"one class. Its {'accuracies are' if len(known) > 1 else 'accuracy is'} "
                    f"{' and '.join(f'{_percent(x)} ({k})' for k, x in known.items())}."
                )
        finite = [r.target_accuracy for r, d in members.values() if not _diverged(r, d)]
        if any(collapsed(d) and not _diverged(r, d) for r, d in members.values()):
            mean = mean_and_standard_error(finite).mean
            if not math.isnan(mean):
                yield f"{name_of(method)} with the collapsed networks: {_percent(mean)} (target)."


def diagnostics(results: Iterable[Result], diagnoses: Iterable[Diagnosis]) -> list[str]:
    """What went wrong or looks so, in words: a sentence for each method and case that occurs."""
    networks = _join(results, diagnoses)
    sentences = list(_left_out(networks))
    blind = " Whether their classes match, labels alone could tell." * _unlabelled(_used(networks))
    for method, members in networks.items():
        alive = {s: pair for s, pair in members.items() if not _diverged(*pair)}
        fought = {s: (r, d) for s, (r, d) in alive.items() if d.adversarial}
        lost = {
            s: (r, d)
            for s, (r, d) in fought.items()
            if d.domain_accuracy <= LOST and not collapsed(d)
        }
        low = {s for s, (r, _) in lost.items() if r.target_accuracy < r.source_accuracy - 0.1}
        still = [s for s, (_, d) in fought.items() if not d.reversal >= NEVER_ROSE]
        cases = (
            (
                [s for s, (_, d) in fought.items() if d.domain_accuracy >= WON],
                "domain_accuracy",
                "The domain classifier has won: it tells {} of the held-out images right. The "
                "features still separate the domains; the reversal is too weak for this "
                "classifier, or the domain loss does not reach the encoder.",
            ),
            (
                [s for s in lost if s not in low],
                "domain_accuracy",
                "The domain classifier has lost: {} right, and 50 % is chance. For it the domains "
                "look alike, which is the aim." + blind,
            ),
            (
                [s for s in lost if s in low],
                "domain_accuracy",
                "The domain classifier has lost: {} right, and 50 % is chance. But target accuracy "
                "is more than 10 points below source accuracy: the classifier was too weak to see "
                "what still differs, or the domains are alike with their classes mismatched.",
            ),
            (
                still,
                "reversal",
                "λ never rose above {} of its height: the domain classifier hardly moved the "
                "encoder. p must be counted in steps of the whole run, and λ must reach the step.",
            ),
            (
                [s for s, (_, d) in alive.items() if 0.5 <= d.top_share < COLLAPSED],
                "top_share",
                "One class has {} of the target predictions. That is close to a collapse; it is "
                "in the mean.",
            ),
        )
        for seeds, field, sentence in cases:
            if seeds:
                found = [getattr(members[s][1], field) for s in seeds]
                values = _percent(*found)
                if field == "reversal":
                    values = ", ".join(format_number(x, digits=2) for x in found)
                sentences.append(f"{name_of(method)}, {_seeds(seeds)}. {sentence.format(values)}")
    return sentences


def _choices(used: _Networks) -> Iterator[str]:
    """What each criterion would choose of the methods without target labels."""
    titles = {
        "neighbourhood_density": "Neighbourhood density",
        "importance_weighted_accuracy": "Importance-weighted accuracy",
    }
    few = {
        method: [s for s, (_, d) in members.items() if d.effective_samples < FEW_SAMPLES]
        for method, members in used.items()
    }
    for field, title in titles.items():
        scores = {m: _mean(used, m, field).mean for m in used if m != "target_only"}
        if field == "importance_weighted_accuracy":
            scores = {m: x for m, x in scores.items() if not few[m]}
        scores = {m: x for m, x in scores.items() if not math.isnan(x)}
        if len(scores) < 2:
            continue
        if len(set(scores.values())) == 1:
            yield f"{title} does not tell the methods apart."
            continue
        truth = {m: mean_and_standard_error(list(_target(used, m).values())).mean for m in scores}
        chosen, best = max(scores, key=scores.get), max(truth, key=truth.get)
        if _unlabelled(used):
            yield f"{title} would choose {name_of(chosen)}."
            continue
        rank = 1 + sum(x > truth[chosen] for x in truth.values())
        pairs = [(a, b) for a in scores for b in scores if scores[a] > scores[b]]
        right = sum(truth[a] > truth[b] for a, b in pairs)
        cost = format_number(truth[best] - truth[chosen], 100)
        yield (
            f"{title} would choose {name_of(chosen)}, "
            + ("the best" if rank == 1 else f"number {rank}")
            + f" of {len(scores)} by target accuracy"
            + f", {cost} points below {name_of(best)}" * (rank > 1)
            + f". It orders {right} of {len(pairs)} pairs of methods as target accuracy does."
        )
    for method, seeds in few.items():
        if seeds:
            count = math.floor(min(used[method][s][1].effective_samples for s in seeds))
            yield (
                f"{name_of(method)}, {_seeds(seeds)}: the importance weights leave only "
                f"{count} effective samples (fewer than {FEW_SAMPLES}), since the domains "
                "hardly overlap for the classifier behind them. By that accuracy it is not ranked."
            )


def _mean(used: _Networks, method: str, field: str) -> Estimate:
    return mean_and_standard_error([getattr(d, field) for _, d in used[method].values()])


# Tables and the whole.


def _published_gap(row: Published, published: Sequence[Published]) -> float:
    same = {
        p.method: p.target_accuracy for p in published if (p.who, p.pair) == (row.who, row.pair)
    }
    low, high = (same.get(m, math.nan) for m in ("source_only", "target_only"))
    wide = high - low >= MINIMAL_GAP and not _bound(row.method)
    return (row.target_accuracy - low) / (high - low) if wide else math.nan


def table(summary: Sequence[Summary], published: Sequence[Published]) -> str:
    """Markdown: a row a method, then a row for each published number of this pair."""
    rows = []
    for s in summary:
        marks = [f"{s.networks} of {s.networks + len(s.collapsed) + len(s.diverged)}"]
        marks += [
            f"{_seeds(x)} {w}"
            for x, w in ((s.collapsed, "collapsed"), (s.diverged, "diverged"))
            if x
        ]
        estimates = (s.source_accuracy, s.target_accuracy, s.gap_covered)
        cells = (format_mean(x.mean, x.se, 100) for x in estimates)
        rows.append((name_of(s.method), *cells, "; ".join(marks)))
    notes = list(dict.fromkeys(p.note for p in published if p.note))
    for p in published:
        gap = format_number(_published_gap(p, published), 100)
        mark = f" [{notes.index(p.note) + 1}]" if p.note else ""
        who = f"{p.who}: {name_of(p.method)}{mark}"
        rows.append((who, MISSING, format_number(p.target_accuracy, 100), gap, "published"))
    header = ("method", "source accuracy, %", "target accuracy, %", "gap covered, %", "networks")
    footnotes = "; ".join(f"[{i}] {note}" for i, note in enumerate(notes, start=1))
    return markdown_table(header, rows) + f"\n\n{footnotes}." * bool(notes)


def _criteria(used: _Networks) -> str:
    columns = {
        "domain_accuracy": ("domain accuracy, %", 100, 1),
        "neighbourhood_density": ("neighbourhood density", 1, 3),
        "importance_weighted_accuracy": ("importance-weighted accuracy, %", 100, 1),
        "effective_samples": ("effective samples", 1, 0),
    }
    rows = []
    for method in used:
        means = [(_mean(used, method, f), *style) for f, (_, *style) in columns.items()]
        rows.append((name_of(method), *(format_mean(x.mean, x.se, *style) for x, *style in means)))
    return markdown_table(("method", *(title for title, *_ in columns.values())), rows)


_METHOD = """\
- Accuracies are of test images, mean ± standard error over seeds (standard deviation with m − 1,
  over √m). Seeds share the images: ± is the luck of initialization and order alone.
- Gap covered: (method − source only) / (train on target − source only), of target accuracies. Ours
  is computed in each seed and averaged; a published one from the printed accuracies.
- A finding "shows" where the two-sided 95% t interval over seeds excludes zero: 4.3 standard errors
  with 3 seeds, 12.7 with 2. Nothing is corrected for there being several. A published number is
  taken as exact, though it has an error of its own that was not published.
- Networks that diverged, or that put .9 of the target images in one class, are in no mean, no
  finding and no criterion. This is decided without target labels, but a method that collapses in
  one seed of three has that risk: read the column of networks with its mean."""


def report(
    results: Sequence[Result],
    diagnoses: Sequence[Diagnosis],
    published: Sequence[Published],
    *,
    colours: Mapping[str, float],
    facts: Mapping[str, str],
    chosen_by: str,
) -> str:
    """The whole report in Markdown: findings, table, diagnostics, criteria, method.

    Args:
      results, diagnoses: of all networks of the study, of one pair.
      published: published numbers, of any pairs.
      colours: how far the labelled images were recoloured, by method.
      facts: lines for the head, such as `{"Time": "94 s", "Device": "2 CPU cores"}`.
      chosen_by: how the reported numbers were selected.
    """
    networks = _join(results, diagnoses)
    used = _used(networks)
    pair = next((r.pair for r in results), "")
    published = [p for p in published if p.pair == pair]
    lines = {"Networks": str(len(results)), **facts}
    parts = [f"# Domain adaptation: {PAIRS.get(pair, pair.replace('_to_', ' → '))}"]
    parts += [bullets(f"{key}: {value}" for key, value in lines.items())]
    parts += ["## Findings", bullets(findings(results, diagnoses, published, colours))]
    parts += ["## Results", table(summarize(results, diagnoses), published)]
    parts += [f"Our numbers are those of {chosen_by.rstrip('.')}."]
    if changed := [m for m in networks if colours.get(m)]:
        left = " The gap covered is the one that recolouring leaves."
        parts += [
            f"Trained on recoloured images: {', '.join(map(name_of, changed))}."
            + left * ("source_only" in changed and not _unlabelled(used))
        ]
    gaps = _gaps(used)
    if gaps and min(gaps.values()) < MINIMAL_GAP:
        seed = min(gaps, key=gaps.get)
        parts += [
            f"No gap covered is given: in seed {seed} train on target minus source only is "
            f"{format_number(gaps[seed], 100, signed=True)} points, and a share of less than "
            f"{100 * MINIMAL_GAP:g} points means nothing."
        ]
    if not published:
        parts += ["There are no published numbers beside ours."]
    said = diagnostics(results, diagnoses) or [
        "Nothing to report: no domain classifier has won or lost, every λ rose, and no network "
        "collapsed or diverged."
    ]
    parts += ["## Diagnostics", bullets(said)]
    parts += ["## Criteria that need no target labels", _criteria(used)]
    parts += [bullets(_choices(used))]
    parts += ["## How the numbers are computed", _METHOD]
    return "\n\n".join(part for part in parts if part) + "\n"
