"""Forgeries a second at 256 x 256: made inside tf.data, and by each fill of `synthesize`.

    python benchmarks/synthesis.py

Pictures are made up. The first row is the augmentation `forgery` (free-form mask, one of its
four fills, blend) on batches of 32 from memory, all cores; the others are a brush mask, the
fill and the blend in one process, of which `synthesize` runs one a core. Fills that hold a
model are left out.
"""

import argparse
import inspect
import json
import os
import time

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdetect.core.data_settings import Augmentation
from tfdetect.core.registry import FILLS
from tfdetect.data.augmentation import augment
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import Photo, random_generator
from tfdetect.synthesis.settings import WITH_MODEL

SIDE, BATCH = 256, 32


def pictures(count):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 24, 24, 3), np.uint8)
    side = (SIDE, SIDE)
    return np.stack([np.asarray(Image.fromarray(c).resize(side)) for c in coarse])


def rate(step, seconds, images):
    """Images a second of calling `step`, each of which makes `images`."""
    step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds or count < 2:
        step()
        count += 1
    return count * images / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="a measurement (5)")
    args = parser.parse_args()
    images = pictures(BATCH)
    policy = (Augmentation(name="forgery", params={"probability": 1.0}),)

    def forge(number):
        batch, targets = tf.constant(images), tf.zeros([BATCH, 1])
        masks = tf.zeros([BATCH, SIDE, SIDE, 1], tf.uint8)
        return augment(batch, policy, (SIDE, SIDE), 0, number, targets, masks)

    cores = os.cpu_count()
    options = tf.data.Options()
    options.autotune.enabled = False
    stream = tf.data.Dataset.range(10**9).map(forge, cores).prefetch(2).with_options(options)
    speeds = {"in tf.data": rate(iter(stream).__next__, args.seconds, BATCH)}
    for name in FILLS:
        if name in WITH_MODEL:
            continue
        fill = FILLS.load(name)
        extra = {"donor": images[1]} if "donor" in inspect.signature(fill).parameters else {}
        rng = random_generator(0, name)
        photo = Photo("made.png", images[0], np.asarray)

        def one(fill=fill, extra=extra, rng=rng, photo=photo):
            mask = draw_mask("brush", photo, rng, (0.02, 0.4))
            paste(photo.pixels, fill(photo.pixels, mask, rng, **extra), soften(mask, 2))

        speeds[name] = rate(one, args.seconds, 1)
    for name, speed in speeds.items():
        print(f"{name:14} {speed:8.1f} images/s")
    print(json.dumps({"cores": cores, "images_per_second": speeds}))


if __name__ == "__main__":
    main()
