"""Finds or trains the autoencoder that fills forgeries of a dataset."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core import console
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError
from tfdetect.core.text import counted
from tfdetect.synthesis.forge_task import ForgeTask
from tfdetect.synthesis.forgery_plan import Item

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

AUTOENCODER_FILE = "autoencoder.keras"  # of one that was trained for the dataset
_MAX_PHOTOS = 500  # that an autoencoder is trained on
_MEASURED_PHOTOS = 50  # whose reconstructions are measured
_SHOWN_STEPS = 50  # between two values of the progress bar's note


def autoencoder_for(
    items: list[Item],
    task: ForgeTask,
    splits: dict[str, str],
    steps: int,
    progress: bool,
    log: console.Log,
) -> "Autoencoder | None":
    """Return the autoencoder that fills forgeries; None if none of them needs one.

    It is the one of the settings, the one that was trained for this dataset before, or a new one,
    which is trained on photographs of train.

    Args:
        items: the forgeries to make.
        task: the photographs, the dataset and its settings.
        splits: the split of each photograph.
        steps: number of training steps.
        progress: whether to show a progress bar.
        log: prints messages.

    Raises:
        UserError: the file of the settings is no autoencoder, or no photograph can be read.
    """
    needed = sum(item.fill == "autoencoder" for item in items)
    if not needed:
        return None
    others = [fill for fill in task.settings.fills if fill != "autoencoder"]
    log(
        f"an autoencoder fills {needed:,} of {counted(len(items), 'forgery', 'forgeries')}"
        + (f"; none is needed with --fill {','.join(others)}" if others else "")
    )
    from tfdetect.synthesis.autoencoder import Autoencoder

    file = Path(task.settings.autoencoder or task.output / AUTOENCODER_FILE)
    if file.is_file() or task.settings.autoencoder:
        return Autoencoder.load(file)
    photos = [photo for photo, split in splits.items() if split == "train"] or list(splits)
    return _train(task, photos[:_MAX_PHOTOS], file, steps, progress, log)


def _train(
    task: ForgeTask, photos: list[str], file: Path, steps: int, progress: bool, log: console.Log
) -> "Autoencoder":
    """Train an autoencoder on photographs and save it."""
    from tfdetect.synthesis.autoencoder import psnr, train

    pixels = []
    for name in photos:
        try:
            pixels.append(task.load(name).pixels)
        except UserError:
            continue
    if not pixels:
        raise UserError(f"None of the photographs in {task.source} can be read.")
    log(
        f"training an autoencoder on {len(pixels)} photographs, {steps:,} steps, which takes "
        "minutes on a CPU (--steps trains fewer; --autoencoder FILE uses a trained one)"
    )
    with console.progress(steps, "training the autoencoder", "steps", shown=progress) as bar:

        def on_step_end(step: int, loss: float) -> None:
            bar.advance()
            if step % _SHOWN_STEPS == 0:
                bar.set_note(f"{10 * np.log10(255**2 / loss):.1f} dB")

        trained = train(pixels, steps, task.settings.seed, on_step_end)
    with replacing(file) as temporary:
        trained.save(temporary)
    quality = psnr(trained, pixels[:_MEASURED_PHOTOS])
    log(f"autoencoder: PSNR {quality:.1f} dB on photographs that it was trained on")
    return trained
