"""Every path that decodes an image against the one table of formats, on a zoo of files."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import train_small
from PIL import Image, ImageOps
from zoo import (
    FILES,
    big_endian_exif,
    bmp_with_size,
    encode,
    exif,
    jpeg_frame,
    jpeg_segment,
    jpeg_with,
    make,
    photograph,
    png_chunk,
    png_with,
    png_with_size,
    with_alpha,
    xmp,
)

from tfdetect.auditing.traits import image_traits
from tfdetect.core.run_command import run_command
from tfdetect.data.inspection import inspect_bytes, inspect_file
from tfdetect.data.sources import Files
from tfdetect.imaging.decode_in_graph import decode_in_graph, refusal
from tfdetect.imaging.formats import TABLE, ImageError, format_table
from tfdetect.imaging.headers import admitted, read_header
from tfdetect.imaging.pillow import opened, read_rgb, register_heic
from tfdetect.imaging.read import decode_any, decoding_error

SIGNATURE = [tf.TensorSpec([], tf.string)]
GRAPH = tf.function(decode_in_graph, input_signature=SIGNATURE)
READER = tf.function(decode_any, input_signature=SIGNATURE)
REFUSAL = tf.function(refusal, input_signature=SIGNATURE)
LIMIT = 10_000
LIMITED = tf.function(lambda data: decode_any(data, LIMIT), input_signature=SIGNATURE)
LIMITED_GRAPH = tf.function(lambda data: decode_in_graph(data, LIMIT), input_signature=SIGNATURE)
# What the zoo's files are refused for, in every path.
REFUSED = {
    "jpeg_12_bits": "more than 8 bits", "jpeg_lossless": "lossless or hierarchical",
    "jpeg_hierarchical": "lossless or hierarchical", "tiff_32_bits": "pixels of 32 bits",
    "tiff_float": "pixels of 32 bits", "pfm": "pixels of 32 bits", "pam": "PAM is not supported",
    "ico": "ICO is not supported", "tga": "TGA is not supported",
    "jpeg2000": "JPEG 2000 is not supported", "pcx": "PCX is not supported",
    "sgi": "SGI is not supported", "dds": "DDS is not supported",
    "psd": "Photoshop is not supported", "jpeg_xl": "JPEG XL is not supported",
    "svg": "SVG is not supported", "text": "not an image", "empty": "empty file",
    "jpeg_too_large": "65500 x 65500 pixels are more than 100,000,000",
    "png_too_large": "100000 x 100000 pixels are more than 100,000,000",
    "bmp_too_large": "ends before its last row", "webp_too_large": "a side of 16,777,216 pixels",
    "gif_too_large": "65000 x 65000 pixels are more than",
    "tiff_too_large": "100000 x 100000 pixels are more than",
}  # fmt: skip
UPRIGHT = {6: (61, 40), 5: (61, 40), 7: (61, 40), 8: (61, 40)}  # height and width


def pixels(data):
    return np.asarray(read_rgb(data)).astype(int)


def plain_pillow(data):
    """Return what Pillow alone makes of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", FILES)
def test_every_path_gives_the_same_pixels_or_the_same_reason(name):
    data = make(name)
    if name in REFUSED:
        with pytest.raises(ImageError, match=re.escape(REFUSED[name])) as error:
            read_rgb(data)
        reason = str(error.value)
        for decoder in (GRAPH, READER):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decoder(tf.constant(data))
        assert inspect_bytes(data, 10**8)[-1] == decoding_error(data) == reason
        with pytest.raises(ImageError), opened(data):
            pass
        with pytest.raises(ImageError):
            image_traits(data)
        return
    expected = pixels(data)
    header = admitted(data)
    read = READER(tf.constant(data)).numpy().astype(int)
    assert read.shape == expected.shape
    lossy = name.startswith("jpeg") or name == "mpo" or name in ("webp", "webp_lossy_alpha")
    tolerance = 3 if lossy and header.kind.decoder == "graph" else 0
    assert np.abs(read - expected).max() <= tolerance
    _, width, height, format, _, error = inspect_bytes(data, 10**8)
    assert (height, width) == expected.shape[:2]
    assert (format, error) == (header.container.upper(), None)
    assert decoding_error(data) is None
    assert image_traits(data)
    if header.kind.decoder == "graph":
        np.testing.assert_array_equal(GRAPH(tf.constant(data)), read)
        assert REFUSAL(tf.constant(data)).numpy() == b""
    else:
        for _ in range(3):
            with pytest.raises(tf.errors.InvalidArgumentError, match="convert to PNG"):
                GRAPH(tf.constant(data))
        assert REFUSAL(tf.constant(data)).numpy()


PLAIN = ("jpeg", "jpeg_progressive", "jpeg_cmyk", "png_palette_4", "png_color_16", "webp",
         "webp_animated", "bmp_1", "bmp_16_bit_fields", "bmp_32_v4", "bmp_run_lengths_8", "gif",
         "tiff_lzw", "tiff_turned", "ppm", "avif_turned", "jpeg_exif_late", "png_exif_6",
         "png_raw_profile_compressed", "webp_xmp")  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_pixels_are_those_of_pillow_alone(name):
    np.testing.assert_array_equal(pixels(make(name)), plain_pillow(make(name)))


def test_the_zoo_has_every_row_of_the_table():
    assert len(FILES) >= 60
    found = set()
    for name in FILES:
        try:
            found.add(read_header(make(name)).kind)
        except ImageError:
            continue
    rows = [kind for kind in TABLE if kind.container != "HEIF" or register_heic()]
    missing = [kind for kind in rows if kind not in found]
    assert [k.mode for k in missing] == ["2 or more than 4 components", "raw image of a camera"]


def test_the_documentation_has_the_table():
    page = Path(__file__).parents[1] / "docs" / "reference" / "formats.md"
    assert format_table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_exif(orientation):
    data = encode(photograph(), "PNG", exif=big_endian_exif(orientation))
    upright = GRAPH(tf.constant(data)).numpy()
    np.testing.assert_array_equal(upright, plain_pillow(data))
    assert upright.shape[:2] == UPRIGHT.get(orientation, (40, 61))
    for name in ("jpeg_xmp", "jpeg_xmp_late", "png_xmp", "png_raw_profile", "webp_xmp",
                 "webp_exif_6", "png_exif_behind_pixels", "tiff_turned"):  # fmt: skip
        assert read_header(make(name)).orientation in (5, 6)


def test_exif_counts_before_xmp_and_a_comment_does_not():
    assert read_header(make("jpeg_exif_before_xmp")).orientation == 8
    assert read_header(make("jpeg_exif_without_orientation")).orientation == 6
    assert read_header(make("jpeg_exif_in_a_comment")).orientation == 1


def test_ignores_damaged_exif():
    for tail in (b"", b"II*\x00", b"II*\x00\xff\xff\xff\x7f", b"MM\x00*\x00\x00\x00\x08\xff\xff"):
        data = encode(photograph(), "JPEG", exif=b"Exif\x00\x00" + tail)
        assert GRAPH(tf.constant(data)).shape == (40, 61, 3)
        assert pixels(data).shape == (40, 61, 3)


def test_transparent_pixels_have_their_stored_color():
    opaque = np.asarray(photograph()).astype(int)
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}),
                            ("TIFF", {}), ("BMP", {})):  # fmt: skip
        data = encode(with_alpha(photograph()), format, **options)
        np.testing.assert_array_equal(pixels(data), opaque)
        np.testing.assert_array_equal(READER(tf.constant(data)), opaque)


def test_takes_the_upper_eight_of_sixteen_bits():
    values = (np.arange(40 * 61, dtype=np.uint16).reshape(40, 61) * 26).astype(np.uint16)
    upper = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    for format in ("PNG", "TIFF"):
        data = encode(Image.fromarray(values), format)
        np.testing.assert_array_equal(READER(tf.constant(data)), upper)
    np.testing.assert_array_equal(READER(tf.constant(make("pgm_16_bits"))), upper)


@pytest.mark.parametrize("data", [b"x", b"not an image at all", b"\xff\xd8\xff\xe0garbage",
                                  b"\x89PNG", b"BM", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0",
                                  b"P6\n", b"\0\0\0\x18ftypavif"])  # fmt: skip
def test_refuses_what_is_no_image(data):
    for decoder in (GRAPH, READER):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoder(tf.constant(data))
    assert decoding_error(data)


@pytest.mark.parametrize("name", ["jpeg", "png_color_8", "webp", "bmp_24", "bmp_8", "tiff_lzw",
                                  "avif", "ppm", "webp_animated"])  # fmt: skip
def test_refuses_truncated_files(name):
    data = make(name)
    data = data[: len(data) // 2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        READER(tf.constant(data))
    assert decoding_error(data).startswith("damaged")


def broken_chunk(kind, payload):
    return png_chunk(kind, payload)[:-4] + b"\0\0\0\0"


def png_behind(data, extra):
    """Insert bytes behind the header chunk of a PNG."""
    return data[:33] + extra + data[33:]


def jpeg_behind(data, extra):
    """Insert bytes behind the first segment of a JPEG."""
    return jpeg_with(data, extra)


JPEG, PNG = encode(photograph(), "JPEG"), encode(photograph(), "PNG")
WEBP = make("webp_exif_6")
SKIPPED = {
    "bytes between segments": jpeg_behind(JPEG, b"\0junk\xff\0"),
    "metadata behind such bytes": jpeg_behind(JPEG, b"\0junk" + jpeg_segment(0xE1, exif(6))),
    "XMP that goes on behind its segment": jpeg_behind(
        JPEG, jpeg_segment(0xE1, xmp(6)[:60]) + xmp(6)[60:]
    ),
    "text with a wrong checksum": png_behind(PNG, broken_chunk(b"tEXt", b"Comment\0x")),
    "animation with a wrong checksum": png_behind(PNG, broken_chunk(b"acTL", bytes(8))),
    "bytes behind the image": PNG + b"more",
}
CUT = {
    "JPEG without its end marker": JPEG[:-2],
    "arithmetic JPEG": make("jpeg_arithmetic")[:-100],
    "PNG without its last chunk": PNG[:-12],
    "PNG with half of its last chunk": PNG[:-6],
    "wrong checksum of pixels": PNG[:-17] + b"\0" + PNG[-16:],
    "second frame of a PNG": make("apng")[:-200],
    "WebP with a chunk beyond its end": WEBP[:40] + bytes(20) + WEBP[40:],
    "palette of 300 colors": (bmp := make("bmp_8"))[:46] + b"\x2c\1" + bmp[48:],
}


@pytest.mark.parametrize("name", SKIPPED)
def test_every_path_skips_what_decoders_skip(name):
    for decoder in (GRAPH, READER):
        read = decoder(tf.constant(SKIPPED[name])).numpy()
        np.testing.assert_allclose(read, pixels(SKIPPED[name]), atol=3)
        assert read.shape == (40, 61, 3)
    assert decoding_error(SKIPPED[name]) is None


@pytest.mark.parametrize("name", CUT)
def test_every_path_refuses_what_is_not_whole(name):
    for decoder in (GRAPH, READER):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoder(tf.constant(CUT[name]))
    assert inspect_bytes(CUT[name], 10**8)[-1] == decoding_error(CUT[name])
    assert decoding_error(CUT[name]).startswith("damaged")


def test_sides_at_the_limit():
    """Both the quick look at plain files and the exact one hold the limit."""
    for width, height, allowed in ((100, 100, True), (101, 100, False), (100, 101, False),
                                   (10_000, 1, True), (10_001, 1, False)):  # fmt: skip
        image = photograph(width, height)
        for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
            data = encode(image, format)
            outcomes = [inspect_bytes(data, LIMIT)[-1] is None]
            for decoder in (LIMITED, LIMITED_GRAPH) if format != "TIFF" else (LIMITED,):
                try:
                    outcomes.append(decoder(tf.constant(data)).shape[:2] == (height, width))
                except tf.errors.InvalidArgumentError as error:
                    assert "more than 10,000 (max_pixels)" in error.message
                    outcomes.append(False)
            assert outcomes == [allowed] * len(outcomes), (format, width, height)


def test_a_large_size_cannot_be_hidden():
    plain = encode(photograph(), "JPEG")
    bomb = jpeg_frame(plain, size=(65_000, 65_000))
    thumbnail = jpeg_segment(0xE5, plain)
    filler = b"".join(jpeg_segment(0xE5, bytes(65_000)) for _ in range(3))
    png = encode(photograph(), "PNG")
    files = [bomb, jpeg_with(bomb, thumbnail), jpeg_with(bomb, filler),
             jpeg_with(bomb, thumbnail, filler), png_with_size(png, 2**31 - 1, 3),
             png_with_size(png, 40_000, 40_000), bmp_with_size(encode(photograph(), "BMP"),
                                                               40_000, -40_000),
             jpeg_frame(plain, size=(65_000, 1_600))]  # fmt: skip
    for data in files:
        for decoder in (GRAPH, READER):
            with pytest.raises(tf.errors.InvalidArgumentError, match="pixels|last row"):
                decoder(tf.constant(data))


def test_a_jpeg_with_endless_segments_is_read_in_time():
    segment = b"\xff\xec\x00\x02"
    data = encode(photograph(), "JPEG")
    many = data[:20] + segment * 50_000 + data[20:]
    assert GRAPH(tf.constant(many)).shape == (40, 61, 3)


def test_metadata_words_in_the_pixels_do_no_harm():
    data = png_with(encode(photograph(), "PNG"), (b"tEXt", b"Comment\0eXIf Raw profile type exif"))
    np.testing.assert_array_equal(GRAPH(tf.constant(data)), np.asarray(photograph()))


def test_files_that_are_no_regular_files_are_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").write_bytes(b"")
    paths = [str(tmp_path / name) for name in ("pipe.png", "empty.png", "missing.png", ".")]
    paths.append("/dev/zero")
    source = Files.checked(paths)
    assert list(source.stream().map(lambda _, item: item).as_numpy_iterator()) == [b""] * 5
    reasons = [source.error(i) for i in range(5)]
    assert reasons == ["is not a regular file", "empty file", "No such file or directory",
                       "is a directory", "is not a regular file"]  # fmt: skip
    assert [inspect_file(path, 10**6)[-1] for path in paths] == reasons


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "bytes are more than 800,000,000" in inspect_file(str(path), 10**8)[-1]
    assert "bytes are more than 67,108,864" in Files.checked([str(path)], 100).error(0)


def test_the_reader_is_a_small_graph():
    """Each iterator prepares all of it: with headers read in the graph that took over a second."""
    graph = READER.get_concrete_function().graph.as_graph_def()
    sizes = [len(graph.node), *(len(function.node_def) for function in graph.library.function)]
    assert sum(sizes) < 300


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
