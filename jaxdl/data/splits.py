"""Divisions of a data set: halves of the classes, each a task of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


def random_halves(
    num_classes: int, seed: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two random halves of the classes, drawn as Yosinski et al. 2014 drew theirs.

    The paper's four ImageNet splits are ``seed`` 0 … 3 with 1,000 classes. The seed is a list,
    which is another stream of random numbers than the bare integer.

    Raises:
      ValueError: for an odd number of classes.
    """
    if num_classes % 2:
        raise ValueError(f"{num_classes} classes cannot be halved")
    first = np.random.RandomState([seed]).choice(num_classes, num_classes // 2, replace=False)
    first = np.sort(first).astype(np.int32)
    return first, np.setdiff1d(np.arange(num_classes, dtype=np.int32), first)


def group_halves(groups: Sequence[str]) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """The classes of the one group and those of the other, groups in alphabetical order.

    Raises:
      ValueError: unless there are exactly two groups.
    """
    names = sorted(set(groups))
    if len(names) != 2:
        raise ValueError(f"the dissimilar halves need two groups of classes, found {names}")
    of = np.asarray(groups)
    return tuple(np.flatnonzero(of == name).astype(np.int32) for name in names)


class Task(NamedTuple):
    """Some of the classes as a task of their own."""

    label_of: Int[np.ndarray, " classes"]
    """The label of each class of the data set in this task; -1 for those that are not in it."""
    examples: Mapping[str, Int[np.ndarray, " n"]]
    """By split, the places of the task's examples in all splits laid end to end."""


def make_task(
    labels: Mapping[str, Int[np.ndarray, " n"]], classes: Int[np.ndarray, " k"], num_classes: int
) -> Task:
    """The task of telling ``classes`` apart, of ``num_classes`` in a data set with these labels.

    Splits are laid end to end in the order of ``labels``.
    """
    label_of = np.full(num_classes, -1, np.int32)
    label_of[classes] = np.arange(len(classes), dtype=np.int32)
    examples, start = {}, 0
    for split, of in labels.items():
        examples[split] = (start + np.flatnonzero(label_of[of] >= 0)).astype(np.int32)
        start += len(of)
    return Task(label_of, examples)
