"""The FastAPI application: its routes, its middleware, and its responses to errors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

import tfdetect
from tfdetect.core.text import printable
from tfdetect.serving.explaining import Explainers
from tfdetect.serving.middleware import Guard, Metrics
from tfdetect.serving.page import FOLDER
from tfdetect.serving.routes import Backend, api_routes, public_routes
from tfdetect.serving.schemas import first_problem
from tfdetect.serving.service import Overloaded, Service


def create_app(service: Service) -> FastAPI:
    """Return the application that serves the runs of a service."""
    settings = service.settings
    backend = Backend(service, Explainers(settings.max_pixels), Metrics(service))
    app = FastAPIOffline(
        title="tfdetect", version=tfdetect.__version__, lifespan=_lifespan, redoc_url=None,
        description="Detects whether images are authentic, generated or altered. A verdict is a "
        "probability: evidence, not proof.",
        exception_handlers={
            HTTPException: _http_error,
            RequestValidationError: _validation_error,
            Overloaded: _overloaded,
        },
    )  # fmt: skip
    app.state.backend = backend
    app.add_middleware(Guard, settings=settings, metrics=backend.metrics)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    app.include_router(api_routes(settings.max_files))
    app.include_router(public_routes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the service before the first request, and stop it after the last one."""
    backend: Backend = app.state.backend
    await backend.service.start()
    yield
    await backend.service.stop()
    backend.explainers.stop()


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    text, path = str(error.detail), printable(request.url.path)[:200]
    if text == HTTPStatus.NOT_FOUND.phrase:  # Starlette found no route
        text = f"There is no address {path!r}. /docs describes those that there are."
    elif text == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        allowed = (error.headers or {}).get("Allow", "another method")
        text = f"{path} does not take {request.method}. Use {allowed}; /docs describes it."
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"error": first_problem(error.errors())}, 422)


async def _overloaded(_: Request, error: Overloaded) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 429, {"Retry-After": str(error.retry_after_s)})
