"""Write a folder with a page that analyzes images in the browser, for any static web host."""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import tfdetect
from tfdetect.core.errors import UserError
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.files import check_writable, staged
from tfdetect.core.run import Run
from tfdetect.evaluation.prediction_columns import NOT_A_NUMBER
from tfdetect.evaluation.verdict_words import verdict_words
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.serving.npm import Package, archives, contents
from tfdetect.serving.page import FOLDER, render, texts

MAX_PIXELS = 64_000_000  # of an image; decoders in WebAssembly have no memory for more
LARGE_FILE = 8 * 2**20  # bytes; after a larger file the decoder is restarted to free its memory
TIMEOUT = 60  # seconds for decoding a file
MARK = "detector.json"  # file in the subfolder model by which a folder is recognized as web export

_POLICY = (  # no script can connect to anything but the host
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "form-action 'none'"
)
_MIT = """Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def write_web(run: Run, folder: Path, npm_packages: Path | None = None) -> Path:
    """Write a folder with a page that analyzes images in the browser.

    The folder contains the page, the detector as ONNX, ONNX Runtime and image decoders in
    WebAssembly, and their licenses. The page needs no network besides its host, and no settings of
    the host.

    Args:
        run: a run with an ONNX export.
        folder: the folder to write; an earlier web export in it is replaced.
        npm_packages: folder with the archives of the npm packages; see `npm.archives`.

    Returns:
        The page, `folder/index.html`.

    Raises:
        UserError: the run has no ONNX export, a package is missing, or the folder contains other
            files.
    """
    detector = LightDetector(run)
    if folder.exists() and not (folder.is_dir() and _replaceable(folder)):
        raise UserError(f"{folder} exists and is no web export. Choose another --output.")
    check_writable(folder)
    packages = archives(npm_packages)
    with staged(folder) as new:
        _write_packages(packages, new / "npm")
        (new / "LICENSES.txt").write_text(_licenses(packages), encoding="utf-8")
        shutil.copytree(FOLDER / "web", new / "app")
        for name in ("page.js", "style.css"):
            shutil.copy(FOLDER / "static" / name, new / "app" / name)
        _write_model(detector, new / "model")
        loaded = sum(
            p.stat().st_size for p in new.rglob("*") if p.suffix in (".wasm", ".onnx", ".bin")
        )
        limits = {
            "max_bytes": 100 * 2**20, "max_pixels": MAX_PIXELS, "large_file": LARGE_FILE,
            "timeout_s": TIMEOUT, "megabytes": round(loaded / 1e6),
        }  # fmt: skip
        page = render("local.html", [run], limits, files="app/", policy=_POLICY,
                      private=texts()["page"]["local"])  # fmt: skip
        (new / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _write_packages(packages: Mapping[Package, Path], folder: Path) -> None:
    """Write the files of npm packages into a folder with a subfolder for each package.

    Args:
        packages: the archive of each package.
        folder: the folder; it does not exist.
    """
    for package, archive in packages.items():
        for name, data in contents(archive, package.files).items():
            target = folder / package.name / name
            if target.suffix == ".mjs":  # some hosts send it with a type that browsers refuse
                target = target.with_suffix(".js")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def _write_model(detector: LightDetector, folder: Path) -> None:
    """Write a detector, its settings and what it knows of its training images into a folder.

    Args:
        detector: the detector.
        folder: the folder; it does not exist.
    """
    run = detector.run
    folder.mkdir()
    shutil.copy(detector.path, folder / "detector.onnx")
    for file in detector.shared_files:
        shutil.copy(file, folder / f"{file.name}.bin")  # all hosts know the extension .bin
    (folder / MARK).write_text(json.dumps(_settings(detector)), encoding="utf-8")
    if run.info.domain is not None:
        distance = FeatureDistance.load(run.path, run.info.domain.rest)
        table = np.concatenate([distance.mean[None], distance.components])
        (folder / "domain.bin").write_bytes(table.astype("<f4").tobytes())


def _replaceable(folder: Path) -> bool:
    """Return whether a folder is empty or a web export."""
    return (folder / "model" / MARK).is_file() or not any(folder.iterdir())


def _settings(detector: LightDetector) -> dict[str, Any]:
    """Return the settings of a detector for `web/detector.js`."""
    run = detector.run
    calibration, domain = run.calibration, run.info.domain
    return {
        "name": run.name,
        "shared_files": [file.name for file in detector.shared_files],
        "class_names": run.class_names,
        "views": [view.model_dump(mode="json") for view in run.views],
        "graph_views": [view.model_dump(mode="json") for view in detector.graph_views],
        "mirror": detector.mirrors,
        "predicts_masks": run.predicts_masks,
        "calibration": calibration
        and calibration.model_dump(mode="json", include={"scale", "shift", "knots"}),
        "threshold": run.threshold,
        "mask_threshold": run.mask_threshold,
        "band": run.abstention_band,
        "domain": domain and domain.model_dump(mode="json", include={"limit", "rest"}),
        "training": {
            "sides": run.in_domain_sides,
            "formats": run.in_domain_formats or None,
        },
        "words": words_by_probability(run),
        "not_a_number": NOT_A_NUMBER,  # the reason why an image gets no verdict
    }


def words_by_probability(run: Run) -> dict[str, Any]:
    """Return the words of all verdicts in a table, so that the page needs no sentences of its own.

    The words depend on the probability only by its step: in percent if the run is calibrated, else
    in thousandths; and on whether it is below one half.

    Args:
        run: the run.

    Returns:
        steps: number of steps from 0 to 1.
        texts: the sentences.
        table: rows by "verdict/inconclusive/unlike", the latter two true or false; a row for each
            step. A row has the indices in `texts` of the headline, the tone and the lines. The
            step of one half has two rows, first for a probability just below it.
    """
    calibrated = run.info.calibration is not None and run.info.prior is not None
    steps, found, table = 100 if calibrated else 1000, dict[str, int](), {}
    below, above = np.linspace(0, 0.5, steps // 2 + 1), np.linspace(0.5, 1, steps // 2 + 1)
    below[-1] = np.nextafter(0.5, 0)
    if calibrated:
        below[0], above[-1] = 0.004, 0.996
    for verdict, inconclusive, unlike in product(run.class_names, (False, True), (False, True)):
        rows = []
        for p in (*below, *above):
            row = {"p_fake": p, "verdict": verdict, "inconclusive": inconclusive}
            headline, lines, tone = verdict_words(run, row, unlike)
            rows.append([found.setdefault(t, len(found)) for t in (headline, tone, *lines)])
        table[f"{verdict}/{json.dumps(inconclusive)}/{json.dumps(unlike)}"] = rows
    return {"steps": steps, "texts": list(found), "table": table}


def _licenses(packages: dict[Package, Path]) -> str:
    """Return the licenses of everything in a web export."""
    parts = [
        f"tfdetect {tfdetect.__version__}: MIT\n\n{_MIT.format(holder='The tfdetect authors')}"
    ]
    for package, archive in packages.items():
        digest = base64.b16encode(hashlib.sha256(archive.read_bytes()).digest()).decode().lower()
        parts.append(
            f"{package.name} {package.version}, from npm, SHA-256 {digest}: {package.license}\n"
        )
        if package.holder:
            parts.append(_MIT.format(holder=package.holder))
        found = contents(archive, package.licenses)
        parts += [text.decode() for text in found.values()]
    return f"\n{'-' * 80}\n".join(parts)
