"""Compares training recipes by their accuracy on unseen generators, with equal budgets.

    python benchmarks/unseen.py --train cifake=DIR --test genimage=DIR --aligned DIR

Each recipe changes one thing of an experiment and trains on equally many images. It is measured on
the test split of the training dataset and on another dataset, there on generators that are not in
the training set: `--choose` names the split for choosing a recipe, `--report` the one for the final
measurement. `--aligned` is a directory for pairs of authentic images of the training dataset and
their reconstructions by an autoencoder, which are made here.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import budget
import pyarrow.compute as pc
from budget import call, settings
from tabulate import tabulate

_AUGMENT = "data.augment=[{name: flip}, {name: shift, pixels: 2}%s]"
RECIPES = {
    "default": [],
    "srm and pixels": ["model.front_end=srm", "model.with_pixels=true"],
    "npr": ["model.front_end=npr"],
    "residual": ["model.front_end=residual"],
    "crops": [_AUGMENT % ", {name: crop, min_area: 0.4}"],
    "degraded": [_AUGMENT % ", {name: downsample}, {name: blur, max_sigma: 1.5}, {name: jpeg}, "
                 "{name: noise}"],
    "spectral": [_AUGMENT % ", {name: amplitude_mix}, {name: bands}, {name: spectral_noise}"],
    "regularized": [_AUGMENT % ", {name: mixup}", "model.dropout=0.5",
                    "training.label_smoothing=0.1"],
}  # fmt: skip
_PAIRED = ("aligned", "aligned, degraded")  # are trained on the aligned pairs too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--train",
        default="cifake=.",
        metavar="NAME=DIR",
        help="dataset to train on, and its directory",
    )
    parser.add_argument(
        "--test",
        default="genimage=.",
        metavar="NAME=DIR",
        help="dataset to measure on, and its directory",
    )
    parser.add_argument("--aligned", type=Path, metavar="DIR", help="directory for aligned pairs")
    parser.add_argument(
        "--pairs", type=int, default=4000, help="number of aligned pairs (default: 4000)"
    )
    parser.add_argument("--experiment", default="cifake_small_resnet")
    parser.add_argument("--steps", type=int, default=800, help="of 128 images (default: 800)")
    parser.add_argument("--recipes", metavar="A;B", help="only these recipes")
    parser.add_argument("--choose", default="train", help="split (default: train)")
    parser.add_argument("--report", default="test", help="split (default: test)")
    parser.add_argument("--output", type=Path, default=Path("unseen"), help="directory of the runs")
    args = parser.parse_args()
    (name, _, folder), (other, _, other_folder) = (
        t.partition("=") for t in (args.train, args.test)
    )
    args.output.mkdir(parents=True, exist_ok=True)
    recipes = dict(RECIPES)
    if args.aligned:
        make_pairs(name, folder, args.aligned, args.pairs)
        recipes |= {"aligned": [], "aligned, degraded": RECIPES["degraded"]}
    rows = []
    for recipe in args.recipes.split(";") if args.recipes else recipes:
        data = ["--dataset", name, "--data-dir", folder]
        if recipe in _PAIRED:
            data[1] = f"{name}+{args.aligned}"
        common = [*data, "--experiment", args.experiment, "--no-images", *settings(
            "training.batch_size=128", "training.optimizer.learning_rate=0.1", *recipes[recipe]
        )]  # fmt: skip
        run, _, seconds = budget.train(
            args.output / recipe.replace(", ", "-").replace(" ", "-"), common, 0, args.steps
        )
        output = run.path / f"on-{other}"
        if not (output / "metrics.json").is_file():
            call("-m", "tfdetect.evaluate", str(run.path), "--dataset", other,
                 "--data-dir", other_folder, "--no-images", "--output", str(output),
                 "--split", args.choose, "--split", args.report)  # fmt: skip
        own = run.results["test"]
        own = own.get("datasets", {}).get(name, own)["metrics"]["accuracy"]
        found = {
            split: result.get("unseen_generators", result)
            for split, result in json.loads((output / "metrics.json").read_text()).items()
        }
        chosen, reported = found[args.choose]["metrics"], found[args.report]["metrics"]
        point = found[args.report]["operating_points"]["fpr_5"]
        rows.append({
            "recipe": recipe,
            "minutes": round(seconds / 60, 1),
            f"{name}, accuracy": format_metric(own),
            f"{args.choose}, AUC": format_metric(chosen["auc"]),
            f"{args.report}, AUC": format_metric(reported["auc"]),
            "accuracy": format_metric(reported["accuracy"]),
            "recall at the 5% FPR threshold": format_metric(point["tpr"]),
            "FPR there": format_metric(point["fpr"]),
        })  # fmt: skip
        (args.output / "unseen.json").write_text(json.dumps(rows, indent=1))
        print(tabulate(rows, "keys", "github"), flush=True)


def make_pairs(name: str, folder: str, aligned: Path, count: int) -> None:
    """Write authentic training images and their reconstructions by an autoencoder.

    Both are encoded the same way.
    """
    from tfdetect.data.plan import find_data, make_plan

    if (aligned / "manifest.csv").is_file():
        return
    plan = make_plan(name, data_dir=Path(folder))
    catalog = find_data(plan, progress=False)
    rows = catalog.split("train")
    rows = rows.filter(pc.equal(rows["label"], 0))
    source = aligned.with_name(f"{aligned.name}-source")
    source.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(catalog.paths(rows).to_pylist()[:: rows.num_rows // count]):
        shutil.copy(path, source / f"{number:05}.jpg")
    subprocess.run([
        sys.executable, "-m", "tfdetect.synthesize", "--source", str(source), "--output",
        str(aligned), "--masks", "rectangle", "--coverage", "0.95,1", "--edge", "0", "--fill",
        "autoencoder", "--encode", "jpeg", "--quality", "75", "--quiet",
        "--split-rule", "1",  # that of the published table
    ], check=True)  # fmt: skip


def format_metric(metric: dict) -> str:
    """Return a value with its interval."""
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**metric)


if __name__ == "__main__":
    main()
