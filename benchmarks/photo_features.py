"""Compute the features of the photo detector's branches for every image, under several treatments.

    python benchmarks/photo_features.py DATASET OUTPUT [--branches native,residual,whole,clip]

DATASET holds manifest.csv (see photo_dataset.py), whose files are named by their content. OUTPUT
gets one file for each branch, treatment and image, BRANCH/TREATMENT/NAME.npy: float16 [parts,
features]. Finished files are kept, so the command can be repeated, also for other datasets with the
same images; several processes at once share the work. All images are done under one treatment
before the next one begins. Each image is decoded, treated, equalized as the detector does it
(data.equalize), and read by the branches as in the experiments photo_native, photo_residual,
photo_whole and photo_clip. `clip` has the class tokens of the eight blocks of
CLIP that photo_detector has, [1, 8 * 768].
"""

import argparse
import csv
import os
import random
from functools import partial
from pathlib import Path

import numpy as np

WHOLE, NATIVE, WINDOWS = (256, 256), (224, 224), 5  # what the branches see
CLIP_BLOCKS = range(1, 9)
BRANCHES = ("native", "residual", "whole")

TREATMENTS = ("plain", "jpeg75", "half")
PHOTO_STYLES = ("photo", "photo-prompt", "mixed")


def feature_file(features, branch, treatment, path):
    """Return where the features of an image are kept."""
    return features / branch / treatment / f"{Path(path).stem}.npy"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--branches", default=",".join(BRANCHES), help=",".join((*BRANCHES, "clip"))
    )
    parser.add_argument("--treatments", default=",".join(TREATMENTS))
    parser.add_argument("--styles", default=",".join(PHOTO_STYLES),
                        help="of the images (default: %(default)s)")  # fmt: skip
    args = parser.parse_args()
    branches, styles = args.branches.split(","), args.styles.split(",")

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from tfdetect.core import registry
    from tfdetect.core.data_settings import Equalize
    from tfdetect.core.shipped_runs import shipped_folder
    from tfdetect.imaging.degradations import parse_degradations
    from tfdetect.imaging.equalize import equalize, quality_of_pixels
    from tfdetect.imaging.geometry import resize, windows
    from tfdetect.imaging.read import decode_any
    from tfdetect.models.backbones import build_backbone
    from tfdetect.models.initial_weights import load_backbone
    from tfdetect.models.residual_front_ends import NoiseResidual

    with open(args.dataset / "manifest.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["style"] in styles]

    def network(size, backbone="efficientnet_lite0", **options):
        return build_backbone(backbone, (*size, 3), "imagenet", options).model

    def clip():
        """Return the encoder of the shipped detector, with the class tokens of all its blocks."""
        options = {"blocks": tuple(CLIP_BLOCKS)}
        backbone = build_backbone("clip_tokens", (*NATIVE, 3), "none", options).model
        load_backbone(backbone, shipped_folder("photo_detector"), "clip_tokens")
        return backbone

    lite = partial(network, features="statistics")
    builders = {
        "whole": lambda: lite(WHOLE, stages=5), "native": lambda: lite(NATIVE, stages=5),
        "residual": lambda: lite(NATIVE, stages=4),
        "clip": clip,
    }  # fmt: skip
    networks = {branch: builders[branch]() for branch in branches}
    residual = NoiseResidual("gaussian", 32)

    def standardized(pixels, backbone="efficientnet_lite0"):
        entry = registry.BACKBONES[backbone]
        scale, offset = (np.array(x, np.float32) for x in (entry.scale, entry.offset))
        return tf.cast(pixels, tf.float32) * scale + offset

    jpeg75, half = parse_degradations("jpeg:75,scale:0.5")
    settings = Equalize(side=512, quality=(80, 95))

    def treated(image, treatment):
        change = {"jpeg75": jpeg75, "half": half}.get(treatment)
        image = change(image, 0) if change else image
        return equalize(image, settings, quality=quality_of_pixels(image, settings))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
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

    for treatment in args.treatments.split(","):
        for branch in branches:
            (args.output / branch / treatment).mkdir(parents=True, exist_ok=True)
        random.shuffle(paths)  # several processes meet on few of the same images
        for number, path in enumerate(paths, 1):
            if number % 100 == 0:
                print(f"{treatment}: {number} of {len(paths)}", flush=True)
            files = {b: feature_file(args.output, b, treatment, path) for b in branches}
            if all(file.exists() for file in files.values()):
                continue
            try:
                image = decode_any(tf.io.read_file(str(args.dataset / path)))
            except tf.errors.InvalidArgumentError as error:
                print("skipped", path, str(error)[:100], flush=True)
                continue
            for branch, values in compute(treated(image, treatment)).items():
                temporary = files[branch].with_suffix(f".{os.getpid()}.tmp")
                with open(temporary, "wb") as file:
                    np.save(file, values.numpy().astype(np.float16))
                temporary.rename(files[branch])


if __name__ == "__main__":
    main()
