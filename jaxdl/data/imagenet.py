"""ImageNet's 1,000 classes (ILSVRC 2012) as Yosinski et al. 2014 divided them."""

import re
from collections.abc import Sequence

NATURAL = (*range(398), *range(936, 959), 970, *range(972, 999))
"""The 449 natural classes by their places in the sorted list of WordNet ids (the authors' own
list); the other 551 are man-made."""

GROUPS = tuple("natural" if i in NATURAL else "man-made" for i in range(1000))


def is_imagenet(class_names: Sequence[str]) -> bool:
    """Whether these are ImageNet's thousand WordNet ids, in their sorted order."""
    ids = all(re.fullmatch(r"n\d{8}", name) for name in class_names)
    return ids and len(class_names) == len(GROUPS) and list(class_names) == sorted(class_names)
