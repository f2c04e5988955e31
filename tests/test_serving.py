"""The server: answers, limits, and what it does with files that are no images."""

import asyncio
import base64
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import deadly_decoding
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from servers import SHIPPED, CommandServer

from tfdetect import serve
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.evaluation.stability import REENCODINGS
from tfdetect.forensics.evidence import evidence
from tfdetect.forensics.region_pictures import evidence_pictures
from tfdetect.imaging.photographs import photograph
from tfdetect.models.exports import write_exports
from tfdetect.serving import decoding, middleware
from tfdetect.serving.app import create_app
from tfdetect.serving.batching import Batcher
from tfdetect.serving.page import render
from tfdetect.serving.server_settings import ServerSettings
from tfdetect.serving.service import Service


@pytest.fixture(scope="module")
def served_run(shared_run, tmp_path_factory):
    run, root = shared_run
    copy = open_run(shutil.copytree(run.path, tmp_path_factory.mktemp("served") / "small"))
    if not (copy.path / "exports/detector.onnx").exists():
        write_exports(copy, ["onnx"])
    return copy, sorted((root / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def client(served_run):
    settings = ServerSettings(max_files=3, max_file_mib=1, max_pixels=10_000, decoders=1)
    with TestClient(create_app(Service([served_run[0]], settings))) as client:
        yield client


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def files_of(*contents):
    return [("files", (f"{n}.png", data)) for n, data in enumerate(contents)]


def test_verdicts_are_those_of_predict(client, served_run):
    import tfdetect

    run, images = served_run
    answer = client.post("/v1/predict", files=files_of(*[p.read_bytes() for p in images[:3]]))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = tfdetect.load(run.path).predict(images[:3], progress=False)
    assert body["model"] == "small"
    for row, wanted in zip(body["predictions"], expected, strict=True):
        assert row["p_fake"] == pytest.approx(wanted["p_fake"], abs=1e-4)
        assert row["verdict"] == wanted["verdict"] and row["error"] is None
        assert row["inconclusive"] == wanted["inconclusive"]
        assert row["words"]["headline"] and row["words"]["tone"] in ("good", "bad", "caution")
    assert [row["path"] for row in body["predictions"]] == ["0.png", "1.png", "2.png"]


def test_without_a_name_the_size_of_an_image_decides(served_run, tmp_path):
    """As in `predict` without a run, among the runs that come with tfdetect."""
    names = ("photo_detector", "localizer_photos", "cifake_small_resnet")
    runs = [open_run(shutil.copytree(served_run[0].path, tmp_path / name)) for name in names]
    rng = np.random.default_rng(0)
    small, large = (png(rng.integers(0, 256, (side, 20, 3), np.uint8)) for side in (63, 64))
    service = Service(runs, ServerSettings(decoders=1), by_size=True)
    with TestClient(create_app(service)) as client:
        found = client.post("/v1/predict", files=files_of(small, large, b"no image")).json()
        detectors = [row["detector"] for row in found["predictions"]]
        assert detectors == ["cifake_small_resnet", "photo_detector", "photo_detector"]
        assert found["model"] is None and found["predictions"][2]["error"]
        alone = client.post("/v1/predict", files=files_of(small, b"no image")).json()
        assert alone["model"] == "cifake_small_resnet"
        named = client.post("/v1/predict?model=photo_detector", files=files_of(small)).json()
        assert named["model"] == named["predictions"][0]["detector"] == "photo_detector"
        [known] = client.post("/v1/evidence", files=files_of(small)).json()["evidence"]
        assert known["detector"] == "cifake_small_resnet"
        assert any(line["finding"].startswith("cifake_small_resnet:") for line in known["lines"])
        tried = client.post("/v1/stability", files=files_of(large)).json()  # some copies are small
        assert tried["model"] == "photo_detector" and len(tried["copies"]) == len(REENCODINGS)
        masks = client.post("/v1/predict?masks=true", files=files_of(small))
        assert masks.json()["error"].startswith("localizer_photos predicts no masks.")  # this copy
        chosen = [path for path in names if f'<option value="{path}">' in client.get("/").text]
        assert chosen == list(names) and '<option value="">' in client.get("/").text


def test_json_with_base64(client, served_run):
    data = served_run[1][0].read_bytes()
    images = [{"name": "a.png", "data": base64.b64encode(data).decode()}]
    answer = client.post("/v1/predict", json={"images": images})
    [row] = answer.json()["predictions"]
    assert row["path"] == "a.png" and 0 <= row["p_fake"] <= 1


def test_files_that_cannot_be_read_have_an_error_and_the_others_a_verdict(client, served_run):
    good = served_run[1][0].read_bytes()
    large = png(np.zeros((101, 101, 3), np.uint8))
    rows = client.post("/v1/predict", files=files_of(b"no image", good, large)).json()
    broken, fine, refused = rows["predictions"]
    assert broken["error"] and broken["p_fake"] is None and broken["verdict"] is None
    assert fine["error"] is None
    assert "more than 10,000" in refused["error"]


def test_evidence_says_what_a_file_declares(client):
    note = PngInfo()
    note.add_text("parameters", "a cat, Steps: 20, Sampler: Euler")
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "PNG", pnginfo=note)
    answer = client.post("/v1/evidence", files=files_of(file.getvalue(), b"no image"))
    assert answer.status_code == 200, answer.text
    declared, broken = answer.json()["evidence"]
    assert declared["headline"] == "Declared as generated, without a signature"
    assert declared["tone"] == "bad" and declared["error"] is None
    titles = {line["title"]: line["says"] for line in declared["lines"]}
    assert titles["Notes of generators"] == "generated" and "Detector" in titles
    assert broken["path"] == "1.png" and broken["error"] and broken["lines"] == []


def test_evidence_shows_copied_regions(served_run):
    """As the page of `predict --explain` does."""
    pixels = np.asarray(photograph("astronaut").convert("RGB").resize((256, 256))).copy()
    pixels[150:230, 20:100] = pixels[20:100, 90:170]
    with TestClient(create_app(Service([served_run[0]], ServerSettings(decoders=1)))) as client:
        found = [
            client.post(f"/v1/evidence{query}", files=files_of(png(pixels))).json()["evidence"][0]
            for query in ("", "?pictures=true")
        ]
    assert found[0]["pictures"] == [] and found[0]["lines"] == found[1]["lines"]
    known = evidence(png(pixels), pixels=pixels)
    [shown], [expected] = found[1]["pictures"], evidence_pictures(known, pixels)
    assert (shown["title"], shown["caption"]) == (expected.title, expected.caption)
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["png"]))))
    assert np.array_equal(drawn, expected.pixels) and known.copies.copied[190, 60]


def test_copies_of_an_image_are_tried(client, served_run):
    image = served_run[1][0].read_bytes()
    answer = client.post("/v1/stability", files=files_of(image))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    [row] = client.post("/v1/predict", files=files_of(image)).json()["predictions"]
    assert [each["name"] for each in found["copies"]] == list(REENCODINGS)
    said = [(each["verdict"], each["inconclusive"]) for each in found["copies"]]
    same = said.count((row["verdict"], row["inconclusive"]))
    assert f"stays the same for {same} of {len(REENCODINGS)} copies" in found["sentence"]
    assert found["copies"][0]["words"] == "saved as JPEG (quality 95)"
    assert len({each["p_fake"] for each in found["copies"]}) > 5
    broken = client.post("/v1/stability", files=files_of(b"no image")).json()
    assert broken["error"] == "not an image" and broken["copies"] == []
    two = client.post("/v1/stability", files=files_of(image, image))
    assert two.status_code == 422 and "one image" in two.json()["error"]


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "multipart"),
        ({"json": {}}, 422, "body.images is required."),
        ({"json": {"images": []}}, 422, "body.images: a list of at least 1 is expected."),
        ({"json": {"images": [{"data": ""}, {"data": "???"}]}}, 422, "body.images.1.data: not"),
        ({"json": {"images": [{"data": "", "extra": 1}]}}, 422,
         "body.images.0: 'extra' is not known. Allowed here: name, data."),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"files": [("files", (str(n), b"x")) for n in range(4)]}, 422, "3 files"),
        ({"files": [("files", (str(n), b"x")) for n in range(40)]}, 400, "files"),
        ({"files": [("files", ("a", bytes(2**20 + 1)))]}, 413, "1 MiB"),
        ({"files": [("files", ("a", b""))], "params": {"model": "other"}}, 404, "small"),
        ({"files": [("files", ("a", b""))], "params": {"mask": "true"}}, 422,
         "query: 'mask' is not known. Did you mean 'masks'? Allowed here: model, masks."),
        ({"files": [("files", ("a", b""))], "params": {"masks": "so"}}, 422,
         "query.masks: true or false is expected. Received: 'so'."),
        ({"files": [("files", ("a", b""))], "data": {"model": "small"}}, 422, "is not a file"),
        ({"content": b"x", "headers": {"content-type": "application/json",
                                       "content-encoding": "gzip"}}, 415, "Compressed"),
        ({"json": {}, "headers": {"origin": "http://elsewhere.example"}}, 403, "other sites"),
        ({"content": bytes(6 * 2**20), "headers": {"content-type": "application/json"}},
         413, "bytes"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_told_what_is_wrong(client, request_, status, text):
    answer = client.post("/v1/predict", **request_)
    assert answer.status_code == status and text in answer.json()["error"]


def test_a_wrong_address_or_method_is_told_what_there_is(client):
    assert client.get("/v1/no").json()["error"].startswith("There is no address '/v1/no'. /docs")
    wrong = client.get("/v1/predict")
    assert wrong.status_code == 405
    assert wrong.json()["error"].startswith("/v1/predict does not take GET. Use POST;")


@pytest.mark.parametrize(("leaves", "idle", "status"), [(True, 60, None), (False, 60, 503),
                                                        (False, 0.02, 408)])  # fmt: skip
def test_a_client_that_leaves_or_waits_and_a_server_that_stops_are_no_errors(
    client, leaves, idle, status, monkeypatch
):
    monkeypatch.setattr(middleware, "_IDLE", idle)
    headers = [(b"content-type", b"application/json"), (b"host", b"a")]
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": headers,
             "query_string": b"", "app": client.app}  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.disconnect"} if leaves else await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    async def ask():
        task = asyncio.create_task(client.app(scope, receive, send))
        await asyncio.sleep(0.1)
        if not task.done():
            task.cancel()
        await task

    asyncio.run(ask())
    assert [each["status"] for each in sent if "status" in each] == ([status] if status else [])
    if leaves:
        assert '{route="/v1/predict",status="499"}' in client.get("/metrics").text


def test_a_body_without_a_length_is_limited_too(client):
    def chunks():
        for _ in range(100):
            yield bytes(2**17)

    answer = client.post(
        "/v1/predict", content=chunks(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_headers_models_health_and_metrics(client):
    page = client.get("/")
    assert (
        page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    )
    assert page.headers["x-content-type-options"] == "nosniff"
    external = re.findall(r"(?:src|href)=[\"'](?!/|data:|#)[^\"']+", page.text)
    assert external == []
    given = client.get("/healthz", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1" and given.json() == {"status": "ok"}
    odd = client.get("/readyz", headers={"x-request-id": "a b\x1b"})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])
    [model] = client.get("/v1/models").json()
    assert model["name"] == "small" and model["class_names"] == ["real", "fake"]
    client.post("/v1/predict", files=files_of(b"no image"))
    figures = client.get("/metrics").text
    assert 'tfdetect_images_total{model="small",result="error"}' in figures
    assert client.get("/docs").status_code == 200
    assert "cdn" not in client.get("/docs").text


def test_requests_are_logged_as_json(client, caplog):
    import logging

    logger = logging.getLogger("tfdetect.serve")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        client.get("/healthz", headers={"x-request-id": "abc-2"})
    finally:
        logger.removeHandler(caplog.handler)
    entry = json.loads(caplog.messages[-1])
    assert entry["id"] == "abc-2" and entry["status"] == 200 and entry["path"] == "/healthz"


def test_what_libraries_log_is_json_too(capsys, monkeypatch):
    import logging

    from tfdetect.serving.middleware import log, log_to_stderr

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    level = log.level
    log_to_stderr()
    logging.getLogger("python_multipart.multipart").warning("Expected %d", 45)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("It failed")
    log.info(json.dumps({"event": "request"}))
    log.setLevel(level)
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "Expected 45" and first["level"] == "WARNING"
    assert second["logger"] == "uvicorn.error" and "ValueError: two\nlines" in second["exception"]
    assert third == {"event": "request"}


def test_masks_of_a_run_that_predicts_none_are_refused(client):
    answer = client.post("/v1/predict?masks=true", files=files_of(b"no image"))
    assert answer.status_code == 409
    assert answer.json()["error"] == (
        "small predicts no masks. No other model of this server does. Leave masks out."
    )


def test_a_token_is_asked_for(served_run):
    settings = ServerSettings(token="secret", decoders=1)
    client = TestClient(create_app(Service([served_run[0]], settings)))
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
    assert client.get("/").status_code == client.get("/healthz").status_code == 200


def test_other_machines_need_a_token_that_is_not_empty(monkeypatch):
    monkeypatch.setenv("TFDETECT_TOKEN", "")
    for arguments in ([], ["--token", ""]):
        with pytest.raises(UserError, match="Choose a secret"):
            serve.main(["--host", "0.0.0.0", *arguments])


def test_a_full_queue_is_answered_with_429(served_run):
    settings = ServerSettings(queue_size=1, decoders=1)
    with TestClient(create_app(Service([served_run[0]], settings))) as client:
        answer = client.post("/v1/predict", files=files_of(b"a", b"b"))
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def test_kept_files_stay_in_their_folder(served_run, tmp_path):
    (tmp_path / "kept").mkdir()
    settings = ServerSettings(decoders=1, keep=tmp_path / "kept")
    with TestClient(create_app(Service([served_run[0]], settings))) as client:
        client.post("/v1/predict", files=[("files", ("../../up.png", b"data"))])
        assert "which keeps them" in client.get("/").text
    [kept] = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert kept.parent.name == "kept" and kept.read_bytes() == b"data"


def test_a_file_that_ends_its_process_costs_itself_alone():
    decoders = decoding.Decoders(2, timeout=1, function=deadly_decoding.decode)

    async def go():
        datas = [b"a", b"kill", b"b", b"slow", b"c"]
        return await asyncio.gather(*(decoders.decode(data, None, 1) for data in datas))

    found = [each.error for each in asyncio.run(go())]
    decoders.stop()
    ended = "decoding it crashed or took longer than 1 s"
    assert found == ["a", ended, "b", ended, "c"]


def test_batches_are_collected_and_an_error_reaches_every_item():
    sizes = []

    def run(items):
        sizes.append(len(items))
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]

    async def go():
        batcher = Batcher(run, size=4)
        batcher.start()
        first = await asyncio.gather(*(batcher.submit(n) for n in range(6)))
        second = await asyncio.gather(
            *(batcher.submit(n) for n in (13, 14)), return_exceptions=True
        )
        await batcher.stop()
        return first, second

    first, second = asyncio.run(go())
    assert first == [0, 2, 4, 6, 8, 10] and sizes == [4, 2, 2]
    assert [str(error) for error in second] == ["unlucky", "unlucky"]


def test_a_run_without_an_export_is_refused(served_run, tmp_path):
    run = open_run(shutil.copytree(served_run[0].path, tmp_path / "bare"))
    shutil.rmtree(run.path / "exports")
    with pytest.raises(UserError, match="--format onnx"):
        Service([run], ServerSettings())


def test_runs_of_one_name_are_refused_with_what_to_do(served_run, tmp_path):
    run, _ = served_run
    with pytest.raises(UserError, match=f"The run {run.path} is given twice"):
        Service([run, run], ServerSettings())
    copy = open_run(shutil.copytree(run.path, tmp_path / run.path.name))
    with pytest.raises(UserError, match="have the name small: .*rename one of the two folders"):
        Service([run, copy], ServerSettings())


def test_the_page_explains_a_probability_or_a_score_as_the_runs_have_it():
    """Of a run without calibration no image is "about 70 in 100" fake."""
    calibrated = open_run("cifake_small_resnet")
    other = calibrated.with_info(calibration=None, prior=None)
    probability, score = "About 70 in 100", "Score for fake, such as 0.700"
    for runs, shown in (
        ([calibrated], [probability]),
        ([other], [score]),
        ([calibrated, other], [probability, score]),
    ):
        page = render("index.html", runs, {}, files="/static/", private="")
        assert [each for each in (probability, score) if f"<dt>{each}" in page] == shown
        assert ("The scores of cifake_small_resnet are not calibrated" in page) == (other in runs)
        flags = [f'"calibrated": {json.dumps(run is calibrated)}' for run in runs]
        assert all(flag in page for flag in flags)
    assert '"sides": "whose sides have 32 pixels"' in page  # all training images are 32 x 32
    photos = open_run(SHIPPED / "photo_detector")
    page = render("index.html", [photos], {}, files="/static/", private="")
    assert '"sides": "whose shorter side has 213 to 4,480 pixels"' in page


def test_the_page_about_an_image(served_run):
    from tfdetect.serving.explaining import explanation_page

    run, images = served_run
    data, limit = images[0].read_bytes(), 10_000
    page = explanation_page(run, "../odd name.png", data, limit)
    assert page.startswith("<!doctype html>") and "What the probability means" in page
    with pytest.raises(ValueError, match="not an image"):
        explanation_page(run, "b.png", b"rubbish", limit)
    with pytest.raises(ValueError, match="more than 100 "):
        explanation_page(run, "large.png", data, 100)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_running_requests_finish(tmp_path, sent, code):
    pixels = np.random.default_rng(0).integers(0, 256, (1_500, 2_000, 3), np.uint8)
    with CommandServer([SHIPPED / "localizer_photos"], tmp_path / "log") as server:
        with ThreadPoolExecutor(1) as pool:
            url = f"{server.address}v1/predict"
            answer = pool.submit(httpx.post, url, files=files_of(png(pixels)), timeout=100)
            metrics = f"{server.address}metrics"
            while "tfdetect_images_in_flight 1.0" not in httpx.get(metrics).text:
                time.sleep(0.02)
            server.process.send_signal(sent)
            assert answer.result().json()["predictions"][0]["error"] is None
        assert server.process.wait(30) == code
        log = server.log.read_text()
    assert "Traceback" not in log, log


def test_a_port_in_use_is_said(served_run):
    from tfdetect.serve import main

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(UserError, match="in use"):
            main([str(served_run[0].path), "--port", port])


@pytest.mark.slow
def test_the_interface_does_what_its_description_says(tmp_path):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    with CommandServer([SHIPPED / "cifake_small_resnet"], tmp_path / "log") as server:
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", f"{server.address}openapi.json",
             "--max-examples", "100", "--seed", "1", "--request-timeout", "300",
             "--exclude-path", "/v1/explain"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5_000:]
        assert "Traceback" not in server.log.read_text()


def test_an_answer_does_not_wait_for_an_acknowledgment():
    """The body of an answer follows its header at once, not after TCP's 40 ms."""
    with (
        serve._listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
