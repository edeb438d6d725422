"""Weights of networks in files that others write and read.

:func:`read_weights` takes the tensors out of a file of any common format, by their names there;
:func:`to_flax` and :func:`to_source` translate between those names and a Flax tree, with a map that
each family of networks in :mod:`jaxdl.nn.models` has.
"""

from jaxdl.nn.weights.files import (
    flatten,
    read_safetensors,
    read_weights,
    unflatten,
    write_safetensors,
)
from jaxdl.nn.weights.names import Names, to_flax, to_source

__all__ = [
    "Names",
    "flatten",
    "read_safetensors",
    "read_weights",
    "to_flax",
    "to_source",
    "unflatten",
    "write_safetensors",
]
