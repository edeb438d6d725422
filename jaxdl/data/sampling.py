"""Draws of examples and of wrong labels, and weights of classes.

Ids may repeat: a feed takes any.
"""

import numpy as np
from jaxtyping import Float32, Int


def bootstrap(ids: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A bootstrap sample: as many ids, drawn with replacement (Efron 1979).

    About ``1 - 1/e``, 63 %, of them come at least once; those that are left out can be used for
    validation.
    """
    return rng.choice(ids, len(ids))


def in_turn(labels: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A random order of examples in which the classes take turns: among the first m, whatever m is,
    no class has two more than another that has some left."""
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # of each example within its class
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank[order], kind="stable")]


def oversample(
    ids: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Ids, repeated so that all classes come as often as the most frequent one.

    No example of a class comes more than once more than another; which do is drawn.

    Args:
      labels: of these ids. Those with a missing label, below 0, are left out.

    Raises:
      ValueError: if all labels are missing.
    """
    return _equally_often(ids, labels, _class_sizes(labels).max(), rng)


def undersample(
    ids: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Ids, drawn without replacement so that all classes come as often as the least frequent one.

    Args:
      labels: of these ids. Those with a missing label, below 0, are left out.

    Raises:
      ValueError: if all labels are missing.
    """
    return _equally_often(ids, labels, _class_sizes(labels).min(), rng)


def class_weights(labels: Int[np.ndarray, " n"], classes: int) -> Float32[np.ndarray, " k"]:
    """``n / (k n_c)`` of each class: all classes have the same total, and all examples the mean 1.

    For ``class_weights`` of :func:`jaxdl.nn.losses.cross_entropy`. Missing labels, below 0, do not
    count.

    Raises:
      ValueError: naming a class without examples.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if not counts.all():
        raise ValueError(f"class {np.argmin(counts)} has no examples, so it has no weight")
    return (counts.sum() / (classes * counts)).astype(np.float32)


def wrong_labels(
    labels: Int[np.ndarray, " n"],
    ids: Int[np.ndarray, " m"],
    share: float,
    classes: int,
    rng: np.random.Generator,
    *,
    systematic: bool = False,
) -> Int[np.ndarray, " n"]:
    """The labels, of which ``round(share * m)`` of the examples ``ids`` have another.

    The wrong ones of a smaller share are among those of a larger, and the same examples are wrong
    in a systematic way: for equal generators. Missing labels, below 0, stay missing.

    Args:
      systematic: each class is mistaken for the next one, the last for the first. Otherwise for
        any other, evenly drawn.

    Raises:
      ValueError: for fewer than 2 classes.
    """
    if classes < 2:
        raise ValueError(f"{classes} class(es) have no other to be taken for")
    labels, count = labels.copy(), round(share * len(ids))
    changed = rng.permutation(ids)[:count]
    offsets = rng.integers(1, classes, len(ids))[:count]
    wrong = (labels[changed] + (1 if systematic else offsets)) % classes
    labels[changed] = np.where(labels[changed] < 0, labels[changed], wrong)
    return labels


def _class_sizes(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """The sizes of the classes that occur."""
    if not (labels >= 0).any():
        raise ValueError("no example has a label, so there are no classes to draw from")
    return np.unique(labels[labels >= 0], return_counts=True)[1]


def _equally_often(
    ids: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    times: int | np.integer,
    rng: np.random.Generator,
) -> Int[np.ndarray, " m"]:
    """Ids in their order, in which each class occurs ``times`` times."""
    places = [
        # Again and again through one permutation.
        np.resize(rng.permutation(np.flatnonzero(labels == label)), times)
        for label in np.unique(labels[labels >= 0])
    ]
    return ids[np.sort(np.concatenate(places))]
