"""A user's own functions, named in a setting as ``module:function``, and errors in them."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.nn.layered import check_layers, layer_order
from jaxdl.types import Variables


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
        self.title, self.kind, self.shipped = f"{setting}={name}", kind, name in table
        self.function = table[name] if self.shipped else _imported(setting, name, table)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its parameters, by name; ValueError for a function of C, whose cannot be known."""
        try:
            return inspect.signature(self.function).parameters
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}") from None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What it returns.

        Raises:
          ValueError: for arguments that it does not take, errors in it, and a wrong result.
        """
        with blame(self.title, self.function, shipped=self.shipped):
            try:
                result = self.function(*arguments, **options)
            except TypeError as error:
                if self.shipped:  # for the setting that gave an argument
                    raise ValueError(str(error)) from error
                raise
            if not isinstance(result, self.kind):
                hint = ": is there a `return`?" if result is None else ""
                raise ValueError(
                    f"its function returns {type(result).__name__}, and must return a "
                    f"{self.kind.__module__}.{self.kind.__name__}{hint}"
                )
        return result

    def check_options(self, setting: str, options: Mapping[str, Any]) -> None:
        """Raise ValueError where it cannot be called with the keyword arguments of a setting."""
        names = ", ".join(self.parameters)
        try:
            inspect.signature(self.function).bind(**options)
        except TypeError as error:
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


def is_shipped(kind: type) -> bool:
    """Whether a class is this project's."""
    return kind.__module__.startswith("jaxdl.")


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
        function = getattr(function, "func", function)  # of a functools.partial
        file = getattr(sys.modules.get(function.__module__), "__file__", None) or ""
        if not shipped and _last_line(error, file):
            raise UserFunctionError(f"{name}: {_in_a_line(error, file)}") from error
        if isinstance(error, ValueError):  # what this project found wrong, and says so
            raise UserFunctionError(f"{name}: {error}") from error
        if shipped:
            raise
        raise UserFunctionError(f"{name}: {_in_a_line(error)}") from error


def check_model(
    model: nn.Module,
    shapes: Variables,
    example: jax.Array,
    outputs: tuple,
    axis_name: str | None,
    *,
    layers: bool,
    **options: Any,
) -> None:
    """Raise ValueError for a model that cannot be trained.

    Args:
      shapes: shapes of its variables.
      example: a batch of one example.
      outputs: the shapes that its outputs must have for that.
      axis_name: mesh axis of the devices that share a batch.
      layers: whether its layers are applied one by one, too.
      options: further arguments of the model.
    """
    if "params" not in shapes:
        raise ValueError("it has no parameters to train")
    if axis_name and shapes["batch_stats"] and not hasattr(model, "axis_name"):
        raise ValueError(
            "it has batch statistics, which are those of all devices: give it an attribute "
            "axis_name: str | None = None, for nn.BatchNorm(axis_name=self.axis_name)"
        )
    result = jax.eval_shape(partial(model.apply, **options), shapes, example)
    if (own := jax.tree.map(jnp.shape, result)) != outputs:
        raise ValueError(f"its outputs for one example are {own}, not {outputs}")
    if layers and len(layer_order(model, shapes)) < 2:
        raise ValueError("it has one layer: there is nothing to cut")
    if layers and not is_shipped(type(model)):  # ours are tested
        keys = jax.random.split(jax.random.key(0), 3)
        examples = jax.random.normal(keys[1], (2, *example.shape[1:]))
        variables = jax.jit(partial(model.init, **options))(keys[0], example)
        check_layers(model, variables, examples, keys[2])


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
