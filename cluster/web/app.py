"""The hub as an ASGI application: opens the parts, lists the routes, answers errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from cluster.config import HubConfig
from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest, Limits
from cluster.ingest.front_end import FrontEnd, retry_after_s
from cluster.lake.factory import open_lake
from cluster.lake.store import Lake
from cluster.registry.store import Registry
from cluster.web.routes import batches, health, pages, statistics, status
from cluster.web.schedule import Schedule
from cluster.web.state import Hub
from vision.errors import BinsightError, ConfigError


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
    registry = Registry(config.registry_url())
    schedule = Schedule(
        open_lake(config), ingest, registry, now_utc_ms, config.aggregate_interval_s
    )
    access = Access(registry, now_utc_ms, config.token, config.require_signatures)
    hub = Hub(lake, ingest, access, FrontEnd(ingest, access), now_utc_ms, schedule)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(ingest.run()), asyncio.create_task(access.run())]
        if config.aggregate_interval_s:
            tasks.append(asyncio.create_task(hub.schedule.run()))
        if config.mqtt:
            from cluster.ingest.mqtt import MqttConsumer  # noqa: PLC0415  extra "mqtt"

            loop = asyncio.get_running_loop()
            hub.consumer = MqttConsumer(config.mqtt, hub.front_end, loop)
        yield
        if hub.consumer:
            await asyncio.to_thread(hub.consumer.close)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(ingest.close)
        await asyncio.to_thread(access.close)
        registry.close()

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
    for module in (batches, statistics, status, health, pages):
        app.include_router(module.router)
    app.exception_handler(BinsightError)(_explain)
    return app


async def _explain(_: Request, error: BinsightError) -> Response:
    if isinstance(error, ConfigError):
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(retry_after_s())})
