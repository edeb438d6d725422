"""PyTorch's files, read without PyTorch and without running anything that they hold.

`torch.save` writes a pickle: a program for a machine with a stack, which may name any function and
have it called. :func:`_values` is that machine with the instructions that containers, numbers and
tensors need, and with the few functions that :data:`_GLOBALS` lists; every other one is refused by
its name. The numbers of the tensors lie beside the pickle, in one of two ways:

    zip     ``NAME/data.pkl`` and a member ``NAME/data/KEY`` for each storage, not compressed
    legacy  five pickles: magic number, version, system, the object, the keys of the storages; then
            for each key the number of elements (int64) and the elements

A storage is a row of numbers of one type; a tensor is offset, shape and strides into a storage.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a legacy file."""
PICKLE = "/data.pkl"
"""The name of the pickle in a zip file, after its folder."""
NETWORK = ("state_dict", "model_state_dict", "model")
"""Names of a network's tensors in a checkpoint, which may hold an optimizer's beside them."""
LONGEST_NAME = 1000


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _storage(identity: Any) -> _Storage:
    """The persistent id ``("storage", type, key, device, number of elements[, view])``."""
    kind, dtype, key, _, elements, *view = identity
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
        raise ValueError("what it refers to outside of the pickle is no storage")
    if type(elements) is not int or elements < 0:
        raise ValueError(f"storage {key!r} has no number of elements")
    if view not in ([], [None]):
        raise ValueError(f"storage {key!r} is a view of another one, as PyTorch 0.1 wrote them")
    return _Storage(dtype, key, elements)


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    """A tensor whose elements are in its storage, no two of them in one spot."""
    if not isinstance(storage, _Storage) or not all(isinstance(x, tuple) for x in (shape, strides)):
        raise ValueError("a tensor is not made of storage, offset, shape and strides")
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)) or len(shape) > 32:
        raise ValueError("offset, shape and strides of a tensor must be few and whole numbers")
    span = 1  # elements from a tensor's first to its last
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride < span and 0 not in shape:
            raise ValueError(f"elements of a tensor{list(shape)} overlap")
        span += max(size - 1, 0) * stride
    if offset + (0 if 0 in shape else span) > storage.elements:
        raise ValueError(
            f"a tensor{list(shape)} at {offset} does not fit its storage of {storage.elements}"
        )
    return _Tensor(storage, offset, shape, strides)


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise ValueError("a parameter is not made of a tensor")
    return tensor


def _dict(pairs: Any = None) -> dict:
    pairs = [] if pairs is None else pairs
    mapping = _update({}, [item for pair in pairs for item in _pair(pair)])
    pairs.clear()  # used once: a call repeated on one long list would multiply it
    return mapping


def _pair(pair: Any) -> Any:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError("a dict is not made of pairs")
    return pair


def _size(numbers: Any) -> Any:
    return numbers


_GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _dict,
    "torch Size": _size,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
"""All globals that a file may name: containers, tensors, and the types of storages."""
_FUNCTIONS = (_dict, _size, _tensor, _parameter)


def _global(name: str) -> Any:
    if name not in _GLOBALS:
        raise ValueError(
            f"it holds {name.replace(' ', '.')}, which is no tensor, container or number: save "
            "the tensors alone (torch.save(network.state_dict(), path))"
        )
    return _GLOBALS[name]


def _update(mapping: Any, items: list) -> dict:
    """Keys are words or numbers: to hash what a file nests may take forever."""
    if type(mapping) is not dict or len(items) % 2:
        raise ValueError("items are not set in a dict, or a value is missing")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int | float):
            raise ValueError("a key is neither a word nor a number")
        mapping[key] = value
    return mapping


def _extend(sequence: Any, items: list) -> None:
    if type(sequence) is not list:
        raise ValueError("items are appended to what is no list")
    sequence.extend(items)


def _call(function: Any, arguments: Any) -> Any:
    if function not in _FUNCTIONS or not isinstance(arguments, tuple):
        raise ValueError("it calls what is no function")
    return function(*arguments)


def _above_mark(stack: list, marks: list[int]) -> list:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items


def _values(stream: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """The object that one pickle describes, with :class:`_Tensor` for its tensors.

    `pickletools` parses, and reads no further than the data; numbers of the memo are keys of a
    dict. So time and memory are bounded by the length of the pickle. The storages that it refers
    to are entered in ``storages`` by their keys.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                stack.append(argument)
            case "FLOAT" | "BINFLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(_above_mark(stack, marks)))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(_above_mark(stack, marks))
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = _above_mark(stack, marks)
                _extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_update({}, _above_mark(stack, marks)))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = _above_mark(stack, marks)
                _update(stack[-1], items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_global(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                words = isinstance(name, str) and isinstance(module, str)
                stack.append(_global(f"{module} {name}" if words else "what has no name"))
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"storage {storage.key!r} is said to be of two kinds")
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":  # the notes that a state_dict carries beside its tensors
                stack.pop()
                if type(stack[-1]) is not dict:
                    raise ValueError("it sets attributes of what is no dict")
            case name:
                raise ValueError(f"its pickle has an instruction {name}, of no use in weights")
    raise ValueError("its pickle does not end")


def _tensors(value: Any) -> dict[str, _Tensor]:
    """Tensors of nested containers by their names. A container that is met again is passed over,
    so that the walk ends whatever a file nests."""
    tensors: dict[str, _Tensor] = {}
    containers: set[int] = set()
    todo = [("", value)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, _Tensor):
            if name in tensors:
                raise ValueError(f"two tensors are named {name!r}")
            tensors[name] = value
        elif isinstance(value, dict | list | tuple) and id(value) not in containers:
            if len(name) > LONGEST_NAME:
                raise ValueError(f"containers nest so deeply that a name begins {name[:40]!r}")
            containers.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{name}/{key}" if name else str(key), item) for key, item in items][::-1]
    return tensors


def _arrays(value: Any, elements: Callable[[_Storage], Any]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint's network, or all that was saved where it names no network.

    They are views of their storage's bytes: tensors that share one take no memory of their own.
    """
    if isinstance(value, dict):
        names = [name for name in NETWORK if isinstance(value.get(name), dict)]
        value = value[names[0]] if names else value
    tensors = _tensors(value)
    buffers = {storage: elements(storage) for storage in {t.storage for t in tensors.values()}}
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        dtype, key, size = storage
        if (length := len(buffers[storage])) != size * dtype.itemsize:
            raise ValueError(f"storage {key!r} has {length} bytes: {size} of {dtype} were expected")
        steps = tuple(stride * dtype.itemsize for stride in strides)
        arrays[name] = (
            np.zeros(shape, dtype)
            if 0 in shape
            else np.ndarray(shape, dtype, buffers[storage], offset * dtype.itemsize, steps)
        )
    return arrays


BIG_ENDIAN = "its numbers are in big-endian order: save it again on a little-endian machine"


def read_zip(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a file as PyTorch writes it since 1.6, by their names.

    Raises:
      ValueError: for another kind of file, or one with anything else than tensors, containers and
        numbers. A damaged one may raise any exception.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members are compressed, which PyTorch's are not")
        if sum(max(member.file_size, member.compress_size) for member in members) > len(data):
            raise ValueError("its members claim to be larger than the file")
        folder, *others = (n[: -len(PICKLE)] for n in archive.namelist() if n.endswith(PICKLE))
        if others:
            raise ValueError(f"it has several {PICKLE}")
        order = f"{folder}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError(BIG_ENDIAN)
        value = _values(io.BytesIO(archive.read(folder + PICKLE)), {})
        return _arrays(value, lambda storage: archive.read(f"{folder}/data/{storage.key}"))


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a file as PyTorch wrote it before 1.6, by their names.

    Raises:
      ValueError: as of :func:`read_zip`.
    """
    stream, storages = io.BytesIO(data), dict[str, _Storage]()
    _, version, system, value, keys = (_values(stream, storages) for _ in range(5))
    if version != 1001:
        raise ValueError("its version is not 1001, the only one that PyTorch wrote")
    if system["little_endian"] is not True:
        raise ValueError(BIG_ENDIAN)
    if sorted(keys) != sorted(storages):
        raise ValueError("its list of storages is not that of its tensors")
    rest, buffers = memoryview(data)[stream.tell() :], {}
    for key in keys:
        storage = storages[key]
        end = 8 + storage.elements * storage.dtype.itemsize
        if int.from_bytes(rest[:8], "little") != storage.elements or len(rest) < end:
            raise ValueError(f"storage {key!r} has not the {storage.elements} elements it claims")
        buffers[storage], rest = rest[8:end], rest[end:]
    return _arrays(value, buffers.__getitem__)
