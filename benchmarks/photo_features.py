"""Compute the features of the photo detector's branches for every image, under several treatments.

    python benchmarks/photo_features.py DATASET OUTPUT

DATASET holds manifest.csv (see photo_dataset.py). OUTPUT gets one .npz file for each 128 images;
finished files are kept, so that the command can be repeated. Each image is decoded once, treated,
equalized as the detector does it (data.equalize), and read by the three branches.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

WHOLE, NATIVE = (160, 160), (224, 224)  # what the branches see

TREATMENTS = ("plain", "jpeg75", "half")
PHOTO_STYLES = ("photo", "photo-prompt", "mixed")  # of the others only "plain" is computed
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
    from tfdetect.imaging.geometry import resize
    from tfdetect.imaging.read import decode_any
    from tfdetect.models.backbones import build_backbone

    with open(args.dataset / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    options = {"features": "statistics"}
    lite = [
        build_backbone("efficientnet_lite0", (*size, 3), "imagenet", options).model
        for size in (WHOLE, NATIVE)
    ]
    traces = build_backbone("trace_statistics", (*NATIVE, 3), "none").model
    entry = registry.BACKBONES["efficientnet_lite0"]
    scale, offset = (np.array(x, np.float32) for x in (entry.scale, entry.offset))
    args.output.mkdir(parents=True, exist_ok=True)
    jpeg75, half = parse_degradations("jpeg:75,scale:0.5")

    settings = Equalize(side=512, quality=(80, 95))

    def treated(image, treatment):
        change = {"jpeg75": jpeg75, "half": half}.get(treatment)
        return equalize(change(image, 0) if change else image, settings)

    @tf.function
    def compute(whole, native):
        whole, native = tf.cast(whole, tf.float32), tf.cast(native, tf.float32)
        return (lite[0](whole * scale + offset, training=False)[:, 0, 0],
                lite[1](native * scale + offset, training=False)[:, 0, 0],
                traces(native)[:, 0, 0])  # fmt: skip

    for start in range(0, len(rows), PART):
        file = args.output / f"{start:05d}.npz"
        if file.exists():
            continue
        keys, parts = [], []
        for index in range(start, min(start + PART, len(rows))):
            try:
                image = decode_any(tf.io.read_file(str(args.dataset / rows[index]["path"])))
            except tf.errors.InvalidArgumentError as error:
                print("skipped", rows[index]["path"], str(error)[:100], flush=True)
                continue
            only = rows[index]["style"] not in PHOTO_STYLES
            treatments = TREATMENTS[:1] if only else TREATMENTS
            pixels = [treated(image, treatment) for treatment in treatments]
            views = (
                np.stack([resize(one, size, policy) for one in pixels])
                for size, policy in ((WHOLE, "crop"), (NATIVE, "window_tile"))
            )
            parts.append([x.numpy() for x in compute(*views)])
            keys += [(index, number) for number in range(len(treatments))]
        whole, native, trace = (np.concatenate(x) for x in zip(*parts))
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, keys=keys, whole=whole.astype("float16"),
                 native=native.astype("float16"), trace=trace)  # fmt: skip
        temporary.rename(file)
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
