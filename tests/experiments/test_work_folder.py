"""What is in the work folder already: another run, or files that are damaged or lost."""

import os
from pathlib import Path

import pytest

from tests.experiments.launcher import assert_refused
from tests.experiments.tiny import STEPS, assert_same_run, contents, curves


def test_changed_config_is_refused(finished, start):
    workdir, _ = finished
    before = contents(workdir)
    ended = start(workdir, "--config.steps=14", "--config.optimizer.learning_rate=0.5").wait()
    assert_refused(ended, "steps", "optimizer.learning_rate", "--workdir", str(workdir))
    assert "seeds" not in ended.complaint
    assert contents(workdir) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}', "\0\xff"], ids=range(5))
def test_damaged_config(text, start, unreported):
    (unreported / "config.json").write_bytes(text.encode("latin-1"))
    before = contents(unreported)
    assert_refused(start(unreported).wait(), str(unreported))
    assert contents(unreported) == before


def test_damaged_results_are_made_again(finished, start, unreported):
    (unreported / "results.csv").write_bytes(b"split,seed\n\0\xff")
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    assert_same_run(unreported, finished[0])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "pattern, damage",
    [
        pytest.param("frozen-0/**/*", cut, id="one cut"),
        pytest.param("**/*", cut, id="all cut", marks=pytest.mark.slow),
        pytest.param("**/d/*", flip, id="a bit flipped", marks=pytest.mark.slow),
        pytest.param(
            "*/*/state/manifest.ocdbt", Path.unlink, id="a file lost", marks=pytest.mark.slow
        ),
    ],
)
def test_damaged_checkpoints_are_named_and_not_used(pattern, damage, finished, start, unreported):
    checkpoints = unreported / "checkpoints"
    damaged = [path for path in checkpoints.glob(pattern) if path.is_file()]
    for path in damaged:
        damage(path)
    ended = start(unreported).wait()
    assert ended.code == 0, ended.err[-2000:]
    for name in {path.relative_to(checkpoints).parts[0] for path in damaged}:
        assert f"{checkpoints / name / str(STEPS)} was damaged" in ended.err
    # What was trained again comes last in the curves.
    assert (unreported / "results.csv").read_bytes() == (finished[0] / "results.csv").read_bytes()
    ours, theirs = (sorted(map(str, curves(at))) for at in (unreported, finished[0]))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        "results.csv",
        "metrics.jsonl",
        "config.json",
    ],
)
def test_lost_file_is_made_again_or_missed(missing, finished, start, unreported):
    """Without its curves or its table a run is completed, or refused in one line."""
    (unreported / missing).unlink()
    ended = start(unreported).wait()
    assert "Traceback" not in ended.err, ended.err[-1500:]
    if ended.code:
        assert_refused(ended, missing)
    else:
        assert_same_run(unreported, finished[0])


def test_damaged_curves(finished, start, unreported):
    """A line of garbage within the curves must not cost the lines behind it."""
    path = unreported / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5], "garbage\n", *lines[5:]]))
    before = path.read_bytes()
    ended = start(unreported).wait()
    assert_refused(ended, str(path))
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk(start, unreported):
    """Where nothing more can be written, it says so."""
    with (unreported / "metrics.jsonl").open("a") as file:
        file.write("half a line")  # so that it is written anew
    (unreported / "metrics.jsonl.tmp").symlink_to("/dev/full")
    ended = start(unreported).wait()
    assert_refused(ended, "space")
