"""Classes of image files against a network applied by hand; networks of runs and of files."""

import csv
import json
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax import lax
from PIL import Image
from scipy import ndimage
from scipy.special import softmax

from experiments import predict
from experiments.harness import networks
from experiments.harness.networks import CIFAR10, from_weights
from jaxdl.data.encoded import Form, decode
from jaxdl.nn.models.pretrained import PRETRAINED, shapes
from jaxdl.nn.weights import to_source, write_safetensors
from jaxdl.predict import Classifier, classify, decoder, list_images, make_logits
from jaxdl.types import DamagedFile


class Mean:
    """Logits are the mean of each colour, and their negated sum."""

    def apply(self, variables, x):
        means = x.mean((1, 2)) @ variables["params"]["kernel"]
        return jax.numpy.concatenate([means, -means.sum(-1, keepdims=True)], -1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven pictures of several sizes in two folders, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(7):
        path = folder / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        size = (9 + i, 12, 3)
        Image.fromarray(rng.integers(0, 256, size).astype(np.uint8)).save(path)
    (folder / "notes.txt").write_text("none", encoding="utf-8")
    return folder


def test_classes_are_those_of_the_network_applied_by_hand(pictures):
    kernel = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    classifier = Classifier(
        Mean(),
        {"params": {"kernel": kernel}},
        lambda x: x / 255.0,
        decoder((8, 8, 3)),
        tuple("abcd"),
    )
    paths = list_images(pictures)
    assert [path.name for path in paths] == [
        "1.png",
        "3.png",
        "5.png",
        *(f"{i}.png" for i in (0, 2, 4, 6)),
    ]
    parts = list(classify(classifier, paths, batch=3))
    assert [len(pixels) for _, pixels in parts] == [3, 3, 1]
    for i, path in enumerate(paths):
        chances, pixels = parts[i // 3][0][i % 3], parts[i // 3][1][i % 3]
        np.testing.assert_array_equal(pixels, decode(path.read_bytes(), "", Form(8, "crop", 3)))
        means = (pixels / 255).mean((0, 1)) @ kernel
        expected = softmax([*means, -means.sum()])
        np.testing.assert_allclose(chances, expected, rtol=1e-4)


def correlate(variables, x):
    """The network that correlates images with a kernel, and puts out maps."""
    kernel = variables["kernel"][:, :, None, None]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize(("views", "count"), [("", 1), ("mirrored", 2), ("turned", 8)])
def test_views_of_an_image_are_those_of_the_kernel(views, count):
    """The mean of what all views correlate with is the mean of the kernel's own views."""
    rng = np.random.default_rng(0)
    image, kernel = (rng.normal(size=size).astype(np.float32) for size in ((6, 5), (3, 3)))
    symmetries = [(k, k[:, ::-1]) for k in (np.rot90(kernel, i) for i in range(4))]
    mean = np.mean([k for pair in symmetries for k in pair][:count], 0)
    expected = ndimage.correlate(image, mean, mode="constant")
    maps = make_logits(correlate, views)({"kernel": kernel}, image[None, :, :, None])
    np.testing.assert_allclose(maps[0, ..., 0], expected, rtol=1e-4, atol=1e-5)


def test_images_that_a_network_cannot_take_are_named(pictures):
    tall = decoder((8, 9, 3))
    path = list_images(pictures)[0]
    with pytest.raises(
        DamagedFile, match=r"1\.png: the image is 12 pixels wide and 10 high, the net"
    ):
        tall(path.read_bytes(), path.name)


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory):
    """Random weights as their source would have them, and the network."""
    row, path = PRETRAINED["resnet20"], tmp_path_factory.mktemp("weights") / "r.safetensors"
    rng, model = np.random.default_rng(0), row.build()
    variables = jax.tree.map(
        lambda x: rng.uniform(0.1, 0.3, x.shape).astype(np.float32) * rng.choice([1.0, 0.5]),
        shapes(model, 32),
    )
    write_safetensors(path, to_source(variables, row.names(model)))
    return path, model, variables


def test_a_folder_by_weights_of_a_file(resnet20, pictures, tmp_path):
    path, model, variables = resnet20
    arguments = ["--model", "resnet20", "--weights", str(path), "--images", str(pictures)]
    text = predict.main([*arguments, "--out", str(tmp_path / "out")])
    assert "right, by the names of their folders" in text
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    prepare = PRETRAINED["resnet20"].preprocessing.prepare
    inputs = np.stack([prepare(Image.open(p), 32) for p in list_images(pictures)])
    chances = softmax(np.asarray(jax.jit(model.apply)(variables, inputs)), -1)
    assert [row["file"] for row in rows] == [
        "cat/1.png",
        "cat/3.png",
        "cat/5.png",
        *(f"dog/{i}.png" for i in (0, 2, 4, 6)),
    ]
    assert [row["predicted"] for row in rows] == [CIFAR10[i] for i in chances.argmax(-1)]
    (line,) = [line for line in text.splitlines() if line.startswith("7 images, by predicted cla")]
    for name, count in Counter(row["predicted"] for row in rows).items():
        assert f" {name} ({count})" in line
    written = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(written, chances.max(-1), rtol=1e-3)
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: --images; usage: python -m experiments.predict"),
        (("--images", "x"), "name either a --run, or a --model and its --weights"),
        (("--images", "x", "--model", "resnet20"), "name either a --run"),
        (("--images", "x", "--run", "r", "--classes", "c"), "--classes are those of a --model"),
        (("--images", "nowhere", "--run", "r"), "there is no folder nowhere: name one with images"),
        (("--images", ".", "--run", "nowhere", "--odd"), "unrecognized arguments: --odd"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as raised:
        predict.main(arguments)
    assert "\n" not in str(raised.value)


def test_names_of_networks_and_classes(resnet20):
    assert networks.parse_name(["method=dann", "seed=0"]) == {"method": "dann", "seed": 0}
    with pytest.raises(ValueError, match=r"'dann' names no network: write COLUMN=VALUE"):
        networks.parse_name(["dann"])
    with pytest.raises(ValueError, match=r"2 names for the 10 classes of resnet20"):
        from_weights("resnet20", resnet20[0], ("a", "b"))


class Named(NamedTuple):
    """The name of a network."""

    method: str
    seed: int


def test_a_misspelled_name_is_answered_by_the_one_that_is_like_it(tmp_path):
    records = ({"population": "a", "step": 1, "method": m, "seed": 0} for m in ("sgd", "adam"))
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "metrics.jsonl").write_text(f"{lines}\n")
    run = SimpleNamespace(folder=tmp_path, kind=SimpleNamespace(network=Named))
    with pytest.raises(ValueError, match=r"with method=sdg: is it method=sgd\? name one, as"):
        networks.choose(run, {"method": "sdg"})
    with pytest.raises(ValueError, match=r"with method=sgd seed=1: name one, as method"):
        networks.choose(run, {"method": "sgd", "seed": 1})
