"""Small files that claim huge images: every command refuses them before it takes memory for them.

python -m pytest -n 0 -m slow -s tests/campaigns/test_bombs.py
"""

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo import (
    bmp,
    bmp_with_size,
    encode,
    gif_on_canvas,
    jpeg_frame,
    photograph,
    png_with_size,
    tiff_with_size,
    vp8x,
)

pytestmark = pytest.mark.slow
RUN = Path(__file__).parents[2] / "saved_models" / "cifake_small_resnet"
MAX_BYTES = 2 * 2**30  # of memory that a command takes, TensorFlow included


def bombs():
    """Return the bytes of files that are to be refused, by name."""
    photo, large = photograph(), Image.new("1", (30_000, 30_000))
    frame = Image.new("RGB", (4_000, 4_000))
    animated = encode(frame, "WEBP", save_all=True, append_images=[photo.resize((4_000, 4_000))])
    progressive = encode(photo, "JPEG", progressive=True)
    at = progressive.index(b"\xff\xc2")
    progressive = progressive[: at + 5] + struct.pack(">HH", 65_500, 65_500) + progressive[at + 9 :]
    plain = encode(photo, "TIFF")
    return {
        "declared.jpg": jpeg_frame(encode(photo, "JPEG"), size=(65_500, 65_500)),
        "progressive.jpg": progressive,
        "wide.jpg": jpeg_frame(encode(photo, "JPEG"), size=(65_500, 2_000)),
        "declared.png": png_with_size(encode(photo, "PNG"), 100_000, 100_000),
        "long.png": png_with_size(encode(photo, "PNG"), 2**31 - 1, 1),
        "gray.png": encode(large.convert("L"), "PNG"),
        "declared.bmp": bmp_with_size(encode(photo, "BMP"), 40_000, 40_000),
        "tall.bmp": bmp_with_size(encode(photo, "BMP"), 1, -(2**31)),
        "os2.bmp": bmp(photo, 24, header=12)[:18] + struct.pack("<HH", 65_535, 65_535) + bytes(99),
        "runs.bmp": bmp_with_size(bmp(photo, 8)[:30] + b"\1" + bmp(photo, 8)[31:], 60_000, 60_000),
        "declared.gif": gif_on_canvas(photo, canvas=(65_000, 65_000)),
        "canvas.webp": vp8x(animated, canvas=(1 << 24, 1 << 24)),
        "large.webp": vp8x(animated, canvas=(16_000, 16_000)),
        "g4.tif": encode(large, "TIFF", compression="group4"),
        "deflate.tif": encode(large.convert("L"), "TIFF", compression="tiff_adobe_deflate"),
        "declared.tif": tiff_with_size(plain, 2**31, 2**31),
        "declared.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "plain.pgm": b"P2 99999 99999 255\n" + b"0 " * 100,
    }


def admitted():
    """Return files that are decoded although they are small: frames of which one is needed."""
    frame = Image.new("RGB", (4_000, 4_000))
    frames = [Image.new("RGB", (4_000, 4_000), (i, 0, 0)) for i in range(1, 60)]
    return {
        "animated.webp": encode(frame, "WEBP", save_all=True, append_images=frames, lossless=True),
        "large.png": encode(Image.new("RGB", (9_990, 9_990)), "PNG"),
        "large.jpg": encode(Image.new("RGB", (9_990, 9_990)), "JPEG"),
    }


# Runs a module and writes the largest memory of its process, in KiB, which begins anew with it.
MEASURED = """
import atexit, pathlib, runpy, sys
peak, module = sys.argv[1:3]
sys.argv = [module, *sys.argv[3:]]
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: pathlib.Path(peak).write_text(status.read_text().split("VmHWM:")[1]))
runpy.run_module(module, run_name="__main__")
"""


def peak_of(folder, command, **options):
    """Run a command and return it with the largest memory of its process in bytes."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "peak.txt"), *command],
        capture_output=True, text=True, env=environment, **options,
    )  # fmt: skip
    return done, 1024 * int((folder / "peak.txt").read_text().split()[0])


def test_bombs_are_refused_by_predict(tmp_path):
    files = bombs()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    total = sum(map(len, files.values()))
    rows = tmp_path / "rows.csv"
    paths = [str(tmp_path / name) for name in files]
    done, peak = peak_of(
        tmp_path, ["tfdetect.predict", str(RUN), *paths, "--output", str(rows)]
    )  # fmt: skip
    print(f"\n{len(files)} bombs of {total:,} bytes: predict takes {peak / 2**20:,.0f} MiB")
    assert done.returncode == 1, done.stderr
    with rows.open(newline="") as file:
        reasons = {Path(row["path"]).name: row["error"] for row in csv.DictReader(file)}
    assert reasons.keys() == files.keys()
    assert all("pixels" in r or r.startswith("damaged") for r in reasons.values()), reasons
    assert peak < MAX_BYTES


def test_bombs_are_skipped_by_audit(tmp_path):
    for kind in ("real", "fake"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(4):
            photograph(40 + number).save(tmp_path / "set" / kind / f"{number}.png")
    for name, data in bombs().items():
        (tmp_path / "set" / "fake" / name).write_bytes(data)
    command = ["tfdetect.audit", "--dataset", "set", "--output", "out", "--json"]
    done, peak = peak_of(tmp_path, command, cwd=tmp_path)
    print(f"\naudit takes {peak / 2**20:,.0f} MiB")
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["unreadable"] == len(bombs())
    assert peak < MAX_BYTES


def test_the_largest_images_that_are_admitted(tmp_path):
    files = admitted()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in files]
    done, peak = peak_of(tmp_path, ["tfdetect.predict", str(RUN), *paths])
    sizes = ", ".join(f"{name} {len(data):,}" for name, data in files.items())
    print(f"\n{sizes} bytes: predict takes {peak / 2**20:,.0f} MiB")
    assert done.returncode == 0, done.stderr
    assert peak < 3 * MAX_BYTES
