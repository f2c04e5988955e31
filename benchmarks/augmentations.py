"""Speed of each augmentation step inside tf.data, beside Keras's own RandAugment.

    python benchmarks/augmentations.py --size 224

Every step is applied to every image that its probability chooses by default.
"""

import argparse
import time

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import keras
import tensorflow as tf
from tabulate import tabulate

from tfdetect.core.data_settings import Augmentation
from tfdetect.core.registry import AUGMENTATIONS
from tfdetect.data.augmentation import augment


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="pixels (224)")
    parser.add_argument("--batch", type=int, default=32, help="images (32)")
    parser.add_argument("--seconds", type=float, default=3, help="for each step (3)")
    args = parser.parse_args()
    shape = [args.batch, args.size, args.size, 3]
    images = tf.cast(tf.random.stateless_uniform(shape, [1, 2], 0, 255), tf.uint8)
    targets = tf.cast(tf.range(args.batch) % 2, tf.float32)[:, None]

    def ours(name):
        steps = (Augmentation(name=name),)
        return lambda number: augment(
            images, steps, (args.size, args.size), 7, number * args.batch, targets
        )[0]

    layer = keras.layers.RandAugment(value_range=(0, 255))
    names = sorted(set(AUGMENTATIONS) - {"keras_cv"})  # any layer of another package
    steps = {name: ours(name) for name in names}
    rates = {"Keras RandAugment": rate(lambda _: layer(images, training=True), args)}
    rates |= {name: rate(step, args) for name, step in steps.items()}
    base = rates["Keras RandAugment"]
    rows = [[name, round(r), round(r / base, 1)] for name, r in rates.items()]
    print(tabulate(rows, ["step", "images/s", "of Keras RandAugment"], tablefmt="github"))


def rate(step, args) -> float:
    """Images a second."""
    dataset = tf.data.Dataset.counter().map(step, tf.data.AUTOTUNE).prefetch(2)
    iterator, count = iter(dataset), 0
    for _ in range(4):
        next(iterator)
    start = time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        next(iterator)
        count += args.batch
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
