"""The report of a run: one HTML page, its figures, and a model card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.core import html
from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.files import write_text
from tfdetect.core.run import Run
from tfdetect.core.run_results import SplitResult, SplitResults, ordered
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation import figures as draw
from tfdetect.evaluation import result_tables
from tfdetect.evaluation.evaluate_run import Evaluation, MaskExamples, write_results
from tfdetect.evaluation.metrics import class_weights
from tfdetect.evaluation.model_card import model_card
from tfdetect.evaluation.prediction_tables import by_generator, ranks_of
from tfdetect.evaluation.result_tables import ResultTable, guesses, warnings_of
from tfdetect.evaluation.run_description import (
    calibration_sentence,
    cross_fitting_sentence,
    describe_detector,
    facts,
    fake_means,
    input_sentence,
    mask_threshold_sentence,
    threshold_sentence,
)
from tfdetect.evaluation.summary import TITLES, summary
from tfdetect.evaluation.training_history import read_history, training_warnings

CARD_TITLES = {"ece": "calibration error", "mask_iou": "mask IoU", "mask_f1": "pixel F1"}


def write_evaluation(found: Evaluation, output: Path) -> None:
    """Write all that an evaluation leaves: predictions/, metrics.json, figures/ and report.html.

    Args:
        found: what `evaluate_run` returned.
        output: folder to write into; the run's own gets model_card.md, too. For a finished run it
            is a staged copy (`run_writer.updating`), which replaces the run in one step.
    """
    _write_report(found, output)
    write_results(found, output)


def _write_report(found: Evaluation, output: Path) -> None:
    run, results, dataset = found.run, found.results, found.dataset
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):  # of an earlier evaluation
        old.unlink()
    parts = {
        split: _SplitReport(run, split, results[split], found.tables[split], found.catalog, folder,
                            found.examples.get(split, {}))
        for split in ordered(results)
    }  # fmt: skip
    first, *others = parts.values()
    own = dataset == run.info.dataset.name
    transfer = result_tables.transfer_tables(run.transfer)
    warnings = [*training_warnings(run, results), *run.info.dataset.warnings] if own else []
    warnings = list(dict.fromkeys([*warnings, *found.data_warnings]))
    sections = [
        html.Section(f"{first.title} results", first.metrics()),
        html.Section("Thresholds and calibration", html.join(
            html.text(calibration_sentence(run), threshold_sentence(run)), first.thresholds(),
            html.text(cross_fitting_sentence(run), small=True) if run.info.cross_fitted else None,
        )),
        html.Section("ROC, precision and confusion matrix", first.curves()),
        html.Section("Masks", first.masks()),
        html.Section("Videos", first.videos()),
        html.Section("Gain and forgetting", html.join(*map(_html, transfer if own else ()))),
        html.Section("Results by dataset", first.by_part("dataset")),
        html.Section("Results by generator", first.by_part("generator")),
        html.Section("Most confident errors", first.errors()),
        *(html.Section(f"{part.title} results", part.everything()) for part in others),
        html.Section("Ensemble" if run.is_ensemble else "Training", _training(run, folder)),
        html.Section("Members" if run.is_ensemble else "Experiment", html.join(
            html.text("The resolved configuration, which trains the same detector again."),
            html.code(run.document),
        )),
    ]  # fmt: skip
    shown = [f"{first.split}: {text}" for text in guesses(first.result)]  # as the verdict
    page = html.render_page(
        run.name if own else f"{run.name} on {dataset}",
        sections,
        subtitle=f"{describe_detector(run)}; evaluated on {dataset}, classes "
        f"{', '.join(run.class_names)}.",
        verdict=_verdict(first),
        cards=_cards(first),
        notes=[
            html.note(warning)
            for warning in _warnings(run, results, warnings)
            if warning not in shown
        ],
        lead=html.text(
            f"Figures are of the {first.split} split unless the heading names another. Brackets "
            "hold 95% intervals: what they may be for other images like these. P(fake) is "
            f"1 - P({run.class_names[0]}){_assumed(run)}. {fake_means(run)}".rstrip(),
            input_sentence(run),
            small=True,
        ),
    )
    write_text(output / "report.html", page)
    if output == run.path:
        write_text(output / "model_card.md", model_card(run, results))


def _assumed(run: Run) -> str:
    """Return which fraction of fakes P(fake) assumes; "" if it is no probability."""
    prior = run.info.prior
    return "" if prior is None else f", and assumes that {prior:.0%} of the images are fake"


class _SplitReport:
    """The tables and figures of one split, as parts of the page."""

    def __init__(
        self,
        run: Run,
        split: str,
        result: SplitResult,
        predictions: pa.Table,
        catalog: Catalog | None,
        folder: Path,
        examples: MaskExamples,
    ):
        self.run, self.split, self.result = run, split, result
        self.title = "All images:" if split == "all" else split.capitalize()
        self.predictions = predictions
        self._readable = predictions.filter(pc.is_null(predictions["error"]))
        self._fake = self._readable["label"].to_numpy() > 0
        self._scores = self._readable["p_fake"].to_numpy()
        self._mixed = bool(self._fake.any() and not self._fake.all())
        self._catalog, self._folder, self._examples = catalog, folder, examples

    def metrics(self) -> Markup:
        """Return the number of images and the table of metrics."""
        images = counted(self.result["count"], "image")
        if self.result["unreadable"]:
            images += f"; {self.result['unreadable']:,} more could not be read"
        alone = ""
        if not self._mixed and len(self._fake):
            kind, rate = ("fakes", "recall") if self._fake.any() else (
                "authentic images", "false positive rate")  # fmt: skip
            alone = (
                f"All of them are {kind}, so they give the {rate} and nothing about the other "
                "class."
            )
        found = result_tables.metric_table(self.result)
        return html.join(
            html.text(f"{images}. {alone}"),
            _html(found, caption=False),
            _html(result_tables.class_table(self.result)),
        )

    def thresholds(self) -> Markup:
        """Return operating points, abstention, calibration and their figures."""
        found = [
            _html(result_tables.operating_point_table(self.result)),
            _html(result_tables.abstention_table(self.result)),
            _html(result_tables.domain_table(self.result)),
            _html(result_tables.calibration_table(self.result)),
        ]
        if not self._mixed:
            return html.join(*found)
        points = {"verdict": self.run.threshold}
        points |= {n: p.threshold for n, p in self.run.info.operating_points.items()}
        low, high = band = self.run.abstention_band
        effect = self._save(
            "thresholds",
            draw.thresholds(self._fake, self._scores, points, band),
            "Recall, false positive rate and precision for every threshold of P(fake), with the "
            "operating points as vertical lines",
            "Effect of the threshold",
            "The verdict is fake from its threshold on"
            + ("; in the shaded band it is inconclusive." if low < high else "."),
        )
        raw = self._readable["p_fake_raw"].to_numpy() if self.run.calibration else None
        prior = self.run.info.prior
        weighted = f" The classes are weighted to {prior:.0%} fakes." if prior is not None else ""
        reliability = self._save(
            "reliability",
            draw.reliability(self._fake, self._scores, raw, _weights(self._readable, self.run)),
            "Fraction of fakes among images by P(fake); a calibrated detector follows the diagonal",
            "Reliability",
            "A calibrated detector follows the dotted diagonal. The gray bars count the images."
            + weighted,
        )
        return html.join(*found, html.figures([effect], "wide"), html.figures([reliability]))

    def curves(self) -> Markup:
        """Return the figures of ranking and of confusion."""
        pictures = []
        if self._mixed:
            auc = self.result["metrics"]["auc"]["value"]
            pictures += [
                self._save("roc", draw.roc(self._fake, ranks_of(self._readable)),
                           f"ROC curve with an area of {auc:.4f}", "ROC",
                           "The dotted line is chance."),
                self._save("precision_recall",
                           draw.precision_recall(self._fake, ranks_of(self._readable)),
                           "Precision over recall of the fakes", "Precision and recall",
                           "The dotted line is the fraction of fakes."),
            ]  # fmt: skip
        if len(self._fake):
            counts = self.result["confusion"]
            pictures.append(self._save(
                "confusion", draw.confusion_matrix(counts, self.run.class_names),
                "Number of images by true class and verdict", "Confusion matrix",
                "Percentages are of the true class.",
            ))  # fmt: skip
        return html.figures(pictures)

    def masks(self) -> Markup:
        """Return the metrics of masks, and the best and worst of them."""
        pictures = [
            self._save(f"masks_{name}", draw.localization(rows),
                       f"The {name} predicted masks of altered images, next to the true masks",
                       f"{name.capitalize()} masks", "By IoU, among the altered images.")
            for name, rows in self._examples.items() if rows
        ]  # fmt: skip
        found = result_tables.mask_table(self.result)
        coverage = result_tables.coverage_table(self.result)
        rule = html.text(mask_threshold_sentence(self.run)) if found is not None else None
        return html.join(
            rule, _html(found, caption=False), _html(coverage), html.figures(pictures, "wide")
        )

    def videos(self) -> Markup:
        """Return the metrics of videos."""
        return _html(result_tables.video_table(self.result), caption=False)

    def by_part(self, kind: str) -> Markup:
        """Return the metrics of each dataset or generator."""
        found = result_tables.part_tables(self.result, kind)
        pictures = []
        if kind == "generator":
            parts = {}
            for name, part in by_generator(self._readable).items():
                fake = part["label"].to_numpy() > 0
                if fake.any() and not fake.all():
                    parts[name] = fake, part["p_fake"].to_numpy(), _weights(part, self.run)
            if len(parts) > 1:
                names = list(parts)[: draw.MAX_GENERATORS]
                pictures.append(self._save(
                    "generators", draw.reliability_by_generator(parts),
                    f"Fraction of fakes by P(fake) for {', '.join(names)}",
                    "Reliability by generator",
                    "A detector that is calibrated for a generator follows the dotted diagonal.",
                ))  # fmt: skip
        return html.join(*map(_html, found), html.figures(pictures))

    def errors(self) -> Markup:
        """Return the misclassified images with the highest confidence."""
        if self._catalog is None:
            return Markup("")
        source = image_source(self._catalog, self._catalog.split(self.split))
        pictures = draw.most_confident_errors(self.predictions, source, self.run.class_names)
        if not pictures:
            return html.text("Every verdict is right.")
        return html.join(
            html.text("Wrong verdicts, the most confident first. Wrong labels often show here."),
            html.figures(pictures, "thumbnails"),
        )

    def everything(self) -> Markup:
        """Return all parts below one heading, for a split that is not the main one."""
        parts = {
            "Thresholds and calibration": self.thresholds(),
            "ROC, precision and confusion matrix": self.curves(),
            "Masks": self.masks(),
            "Videos": self.videos(),
            "Results by dataset": self.by_part("dataset"),
            "Results by generator": self.by_part("generator"),
            "Most confident errors": self.errors(),
        }
        titles = {
            "validation": "The validation split selected the best epoch, the calibration and the "
            "thresholds, so its figures are optimistic."
            if self.run.info.cross_fitted is None
            else cross_fitting_sentence(self.run),
            "train": "The detector was trained on these images, so the figures are optimistic.",
        }
        sections = []
        for title, body in parts.items():
            if body:
                name = title if title.startswith("ROC") else title[0].lower() + title[1:]
                sections += [html.heading(f"{self.title}: {name}"), body]
        return html.join(html.text(titles.get(self.split, "")), self.metrics(), *sections)

    def _save(self, name: str, figure: Figure, alt: str, title: str, caption: str) -> html.Picture:
        return html.picture_of(
            figure, alt, title, caption, self._folder / f"{self.split}_{name}.png"
        )


def _weights(part: pa.Table, run: Run) -> np.ndarray | None:
    """Return the weights with which the classes are as frequent as P(fake) assumes."""
    prior = run.info.prior
    return None if prior is None else class_weights(part["label"].to_numpy() > 0, prior)


def _verdict(first: "_SplitReport") -> html.Verdict | None:
    """Return that guesses may be as good, where the AUC says so; figures say the rest."""
    found = guesses(first.result)
    if not found:
        return None
    title = "The detector is not shown to be better than guessing"
    return html.Verdict(title, f"{first.title} {found[0]}", "bad")


def _cards(first: "_SplitReport") -> list[html.Card]:
    """Return the headline figures: what matters most, of the most important split."""
    cards = []
    for name, value in summary({first.split: first.result}).items():
        if name == "mask_ap":
            continue
        percent = "accuracy" in name or name in ("fpr", "recall", "tpr_at_fpr_1", "tpr_at_fpr_5")
        form = "{:.1%}" if percent else "{:.3f}"
        ends = [form.format(value[end]) for end in ("low", "high") if value[end] is not None]
        cards.append(html.Card(
            form.format(value["value"]), f"{first.split} {CARD_TITLES.get(name, TITLES[name])}",
            " to ".join(ends) or "one image tells no interval",
        ))  # fmt: skip
    band = first.result.get("abstention")
    if band and (covered := band["coverage"]["value"]) is not None:
        cards.append(html.Card(
            f"{1 - covered:.1%}", f"{first.split} images inconclusive",
            "their P(fake) is inside the abstention band",
        ))  # fmt: skip
    return cards


def _html(found: ResultTable | None, caption: bool = True) -> Markup:
    if found is None or not found.rows:
        return Markup("")
    return html.join(
        html.table(found.headers, found.rows, found.title if caption else "", found.title),
        html.text(found.explanation, small=True) if found.explanation else None,
    )


# Columns of the table of epochs, by their names in history.csv.
_EPOCH = {
    "epoch": "Epoch", "log_loss": "Log loss", "accuracy": "Accuracy", "mask_iou": "Mask IoU",
    "val_log_loss": "Validation log loss", "val_accuracy": "Validation accuracy",
    "val_auc": "Validation AUC", "val_mask_iou": "Validation mask IoU",
    "learning_rate": "Learning rate",
}  # fmt: skip


def _training(run: Run, folder: Path) -> Markup:
    history = read_history(run)
    pictures, epochs = [], None
    if history:
        last = history[-1]
        pictures.append(html.picture_of(
            draw.training_curves(history),
            f"Training and validation metrics by epoch; the last validation accuracy is "
            f"{last['val_accuracy']:.4f}",
            "Training curves", path=folder / "training.png",
        ))  # fmt: skip
        names = [name for name in _EPOCH if all(name in row for row in history)]
        rows = [[_epoch_cell(name, row[name]) for name in names] for row in history]
        where = _masks_of_epochs(run) if "val_mask_iou" in names else ""
        epochs = html.details("Every epoch", html.join(
            html.table([_EPOCH[name] for name in names], rows), html.text(where, small=True),
        ))  # fmt: skip
    return html.join(
        html.figures(pictures, "wide"),
        epochs,
        html.table(["", ""], facts(run), label="training facts"),
    )


def _masks_of_epochs(run: Run) -> str:
    """Return on what the masks of each epoch are measured."""
    windows = any(cuts_windows(view.policy) for view in run.views)
    what = "one window of each image" if windows else "images of the size that the network sees"
    return (
        f"The mask IoU of an epoch is measured on {what}, that of the results on whole images in "
        "their own size: do not compare them."
    )


def _epoch_cell(name: str, value: float) -> str:
    forms = {"epoch": ".0f", "learning_rate": ".3g"}
    return format(value, forms.get(name, ".4f"))


def _warnings(run: Run, results: SplitResults, data_warnings: Sequence[str]) -> list[str]:
    of_splits = [(s, text) for s in ordered(results) for text in warnings_of(s, results[s])]
    found = [w for w in data_warnings if not any(text in w for _, text in of_splits)]
    if run.info.cross_fitted is False:
        found.append(cross_fitting_sentence(run))
    found += [f"{split}: {text}" for split, text in of_splits]
    if run.info.status == "interrupted":
        when = f"after epoch {run.info.epochs}" if run.info.epochs else "in its first epoch"
        found.append(f"Training was interrupted {when}.")
    return found
