"""A user's own functions, named in a setting as ``module:function``, and errors in them."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NamedFunction:
    """The function that a setting names: one of ours, or the user's own, ``module:function``.

    Args:
      setting: the setting, for messages.
      name: its value.
      table: our functions, by name.
      kind: the class of what it returns.

    Raises:
      ValueError: if there is none; if its module has errors.
    """

    def __init__(self, setting: str, name: str, table: Mapping[str, Callable], kind: type):
        self.title, self.kind = f"{setting}={name}", kind
        self.function = table[name] if name in table else _imported(setting, name, table)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its parameters, by name."""
        return inspect.signature(self.function).parameters

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What it returns.

        Raises:
          ValueError: for arguments that it does not take, errors in it, and a wrong result.
        """
        with blame(self.title, self.function, shipped=False):
            result = self.function(*arguments, **options)
            check_result(result, self.kind)
        return result

    def check_options(self, setting: str, options: Mapping[str, Any]) -> None:
        """Raise ValueError where it cannot be called with the keyword arguments of a setting."""
        try:
            inspect.signature(self.function).bind(**options)
        except TypeError as error:
            names = ", ".join(self.parameters)
            arguments = f"only {names}" if names else "none at all"
            raise ValueError(f"{setting}: {error}; it takes {arguments}") from None


def _imported(setting: str, name: str, table: Mapping[str, Callable]) -> Callable:
    """The function ``module:function``; ValueError if there is none, or its module has errors."""
    module, colon, function = name.partition(":")
    missing = f"{setting}: there is no {setting.rpartition('.')[2]} {name!r}"
    advice = "or your own, module:function"
    if not colon:
        raise ValueError(f"{missing}: name one of {', '.join(table)}, {advice}")
    try:
        value = getattr(importlib.import_module(module), function, None)
    except Exception as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        user_files = [f for f in files if f not in (__file__, importlib.__file__) and f[0] != "<"]
        # Where the module was found, its own lines or its syntax were what failed.
        if user_files or isinstance(error, SyntaxError):
            raise ValueError(f"{name}: {_in_a_line(error, *user_files[:1])}") from error
        example = next(iter(table))
        raise ValueError(f"{missing} ({error}): name one of ours, as {example}, {advice}") from None
    if not callable(value):
        description = "not there" if value is None else f"no function but {type(value).__name__}"
        raise ValueError(f"{missing}: in the module {module!r}, {function!r} is {description}")
    return value


def check_result(result: Any, kind: type) -> None:
    """Raise ValueError where a function has returned something else than it must."""
    if not isinstance(result, kind):
        raise ValueError(
            f"its function returns {type(result).__name__}, and must return a "
            f"{kind.__module__}.{kind.__name__}: is there a `return`?"
        )


class UserFunctionError(ValueError):
    """An error in a named function, in a line."""


@contextmanager
def blame(name: str, function: Callable, *, shipped: bool) -> Iterator[None]:
    """Within, an error is reported as one of a named function, a :class:`UserFunctionError`; with
    the line of the function's module where one led to it.

    Args:
      shipped: whether the function is this project's: then only its ValueErrors are the user's.
    """
    try:
        yield
    except UserFunctionError:  # reported already
        raise
    except Exception as error:
        file = getattr(sys.modules.get(function.__module__), "__file__", None) or ""
        if not shipped and _last_line(error, file):
            raise UserFunctionError(f"{name}: {_in_a_line(error, file)}") from error
        if isinstance(error, ValueError):  # what this project found wrong, and says so
            raise UserFunctionError(f"{name}: {error}") from error
        if shipped:
            raise
        raise UserFunctionError(f"{name}: {_in_a_line(error)}") from error


def _in_a_line(error: BaseException, file: str = "") -> str:
    """An exception's type, its text, and the last line of a file that led to it."""
    text, line = (str(error).splitlines() or [""])[0], _last_line(error, file)
    if isinstance(error, SyntaxError) and error.filename:
        text, line = error.msg, f"{Path(error.filename).name}, line {error.lineno}"
    return f"{type(error).__name__}: {text}" + (f" ({line})" if line else "")


def _last_line(error: BaseException | None, file: str) -> str:
    """The last line of a file that led to an exception, or to its cause; empty if none did."""
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == file:
                return f"{Path(file).name}, line {frame.lineno}, in {frame.name}"
        error = error.__cause__
    return ""
