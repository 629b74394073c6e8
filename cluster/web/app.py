"""The hub as an ASGI application: opens the parts, lists the routes, answers errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from cluster.config import HubConfig
from cluster.ingest.commit import Ingest
from cluster.lake.store import Lake
from cluster.web.routes import batches, health, pages, statistics
from cluster.web.state import Hub
from vision.errors import BinsightError, ConfigError, WireError
from vision.wire import encode_refusal


def create_app(config: HubConfig, lake: Lake, now_utc_ms: Callable[[], int]) -> FastAPI:
    """Return the hub's ASGI application.

    Args:
        config: token, broker and commit sizes.
        lake: where events go.
        now_utc_ms: the hub's clock.
    """
    ingest = Ingest(lake, now_utc_ms, config.commit_interval_s, config.commit_events)
    hub = Hub(lake, ingest, now_utc_ms, config.token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        committer = asyncio.create_task(ingest.run())
        if config.mqtt:
            from cluster.ingest.mqtt import MqttConsumer  # noqa: PLC0415  extra "mqtt"

            loop = asyncio.get_running_loop()
            hub.consumer = MqttConsumer(config.mqtt, ingest, config.token, loop)
        yield
        if hub.consumer:
            await asyncio.to_thread(hub.consumer.close)
        committer.cancel()
        await asyncio.gather(committer, return_exceptions=True)

    # Addresses in pages are relative, so that the hub may stand behind any path of a proxy.
    app = FastAPI(
        title="binsight hub",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "."}],
    )
    app.state.hub = hub
    app.mount("/static", pages.static_files(), name="static")
    for module in (batches, statistics, health, pages):
        app.include_router(module.router)
    app.exception_handler(BinsightError)(_explain)
    return app


async def _explain(_: Request, error: BinsightError) -> Response:
    if isinstance(error, WireError):
        return Response(encode_refusal(str(error)), 400, media_type="application/json")
    status = 400 if isinstance(error, ConfigError) else 503
    return JSONResponse({"error": str(error)}, status)
