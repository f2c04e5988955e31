"""Measure how often each line of evidence is found on images whose origin is known.

    python benchmarks/evidence.py --photoscale photoscale --work WORK

It looks at the metadata of all photo-scale images (data_specs/photoscale.yaml), and at the pixels
of those from repositories that nothing was tuned on; of these photographs it makes copy-moves,
double-compressed splices, and for the localizer forgeries by several fills; it is also given the
images of which a generator filled a region. What is measured is kept in WORK, so that the command
can be interrupted and repeated. The end writes tfdetect/forensics/error_rates.json and prints a
table.

Thresholds of copies and JPEG history were chosen on BSDS500, ImageNet samples and the repositories
of photo-scale images that `TUNED` names.
"""

import argparse
import csv
import io
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from tfdetect.forensics.copies import find_copies
from tfdetect.forensics.evidence import evidence
from tfdetect.forensics.evidence_lines import (
    EvidenceLine,
    camera_line,
    declaration_lines,
    editing_line,
)
from tfdetect.forensics.file_metadata import read_metadata
from tfdetect.forensics.jpeg_history import jpeg_history
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.pillow import read_rgb
from tfdetect.synthesis import fills
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.fills import copy_move
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import Photo, random_generator, random_window

ROOT = Path(__file__).parent.parent
RATES = ROOT / "tfdetect" / "forensics" / "error_rates.json"
TUNED = (
    "lehtoneo/cross-platform-inference-data-api", "Arunrowan-70/dalle-cat-dog-ai",
    "quantumnaan/sic_translator",
)  # fmt: skip
COVERAGE = (0.02, 0.4)  # of copy-moves, as `synthesize` has it
COPIES = {
    "shifted or mirrored": {},
    "turned up to 30 degrees, scaled 0.8 to 1.25": {"rotation": 30, "scale": (0.8, 1.25)},
}
QUALITIES = (None, 90, 75)  # of the forged file: lossless, or JPEG
SPLICES = ("once", "twice", "pasted once", "pasted from another grid", "pasted, saved as PNG")
LOCALIZED = ("telea", "navier_stokes", "copy_move", "splice")  # fills of forgeries, in turn
FRAMES = ("plain rectangle", "plain disc", "framed picture")  # which mirror themselves

Row = dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photoscale", type=Path, required=True, metavar="DIR",
                        help="photo-scale images with their manifest.csv")  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR",
                        help="folder for what is measured")  # fmt: skip
    parser.add_argument("--localizer", type=Path, metavar="RUN",
                        default=ROOT / "saved_models" / "localizer_photos")  # fmt: skip
    parser.add_argument("--photos", type=int, default=140, metavar="N",
                        help="photographs whose pixels are looked at")  # fmt: skip
    parser.add_argument("--generated", type=int, default=40, metavar="N",
                        help="generated images whose pixels are looked at")  # fmt: skip
    parser.add_argument("--forged", type=int, default=24, metavar="N",
                        help="photographs that forgeries are made of")  # fmt: skip
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with (args.photoscale / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file)
                if (args.photoscale / row["local_path"]).is_file()]  # fmt: skip
    photos = [r for r in rows if r["label"] == "real" and r["repo"] not in TUNED]
    photos = shuffled(photos)
    some = shuffled([r for r in rows if r["label"] == "fake"])[: args.generated]
    root = args.photoscale
    found = {
        "metadata": measured(args.work / "metadata.jsonl", rows, lambda r: metadata(root, r)),
        "spliced": measured(args.work / "spliced.jsonl", with_donors(photos, args.forged, SPLICES),
                            lambda r: spliced(root, r)),
        "framed": measured(args.work / "framed.jsonl",
                           [row | {"quality": quality} for quality in QUALITIES
                            for row in with_donors(photos, args.forged, FRAMES)],
                           lambda r: framed(root, r)),
        "forged": measured(args.work / "forged.jsonl", forgeries(photos, args.forged),
                           lambda r: forged(root, r)),
        "pixels": [
            *measured(args.work / "photos.jsonl", photos[: args.photos],
                      lambda r: pixels(root, r)),
            *measured(args.work / "generated.jsonl", some, lambda r: pixels(root, r)),
        ],
    }  # fmt: skip
    edited = [r for r in rows if r["label"] == "edited"]
    marks = localizer_marks(args.localizer, args.work, root, photos[: args.photos], edited)
    write_rates(found, marks, args)
    print_tables(found)


def shuffled(rows: list[Row]) -> list[Row]:
    rows.sort(key=lambda row: row["sha1"])
    random.Random(0).shuffle(rows)
    return rows


def measured(file: Path, rows: list[Row], measure: Callable[[Row], Row | None]) -> list[Row]:
    """Return what was measured of each row, reading from the file what was measured before."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    with file.open("a") as out:
        for row in rows[len(done) :]:
            done.append({"label": row["label"], "repo": row["repo"]} | (measure(row) or {}))
            out.write(json.dumps(done[-1]) + "\n")
            out.flush()
    return done[: len(rows)]


def keys(lines: list[EvidenceLine]) -> list[str]:
    return [line.key for line in lines if line.key]


def metadata(root: Path, row: Row) -> Row:
    facts = read_metadata(root / row["local_path"])
    return {"keys": keys([*declaration_lines(facts), editing_line(facts), camera_line(facts)])}


def pixels(root: Path, row: Row) -> Row:
    try:
        found = evidence(root / row["local_path"])
    except ImageError as error:
        return {"error": str(error)}
    return {"keys": [k for k in keys(found.lines) if "jpeg" in k or "copies" in k]}


# ---- forgeries


def forgeries(photos: list[Row], count: int) -> list[Row]:
    """Return the copy-moves to make, each photograph once by each kind and quality."""
    chosen = [row for row in photos if int(row["width"]) * int(row["height"]) < 2_000_000][:count]
    return [row | {"kind": kind, "quality": quality}
            for row in chosen for kind in COPIES for quality in QUALITIES]  # fmt: skip


def forged(root: Path, row: Row) -> Row:
    photo = load(root, row)
    rng = random_generator(0, row["sha1"], row["kind"])
    shape = ("brush", "polygon", "blob")[rng.integers(3)]
    mask = draw_mask(shape, photo, rng, COVERAGE)
    filled = copy_move(photo.pixels, mask, rng, **COPIES[row["kind"]])
    made = paste(photo.pixels, filled, soften(mask, 2))
    if row["quality"]:
        made = decoded(encoded(made, row["quality"]))
    found = find_copies(made, row["quality"])
    return {
        "kind": row["kind"], "quality": row["quality"], "coverage": float(mask.mean()),
        "iou": iou(found.copied, mask), "either": iou(found.sources, mask),
        "keys": ["copies" if found.found else "no_copies"],
    }  # fmt: skip


def framed(root: Path, row: Row) -> Row:
    """Paste what mirrors itself into a photograph, and look for copies, of which there are none."""
    made = load(root, row).pixels.copy()
    height, width = (length // 3 for length in made.shape[:2])
    rng = random_generator(0, row["sha1"], row["kind"])
    y, x = (int(rng.integers(length // 2)) for length in made.shape[:2])
    color = rng.integers(0, 256, 3, np.uint8)
    area = made[y : y + height, x : x + width]
    if row["kind"] == "plain disc":
        down, right = np.mgrid[:height, :width]
        side = min(height, width)
        area[np.hypot(2 * down + 1 - side, 2 * right + 1 - side) < side] = color
    else:
        area[:] = color
    if row["kind"] == "framed picture":
        edge = max(4, width // 30)
        donor = Image.fromarray(load(root, row["donor"]).pixels)
        area[edge:-edge, edge:-edge] = donor.resize((width - 2 * edge, height - 2 * edge))
    if row["quality"]:
        made = decoded(encoded(made, row["quality"]))
    return {"kind": row["kind"], "found": len(find_copies(made, row["quality"]).found)}


def with_donors(photos: list[Row], count: int, kinds: tuple[str, ...]) -> list[Row]:
    """Return photographs once by each kind of what is made of them, with another one each."""
    chosen = [row for row in photos if int(row["width"]) * int(row["height"]) < 2_000_000]
    chosen = [row for row in chosen if min(int(row["width"]), int(row["height"])) >= 256][:count]
    return [row | {"kind": kind, "donor": donor} for row, donor in
            zip(chosen, chosen[1:] + chosen[:1]) for kind in kinds]  # fmt: skip


def spliced(root: Path, row: Row) -> Row:
    """Make an image of a known JPEG history out of photographs that were halved before.

    The halving removes the grid that most photographs have. A region of another photograph, which
    was never compressed or lay on another grid, is pasted into one that was compressed once, and
    the result is saved again with a higher quality.
    """
    rng = random_generator(0, row["sha1"], "splice")
    image, donor = (halved(load(root, each)) for each in (row, row["donor"]))
    height, width = (min(a, b) for a, b in zip(image.shape[:2], donor.shape[:2]))
    image, donor = image[:height, :width], donor[:height, :width]
    first = int(rng.integers(50, 90))
    last = int(rng.integers(first + 5, 98))
    photo = Photo("", image, lambda picture: np.asarray(picture))
    mask = draw_mask("blob", photo, rng, (0.05, 0.25))
    back = decoded(encoded(image, first))
    kind, quality = row["kind"], last
    if kind == "once":
        data = encoded(image, last)
    elif kind == "twice":
        data = encoded(back, last)
    else:
        if kind != "pasted once":
            down, right = (int(n) for n in rng.integers(1, 8, 2))
            padded = np.pad(donor, ((down, 0), (right, 0), (0, 0)), "edge")
            donor = decoded(encoded(padded, first))[down:, right:]
        data = encoded(np.where(mask[..., None], donor, back),
                       None if kind.endswith("PNG") else quality)  # fmt: skip
    found = jpeg_history(data)
    altered = kind.startswith("pasted")
    return {
        "kind": kind, "first": first, "last": last, "earlier": found.earlier_quality,
        "iou": iou(found.differs, mask) if altered else None,
        "keys": ["jpeg_regions" if found.differs.any() else "no_jpeg_regions"],
    }  # fmt: skip


def load(root: Path, row: Row) -> Photo:
    image = read_rgb(root / row["local_path"])
    return Photo(row["sha1"], np.asarray(image), lambda picture: np.asarray(picture))


def halved(photo: Photo) -> np.ndarray:
    image = Image.fromarray(photo.pixels)
    factor = 2 if min(image.size) >= 512 else min(image.size) / 256
    size = (round(image.width / factor), round(image.height / factor))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def encoded(image: np.ndarray, quality: int | None) -> bytes:
    data = io.BytesIO()
    if quality is None:
        Image.fromarray(image).save(data, "PNG")
    else:
        Image.fromarray(image).save(data, "JPEG", quality=quality)
    return data.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


# ---- results


def localizer_marks(
    path: Path, work: Path, root: Path, photos: list[Row], edited: list[Row]
) -> dict[str, list[bool]]:
    """Return by the kind of image whether the localizer marks a pixel, for each image.

    Photographs of repositories with one that it was trained on are left out.
    """
    from tfdetect import load as load_run

    detector = load_run(path)

    def predicted(image: Path | bytes) -> Row:
        [found] = detector.predict(image, progress=False)
        return {} if found["error"] else {"marked": bool(found["altered_fraction"]),
                                          "known": found["duplicate_of_train"]}  # fmt: skip

    turns = zip(photos, photos[1:] + photos[:1], cycle(LOCALIZED))
    forgeries = [row | {"donor": donor, "fill": fill} for row, donor, fill in turns]
    found = {
        "authentic": measured(work / "localizer.jsonl", photos,
                              lambda r: predicted(root / r["local_path"])),
        "trained": measured(work / "localizer_forged.jsonl", forgeries,
                            lambda r: predicted(encoded(inpainted(root, r), None))),
        "edited": measured(work / "localizer_edited.jsonl", edited,
                           lambda r: predicted(root / r["local_path"])),
    }  # fmt: skip
    known = {row["repo"] for row in found["authentic"] if row.get("known")}
    return {kind: [row["marked"] for row in rows if "marked" in row and row["repo"] not in known]
            for kind, rows in found.items()}  # fmt: skip


def inpainted(root: Path, row: Row) -> np.ndarray:
    """Return a photograph of which a region was filled, as `synthesize` does it."""
    photo, rng = load(root, row), random_generator(0, row["sha1"], "localizer")
    mask = draw_mask(("brush", "polygon", "blob")[rng.integers(3)], photo, rng, COVERAGE)
    extra = {}
    if row["fill"] == "splice":
        extra["donor"] = random_window(load(root, row["donor"]).pixels, photo.size, rng)
    filled = getattr(fills, row["fill"])(photo.pixels, mask, rng, **extra)
    return paste(photo.pixels, filled, soften(mask, 2))


def counted(rows: list[Row], label: str) -> Iterator[tuple[str, int, int]]:
    """Yield each key with the number of rows that have it and that of all readable rows."""
    chosen = [row for row in rows if row["label"] == label and "keys" in row]
    for key in sorted({key for row in chosen for key in row["keys"]}):
        yield key, sum(key in row["keys"] for row in chosen), len(chosen)


def write_rates(
    found: dict[str, list[Row]], marks: dict[str, list[bool]], args: argparse.Namespace
) -> None:
    """Write error_rates.json."""
    localizer = args.localizer.name
    rates: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    every: dict[str, dict[str, int]] = defaultdict(dict)
    for part in ("metadata", "pixels"):
        for label, name in (("real", "authentic"), ("fake", "generated")):
            for key, count, total in counted(found[part], label):
                rates[key][name] = (count, total)
                every[part][name] = total
    altered = {
        "forged": found["forged"],
        "spliced": [row for row in found["spliced"] if row["kind"].startswith("pasted")],
    }
    saved_again = [row for row in found["spliced"] if not row["kind"].startswith("pasted")]
    for key, count, total in counted(saved_again, "real"):  # photographs, too
        before = rates[key].get("authentic", (0, every["pixels"].get("authentic", 0)))
        rates[key]["authentic"] = (before[0] + count, before[1] + total)
    for rows in altered.values():
        for key, count, total in counted(rows, "real"):
            rates[key]["altered"] = (count, total)
    for kind, marked in marks.items():
        if marked:
            total, some = len(marked), sum(marked)
            rates[f"localizer.{localizer}"][kind] = (some, total)
            rates[f"localizer.{localizer}.none"][kind] = (total - some, total)
    order = ("authentic", "generated", "altered", "trained", "edited")
    metadata_keys = {key for row in found["metadata"] for key in row.get("keys", ())}
    for key, counts in rates.items():  # a finding that one kind of image never has
        part = "metadata" if key in metadata_keys else "pixels"
        for name, total in every[part].items():
            if not key.startswith("localizer"):
                counts.setdefault(name, (0, total))
    content = {
        "command": "python benchmarks/evidence.py --photoscale photoscale --work WORK "
        f"--photos {args.photos} --generated {args.generated} --forged {args.forged}",
        "images": "metadata: all photo-scale images; pixels: photographs of repositories that "
        "nothing was tuned on, generated images, forgeries of these photographs, and images of "
        "which a generator filled a region",
        "findings": {key: {name: rates[key][name] for name in order if name in rates[key]}
                     for key in sorted(rates)},
    }  # fmt: skip
    RATES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_tables(found: dict[str, list[Row]]) -> None:
    print("\n| Copy-moves | File | Found | IoU | Copy or source |\n|---|---|---|---|---|")
    for kind in COPIES:
        for quality in QUALITIES:
            rows = [r for r in found["forged"] if (r["kind"], r["quality"]) == (kind, quality)]
            hit = np.mean(["copies" in r["keys"] for r in rows])
            scores = np.mean([r["iou"] for r in rows])
            either = np.mean([max(r["iou"], r["either"]) for r in rows])
            file = f"JPEG {quality}" if quality else "lossless"
            print(f"| {kind} | {file} | {hit:.0%} | {scores:.2f} | {either:.2f} |")
    print("\n| Pasted | Images | in which copies are found |\n|---|---|---|")
    for kind in FRAMES:
        rows = [r for r in found["framed"] if r["kind"] == kind]
        print(f"| {kind} | {len(rows)} | {sum(r['found'] > 0 for r in rows)} |")
    print("\n| JPEG history | Images | Region marked | IoU | Earlier compression found |")
    print("|---|---|---|---|---|")
    for kind in dict.fromkeys(row["kind"] for row in found["spliced"]):
        rows = [r for r in found["spliced"] if r["kind"] == kind]
        hit = np.mean(["jpeg_regions" in r["keys"] for r in rows])
        score = f"{np.mean([r['iou'] for r in rows]):.2f}" if rows[0]["iou"] is not None else ""
        earlier = np.mean([r["earlier"] is not None for r in rows])
        print(f"| {kind} | {len(rows)} | {hit:.0%} | {score} | {earlier:.0%} |")
    print("\n| Repository | Photographs | with a copy | with a region of another history |")
    print("|---|---|---|---|")
    rows = [r for r in found["pixels"] if r["label"] == "real" and "keys" in r]
    for repo in sorted({r["repo"] for r in rows}):
        these = [r["keys"] for r in rows if r["repo"] == repo]
        copies, regions = (sum(k in each for each in these) for k in ("copies", "jpeg_regions"))
        print(f"| {repo} | {len(these)} | {copies} | {regions} |")


if __name__ == "__main__":
    sys.exit(main())
