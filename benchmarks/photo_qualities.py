"""Measure how a detector's score depends on the JPEG quality of its one encoding.

    python benchmarks/photo_qualities.py RUN PHOTOS_CSV SCORES.npz [--split validation]
        [--limit 700] [--qualities 83,87,92] [--copies]

RUN is a run with data.equalize and an ONNX export; PHOTOS_CSV is a manifest with the columns path
and label (photo_dataset.py writes it). Each image is cropped as the detector does it and encoded
with each of the qualities; SCORES.npz has P(fake) before calibration, [images, copies, qualities].
With --copies, each image is followed by copies that look the same: one level of red more or less in
0.1% and in 10% of the pixels, JPEG of three qualities, two smaller ones, and a cropped one.
"""

import argparse
import csv
import io
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--split", help="rows of this split alone, such as validation")
    parser.add_argument("--limit", type=int, help="the first so many images of PHOTOS_CSV")
    parser.add_argument("--qualities", default="80,83,86,87,88,90,92,95")
    parser.add_argument("--copies", action="store_true")
    args = parser.parse_args()
    qualities = [int(each) for each in args.qualities.split(",")]
    from tfdetect.core.open_run import open_run
    from tfdetect.light.onnx_detector import LightDetector
    from tfdetect.light.onnx_predictions import read_image

    run = open_run(args.run)
    detector = LightDetector(run)
    (view,) = run.views
    random = np.random.default_rng(0)
    fake, scores = [], []
    with open(args.photos, newline="", encoding="utf-8") as file:
        rows = (row for row in csv.DictReader(file) if args.split in (None, row["split"]))
        for number, row in enumerate(islice(rows, args.limit)):
            image, _ = read_image((args.photos.parent / row["path"]).read_bytes())
            images = [image, *(copies(image, random) if args.copies else ())]
            fake.append(row["label"] == "fake")
            scores.append([at_qualities(each, detector, view, qualities) for each in images])
            if number % 50 == 49:
                print(number + 1, "images", flush=True)
    np.savez(args.output, fake=fake, scores=np.array(scores, np.float32))
    report(np.array(fake), np.array(scores), qualities)


def copies(image, random):
    """Return copies of an image that look the same, uint8 [h, w, 3] each."""
    yield changed(image, 0.001, random)
    yield changed(image, 0.1, random)
    for quality in (95, 85, 70):
        yield encoded(image, quality)
    for factor in (0.9, 0.75):
        size = [round(length * factor) for length in image.shape[1::-1]]
        yield np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    yield image[3:, 5:]


def changed(image, fraction, random):
    """Return a copy with one level of red more or less in such a fraction of the pixels."""
    image = image.copy()
    image[..., 0] ^= random.random(image.shape[:2]) < fraction
    return image


def encoded(image, quality):
    """Return an image after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"))


def at_qualities(image, detector, view, qualities):
    """Return P(fake) of an image encoded with each of the qualities, float32 [qualities]."""
    from tfdetect.light.resample import equalize, resize

    settings = [view.equalize.model_copy(update={"quality": (q, q)}) for q in qualities]
    parts = [[resize(equalize(image, each), view.size, view.policy)[None]] for each in settings]
    return 1 - detector.score(parts).table[:, 0]


def report(fake, scores, qualities):
    """Print the AUC of each quality and of their mean, and how far copies of an image are apart."""
    columns = {f"quality {each}": scores[..., i] for i, each in enumerate(qualities)}
    for name, column in {**columns, "mean of all": scores.mean(axis=-1)}.items():
        print(f"{name}: AUC {roc_auc_score(fake, column[:, 0]):.4f}")
        far = np.abs(column[:, 1:] - column[:, :1])
        for number, each in enumerate(far.T, 1):
            print(f"  copy {number}: P(fake) moves by {np.median(each):.3f} (median), "
                  f"{np.quantile(each, 0.9):.3f} (one in ten), {each.max():.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
