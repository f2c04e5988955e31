"""The page of the server and of web exports, from templates and a file with all texts."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

import tfdetect
from tfdetect.core.generator_names import readable_generators
from tfdetect.core.run import Run
from tfdetect.evaluation.run_description import right_verdicts
from tfdetect.evaluation.verdict_words import percent, what_is_read

FOLDER = Path(__file__).parent
Json = dict[str, Any]


@cache
def texts(language: str = "en") -> Json:
    """Return the texts of the page in a language, from `texts/<language>.json`."""
    file = FOLDER / "texts" / f"{language}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def render(
    template: str,
    runs: Sequence[Run],
    data: Json,
    language: str = "en",
    by_size: bool = False,
    **variables: str,
) -> str:
    """Return the HTML of a page.

    Args:
        template: name of a file in `templates/`.
        runs: the runs that give verdicts, the default one first.
        data: data for the script of the page besides texts and models; see `static/page.js`.
        language: language of the texts.
        by_size: whether the size of each image decides on the run unless the user chooses one.
        variables: variables of the template: `files`, the address of the files of the page,
            `private`, a sentence on what happens to an image, and others of this template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    words = texts(language)
    models = [_model(run, words) for run in runs]
    data = {**data, "version": tfdetect.__version__, "models": models, "texts": words["script"]}
    return environment.get_template(template).render(
        t=words["page"], read_lines=_read_lines(models, words["page"]), language=language,
        runs=runs, models=models, by_size=by_size,
        data=json.dumps(data).replace("<", "\\u003c"), **variables,
    )  # fmt: skip


def _read_lines(models: Sequence[Json], page: Json) -> list[list[str]]:
    """Return how to read a verdict of these models, as pairs of what is shown and its meaning."""
    scores = [model["name"] for model in models if not model["calibrated"]]
    lines = list(page["read_lines"])
    if scores:
        shown, meaning = page["read_score"]
        lines.insert(0, [shown, meaning.format(names=page["and"].join(scores))])
    if len(scores) < len(models):
        lines.insert(0, page["read_probability"])
    return lines


def _model(run: Run, words: Json) -> Json:
    """Return what the page and its script need of a run."""
    page, about = words["page"], words["about"]
    classes = page["or"].join([", ".join(run.class_names[:-1]), run.class_names[-1]])
    question = page["answers_masks" if run.predicts_masks else "answers"]
    images = run.info.dataset.training_images
    low, _, high = (images and images.shorter_side) or (0, 0, 0)
    sides = f"{low:,}" if low == high else about["from_to"].format(low=low, high=high)
    longest = images.longer_side[2] if images and images.longer_side else None
    kind = "shorter" if longest is None else "both" if longest == low else "longer_too"
    return {
        "name": run.name,
        "answers": question.format(name=run.name, classes=classes),
        "masks": run.predicts_masks,
        "calibrated": run.info.calibration is not None and run.info.prior is not None,
        "authentic": run.class_names[0],
        "about": _about(run, about),
        "sides": about[kind].format(sides=sides, longest=longest),
        "formats": ", ".join(images.formats) if images else "",
    }


def _about(run: Run, words: dict[str, str]) -> list[str]:
    """Return what a detector was trained on, and how good it is, in sentences."""
    dataset = run.info.dataset
    sentences = [words["dataset"].format(name=dataset.name)]
    counts = dataset.counts.get("train", {})
    if counts:
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        sentences.append(words["counts"].format(counts=listed))
    images = dataset.training_images
    if images is not None:
        if images.generators:
            names = ", ".join(readable_generators(images.generators))
            sentences.append(words["generators"].format(names=names))
        if images.shorter_side is not None:
            low, _, high = images.shorter_side
            key = "one_size" if low == high else "sizes"
            sentences.append(words[key].format(low=f"{low:,}", high=f"{high:,}"))
        if images.formats:
            sentences.append(words["formats"].format(names=", ".join(images.formats)))
    split = "test" if "test" in run.results else "validation"
    right, given = right_verdicts(run.results.get(split, {}))
    if right is not None and right["value"] is not None:
        sentences.append(words[split].format(accuracy=percent(right["value"])))
        if given is not None and given["value"] is not None:
            share = percent(1 - given["value"])
            sentences.append(words["inconclusive"].format(share=share))
    if part := what_is_read(run):
        sentences.append(f"{part}.")
    sentences.append(words["other"])
    return sentences
