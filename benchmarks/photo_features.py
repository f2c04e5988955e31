"""Compute the features of the photo detector's branches for every image, under several treatments.

    python benchmarks/photo_features.py DATASET OUTPUT

DATASET holds manifest.csv (see photo_dataset.py). OUTPUT gets one .npz file for each 64 images;
finished files are kept, so that the command can be repeated. Each image is decoded once, treated,
equalized as the detector does it (data.equalize), and read by the three branches as in the
experiments photo_native, photo_residual and photo_whole.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

WHOLE, NATIVE, WINDOWS = (256, 256), (224, 224), 5  # what the branches see

TREATMENTS = ("plain", "jpeg75", "half")
PHOTO_STYLES = ("photo", "photo-prompt", "mixed")  # the others are not computed
PART = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from tfdetect.core import registry
    from tfdetect.core.experiment import Equalize
    from tfdetect.imaging.degradations import parse_degradations
    from tfdetect.imaging.equalize import equalize
    from tfdetect.imaging.geometry import windows
    from tfdetect.imaging.read import decode_any
    from tfdetect.models.backbones import build_backbone
    from tfdetect.models.residual_front_ends import NoiseResidual

    with open(args.dataset / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    def network(size, stages):
        options = {"features": "statistics", "stages": stages}
        return build_backbone("efficientnet_lite0", (*size, 3), "imagenet", options).model

    networks = {
        "whole": network(WHOLE, 5), "native": network(NATIVE, 5), "residual": network(NATIVE, 4),
    }  # fmt: skip
    residual = NoiseResidual("gaussian", 32)
    entry = registry.BACKBONES["efficientnet_lite0"]
    scale, offset = (np.array(x, np.float32) for x in (entry.scale, entry.offset))
    args.output.mkdir(parents=True, exist_ok=True)
    jpeg75, half = parse_degradations("jpeg:75,scale:0.5")

    settings = Equalize(side=512, quality=(80, 95))

    def treated(image, treatment):
        change = {"jpeg75": jpeg75, "half": half}.get(treatment)
        return equalize(change(image, 0) if change else image, settings)

    @tf.function
    def compute(image):
        """Return the features of an image's parts, float32 [parts, F] of each branch."""
        whole = tf.cast(windows(image, WHOLE, "stretch", 1), tf.float32)
        native = tf.cast(windows(image, NATIVE, "window_tile", WINDOWS), tf.float32)
        inputs = {"whole": whole * scale + offset, "native": native * scale + offset,
                  "residual": residual(native)}  # fmt: skip
        return {b: networks[b](x, training=False)[:, 0, 0] for b, x in inputs.items()}

    for start in range(0, len(rows), PART):
        file = args.output / f"{start:05d}.npz"
        if file.exists():
            continue
        keys, parts = [], []
        for index in range(start, min(start + PART, len(rows))):
            if rows[index]["style"] not in PHOTO_STYLES:
                continue
            try:
                image = decode_any(tf.io.read_file(str(args.dataset / rows[index]["path"])))
            except tf.errors.InvalidArgumentError as error:
                print("skipped", rows[index]["path"], str(error)[:100], flush=True)
                continue
            parts += [compute(treated(image, treatment)) for treatment in TREATMENTS]
            keys += [(index, number) for number in range(len(TREATMENTS))]
        arrays = {b: np.array([part[b] for part in parts], np.float16) for b in networks}
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, keys=keys, **arrays)
        temporary.rename(file)
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
