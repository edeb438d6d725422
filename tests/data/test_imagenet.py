"""ImageNet's groups against the paper's numbers, and its authors' own lists where they are."""

from pathlib import Path

import pytest

from jaxdl.data.imagenet import GROUPS, NATURAL, is_imagenet

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
IDS = [f"n{i:08d}" for i in range(1000)]


def test_natural_and_man_made():
    assert len(set(NATURAL)) == len(NATURAL) == GROUPS.count("natural") == 449
    assert GROUPS.count("man-made") == 551 and len(GROUPS) == 1000
    assert list(NATURAL) == sorted(NATURAL)
    # Tench and daisy, corn and toilet tissue; abacus and pizza stand on either side, too.
    for place, group in {0: "natural", 397: "natural", 398: "man-made", 963: "man-made"}.items():
        assert GROUPS[place] == group
    assert GROUPS[985] == GROUPS[987] == GROUPS[998] == "natural" and GROUPS[999] == "man-made"


def test_is_imagenet():
    assert is_imagenet(IDS) and is_imagenet(tuple(IDS))
    assert not is_imagenet(IDS[:-1]) and not is_imagenet(IDS[::-1])
    assert not is_imagenet([*IDS[:-1], "zebra"]) and not is_imagenet([*IDS[:-1], "n123456789"])
    assert not is_imagenet([])


@pytest.mark.slow
@pytest.mark.parametrize("file, group", [("natural_449", "natural"), ("manmade_551", "man-made")])
def test_groups_are_the_authors(file, group):
    path = REFERENCE / f"{file}.txt"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    places = [int(line.split()[0]) for line in path.read_text().splitlines() if line.strip()]
    assert places == [place for place in range(1000) if GROUPS[place] == group]
