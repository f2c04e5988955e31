"""Write the dataset of the shipped localizer: forgeries, and authentic photographs beside them.

    python benchmarks/localizer_dataset.py OUTPUT --forged forged --photoscale DIR

`forged` is a dataset that `synthesize` wrote, and keeps its splits. Photographs of the collection
in DIR (see benchmarks/photo_dataset.py) are added to training and validation, from two sources;
others of its sources stay out, so that masks can be measured on them. Training alters them by the
augmentation `forgery`. Files are linked; cropped ones are written as PNG.
"""

import argparse
import csv
import hashlib
import os
from pathlib import Path

from photo_dataset import photoscale
from PIL import Image

# Photographs of each source: how many are added, and how many of these are validation.
SOURCES = {"ade20k": (1000, 150), "cats_and_dogs": (700, 150)}
SPEC = """name: forged
title: Forgeries made of photographs, and authentic photographs
manifest: manifest.csv
classes:
  - {name: original, folders: [original]}
  - {name: inpainted, folders: [inpainted]}
splits: {train: train, validation: validation, test: test}
mask_channel: gray
mask_values: [0, 255]
mask_inverted: false
experiment: localizer
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--forged", type=Path, required=True)
    parser.add_argument("--photoscale", type=Path, required=True)
    args = parser.parse_args()
    (args.output / "images").mkdir(parents=True, exist_ok=True)
    with (args.forged / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for path in filter(None, (row["path"], row["mask"])):
            link(args.forged / path, args.output / path)
    found = {source: [] for source in SOURCES}
    for file, label, source, _, _, crop in photoscale(args.photoscale):
        if label == "real" and source in SOURCES:
            found[source].append((hashlib.sha1(file.read_bytes()).hexdigest(), file, crop))
    for source, (count, validation) in SOURCES.items():
        for number, (digest, file, crop) in enumerate(sorted(set(found[source]))[:count]):
            path = Path("images", digest + (".png" if crop else file.suffix.lower()))
            if not crop:
                link(file, args.output / path)
            elif not (args.output / path).exists():
                with Image.open(file) as image:
                    image.crop(tuple(map(int, crop.split(",")))).save(args.output / path)
            rows.append({"path": path.as_posix(), "label": "original", "generator": source,
                         "mask": "", "group": digest,
                         "split": "validation" if number < validation else "train"})  # fmt: skip
    with (args.output / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (args.output / "dataset.yaml").write_text(SPEC, encoding="utf-8")
    print(f"{len(rows):,} images in {args.output}")


def link(source, target):
    """Link a file, if that was not done before."""
    if not target.exists():
        os.link(source, target)


if __name__ == "__main__":
    main()
