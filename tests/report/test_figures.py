"""Figures that nothing outside of this project can spoil: names, settings, infinite values."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxdl.report import embeddings, figures, solutions

ROOT = Path(figures.__file__).parents[2]
NAMES = ["$", r"$\foo$", "$ and $", r"\$", "m\udcfcll", "", "\0", "x" * 300]
STEPS = np.array([1.0, 2.0, 3.0])
GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 4)] * 2, indexing="ij"), -1).reshape(-1, 2)
ONES = np.ones(16)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of glyphs that no font has, and the like
def test_any_name_is_shown_as_it_is(tmp_path):
    lines = [(STEPS, STEPS)]
    figures.samples(np.ones((len(NAMES), 2, 2, 3)), NAMES, tmp_path / "samples.png")
    figures.curves({r"$\foo$": dict.fromkeys(NAMES, lines)}, tmp_path / "shared.png", r"$\foo$")
    figures.curves({r"$\foo$": dict.fromkeys(NAMES[:5], lines)}, tmp_path / "own.png")
    for axes in ((NAMES[1],), (NAMES[1], NAMES[4]), (NAMES[4], NAMES[2], NAMES[1])):
        points = np.ones((3, len(axes)))
        panels = {NAMES[1]: (axes, dict.fromkeys(NAMES, points))}
        solutions.scattered(panels, tmp_path / f"scattered{len(axes)}.png", NAMES[1])
    panel = GRID, np.arange(16) < 8, np.arange(16) % 3
    embeddings.draw({NAMES[1]: panel, NAMES[4]: panel}, tmp_path / "embeddings.png")
    panels = {name: ((NAMES[1], NAMES[4]), GRID, ONES, ONES) for name in NAMES[1:5:3]}
    solutions.surfaces(panels, tmp_path / "surfaces.png", NAMES[1])
    assert len(list(tmp_path.iterdir())) == 8


def test_few_colours_look_like_all_and_take_less_room(tmp_path):
    figure = Figure((3, 2), dpi=150)
    axes, rng = figure.subplots(), np.random.default_rng(0)
    hues = matplotlib.colormaps["tab10"](np.arange(300) % 10)
    axes.scatter(*rng.normal(size=(2, 300)), s=7, c=hues, lw=0, alpha=0.45)
    images = {}
    for name in (False, True):
        figures.save(figure, tmp_path / f"{name}.png", full_colour=name)
        images[name] = Image.open(tmp_path / f"{name}.png")
    assert (images[False].mode, images[True].mode) == ("P", "RGB")
    few, every = (np.asarray(image.convert("RGB"), int) for image in images.values())
    assert abs(few - every).mean() < 0.5 and (few[0, 0] == 255).all()
    assert (tmp_path / "False.png").stat().st_size < 0.5 * (tmp_path / "True.png").stat().st_size


def test_colours_are_in_the_order_that_is_asked_for(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: drawn.append(figure))
    groups = {name: [(STEPS, level * STEPS)] for level, name in enumerate("cab")}
    figures.curves({"loss": groups}, tmp_path / "curves.png", order=["a", "lost", "b"])
    thick = {line.get_label(): line.get_color() for line in drawn[0].axes[0].lines[1::2]}
    assert thick == {"c": "C3", "a": "C0", "b": "C2"}


def test_no_two_entries_of_a_legend_look_alike(monkeypatch, tmp_path):
    """Where curves are equal in one panel, and not in another."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: drawn.append(figure))
    groups = {name: [(STEPS, level * STEPS)] for level, name in enumerate("abcde")}
    equal = {name: groups["a"] for name in "ab"}, {name: groups["a"] for name in "abcd"}
    figures.curves({"loss": groups, "λ": equal[0], "μ": equal[1]}, tmp_path / "curves.png")
    legend = drawn[0].legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*"abcde", "a, b", "a and 3 more"]
    assert len({(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}) == 7
    figures.curves({"loss": {"c": groups["c"], **equal[0]}}, tmp_path / "curves.png")
    thick = {line.get_label(): line.get_color() for line in drawn[1].axes[0].lines[1::2]}
    assert thick == {"c": "C0", "a, b": "C1"}  # the first's, which nothing else has


def test_accuracies_and_probabilities_are_in_percent(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: drawn.append(figure))
    lines = {"a": [(STEPS, np.array([0.57, 0.6, 0.64]))]}
    labels = ("loss", "validation accuracy", "probability, pixels deleted")
    figures.curves(dict.fromkeys(labels, lines), tmp_path / "curves.png")
    loss, *shares = drawn[0].axes
    assert loss.get_ylabel() == "loss"
    assert [axes.get_ylabel() for axes in shares] == [f"{label}, %" for label in labels[1:]]
    for axes in shares:
        assert axes.yaxis.get_major_formatter()(0.57) == "57"
    figures.curves({"accuracy": lines}, tmp_path / "curves.png", logarithmic=True)
    assert drawn[1].axes[0].get_ylabel() == "accuracy"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_left_out(value, tmp_path):
    some = np.where(np.arange(16) == 3, value, 1.0)
    lines = [(STEPS, np.array([1.0, value, 2.0])), (STEPS, np.full(3, value))]
    figures.curves({"loss": {"a": lines}}, tmp_path / "curves.png", logarithmic=True)
    panels = {"a": (some, ONES), "b": (ONES, some), "c": (ONES * value, ONES * value)}
    panels = {name: (("x", "t"), GRID, *pair) for name, pair in panels.items()}
    solutions.surfaces(panels, tmp_path / "surfaces.png", "t")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dollar_is_no_formula(tmp_path):
    """A class called $x$ takes the width of three characters, a formula one."""

    def ink(name):
        figures.samples(np.ones((1, 1, 1, 3)), [name], tmp_path / "samples.png")
        sheet = np.asarray(Image.open(tmp_path / "samples.png").convert("L"))
        return np.ptp(np.flatnonzero((sheet[:28] < 128).any(0)))

    assert ink("$x$") > 1.5 * ink("x")


def test_settings_of_the_user_change_nothing_and_stay(tmp_path):
    def drawn():
        figures.curves({"loss": {"m": [(STEPS, STEPS)]}}, tmp_path / "curves.png")
        return (tmp_path / "curves.png").read_bytes()

    expected = drawn()
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "savefig.format": "pdf"}):
        assert drawn() == expected
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "tkagg"])
def test_no_backend_is_needed(backend, tmp_path):
    """Neither one that is not installed nor one for a screen; what is known stays for others."""
    code = (
        "import sys; from pathlib import Path; from jaxdl.report import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figures.check(); figures.curves({}.fromkeys('a', {'b': [([1], [1])]}), Path('a.png'))\n"
        "import os, matplotlib; print(os.environ['MPLBACKEND'], matplotlib.rcParams['backend'])"
    )
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: Nonexistent\n")
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    named, used = ended.stdout.split()
    assert named == backend and (used == backend or "inline" in backend)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_draws_nothing_is_said_beforehand(monkeypatch):
    figures.check()

    def fail(*_, **__):
        raise RuntimeError("no FreeType\nat all")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(ValueError, match=r"cannot draw \(RuntimeError: no FreeType\): install"):
        figures.check()


def test_half_a_figure_is_never_there(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.curves({"loss": {"m": [(STEPS, STEPS)]}}, path)
    assert path.read_bytes() == b"old"
