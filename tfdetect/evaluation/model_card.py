"""The model card of a run, in Markdown."""

from tfdetect.core.generator_names import readable_generators
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.run import Run
from tfdetect.core.run_results import SplitResults, ordered
from tfdetect.core.shipped_documents import shipped_names
from tfdetect.core.text import shell_command
from tfdetect.evaluation.intervals import format_interval
from tfdetect.evaluation.result_tables import (
    tables_of,
    transfer_tables,
    warnings_of,
)
from tfdetect.evaluation.run_description import (
    calibration_sentence,
    cross_fitting_sentence,
    describe_detector,
    facts,
    input_sentence,
    mask_threshold_sentence,
    measured_sentence,
    sides_of,
    threshold_sentence,
)
from tfdetect.evaluation.summary import TITLES, summary
from tfdetect.evaluation.training_history import training_warnings


def model_card(run: Run, results: SplitResults, calibrated_since: str = "") -> str:
    """Return the model card.

    Args:
        run: the run.
        results: the content of metrics.json.
        calibrated_since: name of the images on which the run was calibrated after these results.
    """
    masks = " It also predicts which pixels of an image were altered." if run.predicts_masks else ""
    parts = [
        f"# {run.name}",
        f"{describe_detector(run)}. {_about(run)}".strip(),
        "## Intended use",
        f"The detector estimates whether an image is one of: {', '.join(run.class_names)}. The "
        f"first class is authentic; P(fake) is one minus its probability.{masks} It is meant as "
        "one piece of evidence among others (provenance, metadata, context), and for images like "
        "its training data. It is not meant to decide alone about a person or a publication.",
        "## Training data",
        _training_data(run),
        "## Evaluation",
        *_outdated(run, calibrated_since),
        _evaluation(run, results),
        *_gain_and_forgetting(run),
        "## Limitations",
        f"- {measured_sentence(results)} On images of other generators, cameras, sizes or "
        "compressions it can be wrong with high confidence.\n"
        f"- {calibration_sentence(run)}\n- {threshold_sentence(run)}\n"
        + (f"- {text}\n" if (text := cross_fitting_sentence(run)) else "")
        + (f"- {mask_threshold_sentence(run)}\n" if run.predicts_masks else "")
        + f"- {input_sentence(run)}",
        "## How to use",
        _usage(run),
        "## Training details",
        "\n".join(f"- {name}: {value}" for name, value in facts(run)),
    ]
    return "\n\n".join(parts) + "\n"


def _about(run: Run) -> str:
    """Return the description of the experiment, unless settings changed what it describes."""
    if run.is_ensemble:
        return ""
    own = run.experiment()
    if own.name in shipped_names("experiments"):
        kinds = [
            (e.model.backbone, e.model.front_end, e.model.mask_head, e.data.image_size)
            for e in (own, load_experiment(own.name))
        ]
        if kinds[0] != kinds[1]:
            return f"The experiment {own.name} with other settings of the detector."
    return own.description


def _training_data(run: Run) -> str:
    data = run.info.dataset
    counts = data.counts.get("train", {})
    lines = [f"- dataset: {data.name}"]
    if counts:
        lines.append("- images: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
    images = data.training_images
    if images and images.generators:
        lines.append(f"- image generators: {', '.join(readable_generators(images.generators))}")
    if images and images.formats:
        lines.append(f"- file formats: {', '.join(images.formats)}")
    lines += [f"- {name} side: {text}" for name, text in sides_of(images).items()]
    lines += [f"- warning: {warning}" for warning in data.warnings]
    return "\n".join(lines)


def _outdated(run: Run, calibrated_since: str) -> list[str]:
    if not calibrated_since:
        return []
    return [
        f"These figures were measured before the run was calibrated on {calibrated_since}. Measure "
        "them anew, from the folder that contains the run, with: "
        f"`{shell_command('evaluate', run.name)}`"
    ]


def _evaluation(run: Run, results: SplitResults) -> str:
    """Return the summary of every split, and all tables of the first one."""
    splits = ordered(results)
    if not splits:
        return "The detector was not evaluated."
    parts = ["Brackets hold the 95% interval."]
    names = list(dict.fromkeys(name for split in splits for name in summary(results, split)))
    rows = [
        [TITLES[name], *(format_interval(summary(results, split).get(name)) for split in splits)]
        for name in names
    ]
    parts.append(_markdown(["metric", *splits], rows))
    warnings = [f"- {text}" for text in training_warnings(run, results)]
    warnings += [
        f"- {split}: {text}" for split in splits for text in warnings_of(split, results[split])
    ]
    parts += ["\n".join(warnings)] if warnings else []
    for found in tables_of(results[splits[0]]):
        parts += [f"### {found.title} ({splits[0]})", _markdown(found.headers, found.rows)]
        if found.explanation:
            parts.append(found.explanation)
    return "\n\n".join(parts)


def _gain_and_forgetting(run: Run) -> list[str]:
    """Return what a run that started from another one gained and forgot, as Markdown."""
    tables = transfer_tables(run.transfer)
    parts = [f"### {t.title}\n\n{_markdown(t.headers, t.rows)}\n\n{t.explanation}" for t in tables]
    return ["## Gain and forgetting", *parts] if parts else []


def _usage(run: Run) -> str:
    masks = ""
    if run.predicts_masks:
        masks = (
            "\n\n`serving_default` also returns `mask`, P(altered) float32 [B, H, W, 1]; `encoded` "
            "returns `mask_png_bytes`, a gray PNG of each image's size, 255 for P(altered) 1."
        )
    export = shell_command("export", run.name, "--format", "saved_model")
    return f"""From the folder that contains the run, with tfdetect:

```bash
{shell_command("predict", run.name, "image.jpg")}
```

With TensorFlow alone, after `{export}` where the run has no `saved_model/`:

```python
import tensorflow as tf

detector = tf.saved_model.load("{run.name}/saved_model")
files = [tf.io.read_file(path) for path in paths]
outputs = detector.signatures["encoded"](encoded_images=tf.stack(files))
outputs["p_fake"], outputs["verdict"], outputs["inconclusive"], outputs["class_names"]
```

The signature `serving_default` takes `images`, float32 [B, H, W, 3] in 0..255, any H and W. \
`inconclusive` is true where P(fake) lies in the abstention band.{masks}"""


def _markdown(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
