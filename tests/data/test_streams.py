"""Streams of images that say which they are, against the order of the data as JAX computes it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from jaxdl.data import streams
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import Form, encoded
from jaxdl.data.folder import folder
from jaxdl.data.source import length, take
from jaxdl.data.streams import Order, joined, read, stream
from jaxdl.types import DamagedFile

KEYS = [jax.random.key(seed) for seed in (3, 4, 5)]
RNG = np.random.default_rng(0)
# Places in the data; one member's are few, so that a batch of 8 spans several epochs.
EXAMPLES = [RNG.permutation(300), np.array([7, 299, 0]), RNG.permutation(300)[:100]]
ORDERS = [
    Order(np.asarray(jax.random.key_data(key)), ids)
    for key, ids in zip(KEYS, EXAMPLES, strict=True)
]


def signed(count):
    """Images of two pixels that together are the image's place, and labels that follow from it."""
    places = np.arange(count)
    images = np.stack([places // 256, places % 256], -1).astype(np.uint8).reshape(-1, 1, 2, 1)
    return images, (places % 10).astype(np.int32)


IMAGES, LABELS = signed(300)
DATA = {"image": IMAGES, "label": LABELS}


def places(batch):
    """The images' places, which the labels must bear out."""
    image = np.asarray(batch["image"]).astype(int)
    ids = image[..., 0, 0, 0] * 256 + image[..., 0, 1, 0]
    np.testing.assert_array_equal(batch["label"], ids % 10)
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    return ids


def by_jax(orders, span, batch=8):
    """[steps, members, batch] by :func:`batch_ids`, of the same keys."""
    ids = jax.jit(batch_ids, static_argnames=("steps", "batch"))
    keys = [jax.random.wrap_key_data(jnp.asarray(order.words)) for order in orders]
    return np.stack(
        [
            order.examples[
                ids(key, span.start, steps=len(span), batch=batch, examples=len(order.examples))
            ]
            for key, order in zip(keys, orders, strict=True)
        ],
        axis=1,
    )


def streamed(data=DATA, orders=ORDERS, **options):
    with_defaults = {"batch": 8, "steps": range(5), **options}
    reading = stream(data, orders, **with_defaults)
    try:
        return np.stack([places(batch) for batch in reading])
    finally:
        reading.close()


@pytest.mark.parametrize("span", [range(5), range(37, 42), range(100_000, 100_005)])
def test_order_is_that_of_the_key(span):
    """Of orders of 300, 3 and 100 examples, from whatever step."""
    np.testing.assert_array_equal(streamed(steps=span), by_jax(ORDERS, span))


@pytest.mark.parametrize("member", range(3))
def test_one_member_alone(member):
    orders = ORDERS[member : member + 1]
    ids = streamed(orders=orders, batch=5, steps=range(3, 9))
    np.testing.assert_array_equal(ids, by_jax(orders, range(3, 9), batch=5))


def test_every_example_once_an_epoch():
    ids = streamed(orders=ORDERS[2:], batch=10, steps=range(30)).reshape(3, 100)
    for epoch in ids:
        assert sorted(epoch) == sorted(EXAMPLES[2])
    assert (ids[0] != ids[1]).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_tile_the_batch(hosts):
    shares = [streamed(host=host, hosts=hosts) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(shares, -1), by_jax(ORDERS, range(5)))


def test_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="a batch of 8 does not divide over 3 hosts"):
        stream(DATA, ORDERS, batch=8, steps=range(2), hosts=3)


def test_joined_splits():
    """As one array, also where one of them is files."""
    contents = [b"P5 2 1 255\n" + image.tobytes() for image in IMAGES]
    files = encoded(lambda place: (contents[place], f"file {place}"), 300, Form(), "signed")
    splits = [take(DATA, np.arange(120)), take(DATA, np.arange(290, 300))]
    middle = {"image": files.take(np.arange(120, 290)), "label": LABELS[120:290]}
    data = joined([splits[0], middle, splits[1]])
    images = data["image"]
    assert images.shape == (300, 1, 2, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(data["label"], LABELS)
    for place in (0, 119, 120, 289, 290, 299):
        np.testing.assert_array_equal(images[place], IMAGES[place])
    with pytest.raises(IndexError):
        images[300]
    span = range(2, 7)
    np.testing.assert_array_equal(streamed(data, steps=span), by_jax(ORDERS, span))


def test_arrays_of_any_name_and_type_come_row_by_row():
    rng = np.random.default_rng(0)
    data = {
        "features": rng.normal(size=(300, 3)).astype(np.float32),
        "mask": rng.integers(0, 5, (300, 2, 2)).astype(np.int32),
        "text": rng.integers(0, 256, (300, 7)).astype(np.uint8),
        "target": rng.normal(size=300).astype(np.float32),
    }
    ids = by_jax(ORDERS, range(3))
    halves = joined([take(data, np.arange(140)), take(data, np.arange(140, 300))])
    for given in (data, halves):
        batches = list(stream(given, ORDERS, batch=8, steps=range(3)))
        for name, array in data.items():
            rows = np.stack([batch[name] for batch in batches])
            np.testing.assert_array_equal(rows, array[ids], strict=True)


def test_read_reads_each_once():
    asked = []

    class Counting:
        shape = IMAGES.shape

        def __getitem__(self, place):
            asked.append(place)
            return IMAGES[place]

    ids = np.array([5, 3, 5, 5, 0])
    np.testing.assert_array_equal(read(Counting(), ids), IMAGES[ids])
    assert sorted(asked) == [0, 3, 5]


def grain_threads():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def test_nothing_is_left_running():
    for leave in ("closed", "dropped", "read to its end"):
        steps = range(2 if leave == "read to its end" else 100_000)
        reading = stream(DATA, ORDERS, batch=8, steps=steps)
        next(reading)
        if leave == "closed":
            reading.close()
        elif leave == "read to its end":
            assert len(list(reading)) == 1
        del reading
        end = time.monotonic() + 10
        while grain_threads() and time.monotonic() < end:
            time.sleep(0.01)
        assert not grain_threads(), leave


def test_damaged_image_is_named():
    contents = [b"P5 2 1 255\n" + image.tobytes() for image in IMAGES]
    contents[EXAMPLES[2][50]] = b"P5 2 1 255\n"
    files = encoded(lambda place: (contents[place], f"file {place}"), 300, Form(), "signed")
    reading, whole = stream({**DATA, "image": files}, ORDERS, batch=8, steps=range(100)), []
    with pytest.raises(DamagedFile, match=rf"^file {EXAMPLES[2][50]}: not a whole image") as error:
        whole.extend(map(places, reading))
    assert "\n" not in str(error.value)
    reading.close()
    expected = by_jax(ORDERS, range(100))
    bad = (expected == EXAMPLES[2][50]).any((1, 2)).argmax()
    np.testing.assert_array_equal(whole, expected[:bad])  # all that come before it


# Worker processes


@pytest.fixture
def files(tmp_path):
    """300 images in class folders, in the order of their places."""
    for place in range(300):
        where = tmp_path / "signed" / f"class{place % 10}"
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[place, ..., 0]).save(where / f"{place:03d}.png")
    return tmp_path, folder(str(tmp_path / "signed"), validation=10, test=10).splits["train"]


def place_of(image):
    return int(image[0, 0, 0]) * 256 + int(image[0, 1, 0])


def test_worker_processes_read_the_same(files, monkeypatch):
    """Also where nobody has read absl's flags; and an interrupt from the terminal is not theirs."""
    _, data = files
    span, orders = range(4, 24), [Order(ORDERS[0].words, np.arange(length(data)))]
    flags.FLAGS.unparse_flags()
    try:
        reading = stream(data, orders, batch=8, steps=span, workers=2)
        batches = [next(reading)]  # of one worker; the other may not have begun
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
        batches += list(reading)
        reading.close()
    finally:
        flags.FLAGS.mark_as_parsed()
    threads = stream(data, orders, batch=8, steps=span)
    for ours, theirs in zip(batches, threads, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])
        ids = [place_of(image) % 10 for image in ours["image"][0]]
        np.testing.assert_array_equal(ids, ours["label"][0])
    assert not multiprocessing.active_children()


def test_worker_processes_name_a_damaged_image(files):
    """And a program that ends so, with the stream open, is soon gone, without a word."""
    root, *_ = files
    (root / "signed" / "class3" / "003.png").write_bytes(b"not an image")
    (root / "script.py").write_text(
        "import numpy as np\n"
        "from jaxdl.data.folder import folder\n"
        "from jaxdl.data.streams import Order, stream\n"
        "from jaxdl.types import DamagedFile\n"
        "def main():\n"
        "    data = folder('signed', validation=10, test=10).splits['train']\n"
        "    orders = [Order(np.arange(2, dtype=np.uint32), np.arange(280))]\n"
        "    reading = stream(data, orders, batch=70, steps=range(9), workers=1)\n"
        "    try:\n"
        "        for batch in reading:\n"
        "            pass\n"
        "    except DamagedFile as error:\n"
        "        print(error)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    path = os.pathsep.join(
        [str(Path(streams.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    ran = subprocess.run(
        [sys.executable, "script.py"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    says = "signed/class3/003.png: no image that Pillow knows: replace or remove it\n"
    assert (ran.stdout, ran.stderr, ran.returncode) == (says, "", 0)


def test_worker_processes_end_with_a_main_process_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(
        "import multiprocessing, os, signal\n"
        "import numpy as np\n"
        "from jaxdl.data.streams import Order, stream\n"
        "if __name__ == '__main__':\n"
        "    data = {'image': np.zeros((9, 2, 2, 1), np.uint8), 'label': np.zeros(9, np.int32)}\n"
        "    orders = [Order(np.arange(2, dtype=np.uint32), np.arange(9))]\n"
        "    reading = stream(data, orders, batch=4, steps=range(10**6), workers=2)\n"
        "    next(reading)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    package = str(Path(streams.__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,  # until the last worker closes them
        timeout=100,
    )
    assert ran.returncode == -signal.SIGKILL
    assert len(ran.stdout.split()) == 2


def test_arrays_of_host_and_device_are_joined_whole():
    parts = [{"label": np.arange(3)}, {"label": jnp.arange(4)}]
    np.testing.assert_array_equal(streams.joined(parts)["label"], [0, 1, 2, 0, 1, 2, 3])
