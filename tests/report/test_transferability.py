"""The transferability report, on grids whose findings are known because they were put there."""

import math
import os
import random
import re

import numpy as np
import pytest
from scipy import stats

from jaxdl.report import transfer_figure
from jaxdl.report.published import YOSINSKI_2014
from jaxdl.report.transfer_figure import draw as figure
from jaxdl.report.transferability import findings, report, table
from jaxdl.report.transferred import Result, read_results, summarize, write_results

EFFECTS = {  # points at n = 1 … 4
    ("random", "AnB"): (1, -1, -4, -10),
    ("random", "BnB"): (0, -3, -3, 0),
    ("random", "AnB+"): (3, 4, 5, 6),
    ("random", "BnB+"): (1, 1, 1, 1),
    ("random", "random"): (-9, -20, -40, -55),
    ("dissimilar", "AnB"): (0, -4, -10, -18),
    ("dissimilar", "random"): (-9, -20, -40, -56),
}
SEEDS, NOISE = 3, 0.002


def grid(effects=EFFECTS, seeds=SEEDS, noise=NOISE, generator=0):
    """Networks with these effects; bases differ much, the rest of the noise is little."""
    rng = np.random.default_rng(generator)
    rows = []
    for split in ("random", "dissimilar"):
        for seed in range(seeds):
            for direction in ("AB", "BA"):
                base = 0.7 + 0.03 * rng.standard_normal()
                rows.append(Result(split, seed, direction, "base", 0, base))
                for (where, treatment), points in effects.items():
                    if where != split or (treatment.endswith("+") and direction == "BA"):
                        continue
                    for n, effect in enumerate(points, start=1):
                        value = base + effect / 100 + noise * rng.standard_normal()
                        rows.append(Result(split, seed, direction, treatment, n, value))
    return rows


def verdicts(rows):
    return {finding.name: finding.shows for finding in findings(rows)}


def lookup(rows):
    return {(r.split, r.seed, r.direction, r.treatment, r.n): r.accuracy for r in rows}


def test_summary_pairs_then_averages_directions_then_seeds():
    rows = [
        Result("random", 0, "AB", "base", 0, 0.70),
        Result("random", 0, "BA", "base", 0, 0.60),
        Result("random", 1, "AB", "base", 0, 0.80),
        Result("random", 0, "AB", "AnB", 1, 0.72),  # +2
        Result("random", 0, "BA", "AnB", 1, 0.64),  # +4
        Result("random", 1, "AB", "AnB", 1, 0.81),  # +1
    ]
    base, cell = summarize(random.Random(0).sample(rows, len(rows)))
    assert (base.treatment, base.networks, base.difference.used) == ("base", 3, 0)
    assert base.accuracy.mean == pytest.approx((0.65 + 0.80) / 2)
    assert cell.accuracy.mean == pytest.approx((0.68 + 0.81) / 2)
    assert cell.difference.mean == pytest.approx(0.02)  # of 3 and 1, not of 2, 4 and 1
    assert cell.difference.se == pytest.approx(0.01)
    assert (cell.difference.used, cell.networks) == (2, 3)


def test_diverged_networks_are_left_out_and_named():
    rows = [r._replace(accuracy=math.nan) if lost(r) else r for r in grid()]
    cell = next(c for c in summarize(rows) if (c.split, c.treatment, c.n) == ("random", "AnB", 4))
    assert (cell.difference.used, cell.networks, cell.diverged) == (2, 3, 3)
    text = report(rows, YOSINSKI_2014, facts={})
    assert "- random halves, seed 0, direction AB: AnB, n = 4" in text
    assert "3 (3 diverged)" in text
    assert "nan" not in text


def lost(row):
    """Both directions of seed 0 and one of seed 1, at the last cut."""
    at = (row.split, row.treatment, row.n) == ("random", "AnB", 4)
    return at and (row.seed, row.direction) in {(0, "AB"), (0, "BA"), (1, "AB")}


def test_a_diverged_base_takes_its_pairs_along():
    rows = [
        r._replace(accuracy=math.nan) if r.treatment == "base" and r.seed == 0 else r
        for r in grid()
    ]
    cell = next(c for c in summarize(rows) if (c.split, c.treatment, c.n) == ("random", "AnB", 1))
    assert (cell.accuracy.used, cell.difference.used, cell.difference.excluded) == (3, 2, 1)


def test_one_network_twice_is_refused():
    rows = grid()
    with pytest.raises(ValueError, match="two rows for one network"):
        summarize([*rows, rows[0]])


def test_all_four_findings_show_where_they_were_put():
    assert verdicts(grid()) == {
        "specificity": True,
        "co-adaptation": True,
        "generalization": True,
        "distance": True,
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("specificity", {("random", "AnB"): (1, 1, 1, 1)}),
        ("specificity", {("random", "AnB"): (-9, -9, -9, -9)}),  # below base, but it does not fall
        ("co-adaptation", {("random", "BnB"): (0, 0, 0, -5)}),  # not in the middle
        ("co-adaptation", {("random", "BnB"): (0, 3, 3, 0)}),
        ("generalization", {("random", "AnB+"): (-1, -1, -1, -1)}),
        ("generalization", {("random", "BnB+"): (3, 4, 5, 6)}),  # retraining gives as much
        ("distance", {("dissimilar", "AnB"): (0, 0, 0, -10)}),
        ("distance", {("dissimilar", "AnB"): (0, 0, 0, -5)}),
    ],
)
def test_each_finding_is_absent_where_it_was_not_put(name, change):
    # Symmetric noise that cancels over three seeds keeps the absent effects exactly absent.
    rows = []
    for row in grid(EFFECTS | change, noise=0):
        noise = 0.0 if row.treatment == "base" else 0.002 * (row.seed - 1) * (-1) ** row.n
        noise *= 1 + 0.1 * row.n  # so that it does not cancel over cuts as well
        noise *= 1 + 0.5 * (row.treatment == "BnB") + 2 * (row.split == "dissimilar")
        noise *= -1 if row.treatment == "BnB+" else 1
        rows.append(row._replace(accuracy=row.accuracy + noise))
    assert verdicts(rows) == dict.fromkeys(verdicts(rows), True) | {name: False}


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("specificity", ("random", "AnB")),
        ("co-adaptation", ("random", "BnB")),
        ("generalization", ("random", "BnB+")),
        ("generalization", ("random", "AnB+")),
        ("distance", ("dissimilar", "AnB")),
    ],
)
def test_a_missing_treatment_cannot_be_judged(name, gone):
    rows = [r for r in grid() if (r.split, r.treatment) != gone]
    judged = {f.name: f for f in findings(rows)}
    assert judged[name].shows is None
    assert "cannot be judged" in judged[name].sentence
    assert not re.search("not measured|nan|= [,)]", judged[name].sentence)
    others = {"specificity", "distance"} if gone == ("random", "AnB") else {name}
    assert {f.name for f in judged.values() if f.shows is None} == others


def test_a_last_cut_that_diverged_everywhere_is_not_another_one():
    last = max(r.n for r in grid() if r.treatment == "BnB")
    rows = [
        r._replace(accuracy=math.nan) if (r.treatment, r.n) == ("BnB", last) else r for r in grid()
    ]
    (sentence,) = (f.sentence for f in findings(rows) if f.name == "co-adaptation")
    assert "at its lowest cut" in sentence and "at the last cut" not in sentence


def test_verdicts_are_those_of_paired_t_tests():
    """At an effect near the border, over many draws, so that both verdicts occur."""
    seen = set()
    for draw in range(40):
        rows = grid({("random", "BnB"): (0, -1, -1, 0)}, noise=0.008, generator=draw)
        at = lookup(rows)
        means = np.array(
            [
                [
                    np.mean([[at["random", s, d, t, n] for n in cuts] for d in ("AB", "BA")])
                    for s in range(SEEDS)
                ]
                for t, cuts in (("BnB", (2, 3)), ("base", (0,)))
            ]
        )
        test = stats.ttest_rel(*means)
        expected = bool(test.pvalue < 0.05 and test.statistic < 0)
        assert verdicts(rows)["co-adaptation"] is expected
        seen.add(expected)
    assert seen == {True, False}


def test_sentences_tell_difference_error_and_seeds():
    rows = grid()
    at = lookup(rows)
    text = {f.name: f.sentence for f in findings(rows)}

    def quote(per_seed):
        mean, se = 100 * np.mean(per_seed), 100 * stats.sem(per_seed)
        low, high = 100 * np.array(
            stats.t.interval(0.95, 2, np.mean(per_seed), stats.sem(per_seed))
        )
        words = f"{mean:+.1f} ± {se:.1f} points (95% interval {low:+.1f} to {high:+.1f}, 3 seeds)"
        return words.replace("-", "\N{MINUS SIGN}")

    def gap(split, a, b, directions=("AB", "BA")):
        return np.array(
            [
                np.mean([at[split, s, d, *a] - at[split, s, d, *b] for d in directions])
                for s in range(3)
            ]
        )

    base = ("base", 0)
    assert quote(gap("random", ("AnB", 4), base)) in text["specificity"]
    assert quote(gap("random", ("AnB", 4), ("AnB", 1))) in text["specificity"]
    farther = gap("dissimilar", ("AnB", 4), base) - gap("random", ("AnB", 4), base)
    assert quote(farther) in text["distance"]
    assert quote(gap("dissimilar", ("random", 4), base)) in text["distance"]
    for treatment, other in (("AnB+", "base"), ("BnB+", "base"), ("AnB+", "BnB+")):
        gaps = [
            gap("random", (treatment, n), base if other == "base" else (other, n), ("AB",))
            for n in (1, 2, 3, 4)
        ]
        assert quote(np.mean(gaps, axis=0)) in text["generalization"]
    for finding in findings(rows):
        assert finding.sentence.startswith("This run shows that")


def test_a_single_seed_has_values_but_no_verdicts():
    rows = grid(seeds=1)
    assert set(verdicts(rows).values()) == {None}
    text = report(rows, YOSINSKI_2014, facts={})
    assert "(1 seed, no standard error)" in text
    assert "nan" not in text


def test_results_round_trip_in_one_order(tmp_path):
    rows = [r._replace(accuracy=math.nan) if lost(r) else r for r in grid()]
    path, again = tmp_path / "results.csv", tmp_path / "again.csv"
    write_results(path, rows)
    write_results(again, random.Random(1).sample(rows, len(rows)))
    assert path.read_bytes() == again.read_bytes()
    assert path.read_text().startswith(
        "split,seed,direction,treatment,n,accuracy\nrandom,0,AB,base,0,0.7"
    )
    read = read_results(path)
    assert sorted(r[:5] for r in read) == sorted(r[:5] for r in rows)
    before, after = lookup(rows), lookup(read)
    for key, value in before.items():
        assert after[key] == pytest.approx(value, abs=5.1e-7, nan_ok=True)
    assert sorted(os.listdir(tmp_path)) == ["again.csv", "results.csv"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("random,0,AB,CnB,1,0.5", "unknown treatment"),
        ("random,0,AB,AnB,1,73.2", "accuracy out of"),
        ("random,0,AB,AnB,1,inf", "accuracy out of"),
        ("random,0,AB,AnB,1", "5 of 6 cells"),
    ],
)
def test_damaged_results_are_refused(tmp_path, row, message):
    path = tmp_path / "results.csv"
    path.write_text(f"split,seed,direction,treatment,n,accuracy\n{row}\n")
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_report_reads_in_order_and_tells_what_is_the_papers():
    text = report(grid(), YOSINSKI_2014, facts={"Time": "94 s", "Device": "2 CPU cores"})
    marks = [
        "- Time: 94 s",
        "## Findings",
        "## Results",
        "### Random halves",
        "### Dissimilar halves",
    ]
    marks += ["another network on another data set", "## The paper's values", "## How the numbers"]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    line = next(x for x in table(summarize(grid()), YOSINSKI_2014).splitlines() if "| AnB " in x)
    assert line.rstrip(" |").endswith("+0.3 ± 0.1")  # the paper's, n = 1
    assert "## Diverged" not in text


@pytest.mark.parametrize(
    "keep",
    [
        lambda r: True,
        lambda r: r.split == "random" and r.seed == 0,
        lambda r: r.split == "dissimilar",
        lambda r: r.treatment in ("base", "AnB"),
        lambda r: r.treatment != "base",
        lambda r: (r.split, r.seed, r.direction, r.treatment) != ("random", 0, "AB", "base"),
        lambda r: False,
    ],
    ids=["all", "one-split-one-seed", "dissimilar", "AnB", "no-base", "one-base-less", "empty"],
)
def test_figure_and_report_of_partial_data(tmp_path, keep):
    rows = [r._replace(accuracy=math.nan) if lost(r) else r for r in grid() if keep(r)]
    path = tmp_path / "figure.png"
    figure(summarize(rows), rows, YOSINSKI_2014, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    assert "nan" not in report(rows, YOSINSKI_2014, facts={})


def test_a_treatment_of_some_bases_is_drawn_at_its_paired_difference(tmp_path, monkeypatch):
    """AnB+ is trained in one direction, whose bases are not the mean base."""
    rows, figures = grid(noise=0), []
    monkeypatch.setattr(transfer_figure, "save", lambda figure, path: figures.append(figure))
    figure(summarize(rows), rows, (), tmp_path / "figure.png")
    (line,) = [line for line in figures[0].axes[0].lines if line.get_marker() == "v"]
    base = 100 * np.mean([r.accuracy for r in rows if (r.split, r.n) == ("random", 0)])
    heights = [base + points for points in EFFECTS["random", "AnB+"]]
    drawn = np.asarray(line.get_ydata(), float)  # matplotlib keeps objects
    np.testing.assert_allclose(drawn, heights)
    marks = [np.sort(np.asarray(c.get_offsets())[:, 1]) for c in figures[0].axes[0].collections]
    expected = np.repeat(heights, SEEDS)
    assert any(len(m) == len(expected) and np.allclose(m, expected) for m in marks)


def test_figure_where_all_networks_diverged(tmp_path):
    rows = [r._replace(accuracy=math.nan) for r in grid()]
    figure(summarize(rows), rows, YOSINSKI_2014, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000
    assert "nan" not in report(rows, YOSINSKI_2014, facts={})
