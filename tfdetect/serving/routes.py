"""The routes of the server: images under /v1, the state of the service, and its page."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from tfdetect.core.errors import UserError
from tfdetect.core.text import printable
from tfdetect.serving.explaining import Explainers
from tfdetect.serving.middleware import Metrics
from tfdetect.serving.page import render, texts
from tfdetect.serving.schemas import (
    PROBLEMS,
    PROBLEMS_AS_JSON,
    EvidenceList,
    EvidenceQuery,
    ModelInfo,
    ModelQuery,
    Predictions,
    PredictQuery,
    Stability,
    request_body,
)
from tfdetect.serving.server_settings import MEBIBYTE
from tfdetect.serving.service import Service, Upload
from tfdetect.serving.uploads import read_uploads

_PAGE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Backend:
    """What the routes of an application share; it is `app.state.backend`."""

    service: Service
    explainers: Explainers
    metrics: Metrics


async def _backend(request: Request) -> Backend:
    return request.app.state.backend


Shared = Annotated[Backend, Depends(_backend)]
Chosen = Annotated[ModelQuery, Query()]


async def _check_token(request: Request, backend: Shared) -> None:
    """Check that a request has the token of the server, if there is one.

    Raises:
        HTTPException: it has another one or none.
    """
    token = backend.service.settings.token
    if token is None:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise HTTPException(
            401, "The token is missing or wrong. Send the header Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _model_name(backend: Backend, model: str | None, masks: bool = False) -> str | None:
    """Return the name of the run for a request; see `Service.name_of`.

    Raises:
        HTTPException: the server has no such run.
    """
    service = backend.service
    if model is not None and model not in service.detectors:
        known = ", ".join(service.detectors)
        raise HTTPException(404, f"There is no model {printable(model)!r}. Available: {known}.")
    return service.name_of(model, masks)


def _model_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the run that gave the verdicts on all images that could be read; None if several."""
    readable = [row for row in rows if row["error"] is None] or rows
    names = {row["detector"] for row in readable}
    return names.pop() if len(names) == 1 else None


def api_routes(max_files: int) -> APIRouter:
    """Return the routes for which a token is needed, if the server has one.

    Args:
        max_files: number of images in one request, at most; for the OpenAPI description.
    """
    router = APIRouter(dependencies=[Depends(_check_token)])
    images, image = request_body(max_files), request_body(1)
    router.post(
        "/v1/predict", response_model=Predictions, responses=PROBLEMS, openapi_extra=images
    )(predict)
    router.post(
        "/v1/evidence", response_model=EvidenceList, responses=PROBLEMS, openapi_extra=images
    )(evidence)
    router.post("/v1/stability", response_model=Stability, responses=PROBLEMS, openapi_extra=image)(
        stability
    )
    router.post(
        "/v1/explain", response_class=HTMLResponse, responses=PROBLEMS_AS_JSON, openapi_extra=image
    )(explain)
    router.get("/v1/models", responses={401: PROBLEMS[401]})(models)
    return router


async def predict(
    request: Request,
    backend: Shared,
    query: Annotated[PredictQuery, Query()],
) -> dict[str, Any]:
    """Give a verdict on each image of a request."""
    model = _model_name(backend, query.model, query.masks)
    runs = {name: each.run for name, each in backend.service.detectors.items()}
    if query.masks and model is not None and not runs[model].predicts_masks:
        those = [name for name, run in runs.items() if run.predicts_masks]
        instead = (
            f"Use ?model={those[0]}, or leave masks out." if those
            else "No other model of this server does. Leave masks out."
        )  # fmt: skip
        raise HTTPException(409, f"{model} predicts no masks. {instead}")
    uploads = await read_uploads(request, backend.service.settings, keep=True)
    rows = await backend.service.predict(model, uploads, query.masks)
    for row in rows:
        result = "error" if row["error"] else row["verdict"]
        backend.metrics.images.labels(row["detector"], result).inc()
    return {"model": _model_of(rows), "predictions": rows}


async def evidence(
    request: Request, backend: Shared, query: Annotated[EvidenceQuery, Query()]
) -> dict[str, Any]:
    """Return other evidence on each image: metadata, JPEG history, copied regions.

    Each finding states how often such findings are wrong. A large photograph takes seconds.
    """
    model = _model_name(backend, query.model)
    uploads = await read_uploads(request, backend.service.settings)
    found = await backend.service.examine(model, uploads, query.pictures)
    return {"model": _model_of(found), "evidence": found}


async def stability(request: Request, backend: Shared, query: Chosen) -> dict[str, Any]:
    """Return whether the verdict on one image survives re-encoding, resizing and cropping.

    The analysis is repeated on copies that show the same picture to a person.
    """
    model = _model_name(backend, query.model)
    upload = await _one_upload(request, backend)
    return await backend.service.reencode(model, upload)


async def _one_upload(request: Request, backend: Backend) -> Upload:
    """Return the file of a request.

    Raises:
        HTTPException: the request is malformed or too large, or has several files.
    """
    uploads = await read_uploads(request, backend.service.settings)
    if len(uploads) != 1:
        raise HTTPException(
            422, f"This address takes one image in a request. Received: {len(uploads)}."
        )
    return uploads[0]


async def explain(request: Request, backend: Shared, query: Chosen) -> Response:
    """Return the page that explains the verdict on one image."""
    model = _model_name(backend, query.model)
    upload = await _one_upload(request, backend)
    name = await backend.service.detector_of(model, upload)
    try:
        page = await backend.explainers.explain(backend.service.detectors[name].run, upload)
    except UserError as error:
        raise HTTPException(503, str(error)) from None
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})


def models(backend: Shared) -> list[ModelInfo]:
    """Return all models.

    The first one is the default, unless the size of each image decides.
    """
    return [ModelInfo.of(detector.run) for detector in backend.service.detectors.values()]


public_routes = APIRouter()


@public_routes.get("/healthz")
def healthy() -> dict[str, str]:
    """Return that the server is running."""
    return {"status": "ok"}


@public_routes.get("/readyz", responses={503: PROBLEMS[503]})
def ready(backend: Shared) -> dict[str, str]:
    """Return that the server is ready for images; 503 if it is not."""
    if not backend.service.ready:
        raise HTTPException(503, "The server is starting or stopping.")
    return {"status": "ready"}


@public_routes.get("/metrics", response_class=Response)
def read_metrics(backend: Shared) -> Response:
    """Return the metrics of the server in the format of Prometheus."""
    return Response(generate_latest(backend.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@public_routes.get("/", response_class=HTMLResponse, include_in_schema=False)
def page(backend: Shared) -> str:
    """Return the page on which images are chosen and verdicts are shown."""
    settings = backend.service.settings
    runs = [detector.run for detector in backend.service.detectors.values()]
    data = {
        "max_bytes": settings.max_file_mib * MEBIBYTE,
        "max_pixels": settings.max_pixels,
        "explains": backend.explainers.possible,
    }
    kind = "private" if settings.keep is None else "kept"
    by_size = backend.service.by_size
    private = texts()["page"][kind]
    return render("index.html", runs, data, by_size=by_size, files="/static/", private=private)
