"""Print how a run does on each style of the photo detector's dataset, and on each source.

    python benchmarks/photo_styles.py RUN PHOTOS/photos.csv [--predictions FILE] [--with RUN]
        [--against FILE]

RUN holds predictions/validation.parquet, or FILE has other predictions of it; photos.csv is that of
photo_dataset.py. For each style there are the AUC, the false positive rate and the recall at the
run's threshold, how many images it calls inconclusive, and how many of its verdicts are right; then
the false positives on each source and the recall on each generator. Intervals are of 95%. --with
adds the mean of both runs' logits, at the threshold that 5% of the authentic images pass; --against
the difference of the AUC from other predictions of the same images, paired.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

ORDER = ("snapshot", "studio", "art", "rendering")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--predictions", type=Path, metavar="FILE")
    parser.add_argument("--with", dest="other", type=Path, metavar="RUN")
    parser.add_argument("--against", type=Path, metavar="FILE")
    args = parser.parse_args()

    import pyarrow.parquet as pq

    from tfdetect.core.open_run import open_run

    run = open_run(args.run)
    file = args.predictions or args.run / "predictions/validation.parquet"
    table = {name: np.array(column) for name, column in pq.read_table(file).to_pydict().items()}
    with open(args.photos, newline="") as lines:
        styles = {row["path"]: row["style"] for row in csv.DictReader(lines)}
    style = np.array([styles[path] for path in table["path"]])
    fake = table["label"] > 0
    show(table["p_fake"], run.threshold, fake, style, table["inconclusive"])
    if args.against:
        theirs = pq.read_table(args.against).to_pydict()
        p_fake = dict(zip(theirs["path"], theirs["p_fake"]))
        show_difference(fake, table["p_fake"], np.array([p_fake[path] for path in table["path"]]))
    for kind, of, what in ((False, "source", "called fake"), (True, "generator", "found")):
        print(f"\n{of}: {what}")
        for name in np.unique(table["generator"][fake == kind].astype(str)):
            rows = (fake == kind) & (table["generator"] == name)
            hits = table["p_fake"][rows] >= run.threshold
            print(f"  {name:24s} {'+'.join(np.unique(style[rows])):32s} {rate(hits)}")
    if args.other:
        other = pq.read_table(args.other / "predictions/validation.parquet").to_pydict()
        logits = dict(zip(other["path"], other["logit"]))
        mean = table["logit"] + np.array([logits[path] for path in table["path"]])
        print("\nmean of both runs' logits")
        show(mean, np.quantile(mean[~fake], 0.95), fake, style)


def rate(hits):
    """Return how many hits there are, as text with Wilson's interval."""
    from tfdetect.evaluation.intervals import format_interval, proportion

    return f"{hits.sum()} of {len(hits)}: {format_interval(proportion(hits), 0, percent=True)}"


def show(score, threshold, fake, style, inconclusive=None):
    """Print a line for each style and one for all images."""
    from tfdetect.evaluation.intervals import binary_intervals, format_interval

    aucs = []
    for name in (*ORDER, "all"):
        rows = (style == name) | (name == "all")
        some = np.full(rows.sum(), 0.5)  # the AUC is of ranks alone
        auc = binary_intervals(fake[rows], some, ranks=score[rows], names=("auc",))["auc"]
        aucs.append(np.nan if auc["value"] is None else auc["value"])
        called = score[rows] >= threshold
        line = f"{name:10s} AUC {format_interval(auc, 3)}"
        line += f"  false positives {rate(called[~fake[rows]])}  recall {rate(called[fake[rows]])}"
        if inconclusive is not None:
            sure = rows & ~inconclusive.astype(bool)
            right = (score[sure] >= threshold) == fake[sure]
            line += (
                f"  inconclusive {1 - sure.sum() / rows.sum():.0%}  verdicts right {rate(right)}"
            )
        print(line)
    print(f"macro average of the AUC over styles {np.nanmean(aucs[:-1]):.3f}")


def show_difference(fake, ours, theirs):
    """Print how much higher the AUC is than with other scores of the same images."""
    from tfdetect.evaluation.intervals import format_interval
    from tfdetect.evaluation.paired import difference

    found = difference(fake, ours, theirs, names=("auc",))["auc"]
    print(f"AUC higher than that of the other predictions by {format_interval(found, 3)}")


if __name__ == "__main__":
    main()
