"""Compute features of photographs that an autoencoder has reproduced: aligned pairs.

    python benchmarks/photo_pairs.py DATASET OUTPUT
    python benchmarks/photo_pairs.py DATASET OUTPUT --autoencoders taesd_decoder.safetensors ...

Each authentic image of DATASET (see photo_dataset.py) is cropped to its middle 512 pixels and
encoded and decoded by a small autoencoder that is first trained on 120 of the training images, or
by one of those that are given, in turn. The result is a generated image of the same content, size
and source. OUTPUT gets NAME.npy for each image, with the features of the branch "native"
(photo_features.py) under the same treatments; `photo_folds.py --pairs OUTPUT` trains on them.
Finished files are kept.
"""

import argparse
import csv
from pathlib import Path

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import numpy as np
import tensorflow as tf
from photo_features import NATIVE

from tfdetect.core import registry
from tfdetect.core.data_settings import Equalize
from tfdetect.imaging.degradations import parse_degradations
from tfdetect.imaging.equalize import equalize, quality_of_pixels
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.pillow import read_rgb
from tfdetect.models.backbones import build_backbone
from tfdetect.synthesis import autoencoder

SIDE, TRAINED_ON, STEPS = 512, 120, 1500


def middle(path):
    """Return the middle of an image, on the grid of JPEG's blocks, uint8 [H, W, 3]."""
    image = np.asarray(read_rgb(path))
    top, left = (max(0, (side - SIDE) // 2) // 8 * 8 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--autoencoders", nargs="+", type=Path, default=[], metavar="FILE",
                        help="those of synthesize --autoencoder")  # fmt: skip
    args = parser.parse_args()
    with open(args.dataset / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = {i: args.dataset / r["path"] for i, r in enumerate(rows) if r["label"] == "real"}
    args.output.mkdir(parents=True, exist_ok=True)
    saved = args.output / "autoencoder.keras"
    if not args.autoencoders and not saved.exists():
        train = [i for i in paths if rows[i]["split"] == "train"]
        chosen = np.random.default_rng(0).permutation(train)[:TRAINED_ON]
        autoencoder.train([middle(paths[i]) for i in chosen], STEPS, 0).save(saved)
    makers = [autoencoder.Autoencoder.load(file) for file in args.autoencoders or [saved]]
    options = {"features": "statistics", "stages": 5}
    network = build_backbone("efficientnet_lite0", (*NATIVE, 3), "imagenet", options).model
    entry = registry.BACKBONES["efficientnet_lite0"]
    scale, offset = (np.array(x, np.float32) for x in (entry.scale, entry.offset))
    settings = Equalize(side=SIDE, quality=(80, 95))
    changes = [None, *parse_degradations("jpeg:75,scale:0.5")]

    @tf.function
    def compute(images):
        return network(tf.cast(images, tf.float32) * scale + offset, training=False)[:, 0, 0]

    for number, path in paths.items():
        file = args.output / f"{path.stem}.npy"
        if file.exists():
            continue
        image = makers[number % len(makers)].reconstruct(middle(path))
        pixels = [change(image, 0) if change else image for change in changes]
        views = [
            equalize(each, settings, quality=quality_of_pixels(each, settings)) for each in pixels
        ]
        np.save(file, compute(np.stack([resize(v, NATIVE, "window_tile") for v in views])).numpy())


if __name__ == "__main__":
    main()
