"""The FastAPI application: routes, limits, headers, logs and metrics."""

import base64
import binascii
import hmac
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tfdetect
from tfdetect.core.errors import UserError
from tfdetect.core.text import file_name, printable
from tfdetect.serving.explaining import Explainers
from tfdetect.serving.page import FOLDER, render, texts
from tfdetect.serving.service import Overloaded, Service, Upload
from tfdetect.serving.settings import MEBIBYTE, ServerSettings

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_DOCS_POLICY = (  # of /docs, whose page has a script inside
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:"
)
_MANY = 10  # times as many files as allowed are counted; with more, a request is not read
_PAGE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
log = logging.getLogger("tfdetect.serve")


class ImageData(BaseModel):
    """One image of a JSON request."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field("image", max_length=1000, description="what to call it in the answer")
    data: str = Field(description="the file's bytes in base64", json_schema_extra={
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    })  # fmt: skip


class PredictRequest(BaseModel):
    """A JSON request with images."""

    model_config = ConfigDict(extra="forbid")
    images: list[ImageData] = Field(min_length=1)


class Prediction(BaseModel):
    """The verdict on one image."""

    model_config = ConfigDict(extra="allow")
    path: str = Field(description="name of the file as it was sent")
    p_fake: float | None = Field(description="calibrated probability that it is fake; null where "
                                 "`error` is set")  # fmt: skip
    verdict: str | None = Field(description="name of the class")
    inconclusive: bool | None = Field(description="whether p_fake is in the abstention band")
    error: str | None = Field(description="why the file could not be read, or null")


class Predictions(BaseModel):
    """The verdicts on the images of a request, in order."""

    model: str
    predictions: list[Prediction]


class EvidenceLine(BaseModel):
    """One piece of evidence."""

    model_config = ConfigDict(extra="allow")
    title: str
    finding: str = Field(description="what was found, in sentences")
    reliability: str = Field(description="how often such a finding is wrong, in sentences")
    says: str = Field(description="what it speaks for: generated, altered, edited, camera, "
                      "authentic or nothing")  # fmt: skip


class Evidence(BaseModel):
    """What is known of one image."""

    path: str = Field(description="name of the file as it was sent")
    headline: str | None = Field(None, description="the result in a few words")
    tone: str | None = Field(None, description="good, caution or bad")
    reasons: list[str] = Field([], description="sentences that say what it follows from")
    rule: str | None = Field(None, description="the rule that the headline follows")
    lines: list[EvidenceLine] = []
    error: str | None = Field(None, description="why the file could not be examined, or null")


class EvidenceList(BaseModel):
    """What is known of the images of a request, in order."""

    model: str
    evidence: list[Evidence]


class ModelInfo(BaseModel):
    """A run that answers."""

    name: str
    class_names: list[str] = Field(description="in label order; the first one is authentic")
    predicts_masks: bool
    threshold: float
    mask_threshold: float | None = Field(description="P(fake) from which a mask is not empty")
    prior: float | None
    image_size: list[list[int]] = Field(description="height and width that the detector sees")
    dataset: str
    operating_points: dict[str, float] = Field(description="thresholds by name")


class Problem(BaseModel):
    """What was wrong with a request."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The request is malformed.", 401: "The token is missing or wrong.",
        404: "There is no such model.", 413: "The request or a file is too large.",
        415: "The content type or encoding is not supported.", 422: "A parameter is wrong.",
        429: "Too many images wait; try again after the seconds in Retry-After.",
        503: "The server starts or stops, or lacks what is needed.",
    }.items()
}  # fmt: skip


class _Metrics:
    """The figures of /metrics, of one application."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        self.requests = Counter("tfdetect_requests", "Requests", ["route", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("tfdetect_request_seconds", "Duration of requests", ["route"],
                                 registry=self.registry)  # fmt: skip
        self.images = Counter("tfdetect_images", "Images by result", ["model", "result"],
                              registry=self.registry)  # fmt: skip
        waiting = Gauge("tfdetect_images_in_flight", "Images that wait or are worked on",
                        registry=self.registry)  # fmt: skip
        waiting.set_function(lambda: service.in_flight)


def create_app(service: Service) -> FastAPI:
    """Return the application that answers for a service's runs."""
    settings = service.settings
    metrics, explainers = _Metrics(service), Explainers(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()
        explainers.stop()

    app = FastAPIOffline(
        title="tfdetect", version=tfdetect.__version__, lifespan=lifespan, redoc_url=None,
        description="Verdicts on images: authentic, generated or altered. A probability is "
        "evidence, not proof.",
    )  # fmt: skip
    app.add_middleware(_Guard, settings=settings, metrics=metrics)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": printable(f"{where}: {first['msg']}")}, 422)

    def check_token(request: Request) -> None:
        if settings.token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {settings.token}".encode()):
            raise HTTPException(401, "The token is missing or wrong.",
                                {"WWW-Authenticate": "Bearer"})  # fmt: skip

    def model_name(model: Annotated[str | None, Query(description="name of the run; by default "
                   "the first one")] = None) -> str:  # fmt: skip
        if model is None:
            return service.default
        if model not in service.detectors:
            known = ", ".join(service.detectors)
            raise HTTPException(404, f"There is no model {printable(model)!r}. There is: {known}")
        return model

    def overloaded() -> HTTPException:
        text = f"{service.in_flight} images wait already. Try again later."
        return HTTPException(429, text, {"Retry-After": "1"})

    Model = Annotated[str, Depends(model_name)]
    protected = [Depends(check_token)]

    @app.post("/v1/predict", response_model=Predictions, responses=_PROBLEMS,
              dependencies=protected, openapi_extra=_body(settings.max_files))  # fmt: skip
    async def predict(
        request: Request,
        model: Model,
        masks: Annotated[bool, Query(description="add `mask_png`: P(altered) of each pixel as a "
                         "gray PNG in base64, from models that predict masks")] = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Give a verdict on each image of a request."""
        uploads = await _uploads(request, settings, keep=True)
        try:
            rows = await service.predict(model, uploads, masks)
        except Overloaded:
            raise overloaded() from None
        for row in rows:
            result = "error" if row["error"] else row["verdict"]
            metrics.images.labels(model, result).inc()
        return {"model": model, "predictions": rows}

    @app.post("/v1/evidence", response_model=EvidenceList, responses=_PROBLEMS,
              dependencies=protected, openapi_extra=_body(settings.max_files))  # fmt: skip
    async def evidence(request: Request, model: Model) -> dict[str, Any]:
        """Return what else is known of each image: metadata, JPEG history, copied regions.

        Each finding says how often it is wrong. It takes seconds for a large photograph.
        """
        uploads = await _uploads(request, settings)
        try:
            found = await service.examine(model, uploads)
        except Overloaded:
            raise overloaded() from None
        return {"model": model, "evidence": found}

    @app.post("/v1/explain", response_class=HTMLResponse, responses=_as_json(_PROBLEMS),
              dependencies=protected, openapi_extra=_body(1))  # fmt: skip
    async def explain(request: Request, model: Model) -> Response:
        """Return the page that explains the verdict on one image."""
        uploads = await _uploads(request, settings)
        if len(uploads) != 1:
            raise HTTPException(422, "An explanation is of one image; send one file.")
        try:
            page = await explainers.explain(service.detectors[model].run, uploads[0])
        except Overloaded:
            raise HTTPException(429, "Another explanation is being made. Try again later.",
                                {"Retry-After": "10"}) from None  # fmt: skip
        except UserError as error:
            raise HTTPException(503, str(error)) from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/v1/models", response_model=list[ModelInfo], dependencies=protected,
             responses={401: _PROBLEMS[401]})  # fmt: skip
    def models() -> list[dict[str, Any]]:
        """List the models; the first one is the default."""
        return [_model_info(detector.run) for detector in service.detectors.values()]

    @app.get("/healthz")
    def healthy() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _PROBLEMS[503]})
    def ready() -> dict[str, str]:
        """Say whether images are answered."""
        if not service.ready:
            raise HTTPException(503, "The server starts or stops.")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Return figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        runs = [detector.run for detector in service.detectors.values()]
        data = {
            "max_bytes": settings.max_file_mib * MEBIBYTE,
            "explains": explainers.possible,
        }
        kind = "private" if settings.keep is None else "kept"
        return render("index.html", runs, data, files="/static/", private=texts()["page"][kind])

    return app


def _body(max_files: int) -> dict[str, Any]:
    """Return what OpenAPI says about the body of a request with images."""
    # Without references, which OpenAPI resolves elsewhere than pydantic.
    images = PredictRequest.model_json_schema()
    del images["$defs"]
    images["properties"]["images"] |= {
        "items": ImageData.model_json_schema(),
        "maxItems": max_files,
    }
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "minItems": 1, "maxItems": max_files, "items": file}
    form = {"type": "object", "required": ["files"], "properties": {"files": files}}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": images}}
    return {"requestBody": {"required": True, "content": content}}


def _as_json(problems: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """Return the problems of a route that answers in another format when there is none."""
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        code: {"description": each["description"], "content": schema}
        for code, each in problems.items()
    }


def _model_info(run: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "class_names": list(run.class_names),
        "predicts_masks": run.predicts_masks,
        "threshold": run.threshold,
        "mask_threshold": run.mask_threshold if run.predicts_masks else None,
        "prior": run.info.prior,
        "image_size": [list(view.size) for view in run.views],
        "dataset": run.info.dataset.name,
        "operating_points": {n: p.threshold for n, p in run.info.operating_points.items()},
    }


async def _uploads(request: Request, settings: ServerSettings, keep: bool = False) -> list[Upload]:
    """Return the files of a request, multipart or JSON, within the limits.

    Args:
        request: whose body is read.
        settings: the limits.
        keep: whether the files are kept, where the settings name a folder.

    Raises:
        HTTPException: the request is malformed or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=_MANY * settings.max_files, max_fields=10) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            found = [Upload(part.filename or "image", await part.read()) for part in parts]
    elif kind == "application/json":
        found = _json_uploads(await request.body())
    else:
        raise HTTPException(
            415, "Send files as multipart/form-data, or JSON with base64 as application/json."
        )
    if not found:
        raise HTTPException(422, "The request has no file.")
    if len(found) > settings.max_files:
        raise HTTPException(422, f"A request has at most {settings.max_files} files.")
    for each in found:
        if len(each.data) > settings.max_file_mib * MEBIBYTE:
            raise HTTPException(413, f"A file has at most {settings.max_file_mib} MiB.")
    named = [Upload(printable(each.name)[:1000], each.data) for each in found]
    if keep and settings.keep is not None:
        _keep(named, settings.keep)
    return named


def _json_uploads(body: bytes) -> list[Upload]:
    try:
        content = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(str(part) for part in what["loc"])
        raise HTTPException(422, printable(f"body {where}: {what['msg']}")) from None
    try:
        return [Upload(e.name, base64.b64decode(e.data, validate=True)) for e in content.images]
    except (binascii.Error, ValueError):
        raise HTTPException(422, "body images.data: it is no base64") from None


def _keep(uploads: list[Upload], folder: Path) -> None:
    for each in uploads:
        name = file_name(f"{uuid.uuid4().hex}-{Path(each.name).name}")
        (folder / name).write_bytes(each.data)


class _Guard:
    """Limits requests, sets headers, and logs and counts each request.

    Args:
        app: the application.
        settings: the limits.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: _Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request, started, status = Request(scope), time.perf_counter(), 500
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.max_body:
                raise HTTPException(413, f"A request has at most {self._settings.max_body} bytes.")
            return message

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {key.lower() for key, _ in message["headers"]}
                for name, value in {**_HEADERS, "X-Request-ID": request_id}.items():
                    if name == "Content-Security-Policy" and scope["path"] == "/docs":
                        value = _DOCS_POLICY
                    if name.lower().encode() not in headers:
                        message["headers"].append((name.encode(), value.encode()))
            await send(message)

        refused = self._refused(request)
        try:
            if refused is not None:
                await refused(scope, receive, with_headers)
            else:
                await self._app(scope, limited, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            entry = {"event": "request", "id": request_id, "method": request.method,
                     "path": printable(scope["path"])[:200], "status": status,
                     "milliseconds": round(seconds * 1000, 1), "bytes": read}  # fmt: skip
            log.info(json.dumps(entry))

    def _refused(self, request: Request) -> JSONResponse | None:
        """Return the answer to a request that is refused before it is read."""
        if request.method != "POST":
            return None
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            return JSONResponse({"error": "Requests from other sites are refused."}, 403)
        if request.headers.get("content-encoding", "identity") != "identity":
            return JSONResponse({"error": "Compressed requests are not supported."}, 415)
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.max_body:
            limit = self._settings.max_body
            return JSONResponse({"error": f"A request has at most {limit} bytes."}, 413)
        return None


def log_to_stderr() -> None:
    """Write the server's log to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
