"""Paths that come from a user, and the files there."""

import hashlib
import os
from pathlib import Path


def user_path(path: str | os.PathLike) -> Path:
    """The path with ``~`` or ``~name`` at its beginning replaced by that user's home folder.

    Raises:
      ValueError: if there is no such user, or the user has no home folder.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        home = text.split("/")[0]
        raise ValueError(f"{text}: there is no home folder {home} here: give the whole path")
    return Path(expanded)


def digest_file(path: Path) -> str:
    """A digest of a file's content, 16 hexadecimal digits.

    Raises:
      OSError: if it cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
