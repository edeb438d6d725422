"""USPS: files written here, in both forms, read back; and what is wrong with others."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdl.data.builders.usps import UspsConfig, read_usps

SHARED = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (7, 16, 16, 1), np.uint8)}
IMAGES["test"] = RNG.integers(0, 256, (4, 16, 16, 1), np.uint8)
LABELS = {"train": np.array([6, 5, 4, 0, 9, 3, 6], np.uint8), "test": np.array([9, 0, 1, 1])}


def write_npz(file, **changed):
    arrays = {f"{s}_images": IMAGES[s] for s in IMAGES} | {f"{s}_labels": LABELS[s] for s in LABELS}
    np.savez(file, **{k: v for k, v in (arrays | changed).items() if v is not None})
    return file


def same(splits):
    for split, (images, labels) in splits.items():
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(images, IMAGES[split])
        np.testing.assert_array_equal(labels, LABELS[split])
    return list(splits) == ["train", "test"]


def test_npz(tmp_path):
    assert same(read_usps(write_npz(tmp_path / "usps.npz")))
    flat = {f"{s}_images": IMAGES[s].reshape(-1, 256) / np.float32(255) for s in IMAGES}
    assert same(read_usps(write_npz(tmp_path / "usps.npz", **flat)))


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    for scale, kind in ((255, np.float32), (255, np.float64)):
        with h5py.File(tmp_path / "usps.h5", "w") as file:
            for split in IMAGES:
                group = file.create_group(split)
                group["data"] = (IMAGES[split].reshape(-1, 256) / scale).astype(kind)
                group["target"] = LABELS[split]
        assert same(read_usps(tmp_path / "usps.h5"))
    with h5py.File(tmp_path / "usps.h5", "a") as file:
        del file["test"]["target"]
    with pytest.raises(ValueError, match="expected groups train and test"):
        read_usps(tmp_path / "usps.h5")
    (tmp_path / "usps.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="not a whole HDF5 file"):
        read_usps(tmp_path / "usps.h5")


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "usps.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"needs h5py; install it .* or provide usps.npz") as error:
        read_usps(tmp_path / "usps.h5")
    assert "\n" not in str(error.value)


FLOATS = IMAGES["test"] / 255
NAN = np.where(np.arange(16) == 3, np.nan, FLOATS[..., 0])


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"test_images": None}, "test_images is not a file in the archive; expected train_images"),
        ({"test_images": IMAGES["test"][:, 1:]}, r"split 'test': images are uint8\[4, 15, 16, 1\]"),
        ({"train_images": IMAGES["train"].astype(int)}, r"split 'train': images are int64\[7, 16"),
        ({"test_images": FLOATS * 255}, r"values are 0\.\.255; float64 images must lie in 0..1"),
        ({"test_images": 2 * FLOATS - 1}, r"values are -1\.\.1; float64 images must"),
        ({"test_images": NAN}, "split 'test': some values are NaN"),
        ({"test_images": IMAGES["test"][:0]}, "split 'test': no images"),
        ({"test_labels": LABELS["test"][1:]}, r"labels are int64\[3\]; expected 4 integers"),
        ({"test_labels": LABELS["test"] / 1}, r"labels are float64\[4\]; expected 4 integers"),
        ({"test_labels": LABELS["test"] + 1}, r"labels are 1\.\.10; expected 0\.\.9"),
        ({"test_labels": LABELS["test"] - 1}, r"labels are -1\.\.8; expected 0\.\.9"),
        ({"test_images": np.array([{}])}, "not a whole npz file; replace it"),
    ],
)
def test_wrong_arrays(tmp_path, changed, says):
    with pytest.raises(ValueError, match=says) as error:
        read_usps(write_npz(tmp_path / "usps.npz", **changed))
    assert "\n" not in str(error.value) and "usps.npz" in str(error.value)


def test_damaged_files(tmp_path):
    file = write_npz(tmp_path / "usps.npz")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[900] ^= 0xFF
    for content in (b"", b"hello", whole[: len(whole) // 2], bytes(flipped)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"usps.npz: not a whole npz file; replace it"):
            read_usps(file)
    np.save(tmp_path / "one.npy", IMAGES["test"])
    with pytest.raises(ValueError, match="not a whole npz file"):
        read_usps(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError, match=r"no file .*none.npz; provide usps.npz or usps.h5"):
        read_usps(tmp_path / "none.npz")


def read_back(builder):
    sources = {split: list(builder.as_data_source(split)) for split in ("train", "test")}
    return {
        split: (np.stack([e["image"] for e in es]), np.array([e["label"] for e in es], np.int32))
        for split, es in sources.items()
    }


def test_the_builder(tmp_path):
    file = write_npz(tmp_path / "of_mine.npz")
    config = UspsConfig(file=file)
    data_dir = tmp_path / "tfds"
    builder = tfds.builder("usps", config=config, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    assert same(read_back(builder))
    again = tfds.data_source("usps", split="test", data_dir=data_dir)
    assert [e["label"] for e in again] == [9, 0, 1, 1]


def test_the_builder_finds_the_file_in_manual_dir(tmp_path):
    builder = tfds.builder("usps", data_dir=tmp_path / "tfds", file_format="array_record")
    manual = tmp_path / "tfds" / "downloads" / "manual"
    with pytest.raises(
        FileNotFoundError, match=r"usps: no data; name .* usps.npz or usps.h5 into"
    ) as error:
        builder.download_and_prepare()
    assert "\n" not in str(error.value)
    manual.mkdir(parents=True)
    (manual / "letter.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"neither usps.npz nor usps.h5 in .*manual"):
        builder.download_and_prepare()
    assert not builder.data_path.exists()
    write_npz(manual / "usps.npz")
    builder.download_and_prepare()
    assert same(read_back(builder))


@pytest.mark.slow
def test_the_real_one():
    """A second. Class counts of the official split, and images whose ink is bright."""
    if not (SHARED / "usps.npz").is_file():
        pytest.skip("no usps.npz beside the repository")
    splits = read_usps(SHARED / "usps.npz")
    counts = {split: list(np.bincount(labels)) for split, (_, labels) in splits.items()}
    assert counts["train"] == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert counts["test"] == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    images = np.concatenate([images for images, _ in splits.values()])
    assert np.median(images[:, [0, -1]]) < 30 < images[:, 5:11, 5:11].mean()
