"""Write the photographs of the shipped localizer: those of the photo detector's training, cropped.

    python benchmarks/localizer_photos.py PHOTOS/photos.csv PHOTOGRAPHS [--split train]
        [--style snapshot --style studio] [--leave-out SOURCE]... [--side 640]
        [--splices splices/manifest.csv]

photos.csv is that of photo_dataset.py. Writes the authentic ones of a split and of these styles
below PHOTOGRAPHS/<source>/ as PNG files, upright. Where the longer side has more than `--side`
pixels, every second photograph is cut out at its own resolution at a random place, and the others
are shrunk: a localizer meets both. Left out are the sources that the localizer is measured on, and
those that lie beside the others as bsds500/ and imagenet_sample/. --splices halves that set, by the
hashes of its names, and writes halves.csv beside its manifest: one half is for training, the other
one for test. What follows is in docs/results/localizers.md.
"""

import argparse
import csv
import hashlib
from pathlib import Path

from PIL import Image

from tfdetect.imaging.pillow import read_rgb

# Read from their own files, or too small.
ELSEWHERE = ("bsds500", "imagenet_sample", "imagenet_224")
MEASURED = ("coco", "coco_squashed", "flickr8k", "lalonde", "colorization")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--style", action="append", help="default: snapshot and studio")
    parser.add_argument("--leave-out", action="append", default=[], metavar="SOURCE")
    parser.add_argument("--splices", type=Path, metavar="FILE", help="manifest of splices")
    parser.add_argument("--side", type=int, default=640, help="longest side in pixels")
    args = parser.parse_args()

    styles = args.style or ["snapshot", "studio"]
    with open(args.photos, newline="") as lines:
        rows = [
            row
            for row in csv.DictReader(lines)
            if row["label"] == "real"
            and row["split"] == args.split
            and row["style"] in styles
            and row["generator"] not in (*ELSEWHERE, *MEASURED, *args.leave_out)
        ]
    for row in rows:
        image = fitted(read_rgb(args.photos.parent / row["path"]), args.side, row["path"])
        file = args.output / row["generator"] / f"{Path(row['path']).stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, compress_level=1)
    if args.splices:
        halve(args.splices)
    print(f"{len(rows)} photographs of {len({row['generator'] for row in rows})} sources")


def halve(manifest):
    """Write halves.csv: the same images, each in training or in test."""
    with (
        open(manifest, newline="") as lines,
        open(manifest.with_name("halves.csv"), "w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["path", "label", "generator", "mask", "split"])
        for row in csv.DictReader(lines):
            draw = hashlib.blake2b(row["path"].encode(), digest_size=1).digest()[0]
            altered, part = row["label"] == "fake", "train" if draw % 2 else "test"
            label, mask = ("inpainted", row["mask"]) if altered else ("original", "")
            table.writerow([row["path"], label, row["generator"], mask, part])


def fitted(image, side, name):
    """Return an image with at most `side` pixels a side: cut out or shrunk, by its name."""
    longest = max(image.size)
    if longest <= side:
        return image
    draws = hashlib.blake2b(name.encode(), digest_size=3).digest()
    if draws[0] % 2:
        size = [max(1, round(s * side / longest)) for s in image.size]
        return image.resize(size, Image.Resampling.LANCZOS)
    left, top = (
        draw * max(0, s - side) // 255 for draw, s in zip(draws[1:], image.size, strict=True)
    )
    return image.crop((left, top, min(left + side, image.width), min(top + side, image.height)))


if __name__ == "__main__":
    main()
