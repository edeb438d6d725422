"""The study of what networks see, in tiny and in this process."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from configs.visualize import VARIANTS, get_config
from experiments import visualize
from experiments.harness.run import UserError
from experiments.harness.settings import check
from experiments.harness.study import COMMON
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.nn.models.pretrained import PRETRAINED, shapes
from jaxdl.nn.models.vgg import VGG, hed_names
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.report import visualize as reporting
from jaxdl.report import visualize_figures as figures
from jaxdl.train.interruption import StopFlag
from tests.experiments.tiny import rows

pytestmark = pytest.mark.usefixtures("two_devices")


def small(classes, axis_name=None):
    """Two convolutions, and the logits."""
    return ConvNet((Conv(3), Conv(4, pool=2)), (), classes, axis_name=axis_name)


def tiny():
    config = get_config()
    training = config.training
    training.seeds, training.base.steps, training.steps_per_dispatch = 2, 4, 2
    training.data.name, training.data.options = "digits", {"seed": 0}
    training.base.model, training.base.batch = f"{__name__}:small", 8
    config.most_images, config.examples, config.evaluation_batch = 30, 10, 10
    config.integration_steps, config.perturbation_steps, config.window = 2, 4, 4
    config.stages, config.units, config.shown, config.patches = ("conv2",), 1, 2, 1
    config.stage = "conv1"
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visualize")
    return folder, visualize.study(tiny(), folder, StopFlag())


FIGURES = ("filters", "feature_maps", "units", "perturbation", "attributions", "mistakes")


def test_networks_are_trained_and_looked_into_and_the_report_is_reprinted(finished):
    folder, text = finished
    names = {path.name for path in folder.iterdir()}
    expected = {f"{name}.png" for name in (*FIGURES, "confusion")}
    assert names == expected | {
        *("config.json", "run.json", "results.csv", "report.md", "report.html", "network"),
    }
    attributions = ("Grad-CAM", "gradient", "integrated gradients", "occlusion", "random")
    networks = [(name, str(seed)) for seed in range(2) for name in attributions]
    assert [(row["attribution"], row["seed"]) for row in rows(folder)] == networks
    for part in ("| conv2 ", "Grad-CAM at conv1", "Of 30 images", "predicted classes of 10 images"):
        assert part in text
    assert (folder / "network" / "results.csv").exists()
    assert visualize.study(tiny(), folder, StopFlag()) == text


@pytest.mark.usefixtures("quick_figures")
def test_a_network_of_a_run_is_seen_as_when_it_was_trained(finished, tmp_path):
    config = tiny()
    config.run, config.network = str(finished[0] / "network"), ("method=momentum", "seed=1")
    text = visualize.study(config, tmp_path / "run", StopFlag())
    assert "method=momentum seed=1 of " in text
    trained = [{**row, "seed": "0"} for row in rows(finished[0]) if row["seed"] == "1"]
    assert rows(tmp_path / "run") == trained
    config.network = ("method=momentum", "seed=0")
    with pytest.raises(UserError, match=r"holds a run that differs in .*network"):
        visualize.study(config, tmp_path / "run", StopFlag())


@pytest.mark.usefixtures("quick_figures")
def test_convolutions_without_classes_have_filters_maps_and_units(tmp_path, monkeypatch):
    model = VGG(((3, 4), (5,)), (), 0)
    row = PRETRAINED["vgg16_convolutions"]._replace(build=lambda: model, size=12)
    monkeypatch.setitem(PRETRAINED, "vgg16_convolutions", row)
    rng = np.random.default_rng(0)
    draw = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes(model, 12))
    write_safetensors(tmp_path / "weights", to_source(draw, hed_names(model)))
    for i in range(3):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        pixels = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    config = get_config("vgg16")
    config.weights, config.images = str(tmp_path / "weights"), str(tmp_path / "pictures")
    config.units = config.patches = 1
    text = visualize.study(config, tmp_path / "run", StopFlag())
    line = next(line for line in text.splitlines() if line.startswith("| conv2 "))
    assert [cell.strip() for cell in line.split("|")[2:6]] == ["6 x 6 x 4", "6", "2", "-2"]
    assert "Findings" not in text and rows(tmp_path / "run") == []
    drawn = {path.stem for path in (tmp_path / "run").glob("*.png")}
    assert drawn == {"filters", "feature_maps", "units"}


@pytest.mark.parametrize(
    ("shape", "window", "stride", "expected"),
    [
        ((13, 11), 0, 0, (2, 1)),
        ((4, 9), 0, 0, (1, 1)),
        ((15, 15), 0, 2, (3, 2)),
        ((9, 9), 4, 0, (4, 2)),
    ],
)
def test_without_a_window_a_fifth_of_the_side_is_occluded(
    shape, window, stride, expected, monkeypatch
):
    """And without a stride squares overlap by half."""

    class Asked(Exception):
        pass

    def occlusion(*_, window, stride):
        raise Asked(window, stride)

    for name in ("gradients", "integrated_gradients"):
        monkeypatch.setattr(visualize.attribution, name, lambda scores, x, *_, **__: x)
    monkeypatch.setattr(visualize.attribution, "occlusion", occlusion)
    config = SimpleNamespace(window=window, stride=stride, integration_steps=1)
    study = SimpleNamespace(config=config, model=SimpleNamespace(apply=len))
    with pytest.raises(Asked) as asked:
        x, number = np.zeros((1, *shape, 1)), np.zeros(1, int)
        visualize.Visualize.explain(study, {}, x, number, number)
    assert asked.value.args == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": "fc3"}, r"config\.stage: 'fc3' is not one of '', conv1, conv2"),
        ({"window": 9}, r"squares of 9 pixels, 5 apart, do not cover images of 8 x 8"),
        ({"stride": -1}, r"config\.stride must be at least 0"),
        (
            {"data.name": "digits", "data.options": {"size": 9, "channels": 3}},
            r"images of \(9, 9, 3\) for test",
        ),
        ({"run": get_config("run").run}, r"there is no folder runs/supervised-default: name the"),
        ({"run": "x", "pretrained": "resnet20"}, r"config\.run and config\.pretrained name two ne"),
        ({"pretrained": "resnet20"}, r"weights of resnet20: \. is no file; expected resnet20-12f"),
        ({"images": "nowhere"}, r"there is no folder nowhere: name one with images"),
        ({"training.base.rate": -1.0}, r"config\.base\.rate must be above 0"),
    ],
)
def test_wrong_settings_are_one_line(change, words, tmp_path):
    config = tiny()
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        visualize.study(config, tmp_path / "run", StopFlag())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_every_variant_can_be_had(variant):
    check(get_config(variant), {**visualize.SETTINGS.kinds, **COMMON})
    with pytest.raises(ValueError, match="unknown variant 'lenet'"):
        get_config("lenet")


AREAS = {
    ("a", 0): (np.array([0.1, 0.2, 0.3]), np.array([0.8, 0.9, 0.7])),
    ("a", 1): (np.array([0.3, 0.2, 0.1]), np.array([0.8, 0.7, 0.9])),
    ("random", 0): (np.array([0.5, 0.4, 0.5]), np.array([0.5, 0.4, 0.5])),
    ("random", 1): (np.array([0.5, 0.6, 0.7]), np.array([0.5, 0.6, 0.3])),
}


def test_findings_compare_images_after_a_mean_over_networks():
    insertion, deletion, last = reporting.findings(AREAS).splitlines()
    gain = np.array([0.8, 0.8, 0.8]) - np.array([0.5, 0.5, 0.4])
    low, high = 100 * np.array(stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain)))
    assert insertion == (
        "- This run shows that **a** is better than a random order, by insertion: +33.3 ± 3.3 "
        f"points (95% interval +{low:.1f} to +{high:.1f}, 3 images)."
    )
    assert "by deletion: +33.3 ± 3.3 points" in deletion and "These are 2 comparisons" in last
    line = next(x for x in reporting.table(AREAS).splitlines() if x.startswith("| a "))
    cells = [cell.strip() for cell in line.split("|")[2:6]]
    assert cells == ["20.0 ± 0.0", "+33.3 ± 3.3", "80.0 ± 0.0", "+33.3 ± 3.3"]
    best = {("z", 0): (np.zeros(3), np.ones(3))}
    assert reporting.ranking(AREAS | best) == ["z", "a", "random"]


def test_predictions_count_what_is_taken_for_what():
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    text = reporting.predictions({0: shares}, np.array([0, 1, 1, -1]), ("cat", "dog"))
    assert "Of 3 images with a known class 66.7 % are" in text
    assert "80.0 % where it is right, 80.0 % where it is wrong" in text
    assert "cat for dog (1)" in text or "dog for cat (1)" in text
    assert "not known" in reporting.predictions({0: shares}, np.full(4, -1), ("cat", "dog"))


def test_a_frame_is_drawn_around_a_part_of_an_image():
    white = np.ones((60, 60, 3))
    image = figures.framed(white, (10, 20), (30, 20))
    frame = np.argwhere(image[..., 2] < 1)  # yellow and black have no blue
    assert image.shape == (120, 120, 3)
    assert frame.min(0).tolist() == [20, 40] and frame.max(0).tolist() == [79, 79]
    small = np.argwhere(figures.framed(white, (30, 30), (1, 1))[..., 2] < 1)
    assert math.isclose(np.ptp(small[:, 0]) + 1, 10, abs_tol=1)
