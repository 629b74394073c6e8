"""A page on the bin for the technician beside it.

Image, the trigger's view, decision, stage times, health.

Read only, and drawn only while somebody looks. It has no password: see ViewConfig.host.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge_runtime.config import ViewConfig
from edge_runtime.pipeline import Pipeline
from vision.errors import ConfigError
from vision.frames import Frame

_PAGE = Path(__file__).with_name("view.html")


class View:
    """Serves the page of a running bin until it is closed; prints its address.

    Args:
        config: with `port` set.
        pipeline: what is looked at.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, config: ViewConfig, pipeline: Pipeline) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # of a connection that says nothing

            def do_GET(self) -> None:
                host = urlsplit("//" + self.headers.get("Host", "")).hostname or ""
                if host not in ("localhost", config.host) and not _is_address(host):
                    self.send_error(
                        403, "ask by address"
                    )  # a page elsewhere must not read this one by a name of its own
                    return
                answers = {
                    "/": page,
                    "/frame.jpg": frame,
                    "/item.jpg": item,
                    "/trigger.png": mask,
                    "/state.json": state,
                }
                path = self.path.partition("?")[0]
                body, kind = answers[path]() if path in answers else (b"", "")
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the bin's log for the bin."""

        def page() -> tuple[bytes, str]:
            return _PAGE.read_bytes(), "text/html; charset=utf-8"

        def frame() -> tuple[bytes, str]:
            return _jpeg(pipeline.frame), "image/jpeg"

        def item() -> tuple[bytes, str]:
            return _jpeg(pipeline.served), "image/jpeg"

        def mask() -> tuple[bytes, str]:
            return cv2.imencode(".png", pipeline.trigger.mask * np.uint8(255))[
                1
            ].tobytes(), "image/png"

        def state() -> tuple[bytes, str]:
            event = pipeline.event
            document = {
                "trigger": pipeline.trigger.state.value,
                "changed_pct": round(100 * float(pipeline.trigger.mask.mean()), 2),
                "event": event.to_dict() if event else None,
                "stream_title": pipeline.rules.streams.get(event.stream, event.stream)
                if event
                else "",
                "health": asdict(pipeline.health),
            }
            return json.dumps(document).encode(), "application/json"

        try:
            self._server = ThreadingHTTPServer((config.host, config.port or 0), Handler)
        except OSError as error:
            raise ConfigError(
                f"view: {config.host}:{config.port} cannot be bound ({error.strerror})"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="view", daemon=True)
        self._thread.start()
        print(f"view: http://{config.host}:{self._server.server_port}", flush=True)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _jpeg(frame: Frame | None) -> bytes:
    pixels = np.zeros((48, 64, 3), np.uint8) if frame is None else frame.pixels_hwc
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
