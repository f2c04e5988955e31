"""The export that runs in a browser: every step equals that of the light runtime."""

import io
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import BrowserError, call, chromium, static_host
from PIL import Image
from zoo import big_endian_exif, encode, exif, jpeg_segment, jpeg_with, photograph, png_with, xmp

from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run_info import View
from tfdetect.evaluation.prediction_columns import NOT_A_NUMBER
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.pillow import read_rgb
from tfdetect.light import numpy_tiles, resample
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.light.onnx_predictions import predict_files
from tfdetect.serving import npm
from tfdetect.serving.page import FOLDER
from tfdetect.serving.web_export import words_by_probability, write_web

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "saved_models"
PREDICT = (ROOT / "benchmarks" / "web_predict.js").read_text(encoding="utf-8")
SHAPES = [(32, 32), (7, 5), (31, 64), (100, 257), (1, 40), (3, 3), (2, 6)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A page that can import the modules of the web export."""
    folder = shutil.copytree(FOLDER / "web", tmp_path_factory.mktemp("web") / "app")
    (folder / "index.html").write_text("<!doctype html><title>modules</title>")
    with static_host(folder) as (address, _):
        page = browser.new_page()
        page.goto(address)
        yield page


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    pixels = 128 + 60 * smooth[:height, :width] + 20 * rng.normal(size=(height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def packed(image):
    return {"height": image.shape[0], "width": image.shape[1], "data": image.tobytes()}


def unpacked(image):
    return np.frombuffer(image["data"], np.uint8).reshape(image["height"], image["width"], 3)


def test_resizing_and_windows_equal_those_of_the_light_runtime(page):
    views = [
        View(size=size, policy=policy) for size in ((32, 32), (20, 45))
        for policy in ("stretch", "crop", "pad", "window_tile", "window_pad")
    ]  # fmt: skip
    views += [
        View(size=(16, 24), policy="window_tile", crops=5),
        View(size=(16, 24), policy="window_pad", crops=9),
        View(size=(24, 24), policy="window_tile", crops=5, equalize=Equalize(side=64)),
    ]  # fmt: skip
    for seed, shape in enumerate(SHAPES):
        image = photo(*shape, seed)
        for view in views:
            found = call(
                page, "resample.js", "windows", packed(image), view.model_dump(mode="json")
            )
            found = np.stack([unpacked(each) for each in found])
            np.testing.assert_array_equal(
                found, resample.view_parts(image, [view])[0], str((shape, view))
            )


def test_one_jpeg_encoding_equals_that_of_libjpeg(page):
    rng = np.random.default_rng(0)
    for seed, shape in enumerate([*SHAPES, (16, 16), (17, 33), (8, 130), (64, 4), (4, 64), (9, 5)]):
        for image in (photo(*shape, seed), rng.integers(0, 256, (*shape, 3), np.uint8)):
            for quality in (50, 80, 95, 100):
                found = call(page, "jpeg.js", "encodeAndDecode", packed(image), quality)
                file = io.BytesIO()
                Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
                np.testing.assert_array_equal(
                    unpacked(found), np.asarray(Image.open(file)), str((shape, quality))
                )


def test_masks_are_restored_and_joined_as_by_the_light_runtime(page):
    rng = np.random.default_rng(0)
    for policy in ("stretch", "crop", "pad"):
        mask = rng.random((24, 32), np.float32)
        found = call(page, "resample.js", "restore", mask, [24, 32], [50, 41], policy)
        found = np.frombuffer(found, np.float32).reshape(50, 41)
        expected = resample.restore(mask, (50, 41), policy)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for side in (32, 33, 64):
        for length in (*range(side, 3 * side, 5), 1000, 4001):
            starts = call(page, "tiles.js", "tileStarts", length, side)
            assert starts == numpy_tiles.tile_starts(length, side).tolist()


TILES = """
async ([address, height, width, size, policy, text]) => {
  const {byTiles} = await import(new URL("tiles.js", address));
  const data = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  // Each pixel of a tile's map follows from the pixel and from its position in the tile.
  const predict = async (tiles) => tiles.map((tile) => Float32Array.from(
    {length: size[0] * size[1]}, (_, i) => tile.data[3 * i] / 255 * (1 + (i % 7) / 10)));
  const found = await byTiles({height, width, data}, size, policy, predict, () => {});
  return Array.from(found);
}
"""


def test_tiles_are_joined_as_by_the_light_runtime(page):
    import base64

    def predict(stack):
        position = np.arange(stack.shape[1] * stack.shape[2]).reshape(stack.shape[1:3])
        maps = stack[..., 0].astype(np.float32) / 255 * (1 + (position % 7) / 10)
        return np.zeros((len(stack), 2), np.float32), maps.astype(np.float32)

    for shape in ((20, 90), (100, 64), (131, 33), (8, 8)):
        for policy in ("window_tile", "window_pad"):
            image = photo(*shape)
            text = base64.b64encode(image.tobytes()).decode()
            found = page.evaluate(TILES, [page.url, *shape, [32, 48], policy, text])
            _, expected = numpy_tiles.by_tiles(image, (32, 48), policy, predict)
            np.testing.assert_allclose(np.reshape(found, shape), expected, atol=1e-5)


def test_tiles_are_pooled_as_by_the_light_runtime(page):
    rng = np.random.default_rng(0)
    tables = rng.dirichlet([0.2] * 3, 8).astype(np.float32)
    for shape in ((1, 1), (40, 50)):
        altered = 1 / (1 + np.exp(-rng.normal(0, 8, shape).astype(np.float32)))
        for pooling in ("max", "top_pixels"):
            found = call(page, "tiles.js", "poolTiles", tables.tolist(), altered.ravel(), pooling)
            expected = numpy_tiles.pool_tiles(tables, altered, pooling)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def files():
    """Image files whose headers differ in what the page reads of them."""
    image = photograph()
    jpeg, png, webp = (encode(image, kind) for kind in ("JPEG", "PNG", "WEBP"))
    for turn in range(1, 9):
        yield jpeg_with(jpeg, jpeg_segment(0xE1, b"Exif\0\0" + exif(turn)))
        yield jpeg_with(jpeg, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(turn)))
        yield jpeg_with(jpeg, jpeg_segment(0xE1, big_endian_exif(turn)))
        yield encode(image, "PNG", exif=exif(turn))
        yield encode(image, "WEBP", exif=exif(turn))
    yield from (jpeg, png, webp, encode(image, "WEBP", lossless=True))
    yield from (encode(image.convert("L"), "JPEG"), encode(image, "JPEG", progressive=True))
    for mode in ("1", "L", "P", "LA", "RGBA", "I;16"):
        source = image.convert("L") if mode == "I;16" else image
        yield encode(source.convert(mode), "PNG")
    yield encode(image.convert("RGBA"), "WEBP")
    noted = png_with(png, (b"tEXt", b"Comment\0text"), (b"eXIf", exif(3)))
    yield noted
    yield noted.replace(b"Comment\0text", b"Comment\0TEXT")  # its checksum is wrong
    yield jpeg_with(jpeg, b"between", jpeg_segment(0xE1, b"Exif\0\0" + exif(3)))


def test_headers_are_read_as_by_the_light_runtime(page):
    names = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP"}
    for data in files():
        header = read_header(data)
        found = call(page, "headers.js", "readHeader", data)
        assert [tuple(each) for each in found.pop("ignored", [])] == list(header.ignored)
        assert found == {
            "format": names[header.container], "width": header.width, "height": header.height,
            "orientation": header.orientation,
        }  # fmt: skip
    jpeg, png = encode(photograph(), "JPEG"), encode(photograph(), "PNG")
    refused = {
        "empty": b"", "other_format": b"GIF89a", "damaged": b"\xff\xd8\xff\xe0\0",
        "odd_jpeg": encode(photograph().convert("CMYK"), "JPEG"),
        "damage": jpeg[:-2], "damag": png[:200], "dama": jpeg[:300],
        "animated": encode(photograph(), "WEBP", save_all=True,
                           append_images=[photograph().rotate(90)]),
    }  # fmt: skip
    for code, data in refused.items():
        with pytest.raises(BrowserError, match=code):
            call(page, "headers.js", "readHeader", data)


def test_damaged_headers_are_refused_and_nothing_else_happens(page):
    rng = np.random.default_rng(0)
    good = list(files())[::5]
    for _ in range(150):
        data = bytearray(good[rng.integers(len(good))])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(2, min(len(data), 300))] = rng.integers(256)
        data = bytes(data if rng.random() < 0.5 else data[: rng.integers(3, len(data))])
        try:
            expected = read_header(data)
        except ImageError:
            expected = None
        try:
            found = call(page, "headers.js", "readHeader", data)
        except BrowserError as error:
            assert str(error) in ("damaged", "odd_jpeg", "animated", "other_format", "empty")
            continue
        assert expected is not None and expected.orientation == found["orientation"]
        assert (expected.width, expected.height) == (found["width"], found["height"])


def test_wrong_folders_and_archives_are_refused(tmp_path):
    run = open_run(SHIPPED / "cifake_small_resnet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(UserError, match="no web export"):
        write_web(run, tmp_path / "mine", tmp_path)
    with pytest.raises(UserError, match="npm pack onnxruntime-web@"):
        write_web(run, tmp_path / "new", tmp_path)
    for package in npm.PACKAGES:
        (tmp_path / package.archive).write_bytes(b"another archive")
    with pytest.raises(UserError, match="SHA-512"):
        write_web(run, tmp_path / "new", tmp_path)
    assert not (tmp_path / "new").exists()


def test_words_are_found_under_the_names_of_the_classes():
    run = open_run(SHIPPED / "cifake_small_resnet")
    names = ("True photographs", "False ones")
    run = replace(run, info=run.info.model_copy(update={"class_names": names}))
    assert {key.partition("/")[0] for key in words_by_probability(run)["table"]} == set(names)
    assert "False ones/false/true" in words_by_probability(run)["table"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The packages of npm, or a skip where npm or its registry cannot be reached."""
    folder = tmp_path_factory.mktemp("npm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDETECT_CACHE", str(folder))
        try:
            npm.archives(None)
        except UserError as error:
            if "npm" in str(error):
                pytest.skip(str(error)[:100])
            raise
    return folder / "npm"


@pytest.fixture(scope="module")
def shipped(browser, archives, tmp_path_factory):
    """Web exports of the shipped runs, in one folder on a static host; its address and requests."""
    folder = tmp_path_factory.mktemp("exports")
    for run in ("cifake_small_resnet", "localizer_photos", "photo_detector"):
        write_web(open_run(SHIPPED / run), folder / run, archives)
    with static_host(folder) as (address, requested):
        yield address, requested


def pictures(folder):
    """Write photographs of many sizes as PNG, WebP and JPEG; return the paths by format."""
    found = {"png": [], "webp": [], "jpg": []}
    for number, (height, width) in enumerate([(32, 32), (300, 400), (520, 512), (90, 700)]):
        image = Image.fromarray(photo(height, width, number))
        for suffix, options in (("png", {}), ("webp", {"quality": 80}), ("jpg", {"quality": 90})):
            path = folder / f"{number}.{suffix}"
            image.save(path, **options)
            found[suffix].append(path)
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("L").save(folder / "gray.jpg", exif=exif(6))
    image.save(folder / "lossless.webp", lossless=True)
    found["png"].append(folder / "alpha.png")
    found["jpg"].append(folder / "gray.jpg")
    found["webp"].append(folder / "lossless.webp")
    return found


@pytest.mark.slow
def test_files_are_decoded_to_the_same_pixels(shipped, browser, tmp_path):
    page = browser.new_page()
    page.goto(f"{shipped[0]}photo_detector/")
    for paths in pictures(tmp_path).values():
        for path in paths:
            found = call(page, "app/decode.js", "decode", path.read_bytes(), 10**7)
            np.testing.assert_array_equal(unpacked(found), np.asarray(read_rgb(path)), path.name)
    for data in files():
        found = call(page, "app/decode.js", "decode", data, 10**7)
        np.testing.assert_array_equal(unpacked(found), np.asarray(read_rgb(data)))
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifake_small_resnet", "photo_detector", "localizer_photos"])
def test_verdicts_equal_those_of_the_light_runtime(shipped, browser, tmp_path, name):
    import base64

    run = open_run(SHIPPED / name)
    detector = LightDetector(run)
    page = browser.new_page()
    page.goto(f"{shipped[0]}{name}/")
    for paths in pictures(tmp_path).values():
        masks = []
        names = [str(path) for path in paths]
        table = predict_files(detector, names, progress=False, on_mask=masks.append)
        for number, (path, expected) in enumerate(zip(paths, table.to_pylist())):
            found = page.evaluate(PREDICT, base64.b64encode(path.read_bytes()).decode())
            row = found["row"]
            assert row["p_fake"] == pytest.approx(expected["p_fake"], abs=1e-3), path.name
            for key in ("verdict", "inconclusive", "in_domain", "domain_reasons"):
                assert row[key] == expected[key], (path.name, key)
            if expected["feature_distance"] is not None:
                assert row["feature_distance"] == pytest.approx(
                    expected["feature_distance"], rel=1e-3
                )
            if masks:
                mask = np.reshape(found["mask"], masks[number].altered.shape) / 255
                assert np.abs(mask - masks[number].altered).max() < 0.5 / 255 + 1e-3
    page.close()


@pytest.fixture
def visited(shipped, browser):
    """A page of a web export, with the addresses of everything that it asks for."""
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.set_default_timeout(120_000)
    context.on("request", lambda request: asked.append(request.url))
    yield page, asked
    context.close()


def finished(page, count):
    page.locator("#results > li .actions").nth(count - 1).wait_for()
    return page.locator("#results > li").all_inner_texts()


@pytest.mark.slow
def test_nothing_leaves_the_machine(shipped, visited, tmp_path):
    address, requested = shipped
    page, asked = visited
    page.goto(f"{address}localizer_photos/")
    paths = pictures(tmp_path)
    requested.clear()
    chosen = [paths["png"][1], paths["jpg"][1], paths["webp"][1]]
    page.set_input_files("#files", chosen)
    texts = finished(page, 3)
    assert all("in 100" in text for text in texts), texts
    assert page.locator("canvas.mask").count() == 3
    loaded = len(requested)
    assert 5 < loaded < 40  # the detector, the runtime and the decoders, once
    page.set_input_files("#files", [paths["png"][2]])
    finished(page, 4)
    assert len(requested) == loaded
    outside = [url for url in asked if not url.startswith((address, "blob:", "data:"))]
    assert outside == []
    # Not even a script of the page, or of its workers, can send anything elsewhere.
    sending = """async (where) => {
      const tries = [() => fetch(where), () => new Promise((resolve, reject) => {
        const code = `fetch(${JSON.stringify(where)}).then(
          () => postMessage("sent"), () => postMessage("refused"))`;
        const worker = new Worker(URL.createObjectURL(new Blob([code])));
        worker.onmessage = ({data}) => (data === "sent" ? resolve() : reject());
      })];
      const found = await Promise.allSettled(tries.map((each) => each()));
      return found.map((each) => each.status);
    }"""
    with static_host(tmp_path) as (elsewhere, heard):
        assert page.evaluate(sending, elsewhere) == ["rejected", "rejected"]
        assert heard == []


@pytest.mark.slow
def test_broken_large_and_other_files_cost_themselves(shipped, visited, tmp_path):
    address, _ = shipped
    page, _ = visited
    page.goto(f"{address}photo_detector/")
    good = pictures(tmp_path)
    whole = good["jpg"][1].read_bytes()
    (tmp_path / "cut.png").write_bytes(good["png"][1].read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no image")
    header = b"IHDR" + b"\0\1\0\0\0\1\0\0" + good["png"][1].read_bytes()[24:29]
    (tmp_path / "claims.png").write_bytes(
        good["png"][1].read_bytes()[:12] + header + zlib.crc32(header).to_bytes(4, "big")
        + good["png"][1].read_bytes()[33:]
    )  # fmt: skip
    (tmp_path / "noise.jpg").write_bytes(whole[:700] + bytes(range(256)) * 20)
    Image.fromarray(photo(700, 816)).resize((8_165, 6_124)).save(tmp_path / "large.jpg")
    names = ["cut.png", "text.jpg", "claims.png", "noise.jpg", "large.jpg", good["png"][0].name]
    page.set_input_files("#files", [tmp_path / name for name in names])
    texts = dict(zip(names, finished(page, 6)))
    assert "damaged" in texts["cut.png"]
    assert "not a JPEG, PNG or WebP" in texts["text.jpg"]
    assert "megapixels" in texts["claims.png"]
    for name in ("large.jpg", names[-1]):
        assert "in 100" in texts[name], texts[name]
    detector = LightDetector(open_run(SHIPPED / "photo_detector"))
    table = predict_files(detector, [str(tmp_path / "large.jpg")], progress=False)
    [expected] = table.to_pylist()
    shown = "Inconclusive" if expected["inconclusive"] else "Looks"
    assert shown in texts["large.jpg"]


@pytest.mark.slow
def test_the_words_are_those_of_the_light_runtime(shipped, browser):
    from tfdetect.evaluation.verdict_words import verdict_words

    for name in ("cifake_small_resnet", "localizer_photos"):
        run = open_run(SHIPPED / name)
        page = browser.new_page()
        page.goto(f"{shipped[0]}{name}/")
        rows = []
        scores = np.random.default_rng(0).random(300, np.float32).tolist()
        for p in (*scores, 0, 0.0049, 0.4999, 0.5, 0.9951, 1):
            for verdict in run.class_names:
                rows += [
                    {"p_fake": p, "verdict": verdict, "inconclusive": inside, "in_domain": known}
                    for inside in (False, True) for known in (False, True, None)
                ]  # fmt: skip
        found = page.evaluate(
            """async (rows) => {
          const {Detector} = await import(new URL("app/detector.js", location));
          const detector = new Detector();
          detector.settings = await (await fetch("model/detector.json")).json();
          return rows.map((row) => detector.words(row));
        }""",
            rows,
        )
        for row, words in zip(rows, found):
            assert words == verdict_words(run, row, row["in_domain"] is False)._asdict(), row
        page.close()


@pytest.mark.slow
def test_an_output_that_is_not_a_number_is_no_verdict(shipped, browser):
    page = browser.new_page()
    page.goto(f"{shipped[0]}cifake_small_resnet/")
    found = page.evaluate("""async () => {
      const {Detector} = await import(new URL("app/detector.js", location));
      const detector = new Detector();
      detector.settings = await (await fetch("model/detector.json")).json();
      detector.score = async () => ({table: [0.5, NaN], features: null});
      return detector.predict({height: 32, width: 32, format: "PNG"});
    }""")
    assert found == {"row": {"error": NOT_A_NUMBER}}
    page.close()


@pytest.mark.slow
def test_the_page_is_accessible_without_a_server_too(shipped, browser, tmp_path):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    for width in (360, 1200):
        context = browser.new_context(viewport={"width": width, "height": 800}, bypass_csp=True)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{shipped[0]}photo_detector/")
        assert not page.locator("#not-started").is_visible()
        page.set_input_files("#files", pictures(tmp_path)["jpg"][:2])
        finished(page, 2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        context.close()


def test_a_page_that_no_server_sends_says_so(browser, tmp_path):
    from tfdetect.serving.page import render, texts

    run = open_run(SHIPPED / "cifake_small_resnet")
    page = browser.new_page()
    text = render("local.html", [run], {}, files="app/", policy="default-src 'self'", private="")
    (tmp_path / "index.html").write_text(text)
    shutil.copytree(FOLDER / "static", tmp_path / "app")
    page.goto((tmp_path / "index.html").as_uri())
    assert page.get_by_text(texts()["page"]["not_started"]).is_visible()
    page.close()
