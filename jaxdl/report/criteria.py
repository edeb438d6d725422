"""Diagnostics and criteria of a domain-adaptation study, which need no target labels: failures of
training, and the choice of each criterion."""

import math
from collections.abc import Iterator

from jaxdl.report.adapted import (
    Networks,
    collapsed,
    diverged,
    name_of,
    nearly_collapsed,
    target,
    unlabelled,
)
from jaxdl.report.comparisons import list_seeds, over_seeds, percent
from jaxdl.report.tables import (
    Estimate,
    format_mean,
    format_number,
    markdown_table,
    mean_and_standard_error,
)

WON, LOST = 0.95, 0.55  # accuracy of a domain classifier
NEVER_ROSE = 0.1  # λ, of its height
FEW_SAMPLES = 100  # of which an accuracy has a standard error of up to 5 points


def _left_out(networks: Networks) -> Iterator[str]:
    """The networks that no mean contains, with their accuracies."""
    for method, members in networks.items():
        for seed, (r, d) in members.items():
            name = f"{name_of(method)}, seed {seed}"
            if diverged(r, d):
                step_note = f" at step {d.diverged_at}" * (d.diverged_at >= 0)
                array_note = f" in {d.diverged_in}" * bool(d.diverged_in)
                yield (
                    f"{name}, diverged{step_note}: NaN or infinity{array_note}. "
                    "It stayed as it was before."
                )
            elif collapsed(d):
                accuracies = {"source": r.source_accuracy, "target": r.target_accuracy}
                accuracies = {k: x for k, x in accuracies.items() if not math.isnan(x)}
                yield (
                    f"{name}, collapsed: {percent(d.top_share)} of its target predictions are in "
                    f"one class. Its {'accuracies are' if len(accuracies) > 1 else 'accuracy is'} "
                    f"{' and '.join(f'{percent(x)} ({k})' for k, x in accuracies.items())}."
                )
        finite = [r.target_accuracy for r, d in members.values() if not diverged(r, d)]
        if any(collapsed(d) and not diverged(r, d) for r, d in members.values()):
            mean = mean_and_standard_error(finite).mean
            if not math.isnan(mean):
                yield f"{name_of(method)} with the collapsed networks: {percent(mean)} (target)."


def diagnostics(networks: Networks) -> list[str]:
    """Failures of training, and signs of them, in words: a sentence for each method and case."""
    sentences = list(_left_out(networks))
    blind = " Whether their classes match, labels alone could tell." * unlabelled(networks)
    for method, members in networks.items():
        survivors = {s: pair for s, pair in members.items() if not diverged(*pair)}
        adversarial = {s: (r, d) for s, (r, d) in survivors.items() if d.adversarial}
        lost = {
            s: (r, d)
            for s, (r, d) in adversarial.items()
            if d.domain_accuracy <= LOST and not collapsed(d)
        }
        low = {s for s, (r, _) in lost.items() if r.target_accuracy < r.source_accuracy - 0.1}
        unmoved = [s for s, (_, d) in adversarial.items() if not d.reversal >= NEVER_ROSE]
        cases = (
            (
                [s for s, (_, d) in adversarial.items() if d.domain_accuracy >= WON],
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
                unmoved,
                "reversal",
                "λ never rose above {} of its height: the domain classifier hardly moved the "
                "encoder. p must be counted in steps of the whole run, and λ must reach the step.",
            ),
            (
                [s for s, (_, d) in survivors.items() if nearly_collapsed(d)],
                "top_share",
                "One class has {} of the target predictions. That is close to a collapse; it is "
                "in the mean.",
            ),
        )
        for seeds, field, sentence in cases:
            if seeds:
                values_of_seeds = [getattr(members[s][1], field) for s in seeds]
                values = percent(*values_of_seeds)
                if field == "reversal":
                    values = ", ".join(format_number(x, digits=2) for x in values_of_seeds)
                sentences.append(
                    f"{name_of(method)}, {list_seeds(seeds)}. {sentence.format(values)}"
                )
    return sentences


def choices(networks: Networks) -> Iterator[str]:
    """Sentences on the method that each criterion would choose without target labels."""
    titles = {
        "neighbourhood_density": "Neighbourhood density",
        "importance_weighted_accuracy": "Importance-weighted accuracy",
    }
    few = {
        method: [s for s, (_, d) in members.items() if d.effective_samples < FEW_SAMPLES]
        for method, members in networks.items()
    }
    if "target_only" in networks and len(networks) > 2:
        yield (
            f"Criteria choose among methods that learn no target label: {name_of('target_only')} "
            "is left out, whatever its value in the table."
        )
    for field, title in titles.items():
        scores = {m: _mean(networks, m, field).mean for m in networks if m != "target_only"}
        if field == "importance_weighted_accuracy":
            scores = {m: x for m, x in scores.items() if not few[m]}
        scores = {m: x for m, x in scores.items() if not math.isnan(x)}
        if len(scores) < 2:
            continue
        if len(set(scores.values())) == 1:
            yield f"{title} does not tell the methods apart."
            continue
        truth = {m: over_seeds(target(networks, m)).mean for m in scores}
        choice, best = max(scores, key=scores.__getitem__), max(truth, key=truth.__getitem__)
        if unlabelled(networks):
            yield f"{title} would choose {name_of(choice)}."
            continue
        rank = 1 + sum(x > truth[choice] for x in truth.values())
        pairs = [(a, b) for a in scores for b in scores if scores[a] > scores[b]]
        right = sum(truth[a] > truth[b] for a, b in pairs)
        cost = format_number(truth[best] - truth[choice], 100)
        yield (
            f"{title} would choose {name_of(choice)}, "
            + ("the best" if rank == 1 else f"number {rank}")
            + f" of {len(scores)} by target accuracy"
            + f", {cost} points below {name_of(best)}" * (rank > 1)
            + f". It orders {right} of {len(pairs)} pairs of methods as target accuracy does."
        )
    for method, seeds in few.items():
        if seeds:
            count = min(networks[method][s][1].effective_samples for s in seeds)
            least = "as few as" if len(seeds) > 1 else "only"
            yield (
                f"{name_of(method)}, {list_seeds(seeds)}: the importance weights leave {least} "
                f"{count:.1f} effective samples (fewer than {FEW_SAMPLES}), since the domains "
                "hardly overlap for the classifier behind them. By that accuracy it is not ranked."
            )


def _mean(networks: Networks, method: str, field: str) -> Estimate:
    return mean_and_standard_error([getattr(d, field) for _, d in networks[method].values()])


def table(networks: Networks) -> str:
    """Markdown: the criteria by method, means over seeds."""
    columns = {
        "domain_accuracy": ("domain accuracy, %", 100, 1),
        "neighbourhood_density": ("neighbourhood density", 1, 3),
        "importance_weighted_accuracy": ("importance-weighted accuracy, %", 100, 1),
        "effective_samples": ("effective samples", 1, 0),
    }
    rows = []
    for method in networks:
        cells = []
        for field, (_, scale, digits) in columns.items():
            x = _mean(networks, method, field)
            cells.append(format_mean(x.mean, x.se, scale, digits))
        rows.append((name_of(method), *cells))
    return markdown_table(("method", *(title for title, *_ in columns.values())), rows)
