"""Recognize image files by their suffix, or else by their first bytes."""

import os
from collections.abc import Mapping

# Images are recognized by these suffixes, whether they can be decoded or not.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif",
    ".tiff", ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".ppm", ".pgm", ".pbm",
    ".pnm", ".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".ico", ".tga", ".exr", ".hdr", ".dds", ".qoi",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
})  # fmt: skip
# Files with these suffixes are no images, and are not opened to find out.
OTHER_SUFFIXES = frozenset({
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".cfg", ".log", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".bib",
    ".py", ".pyc", ".ipynb", ".sh", ".m", ".c", ".h", ".cpp", ".js", ".css", ".svg",
    ".npy", ".npz", ".mat", ".pkl", ".pickle", ".h5", ".hdf5", ".parquet", ".arrow", ".feather",
    ".tfrecord", ".lmdb", ".mdb", ".db", ".sqlite", ".pt", ".pth", ".ckpt", ".keras",
    ".safetensors", ".onnx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst",
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav", ".md5", ".sha1", ".sha256", ".tmp",
    ".part", ".bin", ".dat", ".exe",
})  # fmt: skip
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_SIGNATURE_BYTES = 32
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}  # sizes of the second header of BMP files
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0",
    b"MM\0+", b"8BPS", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ",
    b"qoif", b"DDS ", b"\x76\x2f\x31\x01",
)  # fmt: skip
_BRANDS = (b"avi", b"hei", b"hev", b"mif", b"msf", b"crx")  # of image files in ISO containers


def is_image(root: str, path: str) -> bool:
    """Return whether a file is an image, as far as its name or its first bytes tell.

    Args:
        root: folder to which the path is relative.
        path: path of the file. It is opened only if its suffix does not tell.
    """
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in OTHER_SUFFIXES:
        return False
    try:
        with open(os.path.join(root, path), "rb", buffering=0) as file:
            return has_signature(file.read(_SIGNATURE_BYTES))
    except OSError:
        return False


def suffix_of(path: str) -> str:
    """Return the suffix of a path in lower case with its dot, or "" where there is none."""
    dot = path.rfind(".")
    return path[dot:].lower() if dot > path.rfind("/") + 1 else ""


def hint(suffixes: Mapping[str, int]) -> str:
    """Return what to do with archives and videos, which may contain images, as sentences or "".

    Args:
        suffixes: number of files by suffix.
    """
    archives = sum(n for s, n in suffixes.items() if s in ARCHIVE_SUFFIXES or _is_part(s))
    videos = sum(suffixes.get(suffix, 0) for suffix in VIDEO_SUFFIXES)
    text = ""
    if archives:
        text += (
            f" There are {archives:,} archives in it: unpack them first (for parts .z01, .z02, "
            "...: 7z x NAME.zip)."
        )
    if videos:
        text += (
            f" There are {videos:,} videos in it: make images of their faces first, with "
            "python -m tfdetect.extract_faces (extract-faces)."
        )
    return text


def _is_part(suffix: str) -> bool:
    """Return whether a suffix is that of a part of an archive: .z01, .001."""
    return suffix.removeprefix(".").removeprefix("z").isdecimal()


def has_signature(data: bytes) -> bool:
    """Return whether the first bytes of a file are those of an image format."""
    if data.startswith(_SIGNATURES):
        return True
    if data[:4] == b"RIFF":
        return data[8:12] == b"WEBP"
    if data[4:8] == b"ftyp":
        return data[8:11] in _BRANDS
    if data[:2] == b"BM":
        return int.from_bytes(data[14:18], "little") in _BMP_HEADERS
    return data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace()
