"""The decoder against Pillow: every format, mode and orientation."""

import io

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
    "webp_frames": lambda i: encode(i, "WEBP", save_all=True, append_images=[i.rotate(90)],
                                    lossless=True),
    "bmp": lambda i: encode(i, "BMP"),
    "bmp_gray": lambda i: encode(i.convert("L"), "BMP"),
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


def test_tiff_of_many_bits(tmp_path):
    values = (np.arange(40 * 61, dtype=np.uint16).reshape(40, 61) * 26).astype(np.uint16)
    path = tmp_path / "gray16.tif"
    Image.fromarray(values).save(path)
    upper = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(READ(tf.constant(str(path))), upper)
    real = encode(Image.fromarray(values.astype(np.float32)), "TIFF")
    assert "32 bits are not supported" in inspect_bytes(real, 10**6)[4]


def test_a_set_of_tiff_trains_predicts_and_is_explained(folder_dataset, tmp_path, capsys):
    from tfdetect.predict import main as predict

    for path in folder_dataset.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    run = train_small(folder_dataset, tmp_path / "runs")
    assert run.info["dataset"]["seen"]["formats"] == ["TIFF"]
    assert run.info["dataset"]["counts"]["train"]["real"] > 0
    (tmp_path / "cut.tif").write_bytes(next(folder_dataset.rglob("*.tif")).read_bytes()[:700])
    call = [str(run.path), str(folder_dataset / "test"), str(tmp_path / "cut.tif"), "--output",
            str(tmp_path / "rows.csv")]  # fmt: skip
    assert run_command(predict, call) == 0
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 34 and sum("damaged" in row for row in rows) == 1
    image = next((folder_dataset / "test" / "fake").glob("*.tif"))
    assert run_command(predict, [str(run.path), str(image), "--explain", str(tmp_path)]) == 0
    assert "TIFF" in (tmp_path / f"{image.stem}.html").read_text()
