"""The page at "/" of the server: one template, whose texts are in a file for each language."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tfdetect.core.run import Run
from tfdetect.serving.settings import ServerSettings

_FOLDER = Path(__file__).parent


@cache
def texts(language: str = "en") -> dict[str, Any]:
    """Return the texts of the page in a language; their file is `texts/<language>.json`."""
    file = _FOLDER / "texts" / f"{language}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def index_page(runs: Sequence[Run], settings: ServerSettings, language: str = "en") -> str:
    """Return the HTML of the page.

    Args:
        runs: the served runs, the default one first.
        settings: limits, which the page checks before it sends a file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    data = {
        "models": [{"name": run.name, "masks": run.predicts_masks} for run in runs],
        "max_bytes": settings.max_file_mib * 2**20,
        "needs_token": settings.token is not None,
        "texts": texts(language)["script"],
    }
    about = [(run.name, _training_sentences(run, texts(language)["about"])) for run in runs]
    return environment.get_template("index.html").render(
        t=texts(language)["page"], language=language, runs=runs, about=about,
        kept=settings.keep is not None, data=json.dumps(data).replace("<", "\\u003c"),
    )  # fmt: skip


def _training_sentences(run: Run, words: dict[str, str]) -> list[str]:
    """Return what the detector was trained on, in sentences."""
    dataset = run.info.dataset
    sentences = [words["dataset"].format(name=dataset.name)]
    images = dataset.training_images
    if images is not None:
        if images.generators:
            sentences.append(words["generators"].format(names=", ".join(images.generators)))
        if images.shorter_side is not None:
            low, _, high = images.shorter_side
            key = "one_size" if low == high else "sizes"
            sentences.append(words[key].format(low=low, high=high))
        if images.formats:
            sentences.append(words["formats"].format(names=", ".join(images.formats)))
    sentences.append(words["other"])
    return sentences
