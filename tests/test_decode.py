"""The decoder against Pillow: every format, mode and orientation."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from conftest import train_small
from PIL import Image, ImageOps

from tfdetect.core.cli import run_command
from tfdetect.data.inspection import inspect_bytes
from tfdetect.imaging.decode import decode
from tfdetect.imaging.pillow import register_heic
from tfdetect.imaging.read import read_image

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
    "jpeg_gray": lambda i: encode(i.convert("L"), "JPEG"),
    "jpeg_cmyk": lambda i: encode(i.convert("CMYK"), "JPEG"),
    "png": lambda i: encode(i, "PNG"),
    "png_gray": lambda i: encode(i.convert("L"), "PNG"),
    "png_gray_alpha": lambda i: encode(i.convert("LA"), "PNG"),
    "png_palette": lambda i: encode(i.convert("P"), "PNG"),
    "png_one_bit": lambda i: encode(i.convert("1"), "PNG"),
    "png_alpha": lambda i: encode(with_alpha(i), "PNG"),
    "webp": lambda i: encode(i, "WEBP"),
    "webp_lossless": lambda i: encode(i, "WEBP", lossless=True),
    "webp_alpha": lambda i: encode(with_alpha(i), "WEBP", lossless=True, exact=True),
    "bmp": lambda i: encode(i, "BMP"),
    "bmp_gray": lambda i: encode(i.convert("L"), "BMP"),
    "bmp_palette": lambda i: encode(i.quantize(77), "BMP"),
    "bmp_alpha": lambda i: encode(with_alpha(i), "BMP"),
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


READ = tf.function(
    lambda path: decode(read_image(path)), input_signature=[tf.TensorSpec([], tf.string)]
)
BY_PILLOW = {
    "tiff": lambda i: encode(i, "TIFF"),
    "tiff_lzw": lambda i: encode(i, "TIFF", compression="tiff_lzw"),
    "tiff_jpeg": lambda i: encode(i, "TIFF", compression="jpeg"),
    "tiff_gray": lambda i: encode(i.convert("L"), "TIFF"),
    "tiff_one_bit": lambda i: encode(i.convert("1"), "TIFF"),
    "tiff_palette": lambda i: encode(i.convert("P"), "TIFF"),
    "tiff_alpha": lambda i: encode(with_alpha(i), "TIFF"),
    "tiff_cmyk": lambda i: encode(i.convert("CMYK"), "TIFF"),
    "tiff_pages": lambda i: encode(i, "TIFF", save_all=True, append_images=[i.rotate(90)]),
    "tiff_turned": lambda i: encode(i, "TIFF", tiffinfo={0x0112: 6}),
    "avif": lambda i: encode(i, "AVIF", quality=90),
    "heic": lambda i: encode(i, "HEIF", quality=90),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_PILLOW)
def test_reads_what_tensorflow_does_not(case, tmp_path):
    if case == "heic" and not register_heic():
        pytest.skip('pip install "tfdetect[heic]"')
    data = BY_PILLOW[case](photograph())
    path = tmp_path / f"image.{case.split('_')[0]}"
    path.write_bytes(data)
    ours = READ(tf.constant(str(path))).numpy()
    np.testing.assert_array_equal(ours, pillow(data))
    np.testing.assert_array_equal(decode(read_image(str(path))), ours)  # eagerly
    assert ours.shape == ((61, 40, 3) if case == "tiff_turned" else (40, 61, 3))
    kind = {"tiff": "TIFF", "avif": "AVIF", "heic": "HEIF"}[path.suffix[1:]]
    assert inspect_bytes(data, 10**6)[3:] == (kind, None)
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(tf.errors.InvalidArgumentError):
        READ(tf.constant(str(path)))
    assert inspect_bytes(data[: len(data) // 3], 10**6)[4]


def animated_webp(image):
    return encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True)


def bmp_16_bit(image):
    """A BMP with 5, 6 and 5 bits for red, green and blue."""
    pixels = np.asarray(image).astype(np.uint16)
    packed = (pixels[..., 0] >> 3 << 11) | (pixels[..., 1] >> 2 << 5) | pixels[..., 2] >> 3
    height, width = packed.shape
    rows = np.pad(packed[::-1], [(0, 0), (0, width % 2)]).astype("<u2").tobytes()
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(rows), 0, 0, 0, 0)
    start = 14 + len(info) + len(masks)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + info + masks + rows


def bmp_run_lengths(image):
    """A BMP of gray levels with a run of one pixel each."""
    levels = np.asarray(image.convert("L"))
    height, width = levels.shape
    rows = [np.stack([np.ones(width, np.uint8), row], 1).tobytes() for row in levels[::-1]]
    data = b"\0\0".join(rows) + b"\0\1"
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + palette + data


REFUSED_IN_GRAPH = {
    "webp_animated": animated_webp,
    "bmp_one_bit": lambda i: encode(i.convert("1"), "BMP"),
    "bmp_16_bit": bmp_16_bit,
    "bmp_run_lengths": bmp_run_lengths,
}


@pytest.mark.parametrize("case", REFUSED_IN_GRAPH)
def test_what_the_graph_refuses_is_read_by_pillow(case, tmp_path):
    """The animated WebP overwrote the memory of the process; the BMPs vanished from training."""
    data = REFUSED_IN_GRAPH[case](photograph())
    for _ in range(20):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not decoded here"):
            GRAPH(tf.constant(data))
    path = tmp_path / f"image.{case.split('_')[0]}"
    path.write_bytes(data)
    np.testing.assert_array_equal(READ(tf.constant(str(path))), pillow(data))
    assert inspect_bytes(data, 10**6)[4] is None


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_behind_a_large_color_profile_is_found(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph(200, 120), "JPEG", exif=exif.tobytes())
    assert data[2:4] == b"\xff\xe0"  # JFIF, 16 bytes and the marker
    profile = b"".join(
        b"\xff\xe2" + struct.pack(">H", 2 + 12 + 2 + 40_000) + b"ICC_PROFILE\0"
        + bytes([number, 3]) + bytes(40_000) for number in (1, 2, 3)
    )  # fmt: skip
    later = data[:20] + profile + data[20:]
    ours = GRAPH(tf.constant(later)).numpy()
    np.testing.assert_array_equal(ours, GRAPH(tf.constant(data)))
    assert ours.shape[:2] == ((200, 120) if orientation == 6 else (120, 200))


def test_a_jpeg_with_endless_segments_is_read_in_time():
    segment = b"\xff\xec\x00\x02"
    data = encode(photograph(), "JPEG")
    assert GRAPH(tf.constant(data[:20] + segment * 50_000 + data[20:])).shape == (40, 61, 3)


def test_tiff_of_many_bits(tmp_path):
    values = (np.arange(40 * 61, dtype=np.uint16).reshape(40, 61) * 26).astype(np.uint16)
    path = tmp_path / "gray16.tif"
    Image.fromarray(values).save(path)
    upper = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(READ(tf.constant(str(path))), upper)
    real = encode(Image.fromarray(values.astype(np.float32)), "TIFF")
    assert "32 bits are not supported" in inspect_bytes(real, 10**6)[4]


@pytest.mark.slow
def test_a_set_of_tiff_trains_predicts_and_is_explained(folder_dataset, tmp_path, capsys):
    from tfdetect.predict import main as predict

    for path in folder_dataset.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    run = train_small(folder_dataset, tmp_path / "runs")
    assert run.info.dataset.training_images.formats == ("TIFF",)
    assert run.info.dataset.counts["train"]["real"] > 0
    (tmp_path / "cut.tif").write_bytes(next(folder_dataset.rglob("*.tif")).read_bytes()[:700])
    call = [str(run.path), str(folder_dataset / "test"), str(tmp_path / "cut.tif"), "--output",
            str(tmp_path / "rows.csv")]  # fmt: skip
    assert run_command(predict, call) == 0
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 34 and sum("damaged" in row for row in rows) == 1
    image = next((folder_dataset / "test" / "fake").glob("*.tif"))
    assert run_command(predict, [str(run.path), str(image), "--explain", str(tmp_path)]) == 0
    assert "TIFF" in (tmp_path / f"{image.stem}.html").read_text()
