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

A photograph has one original and as many forgeries as the setting `variants` says, whose ids have
numbers.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.disk import disk_error, remove_leftovers
from tfdetect.core.errors import UserError
from tfdetect.core.files import csv_text, write_json, write_text
from tfdetect.core.folder_spec import folder_name
from tfdetect.core.journal import Journal, exclusive
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.parsing import read_object
from tfdetect.core.spec import SPLITS, ClassSpec, DatasetSpec
from tfdetect.core.storage import publish
from tfdetect.core.text import counted
from tfdetect.data.parallel import Work
from tfdetect.synthesis.contact_sheet import write_contact_sheet
from tfdetect.synthesis.dataset_autoencoder import AUTOENCODER_FILE, autoencoder_for
from tfdetect.synthesis.forge import COLUMNS, Row
from tfdetect.synthesis.forge_task import ForgeTask, MakeElsewhere, forgery_files
from tfdetect.synthesis.forgery_plan import Item, plan_forgeries, split_photos
from tfdetect.synthesis.photos import find_photos, identifier
from tfdetect.synthesis.settings import WITH_MODEL, Settings

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

_MIN_PARALLEL = 16  # fewer forgeries are made in this process


def synthesize(
    source: Path,
    output: Path,
    settings: Settings,
    workers: int,
    steps: int,
    progress: bool = True,
    log: console.Log = console.log,
    elsewhere: MakeElsewhere | None = None,
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
        UserError: there are no photographs, the dataset was begun from other photographs or
            with other settings, no forgery could be made, or writing failed.
    """
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{output} is inside the photographs' folder. Choose another --output.")
    settings = _with_split_rule_of(output, settings, log)
    photos = find_photos(source, log)
    splits = split_photos(source, photos, folder_name(output), settings.split_rule)
    task, items = ForgeTask(source, output, settings), plan_forgeries(splits, settings)
    try:
        with _folder(output), exclusive(output):
            _check_settings(task, len(splits))
            rows = _make_missing(task, splits, items, workers, steps, progress, log, elsewhere)
            _write_tables(task, rows)
            made = [row for row in rows if not row["error"]]
            forgeries = [(forgery_files(output, row, settings), row["fill"]) for row in made]
            write_contact_sheet(output / "contact_sheet.png", forgeries, settings.max_pixels)
        publish(output)
    except OSError as error:
        raise UserError(
            f"Writing to {output} failed: {disk_error(error) or error}. What was made is kept. Run "
            "the same command again to continue."
        ) from error
    return rows


def _with_split_rule_of(output: Path, settings: Settings, log: console.Log) -> Settings:
    """Return the settings with the split rule of a dataset that an earlier version has begun."""
    file = output / "settings.json"
    if settings.split_rule == 1 or not file.is_file():
        return settings
    if read_object(file).get("split_rule", 1) != 1:
        return settings
    log(
        f"{output} was begun by an earlier version and keeps its splits. In another dataset of the "
        "same photographs, training photographs of this one may be in the test split."
    )
    return replace(settings, split_rule=1)


@contextmanager
def _folder(output: Path) -> Iterator[None]:
    """Make the folder; remove it after an error if it is new and nothing was made in it."""
    is_new = not output.exists()
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_leftovers(images)  # of worker processes, which were ended
        if is_new and not any(images.iterdir()) and not (output / AUTOENCODER_FILE).is_file():
            shutil.rmtree(output)
        raise


def _make_missing(
    task: ForgeTask,
    splits: dict[str, str],
    items: list[Item],
    workers: int,
    steps: int,
    progress: bool,
    log: console.Log,
    elsewhere: MakeElsewhere | None,
) -> list[Row]:
    """Make the forgeries that do not exist yet; return the rows of all."""
    journal = Journal(task.output / ".made.jsonl", "id", COLUMNS)
    rows = journal.read()
    missing = _missing_items(task, items, rows, log)
    autoencoder = None
    if missing:
        _check_splits(task.output, rows, splits)
        autoencoder = autoencoder_for(missing, task, splits, steps, progress, log)
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
    task: ForgeTask, items: list[Item], rows: dict[str, Row], log: console.Log
) -> list[Item]:
    """Return the items that have no row without an error, or whose files are missing.

    Forgeries that failed are tried again: the reason may have been a lack of memory.
    """
    existing = set(os.listdir(task.output / "images"))
    missing = [
        item for item in items
        if (row := rows.get(item.id)) is None or row["error"]
        or not existing.issuperset(
            path.name for path in forgery_files(task.output, row, task.settings)
        )
    ]  # fmt: skip
    lost = sum(item.id in rows and not rows[item.id]["error"] for item in missing)
    if lost:
        log(f"files of {counted(lost, 'forgery', 'forgeries')} are missing and are made again")
    return missing


def _check_splits(output: Path, rows: dict[str, Row], splits: dict[str, str]) -> None:
    """Refuse to continue a dataset whose photographs were in other splits."""
    for row in rows.values():
        source = row["source"]
        if not row["error"] and source in splits and splits[source] != row["split"]:
            raise UserError(
                f"{output} was begun with other splits: {source} was in {row['split']}, and would "
                f"be in {splits[source]} now. The photographs have changed since, or the folder "
                "was renamed. Choose another --output, or remove it."
            )


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
    elif workers == 1 or len(away) < _MIN_PARALLEL:
        here, away = [*away, *here], []
    size = max(1, min(16, len(away) // (4 * workers)))
    chunks = [away[i : i + size] for i in range(0, len(away), size)]
    with Work(task.make_all, chunks, task.failed, workers) as work:
        for item in here:
            yield task.make(item, autoencoder)
        for rows in work:
            yield from rows


def _check_settings(task: ForgeTask, photos: int) -> None:
    """Check that the dataset was begun with the same settings, or write them for a new one."""
    file = task.output / "settings.json"
    now = _as_json({"source": str(task.source.resolve()), "photos": photos,
                    **asdict(task.settings)})  # fmt: skip
    if file.is_file():
        defaults = _as_json(asdict(Settings(split_rule=1)))  # of keys that older files lack
        before = defaults | read_object(file)
        if changed := [key for key, value in now.items() if before.get(key) != value]:
            raise UserError(
                f"{task.output} was begun with other settings ({', '.join(changed)}). Choose "
                "another --output, or remove it."
            )
    write_json(file, now)


def _as_json(values: dict) -> dict:
    """Return values as they are read from a JSON file, with lists instead of tuples."""
    return json.loads(json.dumps(values))


def _write_tables(task: ForgeTask, rows: list[Row]) -> None:
    """Write manifest.csv, dataset.yaml and provenance.csv."""
    output, settings = task.output, task.settings
    images = {}  # rows of the manifest, by path
    for row in rows:
        if row["error"]:
            continue
        paths = forgery_files(output, row, settings)
        original, mask, forged = (path.relative_to(output).as_posix() for path in paths)
        group, split = identifier(row["source"]), row["split"]
        images[original] = original, "original", "", "", group, split
        images[forged] = forged, "inpainted", row["fill"], mask, group, split
    columns = "path", "label", "generator", "mask", "group", "split"
    write_text(output / "manifest.csv", csv_text(images.values(), columns, for_people=False))
    write_text(output / "provenance.csv", csv_text(rows, COLUMNS, for_people=False))
    spec = DatasetSpec(
        name=folder_name(output), title=f"Forgeries made of {task.source.resolve().name}",
        manifest="manifest.csv",
        classes=(ClassSpec(name="original", folders=("original",)),
                 ClassSpec(name="inpainted", folders=("inpainted",))),
        splits={split: split for split in SPLITS},
        mask_channel="gray", mask_values=(0, 255), mask_inverted=False,
        max_pixels=max(MAX_PIXELS, settings.max_pixels), experiment=settings.experiment,
    )  # fmt: skip
    write_text(output / "dataset.yaml", spec.to_yaml())
