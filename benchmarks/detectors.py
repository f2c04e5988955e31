"""One table of every classifier, trained for the same time on the same machine, from scratch.

    python benchmarks/detectors.py --train cifake=DIR --across cifake:multigen32=DIR \\
        --train faces=DIR

`--train NAME=DIR` learns a folder that `tfdetect.train --dataset DIR` would take, or, where NAME is
a shipped dataset, that one. `--across NAME:OTHER=DIR` measures what learnt NAME on all of OTHER,
by generator. Each detector has the optimizer of its own experiment and the smallest image size that
it accepts and that is not below `--size`.
"""

import argparse
import csv
import json
import os
import statistics
from pathlib import Path

import budget
from budget import call, settings
from tabulate import tabulate

from tfdetect.documents import shipped_names
from tfdetect.errors import UserError
from tfdetect.experiment import load_model, override, published

# Three classes, or weights that must be downloaded.
LEFT_OUT = ("f3net_faces", "f3net_faces_masks", "probe")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="append", required=True, help="NAME=DIR, repeatable")
    parser.add_argument("--across", action="append", default=[], help="NAME:OTHER=DIR, repeatable")
    parser.add_argument("--models", help="these alone, as A,B")
    parser.add_argument("--size", type=int, default=32, help="pixels, at least (32)")
    parser.add_argument("--batch", type=int, default=32, help="images (32)")
    parser.add_argument("--minutes", type=float, default=3, help="of training each (3)")
    parser.add_argument("--every", type=int, default=1, help="of validation and of what is "
                        "measured, every N-th image of each kind (1)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("detectors"), help="for the runs")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    names = args.models.split(",") if args.models else [
        name for name, e in published().items() if name not in LEFT_OUT and not e.model.mask_head
    ]  # fmt: skip
    sets = {}
    for text in args.train:
        name, _, folder = text.partition("=")
        sets[name] = thinned(args, name, folder, ("train",))
    others = {}
    for text in args.across:
        pair, _, folder = text.partition("=")
        name, _, other = pair.partition(":")
        others.setdefault(name, {})[other] = thinned(args, other, folder, ())
    for data, manifest in sets.items():
        for name in names:
            for row in measured(args, name, data, manifest, others.get(data, {})):
                print(tabulate([row], headers="keys", tablefmt="github"), flush=True)
                with (args.output / "detectors.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")


def measured(args, name: str, data: str, manifest: Path, others: dict[str, Path]):
    """The rows of one detector that learnt one set."""
    size = legal_size(name, args.size)
    common = ["--dataset", str(manifest), "--model", name, *settings(
        f"data.image_size={size}", "data.resize=window_tile", "model.weights=none",
        f"training.batch_size={args.batch}", "training.schedule={name: cosine}",
        "training.monitor=auc",
    )]  # fmt: skip
    run, steps, seconds = budget.train(args.output / f"{data}-{name}", common, args.minutes)
    with (run.path / "history.csv").open(newline="") as file:
        rate = statistics.median(float(row["images_per_second"]) for row in csv.DictReader(file))
    row = {"model": name, "parameters": load_model(name).published.parameters, "pixels": size,
           "trained on": data, "images seen": steps * args.batch, "minutes": round(seconds / 60, 1),
           "images/s": round(rate)}  # fmt: skip
    yield {**row, "measured on": f"{data}, test", **figures(run.metrics()["test"])}
    for other, path in others.items():
        output = args.output / f"{data}-{name}-on-{other}"
        if not (output / "metrics.json").is_file():
            call("-m", "tfdetect.evaluate", str(run.path), "--dataset", str(path), "--split", "all",
                 "--output", str(output), "--no-pictures")  # fmt: skip
        results = json.loads((output / "metrics.json").read_text())["all"]
        for part, result in {"all": results, **results.get("generators", {})}.items():
            yield {**row, "measured on": f"{other}, {part}", **figures(result)}


def figures(result: dict) -> dict:
    """Accuracy with its interval, and average precision."""
    accuracy, ap = (result["metrics"][key] for key in ("accuracy", "ap"))
    return {
        "images": result["count"],
        "accuracy": f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]",
        "AP": ap["value"] and round(ap["value"], 3),
    }


def legal_size(name: str, side: int) -> int:
    """The smallest side, not below this one, that a detector accepts."""
    for size in range(side, 1024):
        try:
            override(load_model(name), [f"data.image_size={size}"])
        except UserError:
            continue
        return size
    raise SystemExit(f"{name} takes no images of {side} to 1023 pixels.")


def thinned(args, name: str, folder: str, whole: tuple[str, ...]) -> Path:
    """A manifest of a dataset with every N-th image of each kind, but for the splits `whole`."""
    from tfdetect import workflow

    is_shipped = name in shipped_names("data_specs")
    plan = workflow.make_plan(name if is_shipped else folder,
                              data_dir=Path(folder) if is_shipped else None)  # fmt: skip
    catalogue = workflow.find_data(plan, progress=False)
    target = (args.output / f"data-{name}").resolve()
    target.mkdir(exist_ok=True)
    kinds, rows = {}, []
    for row, path in zip(catalogue.table.to_pylist(), catalogue.paths(catalogue.table).to_pylist()):
        kind = (row["split"], row["label"], row["generator"])
        kinds[kind] = kinds.get(kind, -1) + 1
        if row["split"] in whole or kinds[kind] % args.every == 0:
            rows.append({
                "path": os.path.relpath(path, target), "label": plan.spec.class_names[row["label"]],
                "generator": row["generator"] or "", "group": row["group"], "split": row["split"],
            })  # fmt: skip
    with (target / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return target / "manifest.csv"


if __name__ == "__main__":
    main()
