"""One self-contained HTML page, a model card and a terminal table from metrics.json."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from matplotlib.figure import Figure
from tabulate import tabulate

from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import Files, Records, image_source
from tfdetect.evaluation import figures
from tfdetect.evaluation.calibration import POINTS
from tfdetect.evaluation.metrics import NAMES, shown
from tfdetect.evaluation.prediction_tables import by_generator

MASK_NAMES = {
    "iou_altered": "IoU, mean of altered images", "iou": "IoU, mean of all images",
    "iou_data": "IoU of all pixels", "f1": "pixel F1, mean of altered images",
    "f1_data": "pixel F1 of all pixels", "ap": "pixel AP, mean of altered images",
    "ap_data": "pixel AP of all pixels", "auc": "pixel AUC, mean of altered images",
    "auc_data": "pixel AUC of all pixels", "mcc_data": "MCC of all pixels",
    "empty": "untouched images with an empty mask", "image_auc": "image AUC from the mask",
}  # fmt: skip

_PAGE = template(
    """<p>{{ what }} and evaluated on {{ dataset }}, images of {{ pixels }} pixels,
classes {{ run.classes | join(", ") }}.
P(fake) is 1 - P({{ run.classes[0] }}). {{ calibrated }} The verdict is fake from
{{ run.threshold }} on.{% if run.predicts_masks %} A pixel counts as altered from
P(altered) 0.5 on, an empty mask for an untouched image as right (IoU 1).{% endif %}</p>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% for split in splits %}
<h2>{{ split.title }}</h2>
<p>{{ "{:,}".format(split.count) }} images{% if split.unreadable %}, {{ split.unreadable }} more
could not be read{% endif %}.
<small>Brackets: 95% bootstrap interval over images.</small></p>
{{ split.table }}
{{ figures(split.figures) }}
{% endfor %}
<h2>{{ "Ensemble" if run.is_ensemble else "Training" }}</h2>
{{ figures(training) }}
<table>
{% for key, value in facts %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}
</table>
<h2>{{ "Members" if run.is_ensemble else "Experiment" }}</h2>
<pre>{{ run.document }}</pre>
"""
)


def write_report(
    run: Run,
    results: dict,
    tables: dict[str, pa.Table],
    catalog: Catalog,
    pictures: bool,
    output: Path,
    drawn: dict[str, dict],
) -> None:
    """Writes figures/, report.html and, into the run itself, model_card.md.

    Args:
        results: the content of metrics.json.
        tables: predictions by split.
        catalog: of the images.
        pictures: whether to show the surest mistakes.
        output: folder to write into.
        drawn: by split, what was drawn on the images whose masks are best and worst.
    """
    folder = output / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):  # of an earlier evaluation
        old.unlink()
    splits = []
    for split, table in tables.items():
        source = image_source(catalog, catalog.split(split)) if pictures else None
        pages = _draw(run, results[split], table, source)
        pages += [
            (f"masks_{name}", figures.localization(rows, f"{name.capitalize()} masks"))
            for name, rows in drawn.get(split, {}).items() if rows
        ]  # fmt: skip
        splits.append({
            "title": split.capitalize(), "count": results[split]["count"],
            "unreadable": results[split]["unreadable"],
            "table": _html_tables(results[split]),
            "figures": [
                (name, save_figure(f, folder / f"{split}_{name}.png")) for name, f in pages
            ],
        })  # fmt: skip
    history = _history(run)
    curves = [("training", figures.training_curves(history))] if history else []
    page = _PAGE.render(
        title=run.name, run=run, what=_what(run), pixels=_pixels(run), splits=splits,
        dataset=catalog.name,
        calibrated=_calibrated(run),
        warnings=_warnings(run, results, catalog.warnings),
        training=[(name, save_figure(f, folder / f"{name}.png")) for name, f in curves],
        facts=_facts(run),
    )  # fmt: skip
    write_text(output / "report.html", page)
    if output == run.path:
        write_text(output / "model_card.md", _model_card(run, results))


def terminal_table(results: dict) -> str:
    """metrics.json as tables for the terminal."""
    lines = []
    for split, result in results.items():
        lines.append(f"{split}: {result['count']:,} images (95% bootstrap intervals)")
        for headers, rows in _tables(result):
            lines += [tabulate(rows, headers, disable_numparse=True, tablefmt="simple"), ""]
        lines += [f"warning: {split}: {w}" for w in _constants(result)]
    return "\n".join(lines)


def _tables(result: dict) -> list[tuple[list[str], list[list[str]]]]:
    """Headers and rows: all metrics of all images, and the main ones of each generator."""
    parts = {"all": result}
    if "unseen" in result:
        parts[f"not in train ({result['unseen']['count']:,})"] = result["unseen"]
    rows = [[title, *(_cell(p, key) for p in parts.values())] for key, title in NAMES.items()]
    tables = [(["metric", *parts], rows)]
    if "points" in result:
        tables += _point_tables(result)
    if "masks" in result:
        tables.append((["mask", *parts], _mask_rows(list(parts.values()))))
    keys = ("accuracy", "recall", "auc", "ap", "tpr_at_fpr_5", "ece")
    mask_keys = ("iou_altered", "f1", "ap")
    for kind in ("dataset", "generator"):
        named = dict(result.get(f"{kind}s", {}))
        if kind == "generator" and "never_seen" in result:
            others = result["never_seen"]
            named = {name + (" (never trained on)" if name in others["generators"] else ""): part
                     for name, part in named.items()}  # fmt: skip
            named[f"all {len(others['generators'])} never trained on"] = others
        rows = [
            [name, f"{part['count']:,}", *(_cell(part, key) for key in keys)]
            for name, part in named.items()
        ]
        if rows:
            tables.append(([kind, "images", *(NAMES[key] for key in keys)], rows))
        rows = [
            [name, *(shown(part["points"][point][rate])
                     for point in ("fpr_1", "fpr_5") for rate in ("tpr", "fpr"))]
            for name, part in named.items() if "fpr_1" in part.get("points", {})
        ]  # fmt: skip
        if rows:
            headers = [f"{what} at {point}" for point in ("fpr_1", "fpr_5")
                       for what in ("recall", "false alarms")]  # fmt: skip
            tables.append(([f"{kind}, by thresholds of validation", *headers], rows))
        rows = [
            [name, f"{part['masks']['altered']:,}",
             *(_cell(part["masks"], key) for key in mask_keys)]
            for name, part in named.items() if part.get("masks", {}).get("altered")
        ]  # fmt: skip
        if rows:
            headers = ("IoU", "pixel F1", "pixel AP")
            tables.append(([f"masks of {kind}", "altered images", *headers], rows))
    return tables


def _point_tables(result: dict) -> list[tuple[list[str], list[list[str]]]]:
    """What thresholds give, and how much is unsure."""
    rows = [
        [name + (f" ({POINTS[name]})" if name in POINTS else ""),
         f"{point['threshold']:.4f}", shown(point["fpr"]), shown(point["tpr"]),
         *(("-" if p is None else f"{p:.3f}") for p in point["precision"].values())]
        for name, point in result["points"].items()
    ]  # fmt: skip
    priors = [f"precision if 1 in {round(1 / float(p)):,}"
              for p in next(iter(result["points"].values()))["precision"]]  # fmt: skip
    tables = [(["threshold", "P(fake)", "false alarms", "recall", *priors], rows)]
    if unsure := result.get("unsure"):
        right = shown(unsure["accuracy"]) if unsure["accuracy"] else "-"
        tables.append((
            ["unsure from P(fake)", "to", "verdicts given", "accuracy of those"],
            [[f"{unsure['low']:.4f}", f"{unsure['high']:.4f}",
              shown(unsure["coverage"]), right]],
        ))  # fmt: skip
    if before := result.get("uncalibrated"):
        after = result["metrics"]
        tables.append((
            ["calibration", "before", "after"],
            [[NAMES[key], f"{before[key]:.4f}", f"{after[key]['value']:.4f}"]
             for key in ("log_loss", "ece")],
        ))  # fmt: skip
    return tables


def _mask_rows(parts: list[dict]) -> list[list[str]]:
    """The metrics of masks, and what has no interval."""
    masks = [part.get("masks") for part in parts]
    rows = [[title, *(_cell(m, key) if m else "-" for m in masks)]
            for key, title in MASK_NAMES.items()]  # fmt: skip
    rows.append(["IoU, mean of batches of 8 (note 000's)",
                 *(f"{m['batch_iou']:.4f}" if m else "-" for m in masks)])  # fmt: skip
    best = [m.get("best") if m else None for m in masks]
    rows.append(["IoU of altered images at its best threshold (flatters)", *(
        f"{b['iou_altered']:.4f} at {b['threshold']:.2f}" if b else "-" for b in best
    )])  # fmt: skip
    return rows


def _cell(part: dict, key: str) -> str:
    metric = part["metrics"].get(key)
    return "-" if metric is None else shown(metric)


def _html_tables(result: dict) -> Markup:
    return Markup("\n").join(html_table(headers, rows) for headers, rows in _tables(result))


def _draw(
    run: Run, result: dict, table: pa.Table, source: Files | Records | None
) -> list[tuple[str, Figure]]:
    readable = table.filter(pc.is_null(table["error"]))
    fake, scores = readable["label"].to_numpy() > 0, readable["p_fake"].to_numpy()
    drawn = []
    if fake.any() and not fake.all():
        drawn += [("roc", figures.roc(fake, scores)),
                  ("precision_recall", figures.precision_recall(fake, scores))]  # fmt: skip
        points = {name: point["threshold"] for name, point in run.info.get("points", {}).items()}
        if run.calibration:
            drawn.append(("thresholds", figures.thresholds(fake, scores, points, run.unsure)))
    if len(fake):
        matrix = figures.confusion_matrix(result["confusion"], run.classes)
        raw = readable["p_fake_raw"].to_numpy() if run.calibration else None
        drawn += [("reliability", figures.reliability(fake, scores, raw)), ("confusion", matrix)]
        parts = {
            name: (part["label"].to_numpy() > 0, part["p_fake"].to_numpy())
            for name, part in by_generator(readable).items()
        }
        if len(parts) > 1:
            drawn.append(("generators", figures.reliability_by_generator(parts)))
    if source is not None:
        drawn.append(("mistakes", figures.most_confident_errors(table, source, run.classes)))
    return drawn


def _history(run: Run) -> list[dict[str, float]]:
    path = run.path / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _constants(result: dict) -> list[str]:
    parts = {
        "all images": result, **result.get("datasets", {}), **result.get("generators", {})
    }  # fmt: skip
    return [f"{part['constant']} ({name})" for name, part in parts.items() if "constant" in part]


def _warnings(run: Run, results: dict, of_data: tuple[str, ...]) -> list[str]:
    found = list(of_data)
    found += [f"{split}: {text}" for split, r in results.items() for text in _constants(r)]
    for split, result in results.items():
        if "unseen" in result:
            copies = result["count"] - result["unseen"]["count"]
            found.append(f"{split}: {copies} images stand byte for byte in train too; "
                         "the column 'not in train' leaves them out.")  # fmt: skip
    if run.info["status"] == "interrupted":
        found.append(f"Training was interrupted after epoch {run.info['epochs']}.")
    return found


def _facts(run: Run) -> list[tuple[str, str]]:
    info, data = run.info, run.info["dataset"]
    counts = "; ".join(
        f"{split} {', '.join(f'{n:,} {c}' for c, n in classes.items())}"
        for split, classes in data["counts"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    return [
        ("images", counts), ("files skipped", str(data["skipped"])),
        ("dataset fingerprint", data["fingerprint"]), ("seed", str(info["seed"])),
        ("epochs", str(info.get("epochs"))), ("trained on", info["devices"]),
        ("seconds of training", str(info.get("training_seconds"))),
        *([("parameters", f"{info['parameters']:,}")] if "parameters" in info else []),
        ("created", info["created"]), ("git revision", info["git_revision"] or "-"),
        ("versions", versions), ("command", info["command"]),
    ]  # fmt: skip


def _what(run: Run) -> str:
    """What the detector is, and what it learned from."""
    data = run.info["dataset"]["name"]
    if run.is_ensemble:
        members = ", ".join(run.info["members"])
        return f"A fusion ({run.info['fusion']}) of {members} with weights from {data}"
    model = run.experiment().model
    masks = f" and the mask head {model.mask_head}" if model.mask_head else ""
    return f"{model.backbone} with the head {model.head}{masks}, trained on {data}"


def _pixels(run: Run) -> str:
    return " and of ".join(f"{v.size[0]} x {v.size[1]}" for v in run.views)


def _model_card(run: Run, results: dict) -> str:
    brought = "; ".join(f"{v.size[0]} x {v.size[1]} pixels (policy: {v.policy})" for v in run.views)
    about = "" if run.is_ensemble else f" {run.experiment().description}"
    facts = "\n".join(f"- {key}: {value}" for key, value in _facts(run))
    return f"""# {run.name}

A detector of fake images: {_what(run)}.{about}

Classes, in label order: {", ".join(run.classes)}. The first is authentic; P(fake) is one minus
its probability. Images are brought to {brought}.

## Limits

It was measured on images like those it was trained on. On other generators, cameras, sizes or
compressions it can be wrong with high confidence. {_calibrated(run)} One verdict is no proof.

## Metrics

```
{terminal_table(results)}```

## Training

{facts}

## Use from TensorFlow

```python
import tensorflow as tf

detector = tf.saved_model.load("{run.name}/saved_model")
files = [tf.io.read_file(path) for path in paths]
answer = detector.signatures["encoded"](encoded_images=tf.stack(files))
answer["p_fake"], answer["probabilities"], answer["class_names"]
```

The signature `serving_default` takes `images`, float32 [B, H, W, 3] in 0..255, any H and W.
{_MASK_USE if run.predicts_masks else ""}"""


def _calibrated(run: Run) -> str:
    found = run.calibration
    if not found:
        return "P(fake) is not calibrated."
    return (
        f"P(fake) is calibrated ({found['method']}) on {found['images']:,} validation images, of "
        f"which {found['fakes']:.0%} are fake; on other images it is not."
    )


_MASK_USE = """
Where an image was altered: `serving_default` also returns `mask`, P(altered) float32 [B, H, W, 1];
`encoded` returns `mask_png`, a gray PNG of each image's size, 255 for P(altered) 1.
"""
