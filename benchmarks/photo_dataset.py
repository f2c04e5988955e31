"""Write the dataset of the photo detector: images of several collections, and one manifest.

    python benchmarks/photo_dataset.py OUTPUT --photoscale DIR [--more CLASS NAME FOLDER] ...
    python benchmarks/photo_dataset.py OUTPUT --list benchmarks/photo_more.csv --clones DIR
    python benchmarks/photo_dataset.py OUTPUT ... --list benchmarks/photo_more.csv \
        --list benchmarks/photo_art.csv --list benchmarks/photo_web.csv \
        --list benchmarks/photo_sources.csv --clones DIR
    python benchmarks/photo_dataset.py LAST_LOOK --list benchmarks/photo_last_look.csv --clones DIR

DIR of --photoscale is a collection with a manifest.csv of the columns local_path, label, generator,
repo, path, crop (x0,y0,x1,y1: the part of the picture that may be used) and note (it ends in
style=...). --list names single files of public repositories, with their commits; DIR of --clones
holds a bare clone of each repository, named owner+name. With both, no prompt is in training and
validation at once.
Files are linked; cropped ones are written as PNG. OUTPUT/manifest.csv has the columns path, label,
generator (for authentic images their source), style, group and split: "validation" for the
generators and sources that are left out of training, otherwise "train"; photo_last_look.csv, and
photo_fresh_look.csv and photo_new_look.csv alike, is for a single measurement at the end, whatever
its splits say.
OUTPUT/photos.csv lists the images of the styles of which there are authentic images, too:
snapshots, and with photo_art.csv studio photographs, art and renderings;
data_specs/photoscale.yaml describes it.
"""

import argparse
import csv
import hashlib
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

from PIL import Image

# Left out of training to choose among detectors: whole generators and whole sources, among them
# one of camera originals; then those of --list (photo_more.csv, photo_art.csv, photo_web.csv,
# photo_sources.csv).
VALIDATION = (
    "dalle-mini", "midjourney", "gemini-2.5-flash-image", "unknown",
    "drewnoakes", "urban100_sunhays80", "flickr8k", "imagenet_sample",
    "gpt-image-1", "gpt-image-2", "gemini-3-pro-image", "midjourney-4", "unnamed-2025",
    "real_or_ai_game", "k1monfared",
    "gemini-3-or-gpt-image", "unnamed-2023",
    "codrops", "darktable", "feeling_responsive", "startbootstrap", "sylius", "themes_wow", "u2net",
    "hamlin", "image_analogy", "standard_ebooks", "thibodeau",
    "assaultcube", "ospray", "pathtracers", "supertuxkart",
    "omnigen", "sdxl-rpg", "uso-flux",
    "blur_admin", "bsrgan", "deca", "facenet", "grandnode", "histogan", "imageai", "justified",
    "kxdang", "lekoarts", "wedding",
    "art_tradition", "clbsj", "darknet", "educenter", "flexslider", "future_imperfect",
    "idealo_isr", "irmtraut", "jonik", "kross", "meghna", "mikielis", "northendlab",
    "paint_transformer", "pdr", "restaurant", "tungsten", "waifu2x", "dall-e-3-aotd", "flux-2",
    "gemini-2.5-kokcheng", "sd-1.5-nerdy",
)  # fmt: skip
# Photographs of a subject that has no fakes: "an animal means authentic" would be learned.
ONE_SIDED = ("raccoons", "kangaroos")
# What photos.csv calls the styles; of the first one there are authentic images everywhere.
STYLES = {
    "photo": "snapshot", "photo-prompt": "snapshot", "mixed": "snapshot", "studio": "studio",
    "art": "art", "art-prompt": "art", "anime": "art", "rendering": "rendering",
}  # fmt: skip
# Large sources are thinned to so many images, by the hash of the content; their art by itself.
MOST = 70
SOURCES = {
    "Arunrowan-70/dalle-cat-dog-ai": "cats_and_dogs",
    "csjunxu/PolyU-Real-World-Noisy-Images-Dataset": "polyu",
    "drewnoakes/metadata-extractor-images": "drewnoakes",
    "ianare/exif-samples": "ianare",
    "lizhogn/tiny_coco_dataset": "coco",
    "mosjel/Tiny-COCO-Val-2017-CBIR-Test-Dataset": "coco",
    "majedelhelou/denoising_datasets": "urban100_sunhays80",
    "quantumnaan/sic_translator": "flickr8k",
}
RESAMPLED = {"ADE20K": "ade20k", "COCO": "coco_squashed", "ImageNet": "imagenet_224"}


def photoscale(folder):
    """Yield (file, label, source, style, group, crop) of the usable images of a collection."""
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            style = re.search(r"style=(\S+)", row["note"])
            name = row["generator"]
            if row["label"] == "edited":
                continue
            if row["label"] == "real":
                name = SOURCES.get(row["repo"])
                if row["repo"].startswith("lehtoneo/"):
                    name = next(v for k, v in RESAMPLED.items() if k in row["note"])
                if name is None:
                    continue  # originals of edited images
            group = row["sha1"]
            if row["repo"].startswith(("dcsan/", "eudoxia0/")):
                group = row["repo"] + "/" + str(Path(row["path"]).parent)
            elif name == "polyu":
                group = "polyu/" + re.split(r"[_.]", Path(row["path"]).stem)[0]
            name = {"midjourney-v2/v3": "midjourney", "stylegan2-ffhq": "stylegan2",
                    "stylegan2-custom-256": "stylegan2"}.get(name, name)  # fmt: skip
            yield (folder / row["local_path"], row["label"], name, style[1] if style else "photo",
                   group, row["crop"])  # fmt: skip


def listed(file, clones, folder):
    """Yield the same of the files that a list names; they go from the clones to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(file, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            git = ["git", "--git-dir", clones / row["repo"].replace("/", "+"), "show"]
            content = subprocess.check_output([*git, f"{row['commit']}:{row['path']}"])
            name = hashlib.sha1(content).hexdigest() + Path(row["path"]).suffix.lower()
            (folder / name).write_bytes(content)
            yield (folder / name, row["label"], row["generator"], row["style"], row["group"],
                   row["crop"])  # fmt: skip


def separated(rows):
    """Return the rows without those that share a prompt across training and validation."""
    # The survey gave its prompts to generators of both parts: they stay in training.
    survey = ("gpt-image-1", "deepfake-survey")
    rows = [row for row in rows if (row["generator"], row["group"].split("/")[0]) != survey]
    held = {row["group"] for row in rows if row["split"] == "validation"}
    rows = [row for row in rows if row["generator"] not in ONE_SIDED]
    return [row for row in rows if row["split"] == "validation" or row["group"] not in held]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--photoscale", type=Path)
    parser.add_argument("--more", nargs=3, action="append", default=[],
                        metavar=("CLASS", "NAME", "FOLDER"))  # fmt: skip
    parser.add_argument("--list", type=Path, action="append", default=[], metavar="FILE",
                        help="files of public repositories")  # fmt: skip
    parser.add_argument("--clones", type=Path, metavar="DIR", help="the clones for --list")
    args = parser.parse_args()
    if args.list and not args.clones:
        parser.error("--list needs --clones")
    found = list(photoscale(args.photoscale)) if args.photoscale else []
    for label, name, folder in args.more:
        for file in sorted(Path(folder).iterdir()):
            if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
                found.append((file, label, name, "photo", "", ""))
    counts = Counter((label, name) for _, label, name, *_ in found)
    art = Counter((label, name) for _, label, name, style, *_ in found if STYLES[style] == "art")
    thinned = len(found)
    for file in args.list:  # chosen one by one: not thinned
        found += listed(file, args.clones, args.output / "originals")
    rows, seen = [], set()
    (args.output / "images").mkdir(parents=True, exist_ok=True)
    for number, (file, label, name, style, group, crop) in enumerate(found):
        digest = hashlib.sha1(file.read_bytes()).hexdigest()
        count = (art if STYLES[style] == "art" else counts)[label, name]
        keep = number >= thinned or int(digest[:8], 16) / 2**32 * count < MOST
        if digest in seen or not keep:
            continue
        seen.add(digest)
        path = Path("images", digest + (".png" if crop else file.suffix.lower()))
        target = args.output / path
        if not target.exists():
            if crop:
                with Image.open(file) as image:
                    image.crop(tuple(map(int, crop.split(",")))).save(target)
            else:
                os.link(file, target)
        rows.append({"path": path, "label": label, "generator": name, "style": style,
                     "group": group or digest,
                     "split": "validation" if name in VALIDATION else "train"})  # fmt: skip
    if args.photoscale and args.list:
        rows = separated(rows)
    rows.sort(key=lambda row: str(row["path"]))  # a part of the table is a sample of the whole
    both = {STYLES[row["style"]] for row in rows if row["label"] == "real"}
    photos = [row | {"style": style} for row in rows if (style := STYLES[row["style"]]) in both]
    for name, chosen in (("manifest.csv", rows), ("photos.csv", photos)):
        with open(args.output / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    for key, count in sorted(
        Counter((r["label"], r["generator"], r["split"]) for r in rows).items()
    ):
        print(*key, count)


if __name__ == "__main__":
    main()
