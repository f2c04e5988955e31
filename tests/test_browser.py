"""The server's page in a real browser: what a person does with it."""

import base64
import io
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from browser import chromium
from PIL import Image

import tfdetect
from tfdetect.core import shipped_runs
from tfdetect.core.open_run import open_run
from tfdetect.evaluation.stability import REENCODINGS
from tfdetect.serving.app import create_app
from tfdetect.serving.server_settings import ServerSettings
from tfdetect.serving.service import Service

SHIPPED = Path(__file__).parents[1] / "saved_models"
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def serving(runs, by_size=False, **settings):
    """Start a server in a thread; return it and its address."""
    app = create_app(Service(runs, ServerSettings(**settings), by_size))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    assert server.started

    def stop():
        server.should_exit = True
        thread.join(30)

    return f"http://127.0.0.1:{port}/", stop


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server for the small run, and a few images."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(4):
        Image.open(io.BytesIO(jpeg(48, 64, seed))).save(folder / f"{seed}.png")
    run = open_run(SHIPPED / "cifake_small_resnet")
    address, stop = serving([run], decoders=1, max_files=2, max_file_mib=2)
    yield address, sorted(folder.iterdir())
    stop()


@pytest.fixture(scope="module")
def shipped():
    """A server for two shipped runs, one of which predicts masks."""
    runs = [open_run(SHIPPED / name) for name in ("localizer_photos", "photo_detector")]
    address, stop = serving(runs)
    yield address
    stop()


@pytest.fixture
def page(browser):
    """A page, which must not write errors into the console or leave its server."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, problems = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    yield page
    context.close()
    assert not problems


def finished(page, count):
    """Wait until results are there; return their text, newest first."""
    page.locator("#results > li .actions").nth(count - 1).wait_for()
    return page.locator("#results > li").all_inner_texts()


def jpeg(height, width, seed=0):
    """Return a photograph-like JPEG file."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def upload(name, data, kind="image/jpeg"):
    return {"name": name, "mimeType": kind, "buffer": data}


def test_a_person_chooses_files_and_reads_verdicts(small, page):
    address, images = small
    page.goto(address)
    files = [upload(each.name, each.read_bytes(), "image/png") for each in images[:2]]
    page.set_input_files("#files", [*files, upload("notes.txt", b"no image", "text/plain")])
    texts = finished(page, 3)
    assert images[0].name in texts[0] and ("Looks" in texts[0] or "Inconclusive" in texts[0])
    assert "in 100" in texts[0] or "score for fake" in texts[0]
    page.get_by_text("Looked for and not found").nth(1).wait_for()
    assert "notes.txt" in texts[2] and "Not an image." in texts[2]
    assert "Choose another copy of the image" in texts[2] and "100 megapixels" in texts[2]
    page.set_input_files("#files", [upload("large.jpg", bytes(3 * 2**20))])
    assert "larger than 2 MB" in finished(page, 4)[0]


ROW = {
    "path": "photo.jpg", "detector": "cifake_small_resnet", "p_fake": 0.7947, "verdict": "real",
    "inconclusive": False, "error": None,
    "words": {"headline": "Looks authentic", "tone": "good", "lines": ["A sentence."]},
    "altered_fraction": 0.0,
}  # fmt: skip
LINES = [
    ("camera_data", "Camera data", "None found.", "nothing"),
    ("copies", "Copied regions", "Not looked for: OpenCV is not installed.", "nothing"),
    ("detector", "Detector", "run: Looks authentic. A sentence.", "authentic"),
    ("localizer", "Localizer", "run marks 40.2% of the pixels as altered.", "nothing"),
]


def answered(page, row, found, mask=None):
    """Let made-up answers come back instead of those of the server."""
    if mask is not None:
        file = io.BytesIO()
        Image.fromarray(mask).save(file, "PNG")
        row = row | {"mask_png": base64.b64encode(file.getvalue()).decode()}
    lines = [dict(zip(("name", "title", "finding", "says"), each)) for each in LINES]
    lines = [each | {"reliability": "Measured. Seldom wrong."} for each in lines]
    evidence = {"path": "photo.jpg", "error": None, "lines": lines, **found}
    page.route("**/v1/predict?*", lambda route: route.fulfill(json={"predictions": [row]}))
    page.route("**/v1/evidence?*", lambda route: route.fulfill(json={"evidence": [evidence]}))
    page.set_input_files("#files", [upload("photo.jpg", jpeg(40, 60))])
    return finished(page, 1)[0]


def test_only_pixels_that_count_as_altered_are_marked(small, page):
    page.goto(small[0])
    mask = np.repeat(np.array([[0, 60, 127, 128, 255]], np.uint8), 2, axis=0)
    found = {"headline": "Looks authentic", "tone": "good", "reasons": []}
    assert "No region looks altered." in answered(page, ROW, found, mask)
    alphas = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, 5, 1).data]
      .filter((_, index) => index % 4 === 3)"""
    assert page.locator("canvas.mask").evaluate(alphas) == [0, 0, 0, 255, 255]


def test_evidence_names_what_was_not_looked_for_and_repeats_nothing(small, page):
    page.goto(small[0])
    reason = "Looks authentic, says run. There are traces of editing, though."
    trace = "Localizer: run marks 40.2% of the pixels as altered."  # which is among the evidence
    reasons = [reason, trace, "Seldom wrong."]  # the last one is how reliable the lines are
    found = {"headline": "Inconclusive", "tone": "caution", "reasons": reasons}
    answered(page, ROW | {"inconclusive": True}, found)
    page.get_by_text("Looked for and not found: 1").wait_for()
    box = page.locator(".evidence")
    shown = box.inner_text()
    assert (
        shown.count("40.2%") == 1 and "OpenCV is not installed" in shown
    )  # without opening anything
    assert "Nothing else was found that speaks for or against the image" in shown
    assert shown.count("Looks authentic") == 1 and "Camera data" not in shown
    assert shown.count("Seldom wrong.") == 2
    assert box.locator("details dt").all_text_contents() == ["Camera data"]
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_text("All figures").click()
    values = page.locator("table td")
    lines = """(all) => all.map((cell) => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      return range.getClientRects().length;
    })"""
    assert set(values.evaluate_all(lines)) == {1}  # no number is broken
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "verdict\tinconclusive" in page.locator("table").inner_text()


def test_the_absence_of_findings_is_known_by_one_phrase():
    from tfdetect.forensics.evidence import evidence

    found = evidence(jpeg(100, 100))
    source = (Path(tfdetect.__file__).parent / "serving/static/page.js").read_text("utf-8")
    [camera] = [line.finding for line in found.lines if line.name == "camera_data"]
    assert f'const NONE = "{camera}";' in source


DROP = """
([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: "image/png"}));
  return transfer;
}
"""


def test_files_are_dropped_and_pasted(small, page):
    address, images = small
    page.goto(address)
    text = base64.b64encode(images[0].read_bytes()).decode()
    transfer = page.evaluate_handle(DROP, [text, "dropped.png"])
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    assert "over" in page.locator("#drop").get_attribute("class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert "dropped.png" in finished(page, 1)[0]
    assert "over" not in page.locator("#drop").get_attribute("class")
    pasted = page.evaluate_handle(DROP, [text, "pasted.png"])
    page.evaluate(
        """(transfer) => document.dispatchEvent(
      new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}))""",
        pasted,
    )
    assert "pasted.png" in finished(page, 2)[0]
    page.evaluate(
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))"
    )
    assert page.locator("#results > li").count() == 2


def test_the_keyboard_is_enough(small, page):
    address, images = small
    page.on("filechooser", lambda chooser: None)  # from now on Chromium opens none of its own
    page.goto(address)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "files":
            break
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(images[:2])
    finished(page, 2)
    while page.evaluate("document.activeElement.getAttribute('aria-label')") is None:
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#zoom").evaluate("(dialog) => dialog.open")
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").evaluate("(dialog) => dialog.open")
    while page.evaluate("document.activeElement.tagName") != "SUMMARY":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("details[open]").count() == 1
    while page.evaluate("document.activeElement.textContent") != "Remove":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#results > li").count() == 1
    assert page.evaluate("document.activeElement.closest('#results') !== null")


@pytest.mark.slow
def test_many_files_are_all_answered_in_their_order(small, page):
    address, images = small
    page.goto(address)
    chosen = [
        upload(f"{n:02}.png", images[n % len(images)].read_bytes(), "image/png") for n in range(60)
    ]
    page.set_input_files("#files", chosen)
    texts = finished(page, 60)
    assert [next(line for line in text.splitlines() if ".png" in line) for text in texts] == [
        each["name"] for each in chosen
    ]
    last = page.locator("#results > li").nth(59)
    last.get_by_text("Looked for and not found").wait_for()
    assert page.locator("#status").inner_text().startswith("Evidence on 59.png is complete: ")


@pytest.mark.slow
def test_the_detector_is_chosen_by_the_size_of_an_image(page):
    runs = [open_run(SHIPPED / name) for name in shipped_runs.SHIPPED]
    address, stop = serving(runs, by_size=True)
    try:
        page.goto(address)
        assert page.input_value("#model") == ""
        for side, detector in ((32, "cifake_small_resnet"), (80, "photo_detector")):
            page.set_input_files("#files", [upload(f"{side}.jpg", jpeg(side, side))])
            assert f"{side}.jpg (examined by {detector})" in finished(page, 1 + (side == 80))[0]
        page.get_by_text("Try re-encoded copies").last.click()  # of the small image, with its model
        page.get_by_text("All copies").wait_for()
    finally:
        stop()


@pytest.mark.slow
def test_a_large_photograph(shipped, page):
    page.goto(shipped)
    page.select_option("#model", "photo_detector")
    page.set_input_files("#files", [upload("large.jpg", jpeg(6_124, 8_165))])
    assert "in 100" in finished(page, 1)[0]
    assert (
        page.locator(".picture img").evaluate(
            "(image) => image.decode().then(() => image.naturalWidth)"
        )
        == 8_165
    )


@pytest.mark.slow
def test_masks_fade_with_the_slider(shipped, page):
    page.goto(shipped)
    page.set_input_files("#files", [upload("photo.jpg", jpeg(400, 600))])
    assert "Show altered regions" in finished(page, 1)[0]
    mask = page.locator("canvas.mask")
    assert mask.evaluate("(canvas) => [canvas.width, canvas.height]") == [600, 400]
    box, image = mask.bounding_box(), page.locator(".picture img").bounding_box()
    assert box == image
    slider = page.locator(".slider input")
    for key, opacity in (("Home", "0"), ("End", "1"), ("ArrowLeft", "0.99")):
        slider.press(key)
        assert mask.evaluate("(canvas) => canvas.style.opacity") == opacity
    assert "red" in finished(page, 1)[0] or "No region" in finished(page, 1)[0]


@pytest.mark.slow
def test_a_result_is_saved_as_a_page_of_its_own(shipped, page, browser, tmp_path):
    page.goto(shipped)
    page.set_input_files("#files", [upload("photo <1>.jpg", jpeg(400, 600))])
    finished(page, 1)
    page.get_by_text("Looked for and not found").wait_for()
    headline = page.locator("#results h3").inner_text()
    with page.expect_download() as download:
        page.get_by_text("Save this result").click()
    download.value.save_as(tmp_path / "saved.html")
    saved = browser.new_context(offline=True).new_page()
    saved.goto((tmp_path / "saved.html").as_uri())
    assert headline == saved.locator("h3").inner_text()
    assert saved.locator("body").evaluate("(body) => getComputedStyle(body).margin") == "0px"
    assert "Camera data" in saved.locator("body").inner_text()
    assert "photo <1>.jpg" in saved.locator("body").inner_text()
    assert "localizer_photos" in saved.locator("body").inner_text()
    widths = saved.locator("img").evaluate_all("(all) => all.map((image) => image.naturalWidth)")
    assert widths == [600, 600]
    assert saved.locator("script, button, input, link").count() == 0
    saved.context.close()


@pytest.mark.slow
def test_a_result_is_printed_alone_with_its_details(small, page, tmp_path):
    address, images = small
    page.goto(address)
    page.set_input_files("#files", images[:2])
    finished(page, 2)
    page.get_by_text("Looked for and not found").nth(1).wait_for()
    page.evaluate("window.print = () => { window.printed = true; }")
    page.emulate_media(media="print")
    page.locator("#results > li").nth(1).locator("summary").nth(0).evaluate("(all) => all.click()")
    page.get_by_text("Print, or save as PDF", exact=True).nth(1).evaluate("(all) => all.click()")
    assert page.evaluate("window.printed")
    first, second = page.locator("#results > li").all()
    assert not first.is_visible() and second.is_visible()
    assert not page.locator("#drop").is_visible() and not second.locator(".actions").is_visible()
    shown = second.inner_text()
    assert images[1].name in shown and "Analyzed by the detector cifake_small_resnet" in shown
    assert "probability that it is fake (0 to 1)" in shown and "Camera data" in shown
    page.pdf(path=tmp_path / "result.pdf")  # Chromium says before and after it that it prints
    assert (tmp_path / "result.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert first.is_visible() and page.get_by_text("Analyzed by the detector").count() == 0
    assert page.locator("details[open]").count() == 1  # the one that was open before


@pytest.mark.slow
def test_copies_are_tried_and_listed(shipped, page):
    page.goto(shipped)
    page.select_option("#model", "photo_detector")
    page.set_input_files("#files", [upload("photo.jpg", jpeg(300, 400))])
    finished(page, 1)
    page.get_by_text("Try re-encoded copies").click()
    page.get_by_text("Does the verdict survive re-encoding?").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "All copies"
    page.keyboard.press("Enter")
    rows = page.locator("thead + tbody tr").all_inner_texts()
    assert len(rows) == len(REENCODINGS) and rows[0].startswith("saved as JPEG (quality 95)\t0.")
    assert page.get_by_text("Try re-encoded copies").count() == 0


@pytest.mark.slow
def test_the_page_about_an_image_is_opened(small, page):
    page.goto(small[0])
    page.set_input_files("#files", [upload("photo.jpg", jpeg(300, 400))])
    finished(page, 1)
    page.get_by_text("Explain in detail").click()
    link = page.get_by_role("link", name="Open the page")
    link.wait_for(timeout=240_000)
    with page.expect_popup() as popup:
        link.click()
    assert "Does the verdict survive re-encoding?" in popup.value.locator("body").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the page").click()
    assert download.value.suggested_filename == "photo.jpg.html"


@pytest.mark.slow
def test_a_slow_network_shows_how_much_is_sent(small, page):
    page.goto(small[0])
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", {
        "offline": False, "latency": 200, "downloadThroughput": 50_000, "uploadThroughput": 50_000,
    })  # fmt: skip
    page.set_input_files("#files", [upload("photo.jpg", np.random.default_rng(0).bytes(300_000))])
    page.get_by_text("Sending, ").wait_for()
    bar = page.locator("progress")
    assert 0 < bar.evaluate("(bar) => bar.value") < 1
    assert "Not an image." in finished(page, 1)[0]


def test_a_server_that_cannot_be_reached_and_comes_back(small, browser):
    page = browser.new_page()
    page.goto(small[0])
    page.context.set_offline(True)
    page.set_input_files("#files", [small[1][0]])
    assert "The server did not answer" in finished(page, 1)[0]
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("All figures").wait_for()
    page.context.close()


@pytest.mark.slow
def test_two_tabs_and_the_back_button(small, browser):
    address, images = small
    context = browser.new_context()
    first, second = context.new_page(), context.new_page()
    for page, image in ((first, images[0]), (second, images[1])):
        page.goto(address)
        page.set_input_files("#files", [image])
    for page, image in ((first, images[0]), (second, images[1])):
        [text] = finished(page, 1)
        assert image.name in text
    first.goto(f"{address}docs")
    first.go_back()
    first.set_input_files("#files", [images[2]])
    assert images[2].name in finished(first, 1)[0]
    with context.expect_page() as docs:
        first.get_by_text("Programming interface").click()
    assert docs.value.url.endswith("/docs")
    assert images[2].name in finished(first, 1)[0]
    context.close()


@pytest.mark.slow
def test_a_token_is_asked_for_once(small, browser):
    page = browser.new_page()
    run = open_run(SHIPPED / "cifake_small_resnet")
    address, stop = serving([run], token="secret", decoders=1)
    asked = []

    def answer(dialog):
        asked.append(dialog.message)
        dialog.accept("secret" if len(asked) > 1 else "wrong")

    page.on("dialog", answer)
    page.goto(address)
    page.set_input_files("#files", [small[1][0]])
    finished(page, 1)
    page.set_input_files("#files", [small[1][1]])
    finished(page, 2)
    assert len(asked) == 2 and "did not accept" in asked[1]
    page.context.close()
    stop()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_is_accessible_and_fits(shipped, browser, scheme, width):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    # The policy of the page refuses scripts from elsewhere, such as the checker.
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(shipped)
    for count in (0, 2):
        if count:
            page.set_input_files("#files", [
                upload("a_name_without_any_space_that_is_long_" * 4 + ".jpg", jpeg(400, 600)),
                upload("notes.txt", b"no image", "text/plain"),
            ])  # fmt: skip
            finished(page, 2)
            page.locator("summary").nth(0).click()
            page.locator("summary").nth(1).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
    context.close()
