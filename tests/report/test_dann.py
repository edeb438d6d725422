"""The report of the domain-adaptation study, on networks whose story is known."""

import math
import os
import random

import numpy as np
import pytest
from scipy import stats

from experiments.dann import Network
from jaxdl.report import embeddings
from jaxdl.report.adapted import (
    Changes,
    Diagnosis,
    Result,
    collapsed,
    join,
    order,
    read_diagnoses,
    read_results,
    summarize,
    write_diagnoses,
    write_results,
)
from jaxdl.report.criteria import diagnostics
from jaxdl.report.dann import Published, findings, report, table
from jaxdl.report.published import DANN_2015, DANN_2016, DANN_LATER
from jaxdl.types import DamagedFile

NAN, PAIR = math.nan, "mnist_to_mnist_m"
PUBLISHED = (*DANN_2015, *DANN_2016, *DANN_LATER)
HEALTHY = Diagnosis(PAIR, "dann", 0, 1, 0.70, 0.99, 0.12, -1, "", 5.0, 0.9, 900.0)

TARGET = {  # by seed
    "source_only": (0.50, 0.52, 0.54),
    "mmd": (0.60, 0.50, 0.55),
    "dann": (0.74, 0.80, 0.78),
    "target_only": (0.98, 0.97, 0.99),
}


def study(target=TARGET, pair=PAIR, **changes):
    """Results and diagnoses; a change is `dann_1={"top_share": .95}`, of either row."""
    results, diagnoses = [], []
    for method, accuracies in target.items():
        for seed, accuracy in enumerate(accuracies):
            change = changes.pop(f"{method}_{seed}", {})
            d = HEALTHY._replace(pair=pair, method=method, seed=seed)
            if method != "dann":
                d = d._replace(adversarial=0, domain_accuracy=NAN, reversal=NAN)
            mine = {k: v for k, v in change.items() if k in Diagnosis._fields}
            theirs = {k: v for k, v in change.items() if k not in mine}
            diagnoses.append(d._replace(**mine))
            results.append(Result(pair, method, seed, 0.85, accuracy)._replace(**theirs))
    assert not changes
    return results, diagnoses


def whole(rows, published=PUBLISHED, **colours):
    facts = {"Time": "94 s"}
    changes = {method: Changes(strength) for method, strength in colours.items()}
    text = report(*rows, published, changes=changes, facts=facts)
    assert "nan" not in text
    return text


def row_of(text, start):
    line = next(x for x in text.splitlines() if x.startswith(f"| {start} "))  # of the first table
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_and_gaps_worked_out_by_hand():
    results, diagnoses = study()
    random.Random(0).shuffle(results)
    lower, dann, mmd, upper = summarize(results, diagnoses)
    assert [x.method for x in (lower, dann, mmd, upper)] == [
        "source_only",
        "dann",
        "mmd",
        "target_only",
    ]
    assert dann.source_accuracy.mean == pytest.approx(0.85)
    assert dann.target_accuracy.mean == pytest.approx((0.74 + 0.80 + 0.78) / 3)
    assert dann.target_accuracy.se == pytest.approx(stats.sem([0.74, 0.80, 0.78]))
    covered = [24 / 48, 28 / 45, 24 / 45]  # by seed, points
    assert dann.gap_covered.mean == pytest.approx(np.mean(covered))
    assert dann.gap_covered.se == pytest.approx(np.std(covered, ddof=1) / 3**0.5)
    assert mmd.gap_covered.mean == pytest.approx(np.mean([10 / 48, -2 / 45, 1 / 45]))
    assert (lower.gap_covered.used, upper.gap_covered.used) == (0, 0)
    cells = row_of(whole((results, diagnoses)), "DANN")
    assert cells == ["DANN", "85.0 ± 0.0", "77.3 ± 1.8", "55.2 ± 3.6", "3 of 3"]


def test_published_numbers_are_those_of_the_papers():
    rows = {(p.source, p.method, p.pair): p.target_accuracy for p in PUBLISHED}
    assert len(rows) == len(PUBLISHED)
    facts = """
    ICML 2015 | .5749 .8149 .9891 | .8665 .9048 .9244 | .5919 .7107 .9951 | .7400 .8866 .9987
    JMLR 2016 | .5225 .7666 .9596 | .8674 .9109 .9220 | .5490 .7385 .9942 | .7900 .8865 .9980
    """
    later = """
    idann  | .9667 |      |      | .9800
    vada   | .977  | .948 | .979 | .988
    dirt_t | .989  | .961 | .994 | .995
    """
    pairs = (PAIR, "syn_numbers_to_svhn", "svhn_to_mnist", "syn_signs_to_gtsrb")
    order = ("source_only", "dann", "target_only")
    expected = {}
    for line in facts.strip().splitlines():
        who, *groups = (part.strip() for part in line.split("|"))
        for pair, group in zip(pairs, groups, strict=True):
            expected |= {
                (who, m, pair): float(x) for m, x in zip(order, group.split(), strict=True)
            }
    assert {k: v for k, v in rows.items() if k[0] in ("ICML 2015", "JMLR 2016")} == expected
    expected = {}
    for line in later.strip().splitlines():
        method, *values = (part.strip() for part in line.split("|"))
        expected |= {(method, p): float(x) for p, x in zip(pairs, values, strict=True) if x}
    assert {(p.method, p.pair): p.target_accuracy for p in DANN_LATER} == expected
    tuned = "deeper network; tuned on 1,000 target labels"
    assert {p.method: p.note for p in DANN_LATER} == {"idann": "", "vada": tuned, "dirt_t": tuned}


def test_published_rows_stand_below_ours():
    text = whole(study())
    assert row_of(text, "ICML 2015: DANN")[2:] == ["81.5", "57.9", "published"]  # 24.00 / 41.42
    assert row_of(text, "JMLR 2016: DANN")[2:4] == ["76.7", "55.8"]  # 24.41 / 43.71
    assert row_of(text, "ICML 2015: source only")[2:4] == ["57.5", "–"]
    assert row_of(text, "Gallego et al. 2020: iDANN")[2:4] == ["96.7", "–"]
    assert row_of(text, "Shu et al. 2018: DIRT-T [1]")[2] == "98.9"
    assert "[1] deeper network; tuned on 1,000 target labels." in text
    marks = [
        "| source only ",
        "| DANN ",
        "| MMD ",
        "| train on target ",
        "| ICML 2015: source only ",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_a_pair_without_published_numbers_says_so():
    text = whole(study(pair="mnist_to_usps"))
    assert "# Domain adaptation: mnist → usps\n" in text
    assert "no published numbers beside ours" in text
    assert "published |" not in text and "ICML" not in text
    assert "no published numbers" not in whole(study())


def test_findings_are_those_of_t_tests():
    dann, mmd = (
        next(x for x in findings(*study(), PUBLISHED[:3], {}) if part in x)
        for part in ("**DANN** is above source only", "**MMD** is below DANN")
    )
    assert dann.startswith("This run shows that") and "25.3 ± 1.3 points" in dann
    gain = np.subtract(TARGET["dann"], TARGET["source_only"])
    low, high = 100 * np.array(stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain)))
    assert f"(95% interval +{low:.1f} to +{high:.1f}, 3 seeds)" in dann
    shows = stats.ttest_rel(TARGET["mmd"], TARGET["dann"]).pvalue < 0.05
    assert mmd.startswith(f"This run {'shows' if shows else 'does not show'} that")
    alone = study({method: x for method, x in TARGET.items() if method != "dann"})
    assert stats.ttest_rel(TARGET["mmd"], TARGET["source_only"]).pvalue > 0.05
    assert any(
        x.startswith("This run does not show that **MMD** is above source only")
        for x in findings(*alone, (), {})
    )
    worse = TARGET | {"dann": (0.30, 0.31, 0.32)}
    assert any(
        x.startswith("This run shows that **DANN** is below source only")
        for x in findings(*study(worse), (), {})
    )


def test_what_is_compared_with_what():
    sentences = findings(*study(), [p for p in PUBLISHED if p.pair == PAIR], {})
    of = {m: [x for x in sentences if f"**{m}**" in x] for m in ("source only", "train on target")}
    assert all(len(x) == 1 and x[0].count(f"'s {m} (") == 2 for m, x in of.items())
    assert all(x[0].count(" (") == 3 for x in of.values())
    dann = " ".join(x for x in sentences if "**DANN**" in x)
    assert all(x in dann for x in ("ICML 2015's DANN", "JMLR 2016's DANN", "2020's iDANN"))
    assert "VADA" not in " ".join(sentences) and "DIRT-T" not in " ".join(sentences)


@pytest.mark.parametrize("dann", [(0.74, 0.80, 0.78), (0.90, 0.91, 0.92), (0.70, 0.71, 0.72)])
def test_published_numbers_are_judged_by_one_sample_t_tests(dann):
    (sentence,) = (
        x for x in findings(*study(TARGET | {"dann": dann}), PUBLISHED[:3], {}) if "N**," in x
    )
    low, high = 100 * np.array(stats.t.interval(0.95, 2, np.mean(dann), stats.sem(dann)))
    assert f"in {low:.1f} to {high:.1f} % (95% interval, 3 seeds)" in sentence
    test = stats.ttest_1samp(dann, 0.8149)
    side = "above" if test.statistic > 0 else "below"
    side = side if test.pvalue < 0.05 else "not shown to differ from"
    assert sentence.endswith(f" is {side} ICML 2015's DANN (81.5 %).")


RECOLOURED = TARGET | {
    "source_recoloured": (0.70, 0.72, 0.71),
    "dann_consistency": (0.85, 0.86, 0.88),
}


def test_methods_are_compared_with_what_is_recoloured_alike():
    colours = {"source_recoloured": 1.0, "dann_consistency": 1.0, "dann": 0.0}
    rows = study(RECOLOURED)
    changes = {method: Changes(strength) for method, strength in colours.items()}
    text = " ".join(findings(*rows, (), changes))
    recoloured = "source only (recolouring 1 against 0), by target accuracy: +19.0 ± 1.0 points"
    assert f"**source only, recoloured** is above {recoloured}" in text
    gain = np.subtract(RECOLOURED["dann_consistency"], RECOLOURED["source_recoloured"])
    low, high = 100 * np.array(stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain)))
    assert (
        "**DANN + consistency** is above source only, recoloured, by target accuracy: +15.3 ± 0.9 "
        f"points (95% interval +{low:.1f} to +{high:.1f}, 3 seeds)" in text
    )
    assert "**DANN** is above source only, by" in text and "**MMD** is below DANN, by" in text
    # Where all are recoloured, source only is the control; where none is alike, it is said.
    text = " ".join(findings(*study(), (), dict.fromkeys(TARGET, Changes(0.5))))
    assert "**DANN** is above source only, by" in text and "(recolouring" not in text
    text = " ".join(findings(*study(), (), {"mmd": Changes(0.5, 0.2)}))
    differences = "(recolouring 0.5 against 0, backgrounds 0.2 against 0)"
    assert f"**MMD** is below DANN {differences}, by target accuracy" in text


def test_methods_are_compared_with_what_is_drawn_on_backgrounds_alike():
    accuracies = RECOLOURED["source_recoloured"], RECOLOURED["dann_consistency"]
    drawn = dict(zip(("source_on_target", "dann_consistency"), accuracies, strict=True))
    changes = dict.fromkeys(drawn, Changes(1.0, 0.5)) | {"source_only": Changes(1.0)}
    text = " ".join(findings(*study(TARGET | drawn), (), changes))
    alone = "source on target backgrounds"
    assert f"**{alone}** is above source only (backgrounds 0.5 against 0), by target" in text
    assert f"**DANN + consistency** is above {alone}, by target accuracy" in text
    text = report(*study(TARGET | drawn), (), changes=changes, facts={})
    names = f"{alone}, DANN + consistency"
    assert f"Labelled images partly drawn on target images: {names}." in text


def test_recoloured_bounds_are_marked_and_not_compared_with_published_ones():
    colours = {"source_only": 1.0, "dann": 1.0, "target_only": 0.5}
    text = whole(study(), **colours)
    for name in ("source only", "train on target"):
        assert f"- **{name}** was trained on changed images" in text
        assert f"**{name}**, its mean" not in text
    assert "**DANN**, its mean" in text
    assert (
        "Trained on recoloured images: source only, DANN, train on target. The gap covered is the "
        "one that recolouring leaves." in text
    )
    only = whole(study(RECOLOURED), source_recoloured=1.0)
    assert "Trained on recoloured images: source only, recoloured.\n" in only
    assert "recoloured images" not in whole(study())


def test_recolouring_alone_covers_a_part_of_the_gap():
    found = {s.method: s for s in summarize(*study(RECOLOURED))}
    covered = [20 / 48, 20 / 45, 17 / 45]
    assert found["source_recoloured"].gap_covered.mean == pytest.approx(np.mean(covered))


def test_the_number_of_comparisons_is_told():
    published = [p for p in PUBLISHED if p.pair == PAIR]
    *others, last = findings(*study(), published, {})
    # DANN and MMD with a method, and with three published numbers each; each bound with two.
    assert last.startswith("These are 12 comparisons, each by its own 95% interval and none")
    assert "0.6 of them would be expected" in last
    assert not any("comparisons" in x for x in others)
    assert "comparisons" not in " ".join(findings(*study({"dann": TARGET["dann"]}), (), {}))


def test_seeds_that_are_all_alike_are_not_few():
    rows = study({"source_only": (0.5, 0.7, 0.6), "dann": (0.6, 0.8, 0.7), "mmd": (0.7, 0.7, 0.7)})
    text = whole(rows)
    assert (
        "how **DANN** compares with source only, by target accuracy: +10.0 points in each of 3 "
        "seeds, which gives no interval." in text
    )
    assert (
        "how **MMD** compares with published numbers: 70.0 % in each of 3 seeds, which gives no "
        "interval." in text
    )
    assert "no seed has both" not in text and "too few seeds" not in text


def test_one_seed_has_values_and_no_verdict():
    text = whole(study({method: x[:1] for method, x in TARGET.items()}))
    assert "It cannot be judged how **DANN** compares with source only" in text
    assert "+24.0 points in one seed" in text
    assert row_of(text, "DANN")[1:] == ["85.0", "74.0", "50.0", "1 of 1"]
    assert "This run" not in text


def test_collapsed_and_diverged_networks_are_marked_and_in_no_mean():
    gone = {"diverged_at": 310, "diverged_in": "params/fc"}
    gone |= {"source_accuracy": NAN, "target_accuracy": NAN}
    rows = study(
        dann_1={"top_share": 0.98, "target_accuracy": 0.098, "source_accuracy": 0.112},
        dann_2=gone | {"top_share": NAN, "domain_accuracy": NAN, "neighbourhood_density": NAN},
        source_only_0={"neighbourhood_density": 100.0, "top_share": 0.91},
    )
    dann = next(s for s in summarize(*rows) if s.method == "dann")
    assert (dann.networks, dann.collapsed, dann.diverged) == (1, (1,), (2,))
    assert dann.target_accuracy.mean == pytest.approx(0.74)
    assert dann.gap_covered.used == 0  # the only seed left lacks its source only
    text = whole(rows)
    assert row_of(text, "DANN")[4] == "1 of 3; seed 1 collapsed; seed 2 diverged"
    assert row_of(text, "source only")[4] == "2 of 3; seed 0 collapsed"
    assert (
        "DANN, seed 1, collapsed: 98.0 % of its target predictions are in one class. Its "
        "accuracies are 11.2 % (source) and 9.8 % (target)." in text
    )
    assert "DANN, seed 2, diverged at step 310: NaN or infinity in params/fc." in text
    assert "DANN with the collapsed networks: 41.9 % (target)." in text  # (74 + 9.8) / 2
    assert "5.000" in text and "36.667" not in text  # density, without the collapsed one


def test_a_method_without_any_network_left():
    gone = {"diverged_at": 5, "source_accuracy": NAN, "target_accuracy": NAN}
    text = whole(study(dann_0=gone, dann_1=gone, dann_2=gone))
    assert row_of(text, "DANN")[1:] == ["–", "–", "–", "0 of 3; seeds 0, 1, 2 diverged"]
    assert (
        "how **DANN** compares with source only, by target accuracy: no seed has both, or" in text
    )


@pytest.mark.parametrize(
    ("share", "expected"), [(0.89, False), (0.9, True), (1.0, True), (0.1, False), (NAN, False)]
)
def test_collapse(share, expected):
    assert collapsed(HEALTHY._replace(top_share=share)) is expected


@pytest.mark.parametrize(
    ("classes", "fine", "close"), [(2, 0.69, 0.71), (3, 0.61, 0.62), (10, 0.49, 0.5)]
)
def test_what_is_close_to_a_collapse_depends_on_the_classes_shares(classes, fine, close):
    def said(top_share, source_share):
        change = {"top_share": top_share, "source_share": source_share}
        return " ".join(diagnostics(join(*study(GOOD, dann_1=change))))

    assert said(fine, 1 / classes) == "" and "close to a collapse" in said(close, 1 / classes)
    assert "close to a collapse" in said(0.89, 1 / classes)
    assert "seed 1, collapsed: " in said(0.9, 1 / classes)
    # Of two classes one may be rare.
    assert said(0.96, 0.95) == "" and "close to a collapse" in said(0.97, 0.95)
    assert "seed 1, collapsed: " in said(0.98, 0.95)


CASES = {
    "The domain classifier has won": [{"domain_accuracy": 0.95}, {"domain_accuracy": 1.0}],
    "which is the aim": [{"domain_accuracy": 0.55}, {"domain_accuracy": 0.46}],
    "classes mismatched": [{"domain_accuracy": 0.5, "target_accuracy": 0.74}],
    "λ never rose": [{"reversal": 0.0}, {"reversal": 0.09}, {"reversal": NAN}],
    "collapsed": [{"top_share": 0.93}, {"top_share": 0.93, "domain_accuracy": 0.5}],
    "diverged at step 7": [{"diverged_at": 7, "source_accuracy": NAN, "target_accuracy": NAN}],
    "close to a collapse": [{"top_share": 0.5}, {"top_share": 0.89}],
}
GOOD = TARGET | {"dann": (0.80, 0.80, 0.78)}


@pytest.mark.parametrize(("phrase", "change"), [(k, c) for k, cs in CASES.items() for c in cs])
def test_each_diagnosis_is_told_exactly_where_it_holds(phrase, change):
    said = diagnostics(join(*study(GOOD, dann_1=change)))
    assert {p for p in CASES if any(p in x for x in said)} == {phrase}
    assert all(x.startswith(("DANN, seed 1", "DANN with")) for x in said)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"domain_accuracy": 0.94},
        {"domain_accuracy": 0.56},
        {"reversal": 0.1},
        {"top_share": 0.49},
        {"target_accuracy": 0.2},
    ],
)
def test_no_diagnosis_where_all_is_well(change):
    rows = study(GOOD, dann_1=change)
    assert diagnostics(join(*rows)) == []
    assert "Nothing to report" in whole(rows)


def test_a_classifier_that_only_watches_is_not_blamed():
    watching = {"adversarial": 0, "domain_accuracy": 1.0, "reversal": 0.0}
    assert diagnostics(join(*study(GOOD, mmd_0=watching))) == []


def test_a_case_is_one_sentence_for_all_its_seeds():
    won = {"domain_accuracy": 0.97}
    (sentence,) = diagnostics(join(*study(GOOD, dann_0=won, dann_2={"domain_accuracy": 0.99})))
    assert sentence.startswith("DANN, seeds 0, 2. The domain classifier has won")
    assert "97.0, 99.0 %" in sentence


@pytest.mark.parametrize("upper", [0.51, 0.50, 0.40])
def test_a_gap_that_is_tiny_or_not_there_is_not_shared(upper):
    rows = study(TARGET | {"target_only": (upper, 0.97, 0.99)})
    assert all(s.gap_covered.used == 0 for s in summarize(*rows))
    text = whole(rows)
    assert "No gap covered is given: in seed 0 train on target minus source only is" in text
    assert row_of(text, "DANN")[3] == "–"
    assert "No gap covered" not in whole(study())


def test_a_published_gap_that_is_tiny_is_not_shared():
    rows = [Published("X 2020", PAIR, m, x) for m, x in (("source_only", 0.9), ("dann", 0.905))]
    rows.append(Published("X 2020", PAIR, "target_only", 0.91))
    assert row_of(table([], rows), "X 2020: DANN")[3] == "–"


def test_what_each_criterion_would_choose():
    best = {f"dann_{s}": {"neighbourhood_density": 7.0} for s in range(3)}
    weights = {f"mmd_{s}": {"importance_weighted_accuracy": 0.95} for s in range(3)}
    text = whole(study(**best, **weights))
    assert "- Criteria choose among methods that learn no target label: train on target is" in text
    # Density ties MMD and source only: 2 pairs are ordered.
    assert "Neighbourhood density would choose DANN, the best of 3 by target accuracy." in text
    assert "orders 2 of 2 pairs" in text
    assert (
        "Importance-weighted accuracy would choose MMD, number 2 of 3 by target accuracy, 22.3 "
        "points below DANN. It orders 1 of 2 pairs" in text
    )
    assert "effective samples (fewer" not in text


def test_a_method_with_too_few_effective_samples_is_not_ranked_by_them():
    weights = {f"mmd_{s}": {"importance_weighted_accuracy": 0.95} for s in range(3)}
    weights["mmd_2"]["effective_samples"] = 12.0
    good = {f"dann_{s}": {"importance_weighted_accuracy": 0.92} for s in range(3)}
    text = whole(study(**weights, **good))
    assert (
        "Importance-weighted accuracy would choose DANN, the best of 2 by target accuracy. It "
        "orders 1 of 1 pairs" in text
    )
    assert "MMD, seed 2: the importance weights leave only 12.0 effective" in text
    assert "By that accuracy it is not ranked." in text
    weights["mmd_0"]["effective_samples"] = 11.0
    assert "MMD, seeds 0, 2: the importance weights leave as few as 11.0 eff" in whole(
        study(**weights)
    )


def test_criteria_that_were_not_computed():
    none = {"importance_weighted_accuracy": NAN, "effective_samples": NAN}
    rows = study(**{f"{m}_{s}": none for m in TARGET for s in range(3)})
    text = whole(rows)
    assert "Importance-weighted accuracy would" not in text
    assert "Importance-weighted accuracy does" not in text
    assert "Neighbourhood density does not tell the methods apart." in text


def test_a_target_without_labels_has_no_accuracy_and_no_comparison():
    target = {method: (NAN, NAN, NAN) for method in ("source_only", "mmd", "dann")}
    best = {f"dann_{s}": {"neighbourhood_density": 7.0} for s in range(3)}
    best["dann_0"] |= {"domain_accuracy": 0.5}
    best["mmd_1"] = {"top_share": 0.95}
    best["source_only_2"] = {"diverged_at": 3, "source_accuracy": NAN}
    rows = study(target, **best)
    text = whole(rows)
    assert row_of(text, "DANN") == ["DANN", "85.0 ± 0.0", "–", "–", "3 of 3"]
    assert row_of(text, "MMD")[-1] == "2 of 3; seed 1 collapsed"
    assert row_of(text, "source only")[-1] == "2 of 3; seed 2 diverged"
    (sentence,) = findings(*rows, PUBLISHED, {})
    assert sentence in text and "no labels" in sentence
    assert "- Neighbourhood density would choose DANN.\n" in text
    assert "95.0 % of its target predictions are in one class. Its accuracy is 85.0 % (so" in text
    assert "which is the aim. Whether their classes match, labels alone could tell." in text
    for absent in ("cannot be judged", "by target accuracy.", "pairs of methods", "(target)"):
        assert absent not in text


@pytest.mark.parametrize(
    "methods",
    [("dann",), ("source_only",), ("target_only",), ("source_only", "dann"), ("own_method",), ()],
)
def test_report_of_part_of_a_study(methods):
    text = whole(study({m: (0.5, 0.6) for m in methods}))
    assert "## Results" in text
    assert ("| own method " in text) == ("own_method" in methods)


def test_report_reads_in_order_and_tells_how_numbers_were_chosen():
    text = whole(study())
    marks = ["MNIST → MNIST-M\n", "- Networks: 12\n- Time: 94 s", "## Findings", "## Results"]
    marks += ["Our numbers are of the last step;", "## Diagnostics", "## Criteria", "## How"]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_rows_that_do_not_belong_together_are_refused():
    results, diagnoses = study()
    with pytest.raises(ValueError, match="not both a result and a diagnosis of"):
        summarize(results, diagnoses[1:])
    with pytest.raises(ValueError, match="two rows for one network"):
        summarize([*results, results[0]], diagnoses)
    other = [[x._replace(pair="svhn_to_mnist") for x in rows] for rows in (results, diagnoses)]
    with pytest.raises(ValueError, match="of one pair of domains"):
        summarize(results + other[0], diagnoses + other[1])


def test_tables_round_trip_in_one_order(tmp_path):
    gone = {"diverged_at": 7, "source_accuracy": NAN, "target_accuracy": NAN, "top_share": NAN}
    results, diagnoses = study(dann_1=gone)
    for rows, write, read in (
        (results, write_results, read_results),
        (diagnoses, write_diagnoses, read_diagnoses),
    ):
        write(tmp_path / "a.csv", rows)
        write(tmp_path / "b.csv", random.Random(1).sample(rows, len(rows)))
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
        again = {x[:3]: x for x in read(tmp_path / "a.csv")}
        assert len(again) == len(rows)
        for x in rows:
            for value, back in zip(x, again[x[:3]], strict=True):
                if isinstance(value, float):
                    np.testing.assert_allclose(back, value, atol=5.1e-7)
                else:
                    assert back == value
    write_results(tmp_path / "results.csv", results)
    text = (tmp_path / "results.csv").read_text()
    assert text.startswith("pair,method,seed,source_accuracy,target_accuracy\n" + PAIR)
    assert text.splitlines()[1].split(",")[1] == "source_only"
    assert text.splitlines()[-1].split(",")[1] == "target_only"


GOOD_LINE = "p,dann,0,1,0.7,0.99,0.1,-1,,5,0.9,900,0.1"


@pytest.mark.parametrize(
    ("read", "lines", "message"),
    [
        (read_results, "p,dann,0,0.5,73.2", r"target_accuracy out of \[0, 1\]"),
        (read_results, "p,dann,0,inf,0.5", "source_accuracy out of"),
        (read_results, "p,dann,0,0.5", "4 of 5 cells"),
        (read_results, "p,dann,x,0.5,0.5", "line 2"),
        (read_results, "p,dann,0,0.5,0.5\np,dann,0,0.5,0.5", "two rows for one network"),
        (read_diagnoses, GOOD_LINE.replace(",0.1,", ",1.1,", 1), "top_share out of"),
        (read_diagnoses, GOOD_LINE.replace("0,1,", "0,2,", 1), "adversarial out of"),
        (read_diagnoses, GOOD_LINE.replace("900", "-3"), "effective_samples out of"),
        (read_diagnoses, f"{GOOD_LINE[:-3]}1.1", "source_share out of"),
        (read_diagnoses, GOOD_LINE.replace(",-1,", ",,"), "line 2"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, read, lines, message):
    kind = Result if read is read_results else Diagnosis
    path = tmp_path / "table.csv"
    path.write_text(f"{','.join(kind._fields)}\n{lines}\n")
    with pytest.raises(DamagedFile, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def clouds(n=60, classes=10, apart=6.0, d=8):
    rng = np.random.default_rng(0)
    labels = np.arange(2 * n) % classes
    x = 5 * rng.standard_normal((classes, d))[labels] + rng.standard_normal((2 * n, d))
    x[n:, 0] += apart
    return x, np.arange(2 * n) < n, labels


def test_pca_is_that_of_the_singular_vectors():
    x, is_source, _ = clouds()
    points = embeddings.embed({"a": (x[is_source], x[~is_source])}, "pca")["a"]
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_tsne_keeps_neighbours_together_and_depends_on_the_seed_only():
    x, is_source, labels = clouds(apart=0.0)
    features = {"a": (x[is_source], x[~is_source])}
    points = embeddings.embed(features, seed=1)["a"]
    np.testing.assert_array_equal(points, embeddings.embed(features, seed=1)["a"])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels[distances.argmin(1)] == labels) > 0.9


def test_networks_are_in_the_order_of_tables():
    names = [("target_only", 0), ("dann", 1), ("dann", 0), ("source_only", 0)]
    networks = [Network("pair", *name) for name in names]
    assert [network[1:] for network in sorted(networks, key=order)] == names[::-1]


def test_no_cores_are_counted_which_containers_hide(monkeypatch):
    from joblib.externals.loky.backend import context

    monkeypatch.setattr(context, "_count_physical_cores", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    x = np.random.default_rng(0).normal(size=(12, 3))
    assert embeddings.embed({"a": (x[:6], x[6:])})["a"].shape == (12, 2)
    assert "OMP_NUM_THREADS" not in os.environ


def test_features_that_cannot_be_embedded():
    with pytest.raises(ValueError, match="a: features that are not finite"):
        embeddings.embed({"a": (np.full((4, 3), NAN), np.ones((4, 3)))})
    assert not embeddings.embed({"dead": (np.ones((4, 3)), np.ones((5, 3)))})["dead"].any()


@pytest.mark.parametrize(("classes", "panels"), [(10, 2), (43, 3)])
def test_embedding_figure_shows_both_domains(tmp_path, classes, panels):
    from matplotlib.image import imread

    x, is_source, labels = clouds(n=300, classes=classes)
    names = ("source only", "DANN", "CDAN")[:panels]
    embeddings.draw({n: (x[:, :2], is_source, labels) for n in names}, tmp_path / "figure.png")
    image = imread(tmp_path / "figure.png")[..., :3]
    assert image.shape[0] > 600 and image.shape[1] > 290 * panels
    top = image[: len(image) // 2]
    blue = (top[..., 2] > 1.2 * top[..., 0]) & (top[..., 2] > 0.5)
    red = (top[..., 0] > 1.2 * top[..., 2]) & (top[..., 0] > 0.5)
    assert 0.005 < blue.mean() < 0.5 and 0.005 < red.mean() < 0.5
    assert np.mean(image.min(-1) > 0.99) > 0.5  # mostly white paper


def test_embeddings_name_classes_and_say_what_is_grey(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(embeddings, "save", lambda figure, path: drawn.append(figure))
    labels = np.arange(12) % 3
    features = {"dann": [np.random.default_rng(0).normal(size=(12, 3))] * 2}
    names = ("circle", "square", "triangle")
    for target in (labels, np.full(12, -1)):
        embeddings.draw_domains(features, (labels, target), names, tmp_path / "logits.png")
    for figure, note in zip(drawn, ("", " Grey: images without a label."), strict=True):
        top, bottom = figure.axes
        assert [text.get_text() for text in bottom.texts] == [*names]
        assert figure.get_supxlabel() == f"Seed 0, 12 and 12 held-out images.{note}"
        (handle, _), points = figure.legends[0].legend_handles, top.collections[0]
        assert handle.get_alpha() == points.get_alpha() < 1 and points.get_sizes() > 7
