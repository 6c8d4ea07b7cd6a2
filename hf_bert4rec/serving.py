"""
A recommender behind HTTP: `POST /recommend`, `/health`, `/metrics` for Prometheus, and `/docs`. Needs FastAPI, uvicorn and
prometheus_client, which the extra `serve` installs.

Requests that come at the same time are scored in one batch, each by its own rules; see `batching.py`.

*Source:* none.
"""

# No `from __future__ import annotations`: FastAPI reads those of functions inside functions, where text is not resolved.

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from .batching import BatchQueue, QueueFull
from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .pipeline_recommendation import NextItemRecommendationPipeline
from .serving_requests import BadRequest, ServingLimits, answers_type, read_request, request_model
from .token_gate import TokenGate, check_token

# What may be read without the token: that the server lives, and how it is asked.
OPEN_PATHS = ("/health", "/docs", "/openapi.json")
# Seconds for a body to arrive, and for requests under way to end after a signal to stop.
BODY_SECONDS, STOP_SECONDS = 30, 60
BACKLOG = 2048  # connections that may wait to be accepted
# A body up to so many times too long is read to its end and thrown away: a client that is still sending hears no answer.
DRAINED = 4
LONG_BODY = 1 << 16  # bytes; a longer one is read in a thread of its own, so that others need not wait for it


def create_app(
    recommender: NextItemRecommendationPipeline, *, token: str | None = None, limits: ServingLimits | None = None
) -> Any:
    r"""
    The web application. Other pages can be mounted into it; with a token they ask for it too.

    Args:
        recommender ([`NextItemRecommendationPipeline`]): Answers; used by one thread at a time.
        token (`str`, *optional*): What requests must bear (`Authorization: Bearer TOKEN`, or the password of a browser),
            `/health` and the documentation excepted.
        limits ([`ServingLimits`], *optional*): What a request may ask for.

    Returns:
        `fastapi.FastAPI`: The application. While it runs, `app.state.batches` is its [`BatchQueue`].

    Raises:
        ValueError: If a package of the extra `serve` is missing, or the token cannot be sent in a header.
    """
    check_packages()
    check_token(token)
    from fastapi import FastAPI

    limits, metrics = limits or ServingLimits(), _Metrics()

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        sizes = limits.max_batch_size, limits.max_waiting
        async with BatchQueue(recommender.answer, *sizes, on_batch=metrics.batches.observe) as app.state.batches:
            metrics.waiting.set_function(lambda: app.state.batches.num_waiting)
            yield

    app = FastAPI(title="Next-item recommendation", version="1", lifespan=running, redoc_url=None)
    app.add_middleware(TokenGate, token=token, open_paths=OPEN_PATHS)
    app.add_middleware(_Counts, metrics=metrics)  # in front of the other: refusals count too
    _answer_errors_in_a_sentence(app)
    guards = _documented_guards(token)
    _add_recommend(app, recommender, limits, guards)
    _add_status(app, recommender, metrics, guards)
    return app


def check_packages() -> None:
    r"""
    Raises:
        ValueError: If a package of the extra `serve` is missing.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"Serving needs FastAPI, uvicorn and more ({error}): pip install 'hf_bert4rec[serve]'"
        ) from None


def listen(host: str, port: int, token: str | None) -> socket.socket:
    r"""
    A socket that listens; port 0 takes one that is free.

    Raises:
        ValueError: If others than this machine could connect and there is no token.
        OSError: If the address is unknown, or the port is in use.

    Example:
        >>> with listen("127.0.0.1", 0, token=None) as found:
        ...     found.getsockname()[0]
        '127.0.0.1'
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; give a number between 0 and 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise OSError(f"There is no address {host} ({error.strerror}); give one of this machine.") from None
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise ValueError(f"{host} can be reached by others, so a token is needed: set HF_BERT4REC_TOKEN or --token.")
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OSError(f"Cannot listen on {host}, port {port} ({reason}); give another port or address.") from None


def serve(app: Any, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; requests that have come by then are answered first. For the main thread."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    # Once all is answered uvicorn raises the signal again, which would end the process as if it had been killed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


class _Metrics:
    """What Prometheus reads, in a registry of its own: two applications in one process do not count together."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ["path", "status"]
        self.requests = Counter("hf_bert4rec_requests", "Requests answered", labels, registry=registry)
        seconds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        self.seconds = Histogram(
            "hf_bert4rec_request_seconds",
            "From the headers to the end of the answer",
            ["path"],
            registry=registry,
            buckets=seconds,
        )
        self.in_flight = Gauge("hf_bert4rec_requests_in_flight", "Requests under way", registry=registry)
        self.waiting = Gauge("hf_bert4rec_waiting_histories", "Histories that wait for the model", registry=registry)
        sizes = tuple(2**power for power in range(9))
        self.batches = Histogram(
            "hf_bert4rec_batch_histories", "Histories scored together", registry=registry, buckets=sizes
        )

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _Counts:
    """In front of everything, what is mounted later included: counts and times."""

    def __init__(self, app: Any, metrics: _Metrics):
        self.app, self.metrics = app, metrics
        self.paths = {"/recommend", "/metrics", *OPEN_PATHS}  # a label for each path asked for would have no end

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500  # what an error that nobody caught becomes

        async def send_and_note(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            self.metrics.in_flight.dec()
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def _answer_errors_in_a_sentence(app: Any) -> None:
    """`{"detail": "..."}` whatever goes wrong, and no stack trace: that is in the server's log."""
    from fastapi import Request
    from fastapi.responses import JSONResponse

    async def refused(_: Request, error: BadRequest) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status)

    async def full(_: Request, __: QueueFull) -> JSONResponse:
        return JSONResponse({"detail": "Too much waits for the model; try again."}, 503, headers={"Retry-After": "1"})

    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "The server failed; its log says why."}, 500)

    app.add_exception_handler(BadRequest, refused)
    app.add_exception_handler(QueueFull, full)
    app.add_exception_handler(Exception, failed)


def _documented_problems(problems: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    from pydantic import BaseModel, Field

    class Problem(BaseModel):
        detail: str = Field(description="What is wrong, in a sentence.")

    return {status: {"model": Problem, "description": text} for status, text in problems.items()}


def _documented_guards(token: str | None) -> list[Any]:
    """Dependencies that let the documentation ask for the token; it is [`TokenGate`] that checks it."""
    from fastapi import Security
    from fastapi.security import HTTPBearer

    return [] if token is None else [Security(HTTPBearer(scheme_name="token", auto_error=False))]


def _add_recommend(
    app: Any, recommender: NextItemRecommendationPipeline, limits: ServingLimits, guards: list[Any]
) -> None:
    from fastapi import Request, Response
    from fastapi.concurrency import run_in_threadpool

    model = request_model(limits, recommender.tokenizer.num_items)
    problems = {400: "No JSON", 404: "No such item", 408: "Body too slow", 413: "Body too large"}
    problems |= {415: "Not application/json", 422: "A value that cannot be", 503: "Too much waits"}
    problems |= {401: "No token"} if guards else {}
    content = {"schema": model.model_json_schema(), "examples": _examples(recommender)}

    @app.post(
        "/recommend",
        summary="The next items for one history or several",
        response_model=answers_type(),
        responses=_documented_problems(problems),
        dependencies=guards,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": content}}},
    )
    async def recommend(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise BadRequest(415, "The body must be JSON: send the header 'Content-Type: application/json'.")
        body = await _body(request, limits.max_body_bytes)
        if len(body) <= LONG_BODY:
            queries, is_list = read_request(body, model, recommender)
        else:
            queries, is_list = await run_in_threadpool(read_request, body, model, recommender)
        answers = await app.state.batches.submit(queries)
        text = json.dumps(answers if is_list else answers[0], ensure_ascii=False, separators=(",", ":"))
        return Response(text.encode(), media_type="application/json")


async def _body(request: Any, max_bytes: int) -> bytes:
    from starlette.requests import ClientDisconnect

    declared = request.headers.get("content-length", "")
    size, parts = 0, []
    too_large = BadRequest(413, f"The body is larger than {max_bytes} bytes; send less at once.")
    if declared.isdecimal() and int(declared) > DRAINED * max_bytes:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                elif size > DRAINED * max_bytes:
                    break
    except TimeoutError:
        raise BadRequest(408, f"The body did not arrive within {BODY_SECONDS} seconds; send it again.") from None
    except ClientDisconnect:
        raise BadRequest(400, "The client has gone.") from None
    if size > max_bytes:
        raise too_large
    return b"".join(parts)


def _examples(recommender: NextItemRecommendationPipeline) -> dict[str, Any]:
    """Requests in ids of the model."""
    last = FIRST_ITEM_TOKEN + min(4, recommender.tokenizer.num_items)
    first, *others = recommender.tokenizer.decode_items(range(FIRST_ITEM_TOKEN, last))
    one = {"history": [first, *others], "top_k": 1}
    several = {"histories": [[first], []], "top_k": 1, "filter_seen": False, "denied_items": others}
    return {
        "one history": {"summary": "One history, oldest first", "value": one},
        "several": {"summary": "Several; an empty one gets what is popular", "value": several},
    }


def _add_status(app: Any, recommender: NextItemRecommendationPipeline, metrics: _Metrics, guards: list[Any]) -> None:
    from fastapi import Response
    from prometheus_client import CONTENT_TYPE_LATEST
    from pydantic import BaseModel

    class Health(BaseModel):
        status: str
        num_items: int

    num_items = recommender.tokenizer.num_items
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    text |= _documented_problems({401: "No token"} if guards else {})

    @app.get("/health", summary="Whether the server answers", response_model=Health)
    async def health() -> Any:
        return {"status": "ok", "num_items": num_items}

    @app.get(
        "/metrics", summary="Figures for Prometheus", response_class=Response, responses=text, dependencies=guards
    )
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
