"""Prediction from files to a table against other runtimes: the same files, the same network.

    python benchmarks/predict_peers.py --peers PEERS/bin/python --data CIFAKE/test --side 32
    python benchmarks/predict_peers.py --peers PEERS/bin/python --data photographs --side 224

PEERS is a virtual environment with `pip install torch torchvision pillow psutil`. Each worker has
loaded its network, and reads the same files again and again, from the operating system's cache.
What it gives is a list of rows with path, P(fake) and verdict:

    light, tensorflow   ours: `tfdetect.load(RUN).predict(FILES)` of a run with an ONNX export, and
                        of a copy without it
    onnxruntime         a loop over batches: Pillow, and the same export in ONNX Runtime
    torch               PyTorch's DataLoader with as many worker processes as cores, torchvision's
                        transforms v2; channels last, inference mode
    keras               the run's Keras model, `image_dataset_from_directory` and `model.predict`
    torch_compile       `torch` through torch.compile; only with --against

What can be prepared before the files are known, and the loaders of torch and Keras, which know them
already, are made once and not measured. Ours also checks each file before a decoder sees it,
recognizes training images, says which images are unlike those, and calibrates.

Tasks: `files` predicts all files at once; `one` a single file, so that its time is a latency. At
32 pixels the run is cifake_small_resnet, at 224 a ResNet-18 after one step of training.
"""

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from timing import Results, against_peers, cores, describe, in_turns, machine, serve, versions

OURS = ("light", "tensorflow")
PEERS = ("onnxruntime", "torch", "keras", "torch_compile")
NETWORKS = {32: "small_resnet", 224: "resnet18"}  # by side
FILES = {32: 1024, 224: 64}  # multiples of the batch
TRAINING_FILES = 256  # for the run that has to be trained: enough to know which images are alike
BATCHES = {32: 64, 224: 16}  # of the peers; ours chooses its own
MINIMUM = 0.5  # seconds in which a step of `one` predicts one file after the other


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--data", type=Path, help="folder with JPEG files")
    parser.add_argument("--side", type=int, default=32, choices=NETWORKS, help="pixels (32)")
    parser.add_argument("--tasks", nargs="+", default=["files", "one"])
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (6)")
    parser.add_argument("--seconds", type=float, default=2, help="of a measurement (2)")
    parser.add_argument("--results", type=Path, default=Path("predict_peers.json"))
    parser.add_argument("--against", nargs="+", default=PEERS[:3], choices=PEERS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, side, folder = args.worker
        worker = {"light": ours, "tensorflow": ours, "onnxruntime": onnxruntime_worker,
                  "torch": torch_worker, "torch_compile": torch_worker,
                  "keras": keras_worker}[name]  # fmt: skip
        facts, predict, predict_one = worker(name, int(side), Path(folder))
        paths = files_of(Path(folder))
        each = partial(some, predict_one, itertools.cycle(paths))
        return serve(facts, {"files": partial(all_files, predict, paths), "one": each})
    if not args.peers or not args.data:
        parser.error("--peers and --data are needed")
    results, network = Results(args.results), NETWORKS[args.side]
    cases = {(task, name): f"{task} {network} {args.side} {name} {cores()}"
             for task in args.tasks for name in OURS}  # fmt: skip
    if all(case in results.cases for case in cases.values()):
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(args.data, args.side, Path(folder))
        for task in args.tasks:
            commands = {
                name: [args.peers if name.startswith("torch") else sys.executable, __file__,
                       "--worker", name, str(args.side), folder]
                for name in (*OURS, *args.against)
            }  # fmt: skip
            facts, speeds = in_turns(commands, task, rounds=args.rounds, seconds=args.seconds)
            counts = {name: each["parameters"] for name, each in facts.items()
                      if "parameters" in each}  # fmt: skip
            if len(set(counts.values())) > 1:
                sys.exit(f"These are different networks: {counts}")
            for name in OURS:
                compared = {name: speeds[name]}
                compared |= {peer: each for peer, each in speeds.items() if peer not in OURS}
                found = against_peers(facts, compared)
                if args.rounds:
                    results.add(cases[task, name], found | {"machine": machine()})
                print(describe(cases[task, name], found), flush=True)


def prepare(data, side, folder):
    """Copy files into `folder`/files, and the run with and without its ONNX export beside them."""
    found = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    counts = {"files": FILES[side], "training": 0 if side == 32 else TRAINING_FILES}
    if len(found) < sum(counts.values()):
        sys.exit(f"{data} has {len(found):,} JPEG files; {sum(counts.values()):,} are needed.")
    chosen = iter(random.Random(0).sample(found, sum(counts.values())))
    for name, count in counts.items():
        for number, path in enumerate(itertools.islice(chosen, count)):
            target = folder / name / ("fake" if number % 2 else "real") / f"{number:04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    with_export = folder / "light"
    if side == 32:
        import tfdetect

        shutil.copytree(tfdetect.load("cifake_small_resnet").run.path, with_export)
    else:
        settings = [
            f"data.image_size={side}", "data.resize=stretch", "data.augment=[]",
            f"model.backbone={NETWORKS[side]}", "model.options={}", "model.weights=none",
            "model.head=linear", "model.dropout=0", "training.batch_size=16", "training.epochs=1",
            "training.steps_per_epoch=1", "training.precision=float32", "training.export=[onnx]",
        ]  # fmt: skip
        command = [sys.executable, "-m", "tfdetect.train", "--dataset", folder / "training",
                   "--experiment", "small_images", "--output", folder, "--name", "light",
                   "--no-images", "--quiet", *(f"--set={each}" for each in settings)]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    without = folder / "tensorflow"
    shutil.copytree(with_export, without)
    for export in without.glob("**/*.onnx"):
        export.unlink()


def files_of(folder):
    return sorted(map(str, (folder / "files").rglob("*.jpg")))


def all_files(predict, paths):
    """Predict all files; the task `files`."""
    rows = predict()
    if len(rows) != len(paths) or not all(0 <= row["p_fake"] <= 1 for row in rows):
        sys.exit(f"{len(rows)} rows of {len(paths)} files: {rows[:2]}")
    return len(rows)


def some(predict_one, paths):
    """Predict one file after the other, because the clocks would take longer than one; `one`."""
    until, count = time.perf_counter() + MINIMUM, 0
    while time.perf_counter() < until:
        predict_one(next(paths))
        count += 1
    return count


def row_of(path, p_fake):
    return {"path": path, "p_fake": p_fake, "verdict": "fake" if p_fake >= 0.5 else "real"}


# Each worker returns its facts, the function that predicts all files, and the one for one file.


def ours(name, side, folder):
    import tfdetect

    detector, paths = tfdetect.load(folder / name), files_of(folder)

    def predict():
        return list(detector.predict(paths, progress=False))

    def predict_one(path):
        return detector.predict(path, progress=False)[0]

    predict_one(paths[0])
    if ("tensorflow" in sys.modules) != (name == "tensorflow"):
        sys.exit(f"This is not the runtime {name}.")
    if detector.run.info.domain is None:
        sys.exit("The run does not know which images are like those of its training.")
    facts = versions("tensorflow", "keras") if name == "tensorflow" else versions("onnxruntime")
    return facts | versions("pillow"), predict, predict_one


def onnxruntime_worker(name, side, folder):
    import numpy as np
    import onnxruntime as ort
    from PIL import Image

    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    [export] = (folder / "light" / "exports").glob("detector.onnx")
    session = ort.InferenceSession(str(export), options, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    paths, shape = files_of(folder), [each or 1 for each in entry.shape[1:-3]]

    def load(path):
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(resized)

    def scores(paths):
        batch = np.stack([load(path) for path in paths])
        batch = batch.reshape(len(paths), *shape, side, side, 3)
        return session.run(["p_fake"], {entry.name: batch})[0].ravel().tolist()

    def predict():
        rows = []
        for start in range(0, len(paths), BATCHES[side]):
            part = paths[start : start + BATCHES[side]]
            rows += map(row_of, part, scores(part))
        return rows

    def predict_one(path):
        return row_of(path, *scores([path]))

    return versions("onnxruntime", "pillow"), predict, predict_one


def torch_worker(name, side, folder):
    import torch
    from peers import torch_network
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    torch.set_num_threads(cores())
    model = torch_network(NETWORKS[side]).to(memory_format=torch.channels_last).eval()
    parameters = sum(p.numel() for p in model.parameters())
    if name == "torch_compile":
        model = torch.compile(model)
    change = v2.Compose([v2.ToImage(), v2.Resize((side, side), antialias=True)])
    data = ImageFolder(folder / "files", change)  # decodes with Pillow
    loader = torch.utils.data.DataLoader(
        data, BATCHES[side], num_workers=cores(), persistent_workers=True
    )

    def scores(images):
        with torch.inference_mode():
            images = images.to(torch.float32, memory_format=torch.channels_last)
            return torch.sigmoid(model(images.mul_(2 / 255).sub_(1))).ravel().tolist()

    def predict():
        found = itertools.chain.from_iterable(scores(images) for images, _ in loader)
        return [row_of(path, p) for (path, _), p in zip(data.samples, found, strict=True)]

    def predict_one(path):
        return row_of(path, *scores(change(data.loader(path))[None]))

    facts = versions("torch", "torchvision", "pillow") | {"parameters": parameters}
    return facts, predict, predict_one


def keras_worker(name, side, folder):
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()

    import keras
    import numpy as np
    import tensorflow as tf
    from peers import parameters

    model = keras.models.load_model(folder / "light" / "model.keras", compile=False)
    images = keras.utils.image_dataset_from_directory(
        folder / "files", labels=None, image_size=(side, side), batch_size=BATCHES[side],
        shuffle=False, verbose=False,
    )  # fmt: skip
    paths, images = images.file_paths, images.prefetch(tf.data.AUTOTUNE)

    def probabilities(outputs):
        return (1 / (1 + np.exp(-outputs["label"].ravel()))).tolist()

    def predict():
        return list(map(row_of, paths, probabilities(model.predict(images, verbose=0))))

    def predict_one(path):
        image = keras.utils.load_img(path, target_size=(side, side), interpolation="bilinear")
        pixels = keras.utils.img_to_array(image)[None]
        # Quicker for one image than `predict`, which makes a dataset of it.
        return row_of(path, *probabilities(model.predict_on_batch(pixels)))

    facts = versions("tensorflow", "keras", "pillow") | {"parameters": parameters(model)}
    return facts, predict, predict_one


if __name__ == "__main__":
    main()
