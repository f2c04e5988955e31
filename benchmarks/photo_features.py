"""Compute the features of the photo detector's branches for every image, under several treatments.

    python benchmarks/photo_features.py DATASET OUTPUT [--branches native,residual,whole,clip]

DATASET holds manifest.csv (see photo_dataset.py). OUTPUT gets one .npz file for each 64 images;
finished files are kept, so that the command can be repeated. Each image is decoded once, treated,
equalized as the detector does it (data.equalize), and read by the branches as in the experiments
photo_native, photo_residual, photo_whole and photo_clip. `clip` takes most of the time (0.4 s of
processor time for each image and treatment).
"""

import argparse
import csv
from functools import partial
from pathlib import Path

import numpy as np

WHOLE, NATIVE, WINDOWS = (256, 256), (224, 224), 5  # what the branches see
BRANCHES = ("native", "residual", "whole")

TREATMENTS = ("plain", "jpeg75", "half")
PHOTO_STYLES = ("photo", "photo-prompt", "mixed")  # the others are not computed
PART = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--branches", default=",".join(BRANCHES), help=",".join((*BRANCHES, "clip"))
    )
    args = parser.parse_args()

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from tfdetect.core import registry
    from tfdetect.core.experiment import Equalize
    from tfdetect.imaging.degradations import parse_degradations
    from tfdetect.imaging.equalize import equalize
    from tfdetect.imaging.geometry import resize, windows
    from tfdetect.imaging.read import decode_any
    from tfdetect.models.backbones import build_backbone
    from tfdetect.models.residual_front_ends import NoiseResidual

    with open(args.dataset / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    def network(size, backbone="efficientnet_lite0", **options):
        return build_backbone(backbone, (*size, 3), "imagenet", options).model

    lite = partial(network, features="statistics")
    builders = {
        "whole": lambda: lite(WHOLE, stages=5), "native": lambda: lite(NATIVE, stages=5),
        "residual": lambda: lite(NATIVE, stages=4), "clip": lambda: network(NATIVE, "clip_tokens"),
    }  # fmt: skip
    networks = {branch: builders[branch]() for branch in args.branches.split(",")}
    residual = NoiseResidual("gaussian", 32)

    def standardized(pixels, backbone="efficientnet_lite0"):
        entry = registry.BACKBONES[backbone]
        scale, offset = (np.array(x, np.float32) for x in (entry.scale, entry.offset))
        return tf.cast(pixels, tf.float32) * scale + offset

    args.output.mkdir(parents=True, exist_ok=True)
    jpeg75, half = parse_degradations("jpeg:75,scale:0.5")

    settings = Equalize(side=512, quality=(80, 95))

    def treated(image, treatment):
        change = {"jpeg75": jpeg75, "half": half}.get(treatment)
        return equalize(change(image, 0) if change else image, settings)

    @tf.function
    def compute(image):
        """Return the features of an image's parts, float32 [parts, F] of each branch."""
        parts = windows(image, NATIVE, "window_tile", WINDOWS)
        inputs = {
            "whole": lambda: standardized(windows(image, WHOLE, "stretch", 1)),
            "native": lambda: standardized(parts),
            "residual": lambda: residual(tf.cast(parts, tf.float32)),
            "clip": lambda: standardized(resize(image, NATIVE, "crop")[None], "clip_tokens"),
        }
        return {b: net(inputs[b](), training=False)[:, 0, 0] for b, net in networks.items()}

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
