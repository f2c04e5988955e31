"""What each export format costs in accuracy and time, against the Keras model.

    python benchmarks/exports.py saved_models/cifake_small_resnet --data-dir DIR

Exports a copy of the run in every format and predicts images of the validation split with each, as
the detector sees them: files are decoded and resized once, for all formats alike. LiteRT gets one
image at a time, as on a phone; the others get batches of 64.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from tfdetect.core.open_run import open_run
from tfdetect.data.describe import read_data
from tfdetect.data.evaluation_data import evaluation_data
from tfdetect.imaging.geometry import view_parts
from tfdetect.imaging.pillow import read_rgb
from tfdetect.models import exports
from tfdetect.models.inference import calibrated, predict_views
from tfdetect.models.saving import load_detector

BATCH = 64


def keras_scores(run):
    detector = load_detector(run)

    def scores(*views):
        crops = [v if view.crops > 1 else v[:, None] for v, view in zip(views, run.views)]
        table = predict_views(detector, [tf.constant(v) for v in crops], run.info.flips)
        return calibrated(table, run.calibration).numpy()

    return scores


def onnx_scores(path, names):
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda *views: session.run(["probabilities"], dict(zip(names, views)))[0]


def litert_scores(path, names):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda *views: runner(**dict(zip(names, views)))["probabilities"]


def openvino_scores(path, names):
    import openvino as ov

    model = ov.compile_model(path / "detector.xml", "CPU")
    return lambda *views: model(dict(zip(names, views)))["probabilities"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path, help="folder in which its dataset is")
    parser.add_argument("--count", type=int, default=2000, help="images of validation (2000)")
    parser.add_argument("--format", nargs="+", default=[
        "onnx", "onnx_float16", "litert", "litert_float16", "litert_int8", "openvino",
    ])  # fmt: skip
    args = parser.parse_args()
    run = open_run(args.run)
    spec, roots, _ = evaluation_data(run, None, args.data_dir, None, None)
    catalog = read_data(spec, roots)
    rows = catalog.split("validation")
    chosen = np.random.default_rng(0).permutation(rows.num_rows)[: args.count]
    rows = rows.take(chosen)
    labels = rows["label"].to_numpy() > 0
    images = [np.asarray(read_rgb(path)) for path in catalog.files(rows)]
    views = [
        np.stack([
            np.reshape(view_parts(tf.constant(image), [v])[0],
                       [*([v.crops] if v.crops > 1 else []), *v.size, 3])
            for image in images
        ])
        for v in run.views
    ]  # fmt: skip
    names = ["images"] if len(views) == 1 else [f"images_{n}" for n in range(len(views))]

    def measure(scores, batch):
        scores(*(v[:batch] for v in views))
        begin = time.process_time()
        found = [scores(*(v[i : i + batch] for v in views)) for i in range(0, len(labels), batch)]
        return 1 - np.concatenate(found)[:, 0], (time.process_time() - begin) / len(labels)

    def row(name, p, seconds, expected, megabytes):
        verdicts = p >= run.threshold
        return {
            "format": name, "images": len(labels), "accuracy": (verdicts == labels).mean(),
            "auc": roc_auc_score(labels, p), "changed_verdicts": int((verdicts != (expected >=
            run.threshold)).sum()), "max_difference": np.abs(p - expected).max(),
            "cpu_ms_per_image": 1000 * seconds, "megabytes": megabytes,
        }  # fmt: skip

    expected, seconds = measure(keras_scores(run), BATCH)
    found = [row("keras", expected, seconds, expected, run.model_path.stat().st_size / 1e6)]
    with tempfile.TemporaryDirectory() as folder:
        copy = open_run(shutil.copytree(args.run, Path(folder) / run.name))
        for name in args.format:
            [written] = exports.write_exports(copy, [name])
            path = copy.path / written.path
            kind = name.partition("_")[0]
            open_it = {"onnx": onnx_scores, "litert": litert_scores, "openvino": openvino_scores}
            p, seconds = measure(open_it[kind](path, names), 1 if kind == "litert" else BATCH)
            found.append(row(name, p, seconds, expected, written.megabytes))
    print("format          accuracy  AUC     changed  difference  CPU ms/image  MB")
    for each in found:
        print(
            "{format:15} {accuracy:.4f}    {auc:.4f}  {changed_verdicts:7}  "
            "{max_difference:.6f}    {cpu_ms_per_image:9.2f}  {megabytes:6.2f}".format(**each)
        )
    print(json.dumps(found, default=float))


if __name__ == "__main__":
    main()
