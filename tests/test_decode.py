"""The decoder against Pillow: every format, mode and orientation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tfdetect.imaging.decode import decode

GRAPH = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])


def photograph(width=61, height=40):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image, format, **options):
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


def with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


CASES = {
    "jpeg": lambda i: encode(i, "JPEG", quality=75),
    "jpeg_444": lambda i: encode(i, "JPEG", subsampling=0, quality=95),
    "jpeg_progressive": lambda i: encode(i, "JPEG", progressive=True),
    "jpeg_grey": lambda i: encode(i.convert("L"), "JPEG"),
    "jpeg_cmyk": lambda i: encode(i.convert("CMYK"), "JPEG"),
    "png": lambda i: encode(i, "PNG"),
    "png_grey": lambda i: encode(i.convert("L"), "PNG"),
    "png_grey_alpha": lambda i: encode(i.convert("LA"), "PNG"),
    "png_palette": lambda i: encode(i.convert("P"), "PNG"),
    "png_one_bit": lambda i: encode(i.convert("1"), "PNG"),
    "png_alpha": lambda i: encode(with_alpha(i), "PNG"),
    "webp": lambda i: encode(i, "WEBP"),
    "webp_lossless": lambda i: encode(i, "WEBP", lossless=True),
    "webp_alpha": lambda i: encode(with_alpha(i), "WEBP", lossless=True, exact=True),
    "webp_frames": lambda i: encode(i, "WEBP", save_all=True, append_images=[i.rotate(90)],
                                    lossless=True),
    "bmp": lambda i: encode(i, "BMP"),
    "bmp_grey": lambda i: encode(i.convert("L"), "BMP"),
    "gif": lambda i: encode(i, "GIF"),
    "gif_frames": lambda i: encode(i, "GIF", save_all=True, append_images=[i.rotate(90)]),
}  # fmt: skip


@pytest.mark.parametrize("function", [decode, GRAPH], ids=["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
def test_decodes_as_pillow_does(case, function):
    data = CASES[case](photograph())
    ours = function(tf.constant(data)).numpy().astype(int)
    theirs = pillow(data)
    assert ours.shape == theirs.shape
    # The stated tolerance: libjpeg builds may round one level apart.
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x010F] = "a maker"  # other tags before it
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(photograph(), format, exif=exif, **options)
    ours = GRAPH(tf.constant(data)).numpy().astype(int)
    assert ours.shape == pillow(data).shape
    assert np.abs(ours - pillow(data)).max() <= 1


def test_reads_big_endian_exif():
    tiff = (
        b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
        + b"\0" * 4
    )
    data = encode(photograph(), "JPEG", exif=b"Exif\x00\x00" + tiff)
    assert GRAPH(tf.constant(data)).shape == (61, 40, 3)


def test_ignores_damaged_exif():
    for tail in (b"", b"II*\x00", b"II*\x00\xff\xff\xff\x7f", b"MM\x00*\x00\x00\x00\x08\xff\xff"):
        data = encode(photograph(), "JPEG", exif=b"Exif\x00\x00" + tail)
        assert GRAPH(tf.constant(data)).shape == (40, 61, 3)


def test_takes_the_upper_eight_of_sixteen_bits():
    values = (np.arange(40 * 61, dtype=np.uint16).reshape(40, 61) * 26).astype(np.uint16)
    data = encode(Image.fromarray(values), "PNG")
    ours = GRAPH(tf.constant(data)).numpy()
    assert np.array_equal(ours, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("data", [b"", b"x", b"not an image at all", b"\xff\xd8\xff\xe0garbage"])
def test_refuses_what_is_no_image(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        GRAPH(tf.constant(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_refuses_truncated_files(format):
    data = encode(photograph(300, 200), format)
    with pytest.raises(tf.errors.InvalidArgumentError):
        GRAPH(tf.constant(data[: len(data) // 2]))
