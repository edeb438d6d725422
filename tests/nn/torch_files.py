"""PyTorch's files as PyTorch writes them, without it: pickles put together from instructions."""

import io
import zipfile
from typing import NamedTuple

import numpy as np

from jaxdl.nn.weights.pytorch import MAGIC

START, STOP = b"\x80\x02", b"."
TYPES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u1": "Byte", "b1": "Bool"}


def number(value):
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def word(text):
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def row(*values):
    return b"(" + b"".join(values) + b"t"


def function(name):
    return (
        b"c" + name.rpartition(".")[0].encode() + b"\n" + name.rpartition(".")[2].encode() + b"\n"
    )


def mapping(items):
    return b"}(" + b"".join(word(key) + value for key, value in items.items()) + b"u"


ORDERED_DICT = function("collections.OrderedDict") + b")R"


class Saved(NamedTuple):
    """A tensor in a storage, as it is said to lie there."""

    key: str
    data: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    elements: int

    def pickled(self, kind=None, rebuild="torch._utils._rebuild_tensor_v2"):
        kind = kind or f"torch.{TYPES[self.data.dtype.str[1:]]}Storage"
        identity = (word("storage"), function(kind), word(self.key), word("cpu"))
        storage = row(*identity, number(self.elements)) + b"Q"
        shape, strides = (row(*map(number, numbers)) for numbers in (self.shape, self.strides))
        arguments = (storage, number(self.offset), shape, strides, b"\x89", ORDERED_DICT)
        return function(rebuild) + row(*arguments) + b"R"


def saved(key, array, **claims):
    """An array's tensor; ``claims`` say something else of it than is true."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    data = array.ravel(order="K")
    truth = {"offset": 0, "shape": array.shape, "strides": strides, "elements": data.size}
    return Saved(key, data, **truth | claims)


def network(tensors):
    """The pickled state_dict, with notes set as an attribute."""
    items = b"".join(word(name) + tensor.pickled() for name, tensor in tensors.items())
    return ORDERED_DICT + b"(" + items + b"u" + mapping({"_metadata": b"}"}) + b"b"


def storages(tensors):
    return {tensor.key: tensor.data.tobytes() for tensor in tensors.values()}


def zipped(value, storages, order=b"little", compression=zipfile.ZIP_STORED):
    """A file as of today, of a pickled value and its storages."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("net/data.pkl", START + value + STOP)
        archive.writestr("net/byteorder", order)
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
        archive.writestr("net/version", b"3\n")
    return stream.getvalue()


def legacy(value, storages, little=b"\x88", sizes=4):
    """A file as of before 2020; elements of ``sizes`` bytes."""
    system = mapping({"protocol_version": number(1001), "little_endian": little})
    keys = b"](" + b"".join(map(word, storages)) + b"e"
    rest = ((len(data) // sizes).to_bytes(8, "little") + data for data in storages.values())
    pickles = [START + part + STOP for part in (number(1001), system, value, keys)]
    return MAGIC + b"".join(pickles) + b"".join(rest)
