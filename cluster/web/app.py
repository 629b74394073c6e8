"""The hub as an ASGI application: opens the parts, lists the routes, answers errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from cluster.config import HubConfig
from cluster.ingest.commit import Ingest, Limits
from cluster.lake.store import Lake
from cluster.web.routes import batches, health, pages, statistics
from cluster.web.schedule import Schedule
from cluster.web.state import Hub
from vision.errors import AccessError, BinsightError, BusyError, ConfigError, WireError
from vision.wire import encode_refusal

# Seconds after which a bin that was not served may come again, from and to.
RETRY_AFTER_S = (5, 60)


def create_app(config: HubConfig, lake: Lake, now_utc_ms: Callable[[], int]) -> FastAPI:
    """Return the hub's ASGI application.

    Args:
        config: token, broker, sizes and times of the way in.
        lake: where events go.
        now_utc_ms: the hub's clock.
    """
    limits = Limits(
        commit_interval_s=config.commit_interval_s,
        lake_interval_s=config.lake_interval_s,
        waiting_events=config.waiting_events,
    )
    ingest = Ingest(lake, now_utc_ms, limits)
    schedule = Schedule(Lake(config.lake), ingest, config.aggregate_interval_s)
    hub = Hub(lake, ingest, now_utc_ms, config.token, schedule)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(ingest.run())]
        if config.aggregate_interval_s:
            tasks.append(asyncio.create_task(hub.schedule.run()))
        if config.mqtt:
            from cluster.ingest.mqtt import MqttConsumer  # noqa: PLC0415  extra "mqtt"

            loop = asyncio.get_running_loop()
            hub.consumer = MqttConsumer(config.mqtt, ingest, config.token, loop)
        yield
        if hub.consumer:
            await asyncio.to_thread(hub.consumer.close)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(ingest.close)

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
    if isinstance(error, ConfigError):
        return JSONResponse({"error": str(error)}, 400)
    if isinstance(error, AccessError):
        return JSONResponse({"error": str(error)}, 403)
    status = 429 if isinstance(error, BusyError) else 503
    # Not all at the same second: a whole city may be waiting.
    headers = {"Retry-After": str(random.randint(*RETRY_AFTER_S))}
    return JSONResponse({"error": str(error)}, status, headers)
