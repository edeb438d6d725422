"""The README and the studies' pages: their Python runs, their links lead to files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").glob("*.md"))]
NAMES = [page.name for page in PAGES]
CODE = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    paths = [page.parent / link for link in links if "://" not in link]
    assert not [path for path in paths if not path.exists()]


def test_the_population_of_the_readme_learns():
    names = {}
    exec(CODE[0], names)
    accuracy = names["metrics"]["accuracy"][:, -10:].mean(1)
    assert accuracy.shape == (8,)
    assert accuracy[5] > 0.9 > accuracy[0]


def test_the_transplant_of_the_readme():
    names = {}
    exec(CODE[1], names)
    network, base = names["network"]["params"], names["base"]["params"]
    assert (network["conv1"]["kernel"] == base["conv1"]["kernel"]).all()
    assert not names["mask"]["params"]["conv1"]["kernel"]
