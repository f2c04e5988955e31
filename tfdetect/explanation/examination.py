"""Computes what the page of one image shows: verdict, re-encodings, maps and metadata."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run
from tfdetect.core.text import span, to_os
from tfdetect.evaluation.predictions import CompiledDetector, predict_changed
from tfdetect.evaluation.stability import changed_by, reencoding, reencodings_of
from tfdetect.evaluation.verdict_words import Outcome, percent
from tfdetect.evaluation.verdicts import shown_mask
from tfdetect.explanation.feature_maps import FRONT_END, feature_maps
from tfdetect.explanation.maps import Explainer
from tfdetect.explanation.views import Views, middle_window, views_of_parts
from tfdetect.forensics.evidence import Evidence, evidence
from tfdetect.forensics.file_metadata import Fact, format_of, read_metadata
from tfdetect.imaging.degradations import parse_degradations
from tfdetect.imaging.geometry import view_parts, window
from tfdetect.imaging.read import decode_any

SHRINK_TOLERANCE = 1.5  # from this factor on, the page says that shrinking loses detail


@dataclass(frozen=True)
class Examination:
    """What is known about one image.

    Attributes:
        path: the path of the file.
        sha256: the SHA-256 of its bytes, hexadecimal.
        image: uint8 [H, W, 3].
        row: its prediction, a row of `predict_files`: p_fake, verdict, inconclusive, ...
        altered: P(altered), float32 [H, W]; None if the detector predicts no masks.
        reencoded: P(fake) after each re-encoding, by the name of the degradation.
        facts: metadata of the file.
        evidence: all evidence, one line for each piece, with the headline.
        differences: sentences on how the image differs from the training images.
        unseen: a sentence if the detector sees only a part or a much smaller copy; else "".
        view_image: what the detector sees, over which the maps are drawn, uint8 [h, w, 3].
        view: number of that view in the run.
        front_end: output of the front-end, float [h, w, C]; None without a front-end.
        maps: explanation maps by name, float32 [h, w].
        sanity: rank correlation of each map with that of the network with shuffled weights.
    """

    path: Path
    sha256: str
    image: np.ndarray
    row: dict[str, Any]
    altered: np.ndarray | None
    reencoded: dict[str, float]
    facts: list[Fact]
    evidence: Evidence
    differences: list[str]
    unseen: str
    view_image: np.ndarray
    view: int
    front_end: np.ndarray | None
    maps: dict[str, np.ndarray]
    sanity: dict[str, float]

    def changed_by(self, run: Run) -> dict[str, Outcome]:
        """Return the re-encodings that change the verdict, with the verdict after each."""
        return changed_by(run, self.row["p_fake"], self.reencoded)


class Examiner:
    """Examines images with one detector, which is compiled once.

    Args:
        run: the run.
        detector: its compiled model.
        max_pixels: images with more pixels are refused.
    """

    def __init__(self, run: Run, detector: CompiledDetector, max_pixels: int = MAX_PIXELS):
        self.run, self._detector, self._max_pixels = run, detector, max_pixels
        self._explainer = Explainer(detector.model, run.info.members)
        self._feature_maps = feature_maps(detector.model) if len(run.views) == 1 else None

    def examine(
        self, row: dict[str, Any], on_step: Callable[[str], None] = lambda _: None
    ) -> Examination:
        """Examine one image.

        Args:
            row: a row of `predict_files`, of a file that could be read.
            on_step: called with the name of each step before it begins.
        """
        run, path = self.run, Path(to_os(row["path"]))
        on_step("reading")
        content = tf.io.read_file(os.fsencode(path))
        decoded, altered = decode_any(content, self._max_pixels), None
        image = decoded.numpy()
        if self._detector.predicts_masks:
            on_step("mask")
            altered = self._detector.images(decoded[None]).masks.numpy()[0, ..., 0]
            altered = shown_mask(altered, row["p_fake"], run.mask_threshold)
        views, view = _views(run, image, altered)
        view_image = middle_window(views[view]).astype(np.uint8)
        maps = self._explainer.maps(views, view, on_step=on_step)
        front_end = None
        if self._feature_maps is not None:
            features = self._feature_maps(view_image[None].astype(np.float32))
            front_end = features[FRONT_END][0] if FRONT_END in features else None
        on_step("test of the maps")
        sanity = self._explainer.sanity(views, maps, view)
        reencoded = self._score_reencodings(decoded, on_step)
        on_step("evidence")
        kind = format_of(path, self._max_pixels)
        differences = training_differences(run, row, image.shape[:2], kind)
        return Examination(
            path=path, sha256=hashlib.sha256(content.numpy()).hexdigest(), image=image, row=row,
            altered=altered, reencoded=reencoded, facts=read_metadata(path, self._max_pixels),
            evidence=evidence(path, [(run, row)], image, self._max_pixels),
            differences=differences,
            unseen="" if differences else _unseen(run, image.shape[:2]), view_image=view_image,
            view=view, front_end=front_end, maps=maps, sanity=sanity,
        )  # fmt: skip

    def _score_reencodings(
        self, image: tf.Tensor, on_step: Callable[[str], None]
    ) -> dict[str, float]:
        """Return P(fake) after each re-encoding, by name of the degradation.

        Re-encodings that are impossible for the image are left out.

        Args:
            image: uint8 [H, W, 3].
            on_step: see `examine`.
        """
        names = reencodings_of(self._detector.predicts_masks, tuple(image.shape[:2]))
        changes = parse_degradations(",".join(names))
        scores = predict_changed(self.run, self._detector, image, [c.of for c in changes])
        found = {}
        for change in changes:
            on_step(reencoding(change.name))
            p_fake = next(scores)  # computed now
            if p_fake is not None:
                found[change.name] = p_fake
        return found


def training_differences(
    run: Run, row: dict[str, Any], size: tuple[int, int], kind: str
) -> list[str]:
    """Return how an image differs from the images that a run was trained on.

    Args:
        run: the run.
        row: a row of `predict_files`, whose `domain_reasons` say in what it differs.
        size: height and width in pixels.
        kind: format of the file.

    Returns:
        Sentences; [] if no difference is known.
    """
    reasons, training = (row["domain_reasons"] or "").split(", "), run.info.dataset.training_images
    found = []
    if "size" in reasons and training and training.shorter_side:
        low, _, high = training.shorter_side
        sizes = span(low, high)
        if training.longer_side:
            sizes += f", and their longer side at most {training.longer_side[2]:,}"
        found.append(
            f"The image has {size[1]:,} x {size[0]:,} pixels; the shorter side of the training "
            f"images has {sizes}. Traces of image generators rarely survive such a difference: do "
            "not rely on the verdict."
        )
    if "format" in reasons and training:
        found.append(
            f"The file is a {kind}; the detector was trained only on {', '.join(training.formats)}."
        )
    if "features" in reasons and run.info.domain:
        found.append(
            "What the detector measures in the image is unlike anything in its training images: of "
            f"1,000 images like those, about {1000 * run.info.domain.false_alarm_rate:.0f} are as "
            "unusual."
        )
    return found


def _unseen(run: Run, size: tuple[int, int]) -> str:
    """Return a sentence if the detector sees only a part or a much smaller copy; else "".

    Args:
        run: the run.
        size: height and width of the image in pixels.
    """
    view = run.views[0]
    if view.equalize is not None:  # it is cropped first
        read = (min(size[0], view.equalize.side), min(size[1], view.equalize.side))
        if read != size:
            part = read[0] * read[1] / (size[0] * size[1])
            return (
                f"The detector reads the middle {read[1]:,} x {read[0]:,} pixels, {percent(part)} "
                "of the image, and nothing of the rest. To ask about another part, crop the image "
                "without resizing it."
            )
    if cuts_windows(view.policy) or min(size) <= SHRINK_TOLERANCE * max(view.size):
        return ""
    return (
        f"The image is shrunk from {size[1]:,} x {size[0]:,} to the detector's "
        f"{view.size[1]:,} x {view.size[0]:,} pixels: it does not see any finer detail."
    )


def view_of_image(run: Run, image: np.ndarray) -> np.ndarray:
    """Return the middle window of what a run's detector sees of an image, uint8 [h, w, 3].

    Args:
        run: the run.
        image: uint8 [H, W, 3].
    """
    views, view = _views(run, image, None)
    return middle_window(views[view]).astype(np.uint8)


def _views(run: Run, image: np.ndarray, altered: np.ndarray | None) -> tuple[Views, int]:
    """Return what the detector sees of an image, and the number of the view to map.

    A detector that predicts masks on windows is mapped on the window with the largest mask.
    """
    view = run.views[0]
    if altered is not None and cuts_windows(view.policy):
        sides = [min(a, b) for a, b in zip(view.size, image.shape)]
        mean = cv2.blur(altered, sides[::-1])
        middle = np.unravel_index(int(mean.argmax()), mean.shape)
        position = [  # of a window around it, from 0 to 1
            float(np.clip((m - s / 2) / max(n - s, 1), 0, 1))
            for m, s, n in zip(middle, view.size, image.shape)
        ]
        cut = window(tf.constant(image), view.size, view.policy, position)
        return [cut.numpy()[None].astype(np.float32)], 0
    parts = view_parts(tf.constant(image[None]), run.views)
    return views_of_parts(run, [part.numpy() for part in parts])
