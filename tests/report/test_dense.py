"""The report of representations: pairs, order, findings, figures."""

import math
from unittest import mock

import numpy as np
import pytest

from jaxdl import dense
from jaxdl.report import dense as reporting
from jaxdl.report import dense_figures, dense_sweeps
from jaxdl.report.dense import Result, differences, findings, points, read_results, report, table


def rows(method, value, *scores, **fields):
    return [Result(method, value, seed, score, **fields) for seed, score in enumerate(scores)]


RESULTS = [
    *rows("class", "16", 0.5, 0.52, 0.54, auc=0.7, error=9.0),
    *rows("class", "144", 0.6, 0.7, 0.8, auc=0.8, error=8.0),
    *rows("mask", "16", 0.7, 0.73, 0.74, auc=0.75, error=3.0, overlap=0.6),
    *rows("mask", "144", 0.7, 0.6, math.nan, auc=0.9, error=2.0, overlap=0.8),
]


def test_differences_are_paired_by_seed_and_value():
    pairs = differences(RESULTS, "class")
    assert list(pairs) == [("mask", "16"), ("mask", "144")]
    assert pairs["mask", "16"] == pytest.approx({0: 0.2, 1: 0.21, 2: 0.2})
    assert pairs["mask", "144"] == pytest.approx({0: 0.1, 1: -0.1})
    alone = [*rows("clean", "", 0.9, 0.9), *rows("dilated", "1", 0.8, 0.7)]
    assert differences(alone, "clean")["dilated", "1"] == pytest.approx({0: -0.1, 1: -0.2})
    assert ("mask", "48") not in differences([*RESULTS, *rows("mask", "48", 0.7)], "class")


def test_rows_are_in_the_order_of_numbers_then_of_scores():
    assert points(RESULTS) == [("mask", "16"), ("class", "16"), ("class", "144"), ("mask", "144")]
    text = table(RESULTS, "locate", "class")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0][:3] == ["method", "value", "right, %"] and lines[0][-1] == "networks"
    assert lines[2][:3] == ["mask", "16", "72.3 ± 1.2"] and lines[2][-2] == "+20.3 ± 0.3"
    assert lines[-1][-1] == "2 of 3" and lines[3][5] == "–"
    assert "RMSE" not in text


def test_findings_say_what_shows():
    sentences = findings(RESULTS, "locate", "class")
    assert sentences[0].startswith("This run shows that **mask** at 16 is above class, by right")
    assert sentences[1].startswith("This run does not show that **mask** at 144 is")
    assert "class, by the area under the ROC curve" in sentences[3]
    assert sentences[4].startswith("These are 2 comparisons")  # others are alike for all seeds
    assert "ROC curve of pixels" in findings(RESULTS, "segment", "class")[2]
    shifted = [row._replace(shifted=row.score / 2) for row in RESULTS]
    assert "on shifted images" in findings(shifted, "locate", "class")[2]


def test_the_answer_that_needs_no_image():
    points = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0], [np.nan, np.nan], [0.0, 0.0]])
    text = reporting.describe_places({"point": points}, 4)
    assert "within 4 pixels" in text and text.endswith("never there would be right on 40.0 %")
    assert (
        reporting.describe_places({"point": points[::4]}, 4) == "a place is right within 4 pixels"
    )


def test_methods_are_compared_with_a_guess_over_images():
    counts = np.array([10.0, 12.0, 8.0])
    answers = [mock.Mock(counts=counts + 0.5 + seed) for seed in (0, 1)]
    predictions = {("number", "", seed): {"images": own} for seed, own in enumerate(answers)}
    tests = {"images": {"count": counts}, "others": {"mask": counts}}
    guesses = reporting.against_guess(predictions, tests, 11.0)
    (text,) = findings(rows("number", "", 0.9, 0.8), "count", "number", guesses)
    gains = np.array([1 - 1, 1 - 1, 3 - 1]) / 10
    subject = (
        "**number**, on average over these 2 networks, is above a guess of 11.0 for all images"
    )
    assert f"This run does not show that {subject}, whose MAE is 1.67" in text
    assert f"+{100 * gains.mean():.1f} ± {100 * gains.std(ddof=1) / 3**0.5:.1f} points" in text
    assert "3 images" in text


def test_damaged_masks_are_compared_with_whole_ones():
    masks = np.array([[[[1, 1, 0, 255]], [[1, 0, 1, 255]], [[0, 1, 0, 255]]]], np.uint8)
    damages = [("", 0.0), ("shifted", 2.0), ("missing", 0.25)]
    scores = dense_sweeps.damage_scores(damages, {"mask": masks})
    assert scores == pytest.approx({("shifted", 2.0): 0.5, ("missing", 0.25): 2 / 3})
    text = "shifted 2 has F1 50.0 %, missing 0.25 has F1 66.7 %"
    assert dense_sweeps.describe_damage(scores) == {"Damaged masks": text}
    scores = dense_sweeps.damage_scores(damages[:1], {})
    assert not dense_sweeps.describe_damage(scores)


def test_a_report_names_what_diverged(tmp_path):
    text = report(RESULTS, "locate", "class", {"Question": "locate"})
    assert "## Diverged networks" in text and "mask 144, seed 2" in text
    reporting.write_results(tmp_path / "results.csv", RESULTS)
    again = read_results(tmp_path / "results.csv")
    assert [row[:3] for row in again] == sorted(row[:3] for row in RESULTS)


class Answers:
    """What a network says of two images, of all questions."""

    scores = np.array([0.9, 0.1])
    points = np.array([[3.0, 4.0], [1.0, 1.0]])
    masks, limit, maps = np.eye(6, 8)[None].repeat(2, 0) > 0, 0.5, None
    counts, labels = np.array([2.5, 0.0]), [np.eye(6, 8, dtype=int), np.zeros((6, 8), int)]


class Pixels:
    scores, limit = np.full((2, 6, 8), 0.7), 0.5


def test_a_place_is_right_within_the_tolerance():
    points = np.array([[2.0, 2.0], [np.nan, np.nan]])  # the answer is sqrt(5) pixels off
    axes = mock.MagicMock()
    for tolerance, verdict in ((3.0, "right"), (2.0, "wrong")):
        draw = dense_figures.draw_sightings(points, None, tolerance, Answers)
        assert draw(axes, 0) == f"visible, 2.2 px off ({verdict})"
        assert draw(axes, 1) == "not visible (right)"
    draw = dense_figures.draw_sightings(points[::-1], None, 3.0, Answers)
    assert draw(axes, 0) == "visible (wrong)"


@pytest.fixture
def drawn(monkeypatch):
    """Figures of sweeps."""
    figures = []
    monkeypatch.setattr(dense_sweeps, "save", lambda figure, *_, **__: figures.append(figure))
    return figures


NOUNS = "photographs", "drawn images"


def settings(sweep, *points, damage=""):
    return {(m, v): {"sweep": sweep if v else "", "damage": damage if v else ""} for m, v in points}


def texts(artists):
    return [text.get_text() for text in artists]


def test_all_methods_are_drawn_over_all_values(drawn, tmp_path):
    blur = *rows("blur", "12", 0.5), *rows("blur", "3", 0.6)
    results = [*blur, *rows("less", "0.5", 0.4), *rows("clean", "", 0.9, 0.8)]
    swept = settings("x", *[r[:2] for r in results])
    dense_sweeps.sweep(results, "segment", swept, tmp_path, NOUNS, {})
    (axes,) = drawn[0].axes
    assert texts(axes.get_xticklabels()) == ["0.5", "3", "12"] and axes.get_xlabel() == "x"
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 3, 12])
    assert texts(drawn[0].legends[0].get_texts()) == ["blur", "clean", "less"]
    (band,) = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervaly == pytest.approx(
        [80, 90]
    )
    dense_sweeps.sweep(results, "segment", settings("", ("clean", "")), tmp_path, NOUNS, {})
    assert len(drawn) == 1


def test_each_damage_has_a_panel_of_its_own_unit(drawn, tmp_path):
    results = [*rows("clean", "", 0.9), *rows("edgy", "12", 0.8), *rows("edgy", "3", 0.7)]
    results += [*rows("lost", "0.5", 0.6), *rows("lost", "0.25", 0.8)]
    swept = settings("amount", ("edgy", "12"), ("edgy", "3"), damage="polygons")
    swept |= settings("amount", ("lost", "0.25"), ("lost", "0.5"), damage="missing")
    labels = {("polygons", 12.0): 0.75, ("polygons", 3.0): 0.5, ("missing", 0.5): 0.65}
    swept |= settings("", ("clean", ""))
    dense_sweeps.sweep(results, "segment", swept, tmp_path, NOUNS, labels)
    edgy, lost = drawn[0].axes
    assert [axes.get_xlabel() for axes in (edgy, lost)] == ["corners", "share"]
    assert [axes.get_title() for axes in (edgy, lost)] == ["edgy", "lost"]
    assert edgy.xaxis_inverted() and not lost.xaxis_inverted()
    own = [line for line in edgy.lines if line.get_label() == "the labels themselves"]
    np.testing.assert_allclose(own[0].get_xydata(), [[3, 50], [12, 75]])
    names = ["clean", "edgy", "lost", "the labels themselves"]
    assert texts(drawn[0].legends[0].get_texts()) == names


def test_axes_say_what_images_they_are_of(drawn, tmp_path):
    results = [row._replace(shifted=0.5) for row in rows("unet", "1", 0.5)]
    swept = settings("images", ("unet", "1"))
    dense_sweeps.sweep(results, "segment", swept, tmp_path, NOUNS, {})
    titles = [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawn[0].axes]
    number = "training photographs"
    assert titles == [(number, "F1, %"), (number, "F1 on drawn images, %")]
    assert dense_sweeps.image_words(["drive", "fundus"]) == NOUNS
    assert dense_sweeps.image_words(["cells", "cells"]) == ("images", "shifted images")
    assert dense_sweeps.image_words(["own"]) == ("images", "shifted images")


@pytest.mark.parametrize(
    ("question", "answers"), [("locate", Answers), ("count", Answers), ("segment", Pixels)]
)
def test_figures_are_drawn(question, answers, tmp_path):
    split = {
        "image": np.zeros((2, 6, 8, 3), np.uint8),
        "label": np.array([1, 0]),
        "point": np.array([[2.0, 2.0], [np.nan, np.nan]]),
        "mask": np.eye(6, 8, dtype=np.uint8)[None, None].repeat(2, 0),
        "count": np.array([2.0, 0.0]),
        "instances": np.eye(6, 8, dtype=np.int32)[None].repeat(2, 0),
    }
    path = tmp_path / "answers.png"
    dense_figures.overlays(question, split, {"ours": answers}, path, tolerance=4.0)
    assert path.read_bytes().startswith(b"\x89PNG")
    names = {
        "locate": ["where it is", "answer, right within 4 pixels", "true mask", "mask as answer"],
        "count": ["true instances", "instances as answer"],
        "segment": ["found", "false alarm", "missed"],
    }
    entries = dense_figures.legend(question, split, [answers], 4.0)
    assert [entry.get_label() for entry in entries] == names[question]


def test_a_count_is_whole_and_a_density_has_a_scale():
    maps = np.zeros((1, 6, 8))
    maps[0, 2, 3] = 0.056
    axes = mock.MagicMock()
    for own, text in ((None, "22"), (maps, "22, up to 0.056 a pixel")):
        answers = dense.Counts(np.array([22.4]), maps=own)
        assert dense_figures.draw_counts(np.zeros(1), None, answers)(axes, 0) == text


def test_what_is_shown_of_a_sweep_is_its_last_value():
    """In the order of the configuration: 3 corners are rougher than 12."""
    swept = settings("", ("clean", ""))
    swept |= settings("amount", ("polygons", "12"), ("polygons", "3"), damage="polygons")
    swept |= settings("images", ("lost", "1"))
    networks = {
        (*p, seed): {"images": (*p, seed)} for p in swept if p[0] != "lost" for seed in (0, 1)
    }
    assert dense_sweeps.last_answers(swept, networks, "images") == {
        "clean": ("clean", "", 0),
        "polygons\ncorners: 3": ("polygons", "3", 0),
    }
