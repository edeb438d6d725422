"""Paths that come from a user."""

import os
import pwd
from pathlib import Path

import pytest

from jaxdl.files import user_path


@pytest.fixture
def homeless(monkeypatch):
    """A user of whom the system knows nothing, as in a container with a number of its own."""

    def getpwuid(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/runs/x") == Path("/somewhere/runs/x")
    assert user_path("~") == Path("/somewhere")
    root = pwd.getpwuid(0)
    assert user_path(f"~{root.pw_name}/x") == Path(root.pw_dir, "x")
    for path in ("/a/~/b", "a~", "./~/b"):
        assert user_path(path) == Path(path)


def test_without_a_home_it_says_so(homeless):
    with pytest.raises(ValueError, match="~/x: there is no home folder ~ here"):
        user_path("~/x")
    assert user_path("/x") == Path("/x")
    with pytest.raises(ValueError, match="no home folder ~nobody-of-that-name"):
        user_path("~nobody-of-that-name/x")
    assert not os.path.exists("~")
