"""How P(fake) of a large photograph follows from its tiles: compare rules on the same tiles.

    python benchmarks/tile_pooling.py RUN SCORES.jsonl MANIFEST.csv... [--split validation]
        [--over 1] [--shrunk 1280]...

RUN predicts masks of images in tiles and has an ONNX export. SCORES.jsonl keeps the logits of each
file by its path, so that a second call goes on. A manifest has the columns path and label; of the
first one the class "original" counts, which is authentic, of the others all but that. Printed are,
for each rule, the AUC of each manifest's altered photographs against the authentic ones, both of
more than --over megapixels, and the fraction of them above the logit that 5% of all authentic ones,
large and small, exceed.

max          of the tile that looks most like a fake
mean_odds    of the mean of the tiles' odds
top_328      mean logit of the highest 328 pixels of the whole mask, half a percent of a tile
top_pixels   mean logit of the highest half percent of the whole mask
shrunk N     max, of the photograph with a longer side of at most N pixels
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from tfdetect.core.data_settings import TOP_PIXELS
from tfdetect.core.open_run import open_run
from tfdetect.core.probability import EPSILON
from tfdetect.light.numpy_tiles import by_tiles
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.light.onnx_predictions import read_image
from tfdetect.light.resample import resize

TILE_PIXELS = 328


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("scores", type=Path, help="JSON lines")
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--over", type=float, default=1.0, help="megapixels")
    parser.add_argument("--shrunk", type=int, action="append", default=[], metavar="SIDE")
    parser.add_argument("--split", help="of the forgeries (default: all)")
    args = parser.parse_args()

    known = {}
    if args.scores.is_file():
        known = {each["file"]: each for each in map(json.loads, args.scores.open())}
    detector = LightDetector(open_run(args.run))
    found = []
    with args.scores.open("a") as lines:
        for manifest in args.manifests:
            for row in csv.DictReader(manifest.open(newline="")):
                fake = row["label"] != "original"
                if fake == (manifest == args.manifests[0]) or (
                    fake and args.split not in (None, row["split"])
                ):
                    continue
                file = str(manifest.parent / row["path"])
                if file not in known:
                    known[file] = {"file": file, **logits(detector, file, args.shrunk)}
                    lines.write(json.dumps(known[file]) + "\n")
                    lines.flush()
                found.append({**known[file], "set": manifest.parent.name if fake else ""})
    report(found, args.over)


def logits(detector, file, sides):
    """Return the logit of P(fake) of a file by each rule, and its size in megapixels."""
    image, _ = read_image(Path(file).read_bytes())
    tiles, mask = tiled(detector, image)
    odds = np.logaddexp.reduce(tiles) - np.log(len(tiles))
    rules = {"max": tiles.max(), "mean_odds": odds, "top_328": mean_of_top(mask, TILE_PIXELS),
             "top_pixels": mean_of_top(mask, max(1, mask.size // TOP_PIXELS))}  # fmt: skip
    for side in sides:
        factor = side / max(image.shape)
        size = tuple(max(1, round(length * factor)) for length in image.shape[:2])
        small = tiled(detector, resize(image, size, "stretch"))[0] if factor < 1 else tiles
        rules[f"shrunk {side}"] = small.max()
    megapixels = image.shape[0] * image.shape[1] / 1e6
    return {"megapixels": megapixels, **{name: float(value) for name, value in rules.items()}}


def tiled(detector, image):
    """Return the logits of the tiles of an image, and those of its pixels."""
    [view] = detector.run.views

    def predict(tiles):
        outputs = detector._run({detector._inputs[0]: tiles})
        return outputs["probabilities_raw"], outputs["mask"][..., 0]

    tables, mask = by_tiles(image, view.size, view.policy, predict)
    p = np.maximum(np.stack([tables[:, 1:].sum(axis=1), tables[:, 0]]), 1e-30, dtype=float)
    mask = np.clip(mask, EPSILON, 1 - EPSILON)
    return np.log(p[0]) - np.log(p[1]), np.log(mask) - np.log1p(-mask)


def mean_of_top(values, count):
    return np.partition(values, values.size - count, axis=None)[-count:].mean(dtype=float)


def report(found, over):
    """Print a table."""
    large = np.array([each["megapixels"] > over for each in found])
    sets = np.array([each["set"] for each in found])
    authentic = sets == ""
    names = sorted(set(sets) - {""})
    print(f"{(authentic & large).sum()} authentic photographs over {over:g} megapixels, "
          f"{(authentic & ~large).sum()} others")  # fmt: skip
    for rule in [name for name in found[0] if name not in ("file", "megapixels", "set")]:
        values = np.array([each[rule] for each in found])
        threshold = np.sort(values[authentic])[::-1][int(0.05 * (authentic.sum() + 1))]
        called = np.mean(values[authentic & large] > threshold)
        parts = [f"{rule:12s} authentic ones called altered {called:.0%}"]
        for name in names:
            some = (sets == name) & large
            less = values[some][:, None] - values[authentic & large]
            auc = np.mean((less > 0) + 0.5 * (less == 0))
            parts.append(f"{name} ({some.sum()}): AUC {auc:.4f}, recall "
                         f"{np.mean(values[some] > threshold):.0%}")  # fmt: skip
        print("; ".join(parts))


if __name__ == "__main__":
    main()
