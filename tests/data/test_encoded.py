"""Images in files against Pillow's own operations and NumPy; damaged ones by the thousand."""

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxdl.data import encoded as encoded_module
from jaxdl.data.encoded import (
    MODES,
    Encoded,
    Form,
    decode,
    digest_files,
    encoded,
    in_memory,
    statistics,
    take,
    verify,
)
from jaxdl.types import DamagedFile

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 8, 3), np.uint8)
GREY = COLOUR[..., :1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxdl"


def image(array):
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def files(arrays, **options):
    """An Encoded over PNG files in memory, and the places that were read from it."""
    contents, read = [save(image(array)) for array in arrays], []

    def reader(place):
        read.append(place)
        return contents[place], f"file {place}"

    options = {"form": Form(), "content": f"{threading.get_ident()} {len(arrays)}"} | options
    return encoded(reader, len(contents), **options), read, contents


# One file


@pytest.mark.parametrize("array", [GREY, COLOUR])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_files_give_their_pixels(array, kind):
    decoded = decode(save(image(array), kind), "a file", Form())
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array)


def test_webp_and_jpeg():
    webp = decode(save(image(COLOUR), "WEBP", lossless=True), "a file", Form())
    np.testing.assert_array_equal(webp, COLOUR)
    content = save(image(COLOUR), "JPEG")
    loaded = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode(content, "a file", Form()), loaded)


def in_mode(mode):
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 2**16, (9, 8), np.uint16))
    if mode == "LA":
        return image(COLOUR).convert("L").convert("LA")
    return image(COLOUR).convert(mode)


ODD = {"1": "PNG", "P": "PNG", "LA": "PNG", "RGBA": "PNG", "I;16": "PNG", "CMYK": "JPEG"}


@pytest.mark.parametrize("mode", ODD)
def test_odd_modes_are_refused_unless_converted(mode):
    content = save(in_mode(mode), ODD[mode])
    loaded = Image.open(io.BytesIO(content))
    assert loaded.mode == mode
    with pytest.raises(ValueError, match=f"^a file: the image's mode is {mode}, .*set channels to"):
        decode(content, "a file", Form(size=4))
    for channels in (1, 3):
        ours = decode(content, "a file", Form(channels=channels))
        theirs = np.asarray(loaded.convert(MODES[channels])).reshape(9, 8, channels)
        if mode == "I;16":  # of which Pillow makes white whatever is above 255
            theirs = np.repeat(np.asarray(loaded)[..., None] // 256, channels, -1)
        np.testing.assert_array_equal(ours, theirs)


def test_16_bits_in_a_pgm():
    values = RNG.integers(0, 1024, (9, 8), np.uint16)
    content = b"P5 8 9 1023\n" + values.astype(">u2").tobytes()
    ours = decode(content, "a file", Form(channels=1))[..., 0]
    np.testing.assert_allclose(ours, values / 1023 * 255, atol=1)


@pytest.mark.parametrize("dtype, mode", [(np.float32, "F"), (np.int32, "I")])
def test_grey_levels_of_no_known_range_are_refused(dtype, mode):
    """Fractions would all be black, and a 32-bit 255 as well."""
    content = save(Image.fromarray(GREY[..., 0].astype(dtype)), "TIFF")
    for channels in (0, 1, 3):
        with pytest.raises(DamagedFile, match=f"^a file: its grey .* .mode {mode}.*: save it with"):
            decode(content, "a file", Form(channels=channels))


def test_16_bits_in_a_tiff():
    values = RNG.integers(0, 2**16, (9, 8), np.uint16)
    ours = decode(save(Image.fromarray(values), "TIFF"), "a file", Form(channels=1))[..., 0]
    np.testing.assert_array_equal(ours, values // 256)


# How a viewer turns what is stored, by the number in EXIF (CIPA DC-008, table 6).
TURNS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
    9: lambda stored: stored,  # there is none
}


def with_orientation(picture, orientation, kind, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(picture, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_exif_says(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = with_orientation(image(COLOUR), orientation, kind, **options)
    stored = COLOUR
    if kind == "JPEG":  # is not lossless
        stored = decode(save(image(COLOUR), kind), "a file", Form())
    turned = decode(content, "a file", Form())
    np.testing.assert_array_equal(turned, TURNS[orientation](stored))
    assert decode(content, "a file", Form(5, "crop", 1)).shape == (5, 5, 1)


def test_a_cropped_photograph_is_turned():
    """A red, a green and a blue square, one above the other as the camera was held."""
    stripes = np.zeros((96, 32, 3), np.uint8)
    for channel in range(3):
        stripes[32 * channel : 32 * channel + 32, :, channel] = 200
    content = with_orientation(image(np.rot90(stripes)), 6, "JPEG", quality=95)
    whole = decode(content, "a file", Form(32, "stretch"))
    assert (whole[[2, 16, 29]].argmax(-1) == [[0], [1], [2]]).all()
    assert (decode(content, "a file", Form(8))[2:6].argmax(-1) == 1).all()


def test_damaged_metadata_are_no_damage():
    """Whatever is in the EXIF block: the pixels, turned or not."""
    for kind in ("JPEG", "WEBP"):
        content = with_orientation(image(COLOUR), 3, kind, quality=100)
        whole = decode(content, "a file", Form())
        start = content.index(b"MM\0*" if b"MM\0*" in content else b"II*\0")
        for place in range(start, start + 20):
            for value in (0, 1, 9, 255):
                damaged = content[:place] + bytes([value]) + content[place + 1 :]
                array = decode(damaged, "a file", Form())
                assert any((turn(array) == whole).all() for turn in (TURNS[1], TURNS[3]))


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (4, 5), (9, 4), (4, 4)])
def test_crop_keeps_the_middle(shape):
    h, w = shape
    array = RNG.integers(0, 256, (h, w, 3), np.uint8)
    top, left = (h - 4) // 2, (w - 4) // 2
    ours = decode(save(image(array)), "a file", Form(4))
    np.testing.assert_array_equal(ours, array[top : top + 4, left : left + 4])


def test_crop_scales_the_shorter_side():
    """A red, a green and a blue square: the green one stays, at any size."""
    stripes = np.zeros((6, 18, 3), np.uint8)
    for channel in range(3):
        stripes[:, 6 * channel : 6 * channel + 6, channel] = 200
    for size in (2, 3, 6, 12):
        ours = decode(save(image(stripes)), "a file", Form(size))
        whole = image(stripes).resize((3 * size, size), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(ours, np.asarray(whole)[:, size : 2 * size])
        assert (ours[:, 1:-1] == [0, 200, 0]).all()  # the edge is mixed with what is beside it


@pytest.mark.parametrize("size", [3, 8, 21])
def test_stretch_is_pillows_resize(size):
    content, form = save(image(COLOUR)), Form(size, "stretch")
    theirs = image(COLOUR).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(content, "a file", form), np.asarray(theirs))


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_jpeg_decoded_small_is_nearly_the_same(fit):
    y, x = np.mgrid[:192, :256] / 256
    waves = np.stack([np.sin(9 * x + 5 * y), np.cos(7 * y), np.sin(6 * x * y)], -1)
    picture = image(np.rint(127 + 120 * waves).astype(np.uint8))
    small = decode(save(picture, "JPEG", quality=95), "a file", Form(32, fit)).astype(float)
    exact = decode(save(picture), "a file", Form(32, fit))
    assert np.abs(small - exact).mean() < 2 and np.abs(small - exact).max() < 12


@pytest.mark.parametrize(
    "form, says",
    [
        (Form(size=-1), "size must not be negative, got -1"),
        (Form(fit="squash"), "fit='squash' is not one of crop, stretch"),
        (Form(channels=4), "channels=4 is not one of 0, 1, 3"),
    ],
)
def test_forms_that_are_none(form, says):
    with pytest.raises(ValueError, match=says):
        form.check()
    assert Form(3, "stretch", 1).check() == Form(3, "stretch", 1)


# Damaged files

KINDS = {
    "PNG": save(image(COLOUR)),
    "JPEG": save(image(COLOUR), "JPEG"),
    "WEBP": save(image(COLOUR), "WEBP"),
    "PPM": save(image(COLOUR), "PPM"),
    "GREY": save(image(GREY)),
    "PALETTE": save(image(COLOUR).convert("P")),
    "PGM": save(image(GREY), "PPM"),
    "TIFF": save(image(COLOUR), "TIFF"),
    "GIF": save(image(COLOUR).convert("P"), "GIF"),
    "BMP": save(image(COLOUR), "BMP"),
    "EXIF": with_orientation(image(COLOUR), 6, "JPEG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_truncated(kind):
    content = KINDS[kind]
    # The checksum of the pixels, and the end mark.
    harmless = 20 if content[:4] == b"\x89PNG" else 2 if kind == "GIF" else 0
    for length in range(len(content) - harmless):
        with pytest.raises(DamagedFile, match=r"^a file: .*: replace or remove it$") as error:
            decode(content[:length], "a file", Form(channels=3))
        assert "\n" not in str(error.value) and "0x" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        "P6 x 9 255",
        "P6 8 -9 255",
        "P6 0 9 255",
        "P6 8 9 0",
        "P6 8 9 70000",
        "P6 8 9",
        "P6",
        "P9 8 9",
        "P6 99999 99999 255",
        "P6 8 9 255.5",
        "P6 88888888888888 9 255",
        "P5 8 9 255 #",
        "P3 8 9 255",
    ],
)
def test_garbled_ppm(header):
    with pytest.raises(DamagedFile, match=r"^a file: .*: replace or remove it$") as error:
        decode(header.encode() + b"\n" + b"\x80" * 20, "a file", Form())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"<html></html>", b"RIFF\x10\0\0\0WEBPVP8 "])
def test_no_image_at_all(content):
    with pytest.raises(DamagedFile, match=r"^a file: "):
        decode(content, "a file", Form())


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from([Form(), Form(5), Form(0, "crop", 3), Form(7, "stretch", 1)]),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6
    ),
    end=st.integers(0, 10_000),
)
def test_whatever_happens_to_a_file(kind, form, changes, end):
    """An array of the form that was asked for, or one line that names the file."""
    content = bytearray(KINDS[kind])
    for place, value in changes:
        content[place % len(content)] = value
    content = bytes(content[: end if end < len(content) else None])
    try:
        array = decode(content, "a file", form)
    except ValueError as error:
        assert str(error).startswith("a file: ") and "\n" not in str(error)
        assert isinstance(error, DamagedFile) or "mode" in str(error)
    else:
        assert array.dtype == np.uint8 and array.ndim == 3 and array.size
        assert array.shape[2] in ((form.channels,) if form.channels else MODES)
        assert not form.size or array.shape[:2] == (form.size, form.size)


def test_others_warnings_survive():
    """Pillow's are not shown, from no thread; everybody else's are as before."""
    palette = image(COLOUR).convert("P")
    content = save(palette, transparency=bytes(range(256)))  # Pillow warns when it is converted
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(content)).convert("RGB")
        assert "Palette images with Transparency" in str(seen.pop().message)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: decode(content, "a file", Form(channels=3)), range(200)))
        assert not seen
        warnings.warn("something else", UserWarning, stacklevel=1)
        assert len(seen) == 1


# Many files


def test_encoded_is_like_its_array():
    arrays = RNG.integers(0, 256, (150, 6, 5, 3), np.uint8)
    images, read, _ = files(arrays)
    assert images.shape == (150, 6, 5, 3) and read == [0]
    np.testing.assert_array_equal(images[149], arrays[149])
    np.testing.assert_array_equal(in_memory(images), arrays)
    np.testing.assert_array_equal(np.stack([images[i] for i in range(150)]), arrays)
    assert in_memory(arrays) is arrays


def test_second_array_comes_from_the_cache():
    images, read, _ = files(RNG.integers(0, 256, (70, 4, 4, 1), np.uint8))
    first = images.array()
    read.clear()
    np.testing.assert_array_equal(images.array(), first)
    np.testing.assert_array_equal(images.take(np.arange(70)).array(), first)
    assert not read
    images.take(np.arange(69)).array()
    assert len(read) == 69


def test_cache_tells_forms_and_contents_apart():
    arrays = RNG.integers(0, 256, (3, 6, 6, 3), np.uint8)
    for form in (Form(), Form(4), Form(4, "stretch"), Form(4, channels=1)):
        images, _, contents = files(arrays, form=form)
        expected = [decode(content, "", form) for content in contents]
        np.testing.assert_array_equal(images.array(), expected)
    np.testing.assert_array_equal(files(255 - arrays, content="x")[0].array(), 255 - arrays)


def test_take_and_take_again():
    arrays = RNG.integers(0, 256, (20, 4, 4, 1), np.uint8)
    images, _, _ = files(arrays)
    first, second = np.array([7, 3, 3, 19, 0]), np.array([4, 1])
    for both in (lambda x: take(x, first), lambda x: take(take(x, first), second)):
        assert both(images).shape == both(arrays).shape
        np.testing.assert_array_equal(in_memory(both(images)), both(arrays))
    assert images.take(np.array([], int)).array().shape == (0, 4, 4, 1)


def test_images_of_an_earlier_decoder_are_decoded_anew(monkeypatch):
    images, read, _ = files(RNG.integers(0, 256, (9, 4, 4, 1), np.uint8), content="earlier")
    uses = (Encoded.array, statistics, verify)
    for version, count in {1: 27, 2: 27, 3: 27}.items():
        monkeypatch.setattr(encoded_module, "DECODER", version)
        read.clear()
        for use in (*uses, *uses):
            use(images)
        assert len(read) == count


def test_one_among_many_that_does_not_fit():
    arrays = [COLOUR, COLOUR, COLOUR[:8], GREY]
    images, _, _ = files(arrays, content="mixed")
    for place, size in {2: "8×8×3", 3: "9×8×1"}.items():
        says = f"^file {place}: the image is {size} where others are 9×8×3: set size .and channels"
        with pytest.raises(ValueError, match=says):
            images[place]
    with pytest.raises(ValueError, match=r"^file 2: the image is 8×8×3"):
        images.array()
    fitted, _, _ = files(arrays, content="mixed", form=Form(8, "crop", 3))
    assert fitted.array().shape == (4, 8, 8, 3)


def test_damaged_among_many_is_named_and_nothing_is_kept(cache):
    arrays = RNG.integers(0, 256, (130, 4, 4, 1), np.uint8)
    images, _, contents = files(arrays)
    whole, contents[100] = contents[100], contents[100][:50]
    for use in (images.array, lambda: statistics(images)):
        with pytest.raises(DamagedFile, match=r"^file 100: not a whole image"):
            use()
    assert not cache.exists()
    contents[100] = whole
    np.testing.assert_array_equal(images.array(), arrays)


def test_first_file_decides():
    with pytest.raises(DamagedFile, match=r"^file 0: "):
        encoded(lambda i: (b"", f"file {i}"), 3, Form(), "x")
    with pytest.raises(ValueError, match="fit='no'"):
        files([GREY], form=Form(4, "no"))


# What is computed of them


@pytest.mark.parametrize("count", [1, 255, 700])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(count, channels):
    arrays = RNG.integers(0, 256, (count, 3, 4, channels), np.uint8)
    arrays[:, :, :, 0] //= 8
    for images in (arrays, files(arrays)[0]):
        mean, deviation = statistics(images)
        assert mean.dtype == deviation.dtype == np.float32
        np.testing.assert_allclose(mean, arrays.mean(0), rtol=1e-6)
        np.testing.assert_allclose(deviation, arrays.std((0, 1, 2)), rtol=1e-6)


def test_statistics_of_files_are_read_once():
    images, read, _ = files(RNG.integers(0, 256, (30, 4, 4, 3), np.uint8))
    first = statistics(images)
    assert sorted(read) == [0, *range(30)]
    read.clear()
    for a, b in zip(first, statistics(images), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not read
    statistics(images.take(np.arange(10)))
    assert len(read) == 10


@pytest.mark.parametrize("level", [0, 3, 255])
def test_a_channel_of_one_grey_level_deviates_by_one(level):
    arrays = RNG.integers(0, 256, (300, 5, 5, 3), np.uint8)
    arrays[..., 1] = level
    mean, deviation = statistics(arrays)
    assert deviation[1] == 1 and (mean[..., 1] == level).all()
    np.testing.assert_allclose(deviation[[0, 2]], arrays[..., [0, 2]].std((0, 1, 2)), rtol=1e-6)


def test_digest_of_files(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place / "a").mkdir(parents=True)
        (tmp_path / place / "a" / "x").write_bytes(b"12345")
        (tmp_path / place / "y").write_bytes(b"")

    def digest(place):
        root = tmp_path / place
        return digest_files([root / "a" / "x", root / "y"], root)

    before = digest("here")
    assert len(before) == 16 and int(before, 16) >= 0 and digest("there") == before
    (tmp_path / "here" / "a" / "x").write_bytes(b"12346")
    assert digest("here") != before
    root = tmp_path / "there"
    (root / "y").rename(root / "z")
    assert digest_files([root / "a" / "x", root / "z"], root) != before
    with (root / "z").open("wb") as stream:
        stream.truncate(2_000_000_000)  # no block of it is on the disk
    large = digest_files([root / "a" / "x", root / "z"], root)
    (root / "a" / "x").write_bytes(b"54321")
    assert digest_files([root / "a" / "x", root / "z"], root) == large  # names and sizes alone
    (root / "a" / "x").write_bytes(b"4321")
    assert digest_files([root / "a" / "x", root / "z"], root) != large
