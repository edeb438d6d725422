"""A folder for what takes long to make: ``$XDG_CACHE_HOME/jaxdl``, or ``~/.cache/jaxdl``."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.files import user_path

Arrays = Mapping[str, np.ndarray]

_NAMES = "names of the others"


def cached(name: str, recipe: object, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make()`` returns, cached on disk from the first call on.

    A damaged file is replaced (arrays in zip archives have checksums); without a folder that can be
    written, nothing is cached.

    Args:
      name: prefix of the file's name, for a person who looks into the folder.
      recipe: the settings that the arrays depend on, distinguished by their ``repr``.
    """
    path = file(name, recipe)
    if path is None:
        return make()
    with contextlib.suppress(Exception):  # a damaged file can make the reader raise nearly anything
        with path.open("rb") as stream, np.load(stream) as stored:
            contents = dict(stored)
        # An archive's directory has no checksum: where it is damaged, arrays can be missing.
        if sorted(contents.pop(_NAMES).tolist()) == sorted(contents):
            return contents
    arrays = make()
    _write(path, arrays)
    return arrays


def file(name: str, recipe: object) -> Path | None:
    """The file in which :func:`cached` keeps the arrays of a recipe; None without a cache
    folder."""
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    root = folder()
    return root and root / f"{name}-{key}.npz"


def folder() -> Path | None:
    """``$XDG_CACHE_HOME/jaxdl``, or ``~/.cache/jaxdl``; None for a user who has no home folder."""
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxdl"
    except ValueError:
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Write the arrays in one step, so that no reader finds half a file; do nothing where that
    fails."""
    temporary, named = None, dict[str, Any]({**arrays, _NAMES: np.array(list(arrays))})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            np.savez(stream, **named)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
