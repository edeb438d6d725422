"""Divisions of a data set: halves of its classes, and parts of its examples that do not leak."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Shaped, UInt8


def random_halves(
    num_classes: int, seed: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two random halves of the classes, drawn as Yosinski et al. 2014 drew theirs.

    The paper's four ImageNet splits are ``seed`` 0 … 3 with 1,000 classes. The seed is a list,
    which is another stream of random numbers than the bare integer. Of an odd number of classes
    the second half has one more.

    Raises:
      ValueError: for fewer than 4 classes, since each half needs two.
    """
    if num_classes < 4:
        raise ValueError(f"{num_classes} classes have no halves of 2 or more: it takes at least 4")
    classes = np.random.RandomState([seed]).choice(num_classes, num_classes // 2, replace=False)
    first = np.sort(classes).astype(np.int32)
    return first, np.setdiff1d(np.arange(num_classes, dtype=np.int32), first)


def group_halves(groups: Sequence[str]) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """The classes of the one group and those of the other, groups in alphabetical order.

    Raises:
      ValueError: unless there are exactly two groups.
    """
    names = sorted(set(groups))
    if len(names) != 2:
        raise ValueError(f"the dissimilar halves need two groups of classes, found {names}")
    group_of_class = np.asarray(groups)
    first, second = (np.flatnonzero(group_of_class == name).astype(np.int32) for name in names)
    return first, second


class Task(NamedTuple):
    """Some of the classes as a task of their own."""

    label_of: Int[np.ndarray, " classes"]
    """The label of each class of the data set in this task; -1 for those that are not in it."""
    examples: Mapping[str, Int[np.ndarray, " _"]]
    """The indices of the task's examples in all splits concatenated, by split."""


def make_task(
    labels: Mapping[str, Int[np.ndarray, " _"]], classes: Int[np.ndarray, " k"], num_classes: int
) -> Task:
    """The task of telling ``classes`` apart, of ``num_classes`` in a data set with these labels.

    Splits are concatenated in the order of ``labels``.
    """
    label_of = np.full(num_classes, -1, np.int32)
    label_of[classes] = np.arange(len(classes), dtype=np.int32)
    examples, start = {}, 0
    for split, labels_of_split in labels.items():
        examples[split] = (start + np.flatnonzero(label_of[labels_of_split] >= 0)).astype(np.int32)
        start += len(labels_of_split)
    return Task(label_of, examples)


def stratified(
    labels: Int[np.ndarray, " n"], fraction_or_count: float | int, seed: int
) -> tuple[Int32[np.ndarray, " train"], Int32[np.ndarray, " validation"]]:
    """Two parts in which every class has its share, to less than one example; ids ascend.

    The second part, the validation, has ``fraction_or_count`` examples, or that fraction of all,
    rounded. Drawn by scikit-learn's ``StratifiedShuffleSplit``.

    Raises:
      ValueError: for a fraction that is not between 0 and 1, a part with fewer examples than there
        are classes, labels that are not one row of integers, and naming a class that has too few
        examples to be in both parts.
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # slow to import

    names, counts = _class_counts(labels)
    count = fraction_or_count
    if isinstance(count, float | np.floating):
        _check_fraction(count)
        count = round(count * len(labels))
    rarest = int(np.argmin(counts))
    if counts[rarest] < 2:
        raise ValueError(f"class {names[rarest]} has 1 example, which cannot be in both parts")
    if not len(names) <= count <= len(labels) - len(names):
        sizes = f"parts of {len(labels) - count} and {count} examples"
        raise ValueError(f"{len(names)} classes cannot all be in both {sizes}")
    split = StratifiedShuffleSplit(1, test_size=int(count), random_state=seed)
    parts = _sorted_ids(*next(split.split(labels, labels)))
    _check_classes(labels, parts, f"with {count} of {len(labels)} examples held out")
    return parts


def grouped(
    labels: Int[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"], fraction: float, seed: int
) -> tuple[Int32[np.ndarray, " train"], Int32[np.ndarray, " validation"]]:
    """Two parts that share no group, with near ``fraction`` of each class in the second.

    For images that belong together, such as the frames of a video, ids ascending. A search, as
    scikit-learn has none for a free fraction: groups change sides, in random order, as long as that
    lowers the sum over classes c of ``(validation_c / n_c - fraction)²``; of ten searches the best,
    or the first that is within 1% of each class. A class of one group stays in the first part,
    with all of its group; every other class is in both.

    Raises:
      ValueError: for a fraction that is not between 0 and 1, labels that are not one row of
        integers, other than one group per label, fewer than two groups of any class, and naming a
        class of several groups for which no division was found.
    """
    names, counts = _class_counts(labels)
    _check_fraction(fraction)
    group_ids, classes_of, sizes_of = _groups(labels, groups, names)
    groups_of = np.bincount(np.concatenate(classes_of), minlength=len(names))
    free = [g for g, classes in enumerate(classes_of) if groups_of[classes].min() > 1]
    if not free:
        raise ValueError("no group can be held out: each is the only one of some class")

    def badness(held_out: Int[np.ndarray, " k"], classes: Int[np.ndarray, " k"]) -> float:
        share = held_out / counts[classes]
        missing = ((share == 0) | (share == 1)) & (groups_of[classes] > 1)
        return float(np.sum((share - fraction) ** 2 + len(names) * missing))  # missing is worst

    rng, all_classes = np.random.default_rng(seed), np.arange(len(names))
    best, least = np.zeros(len(classes_of), bool), math.inf
    for _ in range(10):
        out, held_out = np.zeros(len(classes_of), bool), np.zeros(len(names), np.int64)
        changed = True
        while changed:
            changed = False
            for g in rng.permutation(free):
                before = held_out[classes_of[g]]
                after = before + (-sizes_of[g] if out[g] else sizes_of[g])
                if badness(after, classes_of[g]) < badness(before, classes_of[g]) - 1e-9:
                    out[g], held_out[classes_of[g]], changed = not out[g], after, True
        if badness(held_out, all_classes) < least:
            best, least, sizes = out, badness(held_out, all_classes), held_out
        if least < len(names) * 1e-4:  # a hundredth of each class, and none is missing
            break
    absent = np.flatnonzero(((sizes == 0) | (sizes == counts)) & (groups_of > 1))
    if len(absent):
        raise ValueError(
            f"class {names[absent[0]]} has {groups_of[absent[0]]} groups, but no division into "
            "parts that both have every class was found"
        )
    is_held_out = best[group_ids]
    return _sorted_ids(np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))


def folds(
    labels: Int[np.ndarray, " n"],
    k: int,
    seed: int,
    groups: Shaped[np.ndarray, " n"] | None = None,
) -> list[tuple[Int32[np.ndarray, " train"], Int32[np.ndarray, " validation"]]]:
    """``k`` pairs of parts, ids ascending; each example is in one validation part.

    Without ``groups`` every class has its share in each fold, to less than one example
    (scikit-learn's ``StratifiedKFold``). With them, no group is in both parts of a pair, and
    classes are as balanced as ``StratifiedGroupKFold`` makes them. Every class is in both parts of
    every pair.

    Raises:
      ValueError: for fewer than two folds, labels that are not one row of integers, other than one
        group per label, and naming a class that has too few examples or groups for so many folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    names, counts = _class_counts(labels)
    unit, maker = "examples", StratifiedKFold
    if groups is not None:
        _, classes_of, _ = _groups(labels, groups, names)
        counts = np.bincount(np.concatenate(classes_of), minlength=len(names))
        unit, maker = "groups", StratifiedGroupKFold
    if k < 2:
        raise ValueError(f"{k} folds; ask for 2 or more")
    rarest = int(np.argmin(counts))
    if counts[rarest] < k:
        raise ValueError(
            f"class {names[rarest]} has {counts[rarest]} {unit}, too few for {k} folds"
        )
    splitter = maker(k, shuffle=True, random_state=seed)
    pairs = [_sorted_ids(*pair) for pair in splitter.split(labels, labels, groups)]
    for i, pair in enumerate(pairs):
        _check_classes(labels, pair, f"in fold {i + 1} of {k}; try another seed or fewer folds")
    return pairs


def duplicates(
    first: UInt8[np.ndarray, "n h w c"], second: UInt8[np.ndarray, "m h w c"]
) -> Int32[np.ndarray, "pairs 2"]:
    """The places (in ``first``, in ``second``) of images that are equal byte for byte, ascending.

    For leaks between splits. Found by hashes and compared, so none is reported in error; the bytes
    of ``second`` are held twice meanwhile.

    Raises:
      ValueError: for images that are not uint8 [n, h, w, c] of one size.
    """
    for images in (first, second):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != first.shape[1:]:
            descriptions = " and ".join(f"{a.dtype}{list(a.shape)}" for a in (first, second))
            raise ValueError(
                f"duplicates: images are {descriptions}; expected uint8 [n, h, w, c] alike"
            )
    places: dict[bytes, list[int]] = {}
    for j, image in enumerate(second):
        places.setdefault(image.tobytes(), []).append(j)
    pairs = [(i, j) for i, image in enumerate(first) for j in places.get(image.tobytes(), ())]
    return np.asarray(pairs, np.int32).reshape(-1, 2)


def _class_counts(
    labels: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The classes that occur, and how many examples each has."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        description = f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"labels are {description}; expected at least one integer, in one row")
    return np.unique(labels, return_counts=True)


def _groups(
    labels: Int[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"], names: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " n"], list[np.ndarray], list[np.ndarray]]:
    """The group of each example, counted from 0, and each group's classes with their sizes."""
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups are {list(groups.shape)} for {len(labels)} labels; give one each")
    _, group_ids = np.unique(groups, return_inverse=True)
    cells, sizes = np.unique(
        group_ids.astype(np.int64) * len(names) + np.searchsorted(names, labels),
        return_counts=True,
    )
    group, classes = np.divmod(cells, len(names))
    ends = np.flatnonzero(np.diff(group)) + 1
    return group_ids, np.split(classes, ends), np.split(sizes, ends)


def _sorted_ids(
    kept: Int[np.ndarray, " n"], held_out: Int[np.ndarray, " m"]
) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " m"]]:
    return np.sort(kept).astype(np.int32), np.sort(held_out).astype(np.int32)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction of {fraction} cannot be held out; give one between 0 and 1")


def _check_classes(
    labels: Int[np.ndarray, " n"], parts: Sequence[Int[np.ndarray, " _"]], note: str
) -> None:
    for name, part in zip(("training", "validation"), parts, strict=True):
        absent = np.setdiff1d(labels, labels[part])
        if len(absent):
            count = np.sum(labels == absent[0])
            raise ValueError(
                f"class {absent[0]} has {count} examples and none in the {name} part {note}"
            )
