"""A real browser for tests, and what it is shown: Chromium, driven by Playwright."""

import base64
import functools
import http.server
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest


@contextmanager
def chromium():
    """Start the installed Chromium; skip the tests where it or Playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def static_host(folder):
    """Serve a folder as a plain static host does; yield its address and the requested paths."""
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requested.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", requested
        server.shutdown()


def call(page, module, function, *arguments):
    """Call a function of a JavaScript module.

    Bytes and float32 arrays become Uint8Array and Float32Array; both come back as bytes. Images are
    {"height", "width", "data"} with uint8 data.
    """
    code = """
    async ([module, name, text]) => {
      const decode = (key, value) => {
        if (value?.bytes === undefined) return value;
        const bytes = Uint8Array.from(atob(value.bytes), (each) => each.charCodeAt(0));
        return value.floats ? new Float32Array(bytes.buffer) : bytes;
      };
      const encode = (key, value) => {
        if (!ArrayBuffer.isView(value)) return value;
        const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
        let text = "";
        for (let i = 0; i < bytes.length; i += 8192) {
          text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        }
        return {bytes: btoa(text)};
      };
      const found = await import(new URL(module, location));
      try {
        return JSON.stringify({value: await found[name](...JSON.parse(text, decode))}, encode);
      } catch (error) {
        return JSON.stringify({error: error.code ?? String(error)});
      }
    }
    """
    text = json.dumps(arguments, default=_packed)
    answer = json.loads(page.evaluate(code, [module, function, text]), object_hook=_bytes)
    if "error" in answer:
        raise BrowserError(answer["error"])
    return answer.get("value")


class BrowserError(Exception):
    """What a function in the browser has thrown."""


def _packed(data):
    floats = isinstance(data, np.ndarray) and data.dtype == np.float32
    return {"bytes": base64.b64encode(data).decode(), "floats": floats}


def _bytes(value):
    return base64.b64decode(value["bytes"]) if set(value) == {"bytes"} else value
