"""Table of all classifiers, trained from scratch for the same time on the same machine.

    python benchmarks/detectors.py --train cifake=DIR --train faces=DIR \\
        --across cifake:genimage=DIR --side faces=64 --minutes faces=1 \\
        --every cifake=4

`--train NAME=DIR` trains on a folder that `tfdetect train --dataset DIR` takes, or on the shipped
dataset NAME in DIR. `--across NAME:OTHER=DIR` evaluates the detectors trained on NAME on all images
of OTHER. Datasets with several generators are also evaluated by generator. Speeds are measured
first, from the CPU time of a few steps, as if nothing else ran on the machine. Speeds, runs and
rows are kept in `--output`; the same command continues there.
"""

import argparse
import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import budget
from budget import call, settings
from tabulate import tabulate

from tfdetect.core.load_experiment import published
from tfdetect.core.shipped_documents import shipped_names

# Verdicts from masks, a variant with masks, and weights that must be downloaded.
EXCLUDED = ("iidnet", "nixnet", "f3net_faces_masks", "probe")
OURS = "cifake_small_resnet"  # the baseline
# The same for all; augmentation, front-end, head and dropout are those of each detector.
RECIPE = ("training.optimizer={name: adamw, learning_rate: 0.0005, weight_decay: 0.01}",
          "training.schedule={name: cosine, warmup_epochs: 0.25}", "training.monitor=auc",
          "training.precision=auto", "data.resize=window_tile", "model.weights=none",
          "model.mask_head=null")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="append", required=True, help="NAME=DIR, repeatable")
    parser.add_argument("--across", action="append", default=[], help="NAME:OTHER=DIR, repeatable")
    parser.add_argument("--models", help="detectors, A,B (default: all)")
    parser.add_argument("--side", action="append", default=[], help="smallest side of a window in "
                        "pixels, or NAME=PIXELS for one dataset; a detector takes the next size "
                        "that it accepts (default: 32)")  # fmt: skip
    parser.add_argument("--batch", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument("--minutes", action="append", default=[], help="of each training, or "
                        "NAME=MINUTES for one dataset (default: 2)")  # fmt: skip
    parser.add_argument("--every", action="append", default=[], help="validate and test on every "
                        "N-th image of each class, or NAME=N (default: 1)")  # fmt: skip
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("detectors"),
        help="folder for the runs (default: detectors)",
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    names = (
        args.models.split(",")
        if args.models
        else [OURS, *(name for name in published() if name not in EXCLUDED)]
    )
    sides, minutes = by_set(args.side, 32, int), by_set(args.minutes, 2, float)
    every = by_set(args.every, 1, int)
    sets, others = {}, {}
    for text in args.train:
        data, _, folder = text.partition("=")
        sets[data] = subsampled(args, data, folder, every(data), ("train",))
    for text in args.across:
        pair, _, folder = text.partition("=")
        data, _, other = pair.partition(":")
        others.setdefault(data, {})[other] = subsampled(args, other, folder)

    recipes = {
        (data, name): recipe(args, name, manifest, sides(data))
        for data, manifest in sets.items() for name in names
    }  # fmt: skip
    rates = measured_rates(args.output / "rates.json", recipes)
    rows = []
    for (data, name), (side, common) in recipes.items():
        speed = rates[f"{name} {side}"]
        path = args.output / f"{data}-{name}"
        steps = round(60 * minutes(data) * speed)
        run, steps, _ = budget.train(path, common, minutes(data), steps)
        row = {"detector": name, "parameters": run.info.parameters, "pixels": side,
               "images/s": round(speed * args.batch), "learned": data,
               "images seen": steps * args.batch}  # fmt: skip
        rows += [{**row, **part} for part in measured(run, path, data, others.get(data, {}))]
        table = write(args.output, rows)
    print(table)


def by_set(texts: list[str], default: float, kind: Callable) -> Callable[[str], float]:
    """Return the function from a dataset to its value in NUMBER and NAME=NUMBER arguments."""
    found = {"": default}
    for text in texts:
        data, _, number = text.rpartition("=")
        found[data] = kind(number)
    return lambda data: found.get(data, found[""])


def recipe(args, name: str, manifest: Path, side: int) -> tuple[int, list[str]]:
    """Return the side of a detector's images, and the arguments of its training."""
    changes = [*RECIPE, f"training.batch_size={args.batch}"]
    size = budget.smallest_side(name, side, changes)
    return size, ["--dataset", str(manifest), "--experiment", name,
                  *settings(*changes, f"data.image_size={size}")]  # fmt: skip


def measured_rates(file: Path, recipes: dict) -> dict[str, float]:
    """Return steps per second by detector and side; those in `file` are not measured again."""
    rates = json.loads(file.read_text()) if file.is_file() else {}
    for (_, name), (side, common) in recipes.items():
        key = f"{name} {side}"
        if key not in rates:
            rates[key] = budget.rate([*common, "--quiet"])
            print(f"{key} pixels: {rates[key]:.2f} steps per second", flush=True)
            file.write_text(json.dumps(rates, indent=1))
    return rates


def measured(run, path: Path, data: str, others: dict[str, Path]):
    """Yield accuracy, AUC and average precision of a run on its test split and other datasets."""
    results = {f"{data}, test": run.results["test"]}
    for other, manifest in others.items():
        output = path.with_name(f"{path.name}-on-{other}")
        if not (output / "metrics.json").is_file():
            call("-m", "tfdetect.evaluate", str(run.path), "--dataset", str(manifest), "--split",
                 "all", "--output", str(output), "--no-images")  # fmt: skip
        results[other] = json.loads((output / "metrics.json").read_text())["all"]
    for title, result in results.items():
        yield {"measured on": title, **figures(result)}
        parts = result.get("generators", {})
        for generator, part in parts.items() if len(parts) > 1 else ():
            yield {"measured on": f"{title}, {generator}", **figures(part)}


def figures(result: dict) -> dict:
    """Return accuracy, AUC and average precision with their intervals."""
    metrics = result["metrics"]
    return {"images": result["count"], **{
        title: metrics[key]["value"] is not None and
        "{value:.3f} [{low:.3f}, {high:.3f}]".format(**metrics[key])
        for title, key in (("accuracy", "accuracy"), ("AUC", "auc"), ("AP", "ap"))
    }}  # fmt: skip


def subsampled(args, name: str, folder: str, every: int = 1, whole: tuple[str, ...] = ()) -> Path:
    """Write a manifest with every N-th image of each kind, and all images of the splits `whole`."""
    from tfdetect.data.plan import find_data, make_plan

    target = (args.output / f"data-{name}-{every}").resolve()
    if (target / "manifest.csv").is_file():
        return target / "manifest.csv"
    is_shipped = name in shipped_names("data_specs")
    plan = make_plan(name if is_shipped else folder, data_dir=Path(folder) if is_shipped else None)
    catalog = find_data(plan, progress=False)
    target.mkdir(exist_ok=True)
    kinds, rows = {}, []
    for row, path in zip(catalog.table.to_pylist(), catalog.paths(catalog.table).to_pylist()):
        kind = (row["split"], row["label"], row["generator"])
        kinds[kind] = kinds.get(kind, -1) + 1
        if row["split"] in whole or kinds[kind] % every == 0:
            rows.append({
                "path": os.path.relpath(path, target), "label": plan.spec.class_names[row["label"]],
                "generator": row["generator"] or "", "group": row["group"], "split": row["split"],
            })  # fmt: skip
    with (target / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return target / "manifest.csv"


def write(folder: Path, rows: list[dict]) -> str:
    """Write all rows as CSV, and a sorted table per training dataset; return the tables."""
    with (folder / "detectors.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    tables = []
    for data in dict.fromkeys(row["learned"] for row in rows):
        wide = {}
        for row in rows:
            if row["learned"] == data:
                facts = {key: row[key] for key in ("detector", "parameters", "pixels", "images/s",
                                                   "images seen")}  # fmt: skip
                line = wide.setdefault(row["detector"], facts)
                if row["measured on"] == f"{data}, test":
                    line |= {"accuracy": row["accuracy"], "AP": (row["AP"] or "-").split()[0]}
                else:
                    line[f"AUC, {row['measured on']}"] = row["AUC"] or "-"
        lines = sorted(wide.values(), key=lambda line: line["accuracy"], reverse=True)
        tables.append(f"{data}\n\n{tabulate(lines, headers='keys', tablefmt='github')}\n")
    text = "\n".join(tables)
    (folder / "detectors.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
