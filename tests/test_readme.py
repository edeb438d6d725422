"""The README and the studies' pages: links lead to files, and Python that needs no run does run."""

import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.nn.layered import check_layers, layer_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").glob("*.md"))]
NAMES = [page.name for page in PAGES]


def code(page):
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    paths = [page.parent / link for link in links if "://" not in link]
    assert not [path for path in paths if not path.exists()]


def test_the_population_of_the_readme_learns():
    names = {}
    exec(code(PAGES[0])[0], names)
    accuracy = names["metrics"]["accuracy"][:, -10:].mean(1)
    assert accuracy.shape == (8,)
    assert accuracy[5] > 0.9 > accuracy[0]


def test_the_network_of_the_transferability_page():
    names = {}
    (network,) = code(ROOT / "experiments/transferability.md")
    exec(network, names)
    images = np.random.default_rng(0).normal(size=(2, 20, 20, 1)).astype(np.float32)
    model = names["Net"](5)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert layer_names(variables) == ("conv1", "conv2", "fc3", "fc4")
    check_layers(model, variables, images, jax.random.key(1))


def test_the_transplant_of_the_readme():
    names = {}
    exec(code(PAGES[0])[1], names)
    network, base = names["network"]["params"], names["base"]["params"]
    assert (network["conv1"]["kernel"] == base["conv1"]["kernel"]).all()
    assert not names["mask"]["params"]["conv1"]["kernel"]


@pytest.mark.slow  # in the suite, test_pinn.py solves such problems
def test_the_problem_of_its_page_is_solved():
    names = {}
    (problem,) = code(ROOT / "experiments/pinn.md")
    exec(problem.replace("length=500", "length=20"), names)
    losses = names["losses"]
    assert losses.shape == (20,) and losses.dtype == "float64"
    assert losses[-1] < 0.2 * losses[0]
    assert names["u"].shape[0] == 1


def test_the_search_of_its_page_finds_the_best_rate():
    names = {}
    (search,) = code(ROOT / "experiments/search.md")
    exec(search, names)
    (first, _), *_ = names["history"]
    nearest = min((trial.settings["rate"] for trial in first), key=lambda r: abs(math.log(100 * r)))
    assert names["best"].settings["rate"] == nearest and names["best"].steps == 90
