"""What applies to every request: limits, security headers, the log and the metrics."""

import asyncio
import json
import logging
import re
import sys
import time
import uuid

from fastapi import Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfdetect.core.text import printable
from tfdetect.serving.server_settings import ServerSettings
from tfdetect.serving.service import Service

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
_DOCS_POLICY = (  # for /docs, whose page contains a script
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:"
)
_CLIENT_LEFT = 499  # as nginx calls it: the client disconnected before it had sent everything
_IDLE = 60  # seconds that a client may wait between two parts of its request
log = logging.getLogger("tfdetect.serve")


class Metrics:
    """The metrics of one application, which /metrics returns."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        self.requests = Counter("tfdetect_requests", "Requests", ["route", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("tfdetect_request_seconds", "Duration of requests", ["route"],
                                 registry=self.registry)  # fmt: skip
        self.images = Counter("tfdetect_images", "Images by result", ["model", "result"],
                              registry=self.registry)  # fmt: skip
        waiting = Gauge("tfdetect_images_in_flight", "Images that wait or are processed",
                        registry=self.registry)  # fmt: skip
        waiting.set_function(lambda: service.in_flight)


class _Exchange:
    """A request and its response: limits what is received, and adds headers to what is sent.

    Attributes:
        id: the ID of the request, from its header X-Request-ID or a new one.
        read: number of bytes received.
        status: the HTTP status of the response; 0 before there is one.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int):
        self._receive, self._send, self._max_body = receive, send, max_body
        given = Request(scope).headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.read, self.status, self._more = 0, 0, True
        self._headers = {**_HEADERS, "X-Request-ID": self.id}
        if scope["path"] == "/docs":
            self._headers["Content-Security-Policy"] = _DOCS_POLICY

    async def receive(self) -> Message:
        """Receive the next part of the request.

        Raises:
            HTTPException: the client waits too long, or the request is too large.
        """
        try:
            async with asyncio.timeout(_IDLE if self._more else None):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"Nothing was received for {_IDLE} seconds.") from None
        self._more = message.get("more_body", False)
        self.read += len(message.get("body", b""))
        if self.read > self._max_body:
            raise HTTPException(413, _too_large(self._max_body))
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response, whose headers get those of `_HEADERS` that it lacks."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {key.lower() for key, _ in message["headers"]}
            message["headers"] += [
                (name.encode(), value.encode()) for name, value in self._headers.items()
                if name.lower().encode() not in own
            ]  # fmt: skip
        await self._send(message)


class Guard:
    """Limits requests, sets headers, and logs and counts each request.

    Args:
        app: the application.
        settings: the limits.
        metrics: the metrics that count the requests.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request, started = Request(scope), time.perf_counter()
        exchange = _Exchange(scope, receive, send, self._settings.max_body)
        try:
            if (refused := self._refused(request)) is not None:
                await refused(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_LEFT
        except asyncio.CancelledError:  # the server stops, and has waited for this request
            if exchange.status:
                raise
            stops = JSONResponse({"error": "The server is being stopped."}, 503)
            await stops(scope, receive, exchange.send)
        finally:
            status, seconds = exchange.status or 500, time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            entry = {"event": "request", "id": exchange.id, "method": request.method,
                     "path": printable(scope["path"])[:200], "status": status,
                     "milliseconds": round(seconds * 1000, 1), "bytes": exchange.read}  # fmt: skip
            log.info(json.dumps(entry))

    def _refused(self, request: Request) -> JSONResponse | None:
        """Return the response to a request that is refused before its body is read, or None."""
        if request.method != "POST":
            return None
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            return JSONResponse({"error": "Requests from pages of other sites are refused."}, 403)
        if request.headers.get("content-encoding", "identity") != "identity":
            return JSONResponse(
                {"error": "Compressed requests are not supported. Send the body as it is."}, 415
            )
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.max_body:
            return JSONResponse({"error": _too_large(self._settings.max_body)}, 413)
        return None


def _too_large(limit: int) -> str:
    return f"The request is too large: at most {limit:,} bytes are allowed."


class _JsonLines(logging.Formatter):
    """Formats each record as one line of JSON; messages of the server itself are JSON already."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == log.name:
            return record.getMessage()
        entry = {"event": "log", "logger": record.name, "level": record.levelname,
                 "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_to_stderr() -> None:
    """Write the log of the server and of its libraries to stderr, one JSON object per line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.getLogger().handlers = [handler]
    log.setLevel(logging.INFO)
