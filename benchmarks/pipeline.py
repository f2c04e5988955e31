"""Images a second of the training pipeline against Keras's own, on the same files.

Ratios are also given by processor time, which other work on the machine hardly changes. By the
clock they are larger where a peer does not use all cores.

    python benchmarks/pipeline.py --data path/to/cifake/train

Rows, with the augmentation of cifake_densenet121 at 224 pixels:
    legacy   ImageDataGenerator + flow_from_directory (a common choice with Keras 2)
    layers   image_dataset_from_directory + Keras's augmentation layers
    ours     files read and decoded for each batch
    cached   ours with decoded images in memory (the default for small datasets)
and without augmentation:
    bare     tf.io.read_file, decode_jpeg, resize, batch, prefetch: nothing else
    plain    ours without augmentation, from files
"""

import argparse
import itertools
import json
import os
import random
import tempfile
import time
from pathlib import Path

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.data_settings import Data
from tfdetect.data.examples import Examples
from tfdetect.data.sources import Files
from tfdetect.data.training_data import stream_of

SIZE, BATCH = (224, 224), 32
POLICY = [{"name": "warp", "rotation": 20, "shift": 0.1, "shear": 0.2, "zoom": 0.2, "flip": True}]


def legacy(root):
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rescale=1 / 255, rotation_range=20, width_shift_range=0.1, height_shift_range=0.1,
        shear_range=0.2, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest",
    )  # fmt: skip
    return generator.flow_from_directory(root, SIZE, batch_size=BATCH, class_mode="binary")


def layers(root):
    augment = keras.Sequential([
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(0.2 / 45, 0.2 / 45, fill_mode="nearest"),
    ])  # fmt: skip
    data = keras.utils.image_dataset_from_directory(
        root, image_size=SIZE, batch_size=BATCH, verbose=False
    )
    data = data.map(lambda x, y: (augment(x, training=True), y), tf.data.AUTOTUNE)
    return data.repeat().prefetch(tf.data.AUTOTUNE)


def bare(root):
    paths = sorted(str(p) for p in Path(root).rglob("*.jpg"))
    random.Random(0).shuffle(paths)

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, SIZE)

    data = tf.data.Dataset.from_tensor_slices(paths).repeat().map(load, tf.data.AUTOTUNE)
    return data.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def ours(root, augment=POLICY, cache="none"):
    paths = sorted(str(p) for p in Path(root).rglob("*.jpg"))
    labels = np.array([int(Path(p).parent.name == "FAKE") for p in paths])
    side = tf.io.decode_jpeg(tf.io.read_file(paths[0])).shape[:2]
    data = Data(image_size=SIZE, augment=augment, cache=cache)
    examples = Examples(images=Files(paths), labels=labels, common_size=tuple(side))
    return stream_of(examples, data=data, classes=2, batch_size=BATCH, seed=0).batches()


def rate(iterator, seconds):
    """Images of an iterator over batches per second, and per second of processor time."""
    start, busy, images = time.perf_counter(), time.process_time(), 0
    while (now := time.process_time()) < busy + seconds:
        next(iterator)
        images += BATCH
    return np.array([images / (time.perf_counter() - start), images / (now - busy)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with class folders of JPEG files, or with them in train/",
    )
    parser.add_argument("--files", type=int, default=4000, help="of each class, linked to (4000)")
    parser.add_argument("--seconds", type=float, default=5, help="of processor time, a "
                        "measurement (5)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        data = args.data / "train" if (args.data / "train").is_dir() else args.data
        for folder in sorted(p for p in data.iterdir() if p.is_dir()):
            (Path(root) / folder.name).mkdir()
            for path in sorted(folder.glob("*.jpg"))[: args.files]:
                os.symlink(path.resolve(), Path(root) / folder.name / path.name)
        makers = {
            "legacy": lambda: iter(legacy(root)), "layers": lambda: iter(layers(root)),
            "ours": lambda: iter(ours(root)), "cached": lambda: iter(ours(root, cache="memory")),
            "bare": lambda: itertools.cycle(bare(root)), "plain": lambda: iter(ours(root, ())),
        }  # fmt: skip
        speeds = {name: [] for name in makers}
        for number in range(args.rounds):
            # A fresh iterator each time, so that no other one prefetches meanwhile.
            for name in makers if number % 2 == 0 else reversed(makers):
                iterator = makers[name]()
                rate(iterator, 1.0)  # warm-up
                speeds[name].append(rate(iterator, args.seconds))
                del iterator
    middle = {name: np.median(values, axis=0) for name, values in speeds.items()}
    print("         images/s, by the clock                 by processor time")
    for name, values in speeds.items():
        print(f"{name:8}" + "".join(
            f" {middle[name][k]:8.0f} ({min(v[k] for v in values):.0f} to "
            f"{max(v[k] for v in values):.0f})" for k in (0, 1)
        ))  # fmt: skip
    pairs = (("ours", "legacy"), ("ours", "layers"), ("cached", "legacy"), ("plain", "bare"))
    ratios = {f"{ours} / {peer}": (middle[ours] / middle[peer]).tolist() for ours, peer in pairs}
    for name, (clock, processor) in ratios.items():
        print(f"{name:16} {clock:6.2f} {processor:6.2f}")
    speed = {name: value.tolist() for name, value in middle.items()}
    print(json.dumps({"cores": os.cpu_count(), "images_per_second": speed, "ratios": ratios}))


if __name__ == "__main__":
    main()
