"""Compares localizers: on one dataset, on unseen fills and datasets, and by the edges of masks.

    python benchmarks/localizers.py compare --data forged --test splices=DIR
    python benchmarks/localizers.py leave-one-out --data forged
    python benchmarks/localizers.py transfer --train splices=DIR --test casia1_samples=DIR
    python benchmarks/localizers.py edges --photos photos --fills telea,navier_stokes
    python benchmarks/localizers.py joint --run saved_models/localizer_photos --data forged

Each localizer is trained for the same time on the same machine, from scratch, with the schedule of
its experiment. `forged` is a dataset that `synthesize` wrote. IoU, F1 and AP are means over the
altered images of the test split, or of all images of a dataset that was not trained on.

`edges` makes the same forgeries twice, with a hard edge and with a soft one, and a third time with
masks that are wider than what was altered; it trains on each and tests on all, also in the band
along the border of the mask. Every mask is shown, whatever P(fake) is.

`joint` trains nothing: it measures what a run marks, what the search for copies marks, and both
together, as `predict --masks` writes them.
"""

import argparse
import csv
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import budget
import numpy as np
from budget import call, settings
from PIL import Image
from scipy.ndimage import distance_transform_edt
from tabulate import tabulate

import tfdetect
from tfdetect.evaluation.intervals import bootstrap, format_interval, mean_interval
from tfdetect.evaluation.overlays import output_names

LOCALIZERS = ("localizer_small", "fcn_resnet50", "deeplabv3_resnet50", "segformer_b0", "iidnet",
              "nixnet", "graftnet", "f3net_faces_masks")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["compare", "leave-one-out", "transfer", "edges", "joint"])
    parser.add_argument("--data", type=Path, help="a dataset that synthesize wrote")
    parser.add_argument("--photos", type=Path, help="for edges: a folder of photographs")
    parser.add_argument("--photo-size", type=int, metavar="PIXELS", help="for edges: scale and "
                        "crop photographs to this side (default: original size)")  # fmt: skip
    parser.add_argument("--edge", type=int, default=8, metavar="PIXELS", help="for edges: width of "
                        "the soft edge, of the widening and of the band (default: 8)")  # fmt: skip
    parser.add_argument("--run", type=Path, help="for joint: a run that predicts masks")
    parser.add_argument("--mask-threshold", type=float, help="for joint: instead of the run's")
    parser.add_argument(
        "--train", metavar="NAME=DIR", help="for transfer: a dataset and its directory"
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a dataset to measure on; repeatable",
    )
    parser.add_argument("--experiments", default=",".join(LOCALIZERS), help="for compare")
    parser.add_argument("--size", type=int, default=256, help="pixels of a window, or the "
                        "next size that the localizer accepts (default: 256)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=16, help="windows per step (default: 16)")
    parser.add_argument("--minutes", type=float, default=10, help="of each training (default: 10)")
    parser.add_argument("--steps", type=int, help="steps of each training, instead of --minutes")
    parser.add_argument("--fills", metavar="A,B", help="for leave-one-out: only these "
                        "fills; for edges: what forgeries are made with")  # fmt: skip
    parser.add_argument("--every", type=int, default=1, help="measure on every N-th image of each "
                        "kind, validate on every 4N-th (default: 1)")  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("localizers"), help="directory of the runs"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = {"compare": compare, "leave-one-out": leave_one_out, "transfer": transfer,
            "edges": edges, "joint": joint}[args.table]  # fmt: skip
    for row in rows(args):
        print(tabulate([row], headers="keys", tablefmt="github"), flush=True)
        with (args.output / f"{args.table}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def compare(args):
    """Yield a row for each localizer and dataset."""
    source = args.data / "manifest.csv"
    training = subset(args, source, "training", ("train", "validation"), whole=("train",))
    tests = {"forged": subset(args, source, "measured-forged", splits=("test",))}
    for text in args.test:
        name, _, folder = text.partition("=")
        tests[name] = subset(args, Path(folder) / "manifest.csv", f"measured-{name}")
    for experiment in args.experiments.split(","):
        run, steps, seconds = train(args, experiment, str(training), experiment)
        for name, manifest in tests.items():
            results = evaluate(run, str(manifest), args.output / f"{experiment}-{name}")
            parts = {"all": results, **results.get("generators", {})}
            for part, result in parts.items():
                yield {"localizer": experiment, "training images": steps * args.batch,
                       "minutes": round(seconds / 60, 1), "set": name, "fill": part,
                       **metric_columns(result)}  # fmt: skip


def leave_one_out(args):
    """Yield for each fill a row with it in training, and one without."""
    rows = with_absolute_paths(args.data / "manifest.csv")
    fills = sorted({row["generator"] for row in rows} - {""})
    whole, steps, _ = train(args, "localizer_small", str(args.data), "all-fills")
    for fill in args.fills.split(",") if args.fills else fills:
        others = [name for name in fills if name != fill]
        rest = write(args, f"others-than-{fill}", [r for r in rows if r["generator"] != fill])
        only = write(args, f"only-{fill}", [
            r for r in rows if r["split"] == "test" and r["generator"] not in others
        ])  # fmt: skip
        run, _, _ = train(args, "localizer_small", str(rest), f"without-{fill}", steps=steps)
        for name, measured in (("in training", whole), ("unseen", run)):
            result = evaluate(measured, str(only), args.output / f"{fill}-{name}")
            yield {"fill": fill, "fill is": name, **metric_columns(result)}


def transfer(args):
    """Yield a row for each dataset that a localizer of another one is measured on."""
    name, _, folder = args.train.partition("=")
    run, steps, _ = train(args, "localizer_small", name, f"on-{name}", folder)
    own = json.loads((run / "metrics.json").read_text())["test"]
    yield {"trained on": name, "measured on": f"{name}, test", **metric_columns(own)}
    for text in args.test:
        other, _, folder = text.partition("=")
        manifest = subset(args, Path(folder) / "manifest.csv", f"measured-{other}")
        results = evaluate(run, str(manifest), args.output / f"on-{name}-{other}")
        for part, result in {"all": results, **results.get("generators", {})}.items():
            yield {"trained on": name, "measured on": f"{other}, {part}", **metric_columns(result)}


def edges(args):
    """Yield a row for each kind of edge that is trained with and each that is tested with.

    Differences are from training with hard edges, on the same images.
    """
    fills = args.fills or "telea,navier_stokes"
    size = ["--size", str(args.photo_size)] if args.photo_size else []
    made = {}
    for name, edge in (("hard", 0), ("soft", args.edge)):
        # The splits of the published table; they follow from the folder's name.
        made[name] = args.output / name / "forged"
        call("-m", "tfdetect.synthesize", "--source", str(args.photos), "--output",
             str(made[name]), "--fill", fills, "--edge", str(edge), "--quiet",
             "--split-rule", "1", *size)  # fmt: skip
    made["widened"] = widened(args, made["hard"])
    tests = {
        name: subset(args, folder / "manifest.csv", f"measured-{name}", splits=("test",))
        for name, folder in made.items()
    }
    titles = "IoU", f"IoU within {args.edge} pixels of the border"
    hard = {}
    for trained, folder in made.items():
        run, _, _ = train(
            args, "localizer_small", str(folder / "manifest.csv"), f"with-{trained}",
            more=("data.augment=[{name: flip}]",),  # forgeries made in training have other edges
        )  # fmt: skip
        for tested, manifest in tests.items():
            ious = border_ious(run, manifest, args.edge)
            row = {"trained with": trained, "tested with": tested, "altered images": len(ious)}
            change = ious - hard.setdefault(tested, ious)
            for title, column, difference in zip(titles, ious.T, change.T, strict=True):
                row[title] = format_interval(mean_interval(column), 3)
                row[f"difference of {title}"] = (
                    ""
                    if trained == "hard"
                    else format_interval(mean_interval(difference), 3, signed=True)
                )
            yield row


def widened(args, source: Path) -> Path:
    """Write a dataset of the same images with masks that are wider; return its folder."""
    rows, folder = with_absolute_paths(source / "manifest.csv"), args.output / "widened"
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row["mask"]:
            with Image.open(row["mask"]) as image:
                mask = np.asarray(image.convert("L")) > 127
            target = folder.resolve() / "masks" / f"{Path(row['path']).stem}.png"
            wide = distance_transform_edt(~mask) <= args.edge
            Image.fromarray(wide.astype(np.uint8) * 255).save(target)
            row["mask"] = str(target)
    return write(args, "widened", rows).parent


def border_ious(run: Path, manifest: Path, width: int) -> np.ndarray:
    """Return two IoUs of each altered image, [images, 2], in the order of the manifest.

    The second one is of the pixels that are at most `width` pixels from the border of the true
    mask.
    """
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.core.open_run import open_run
    from tfdetect.data.plan import make_plan, read_data, roots_of
    from tfdetect.data.sources import image_source
    from tfdetect.evaluation.evaluate_run import mask_truth
    from tfdetect.evaluation.predictions import predict_source
    from tfdetect.models.saving import load_detector

    found = []

    def measure(mask):
        predicted, truth = mask.altered >= 0.5, mask.truth > 0
        if truth.any() and not truth.all():
            band = distance_transform_edt(truth) + distance_transform_edt(~truth) <= width
            found.append([
                (predicted & truth & where).sum() / ((predicted | truth) & where).sum()
                for where in (True, band)
            ])  # fmt: skip

    opened = open_run(run).with_mask_threshold(0)  # edges are measured, and not P(fake)
    plan = make_plan(str(manifest))
    catalog = read_data(plan.spec, roots_of(plan), progress=False)
    rows = catalog.table.filter(catalog.table["mask"].is_valid())
    predict_source(opened, load_detector(opened), image_source(catalog, rows),
                   truth=mask_truth(catalog, rows), on_mask=measure, progress=False)  # fmt: skip
    return np.array(found)


def joint(args):
    """Yield for each fill the mean IoU of both kinds of marks and of both together.

    Of the authentic images the fractions whose masks are empty.
    """
    detector = tfdetect.load(args.run).with_options(mask_threshold=args.mask_threshold)
    rows = [r for r in with_absolute_paths(args.data / "manifest.csv") if r["split"] == "test"]
    rows = list({row["path"]: row for row in rows}.values())[:: args.every]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        detector.predict([row["path"] for row in rows], masks=folder)
        for row, name in zip(rows, output_names([row["path"] for row in rows]), strict=True):
            altered, copies, both = (
                np.asarray(Image.open(Path(folder) / f"{name}.{kind}.png"))
                for kind in ("altered", "copies", "mask")
            )
            truth = np.asarray(Image.open(row["mask"]).convert("L")) > 127 if row["mask"] else False
            ious = [iou(marked, truth) for marked in (altered > 127, copies == 255, both > 0)]
            found.setdefault(row["generator"] or "authentic", []).append(ious)
    for fill, ious in sorted(found.items()):
        means = (
            format_interval(bootstrap(partial(mean_of, column), len(ious))["iou"])
            for column in np.array(ious).T
        )
        yield {"fill": fill, "images": len(ious),
               **dict(zip(("detector", "copies", "both"), means, strict=True))}  # fmt: skip


def mean_of(ious, weights):
    """Return the weighted mean, for weights [..., n]."""
    return {"iou": weights @ ious / weights.sum(axis=-1)}


def iou(marked, truth):
    """Return the IoU of two masks; 1 where both are empty."""
    union = (marked | truth).sum()
    return float((marked & truth).sum() / union) if union else 1.0


def train(
    args, experiment: str, dataset: str, name: str, folder: str = "", steps: int | None = None,
    more: tuple[str, ...] = (),
) -> tuple:  # fmt: skip
    """Train for the time or number of steps; return the run's directory, steps and seconds."""
    changes = [f"training.batch_size={args.batch}", "model.weights=none", "training.export=[]",
               *more]  # fmt: skip
    side = budget.smallest_side(experiment, args.size, changes)
    common = [
        "--dataset", dataset, "--experiment", experiment,
        *(["--data-dir", folder] if folder else []),
        *settings(*changes, f"data.image_size={side}"),
    ]  # fmt: skip
    run, steps, seconds = budget.train(
        args.output / name, common, args.minutes, steps or args.steps
    )
    return run.path, steps, seconds


def evaluate(run: Path, dataset: str, output: Path) -> dict:
    """Return the metrics of a run on all images of a dataset."""
    output = output.with_name(output.name.replace(" ", "-"))
    if not (output / "metrics.json").is_file():
        call("-m", "tfdetect.evaluate", str(run), "--dataset", dataset, "--split", "all",
             "--output", str(output), "--no-images")  # fmt: skip
    return json.loads((output / "metrics.json").read_text())["all"]


def metric_columns(result: dict) -> dict:
    """Return the columns of a row: the metrics of masks, the IoU with its interval."""
    metrics = result["masks"]["metrics"]
    iou = metrics["iou_altered"]
    return {
        "altered images": result["masks"]["altered"],
        "IoU": format_interval(iou, 3),
        **{title: round(metrics[key]["value"], 3) for title, key in (("F1", "f1"), ("AP", "ap"))},
        "image AUC": metrics["image_auc"]["value"] and round(metrics["image_auc"]["value"], 3),
    }


def subset(args, source: Path, name: str, splits: tuple = (), whole: tuple[str, ...] = ()) -> Path:
    """Write a manifest of every N-th image of each kind.

    Args:
        args: of the command line.
        source: a manifest.
        name: of the new one.
        splits: that are kept; () for all.
        whole: splits of which all images are kept.
    """
    kinds, rows = {}, []
    for row in with_absolute_paths(source):
        if not splits or row["split"] in splits:
            kind = row.get("split"), row["label"], row["generator"]
            kinds[kind] = kinds.get(kind, -1) + 1
            every = args.every * (4 if kind[0] == "validation" and args.every > 1 else 1)
            if kind[0] in whole or kinds[kind] % every == 0:
                rows.append(row)
    return write(args, name, rows)


def with_absolute_paths(source: Path) -> list[dict]:
    """Return a manifest's rows with absolute paths."""
    rows = read(source)
    for row in rows:
        for column in ("path", "mask"):
            if row[column]:
                row[column] = str(source.parent.resolve() / row[column])
    return rows


def write(args, name: str, rows: list[dict]) -> Path:
    """Write a manifest into a directory of its own, with paths relative to it."""
    folder = (args.output / name).resolve()
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        for row in rows:
            paths = {c: os.path.relpath(row[c], folder) for c in ("path", "mask") if row[c]}
            table.writerow({**row, **paths})
    return folder / "manifest.csv"


def read(path: Path) -> list[dict]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
