"""A page on the bin: image, the trigger's view, decision, stage times, health.

It shows one frozen snapshot, and draws only while somebody asks. It has no password: see
`ViewConfig.host`.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge_runtime.config import ViewConfig
from edge_runtime.pipeline import Snapshot
from edge_runtime.services.health import Health
from vision.errors import ConfigError
from vision.frames import Frame

log = logging.getLogger(__name__)

_PAGE = Path(__file__).with_name("page.html")


class View:
    """Serves the page of a running bin until it is closed; prints its address.

    Args:
        config: with `port` set.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, config: ViewConfig) -> None:
        self.host = config.host
        self._shown: tuple[Snapshot, Health] | None = None
        self._pages: dict[str, Callable[[Snapshot, Health], tuple[bytes, str]]] = {
            "/frame.jpg": lambda snapshot, _: _jpeg(snapshot.frame),
            "/item.jpg": lambda snapshot, _: _jpeg(snapshot.item),
            "/trigger.png": lambda snapshot, _: _mask(snapshot),
            "/state.json": _state,
        }
        try:
            self._server = _Server((config.host, config.port or 0), self)
        except OSError as error:
            raise ConfigError(
                f"view: {config.host}:{config.port} cannot be bound ({error.strerror})"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="view", daemon=True)
        self._thread.start()
        print(f"view: http://{config.host}:{self._server.server_port}", flush=True)

    def show(self, snapshot: Snapshot, health: Health) -> None:
        """Show these from now on."""
        self._shown = (snapshot, health)

    def answer(self, path: str) -> tuple[int, bytes, str]:
        """Return HTTP status, body and media type for a path."""
        if path == "/":
            return 200, _PAGE.read_bytes(), "text/html; charset=utf-8"
        page = self._pages.get(path)
        if page is None:
            return 404, b"", "text/plain"
        if self._shown is None:
            return 503, b"", "text/plain"
        return 200, *page(*self._shown)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def open_view(config: ViewConfig, opened: ExitStack, problems: list[str]) -> View | None:
    """Serve the page, if it is asked for.

    That its port is taken must not keep a bin from serving people: it is added to the problems.
    """
    if config.port is None:
        return None
    try:
        view = View(config)
    except ConfigError as error:
        problems.append(str(error))
        log.error("%s", error)
        return None
    opened.callback(view.close)
    return view


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], view: View) -> None:
        self.view = view
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # of a connection that says nothing
    server: _Server

    def do_GET(self) -> None:
        asked = urlsplit("//" + self.headers.get("Host", "")).hostname or ""
        if asked not in ("localhost", self.server.view.host) and not _is_address(asked):
            # A page elsewhere must not read this one by a name of its own.
            self.send_error(403, "ask by address")
            return
        status, body, media_type = self.server.view.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the bin's log for the bin."""


def _state(snapshot: Snapshot, health: Health) -> tuple[bytes, str]:
    document = {
        "trigger": snapshot.trigger.value,
        "changed_pct": round(100 * float(snapshot.mask.mean()), 2),
        "event": snapshot.event.to_dict() if snapshot.event else None,
        "stream_title": snapshot.stream_title,
        "health": asdict(health),
    }
    return json.dumps(document).encode(), "application/json"


def _mask(snapshot: Snapshot) -> tuple[bytes, str]:
    return cv2.imencode(".png", snapshot.mask * np.uint8(255))[1].tobytes(), "image/png"


def _jpeg(frame: Frame | None) -> tuple[bytes, str]:
    pixels = np.zeros((48, 64, 3), np.uint8) if frame is None else frame.pixels_hwc
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return jpeg.tobytes(), "image/jpeg"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
