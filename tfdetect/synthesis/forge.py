"""Makes a data set of forgeries with masks out of a folder of photographs.

What it leaves:

    images/<id>.original.webp    the photograph
    images/<id>.mask.webp        255 where altered, 0 elsewhere
    images/<id>.realfake.webp    the photograph with the region filled and pasted back
    images/<id>.fakefake.webp    the same, filled by an autoencoder of the photograph itself
    manifest.csv                 the data set, as tfdetect reads it
    dataset.yaml                 its spec
    provenance.csv               how each forgery was made
    autoencoder.keras            where one was trained
    settings.json                what was asked for

A photograph has one original and, under numbered ids, as many forgeries as variants.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from inspect import signature
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from tfdetect.core import console, registry
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.journal import Journal, exclusive
from tfdetect.core.folder_spec import folder_name
from tfdetect.core.spec import SPLITS, ClassSpec, DatasetSpec
from tfdetect.data.splits import carve, group_fraction
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import (
    Photo,
    find_photos,
    identifier,
    load_photo,
    random_generator,
    same_size,
)  # fmt: skip

# Fills that give the photograph itself back: their forgeries are called fakefake.
RECONSTRUCTIONS = ("autoencoder", "vae")
WITH_MODEL = (*RECONSTRUCTIONS, "diffusion", "objects")  # these stay in one process
_TEST, _VALIDATION = 0.15, 0.1  # shares of the photographs


@dataclass(frozen=True)
class Settings:
    """How forgeries are made.

    Attributes:
        masks, fills: registered names; each forgery draws a mask and takes the next fill.
        variants: forgeries of each photograph.
        coverage: range of the altered share.
        edge: width of the soft edge, inside the mask, in pixels.
        size: scales and cuts photographs to this many pixels square; None leaves them.
        encode: "webp" or "png", both lossless, or "jpeg"; of originals and forgeries alike.
        quality: of jpeg.
        mask_options, fill_options: further arguments, by name of the mask or fill.
        prompts: what `diffusion` is asked for: for a photograph's stem, or "" for any;
            {folder} and {stem} in it become the photograph's, underscores spaces.
    """

    masks: tuple[str, ...] = ("brush", "polygon", "blob")
    fills: tuple[str, ...] = ("telea", "navier_stokes", "copy_move", "splice", "autoencoder")
    variants: int = 1
    coverage: tuple[float, float] = (0.02, 0.4)
    edge: float = 2.0
    size: int | None = None
    encode: str = "webp"
    quality: int = 95
    seed: int = 0
    mask_options: dict[str, dict] | None = None
    fill_options: dict[str, dict] | None = None
    prompts: dict[str, tuple[str, ...]] | None = None
    autoencoder: str | None = None


@dataclass(frozen=True)
class Item:
    """One forgery to make: of which photograph, which number, with which fill and donor."""

    photo: str
    variant: int
    fill: str
    donor: str | None

    @property
    def id(self) -> str:
        return identifier(self.photo) + (f"-{self.variant}" if self.variant else "")

    @property
    def kind(self) -> str:
        return "fakefake" if self.fill in RECONSTRUCTIONS else "realfake"


COLUMNS = (
    "id", "kind", "source", "split", "mask", "fill", "options", "coverage", "edge", "donor",
    "prompt", "seed", "width", "height", "encoding", "error",
)  # fmt: skip


def splits_of(name: str, photos: list[str]) -> dict[str, str]:
    """The split of each photograph: by a hash of its name, as catalogs carve.

    Args:
        name: of the data set.
    """
    places = np.array([group_fraction(name, identifier(photo)) for photo in photos])
    return {photo: SPLITS[number] for photo, number in
            zip(photos, carve(places, _TEST, _VALIDATION))}  # fmt: skip


def plan(splits: dict[str, str], settings: Settings) -> list[Item]:
    """The forgeries to make. A donor stands in its photograph's split, so that none leaks.

    A photograph without another one in its split takes the next fill that needs no donor.

    Args:
        splits: of each photograph.

    Raises:
        UserError: there is no such fill.
    """
    by_split: dict[str, list[str]] = {}
    for photo, split in splits.items():
        by_split.setdefault(split, []).append(photo)
    needs = {fill: "donor" in signature(_fill(fill)).parameters for fill in settings.fills}
    items = []
    for number, (photo, split) in enumerate(splits.items()):
        others = [p for p in by_split[split] if p != photo]
        fills = [fill for fill in settings.fills if others or not needs[fill]]
        if not fills:
            raise UserError(
                f"The fill {settings.fills[0]!r} needs another photograph in the {split} split, "
                f"where {photo} is alone. Give more photographs, or another fill too."
            )
        for variant in range(settings.variants):
            fill = fills[(number + variant) % len(fills)]
            rng = random_generator(settings.seed, photo, variant, "donor")
            donor = others[rng.integers(len(others))] if needs[fill] else None
            items.append(Item(photo, variant, fill, donor))
    return items


def forge(
    photo: Photo,
    item: Item,
    settings: Settings,
    donor: Callable[[str], Photo],
    autoencoder=None,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Makes one forgery.

    Args:
        donor: reads another photograph.
        autoencoder: a trained `Autoencoder`, where the fill asks for one.

    Returns:
        The forgery uint8 [H, W, 3], its mask bool [H, W], and how it was made.

    Raises:
        UserError: no mask fits; the fill gives back what was there.
    """
    rng = random_generator(settings.seed, item.photo, item.variant)
    name = settings.masks[rng.integers(len(settings.masks))]
    options = (settings.mask_options or {}).get(name, {})
    mask = draw_mask(name, photo, rng, settings.coverage, **options)
    fill = _fill(item.fill)
    known = signature(fill).parameters
    chosen = dict((settings.fill_options or {}).get(item.fill, {}))
    extra, prompt = {}, None
    if "donor" in known:
        extra["donor"] = same_size(donor(item.donor).pixels, photo.size, rng)
    if "prompt" in known:
        path, texts = Path(item.photo), settings.prompts or {}
        choices = texts.get(path.stem) or texts.get("") or ("",)
        prompt = choices[rng.integers(len(choices))]
        for key, text in (("{folder}", path.parent.name), ("{stem}", path.stem)):
            prompt = prompt.replace(key, text.replace("_", " "))
        extra["prompt"] = prompt
    if "autoencoder" in known:
        extra["autoencoder"] = autoencoder
    filled = fill(photo.pixels, mask, rng, **chosen, **extra)
    forged = paste(photo.pixels, filled, soften(mask, settings.edge))
    if np.array_equal(forged, photo.pixels):
        raise UserError(f"{item.photo}: the fill {item.fill!r} changes nothing inside the mask")
    return forged, mask, {
        "id": item.id, "kind": item.kind, "source": item.photo, "mask": name, "fill": item.fill,
        "options": json.dumps({"mask": options, "fill": chosen}),
        "coverage": round(float(mask.mean()), 6), "edge": settings.edge, "donor": item.donor,
        "prompt": prompt, "seed": settings.seed, "width": photo.size[1], "height": photo.size[0],
        "encoding": settings.encode + (f" {settings.quality}" if settings.encode == "jpeg" else ""),
        "error": None,
    }  # fmt: skip


def synthesize(
    source: Path,
    output: Path,
    settings: Settings,
    workers: int,
    steps: int,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Makes the data set, or goes on making it; returns the provenance, a row a forgery.

    Args:
        steps: of training an autoencoder, where a fill needs one and none was given.

    Raises:
        UserError: no photographs; others or other settings before; nothing could be made;
            writing failed.
    """
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{output} lies inside the photographs' folder. Choose another --output.")
    photos = find_photos(source)
    splits = splits_of(folder_name(output), photos)
    items = plan(splits, settings)
    try:
        (output / "images").mkdir(parents=True, exist_ok=True)
        with exclusive(output):
            return _synthesize(
                source, splits, items, output, settings, workers, steps, progress, say
            )
    except OSError as error:
        raise UserError(
            f"Writing to {output} failed: {error.strerror or error}. What was made is kept; the "
            "same command goes on."
        ) from error


def _synthesize(
    source, splits, items, output, settings, workers, steps, progress, say
) -> list[dict]:
    _check_settings(output, source, list(splits), settings)
    journal = Journal(output / ".made.jsonl", "id")
    rows = journal.read()
    todo = [item for item in items if item.id not in rows]
    autoencoder = None
    if any(item.fill == "autoencoder" for item in todo):
        train = [p for p, split in splits.items() if split == "train"] or list(splits)
        autoencoder = _autoencoder(source, train, output, settings, steps, progress, say)
    before = len(items) - len(todo)
    with console.progress(
        len(items), "making forgeries", "images", initial=before, shown=progress
    ) as bar:
        for row in _make(source, output, settings, todo, workers, autoencoder):
            row["split"] = splits[row["source"]]
            journal.add(row)
            rows[row["id"]] = row
            bar.advance()
    done = [rows[item.id] for item in items]
    made = [row for row in done if not row["error"]]
    if not made:
        raise UserError(f"No forgery could be made. The first reason: {done[0]['error']}")
    _write_tables(source, output, settings, done)
    return done


def _make(source, output, settings, items, workers, autoencoder) -> Iterator[dict]:
    """Makes items in worker processes, and those that hold a model in this one."""
    task = _Task(source, output, settings)
    models = "objects" in settings.masks
    here = [item for item in items if models or item.fill in WITH_MODEL]
    away = [item for item in items if not models and item.fill not in WITH_MODEL]
    if workers == 1 or len(away) < 16:  # not worth the processes
        here, away = [*away, *here], []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        size = max(1, min(16, len(away) // (4 * workers)))
        chunks = [away[i : i + size] for i in range(0, len(away), size)]
        futures: list[Future] = [pool.submit(task.all, chunk) for chunk in chunks]
        try:
            for item in here:
                yield task(item, autoencoder)
            for future in as_completed(futures):
                yield from future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Task:
    source: Path
    output: Path
    settings: Settings

    def all(self, items: list[Item]) -> list[dict]:
        return [self(item) for item in items]

    def __call__(self, item: Item, autoencoder=None) -> dict:
        """Makes and writes one forgery; returns its row, with an error where it failed."""

        @cache
        def load(name: str) -> Photo:
            return load_photo(self.source, name, self.settings.size)

        try:
            photo = load(item.photo)
            forged, mask, row = forge(photo, item, self.settings, load, autoencoder)
        except UserError as error:
            if item.fill in ("vae", "diffusion") and "cannot be loaded" in str(error):
                raise
            return {**dict.fromkeys(COLUMNS), "id": item.id, "kind": item.kind,
                    "source": item.photo, "fill": item.fill, "error": str(error)}  # fmt: skip
        original = f"{identifier(item.photo)}.original"
        if not (self.output / "images" / f"{original}.{extension(self.settings)}").is_file():
            self._write(original, photo.pixels)
        self._write(f"{item.id}.mask", mask.astype(np.uint8) * 255, lossless=True)
        self._write(f"{item.id}.{item.kind}", forged)
        return row

    def _write(self, name: str, pixels: np.ndarray, lossless: bool = False) -> None:
        data = encoded(pixels, self.settings, lossless)
        path = self.output / "images" / f"{name}.{extension(self.settings, lossless)}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)


def files(output: Path, row: dict, settings: Settings) -> tuple[Path, Path, Path]:
    """Original, mask and forgery of a row of the provenance."""
    ending, masks = extension(settings), extension(settings, lossless=True)
    names = (f"{identifier(row['source'])}.original.{ending}", f"{row['id']}.mask.{masks}",
             f"{row['id']}.{row['kind']}.{ending}")  # fmt: skip
    return tuple(output / "images" / name for name in names)


def extension(settings: Settings, lossless: bool = False) -> str:
    """Extension of an image file; of a mask's where `lossless`."""
    if settings.encode == "jpeg":
        return "png" if lossless else "jpg"
    return settings.encode


def encoded(pixels: np.ndarray, settings: Settings, lossless: bool = False) -> bytes:
    """An image, uint8 [H, W, 3] or [H, W], in the data set's one encoding."""
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    kind = extension(settings, lossless)
    if kind == "webp":
        image.save(data, "WEBP", lossless=True, method=2)
    elif kind == "png":
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=settings.quality, subsampling=0)
    return data.getvalue()


def _check_settings(output: Path, source: Path, photos: list[str], settings: Settings) -> None:
    """Writes what was asked for, or compares with what was asked for before."""
    file = output / "settings.json"
    asked = json.loads(json.dumps({"source": str(source.resolve()), "photos": len(photos),
                                   **asdict(settings)}))  # fmt: skip
    if file.is_file():
        before = json.loads(file.read_text())
        if changed := [key for key, value in asked.items() if before.get(key) != value]:
            raise UserError(
                f"{output} was begun with other settings ({', '.join(changed)}). Choose another "
                "--output, or remove it."
            )
    write_text(file, json.dumps(asked, indent=2))


def _autoencoder(source, photos, output, settings, steps, progress, say):
    """The given autoencoder, the one trained before, or a new one trained on photographs."""
    from tfdetect.synthesis.autoencoder import Autoencoder, train

    file = Path(settings.autoencoder or output / "autoencoder.keras")
    if file.is_file() or settings.autoencoder:
        return Autoencoder.load(file)
    pixels = []
    for name in photos[:500]:
        try:
            pixels.append(load_photo(source, name, settings.size).pixels)
        except UserError:
            continue
    if not pixels:
        raise UserError(f"None of the photographs in {source} can be read.")
    say(f"training an autoencoder on {len(pixels)} photographs, {steps} steps")
    with console.progress(steps, "training the autoencoder", "steps", shown=progress) as bar:

        def show(step: int, loss: float) -> None:
            bar.advance()
            if step % 50 == 0:
                bar.set_note(f"{10 * np.log10(255**2 / loss):.1f} dB")

        trained = train(pixels, steps, settings.seed, show)
    temporary = file.with_name(".autoencoder.keras")
    trained.save(temporary)
    os.replace(temporary, file)
    error = np.mean([
        np.mean((trained.reconstruct(p).astype(float) - p) ** 2) for p in pixels[:50]
    ])  # fmt: skip
    say(f"autoencoder: {10 * np.log10(255**2 / error):.1f} dB on photographs it was trained on")
    return trained


def _write_tables(source, output, settings, rows) -> None:
    """Writes manifest.csv, dataset.yaml and provenance.csv."""
    listed = {}
    for row in rows:
        if row["error"]:
            continue
        paths = files(output, row, settings)
        original, mask, forged = (path.relative_to(output).as_posix() for path in paths)
        where = identifier(row["source"]), row["split"]
        listed[original] = original, "original", "", "", *where
        listed[forged] = forged, "inpainted", row["fill"], mask, *where
    columns = "path", "label", "generator", "mask", "group", "split"
    _write_csv(output / "manifest.csv", columns, list(listed.values()))
    _write_csv(output / "provenance.csv", COLUMNS, [[row[c] for c in COLUMNS] for row in rows])
    spec = DatasetSpec(
        name=folder_name(output), title=f"Forgeries made of {source.resolve().name}",
        manifest="manifest.csv",
        classes=(ClassSpec(name="original", folders=("original",)),
                 ClassSpec(name="inpainted", folders=("inpainted",))),
        splits={split: split for split in ("train", "validation", "test")},
        experiment="localizer",
    )  # fmt: skip
    write_text(output / "dataset.yaml", spec.to_yaml())


def _write_csv(path: Path, columns: tuple[str, ...], rows: list) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_captions(file: Path) -> dict[str, tuple[str, ...]]:
    """Captions by a photograph's stem, of a CSV file with the columns name and caption.

    Raises:
        UserError: it cannot be read, or lacks a column.
    """
    captions: dict[str, tuple[str, ...]] = {}
    try:
        with open(file, newline="", encoding="utf-8") as text:
            for row in csv.DictReader(text):
                stem = Path(row["name"]).stem
                captions[stem] = (*captions.get(stem, ()), row["caption"])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {file}: {error}") from error
    except KeyError as error:
        raise UserError(f"{file} has no column {error}.") from error
    return captions


def _fill(name: str) -> Callable:
    return registry.FILLS.load(name)
