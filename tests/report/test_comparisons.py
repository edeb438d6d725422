"""One rule for what shows, in every report."""

import numpy as np
import pytest
from scipy import stats

from jaxdl.report.comparisons import (
    assemble,
    compare,
    compare_all,
    judged,
    minus,
    over_seeds,
    quote,
    reach,
    shows,
    warn_of_several,
)
from jaxdl.report.tables import mean_and_standard_error


@pytest.mark.parametrize("generator", range(20))
def test_what_shows_is_what_a_t_test_says(generator):
    rng = np.random.default_rng(generator)
    values = rng.normal(0.02, 0.01, rng.integers(2, 6))
    x = mean_and_standard_error(values)
    test = stats.ttest_1samp(values, 0.0)
    significant = bool(test.pvalue < 0.05)
    assert shows(+1, x) == (significant and test.statistic > 0)
    assert shows(-1, x) == (significant and test.statistic < 0)
    assert compare("a", x, "b").startswith(
        f"This run {'shows' if significant else 'does not show'} that a is "
    )


def test_values_that_differ_by_rounding_alone_show_nothing():
    """Otherwise a difference of 1e-17 between seeds would make a finding."""
    x = mean_and_standard_error([0.1 + 0.2, 0.3, 0.3])
    assert 0 < x.se < 1e-9 and not judged(x) and shows(+1, x) is None
    assert "in each of 3 seeds, which gives no interval" in compare("a", x, "b")
    one = mean_and_standard_error([0.1])
    assert shows(-1, one) is None and "in one seed" in compare("a", one, "b")
    assert quote(one) == "+10.0 points (1 seed, no standard error)"
    assert quote(mean_and_standard_error([])) == "not measured"


def test_a_sign_that_is_not_printed_is_no_direction():
    for sign in (-1, 1):
        x = mean_and_standard_error(sign * np.array([1e-10, 1e-3, -1e-3]))
        assert compare("a", x, "b").startswith(
            "This run does not show that a is above or below b: +0.0 ± 0.1 points (95%"
        )
    small = mean_and_standard_error([0.00030, 0.00031, 0.00032])
    assert compare("a", small, "b").startswith("This run shows that a is above b: +0.0 ± 0.0 po")


def test_of_one_seed_it_is_said_once_that_nothing_can_be_judged():
    one, two = mean_and_standard_error([0.1]), mean_and_standard_error([0.1, 0.2])
    comparisons = [("a", one, "c"), ("b", one, "c")]
    (line,) = compare_all(comparisons)
    assert line.startswith("None of 2 comparisons can be judged, since one seed has no interval: ")
    assert compare_all(comparisons[:1]) == [compare("a", one, "c")]
    (a, b) = compare_all([("a", one, "c"), ("b", two, "c")])
    assert "+10.0 points in one seed" in a and b == compare("b", two, "c")
    assert compare_all([]) == []


def test_all_of_several_must_show():
    up, flat = (mean_and_standard_error(x) for x in ([0.1, 0.11, 0.12], [-0.1, 0.0, 0.1]))
    assert shows(+1, up) and not shows(+1, up, flat) and not shows(-1, up)


def test_differences_are_paired_where_there_is_a_pair():
    assert minus({0: 0.5, 1: 0.7}, {1: 0.4, 2: 0.1}) == {1: pytest.approx(0.3)}
    assert over_seeds({0: 1.0, 5: 2.0}).mean == 1.5


def test_the_reach_of_an_interval_is_that_of_so_many_values():
    for count in (2, 3, 5, 30):
        factor = stats.t.ppf(0.975, count - 1)
        assert reach(count) == f"{factor:.1f} standard errors with {count} seeds"
    assert reach(3, "draw").endswith("with 3 draws") and reach(1) == "one seed has no interval"


def test_the_skeleton_leaves_out_what_is_empty():
    sections = [("A", "first"), ("", "second"), ("B", ""), ("", ""), ("C", "third")]
    assert assemble("T", {"x": "1"}, sections) == (
        "# T\n\n- x: 1\n\n## A\n\nfirst\n\nsecond\n\n## C\n\nthird\n"
    )
    assert warn_of_several(1) == [] and "0.1 of them" in warn_of_several(2)[0]


def test_an_interval_has_the_digits_that_show_its_sign():
    x = mean_and_standard_error([0.0100, 0.0102, 0.0300])
    low, high = stats.t.interval(0.95, 2, x.mean, x.se)
    assert low < -0.001  # one digit will do
    assert f"interval {100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−") in quote(x)
    x = mean_and_standard_error([-0.0193, -0.01652])
    low, high = stats.t.interval(0.95, 1, x.mean, x.se)
    assert -0.0005 < high < 0
    assert f"interval {100 * low:+.2f} to {100 * high:+.2f}".replace("-", "−") in quote(x)
