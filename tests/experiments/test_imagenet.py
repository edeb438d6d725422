"""The paper's recipe on generated photographs in ImageNet's layout: trains, resumes, reports."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.experiments.launcher import ROOT

WNIDS = ("n01440764", "n01443537", "n01484850", "n02690373", "n02691156", "n03594945")
SETTINGS = (
    "--config=configs/transferability.py:imagenet",
    "--config.data.options.validation=12",
    "--config.data.feed=streamed",
    "--config.data.workers=1",
    "--config.seeds=1",
    "--config.splits=('random',)",
    "--config.treatments=('AnB+',)",
    "--config.steps=3",
    "--config.steps_per_dispatch=1",
    "--config.batch=4",
    "--config.evaluation_batch=12",
    "--config.seconds_between_saves=0.0",
)


@pytest.fixture
def photographs(tmp_path):
    """Six classes of blurred noise; sizes, grey and colour mixed as in the real archive."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for wnid in WNIDS:
            folder = tmp_path / "data" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                h, w = ((256, 256), (300, 280), (256, 341))[i % 3]
                noise = gaussian_filter(rng.normal(size=(h, w, 3)), (6, 6, 0))
                pixels = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
                image = Image.fromarray(pixels)
                image = image.convert("L") if i == 1 else image
                image.save(folder / f"{wnid}_{i}.JPEG", quality=90)
    return tmp_path / "data"


@pytest.mark.slow
def test_the_papers_recipe_trains_resumes_and_reports(photographs, tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.transferability", *SETTINGS]
    command += [f"--config.data.options.path={photographs}", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "XDG_CACHE_HOME": str(tmp_path)}

    first = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    curves = workdir / "metrics.jsonl"
    while first.poll() is None and not (curves.exists() and curves.read_text().count("\n") >= 2):
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    _, complaint = first.communicate()
    assert first.returncode == 128 + signal.SIGTERM, complaint
    assert not (workdir / "results.csv").exists()

    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    with (workdir / "results.csv").open() as table:
        rows = list(csv.DictReader(table))
    # Two bases, and AnB+ from A to B at seven cuts.
    assert [(r["treatment"], r["n"]) for r in rows] == [
        ("base", "0"),
        ("base", "0"),
        *(("AnB+", str(n)) for n in range(1, 8)),
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert "caffenet" in second.stdout
    assert (workdir / "samples.png").stat().st_size > 50_000
