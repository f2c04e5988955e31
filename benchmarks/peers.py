"""Training and prediction against PyTorch and Keras on JAX: the same network, batch and precision.

    python benchmarks/peers.py --peers PEERS/bin/python

PEERS is a virtual environment with `pip install torch torchvision "jax[cpu]" keras`. The peers
repeat one batch in memory; nothing is read, augmented or measured. Ours is `fit` as `train` calls
it: images in memory are chosen, flipped and shifted for each batch, and metrics are computed. The
peers are timed at what they do best:

    torch           PyTorch, layers executed one by one, channels last
    torch_compile   the same through torch.compile
    keras_jax       Keras on JAX, compiled by XLA

Cases are measured one after another and kept in a JSON file, so that the same command goes on where
it stopped. `--rounds 0` only starts each worker, which fills the compilers' caches.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from timing import Channel, Clock, Results, compare, cores, describe, machine, serve, versions

PEERS = ("torch", "torch_compile", "keras_jax")
# Images in a batch by network and side.
BATCHES = {
    ("small_resnet", 32): 256, ("small_resnet", 224): 8,
    ("resnet18", 32): 128, ("resnet18", 224): 16,
    ("densenet121", 32): 64, ("densenet121", 224): 8,
}  # fmt: skip
MOMENTUM, RATE, DECAY = 0.9, 0.01, 5e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--networks", nargs="+", default=["small_resnet", "resnet18",
                        "densenet121"])  # fmt: skip
    parser.add_argument("--sides", nargs="+", type=int, default=[32, 224], help="pixels")
    parser.add_argument("--tasks", nargs="+", default=["train", "predict"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (6)")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement (3)")
    parser.add_argument("--results", type=Path, default=Path("peers.json"), help="peers.json")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no case after so many")
    parser.add_argument("--against", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, task, network, side, precision = args.worker
        worker = ours if name == "ours" else keras_jax if name == "keras_jax" else torch_worker
        return worker(name, task, network, int(side), precision)
    if not args.peers:
        parser.error("--peers names the interpreter of the peers' environment")
    results, begin = Results(args.results), time.monotonic()
    for task in args.tasks:
        # Exports compute in single precision, as verdicts should.
        for precision in args.precisions if task == "train" else ["float32"]:
            for network, side in BATCHES:
                case = f"{task} {network} {side} {precision} {cores()}"
                if network not in args.networks or side not in args.sides or case in results.cases:
                    continue
                if time.monotonic() > begin + 60 * args.minutes:
                    return
                found = measure(args, task, network, side, precision)
                if args.rounds:
                    results.add(case, found | {"machine": machine()})
                print(describe(case, found), flush=True)


def measure(args, task, network, side, precision):
    commands = {
        name: [sys.executable if name == "ours" else args.peers, __file__, "--worker", name, task,
               network, str(side), precision]
        for name in ("ours", *args.against)
    }  # fmt: skip
    found = compare(commands, task, rounds=args.rounds, seconds=args.seconds)
    counts = {name: facts["parameters"] for name, facts in found["facts"].items()}
    if len(set(counts.values())) > 1:
        sys.exit(f"These are different networks: {counts}")
    return found | {"batch": BATCHES[network, side]}


# --- ours


def ours(name, task, network, side, precision):
    """`fit` as `train` calls it, or the detector that `predict` opens."""
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()

    import numpy as np
    from PIL import Image

    from tfdetect.data.plan import find_data, make_plan

    batch = BATCHES[network, side]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4 * batch, side, side, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(pixels):
            path = Path(folder, "data", "train", "fake" if number % 2 else "real", f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        plan = make_plan(f"{folder}/data", "small_images", [
            f"data.image_size={side}", "data.augment=[{name: flip}, {name: shift, pixels: 2}]",
            "data.cache=memory", f"model.backbone={network}", "model.options={}",
            "model.weights=none", "model.head=linear", "model.dropout=0",
            f"training.batch_size={batch}", "training.epochs=1", "training.export=[onnx]",
            f"training.precision={'mixed_bfloat16' if precision == 'bfloat16' else precision}",
            f"training.steps_per_epoch={10**8 if task == 'train' else 1}",
            f"training.optimizer={{name: sgd, learning_rate: {RATE}, momentum: {MOMENTUM}, "
            f"nesterov: true, weight_decay: {DECAY}}}",
        ])  # fmt: skip
        catalog = find_data(plan, progress=False)
        facts = versions("tensorflow", "keras", "onnxruntime")
        if task == "train":
            train_ours(plan, catalog, Path(folder), facts)
        else:
            predict_ours(plan, catalog, Path(folder), pixels[:batch], facts)


def train_ours(plan, catalog, folder, facts):
    import keras

    from tfdetect.data.training_data import training_data
    from tfdetect.data.validation_stream import unaugmented_images, validation_data
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.fit import fit, set_seed_and_precision
    from tfdetect.training.fit_job import FitData

    experiment, devices = plan.experiment, configure_devices()
    batch = experiment.training.batch_size

    class Answers(keras.callbacks.Callback):
        """Waits between two steps until it is asked to measure some."""

        channel, request = None, None

        def on_train_batch_begin(self, step, logs=None):
            if self.channel is None:
                self.channel = Channel(facts | {"parameters": parameters(self.model)})
            if self.request is None:
                self.request = self.channel.next() or sys.exit()
                self.images, self.clock = 0, Clock(self.request[1])

        def on_train_batch_end(self, step, logs=None):
            self.images += batch
            if self.clock.is_over():
                self.channel.answer(self.images, self.clock)
                self.request = None

    set_seed_and_precision(experiment, devices)
    train, held_out = catalog.split("train"), catalog.split("validation")
    data = FitData(
        training_data(catalog, train, experiment.data, 2, batch, 0),
        validation_data(catalog, held_out, experiment.data, 2, batch),
        lambda: unaugmented_images(catalog, train, experiment.data, batch),
    )
    fit(experiment, 2, data, devices, folder, callbacks=[Answers()], log=log)


def predict_ours(plan, catalog, folder, pixels, facts):
    from tfdetect.light.onnx_detector import LightDetector
    from tfdetect.models.saving import load_detector
    from tfdetect.train_run import train_run
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.training_job import TrainingJob

    run = train_run(TrainingJob(plan, catalog, configure_devices(), folder / "run", False, log))
    detector = LightDetector(run)
    images = [[each[None]] for each in pixels]  # of one view each

    def predict(count):
        detector.score(images[:count])
        return count

    trainable = {"parameters": parameters(load_detector(run))}
    serve(facts | trainable, {"predict": partial(predict, len(images)),
                              "predict_one": partial(predict, 1)})  # fmt: skip


def parameters(model):
    """Return the number of trainable parameters of a Keras model."""
    return sum(math.prod(each.shape) for each in model.trainable_variables)


def log(text):
    print(text, file=sys.stderr)


# --- Keras on JAX


def keras_jax(name, task, network, side, precision):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    import keras
    import numpy as np

    policy = "mixed_bfloat16" if precision == "bfloat16" else precision
    keras.mixed_precision.set_global_policy(policy)
    inputs = keras.Input((side, side, 3))
    features = {"small_resnet": small_resnet_keras, "resnet18": resnet18_keras}.get(network)
    if features is None:
        x = keras.applications.DenseNet121(
            include_top=False, weights=None, input_shape=(side, side, 3)
        )(inputs)
    else:
        x = features(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(x))
    batch = BATCHES[network, side]
    images = np.random.default_rng(0).uniform(-1, 1, (batch, side, side, 3)).astype("float32")
    labels = np.arange(batch)[:, None] % 2
    facts = versions("jax", "keras") | {"parameters": parameters(model)}
    if task == "predict":
        logits = jax.jit(lambda state, x: jax.nn.sigmoid(
            model.stateless_call(*state, x, training=False)[0]))  # fmt: skip
        state = ([v.value for v in model.trainable_variables],
                 [v.value for v in model.non_trainable_variables])  # fmt: skip

        def predict(count):
            np.asarray(logits(state, images[:count]))
            return count

        serve(facts, {"predict": partial(predict, batch), "predict_one": partial(predict, 1)})
    model.compile(
        keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True, weight_decay=DECAY),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )

    def endless():
        while True:
            yield images, labels

    steps = 4  # a fit of one step each would measure how a fit begins

    def train():
        model.fit(endless(), steps_per_epoch=steps, verbose=0, shuffle=False)
        return steps * batch

    serve(facts, {"train": train})


def small_resnet_keras(x):
    """The network of `tfdetect.models.small_resnet`, in Keras's own layers."""
    from keras import layers

    def norm_relu(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))

    def conv(x, width, size, stride=1):
        return layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False)(x)

    x = layers.Conv2D(32, 3, padding="same", use_bias=False, dtype="float32")(x)
    for width, first in ((32, 1), (64, 2), (128, 2)):
        for stride in (first, 1):
            y = norm_relu(x)
            if stride > 1 or x.shape[-1] != width:
                x = conv(y, width, 1, stride)
            y = conv(norm_relu(conv(y, width, 3, stride)), width, 3)
            x = layers.Add()([x, y])
    return norm_relu(x)


def resnet18_keras(x):
    from keras import layers

    def conv_norm(x, width, size, stride=1):
        x = layers.ZeroPadding2D(size // 2)(x)
        x = layers.Conv2D(width, size, strides=stride, use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    x = layers.ReLU()(conv_norm(x, 64, 7, 2))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for width, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            y = conv_norm(layers.ReLU()(conv_norm(x, width, 3, stride)), width, 3)
            if stride > 1:
                x = conv_norm(x, width, 1, stride)
            x = layers.ReLU()(layers.Add()([x, y]))
    return x


# --- PyTorch


def torch_worker(name, task, network, side, precision):
    import torch

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    model = torch_network(network).to(memory_format=torch.channels_last)
    facts = versions("torch", "torchvision")
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    batch = BATCHES[network, side]
    images = torch.rand(batch, 3, side, side).mul_(2).sub_(1)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = (torch.arange(batch)[:, None] % 2).float()
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    if task == "predict":
        model.eval()
        if name == "torch_compile":
            model = torch.compile(model)

        def predict(count):
            with torch.inference_mode():
                torch.sigmoid(model(images[:count])).numpy()
            return count

        serve(facts, {"predict": partial(predict, batch), "predict_one": partial(predict, 1)})
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, MOMENTUM, nesterov=True, weight_decay=DECAY, fused=True
    )
    loss_of = torch.nn.BCEWithLogitsLoss()
    if name == "torch_compile":
        model = torch.compile(model)

    def train():
        optimizer.zero_grad()
        with half:
            logits = model(images)
        loss = loss_of(logits.float(), labels)
        loss.backward()
        optimizer.step()
        loss.item()  # as a training that watches its loss does
        return batch

    serve(facts, {"train": train})


def torch_network(name):
    """Return a network of one logit that nobody trained."""
    if name == "small_resnet":
        return small_resnet_torch()
    import torchvision

    return getattr(torchvision.models, name)(weights=None, num_classes=1)


def small_resnet_torch():
    """The network of `tfdetect.models.small_resnet`."""
    from torch import nn

    def norm_relu(channels):
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    class Block(nn.Module):
        def __init__(self, channels, width, stride):
            super().__init__()
            self.first, self.second = norm_relu(channels), norm_relu(width)
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.shortcut = None
            if stride > 1 or channels != width:
                self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

        def forward(self, x):
            y = self.first(x)
            x = x if self.shortcut is None else self.shortcut(y)
            return x + self.conv2(self.second(self.conv1(y)))

    layers, channels = [nn.Conv2d(3, 32, 3, 1, 1, bias=False)], 32
    for width, first in ((32, 1), (64, 2), (128, 2)):
        for stride in (first, 1):
            layers.append(Block(channels, width, stride))
            channels = width
    tail = [norm_relu(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1)]
    return nn.Sequential(*layers, *tail)


if __name__ == "__main__":
    main()
