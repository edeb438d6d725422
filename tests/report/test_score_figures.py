"""What is drawn of scores, read from the figures, beside SciPy, scikit-learn and plain loops."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jaxdl.report import other_models, prediction_figures, predictions, score_figures
from jaxdl.report.predictions import Decomposition, FitDiagnosis
from jaxdl.report.supervised import Result, pool, standings
from jaxdl.report.tables import Estimate
from tests.report.test_predictions import Network, classes

SCORES = {"plain": (0.50, 0.52, 0.54, 0.53), "good": (0.70, 0.76, 0.73, 0.75)}
SCORES["like"] = (0.51, 0.51, 0.55, 0.52)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, instead of files."""
    figures = []
    for module in (score_figures, prediction_figures):
        monkeypatch.setattr(module, "save", lambda figure, path, **_: figures.append(figure))
    return figures


def rows(scores, value="", validation=None):
    return [
        Result(method, value, seed, score, score if validation is None else validation, 0.9, 0.1)
        for method, values in scores.items()
        for seed, score in enumerate(values)
    ]


def lines(axes):
    """Data of all lines, those of error bars' ends left out."""
    return [line.get_xydata() for line in axes.lines]


def bars(axes):
    """By height: the middle of each horizontal error bar, and its half."""
    found = {}
    for container in axes.containers:
        (x,), (y,) = container.lines[0].get_data()
        (segment,) = container.lines[2][0].get_segments()
        found[y] = x, np.ptp(segment[:, 0]) / 2
    return found


def test_drawn_scores_and_intervals_are_scipys(drawn, tmp_path):
    ranks = standings(rows(SCORES), "plain", choose=True)
    others = other_models.model_standings({"SVC": 0.6})
    score_figures.scores(ranks, others, ("plain", ""), "accuracy", tmp_path / "scores.png")
    left, right = drawn[0].axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == ["good", "scikit-learn: SVC", "plain", "like"]
    assert left.yaxis_inverted()  # the best is above
    for y, (mean, error) in bars(left).items():
        if values := SCORES.get(names[int(y)]):
            assert mean == pytest.approx(100 * np.mean(values))
            assert error == pytest.approx(100 * stats.sem(values))
        else:
            assert (mean, error) == pytest.approx((60, 0))
    intervals = [line for line in lines(right) if len(line) == 2 and np.ptp(line[:, 0])]
    for name, line in zip(("good", "like"), intervals, strict=True):
        gain = np.subtract(SCORES[name], SCORES["plain"])
        ends = stats.t.interval(0.95, 3, gain.mean(), stats.sem(gain))
        np.testing.assert_allclose(line[:, 0], 100 * np.array(ends))
        assert (line[:, 1] == names.index(name)).all()
    dots = {line.get_color(): line for line in right.lines if line.get_marker() == "o"}
    assert dots["C0"].get_markerfacecolor() == "C0"  # it shows
    assert dots["C1"].get_markerfacecolor() == "white"
    colours = [container.lines[0].get_color() for container in left.containers]
    assert colours == ["C0", "black", "C2", "C1"]  # of the methods in the order of their names


def test_ensembles_are_paired_with_the_mean_member_by_bag(drawn, tmp_path):
    parts = {Network("a", "", seed): {"test": classes(seed)} for seed in range(6)}
    results = [
        Result(*network, *[predictions.score(p["test"])] * 3, 0.0) for network, p in parts.items()
    ]
    others = predictions.rank_ensembles(parts, "test", 3, ("a", ""))
    ranks = standings(pool(results, 3), "a", choose=True)
    score_figures.scores(ranks, others, ("a", ""), "accuracy", tmp_path / "scores.png")
    members, means = [], []
    for first in (0, 3):
        bag = [parts[Network("a", "", seed)]["test"] for seed in range(first, first + 3)]
        members.append(np.mean([np.mean(o.argmax(1) == a) for o, a in bag]))
        probabilities = sum(predictions.probabilities(outputs) for outputs, _ in bag)
        means.append(np.mean(probabilities.argmax(1) == bag[0].answers))
    gain = np.subtract(means, members)
    standing = others["a: mean of 3"]
    assert standing.gain.mean == pytest.approx(gain.mean())
    assert standing.gain.se == pytest.approx(stats.sem(gain))
    left, _ = drawn[0].axes
    at = [label.get_text() for label in left.get_yticklabels()]
    assert {*at} == {"a", "a: mean of 3", "a: vote of 3"}
    drawn_bars = bars(left)
    assert drawn_bars[at.index("a")] == pytest.approx(
        (100 * np.mean(members), 100 * stats.sem(members))
    )
    assert drawn_bars[at.index("a: mean of 3")][0] == pytest.approx(100 * np.mean(means))


def test_without_its_baseline_there_are_scores_alone(drawn, tmp_path):
    lost = [row._replace(score=np.nan) for row in rows({"lost": (0.1, 0.2)})]
    ranks = standings(rows(SCORES) + lost, "lost", choose=True)
    score_figures.scores(ranks, {}, ("lost", ""), "accuracy", tmp_path / "scores.png")
    (left,) = drawn[0].axes
    assert "lost" not in [label.get_text() for label in left.get_yticklabels()]


def test_one_row_or_none_is_no_figure(drawn, tmp_path):
    lost = [row._replace(score=np.nan) for row in rows({"lost": (0.1, 0.2)})]
    ranks = standings(rows({"plain": SCORES["plain"]}) + lost, "plain", choose=True)
    score_figures.scores(ranks, {}, ("plain", ""), "accuracy", tmp_path / "scores.png")
    score_figures.sweep(rows(SCORES), {}, "accuracy", tmp_path / "sweep.png", choose=True)
    score_figures.decomposition({}, {}, tmp_path / "bias_variance.png")
    assert not drawn


@pytest.mark.parametrize("choose", [True, False])
def test_a_sweep_marks_what_validation_chooses_and_looks_closer(choose, drawn, tmp_path):
    swept = [
        *rows({"a": (0.10, 0.20), "b": (0.10, 0.12)}, "0.001", 0.3),
        *rows({"a": (0.90, 0.94)}, "0.1", 0.8),
        *rows({"a": (0.95, 0.97)}, "1.0", 0.7),
    ]
    score_figures.sweep(
        swept, {"a": "rate", "b": "rate"}, "accuracy", tmp_path / "sweep.png", choose=choose
    )
    assert len(drawn[0].axes) == (2 if choose else 1)
    full = drawn[0].axes[0]
    means = full.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(means, [[0.001, 15], [0.1, 92], [1, 96]], rtol=0.03)  # aside
    whole, *closer = (
        [line.get_xydata() for line in axes.lines if line.get_marker() == "*"]
        for axes in drawn[0].axes
    )
    assert full.get_xlabel() == "learning rate" and not any(map(len, whole))
    if choose:
        stars = [star for star in closer[0] if len(star)]
        np.testing.assert_allclose(stars[0], [[0.1, 92]], rtol=0.03)
        low, high = drawn[0].axes[1].get_ylim()
        assert low == 92 and low < 96 < high


def test_errors_are_drawn_against_width_with_their_diagnoses(drawn, tmp_path):
    points = {
        ("mlp", f"{n} {n}"): FitDiagnosis(Decomposition(*parts), Estimate(parts[1], 0.01, 5), word)
        for n, parts, word in (
            (8, (0.1, 0.2, 0.15, 0.05), "fits"),
            (1, (0.5, 0.6, 0.5, 0.1), "under-fits"),
            (64, (0.0, 0.5, 0.2, 0.3), "over-fits"),
            (2, (0.4, 0.5, 0.45, 0.05), "under-fits"),
        )
    }
    score_figures.decomposition(points, {"mlp": "hidden"}, tmp_path / "bias_variance.png")
    (axes,) = drawn[0].axes
    named = {
        line.get_label(): line.get_xydata() for line in axes.lines if line.get_label()[0] != "_"
    }
    x, bias = named["bias² + noise"].T
    np.testing.assert_allclose(x / np.log(2), [0, 1, 3, 6])
    np.testing.assert_allclose(bias, [0.5, 0.45, 0.15, 0.2])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "8", "64"]
    np.testing.assert_allclose(named["variance"][:, 1], [0.1, 0.05, 0.05, 0.3])
    np.testing.assert_allclose(named["error in training"][:, 1], [0.5, 0.4, 0.1, 0])
    np.testing.assert_allclose(axes.containers[0].lines[0].get_xydata()[:, 1], [0.6, 0.5, 0.2, 0.5])
    assert [text.get_text() for text in axes.texts] == ["under-fits", "fits", "over-fits"]
    assert axes.get_xlabel() == "width"


def test_operating_points_are_on_their_curves_and_f1_is_scikit_learns(drawn, tmp_path):
    networks = {
        Network("a", "", seed): {"validation": classes(10 + seed, k=2), "test": classes(seed, k=2)}
        for seed in (1, 2, 3)
    }
    prediction_figures.operating_curves(networks, "test", tmp_path / "operating.png")
    roc, _, f1 = drawn[0].axes
    first = networks[Network("a", "", 1)]["test"]
    margins, positives = first.outputs[:, 1] - first.outputs[:, 0], first.answers == 1
    dots = {
        line.get_marker(): line.get_xydata() for line in roc.lines if len(line.get_xdata()) == 1
    }
    shares = [np.mean(margins[~positives] >= 0), np.mean(margins[positives] >= 0)]
    np.testing.assert_allclose(dots["o"], [shares])
    false, true, _ = metrics.roc_curve(first.answers, margins, drop_intermediate=False)
    assert np.abs(np.c_[false, true] - dots["D"]).sum(1).min() < 1e-9
    values = [
        metrics.f1_score(p["test"].answers, p["test"].outputs.argmax(1)) for p in networks.values()
    ]
    bar = next(iter(bars(f1).values()))
    assert bar == pytest.approx((np.mean(values), stats.sem(values)))


def test_panels_are_named_by_value_and_score():
    swept = rows({"mlp": (0.5, 0.7)}, "8 8") + rows({"mlp": (0.5, 0.7)}, "4 2")
    diagnosed = {("mlp", "8 8"): FitDiagnosis(Decomposition(0, 1, 0, 1), Estimate(1, 0, 2), "fits")}
    names = score_figures.titles(swept, {"mlp": "hidden"}, "R²", diagnosed)
    assert names == {
        ("mlp", "8 8"): "width 8: fits",
        ("mlp", "4 2"): "width 4 2: error 0.316 ± 0.000",
    }
    several = rows({"linear_raw": (0.5, 0.7), "mlp": (0.5, 0.7)})
    names = score_figures.titles(several, {}, "accuracy", {})
    assert names["linear_raw", ""] == "linear raw: 60.0 ± 10.0 %"
    assert score_figures.words("noise") == "noise"  # a method, not the setting of that name


@pytest.mark.parametrize("count", range(1, 13))
def test_panels_leave_two_cells_free_at_most(count):
    _, axes, spare = score_figures.panels(count, 1, 1)
    assert len(axes) == count and len(spare) <= 2


def test_fits_show_each_network_and_the_data(drawn, tmp_path):
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    networks = [x, 3 * x]
    outputs = {("mlp", ""): [line[:, None] for line in networks]}
    data = np.float32([[0.5], [0.7]]), np.float32([0.1, 0.2])
    arguments = outputs, x[:, None], data, (), np.sin, {("mlp", ""): "MLP"}
    prediction_figures.plane(*arguments, tmp_path / "fits.png")
    axes = drawn[0].axes[0]
    named = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(named["mean of the networks"], 2 * x)
    np.testing.assert_allclose(named["truth"], np.sin(x))
    np.testing.assert_allclose(named["training data"], [0.1, 0.2])
    names = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert names == {"mean of the networks", "truth", "training data", "a network each"}
    assert axes.get_title() == "MLP"


def test_confusions_are_scikit_learns_over_all_networks(drawn, tmp_path):
    parts = {Network("a", "", seed): {"test": classes(seed)} for seed in (1, 2)}
    prediction_figures.confusion(parts, "test", ("x", "y", "z"), "a", tmp_path / "confusion.png")
    (image,) = drawn[0].axes[0].images
    true, seen = (
        np.concatenate([f(p["test"]) for p in parts.values()])
        for f in (lambda p: p.answers, lambda p: p.outputs.argmax(1))
    )
    expected = 100 * metrics.confusion_matrix(true, seen, normalize="true")
    np.testing.assert_allclose(image.get_array(), expected)
