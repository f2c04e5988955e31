"""Measure the photo detector on generators and sources that were left out of its training.

    python benchmarks/photo_folds.py DATASET FEATURES [--branches native,whole] [--l2 0.2]
    python benchmarks/photo_folds.py DATASET FEATURES --branches clip [--blocks 6,8] [--validation]
    python benchmarks/photo_folds.py DATASET FEATURES --curve [DRAWS]
    python benchmarks/photo_folds.py DATASET --predictions EVALUATION/predictions/all.parquet
    python benchmarks/photo_folds.py DATASET FEATURES --more DATASET FEATURES [--before FILE]

FEATURES are those of photo_features.py. Each fold leaves one generator and one or two sources of
authentic images out, fits one regularized logistic regression per branch on the others, averages
P(fake) over an image's windows and the logits over the branches, and is measured on what was left
out. Sets of one subject (faces, shoes, cats and dogs) are left out together, or the subject would
reveal the label. Every image gets its score from a fit that knew neither its generator nor its
source. With these scores false positives on each camera source are counted, at the threshold that
5% of the other authentic images pass. --curve repeats the folds with a part of the generators, of
the sources of authentic images, or of all images, in training. --more adds the
images of another dataset to training alone. --validation fits once on the manifest's training split
and measures on its validation split. --predictions measures a run that was trained on other data on
the same folds.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from photo_features import BRANCHES, CLIP_BLOCKS, PHOTO_STYLES, TREATMENTS, feature_file
from PIL import Image
from scipy.special import expit, logit
from scipy.stats import beta
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from tfdetect.evaluation.intervals import binary_intervals, format_interval

CAMERAS = ("drewnoakes", "ianare", "polyu")
TOGETHER = {"midjourney_shoes": ["shoes"], "stylegan2_faces": ["unsplash_faces"],
            "sd21": ["unsplash_men"], "unknown": ["cats_and_dogs"]}  # fmt: skip
MIN_FAKES = 20  # in a generator that is left out
CENTER = 2  # of five windows
# Of --more, generators whose names begin like this are left out with a generator: other versions of
# it, models made from it, models of the same company's image service, and unnamed ones.
RELATED = {
    "dall-e-2": ("dall-e", "unnamed"),
    "dalle-mini": ("dall-e",),
    "unknown": ("dall-e",),
    "midjourney": ("midjourney", "unnamed"),
    "midjourney_shoes": ("midjourney", "unnamed"),
    "gemini-2.5-flash-image": ("gemini", "imagen", "unnamed"),
    "sd21": ("stable-diffusion-2", "stable-diffusion-bingo", "sd-turbo"),
    "stable-diffusion-v1": ("sd-1.5", "dreamshaper", "stable-diffusion-bingo"),
    "stable-diffusion-v1-beta": ("sd-1.5", "dreamshaper", "stable-diffusion-bingo"),
    "stylegan2": ("stylegan",),
    "stylegan2_faces": ("stylegan",),
}


def read_manifest(dataset):
    """Return the manifest's columns."""
    with open(dataset / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def load(table, features, branches, center=False, blocks=CLIP_BLOCKS):
    """Return {branch: [treatment, image, window, feature]}, NaN where not computed."""
    arrays = {}
    for branch in branches:
        found = {}
        for t, treatment in enumerate(TREATMENTS):
            for index, path in enumerate(table["path"]):
                file = feature_file(features, branch, treatment, path)
                if file.exists():
                    values = np.load(file)
                    values = values[CENTER : CENTER + 1] if center and len(values) > 1 else values
                    if branch == "clip":
                        tokens = values.reshape(len(values), len(CLIP_BLOCKS), -1)
                        values = tokens[:, np.array(blocks) - 1].reshape(len(values), -1)
                    found[t, index] = values
        if not found:
            raise SystemExit(f"{features} has no features of the branch {branch}")
        shape = next(iter(found.values())).shape
        own = np.full((len(TREATMENTS), len(table["path"]), *shape), np.nan, np.float32)
        for place, values in found.items():
            own[place] = values
        arrays[branch] = own
    return arrays


def known_images(arrays):
    """Return which images have features, bool [treatment, image]."""
    return np.isfinite(next(iter(arrays.values()))[..., 0, 0])


def fit(x, fake, domains, l2):
    """Return a function from features to logits: the head "standardized" with balance "domain"."""
    weights = np.zeros(len(fake))
    for name in np.unique(domains):
        for kind in (False, True):
            rows = (domains == name) & (fake == kind)
            weights[rows] = 1 / np.sqrt(max(1, rows.sum()))
    for kind in (False, True):
        weights[fake == kind] *= len(fake) / 2 / weights[fake == kind].sum()
    scaler = StandardScaler().fit(x)
    strength = 1 / (2 * l2 * len(fake))  # of a mean loss with l2 times the squared weights
    model = LogisticRegression(C=strength, max_iter=200).fit(scaler.transform(x), fake, weights)
    return lambda y: model.decision_function(scaler.transform(y))


def fit_branches(arrays, rows, fake, domains, branches, l2, pairs=None, alone=False):
    """Fit each branch on all treatments of some images; return a function (treatment, rows).

    Reproductions of the authentic ones are added as one more generator, or alone as all fakes.
    """
    known = [rows & found for found in known_images(arrays)]
    if alone:
        known = [keep & ~fake for keep in known]
    fits = {}
    for branch in branches:
        parts = [arrays[branch][t, keep] for t, keep in enumerate(known)]
        windows = parts[0].shape[1]
        x = np.concatenate(parts).reshape(-1, parts[0].shape[-1])
        y, d = (np.concatenate([v[keep] for keep in known]) for v in (fake, domains))
        y, d = np.repeat(y, windows), np.repeat(d, windows)
        if pairs is not None:
            copied = [keep & ~fake & np.isfinite(pairs[t, :, 0]) for t, keep in enumerate(known)]
            more = np.concatenate([pairs[t, keep] for t, keep in enumerate(copied)])
            x, y = np.concatenate([x, more]), np.append(y, np.ones(len(more), bool))
            d = np.append(d, np.full(len(more), "reproduction"))
        fits[branch] = fit(x, y, d, l2)

    def score(treatment, rows):
        """Return the logit of the mean P(fake) of each image's windows, by branch."""
        t = TREATMENTS.index(treatment)
        found = {}
        for branch, logits in fits.items():
            x = arrays[branch][t, rows]
            by_window = expit(logits(x.reshape(-1, x.shape[-1]))).reshape(x.shape[:2])
            found[branch] = logit(by_window.mean(axis=1))
        return found

    return score


def load_more(dataset, features, branches, center, blocks, label):
    """Return the manifest and the features of --more, of one class or of both."""
    table = read_manifest(dataset)
    arrays = load(table, features, branches, center, blocks)
    table["path"] = np.array([str(dataset.resolve() / path) for path in table["path"]])
    chosen = np.isin(table["label"], [label] if label else ["real", "fake"])
    return ({key: values[chosen] for key, values in table.items()},
            {branch: values[:, chosen] for branch, values in arrays.items()})  # fmt: skip


def load_pairs(folder, paths):
    """Return the features of photo_pairs.py, [treatments, paths, features], NaN without one."""
    files = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    missing = np.full_like(next(iter(files.values())), np.nan)
    return np.stack([files.get(Path(path).stem, missing) for path in paths], axis=1)


def headers(dataset, paths):
    """Return format, width, height, aspect ratio and bytes per pixel of files, float [n, 6]."""
    rows = []
    for path in paths:
        with Image.open(dataset / path) as image:
            width, height = image.size
            kind = image.format
        size = (dataset / path).stat().st_size
        rows.append([kind == "JPEG", kind == "PNG", width, height, width / height,
                     size / (width * height)])  # fmt: skip
    return np.array(rows, float)


def fit_headers(x, fake):
    """Return a function from file headers to P(fake): what could be known without a pixel."""
    forest = RandomForestClassifier(
        200, min_samples_leaf=3, class_weight="balanced", random_state=0
    )
    forest.fit(x, fake)
    return lambda y: forest.predict_proba(y)[:, 1]


def interval(k, n):
    """Return the 95% interval of a proportion (Clopper and Pearson)."""
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    return float(low), float(beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)


def make_folds(table, usable):
    """Pair each generator with sources: (generators, sources) of each fold."""
    fake = table["label"] == "fake"
    generators, counts = np.unique(table["generator"][fake & usable], return_counts=True)
    generators = [str(g) for g, n in zip(generators, counts) if n >= MIN_FAKES]
    folds = {g: list(TOGETHER.get(g, [])) for g in generators}
    taken = {name for names in TOGETHER.values() for name in names}
    sources = [str(s) for s in np.unique(table["generator"][~fake & usable]) if s not in taken]
    sources = [*CAMERAS, *(s for s in sources if s not in CAMERAS)]
    free = [g for g in generators if g not in TOGETHER]
    for n, source in enumerate(sources):
        folds[free[n % len(free)]].append(source)
    return folds


def macro_average(values, rng):
    """Return the mean over folds and its bootstrapped 95% interval."""
    draws = [np.mean(rng.choice(values, len(values))) for _ in range(2000)]
    return [float(np.mean(values)), *map(float, np.quantile(draws, [0.025, 0.975]))]


def print_differences(result, before):
    """Print how the AUC of each fold differs from another run's, and the mean with its interval."""
    if result["folds"] != before["folds"]:
        raise SystemExit("the other run has other folds")
    print("differences: macro average, then by fold")
    for name in sorted(set(result["auc"]) & set(before["auc"])):
        values = np.array(result["auc"][name]) - before["auc"][name]
        mean, low, high = macro_average(values, np.random.default_rng(0))
        print(f"  {name:15s} {mean:+.3f} [{low:+.3f}, {high:+.3f}]",
              *(f"{value:+.2f}" for value in values))  # fmt: skip


def measure_run(table, photo, predictions):
    """Print the AUC of a run on each fold; it was trained on none of these images."""
    scored = pq.read_table(predictions, columns=["path", "p_fake"]).to_pydict()
    scores = dict(zip(scored["path"], scored["p_fake"]))
    score = np.array([scores.get(path, np.nan) for path in table["path"]], float)
    usable, fake = photo & np.isfinite(score), table["label"] == "fake"
    aucs = []
    for generator, sources in make_folds(table, usable).items():
        rows = usable & np.isin(table["generator"], [generator, *sources])
        aucs.append(roc_auc_score(fake[rows], score[rows]))
        print(f"{generator:24s} {'+'.join(sources):40s} {aucs[-1]:.3f}")
    mean, low, high = macro_average(aucs, np.random.default_rng(0))
    print(f"macro average {mean:.3f} [{low:.3f}, {high:.3f}], {usable.sum()} images")


def measure_validation(arrays, score, usable, fake):
    """Print the AUC and the recall at few false positives on some images, by treatment."""
    for treatment, known in zip(TREATMENTS, known_images(arrays)):
        rows = usable & known
        if not rows.any():
            continue
        p = expit(np.mean(list(score(treatment, rows).values()), axis=0))
        shown = binary_intervals(fake[rows], p, names=("auc", "tpr_at_fpr_5"))
        print(f"{treatment}: {rows.sum()} images, {(~fake[rows]).sum()} of them authentic", *(
            f"{name} {format_interval(value, 3)}" for name, value in shown.items()
        ), sep="  ", flush=True)  # fmt: skip


def learning_curves(arrays, usable, fake, names, folds, branches, l2, draws):
    """Return the AUC of each draw and fold with a part of the images, generators or sources.

    Print the macro average of each part, and its difference from that of all images, both with
    95% intervals over the folds.
    """
    parts = [("images", part) for part in (1.0, 0.125, 0.25, 0.5)]
    parts += [(kind, part) for kind in ("generators", "sources") for part in (2, 4, 8, 12)]
    curves = {}
    for kind, part in parts:
        values = []
        for draw in range(1 if part == 1.0 else draws):
            rng = np.random.default_rng(draw)
            values.append([])
            for generator, sources in folds.items():
                held = np.isin(names, [generator, *sources])
                train = usable & ~held
                if kind == "images":
                    train &= rng.random(len(names)) < part
                else:
                    chosen = fake if kind == "generators" else ~fake
                    others = rng.permutation(np.unique(names[train & chosen]))[:part]
                    train &= ~chosen | np.isin(names, others)
                found = fit_branches(arrays, train, fake, names, branches, l2)
                rows = usable & held
                scores = np.mean(list(found("plain", rows).values()), axis=0)
                values[-1].append(roc_auc_score(fake[rows], scores))
        curves[f"{kind} {part}"] = values
        by_fold = np.mean(values, axis=0)
        mean, low, high = macro_average(by_fold, np.random.default_rng(0))
        change = by_fold - np.mean(curves["images 1.0"], axis=0)
        less, least, most = macro_average(change, np.random.default_rng(0))
        print(f"  {kind} {part:<6} {mean:.3f} [{low:.3f}, {high:.3f}], less all images "
              f"{less:+.3f} [{least:+.3f}, {most:+.3f}], standard deviation over draws "
              f"{np.std(np.mean(values, axis=1)):.3f}", flush=True)  # fmt: skip
    return {"folds": folds, "auc": curves}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("features", type=Path, nargs="?")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="predictions of a run")
    parser.add_argument("--branches", default=",".join(BRANCHES))
    parser.add_argument("--l2", type=float, default=0.2)
    parser.add_argument("--center", action="store_true", help="of the windows the center alone")
    parser.add_argument("--blocks", default="6,7,8", metavar="N,N",
                        help="of clip (default: %(default)s)")  # fmt: skip
    parser.add_argument("--validation", action="store_true", help="the manifest's splits instead")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="train on the reproductions of "
                        "photo_pairs.py, too; with --branches native --center")  # fmt: skip
    parser.add_argument("--pairs-alone", action="store_true", help="and on no other fake")
    parser.add_argument("--curve", type=int, nargs="?", const=4, metavar="DRAWS", help="learning "
                        "curves instead, means of so many draws (default: %(const)s)")  # fmt: skip
    parser.add_argument("--more", type=Path, nargs=2, metavar=("DATASET", "FEATURES"),
                        help="train on these, too; related generators are left out")  # fmt: skip
    parser.add_argument("--more-label", choices=("real", "fake"), help="and only on this class")
    parser.add_argument("--before", type=Path, metavar="FILE", help="the --output of another run: "
                        "print the differences by fold")  # fmt: skip
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    branches = args.branches.split(",")
    table = read_manifest(args.dataset)
    photo = np.isin(table["style"], PHOTO_STYLES)
    if args.predictions:
        return measure_run(table, photo, args.predictions)
    if args.features is None:
        parser.error("give FEATURES or --predictions")
    blocks = list(map(int, args.blocks.split(",")))
    if not set(blocks) <= set(CLIP_BLOCKS):
        parser.error(f"--blocks are from {CLIP_BLOCKS[0]} to {CLIP_BLOCKS[-1]}")
    arrays = load(table, args.features, branches, args.center, blocks)
    count = len(table["path"])
    if args.more:
        more, values = load_more(*args.more, branches, args.center, blocks, args.more_label)
        table = {key: np.concatenate([table[key], more[key]]) for key in table}
        arrays = {b: np.concatenate([array, values[b]], axis=1) for b, array in arrays.items()}
        photo = np.isin(table["style"], PHOTO_STYLES)
    own = np.arange(len(table["path"])) < count
    fake, names = table["label"] == "fake", table["generator"]
    usable = photo & known_images(arrays)[0]
    if args.validation:
        held = own & (table["split"] == "validation")
        score = fit_branches(arrays, usable & ~held, fake, names, branches, args.l2)
        return measure_validation(arrays, score, usable & held, fake)
    folds = make_folds(table, usable & own)
    print(f"{usable.sum()} photo-like images, {len(folds)} folds")
    if args.curve:
        part = usable & own
        curves = learning_curves(arrays, part, fake, names, folds, branches, args.l2, args.curve)
        return args.output and args.output.write_text(json.dumps(curves, indent=2))
    pairs = load_pairs(args.pairs, table["path"]) if args.pairs else None
    files = headers(args.dataset, table["path"])
    aucs, scores = {}, {t: np.full(len(names), np.nan) for t in TREATMENTS}
    for generator, sources in folds.items():
        held = own & np.isin(names, [generator, *sources])
        begins = [np.char.startswith(names, start) for start in RELATED.get(generator, ())]
        train = usable & ~held & (own | ~np.any(begins, axis=0))
        score = fit_branches(arrays, train, fake, names, branches, args.l2, pairs, args.pairs_alone)
        line, rows = [], usable & held
        known = fit_headers(files[train], fake[train])
        aucs.setdefault(("plain", "headers"), []).append(
            roc_auc_score(fake[rows], known(files[rows]))
        )
        for treatment in TREATMENTS:
            rows = usable & held & known_images(arrays)[TREATMENTS.index(treatment)]
            if not rows.any():
                continue
            found = score(treatment, rows)
            mean = np.mean(list(found.values()), axis=0)
            scores[treatment][rows] = mean
            for name, values in {**found, "fused": mean}.items():
                auc = roc_auc_score(fake[rows], values)
                aucs.setdefault((treatment, name), []).append(auc)
                if treatment == "plain" or name == "fused":
                    line.append(f"{treatment[:5]} {name} {auc:.3f}")
        print(f"{generator:24s} {'+'.join(sources):40s} " + "  ".join(line), flush=True)
    print("macro averages")
    rng = np.random.default_rng(0)
    result = {"folds": folds, "macro": {}}
    result["auc"] = {f"{treatment} {name}": values for (treatment, name), values in aucs.items()}
    for name, values in result["auc"].items():
        mean, low, high = result["macro"][name] = macro_average(values, rng)
        print(f"  {name:15s} {mean:.3f} [{low:.3f}, {high:.3f}]")
    if args.before:
        print_differences(result, json.loads(args.before.read_text()))
    # Each image was scored by a fit that knew neither its generator nor its source.
    plain = scores["plain"]
    for camera in CAMERAS:
        own = usable & (names == camera) & np.isfinite(plain)
        others = usable & ~fake & (names != camera) & np.isfinite(plain)
        if not own.any():
            continue
        threshold = np.quantile(plain[others], 0.95)
        k, n = int((plain[own] >= threshold).sum()), int(own.sum())
        low, high = interval(k, n)
        fakes = usable & fake & np.isfinite(plain)
        recall = {g: float((plain[fakes & (names == g)] >= threshold).mean()) for g in folds}
        result.setdefault("cameras", {})[camera] = {
            "false_positives": [k, n, low, high], "recall": recall}  # fmt: skip
        print(f"{camera}: {k} of {n} false positives [{low:.3f}, {high:.3f}]; mean recall on "
              f"unseen generators {np.mean(list(recall.values())):.3f}")  # fmt: skip
    if args.output:
        args.output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
