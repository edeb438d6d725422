"""The landscape study in tiny, in this process: paths against closed forms, report and figures."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from configs.landscape import VARIANTS, get_config
from experiments import landscape
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.study import COMMON
from jaxdl.optim.surfaces import SURFACES
from jaxdl.report.landscape import (
    Result,
    best_rates,
    describe_diverged,
    findings,
    measure,
    read_results,
    report,
)
from jaxdl.report.landscape_figure import FRAMES, frame_steps
from jaxdl.train.checkpoint import load_network
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.parallel import make_placement
from tests.experiments.tiny import Stops

STEPS = 8


def tiny():
    config = get_config()
    config.surfaces, config.optimizers = ("saddle", "valley"), ("sgd", "momentum")
    config.rates, config.seeds = (1e-3, 4e-3), 2
    config.steps, config.steps_per_dispatch, config.seconds_between_saves = STEPS, 4, 1e9
    config.animate = True
    return config


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Two of the devices."""
    with pytest.MonkeyPatch.context() as patch:
        restricted = partial(make_placement, devices=jax.devices()[:2])
        patch.setattr(landscape, "make_placement", restricted)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape")
    return folder, landscape.study(tiny(), folder, StopFlag())


def path_in(folder, **name):
    """All places of a path, start and end included."""
    variables = load_network(folder, **name)
    return np.vstack([variables["path"], variables["params"]["position"]])


def test_a_run_has_a_row_for_each_path_and_is_reprinted(finished):
    folder, text = finished
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "run.json", "results.csv", "metrics.jsonl", "checkpoints"),
        *("report.md", "report.html", "landscape.png", "landscape.gif"),
    }
    rows = read_results(folder / "results.csv")
    assert [row[:4] for row in rows] == landscape.networks(tiny())
    assert len(rows) == 2 * 2 * 2 * 3 and all(row.value > 0 for row in rows)
    for part in ("**saddle**", "| valley ", "momentum", "24 of 8 steps, in one program"):
        assert part in text
    assert landscape.study(tiny(), folder, StopFlag()) == text


def test_the_animation_has_the_frames(finished):
    with Image.open(finished[0] / "landscape.gif") as image:
        assert image.n_frames == len(frame_steps(STEPS)) == STEPS + 1
    steps = frame_steps(5000)
    assert (steps[0], steps[-1]) == (0, 5000) and len(steps) <= FRAMES
    assert (np.diff(steps) > 0).all()


def test_paths_in_the_valley_are_closed_forms(finished):
    axes = np.array([[2, 1], [-1, 2]]) / math.sqrt(5)
    start = axes @ SURFACES["valley"].start
    for rate in (1e-3, 4e-3):
        about = {"surface": "valley", "rate": rate, "seed": 0}
        sgd = path_in(finished[0], optimizer="sgd", **about) @ axes.T
        momentum = path_in(finished[0], optimizer="momentum", **about) @ axes.T
        for i, curvature in enumerate((1, 100)):
            powers = (1 - rate * curvature) ** np.arange(STEPS + 1)
            np.testing.assert_allclose(sgd[:, i], start[i] * powers, atol=1e-5)
            # (v, w) -> (m v + h w, w - r (m v + h w))
            step = np.array([[0.9, curvature], [-rate * 0.9, 1 - rate * curvature]])
            states = [np.linalg.matrix_power(step, t) @ (0, start[i]) for t in range(STEPS + 1)]
            np.testing.assert_allclose(momentum[:, i], np.array(states)[:, 1], atol=1e-5)


def test_paths_at_the_saddle_are_those_of_its_quadratic_form(finished):
    name = {"surface": "saddle", "optimizer": "sgd", "rate": 4e-3, "seed": 0}
    path, start = path_in(finished[0], **name), SURFACES["saddle"].start
    for i, curvature in enumerate((200, -1)):  # y^2 / 4 = 1e-4 is neglected
        powers = (1 - 4e-3 * curvature) ** np.arange(STEPS + 1)
        np.testing.assert_allclose(path[:, i], start[i] * powers, rtol=1e-4, atol=1e-6)


def test_a_start_is_the_same_for_all_optimizers_and_rates(finished):
    starts = {}
    for network in landscape.networks(tiny()):
        start = path_in(finished[0], **network._asdict())[0]
        starts.setdefault((network.surface, network.seed), []).append(start)
    for (surface, seed), alike in starts.items():
        assert np.ptp(alike, axis=0).max() == 0
        window = np.ptp(SURFACES[surface].window, axis=1)
        noise = 0.002 * window * np.random.default_rng(seed).standard_normal(2) * (seed > 0)
        np.testing.assert_allclose(alike[0], SURFACES[surface].start + noise, rtol=1e-6)


def test_what_was_stopped_goes_on_bit_for_bit(finished, tmp_path):
    with pytest.raises(Interrupted):
        landscape.study(tiny(), tmp_path, Stops())
    landscape.study(tiny(), tmp_path, StopFlag())
    for name in ("results.csv", "metrics.jsonl", "landscape.png", "landscape.gif"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_a_path_is_measured_to_where_it_stays():
    path = np.array([[0, 0, 1], [0, 1, 0.005], [0, 1.5, 0.2], [0, 1.9, 0.01], [3, 2, 0.01]])
    network = ("saddle", "sgd", 0.1, 1)
    assert measure(network, path, 0.01, False) == (*network, 0.01, 3, 3, 1)
    assert measure(network, path[-2:], 0.01, False).steps == 0
    value, distance, steps, reached = measure(network, path, 0.001, False)[4:]
    assert (value, distance, reached) == (0.01, 3, 0) and math.isnan(steps)
    value, distance, steps, reached = measure(network, path, 0.01, True)[4:]
    assert math.isnan(value + distance + steps) and reached == 0


NAN = float("nan")


def results(surface, optimizer, rate, *steps, value=0.0):
    """A row a start."""
    return [
        Result(surface, optimizer, rate, seed, value, 0.0, s, float(s == s))
        for seed, s in enumerate(steps)
    ]


ROWS = [
    *results("saddle", "adam", 0.1, 50, 60, 64, 62),
    *results("saddle", "adam", 0.2, 40, 44, 45, 46),
    *results("saddle", "momentum", 0.1, 70, NAN, 70, 76),
    *results("saddle", "momentum", 0.2, NAN, 1, 2, 3),
    *results("saddle", "nesterov", 0.1, 60, 50, 54, 58),
    *results("saddle", "nesterov", 0.2, NAN, NAN, NAN, NAN, value=NAN),
    *results("saddle", "sgd", 0.1, NAN, NAN, NAN, NAN, value=0.9),
    *results("saddle", "sgd", 0.2, NAN, NAN, NAN, NAN, value=NAN),
    *results("rosenbrock", "sgd", 0.1, NAN, NAN, NAN, NAN, value=0.9),
    *results("rosenbrock", "sgd", 0.2, NAN, NAN, NAN, NAN, value=0.8),
]


def test_the_best_rate_is_chosen_by_the_own_start_alone():
    best = best_rates(ROWS)
    assert best["saddle", "adam"] == 0.2 and best["saddle", "momentum"] == 0.1
    assert best["saddle", "nesterov"] == 0.1 and best["saddle", "sgd"] == 0.1
    assert best["rosenbrock", "sgd"] == 0.2
    for order in (ROWS[::-1], ROWS[::2] + ROWS[1::2]):
        assert best_rates(order) == best


def test_findings_say_what_reaches_and_what_sticks():
    saddle, difference, rosenbrock, edge = findings(ROWS)
    assert saddle == (
        "**saddle**: the minimum is reached by adam after 45.0 ± 0.6 steps, nesterov after 54.0 ± "
        "2.3 steps, momentum after 73.0 ± 3.0 steps (from 2 of 3 starts); sgd sticks to the "
        "saddle, whose value is 1 (median at the end 0.9)."
    )
    lead = np.subtract((50, 54, 58), (44, 45, 46))
    low, high = stats.t.interval(0.95, 2, lead.mean(), stats.sem(lead))
    shown = "shows" if low > 0 else "does not show"
    assert difference.startswith(f"**saddle**: that adam is faster than nesterov {shown}, by 9.0")
    assert f"(95% interval +{low:.1f} to +{high:.1f}, 3 starts)" in difference
    assert "sgd does not reach it (median value at the end 8.0e-01)" in rosenbrock
    assert "adam on saddle (0.2)" in edge
    assert "2 of 3" in report(ROWS, {})
    assert describe_diverged(ROWS) == (
        "8 paths, NaN in `results.csv`, of rates that are too large: nesterov on saddle from 0.2, "
        "sgd on saddle from 0.2"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surfaces": ("hill",)}, r"config\.surfaces: 'hill' is not one of saddle, valley"),
        ({"surfaces": ()}, r"config\.surfaces is empty"),
        ({"optimizers": ("sgd", "newton")}, r"config\.optimizers: 'newton' is not one of sgd"),
        ({"rates": (0.1, 0.0)}, r"config\.rates: \(0\.1, 0\.0\) is no tuple such as"),
        ({"rates": (0.1, 0.1)}, r"config\.rates has one rate twice"),
        ({"steps": 6}, r"config\.steps=6 is not a multiple of config\.steps_per_dispatch=4"),
        ({"tolerance": 0.0}, r"config\.tolerance must be above 0"),
        ({"animate": "yes"}, r"config\.animate must be True or False"),
        ({"parallel.mode": "fsdp"}, r"config\.parallel\.mode: 'fsdp' is not one of"),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny()
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        landscape.study(config, tmp_path / "run", StopFlag())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_every_variant_can_be_had(variant):
    check(get_config(variant), {**landscape.SETTINGS.kinds, **COMMON})
    with pytest.raises(ValueError, match="unknown variant 'hills'"):
        get_config("hills")
