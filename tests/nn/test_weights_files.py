"""Files of weights: tensors as they were saved, one line for whatever else, and no memory beyond
the file's size."""

import importlib.util
import io
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import save

from jaxdl.nn.weights import read_weights, write_safetensors
from jaxdl.types import DamagedFile
from tests.nn import torch_files
from tests.nn.torch_files import function, legacy, mapping, network, number, row, saved, word

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
COUNT = np.array(5)
ARRAYS = {"conv.weight": KERNEL, "turned": KERNEL.T, "count": COUNT.astype(np.float32)}
TENSORS = {name: saved(str(i), array) for i, (name, array) in enumerate(ARRAYS.items())}
STORAGES = torch_files.storages(TENSORS)
NETWORK = network(TENSORS)


@pytest.fixture
def read(tmp_path):
    """Reads a file of the given bytes."""

    def of_bytes(data):
        path = tmp_path / "weights"
        path.unlink(missing_ok=True)  # a file written over waits for the disk
        path.write_bytes(data)
        return read_weights(path)

    return of_bytes


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], strict=True)


def npz(arrays, write=np.savez):
    stream = io.BytesIO()
    write(stream, **arrays)
    return stream.getvalue()


def test_pytorch_s_files_of_today_and_of_old(read):
    assert_equal(read(torch_files.zipped(NETWORK, STORAGES)), ARRAYS)
    assert_equal(read(legacy(NETWORK, STORAGES)), ARRAYS)


@pytest.mark.parametrize("kind", torch_files.TYPES)
def test_types_of_numbers(read, kind):
    tensors = {"x": saved("0", np.arange(6).astype(kind))}
    data = torch_files.zipped(network(tensors), torch_files.storages(tensors))
    assert_equal(read(data), {"x": np.arange(6).astype(kind)})


def test_bfloat16(read):
    array = np.asarray(jnp.arange(3, dtype=jnp.bfloat16))
    pickled = saved("0", array).pickled("torch.BFloat16Storage")
    (tensor,) = read(torch_files.zipped(mapping({"x": pickled}), {"0": array.tobytes()})).values()
    np.testing.assert_array_equal(tensor, array, strict=True)


def test_a_storage_that_tensors_share_and_an_empty_tensor(read):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    claims = {"shape": (2, 3), "strides": (6, 1), "elements": 12}
    tensors = {
        "all": saved("0", rows),
        "second": saved("0", rows, offset=3, **claims),
        "none": saved("0", rows, **claims | {"shape": (0, 9), "offset": 12}),
    }
    expected = {"all": rows, "second": rows[1::2], "none": np.zeros((0, 9), np.float32)}
    for data in (torch_files.zipped, legacy):
        assert_equal(read(data(network(tensors), {"0": rows.tobytes()})), expected)


def test_of_a_checkpoint_the_network(read):
    other = mapping({"epoch": number(-3), "optimizer": mapping({"momentum": NETWORK})[:-1] + b"u"})
    checkpoint = other[:-1] + word("state_dict") + NETWORK + b"u"
    assert_equal(read(torch_files.zipped(checkpoint, STORAGES)), ARRAYS)


def test_names_of_nested_containers_are_joined(read):
    tensor = TENSORS["conv.weight"].pickled()
    value = mapping({"blocks": b"](" + tensor + tensor + b"e", "name": word("net"), "none": b"N"})
    data = torch_files.zipped(value, {"0": STORAGES["0"]})
    assert_equal(read(data), {"blocks/0": KERNEL, "blocks/1": KERNEL})


def test_a_container_in_itself_is_walked_once(read):
    value = b"}q\x00(" + word("x") + TENSORS["conv.weight"].pickled() + word("self") + b"h\x00u"
    assert_equal(read(torch_files.zipped(value, {"0": STORAGES["0"]})), {"x": KERNEL})


def test_pytorch_itself(read):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    value = {"state_dict": layer.state_dict(), "half": torch.ones(3).half(), "step": 3}
    expected = {name: tensor.numpy() for name, tensor in value["state_dict"].items()}
    for new in (True, False):
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=new)
        assert_equal(read(stream.getvalue()), expected)
    stream = io.BytesIO()
    parameters = {"p": torch.nn.Parameter(torch.ones(2, 3).T), "b": torch.ones(2).bfloat16()}
    torch.save(parameters, stream)
    assert {name: (x.shape, x.dtype.name) for name, x in read(stream.getvalue()).items()} == {
        "p": ((3, 2), "float32"),
        "b": ((2,), "bfloat16"),
    }


def test_other_formats(read, tmp_path):
    flat = {"params/count": COUNT, "params/conv1/kernel": KERNEL}
    tree = {"params": {"conv1": {"kernel": KERNEL}, "count": COUNT}}
    for data in (
        npz(flat),
        npz(flat, np.savez_compressed),
        save(flat),
        serialization.msgpack_serialize(tree | {"name": "net"}),
    ):
        assert_equal(read(data), flat)
    write_safetensors(tmp_path / "weights.safetensors", tree)
    assert_equal(read_weights(tmp_path / "weights.safetensors"), flat)
    assert_equal(read(npz({"x": KERNEL.T})), {"x": KERNEL.T})


def hdf5(path, **options):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1/conv1/kernel", data=KERNEL, **options)
        file.attrs["layer_names"] = ["conv1"]
        file["conv1/name"] = "conv1"
    return path.read_bytes()


def test_keras_s_files(read, tmp_path):
    assert_equal(read(hdf5(tmp_path / "net.h5")), {"conv1/conv1/kernel": KERNEL})


def test_keras_s_files_without_h5py(read, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"weights: reading HDF5 needs h5py; install it \(pip "):
        read(b"\x89HDF\r\n\x1a\n")


def zeros(size, /, **claims):
    """A file of a few zeros that claims to be more."""
    tensors = {"x": saved("0", np.zeros(size, np.float32), **claims)}
    return torch_files.zipped(network(tensors), torch_files.storages(tensors))


def header(text):
    return len(text).to_bytes(8, "little") + text.encode() + bytes(16)


def deflated(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def big_npy():
    """An npy of 4 numbers that announces 2^60."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(4))
    return stream.getvalue().replace(b"(4,), }" + b" " * 18, f"({2**60},), }}".encode())


def called(name, *arguments):
    return torch_files.zipped(function(name) + row(*arguments) + b"R", {})


BOMB = {"net/data.pkl": torch_files.START + NETWORK + b".", "net/data/0": bytes(10**6)}
REFUSED = {
    "system": (called("os.system", word("touch /tmp/owned")), "holds os.system, which is no"),
    "eval": (called("builtins.eval", word("1")), "holds builtins.eval, which"),
    "old eval": (
        legacy(function("__builtin__.eval") + row(word("1")) + b"R", {}),
        "holds __builtin",
    ),
    "module": (called("torch.nn.modules.conv.Conv2d"), "holds torch.nn.modules.conv.Conv2d, which"),
    "stack": (
        torch_files.zipped(word("posix") + word("sys\n\x1btem") + b"\x93)R", {}),
        r"holds posix.sys \?tem, which",
    ),
    "state": (torch_files.zipped(word("x") + b"}b", {}), "sets attributes of what is no dict"),
    "numpy": (called("numpy.core.multiarray.scalar"), "holds numpy.core.multiarray.scalar"),
    "instance": (torch_files.zipped(b"(ios\nsystem\n", {}), "an instruction INST"),
    "new": (torch_files.zipped(function("torch.Size") + b")\x81", {}), "an instruction NEWOBJ"),
    "bytes": (torch_files.zipped(b"\x8e" + b"\xff" * 7 + b"\x7f", {}), "is no PyTorch file: "),
    "memo": (torch_files.zipped(b"Nr\xff\xff\xff\xff0", {}), "is no PyTorch file: "),
    "call": (torch_files.zipped(b"N)R", {}), "it calls what is no function"),
    "key": (torch_files.zipped(b"}))s", {}), "a key is neither a word nor a number"),
    "2^60": (
        zeros(4, shape=(2**60,)),
        r"a tensor\[1152921504606846976\] at 0 does not fit its stor",
    ),
    "2^60 of one": (
        zeros(1, shape=(2**30, 2**30), strides=(0, 0)),
        "elements of a tensor.* overlap",
    ),
    "claimed": (zeros(4, shape=(2**60,), elements=2**60), "storage '0' has 16 bytes: 11529215046"),
    "short": (zeros(4, elements=8), "storage '0' has 16 bytes: 8 of float32 were expected"),
    "outside": (zeros(4, offset=1), r"a tensor\[4\] at 1 does not fit its storage of 4"),
    "before": (zeros(4, offset=-1), "offset, shape and strides of a tensor must be"),
    "overlap": (zeros((2, 2), strides=(1, 1)), r"elements of a tensor\[2, 2\] overlap"),
    "strides": (zeros((2, 2), strides=(2,)), "is no PyTorch file: "),
    "two types": (
        torch_files.zipped(
            b"](" + saved("0", KERNEL).pickled() + saved("0", COUNT).pickled() + b"e", STORAGES
        ),
        "storage '0' is said to be of two kinds",
    ),
    "missing": (torch_files.zipped(NETWORK, {}), "is no PyTorch file: damaged"),
    "big": (torch_files.zipped(NETWORK, STORAGES, order=b"big"), "big-endian order: save it again"),
    "old big": (legacy(NETWORK, STORAGES, little=b"\x89"), "big-endian order: save it again"),
    "old short": (
        legacy(NETWORK, STORAGES)[:-40],
        "is no legacy PyTorch file: storage '1' has not the",
    ),
    "old shorter": (legacy(NETWORK, STORAGES)[:-112], "storage '1' has not the 24 elements it"),
    "old keys": (
        legacy(NETWORK, {"0": STORAGES["0"]}),
        "its list of storages is not that of its t",
    ),
    "compressed": (
        torch_files.zipped(NETWORK, STORAGES, compression=zipfile.ZIP_DEFLATED),
        "its members are compressed",
    ),
    "bomb": (deflated(BOMB), "its members are compressed"),
    "npz bomb": (deflated({"x.npy": bytes(10**6)}), "its arrays claim more than 64 times"),
    "npz objects": (npz({"x": np.array([None])}), "is no npz file: it holds Python objects"),
    "npz 2^60": (deflated({"x.npy": big_npy()}), "is no npz file: float64.* was announced"),
    "npz text": (npz({"x": np.array(["a"])}), "x is <U1, no array of numbers"),
    "name": (npz({"a\nb": KERNEL}), r"'a\\nb' is no name of a tensor"),
    "no member": (deflated({}), "begins as no file of weights"),
    "no tensor": (torch_files.zipped(b"}", {}), "is a PyTorch file without tensors"),
    "safetensors": (
        header(f'{{"x":{{"dtype":"F32","shape":[{2**60}],"data_offsets":[0,{2**62}]}}}}'),
        "is no safetensors file: ",
    ),
    "safetensors header": (b"\xff" * 7 + b"\x7f{", "is no safetensors file: "),
    "msgpack": (b"\xdf\xff\xff\xff\xff\x00", "is no Flax msgpack file: "),
    "deep": (b"\x81\x00" * 10**5, "is no Flax msgpack file: "),
    "nothing": (b"", "begins as no file of weights: it must be safetensors, npz, PyTorch's"),
    "text": (b"no weights", "begins as no file of weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_tensors_is_refused_in_a_line(read, name):
    data, message = REFUSED[name]
    tracemalloc.start()
    with pytest.raises(DamagedFile, match=message) as refused:
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert peak < 2**20 + 64 * len(data)


def test_containers_that_nest_without_end(read):
    for value in (b"]" * 10**4 + b"a" * (10**4 - 1), b")" + b"\x85" * 10**4):
        with pytest.raises(DamagedFile, match="containers nest so deeply"):
            read(torch_files.zipped(value, {}))


def test_a_list_of_pairs_is_used_once(read):
    """Else a few thousand calls would make as many dicts of it."""
    pairs = b"](" + row(word("x"), TENSORS["conv.weight"].pickled()) + b"eq\x00"
    call = function("collections.OrderedDict")
    value = row(pairs, *[call + b"(h\x00tR"] * 2)
    assert_equal(read(torch_files.zipped(value, {"0": STORAGES["0"]})), {"1/x": KERNEL})


def test_another_kind_of_file_is_no_weights(tmp_path):
    with pytest.raises(DamagedFile, match="is no file: name the file with the weights"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "weights.pth")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(DamagedFile, match=r"large has 1,099,511,627,776 bytes, more than the 8,5"):
        read_weights(tmp_path / "large")


def mutated(rng, data):
    """Bytes with a few of them changed, cut out, doubled, or overwritten with an extreme one."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, size = rng.integers(len(data)), int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = bytes([rng.choice([0, 1, 127, 255])]) * size
            case 4:
                del data[max(1, at) :]
    return bytes(data) or b"\0"


FEW = {"x": saved("0", KERNEL)}
FUZZED = {
    "zip": (torch_files.zipped(network(FEW), torch_files.storages(FEW)), mutated),
    "legacy": (legacy(network(FEW), torch_files.storages(FEW)), mutated),
    "npz": (npz({"x": KERNEL}, np.savez_compressed), mutated),
    "safetensors": (save({"a": KERNEL, "b": COUNT}), mutated),
    "msgpack": (serialization.msgpack_serialize({"params": {"a": KERNEL, "b": COUNT}}), mutated),
}


def npy():
    stream = io.BytesIO()
    np.save(stream, KERNEL)
    return stream.getvalue()


INSIDE = {
    "pickle": (network(FEW), lambda data: torch_files.zipped(data, torch_files.storages(FEW))),
    "npy": (npy(), lambda data: deflated({"x.npy": data})),
}
"""What a check sum protects in a zip file, and the file."""


def fuzz(read, data, mutate, times=2000):
    """How many of the mutations were read all the same; memory is looked at in one of 20."""
    rng, whole = np.random.default_rng(0), 0
    for i in range(times):
        changed = mutate(rng, data)
        if i % 20 == 0:
            tracemalloc.start()
        try:
            arrays = read(changed)
        except DamagedFile as error:
            assert "\n" not in str(error)
        else:
            whole += 1
            assert sum(array.nbytes for array in arrays.values()) <= 64 * len(changed)
        if i % 20 == 0:
            assert tracemalloc.get_traced_memory()[1] < 2**21
            tracemalloc.stop()
    return whole


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("kind", FUZZED)
def test_damaged_files_end_in_a_line(read, kind):
    assert fuzz(read, *FUZZED[kind]) < 1900


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("kind", INSIDE)
def test_damage_with_a_right_check_sum(read, kind):
    data, file = INSIDE[kind]
    assert fuzz(read, data, lambda rng, data: file(mutated(rng, data)), times=500) < 450


@pytest.mark.usefixtures("types_unchecked")
def test_damaged_keras_s_files_end_in_a_line(read, tmp_path):
    data = hdf5(tmp_path / "net.h5")
    assert fuzz(read, data, mutated) < 1900
    compressed = hdf5(tmp_path / "compressed.h5", compression="gzip", chunks=(1, 1, 1))
    assert_equal(read(compressed), {"conv1/conv1/kernel": KERNEL})
