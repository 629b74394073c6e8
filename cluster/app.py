"""What the `hub` commands do: serve, and aggregate."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass

import uvicorn

from cluster.config import HubConfig
from cluster.ingest.commit import move_waiting
from cluster.lake.schema import ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.statistics.aggregate import aggregate_files, merge
from cluster.web.app import create_app
from vision.errors import ConfigError, StorageError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aggregated:
    """What one aggregation did."""

    events: int
    parts: int
    rows: int
    seconds: float
    engine: str


def serve(config: HubConfig) -> None:
    """Serve ingest, API and page until SIGTERM or SIGINT.

    Raises:
        ConfigError: the address cannot be bound.
    """
    app = create_app(config, Lake(config.lake), lambda: time.time_ns() // 1_000_000)
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(
            f"host, port: {config.host}:{config.port} cannot be bound ({error.strerror}); "
            "choose others with --set port=... or host=..."
        ) from error
    host, port = listener.getsockname()
    if config.token is None and not host.startswith("127."):
        log.warning(
            "no token: whoever reaches %s:%d can send events; set one with --set token=...",
            host,
            port,
        )
    print(f"hub: http://{host}:{port}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    server.run(sockets=[listener])


def aggregate(config: HubConfig, engine: str = "ray", ray_address: str | None = None) -> Aggregated:
    """Compute the fleet's statistics from all events and replace the statistics tables.

    Args:
        config: which lake.
        engine: "ray", one task for each arrival date; or "local", the same kernel in this process.
        ray_address: of a running cluster; None starts a local one.

    Raises:
        StorageError: there is no event, or the lake cannot be read or written.
    """
    started = time.perf_counter()
    lake = Lake(config.lake)
    move_waiting(lake)
    groups = lake.files_by_arrival()
    if not groups:
        raise StorageError(
            f"{config.lake}: no event in the lake yet; start 'binsight hub serve' and point a bin "
            "at it"
        )
    parts = list(groups.values())
    if engine == "ray":
        from cluster.statistics.distributed import aggregate_with_ray  # noqa: PLC0415  ray is slow

        result = aggregate_with_ray(parts, ray_address)
    else:
        result = merge([aggregate_files(files) for files in parts])
    events = sum(result.items.column("items").to_pylist())
    lake.replace_statistics(ITEMS, result.items, events)
    lake.replace_statistics(OUTBOXES, result.outboxes, events)
    return Aggregated(
        events, len(parts), result.items.num_rows, time.perf_counter() - started, engine
    )
