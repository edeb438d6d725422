"""The benchmark of images a second: what arrives is what was to arrive."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import benchmark as configs
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import data
from experiments.benchmark.turns import Row
from jaxdl.data.batches import host_batch_ids
from jaxdl.data.folder import folder
from jaxdl.report.tables import read_rows
from jaxdl.train.interruption import StopFlag
from jaxdl.train.population import member_key
from tests.experiments.benchmark.stand_ins import StandIn, assert_refused, cells, stand_in


@pytest.fixture
def little(tmp_path) -> ConfigDict:
    """A few small images; and the smallest share of contenders."""
    config = configs.get_config("data")
    config.rounds, config.data.sizes, config.data.images = 1, (16,), (12,)
    config.data.batch, config.data.batches = 5, 3
    config.data.workers, config.data.loader_workers = (1,), 1
    return config


def test_images_are_a_folder_of_jpegs_like_photographs(tmp_path):
    data.write_images(tmp_path, 32, 7)
    images, labels = folder(str(tmp_path)).splits["train"].values()
    assert images.shape == (7, 32, 32, 3)
    np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1, 1])
    pixels = np.stack([images[i] for i in range(7)]).astype(float)
    assert 20 < pixels.std() < 60
    neighbours = np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1]
    assert neighbours > 0.5  # of noise without a spectrum: 0


def test_resident_batches_are_those_of_the_order():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(40, 5, 6, 3), dtype=np.uint8)
    labels = rng.integers(9, size=40).astype(np.int32)
    mean, deviation = np.float32([100, 110, 120]), np.float32([50, 60, 70])
    draw = data.make_draw(mean, deviation, steps=4, batch=8)
    words = np.asarray(jax.random.key_data(member_key("data")))
    ids = [host_batch_ids(words, step, batch=8, examples=40) for step in range(3, 7)]
    batches = [((images[i] - mean) / deviation, labels[i]) for i in ids]
    seen = zip(ids, [batches[0], *batches[:-1]], strict=True)
    total = sum(image.flat[i[0]] + label[i[0] % 8] for i, (image, label) in seen)
    total += batches[-1][0].sum() + batches[-1][1].sum()
    got = draw({"image": images, "label": labels}, 3)
    np.testing.assert_allclose(got, total, rtol=1e-4)


def test_slices_start_from_a_steady_state():
    drawn = iter(range(1000))
    piece = data.take_batches(drawn, 7, workers=2)
    piece.before()
    assert next(drawn) == 2 * data.AHEAD
    piece.run()
    assert next(drawn) == 2 * data.AHEAD + 1 + 7
    assert (piece.networks, piece.steps) == (1, 7)


def test_streams_go_on_where_they_were(little, tmp_path, monkeypatch):
    """From the same folder as the DataLoader's, in this process, by threads."""
    monkeypatch.setattr(data, "SETTLE", 0.0)
    data.write_images(tmp_path / "16", 16, 12)
    steps = []
    monkeypatch.setattr(data.jax, "device_put", lambda batch: steps.append(batch["label"]))
    contender = data.make_streamed(tmp_path, 0, little)
    contender.slices["16 px"].run()
    contender.slices["16 px"].run()
    contender.close()
    words = np.asarray(jax.random.key_data(member_key("data")))
    ids = [host_batch_ids(words, step, batch=5, examples=12) for step in range(6)]
    np.testing.assert_array_equal(np.concatenate(steps), np.stack(ids) >= 6)


def test_pytorch_s_data_set_is_the_same_files(tmp_path):
    torch = pytest.importorskip("torch")
    data.write_images(tmp_path, 16, 5)
    images, labels = folder(str(tmp_path)).splits["train"].values()
    files = data.Files(tmp_path)
    assert len(files) == 5
    for i in range(5):
        image, label = files[i]
        assert isinstance(image, torch.Tensor)
        np.testing.assert_array_equal(image, images[i])
        assert label == labels[i]


class Fed(StandIn):
    """Of given speeds."""

    MS = {data.make_resident: 1.0, data.make_streamed: 20.0, data.make_loader: 25.0}  # noqa: RUF012

    def make_sizes(self):
        sizes, batches = self.config.data.sizes, self.config.data.batches
        return {data.kind_name(size): (1, batches) for size in sizes}

    def time(self, kind):
        return self.MS[self.make] if kind == "16 px" else 30.0

    def ask(self, question):
        return dict.fromkeys(self.sizes, 1234.0)


def test_report_of_images_a_second(little, tmp_path, monkeypatch):
    stand_in(monkeypatch, Fed)
    little.rounds, little.data.sizes, little.data.images = 2, (16, 24), (12, 10)
    little.data.batch, little.data.workers, little.data.loader_workers = 4, (0, 2), 2
    report = benchmark.study(little, tmp_path, StopFlag())
    (row, _) = (line[1:] for line in cells(report) if line[:1] == ["streamed, threads"])
    cores = benchmark.machine()["cores"]
    assert row == ["200", f"{200 / cores:,.0f}", "1.25 (1.25–1.25)"]
    assert "12 JPEGs of 16 x 16 pixels, 1.2 kB each" in report
    assert "resident, 16 px: at least 20 times the DataLoader: met, 25.00" in report
    assert "streamed, 2 workers, 16 px: at least 1 times the DataLoader: met, 1.25" in report
    assert "streamed, 2 workers, 24 px: at least 1 times the DataLoader: met, 1.00" in report
    assert "NOT met" not in report
    rows = read_rows(tmp_path / "results.csv", Row)
    assert len(rows) == 2 * 2 * 4
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "results.csv", "report.md"}


def test_goals_that_are_missed(little):
    rows = [Row("resident", "16 px", 1, 2.0, 0), Row(data.TORCH, "16 px", 1, 25.0, 0)]
    rows.append(Row("streamed, 1 worker", "16 px", 1, 26.0, 0))
    resident, streamed = data.goals(little, rows)
    assert "NOT met, 12.50 (12.50–12.50)" in resident
    assert "NOT met, 0.96 (0.96–0.96)" in streamed


def test_images_a_second_are_measured(little, tmp_path, capfd):
    """By all contenders for once; their processes end without a word."""
    pytest.importorskip("torch")
    report = benchmark.study(little, tmp_path, StopFlag())
    for name in ("resident", "streamed, 1 worker", "PyTorch's DataLoader"):
        assert f"| {name} " in report
    rows = read_rows(tmp_path / "results.csv", Row)
    assert [(row.contender, row.kind, row.networks) for row in rows] == [
        (name, "16 px", 1) for name in ("resident", "streamed, 1 worker", "PyTorch's DataLoader")
    ]
    assert all(row.ms_per_network_step > 0 for row in rows)
    said = capfd.readouterr().err
    assert not [word for word in ("Traceback", "Warning", "Error") if word in said]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.sizes": (16, 24)}, "config.data.images of each"),
        ({"data.batch": 13}, "1 … config.data.images"),
        ({"data.workers": (0,)}, "loader_workers"),
        ({"data.batches": 0}, "batches 1 or more"),
    ],
)
def test_wrong_settings_are_one_line(little, tmp_path, monkeypatch, change, words):
    stand_in(monkeypatch, Fed)
    little.update_from_flattened_dict(change)
    assert_refused(little, tmp_path, words)
