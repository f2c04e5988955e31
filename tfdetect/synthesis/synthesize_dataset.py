"""Makes a dataset of forgeries with masks out of a folder of photographs.

The result:

    images/<id>.original.webp    the photograph
    images/<id>.mask.webp        255 where altered, 0 elsewhere
    images/<id>.realfake.webp    the photograph with a region filled and pasted back
    images/<id>.fakefake.webp    the same, filled by an autoencoder of the photograph itself
    manifest.csv                 the dataset, as tfdetect reads it
    dataset.yaml                 its spec
    provenance.csv               how each forgery was made
    contact_sheet.png            some forgeries, to look at
    autoencoder.keras            the autoencoder, if one was trained
    settings.json                the settings

A photograph has one original and as many forgeries as variants, under numbered ids.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfdetect.core import console
from tfdetect.core.disk import disk_error, remove_leftovers, replacing
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.core.files import csv_text, write_bytes, write_json, write_text
from tfdetect.core.folder_spec import folder_name
from tfdetect.core.journal import Journal, exclusive
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.parsing import read_object
from tfdetect.core.spec import ClassSpec, DatasetSpec
from tfdetect.core.storage import publish
from tfdetect.core.text import counted
from tfdetect.data.parallel import Work
from tfdetect.synthesis.contact_sheet import write_contact_sheet
from tfdetect.synthesis.forge import (
    COLUMNS,
    WITH_MODEL,
    Item,
    Row,
    Settings,
    forge,
    plan_forgeries,
    splits_of,
)
from tfdetect.synthesis.photos import Photo, find_photos, identifier, load_photo

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

_MIN_ITEMS = 16  # fewer forgeries are made in this process
_LONGEST_SIDES = {"webp": 16_383, "jpg": 65_500}  # in pixels, by the encoding of the copies
_AUTOENCODER = "autoencoder.keras"
_AUTOENCODER_PHOTOS = 500  # an autoencoder is trained on at most so many photographs


def synthesize(
    source: Path,
    output: Path,
    settings: Settings,
    workers: int,
    steps: int,
    progress: bool = True,
    log: console.Log = console.log,
    elsewhere: "MakeElsewhere | None" = None,
) -> list[Row]:
    """Make the dataset, or continue an interrupted one.

    Args:
        source: folder of photographs.
        output: folder of the dataset.
        settings: how forgeries are made.
        workers: number of processes.
        steps: training steps of an autoencoder, if a fill needs one and none was given.
        progress: whether to show progress bars.
        log: prints messages.
        elsewhere: makes the forgeries that need no network; by default processes of this machine
            do.

    Returns:
        How each forgery was made, by `forge.COLUMNS`.

    Raises:
        UserError: There are no photographs, the dataset was begun from other photographs or
            with other settings, no forgery could be made, or writing failed.
    """
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{output} is inside the photographs' folder. Choose another --output.")
    settings = _with_split_rule_of(output, settings, log)
    photos = find_photos(source, log)
    splits = splits_of(source, photos, folder_name(output), settings.split_rule)
    task, items = ForgeTask(source, output, settings), plan_forgeries(splits, settings)
    try:
        with _folder(output), exclusive(output):
            _check_settings(task, len(splits))
            rows = _make_missing(task, splits, items, workers, steps, progress, log, elsewhere)
            _write_tables(task, rows)
            made = [(files(output, row, settings), row["fill"]) for row in rows if not row["error"]]
            write_contact_sheet(output / "contact_sheet.png", made)
        publish(output)
    except OSError as error:
        raise UserError(
            f"Writing to {output} failed: {disk_error(error) or error}. What was made is kept. Run "
            "the same command again to continue."
        ) from error
    return rows


def _with_split_rule_of(output: Path, settings: Settings, log: console.Log) -> Settings:
    """Return the settings with the split rule by which the dataset was begun, if it was."""
    file = output / "settings.json"
    if settings.split_rule == 1 or not file.is_file():
        return settings
    if read_object(file).get("split_rule", 1) != 1:
        return settings
    log(
        f"{output} was begun by an earlier version and keeps its splits. In another dataset of the "
        "same photographs, what is for training here can be for the test."
    )
    return replace(settings, split_rule=1)


@contextmanager
def _folder(output: Path) -> Iterator[None]:
    """Make the folder; if nothing is made in it, it does not stay, and becomes nobody's class."""
    new = not output.exists()
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_leftovers(images)  # of worker processes, which were ended
        if new and not any(images.iterdir()) and not (output / _AUTOENCODER).is_file():
            shutil.rmtree(output)
        raise


def files(output: Path, row: Row, settings: Settings) -> tuple[Path, Path, Path]:
    """Return the paths of original, mask and forgery of a row of the provenance."""
    ending, masks = _extension(settings), _extension(settings, lossless=True)
    images = output / "images"
    return (
        images / f"{identifier(row['source'])}.original.{ending}",
        images / f"{row['id']}.mask.{masks}",
        images / f"{row['id']}.{row['kind']}.{ending}",
    )


def _make_missing(
    task: "ForgeTask", splits: dict[str, str], items: list[Item], workers: int, steps: int,
    progress: bool, log: console.Log, elsewhere: "MakeElsewhere | None",
) -> list[Row]:  # fmt: skip
    """Make the forgeries that do not exist yet; return the rows of all."""
    journal = Journal(task.output / ".made.jsonl", "id", COLUMNS)
    rows = journal.read()
    missing = _missing_items(task, items, rows, log)
    autoencoder = None
    if missing:
        _check_splits(task.output, rows, splits)
        autoencoder = _autoencoder_for(missing, task, splits, steps, progress, log)
    before = len(items) - len(missing)
    with console.progress(
        len(items), "making forgeries", "images", initial=before, shown=progress
    ) as bar:
        for row in _make(task, missing, workers, autoencoder, elsewhere):
            row["split"] = splits[row["source"]]
            journal.add(row)
            rows[row["id"]] = row
            bar.advance()
    done = [rows[item.id] for item in items]
    if all(row["error"] for row in done):
        raise UserError(f"No forgery could be made. The first reason: {done[0]['error']}")
    return done


def _missing_items(
    task: "ForgeTask", items: list[Item], rows: dict[str, Row], log: console.Log
) -> list[Item]:
    """Return the items that have no row without an error, or whose files are gone.

    What failed before is tried again: it may have been for lack of memory.
    """
    made = set(os.listdir(task.output / "images"))
    missing = [
        item for item in items
        if (row := rows.get(item.id)) is None or row["error"]
        or not made.issuperset(path.name for path in files(task.output, row, task.settings))
    ]  # fmt: skip
    again = sum(item.id in rows and not rows[item.id]["error"] for item in missing)
    if again:
        log(f"files of {counted(again, 'forgery', 'forgeries')} are gone and are made again")
    return missing


def _autoencoder_for(
    missing: list[Item], task: "ForgeTask", splits: dict[str, str], steps: int, progress: bool,
    log: console.Log,
) -> "Autoencoder | None":  # fmt: skip
    """Return the autoencoder that fills missing forgeries; None if none of them needs one."""
    needed = sum(item.fill == "autoencoder" for item in missing)
    if not needed:
        return None
    others = [fill for fill in task.settings.fills if fill != "autoencoder"]
    log(
        f"an autoencoder fills {needed:,} of {counted(len(missing), 'forgery', 'forgeries')}"
        + (f"; none is needed with --fill {','.join(others)}" if others else "")
    )
    train = [photo for photo, split in splits.items() if split == "train"] or list(splits)
    return _find_autoencoder(task, train, steps, progress, log)


def _check_splits(output: Path, rows: dict[str, Row], splits: dict[str, str]) -> None:
    """Refuse to add to forgeries whose photographs had other splits."""
    for row in rows.values():
        source = row["source"]
        if not row["error"] and source in splits and splits[source] != row["split"]:
            raise UserError(
                f"{output} was begun with other splits: {source} was for {row['split']}, and would "
                f"be for {splits[source]} now. The photographs have changed since, or the folder "
                "was renamed. Choose another --output, or remove it."
            )


@dataclass(frozen=True)
class ForgeTask:
    """Makes and writes forgeries, in this process, in another or on another machine."""

    source: Path
    output: Path
    settings: Settings

    def load(self, name: str) -> Photo:
        """Read a photograph."""
        return load_photo(self.source, name, self.settings.size, self.settings.max_pixels)

    def make_all(self, items: list[Item]) -> list[Row]:
        return [self.make(item) for item in items]

    def make(self, item: Item, autoencoder: "Autoencoder | None" = None) -> Row:
        """Make and write one forgery; return its row, with an error if it failed.

        Raises:
            ModelNotAvailable: a network is missing, so that no other photograph would fare better.
            OSError: the disk is full or refuses access.
        """

        load = cache(self.load)
        try:
            photo = load(item.photo)
            _check_fits(photo, self.settings)
            forged, mask, row = forge(photo, item, self.settings, load, autoencoder)
            original, *others = files(self.output, row, self.settings)
            data = [
                _encode(mask.astype(np.uint8) * 255, self.settings, lossless=True),
                _encode(forged, self.settings),
            ]
            if not original.is_file():
                data.append(_encode(photo.pixels, self.settings))
                others.append(original)
        except ModelNotAvailable:
            raise
        except UserError as error:
            return self.failed(item, str(error))
        except Exception as error:  # libraries refuse an odd image in many ways; others go on
            return self.failed(item, f"{item.photo}: {str(error)[:200] or type(error).__name__}")
        for path, encoded in zip(others, data):
            write_bytes(path, encoded)
        return row

    def check_written(self, row: Row) -> None:
        """Check that what was made elsewhere is here.

        Raises:
            UserError: it is not.
        """
        if row["error"] or all(map(Path.is_file, files(self.output, row, self.settings))):
            return
        raise UserError(
            f"The files of {row['id']} were written on another machine, and are not in "
            f"{self.output}. It must be a folder that all machines see under the same path."
        )

    def failed(self, item: Item, error: str = "") -> Row:
        """Return the row of a forgery that cannot be made."""
        error = error or f"{item.photo}: it ended the process that worked on it"
        return {**dict.fromkeys(COLUMNS), "id": item.id, "kind": item.kind,
                "source": item.photo, "fill": item.fill, "error": error}  # fmt: skip


# Makes forgeries elsewhere, for example on a cluster, and yields their rows.
MakeElsewhere = Callable[[ForgeTask, list[Item]], Iterable[Row]]


def _make(
    task: ForgeTask,
    items: list[Item],
    workers: int,
    autoencoder: "Autoencoder | None",
    elsewhere: MakeElsewhere | None,
) -> Iterator[Row]:
    """Make forgeries in worker processes or elsewhere; those that need a network in this one."""
    all_here = "objects" in task.settings.masks
    here = [item for item in items if all_here or item.fill in WITH_MODEL]
    away = [item for item in items if not all_here and item.fill not in WITH_MODEL]
    if elsewhere is not None:
        for row in elsewhere(task, away):
            task.check_written(row)
            yield row
        away = []
    elif workers == 1 or len(away) < _MIN_ITEMS:
        here, away = [*away, *here], []
    size = max(1, min(16, len(away) // (4 * workers)))
    chunks = [away[i : i + size] for i in range(0, len(away), size)]
    with Work(task.make_all, chunks, task.failed, workers) as work:
        for item in here:
            yield task.make(item, autoencoder)
        for rows in work:
            yield from rows


def _check_fits(photo: Photo, settings: Settings) -> None:
    """Refuse a photograph with a side that the format of the copies or the edge do not allow."""
    height, width = photo.size
    if settings.edge > min(height, width) / 2 and settings.masks != ("whole",):
        raise UserError(
            f"{photo.name}: a soft edge of {settings.edge:g} pixels leaves next to nothing of a "
            f"region altered in {width}x{height} pixels. Choose --edge up to half of the shorter "
            "side"
        )
    kind = _extension(settings)
    longest, most = max(photo.size), _LONGEST_SIDES.get(kind)
    if most is not None and longest > most:
        raise UserError(
            f"{photo.name}: a side has {longest:,} pixels; {kind.upper()} allows {most:,}. Choose "
            "--encode png, or --size"
        )


def _extension(settings: Settings, lossless: bool = False) -> str:
    """Return the extension of image files, or with `lossless` of masks."""
    if settings.encode == "jpeg":
        return "png" if lossless else "jpg"
    return settings.encode


def _encode(pixels: np.ndarray, settings: Settings, lossless: bool = False) -> bytes:
    """Encode an image uint8 [H, W, 3], or a mask uint8 [H, W]."""
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    kind = _extension(settings, lossless)
    if kind == "webp":
        image.save(data, "WEBP", lossless=True, method=2)
    elif kind == "png":
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=settings.quality, subsampling=0)
    return data.getvalue()


def _check_settings(task: ForgeTask, photos: int) -> None:
    """Check that the dataset was begun with the same settings, or note them."""
    file = task.output / "settings.json"
    now = json.loads(json.dumps({"source": str(task.source.resolve()), "photos": photos,
                                 **asdict(task.settings)}))  # fmt: skip
    if file.is_file():
        # What was not written yet.
        older = json.loads(json.dumps(asdict(Settings(split_rule=1))))
        before = older | read_object(file)
        if changed := [key for key, value in now.items() if before.get(key) != value]:
            raise UserError(
                f"{task.output} was begun with other settings ({', '.join(changed)}). Choose "
                "another --output, or remove it."
            )
    write_json(file, now)


def _find_autoencoder(
    task: ForgeTask, photos: list[str], steps: int, progress: bool, log: console.Log
) -> "Autoencoder":
    """Return the given autoencoder, the one that was trained before, or a new one."""
    from tfdetect.synthesis.autoencoder import Autoencoder, psnr, train

    settings = task.settings
    file = Path(settings.autoencoder or task.output / _AUTOENCODER)
    if file.is_file() or settings.autoencoder:
        return Autoencoder.load(file)
    pixels = []
    for name in photos[:_AUTOENCODER_PHOTOS]:
        try:
            pixels.append(task.load(name).pixels)
        except UserError:
            continue
    if not pixels:
        raise UserError(f"None of the photographs in {task.source} can be read.")
    log(
        f"training an autoencoder on {len(pixels)} photographs, {steps:,} steps, which takes "
        "minutes on a CPU (fewer: --steps; a trained one: --autoencoder FILE)"
    )
    with console.progress(steps, "training the autoencoder", "steps", shown=progress) as bar:

        def on_step_end(step: int, loss: float) -> None:
            bar.advance()
            if step % 50 == 0:
                bar.set_note(f"{10 * np.log10(255**2 / loss):.1f} dB")

        trained = train(pixels, steps, settings.seed, on_step_end)
    with replacing(file) as temporary:
        trained.save(temporary)
    log(f"autoencoder: {psnr(trained, pixels[:50]):.1f} dB on photographs it was trained on")
    return trained


def _write_tables(task: ForgeTask, rows: list[Row]) -> None:
    """Write manifest.csv, dataset.yaml and provenance.csv."""
    listed, output, settings = {}, task.output, task.settings
    for row in rows:
        if row["error"]:
            continue
        paths = files(output, row, settings)
        original, mask, forged = (path.relative_to(output).as_posix() for path in paths)
        group, split = identifier(row["source"]), row["split"]
        listed[original] = original, "original", "", "", group, split
        listed[forged] = forged, "inpainted", row["fill"], mask, group, split
    columns = "path", "label", "generator", "mask", "group", "split"
    write_text(output / "manifest.csv", csv_text(listed.values(), columns, for_people=False))
    write_text(output / "provenance.csv", csv_text(rows, COLUMNS, for_people=False))
    # Where everything is altered, there is nothing to localize.
    experiment = "photos_from_scratch" if settings.masks == ("whole",) else "localizer"
    spec = DatasetSpec(
        name=folder_name(output), title=f"Forgeries made of {task.source.resolve().name}",
        manifest="manifest.csv",
        classes=(ClassSpec(name="original", folders=("original",)),
                 ClassSpec(name="inpainted", folders=("inpainted",))),
        splits={split: split for split in ("train", "validation", "test")},
        mask_channel="gray", mask_values=(0, 255), mask_inverted=False,
        max_pixels=max(MAX_PIXELS, settings.max_pixels), experiment=experiment,
    )  # fmt: skip
    write_text(output / "dataset.yaml", spec.to_yaml())
