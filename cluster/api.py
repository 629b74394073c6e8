"""HTTP: one way in for bins, a few questions for people and programs, one page."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from cluster import stats
from cluster.config import HubConfig
from cluster.ingest import Ingest
from cluster.lake import Lake
from vision.errors import BinsightError, ConfigError, WireError
from vision.wire import decode_batch, encode_receipt, encode_refusal

_DASHBOARD = Path(__file__).parent / "dashboard"
MAX_BODY_BYTES = 2 * 1024 * 1024


def create_app(config: HubConfig, lake: Lake, now_utc_ms: Callable[[], int]) -> FastAPI:
    """Return the hub's ASGI application.

    Args:
        config: token and commit sizes.
        lake: where events go.
        now_utc_ms: the hub's clock.
    """
    ingest = Ingest(lake, now_utc_ms, config.commit_interval_s, config.commit_events)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        committer = asyncio.create_task(ingest.run())
        consumer: Any = None
        if config.mqtt:
            from cluster.mqtt import MqttConsumer  # noqa: PLC0415

            consumer = app.state.consumer = MqttConsumer(
                config.mqtt, ingest, config.token, asyncio.get_running_loop()
            )
        yield
        if consumer:
            await asyncio.to_thread(consumer.close)
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
    app.mount("/vendor", StaticFiles(directory=_DASHBOARD / "vendor"), name="vendor")

    @app.exception_handler(BinsightError)
    async def explain(_: Request, error: BinsightError) -> Response:
        if isinstance(error, WireError):
            return Response(encode_refusal(str(error)), 400, media_type="application/json")
        return JSONResponse(
            {"error": str(error)}, status_code=400 if isinstance(error, ConfigError) else 503
        )

    @app.post("/v1/batches")
    async def receive_batch(request: Request) -> Response:
        """Take one batch; 200 with a receipt means durable."""
        if config.token is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {config.token}".encode()):
                raise HTTPException(401, "this hub asks for a token")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                refusal = encode_refusal(f"more than {MAX_BODY_BYTES} bytes")
                return Response(refusal, 413, media_type="application/json")
        batch = decode_batch(bytes(body))
        return Response(encode_receipt(await ingest.accept(batch)), media_type="application/json")

    @app.get("/v1/statistics")
    def statistics(
        by: Annotated[list[str] | None, Query()] = None, format: Literal["json", "csv"] = "json"
    ) -> Response:
        """Count items by one to three columns."""
        rows = stats.query(lake, by or [])
        if format == "csv":
            headers = {
                "Content-Disposition": "attachment; "
                f'filename="binsight-by-{"-".join(by or [])}.csv"'
            }
            return PlainTextResponse(stats.as_csv(rows), media_type="text/csv", headers=headers)
        return JSONResponse(
            {"by": by, "method": "count; 95 % Wilson interval of the share", "rows": rows}
        )

    @app.get("/v1/bins")
    def bins() -> dict[str, Any]:
        """Completeness of each bin's events."""
        return {"rows": stats.bins(lake)}

    @app.get("/v1/health")
    def health(response: Response) -> dict[str, Any]:
        """What the hub has taken since its start, and how far the statistics are behind.

        503 if a part has died.
        """
        consumer = getattr(app.state, "consumer", None)
        problems = [
            message for message in (ingest.broken, consumer.broken() if consumer else "") if message
        ]
        if problems:
            response.status_code = 503
        return {
            "problems": problems,
            "ingest": asdict(ingest.counters),
            "events_version": lake.version("events"),
            "statistics_of_version": lake.events_version_of(stats.ITEMS),
            "now_utc_ms": now_utc_ms(),
        }

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="openapi.json", title="binsight hub")

    @app.get("/", response_class=HTMLResponse)
    def page() -> FileResponse:
        """Show the statistics to people."""
        return FileResponse(_DASHBOARD / "index.html", media_type="text/html")

    return app
