"""Speed of one tree of the project against another, in pairs of short measurements.

    python benchmarks/before_after.py --before ../old --after . --data CIFAKE pipeline
    python benchmarks/before_after.py --before ../old --after . --data CIFAKE predict --files 20000
    python benchmarks/before_after.py --before ../old --after . --data DIR --masks DIR masks

What is measured, each with the tree's own code and in processes of its own:
    augment   training batches from files, with the augmentation of pipeline.py
    plain     the same without augmentation; `pipeline` is both
    predict   the command `predict` with the tree's shipped CIFAKE run, from start to end
    masks     batches of images with masks; `--masks` has a PNG of the same name for the altered

Which tree is measured first alternates. Both times are compared: wall clock, and CPU time, which
other work on the machine disturbs less. The ratio is that of speeds, after to before; its interval
is that of Student's t for the logarithms of the pairs. `--keep FILE` adds the pairs to those of
earlier calls.
"""

import argparse
import inspect
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = "saved_models/cifake_small_resnet"
TREES = ("before", "after")


def log_ratio(pair, clock):
    return math.log(pair["before"][clock] / pair["after"][clock])


def interval(values, confidence=0.95):
    """Return mean and bounds of a t interval."""
    from scipy import stats

    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    return mean, mean - half, mean + half


def environment(tree):
    return {**os.environ, "PYTHONPATH": str(tree.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3"}


class Worker:
    """A process of one tree that takes a number of batches whenever it is asked."""

    def __init__(self, tree, args, kind):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", kind]
        command += ["--data", str(args.data.resolve()), "--batches", str(args.batches)]
        command += ["--masks", str(args.masks.resolve())] if args.masks else []
        self.process = subprocess.Popen(
            command, cwd=tree, env=environment(tree), text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.process.stdout.readline()  # it is ready

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def work(args):
    """Answer each line of standard input with the times of some batches."""
    sys.path.insert(0, "benchmarks")
    iterator = iter(batches(args))
    for _ in range(5):
        next(iterator)
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(args.batches):
            next(iterator)
        wall = time.perf_counter() - wall
        print(json.dumps({"wall": wall, "cpu": settled() - cpu}), flush=True)


def settled():
    """Return the CPU time when the batches that are prepared in advance are ready again."""
    before = -1.0
    while (now := time.process_time()) > before + 0.005:
        before = now
        time.sleep(0.05)
    return now


def batches(args):
    import pipeline  # the tree's own, which imports TensorFlow quietly

    if args.worker != "masks":
        return pipeline.ours(args.data, () if args.worker == "plain" else pipeline.POLICY)
    from tfdetect.core.run_info import View
    from tfdetect.data import sources
    from tfdetect.data.loading import image_dataset

    masks = {path.name: str(path) for path in sorted(args.masks.rglob("*.png"))}
    images = sorted(str(p) for p in args.data.rglob("*.png") if args.masks not in p.parents)
    random.Random(0).shuffle(images)
    paths = [masks.get(Path(image).name, "") for image in images]
    found = sources.Files(paths)
    found = sources.Masks(found) if hasattr(sources, "Masks") else found
    size, policy = (224, 224), "stretch"
    view = (size, policy)
    if "view" in inspect.signature(image_dataset).parameters:  # not of older trees
        view = (View(size=size, policy=policy),)
    data = image_dataset(sources.Files(images), *view, 16, masks=found)
    return data.repeat()


class Prediction:
    """The command `predict` of one tree, stopped and continued from outside."""

    def __init__(self, tree, folder, output):
        command = [sys.executable, "-m", "tfdetect.predict", RUN, str(folder), "--quiet"]
        self.process = subprocess.Popen(
            [*command, "--output", str(output)], cwd=tree, env=environment(tree),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wall, self.cpu, self.ended = 0.0, 0.0, False

    def go_on(self):
        """Let it work for a second, or to its end."""
        begin = time.perf_counter()
        # Not `send_signal`, which would take the exit status, and with it the CPU time.
        os.kill(self.process.pid, signal.SIGCONT)
        while not self.ended and time.perf_counter() < begin + 1:
            time.sleep(0.01)
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                assert os.waitstatus_to_exitcode(status) == 0, self.process.args
                self.ended, self.cpu = True, used.ru_utime + used.ru_stime
        self.wall += time.perf_counter() - begin
        if not self.ended:
            os.kill(self.process.pid, signal.SIGSTOP)


def linked(data, files, folder):
    """Link to the first files of each class."""
    each = -(-files // 2)
    for source in sorted(p for p in data.iterdir() if p.is_dir()):
        (folder / source.name).mkdir(parents=True)
        for path in sorted(source.iterdir())[:each]:
            os.symlink(path.resolve(), folder / source.name / path.name)


def predictions(trees, args, folder):
    """Yield the pairs of whole predictions of the same files.

    The two commands take turns of a second, so that what else the machine does hits both.
    """
    linked(args.data, args.files, folder)
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as output:
            found = {
                name: Prediction(trees[name], folder, Path(output, f"{name}.csv"))
                for name in (TREES if number % 2 == 0 else TREES[::-1])
            }
            for each in found.values():
                os.kill(each.process.pid, signal.SIGSTOP)
            while not all(each.ended for each in found.values()):
                for each in found.values():
                    if not each.ended:
                        each.go_on()
            rows = [len(file.read_bytes().splitlines()) for file in Path(output).iterdir()]
            assert rows == [args.files + 1] * 2, rows
        yield {name: {"wall": found[name].wall, "cpu": found[name].cpu} for name in TREES}


def pairs(measure, rounds):
    for number in range(rounds):
        order = TREES if number % 2 == 0 else TREES[::-1]
        times = {name: measure(name) for name in order}
        yield {name: times[name] for name in TREES}


def stream(trees, args, kind):
    """Yield the pairs of a stream of batches, after one measurement that does not count."""
    workers = {name: Worker(trees[name], args, kind) for name in TREES}
    for worker in workers.values():
        worker.measure()
    yield from pairs(lambda name: workers[name].measure(), args.rounds)
    for worker in workers.values():
        worker.close()


def report(kind, found):
    for clock in ("wall", "cpu"):
        mean, low, high = map(math.exp, interval([log_ratio(pair, clock) for pair in found]))
        print(f"{kind:9} {clock:5} {mean:6.3f} [{low:.3f}, {high:.3f}], {len(found)} pairs")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "kind",
        nargs="?",
        default="pipeline",
        choices=["pipeline", "augment", "plain", "predict", "masks"],
    )
    parser.add_argument("--before", type=Path, help="tree of the older code")
    parser.add_argument("--after", type=Path, help="tree of the newer code")
    parser.add_argument("--data", type=Path, required=True, help="folder with class folders")
    parser.add_argument("--masks", type=Path, help="folder with masks")
    parser.add_argument("--files", type=int, default=20_000, help="that predict reads (20000)")
    parser.add_argument("--batches", type=int, default=60, help="a measurement (60)")
    parser.add_argument("--rounds", type=int, default=12, help="pairs of measurements (12)")
    parser.add_argument("--keep", type=Path, help="file with the pairs of earlier calls")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    trees = {"before": args.before, "after": args.after}
    kinds = {"pipeline": ["augment", "plain"]}.get(args.kind, [args.kind])
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder, "pairs.jsonl")
        for kind in kinds:
            if kind == "predict":
                found = predictions(trees, args, Path(folder, "images"))
            else:
                found = stream(trees, args, kind)
            for pair in found:
                with keep.open("a") as file:
                    file.write(json.dumps({"kind": kind, **pair}) + "\n")
        rows = list(map(json.loads, keep.read_text().splitlines()))
    for kind in kinds:
        report(kind, [row for row in rows if row["kind"] == kind])


if __name__ == "__main__":
    main()
