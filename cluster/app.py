"""What the `hub` commands do: serve, and aggregate."""

from __future__ import annotations

import logging
import socket
import time

import uvicorn

from cluster.config import HubConfig
from cluster.ingest.move import move_waiting
from cluster.lake.factory import open_lake
from cluster.statistics.refresh import Aggregated, refresh
from cluster.web.app import create_app
from vision.errors import ConfigError

log = logging.getLogger(__name__)


def serve(config: HubConfig) -> None:
    """Serve ingest, API and page until SIGTERM or SIGINT.

    Raises:
        ConfigError: the address cannot be bound.
    """
    app = create_app(config, open_lake(config), lambda: time.time_ns() // 1_000_000)
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        raise ConfigError(
            f"host, port: {config.host}:{config.port} cannot be bound ({error.strerror}); "
            "choose others with --set port=... or host=..."
        ) from error
    listener.listen()  # whoever reads the address may connect at once
    host, port = listener.getsockname()
    closed = config.token is not None or config.require_signatures
    if not closed and not host.startswith("127."):
        log.warning(
            "no token: whoever reaches %s:%d can send events; set one with --set token=... or "
            "take signed batches only with --set require_signatures=true",
            host,
            port,
        )
    print(f"hub: http://{host}:{port}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    server.run(sockets=[listener])


def aggregate(
    config: HubConfig, engine: str = "ray", ray_address: str | None = None, rebuild: bool = False
) -> Aggregated:
    """Compute the fleet's statistics, and before it move what a stopped hub left in its log.

    Args:
        config: which lake.
        engine: "ray" or "local"; see `refresh`.
        ray_address: of a running cluster; None starts a local one.
        rebuild: count all parts again.

    Raises:
        StorageError: there is no event, or the lake cannot be read or written.
    """
    lake = open_lake(config)
    move_waiting(lake)
    return refresh(lake, engine, ray_address, rebuild)
