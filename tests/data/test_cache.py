"""The cache against its promises: kept, whole or made anew, and never in the way."""

import pwd
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdl.data import cache
from jaxdl.data.cache import cached, file

ROOT = Path(cache.__file__).parents[2]
ARRAYS = {"images": np.arange(40, dtype=np.uint8).reshape(2, 5, 4), "mean": np.float32(0.5)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache folder of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def not_again():
    pytest.fail("made what the cache holds")


def equal(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_second_call_reads(home):
    equal(cached("some", (1, "a"), lambda: ARRAYS))
    equal(cached("some", (1, "a"), not_again))
    (kept,) = (home / "jaxdl").iterdir()
    assert kept == file("some", (1, "a")) and kept.name.startswith("some-")


def test_keyed_by_name_and_recipe():
    files = {file(name, recipe) for name in "ab" for recipe in (1, "1", (1,), 2, None)}
    assert len(files) == 10
    assert cached("a", 1, lambda: {"x": np.zeros(1)})["x"] == 0
    assert cached("a", 2, lambda: {"x": np.ones(1)})["x"] == 1
    assert cached("a", 1, not_again)["x"] == 0


def test_folder_is_the_users_by_default(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert file("a", 1).parent == Path("/somewhere/.cache/jaxdl")
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as good as unset, says the standard
    assert file("a", 1).parent == Path("/somewhere/.cache/jaxdl")


def test_a_tilde_is_the_home_folder_here_too(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/mine")
    assert file("a", 1).parent == Path("/somewhere/mine/jaxdl")


def test_without_a_home_nothing_is_kept(monkeypatch, tmp_path):
    def getpwuid(number):
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.chdir(tmp_path)
    assert cache.folder() is None and file("some", 1) is None
    for _ in range(2):
        equal(cached("some", 1, lambda: ARRAYS))
    assert not list(tmp_path.iterdir())


def test_any_damage_is_made_good():
    """A bit flipped here and there, or any end cut off: the same arrays, and the file is whole."""
    cached("some", 1, lambda: ARRAYS)
    path = file("some", 1)
    whole = path.read_bytes()
    places = [*range(0, len(whole), 9), *range(len(whole) - 22, len(whole))]  # the end record, too
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    for damaged in [b"not a zip file", *flipped, *(whole[:n] for n in range(0, len(whole), 37))]:
        path.write_bytes(damaged)
        equal(cached("some", 1, lambda: ARRAYS))
        equal(cached("some", 1, not_again))
    path.unlink()
    path.mkdir()  # nor is this any hindrance
    equal(cached("some", 1, lambda: ARRAYS))


def test_folder_that_cannot_be_written(home):
    home.write_text("where the folder should be")
    equal(cached("some", 1, lambda: ARRAYS))
    assert home.read_text() == "where the folder should be"


@pytest.mark.parametrize("where", ["savez", "replace"])
def test_failed_write_leaves_nothing(home, monkeypatch, where):
    def full(target, *_, **__):
        if where == "savez":
            target.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(*((np, "savez") if where == "savez" else (cache.os, "replace")), full)
    equal(cached("some", 1, lambda: ARRAYS))
    assert not list((home / "jaxdl").iterdir())


def test_what_making_raises_is_raised(home):
    def make():
        raise ValueError("the data are no good")

    with pytest.raises(ValueError, match="no good"):
        cached("some", 1, make)
    assert not home.exists()


def test_processes_that_write_at_once_leave_a_whole_file(home):
    """Two write the same file over and over; whoever reads meanwhile gets all of it."""
    code = (
        "import numpy as np; from jaxdl.data.cache import cached, file\n"
        "for _ in range(40):\n"
        "    file('big', 1).unlink(missing_ok=True)\n"
        "    x = cached('big', 1, lambda: {'x': np.arange(30_000)})['x']\n"
        "    assert (x == np.arange(30_000)).all()\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    reads = 0
    while any(w.poll() is None for w in writers):
        try:
            with file("big", 1).open("rb") as stream, np.load(stream) as stored:
                np.testing.assert_array_equal(stored["x"], np.arange(30_000))
                reads += 1
        except FileNotFoundError:
            pass
    assert [w.wait() for w in writers] == [0, 0] and reads
    assert [path.suffix for path in (home / "jaxdl").iterdir()] == [".npz"]
