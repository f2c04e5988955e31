"""Training input against other loaders: the same JPEG files, the same changes, the same batches.

    python benchmarks/input_peers.py --peers PEERS/bin/python --data cifake/train --side 32
    python benchmarks/input_peers.py --peers PEERS/bin/python --data photographs --side 224

PEERS is a virtual environment with `pip install torch torchvision grain pillow simplejpeg
nvidia-dali-cuda120`; DALI needs no GPU here. Every loader gives batches of 64 float images forever,
in random order, with as many workers as cores.

    files, shards   ours: `train` from files, and from what `tfdetect prepare` writes
    torchvision     PyTorch's DataLoader and torchvision's transforms v2 on tensors
    keras           image_dataset_from_directory, prefetched; Keras's augmentation layers
    grain           Grain with Pillow, in worker processes
    dali            NVIDIA DALI on the CPU: reader, decoder, resizing, warp
    limit           libjpeg-turbo alone (simplejpeg): decodes the same bytes from memory in
                    threads; nothing is read, resized or batched

Tasks: `plain` decodes and resizes (stretched); `augmented` also rotates, shifts, shears, zooms and
flips, with the ranges of the experiment cifake_densenet121.
"""

import argparse
import itertools
import os
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from timing import Results, compare, cores, describe, machine, serve, versions

BATCH = 64
ROTATION, SHIFT, SHEAR, ZOOM = 20, 0.1, 0.2, 0.2  # degrees, fraction, degrees, fraction
PEERS = ("torchvision", "keras", "grain", "dali", "limit")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--data", type=Path, help="folder with JPEG files")
    parser.add_argument("--files", type=int, default=4000, help="taken at random (4000)")
    parser.add_argument("--side", type=int, default=224, help="pixels of the result (224)")
    parser.add_argument("--tasks", nargs="+", default=["plain", "augmented"])
    parser.add_argument("--sources", nargs="+", default=["files", "shards"])
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (6)")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement (3)")
    parser.add_argument("--results", type=Path, default=Path("input_peers.json"))
    parser.add_argument("--against", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, task, side, folder = args.worker
        worker = {"files": ours, "shards": ours, "torchvision": torchvision_worker,
                  "keras": keras_worker, "grain": grain_worker, "dali": dali_worker,
                  "limit": limit}[name]  # fmt: skip
        return serve(*worker(name, task, int(side), Path(folder)), settle=1)
    if not args.peers or not args.data:
        parser.error("--peers and --data are needed")
    results = Results(args.results)
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(p for p in args.data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        chosen = random.Random(0).sample(files, min(args.files, len(files)))
        for number, path in enumerate(chosen):
            link = Path(folder, "train", "fake" if number % 2 else "real", f"{number}.jpg")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        for source, task in itertools.product(args.sources, args.tasks):
            case = f"{task} {source} {args.data.name} {args.side} {cores()}"
            if case in results.cases:
                continue
            commands = {
                name: [sys.executable if name in (source, "keras") else args.peers, __file__,
                       "--worker", name, task, str(args.side), folder]
                for name in (source, *args.against)
            }  # fmt: skip
            found = compare(commands, "load", rounds=args.rounds, seconds=args.seconds)
            results.add(case, found | {"machine": machine(), "files": len(chosen)})
            print(describe(case, found), flush=True)


def taken_from(batches):
    """Return the task that takes a batch."""

    def load():
        return len(next(batches)[0])

    return {"load": load}


def ours(name, task, side, folder):
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()

    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.data.prepare_dataset import write_shards
    from tfdetect.data.shard_writer import Copies
    from tfdetect.data.training_data import training_data

    policy = (f"[{{name: warp, rotation: {ROTATION}, shift: {SHIFT}, shear: {SHEAR}, zoom: {ZOOM}, "
              "flip: true}]" if task == "augmented" else "[]")  # fmt: skip
    settings = [f"data.image_size={side}", "data.resize=stretch", "data.cache=none",
                f"data.augment={policy}"]  # fmt: skip
    plan = make_plan(str(folder), "small_images", settings)
    if name == "shards":
        target = Path(tempfile.mkdtemp(dir=folder.parent))
        done = write_shards(find_data(plan), plan.spec, target, Copies(), 32 * 2**20, cores())
        plan = make_plan(str(done.folder), "small_images", settings)
    catalog = find_data(plan, progress=False)
    data = training_data(catalog, catalog.split("train"), plan.experiment.data, 2, BATCH, 0)
    return versions("tensorflow"), taken_from(iter(data.batches()))


def keras_worker(name, task, side, folder):
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()

    import keras
    import tensorflow as tf

    data = keras.utils.image_dataset_from_directory(
        folder / "train", image_size=(side, side), batch_size=BATCH, verbose=False
    )
    if task == "augmented":
        augment = keras.Sequential([
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(ROTATION / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(SHIFT, SHIFT, fill_mode="nearest"),
            keras.layers.RandomZoom(ZOOM, ZOOM, fill_mode="nearest"),
            keras.layers.RandomShear(SHEAR / 45, SHEAR / 45, fill_mode="nearest"),
        ])  # fmt: skip
        data = data.map(lambda x, y: (augment(x, training=True), y), tf.data.AUTOTUNE)
    batches = iter(data.repeat().prefetch(tf.data.AUTOTUNE))
    return versions("tensorflow", "keras"), taken_from(batches)


def torchvision_worker(name, task, side, folder):
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode, v2

    steps = [v2.ToImage(), v2.Resize((side, side), antialias=True)]
    if task == "augmented":
        steps += [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(ROTATION, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), (-SHEAR, SHEAR),
                            InterpolationMode.BILINEAR),
        ]  # fmt: skip
    change = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
    data = ImageFolder(folder / "train", change)  # decodes with Pillow
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, num_workers=cores(), drop_last=True, persistent_workers=True
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return versions("torch", "torchvision", "pillow"), taken_from(batches)


def grain_worker(name, task, side, folder):
    import grain
    import numpy as np
    from absl import flags
    from PIL import Image

    flags.FLAGS.mark_as_parsed()  # Grain reads its own, which a program of absl would have parsed

    def load(path, rng):
        with Image.open(path) as image:
            image = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        if task == "augmented":
            angle, shear = np.deg2rad(rng.uniform(-ROTATION, ROTATION)), rng.uniform(-SHEAR, SHEAR)
            cos, sin, skew = np.cos(angle), np.sin(angle), np.tan(np.deg2rad(shear))
            zoom, shift = rng.uniform(1 - ZOOM, 1 + ZOOM, 2), rng.uniform(-SHIFT, SHIFT, 2) * side
            flip = 1 if rng.random() < 0.5 else -1
            a, b = flip * cos / zoom[0], (skew * cos - sin) / zoom[1]
            c, d = flip * sin / zoom[0], (skew * sin + cos) / zoom[1]
            middle = (side - 1) / 2
            x0 = middle - a * middle - b * middle + shift[0]
            y0 = middle - c * middle - d * middle + shift[1]
            image = image.transform(
                image.size, Image.Transform.AFFINE, (a, b, x0, c, d, y0), Image.Resampling.BILINEAR
            )
        return np.asarray(image, np.float32), int(Path(path).parent.name == "fake")

    paths = sorted(map(str, folder.rglob("*.jpg")))
    data = grain.MapDataset.source(paths).seed(0).shuffle().repeat().random_map(load)
    data = data.batch(BATCH, drop_remainder=True).to_iter_dataset()
    data = data.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=cores()))
    return versions("grain", "pillow"), taken_from(iter(data))


def dali_worker(name, task, side, folder):
    from nvidia.dali import fn, pipeline_def, types

    paths = sorted(folder.rglob("*.jpg"))

    @pipeline_def(batch_size=BATCH, num_threads=cores(), device_id=None, seed=0)
    def pipeline():
        data, labels = fn.readers.file(
            files=[str(path) for path in paths], random_shuffle=True,
            labels=[int(path.parent.name == "fake") for path in paths],
        )  # fmt: skip
        images = fn.decoders.image(data, output_type=types.RGB)
        images = fn.resize(images, size=(side, side), antialias=True)
        if task == "augmented":

            def uniform(low, high, count):
                return fn.random.uniform(range=(low, high), shape=(count,))

            middle = (side / 2, side / 2)
            flip = fn.stack(2.0 * fn.random.coin_flip() - 1, types.Constant(1.0))
            steps = [
                fn.transforms.scale(scale=uniform(1 - ZOOM, 1 + ZOOM, 2) * flip, center=middle),
                fn.transforms.shear(angles=uniform(-SHEAR, SHEAR, 2), center=middle),
                fn.transforms.rotation(
                    angle=fn.random.uniform(range=(-ROTATION, ROTATION)), center=middle
                ),
                fn.transforms.translation(offset=uniform(-SHIFT * side, SHIFT * side, 2)),
            ]  # fmt: skip
            images = fn.warp_affine(images, fn.transforms.combine(*steps))
        return fn.cast(images, dtype=types.FLOAT), labels

    batches = pipeline()

    def load():
        images, _ = batches.run()
        return images.as_array().shape[0]

    return versions("nvidia-dali-cuda120"), {"load": load}


def limit(name, task, side, folder):
    import simplejpeg

    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    random.Random(0).shuffle(files)
    parts = itertools.cycle(files[n : n + BATCH] for n in range(0, len(files), BATCH))
    pool = ThreadPoolExecutor(cores())

    def load():
        return sum(1 for _ in pool.map(simplejpeg.decode_jpeg, next(parts)))

    return versions("simplejpeg"), {"load": load}


if __name__ == "__main__":
    # Worker processes of the loaders are forks or copies of this one, and small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
