"""One self-contained HTML page for one suspect image."""

import base64
import html
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import expit, logit

from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.html import figure_data, html_table, template
from tfdetect.core.run import Run
from tfdetect.data.sources import Files
from tfdetect.evaluation.overlays import THRESHOLD, overlay
from tfdetect.evaluation.predictions import predict_source
from tfdetect.explanation.file_metadata import Fact, format_of, read_metadata
from tfdetect.explanation.maps import FRONT_END, Explainer, feature_maps, views_of
from tfdetect.imaging.decode import decode
from tfdetect.imaging.degradations import parse_degradations
from tfdetect.imaging.geometry import window, windows
from tfdetect.imaging.read import read_image
from tfdetect.models.inference import predict_images, predicts_masks

_CHANGES = ("jpeg:95,jpeg:75,jpeg:50,webp:75,scale:0.9,scale:0.75,scale:0.5,screenshot:1.25,"
            "blur:1,noise:3,crop:0.9,darker:0.8,brighter:1.2,social:1,social:2")  # fmt: skip
_IN_WORDS = {
    "jpeg": "saved as JPEG {:g}", "webp": "saved as WebP {:g}", "scale": "shrunk to {:.0%}",
    "screenshot": "enlarged to {:.0%}", "blur": "blurred by {:g} px", "noise": "given noise ({:g})",
    "crop": "cropped to {:.0%}", "darker": "darkened to {:.0%}", "brighter": "brightened to {:.0%}",
    "social": "shared {:g}x",
}  # fmt: skip
_PRIORS = (0.5, 0.1, 0.01, 0.001)
_LARGEST = 1024  # pixels of a picture's longer side on the page
_SMALLEST = 256
_SANE = 0.5  # correlation with a shuffled network's map from which a map is not to be believed
_TINY = 1e-6

_MEANINGS = {
    "Grad-CAM": "which places of the last features raise the score (red) or lower it (blue)",
    "integrated gradients": "which pixels' difference from the image's mean color raises the "
    "score (red) or lowers it (blue)",
    "occlusion": "how far the score falls (red) or rises (blue) where a patch loses its texture",
    "attention": "where the transformer looks (red: more than evenly); it has no sign",
    FRONT_END: "what is left of the image for the network behind; gray is zero",
}

_PAGE = template(
    """<style>
.banner { padding: 1rem 1.2rem; border-radius: .4rem; margin: 1rem 0; }
.banner strong { font-size: 1.6rem; } .banner p { margin: .3rem 0; }
.fake { background: #f6d5d5; } .authentic { background: #d7ecd9; } .unsure { background: #fff3cd; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
        gap: 1rem; }
.grid figure { margin: 0; display: block; } figcaption { font-size: .9rem; color: #444; }
.grid img { width: 100%; image-rendering: {{ rendering }}; }
td, th { white-space: normal !important; text-align: left !important;
         overflow-wrap: break-word; vertical-align: top; }
</style>
<div class="banner {{ tone }}"><strong>{{ verdict }}</strong>
<p>P({{ fakes }}) = {{ chance }}</p>
{% for line in words %}<p>{{ line }}</p>{% endfor %}</div>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
<div class="grid">
{{ picture("the image", image) }}
{% if altered %}{{ picture("where it was altered", altered, "red, " ~ share ~ " of the pixels") }}
{% endif %}
</div>

<h2>How sure is that?</h2>
<p>{{ prior }}</p>
{{ chances }}
{% if points %}<p>The verdict at other thresholds, chosen on the detector's validation images:</p>
{{ points }}{% endif %}

<h2>Does it hold when the file is re-encoded?</h2>
<p>{{ stability }}</p>
<figure><img alt="P(fake) under re-encodings" src="data:image/png;base64,{{ curve }}"></figure>

<h2>Why did it say so?</h2>
<p>{{ seen }}</p>
<div class="grid">
{% for name, data, meaning in maps %}{{ picture(name, data, meaning) }}{% endfor %}
</div>
<p>{{ sanity }}</p>
{{ alike }}

<h2>What the file says of itself</h2>
<p>{{ said }}</p>
{{ facts }}

<h2>What the detector knows</h2>
{{ known }}
<p><small>A detector's verdict is evidence, not proof. It was measured on images like those it
was trained on; on others it can be sure and wrong. Maps show what moved this network's score, not
what a person would call a trace of forgery.</small></p>
""",
    macros="""{% macro picture(name, data, meaning="") %}<figure><img alt="{{ name }}"
src="data:image/png;base64,{{ data }}"><figcaption><b>{{ name }}</b>{% if meaning %}: {{ meaning }}
{% endif %}</figcaption></figure>{% endmacro %}
""",
)


def explain_files(
    run: Run, detector: keras.Model, table: pa.Table, pages: list[Path]
) -> Iterator[Path]:
    """Writes a page for each row of `predict_files` that could be read; yields their paths.

    Raises:
        UserError: a page cannot be written.
    """
    explainer = Explainer(detector, run.members)
    for row, page in zip(table.to_pylist(), pages):
        if row["error"] is None:
            yield write_page(run, explainer, _subject(run, detector, row), page)


@dataclass(frozen=True)
class Subject:
    """An image and what the detector said of it.

    Attributes:
        path: of the file.
        image: uint8 [H, W, 3].
        row: of `predict_files`.
        altered: P(altered), float32 [H, W]; None if the detector draws no masks.
    """

    path: Path
    image: np.ndarray
    row: dict
    altered: np.ndarray | None = None


def _subject(run: Run, detector: keras.Model, row: dict) -> Subject:
    image = decode(read_image(row["path"]))
    altered = None
    if predicts_masks(detector):
        altered = predict_images(detector, image[None], run.views)[1].numpy()[0, ..., 0]
    return Subject(Path(row["path"]), image.numpy(), row, altered)


def write_page(run: Run, explainer: Explainer, subject: Subject, path: Path) -> Path:
    """Writes one image's page.

    Raises:
        UserError: the page cannot be written.
    """
    row = subject.row
    held = _held(run, explainer.detector, subject)
    facts = read_metadata(subject.path)
    views, focus = _views(run, subject)
    maps = explainer.maps(views, focus)
    alike = explainer.sanity(views, maps, focus)
    unlike = _unlike(run, subject)
    warnings = [*unlike, *_warnings(run, subject, facts, held, alike)]
    p = row["p_fake"]
    names = run.classes[1:]
    tone, verdict = _verdict(run, row, strange=bool(unlike))
    shown = _middle_view(views[focus])
    page = _PAGE.render(
        title=f"Is {subject.path.name} authentic?",
        rendering="pixelated" if max(shown.shape) <= _SMALLEST else "auto",
        tone=tone, verdict=verdict, chance=_percent(p),
        fakes=names[0] if len(names) == 1 else "any of " + ", ".join(names),
        words=_words(run, row), warnings=warnings, image=_png(subject.image),
        altered=_png(overlay(subject.image, subject.altered >= THRESHOLD))
        if subject.altered is not None else "",
        share=f"{row.get('altered_share') or 0:.1%}",
        prior=_prior_text(run), chances=_chances(run, p), points=_points(run, p),
        stability=_stability(run, row, held), curve=_curve(run, row, held),
        seen=_seen(run, subject, focus), maps=_pictures(run, explainer, shown, maps),
        sanity="With the network's weights shuffled a map that shows what was learned must change. "
        "Rank correlation of each map with that of the shuffled network (0: unrelated, 1: the "
        f"same; from {_SANE:g} on the map shows the image more than the detector):",
        alike=html_table(["map", "correlation"], [[n, f"{v:.2f}"] for n, v in alike.items()]),
        said="All but a valid signature can be rewritten by anybody, and most sites remove it: "
        "nothing found proves nothing.",
        facts=html_table(["", "", ""], [[f.name, f.value, f.meaning] for f in facts]),
        known=_known(run),
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise UserError(f"Writing {path} failed: {error.strerror}.") from error
    return path


def _held(run: Run, detector: keras.Model, subject: Subject) -> dict[str, float]:
    """P(fake) under each change of the image."""
    changes = parse_degradations(_CHANGES)

    def change(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        branches = [lambda c=c: tf.ensure_shape(c(image, index), [None, None, 3]) for c in changes]
        return tf.switch_case(tf.cast(index, tf.int32), branches)

    source = Files([str(subject.path)] * len(changes))
    table = predict_source(run, detector, source, len(changes), progress=False, change=change)
    return {c.name: p for c, p in zip(changes, table["p_fake"].to_pylist()) if p is not None}


def _views(run: Run, subject: Subject) -> tuple[list[np.ndarray], int]:
    """What the detector sees, float32 [1, (crops,) H, W, 3] each, and which view to map.

    Of a detector that draws masks on windows it is the window where it drew most.
    """
    view = run.views[0]
    if subject.altered is not None and view.policy.startswith("window"):
        reach = [min(a, b) for a, b in zip(view.size, subject.image.shape)]
        mean = cv2.blur(subject.altered, reach[::-1])
        middle = np.unravel_index(int(mean.argmax()), mean.shape)
        place = [  # of a window around it, from 0 to 1
            float(np.clip((m - s / 2) / max(n - s, 1), 0, 1))
            for m, s, n in zip(middle, view.size, subject.image.shape)
        ]  # fmt: skip
        small = view.policy.removeprefix("window_")
        cut = window(tf.constant(subject.image), view.size, small, place)
        return [cut.numpy()[None].astype(np.float32)], 0
    return views_of(run, [
        windows(tf.constant(subject.image[None]), v.size, v.policy, v.crops).numpy()
        for v in run.views
    ])  # fmt: skip


def _middle_view(view: np.ndarray) -> np.ndarray:
    """The image uint8 [H, W, 3] that maps of a view lie on."""
    image = view[0] if view.ndim == 4 else view[0, view.shape[1] // 2]
    return image.astype(np.uint8)


def _verdict(run: Run, row: dict, strange: bool) -> tuple[str, str]:
    """The banner's class and headline."""
    if strange:
        return "unsure", f"Judged {row['verdict']}, by a detector not made for such images"
    if row["unsure"]:
        return "unsure", f"Unsure, leaning to {row['verdict']}"
    if row["verdict"] == run.classes[0]:
        return "authentic", f"Judged {row['verdict']}: no trace found that this detector knows"
    return "fake", f"Judged {row['verdict']}"


def _words(run: Run, row: dict) -> list[str]:
    p, found = row["p_fake"], run.calibration
    if found is None:
        return [
            "The score was never calibrated: it orders images, and is no probability. "
            "(python -m tfdetect.calibrate makes one of it.)"
        ]
    share = f"of which {found['fakes']:.0%} are fake"
    if "prior" in found:
        share = f"if {_percent(found['prior'])} of them were fake"
    lines = [
        f"Of images like the {found['images']:,} it was calibrated on, {share}, {_of_hundred(p)} "
        "with such a score are fake."
    ]
    if row["unsure"]:
        low, high = run.unsure
        lines.append(
            f"Between {_percent(low)} and {_percent(high)} this detector is wrong too often to "
            "give a verdict."
        )
    if len(run.classes) > 2:
        shares = ", ".join(f"{c} {_percent(row[f'probability_{c}'])}" for c in run.classes)
        lines.append(f"By class: {shares}.")
    return lines


def _of_hundred(p: float) -> str:
    if p > 0.995:
        return "more than 99 in 100"
    if p < 0.005:
        return "fewer than 1 in 100"
    return f"about {max(1, round(100 * p))} in 100"


def _percent(p: float) -> str:
    """As a percentage, never 0% or 100%."""
    if 0.001 <= p <= 0.999:
        return f"{p:.1%}"
    if p < 0.0001:
        return "less than 0.01%"
    return f"{p:.2%}" if p <= 0.9999 else "more than 99.99%"


def _prior_text(run: Run) -> str:
    if run.calibration is None:
        return "Without a calibration it cannot be said."
    return (
        "It depends on how many fakes there are where the image comes from. The same evidence "
        "gives, if of a hundred or a thousand such images so many are fake:"
    )


def _chances(run: Run, p: float) -> Markup | str:
    if run.calibration is None:
        return ""
    share = run.calibration.get("prior", run.calibration["fakes"])
    more = logit(np.clip(p, _TINY, 1 - _TINY)) - logit(share)
    names = {0.5: "one in two", 0.1: "one in ten", 0.01: "one in a hundred",
             0.001: "one in a thousand"}  # fmt: skip
    rows = [[names[prior], _percent(float(expit(more + logit(prior))))] for prior in _PRIORS]
    return html_table(["fakes among such images", "probability that this one is"], rows)


def _points(run: Run, p: float) -> Markup | str:
    texts = {"fpr_1": "1% of authentic images called fake", "fpr_5": "5% of them",
             "eer": "as many fakes missed as false alarms", "balanced": "best balanced accuracy",
             "cost": "least cost of mistakes"}  # fmt: skip
    rows = [
        [texts.get(name, name), _percent(point["threshold"]), f"{point['tpr']:.1%}",
         "fake" if p >= point["threshold"] else "authentic"]
        for name, point in run.info.get("points", {}).items()
    ]  # fmt: skip
    return (
        html_table(["chosen for", "fake from", "fakes found", "this image"], rows) if rows else ""
    )


def _stability(run: Run, row: dict, held: dict[str, float]) -> str:
    before = row["p_fake"] >= run.threshold
    same = sum((p >= run.threshold) == before for p in held.values())
    lost = [name for name, p in held.items() if (p >= run.threshold) != before]
    text = f"The verdict holds in {same} of {len(held)} re-encodings and resizings."
    if not lost:
        return text
    return f"{text} It changes when the image is {', '.join(map(_said, lost))}."


def _said(change: str) -> str:
    """A degradation's name in words."""
    kind, _, strength = change.partition(":")
    return _IN_WORDS[kind].format(float(strength))


def _curve(run: Run, row: dict, held: dict[str, float]) -> str:
    names = ["as it is", *map(_said, held)]
    values = [row["p_fake"], *held.values()]
    figure = Figure(figsize=(6, 0.27 * len(names) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    colors = ["#b2182b" if p >= run.threshold else "#1b7837" for p in values]
    places = np.arange(len(names))[::-1]
    axes.hlines(places, 0, values, color=colors, linewidth=1)
    axes.scatter(values, places, color=colors, zorder=3)
    axes.axvline(run.threshold, color="gray", linestyle="--", linewidth=1)
    axes.text(run.threshold, len(names) - 0.4, "fake from here", fontsize=8, color="gray",
              ha="center")  # fmt: skip
    axes.set_yticks(places, names)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.1), xlabel="P(fake)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure_data(figure)


def _seen(run: Run, subject: Subject, focus: int) -> str:
    height, width = subject.image.shape[:2]
    view = run.views[focus]
    tall, wide = view.size
    how = {
        "stretch": "the whole image, resized", "crop": "its middle, resized",
        "pad": "the whole image, resized and padded",
    }  # fmt: skip
    if view.policy.startswith("window"):
        drawn = subject.altered is not None
        place = "the window where it drew most" if drawn else "the middle window"
        what = f"{place}, at the image's own resolution"
    else:
        same = (height, width) == (tall, wide)
        what = "the whole image, as it is" if same else how[view.policy]
    return (
        f"The detector looks at {wide} x {tall} pixels: {what} (the image has {width} x {height}). "
        "Red speaks for fake, blue for authentic; each map is scaled to its own largest value."
    )


def _pictures(run: Run, explainer: Explainer, shown: np.ndarray, maps: dict) -> list[tuple]:
    pictures = [("what it sees", _png(shown), "")]
    if len(run.views) == 1:
        features = feature_maps(explainer.detector)(shown[None].astype(np.float32))
        if FRONT_END in features:
            pictures.append((FRONT_END, _png(_residual(features[FRONT_END][0])),
                             _MEANINGS[FRONT_END]))  # fmt: skip
    for name, drawn in maps.items():
        signed = drawn - 1 if name == "attention" else drawn
        meaning = _MEANINGS.get(name) or _MEANINGS[name.partition(",")[0]]
        pictures.append((name, _png(heat(shown, signed)), meaning))
    return pictures


def heat(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A signed map over the image in gray: red above zero, blue below.

    Args:
        image: uint8 [H, W, 3].
        drawn: float [H, W]; scaled to its 99.5th percentile.

    Returns:
        uint8 [H, W, 3].
    """
    size = np.percentile(np.abs(drawn), 99.5) or 1.0
    share = np.clip(drawn / size, -1, 1)
    color = matplotlib.colormaps["RdBu_r"](0.5 + share / 2)[..., :3] * 255
    gray = image.mean(2, keepdims=True) * 0.6 + 90
    mix = np.sqrt(np.abs(share))[..., None] * 0.85
    return np.clip(gray * (1 - mix) + color * mix, 0, 255).astype(np.uint8)


def _residual(values: np.ndarray) -> np.ndarray:
    """What a front-end leaves, [h, w, C], as a picture: three channels, or the mean of many."""
    if values.shape[2] not in (1, 3):
        values = values.mean(2, keepdims=True)
    size = np.percentile(np.abs(values), 99) or 1.0
    picture = 127.5 + 127.5 * np.clip(values / size, -1, 1)
    return np.repeat(picture, 3 // values.shape[2], axis=2).astype(np.uint8)


def _png(image: np.ndarray) -> str:
    """A picture in base64, small ones enlarged without blur and large ones shrunk."""
    picture = Image.fromarray(image)
    longer = max(picture.size)
    if longer > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    elif longer < _SMALLEST:
        factor = math.ceil(_SMALLEST / longer)
        picture = picture.resize([s * factor for s in picture.size], Image.Resampling.NEAREST)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def _warnings(
    run: Run, subject: Subject, facts: list[Fact], held: dict[str, float], alike: dict[str, float]
) -> list[str]:
    """What the reader must know before the rest."""
    found = [
        f"The file's {f.name} says {f.value!r}: {f.meaning}."
        for f in facts if f.kind == "generated"
    ]  # fmt: skip
    before = subject.row["p_fake"] >= run.threshold
    lost = sum((p >= run.threshold) != before for p in held.values())
    if 3 * lost > len(held):
        found.append(
            f"The verdict is fragile: {lost} of {len(held)} harmless re-encodings change it."
        )
    bare = [name for name, value in alike.items() if value >= _SANE]
    if bare:
        found.append(
            f"The map {' and '.join(bare)} hardly changes when the network's weights are shuffled: "
            "it shows the image more than what the detector learned."
        )
    return found


def _unlike(run: Run, subject: Subject) -> list[str]:
    """In what the image is unlike those the detector was trained on."""
    seen, found = run.info["dataset"].get("seen", {}), []
    height, width = subject.image.shape[:2]
    side = min(height, width)
    if "shorter_side" in seen:
        low, _, high = seen["shorter_side"]
        if not low / 1.5 <= side <= high * 1.5:
            sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            found.append(
                f"The image's shorter side has {side} pixels; those it was trained on have "
                f"{sizes}. Traces of generators rarely survive such a difference: do "
                "not rely on the verdict."
            )
    kind = format_of(subject.path)
    if kind and seen.get("formats") and kind not in seen["formats"]:
        found.append(
            f"The file is {kind}; the detector was trained on {', '.join(seen['formats'])} alone."
        )
    view = run.views[0]
    if not view.policy.startswith("window") and not found and side > 1.5 * max(view.size):
        found.append(
            f"The image is shrunk from {width} x {height} to the detector's "
            f"{view.size[1]} x {view.size[0]} pixels: what was finer than that is not looked at."
        )
    return found


def _known(run: Run) -> Markup:
    data = run.info["dataset"]
    counts = data.get("counts", {}).get("train", {})
    rows = [["detector", run.name], ["trained on", data["name"]]]
    if counts:
        rows.append(["training images", ", ".join(f"{n:,} {c}" for c, n in counts.items())])
    rows.append(["fakes it was shown", ", ".join(_generators(run)) or "not recorded"])
    seen = data.get("seen", {})
    if seen.get("formats"):
        rows.append(["their formats", ", ".join(seen["formats"])])
    if "shorter_side" in seen:
        low, middle, high = seen["shorter_side"]
        sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}, half of them up to {middle:,}"
        rows.append(["their shorter side", f"{sizes} pixels"])
    test = run.metrics().get("test", {}).get("metrics", {})
    for name, text in (
        ("accuracy", "accuracy on its test images"),
        ("recall", "fakes found there"),
    ):
        if test.get(name, {}).get("value") is not None:
            m = test[name]
            rows.append([text, f"{m['value']:.1%} [{m['low']:.1%}, {m['high']:.1%}]"])
    rows.append([
        "not trained on", "every other generator, editor, camera, size and encoding; of those its "
        "accuracy is not known, and is often near chance (python -m tfdetect.matrix measures it)",
    ])  # fmt: skip
    return html_table(["", ""], rows)


def _generators(run: Run) -> list[str]:
    seen = run.info["dataset"].get("seen", {})
    if seen.get("generators"):
        return [html.unescape(name) for name in seen["generators"]]
    path = run.path / "predictions" / "validation.parquet"
    if path.is_file() and "generator" in pq.read_schema(path).names:
        names = pq.read_table(path, columns=["generator"])["generator"].cast(pa.string())
        return sorted(filter(None, set(names.to_pylist())))
    return []
