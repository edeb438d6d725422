"""Networks that learnt nothing, by their predictions for what they were trained on."""

import numpy as np

from jaxdl.report.comparisons import list_seeds
from jaxdl.report.predictions import Prediction, Predictions, is_classes, score
from jaxdl.report.supervised import Point, label


def is_idle(prediction: Prediction) -> bool:
    """Whether outputs are no better than one answer to everything: R² ≤ 0 or, of k classes, a mean
    share of right answers, by class, of at most 1/k, so that rare classes count as others do."""
    outputs, answers = prediction
    if not np.isfinite(outputs).all():
        return False
    if not is_classes(prediction):
        return score(prediction) <= 0
    classes, right = np.unique(answers[answers >= 0]), outputs.argmax(-1) == answers
    mean = np.mean([right[answers == k].mean() for k in classes])
    return len(classes) > 1 and bool(mean <= 1 / len(classes) + 1e-9)  # but for rounding


def describe(networks: Predictions) -> list[str]:
    """A sentence that names networks which learnt nothing, if there are such.

    Args:
      networks: their predictions by split, one of which is "train".
    """
    seeds: dict[Point, list[int]] = {}
    for network, parts in networks.items():
        if is_idle(parts["train"]):
            seeds.setdefault((network.method, network.value), []).append(network.seed)
    names = "; ".join(f"**{label(point)}**, {list_seeds(sorted(s))}" for point, s in seeds.items())
    return [
        f"Networks that learnt nothing: {names}. In training each is no better than one answer to "
        "everything would be. They are in all means."
    ] * bool(seeds)
