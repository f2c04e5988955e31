"""Verdicts of a web export in Chromium against those of the light runtime, and seconds per image.

    python benchmarks/web_export.py saved_models/photo_detector FOLDER [--count 100]

It needs Playwright, /usr/bin/chromium and npm (or --npm-packages DIR).
"""

import argparse
import base64
import functools
import http.server
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from tfdetect.core.open_run import open_run
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.light.onnx_predictions import predict_files
from tfdetect.serving.web_export import write_web

PREDICT = Path(__file__).with_name("web_predict.js").read_text(encoding="utf-8")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("folder", type=Path, help="JPEG, PNG and WebP files anywhere below")
    p.add_argument("--count", type=int, default=100, help="files at most (default: 100)")
    p.add_argument("--npm-packages", type=Path)
    args = p.parse_args()
    suffixes = (".jpg", ".jpeg", ".png", ".webp")
    paths = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in suffixes)
    paths = paths[:: max(1, len(paths) // args.count)][: args.count]
    run = open_run(args.run)
    expected = predict_files(LightDetector(run), [str(p) for p in paths], progress=False)
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        write_web(run, Path(temporary, "web"), args.npm_packages)
        handler = functools.partial(Quiet, directory=f"{temporary}/web")
        with (
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
            sync_playwright() as playwright,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            begun = time.perf_counter()
            for path, row in zip(paths, expected.to_pylist()):
                if row["error"] is not None:
                    continue
                text = base64.b64encode(path.read_bytes()).decode()
                found = page.evaluate(PREDICT, text)
                if not rows:
                    print(f"first verdict after {time.perf_counter() - begun:.1f} s")
                ours, seconds = found["row"], found["seconds"]
                same = all(ours[key] == row[key] for key in ("verdict", "inconclusive"))
                kind = path.suffix.lower().replace("jpeg", "jpg")
                difference = abs(ours["p_fake"] - row["p_fake"])
                rows.setdefault(kind, []).append((difference, same, seconds))
            browser.close()
            server.shutdown()
    for kind, found in sorted(rows.items()):
        differences, same, seconds = map(np.array, zip(*found))
        print(f"{kind}: {len(found)} files, largest difference of P(fake) {differences.max():.2g}, "
              f"other verdicts {(~same).sum()}, median {np.median(seconds):.2f} s")  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
