"""Whether a bin's memory grows: 200,000 items through one bin in one process.

A hub takes the events. It takes an hour of one core.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_runtime import host
from edge_runtime.bin import Parts
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.classify import Classifier
from edge_runtime.clock import SystemClock
from edge_runtime.config import INT8_BUNDLE, EdgeConfig, HttpUplinkConfig
from edge_runtime.lids.actuator import Actuator
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.transports.transport import Answer, Request
from edge_runtime.trigger import Trigger
from edge_runtime.uplink import Uplink
from vision.events import Receipt
from vision.frames import Frame
from vision.signature import HTTP_METHOD
from vision.simulator.scene import expose, place_item, random_chute
from vision.wire import decode_batch, encode_receipt

ITEMS = 200_000
REPORTS = 10
WARM_UP = 5_000


class Recording:
    """Images made beforehand, without an end: an empty chute, then an item that comes to rest.

    The item is gone when the lid opens.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        chute = random_chute(320, 240, rng)
        self._empty = [expose(chute, None, rng) for _ in range(4)]
        items = [place_item(chute, label, rng) for label in ("glass", "paper", "metal", "plastic")]
        self._items = [[expose(chute, item, rng) for _ in range(4)] for item in items]
        self._frame = 0
        self._index = 0
        self._since = -6  # the trigger learns the empty chute first
        self._clock = SystemClock()

    def read(self) -> Frame:
        """Return the next image; no two in a row are the same."""
        self._frame += 1
        self._since += 1
        source = self._empty if self._since <= 3 else self._items[self._index % len(self._items)]
        return Frame(source[self._frame % 4], self._frame, self._clock.now().monotonic_ms)

    def open(self, stream: str) -> None:
        """Let the item go."""
        self._index += 1
        self._since = 0

    def alarm(self, reason: str) -> None:
        """Do nothing: nobody is called."""

    def reach(self) -> None:
        """Do nothing: there is no device to reach."""

    @property
    def hung(self) -> bool:
        """Never."""
        return False

    def restart(self) -> None:
        """Do nothing: there is no device to restart."""

    def close(self) -> None:
        """Do nothing: there is no device to close."""


class Taking:
    """A hub that takes everything."""

    method = HTTP_METHOD

    def post(self, request: Request) -> Answer:
        """Acknowledge a batch."""
        batch = decode_batch(request.body)
        return Answer(200, encode_receipt(Receipt(batch.outbox_id, batch.events[-1][0])))

    def close(self) -> None:
        """Do nothing: there is no connection."""


def measure() -> Iterator[dict[str, Any]]:
    """Yield memory and speed after each tenth, and the growth since the warm-up."""
    cv2.setNumThreads(1)
    config = EdgeConfig()
    recording = Recording()
    clock = SystemClock()
    rules = load_rules(config.rules)
    items = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Outbox(Path(folder) / "o.sqlite", "soak") as outbox,
    ):
        uplink = Uplink(
            outbox, Taking(), HttpUplinkConfig(url="http://hub", interval_s=0.05), clock
        )
        uplink.start()
        # Here an item lies still at once.
        trigger = Trigger(
            config.trigger.model_copy(update={"settled_frames": 1, "border_frames": 1})
        )
        parts = Parts(
            camera=recording,
            monitor=CameraMonitor(3.0),
            trigger=trigger,
            classifier=Classifier(INT8_BUNDLE, 1),
            rules=rules,
            actuator=Actuator(recording),
            clock=SystemClock(),
            max_frames_per_item=1,
        )
        pipeline = Pipeline(parts)
        first = 0.0
        started = time.perf_counter()
        for report in range(1, REPORTS + 1):
            while items < ITEMS * report // REPORTS:
                event = pipeline.step(recording.read())
                if event is None:
                    continue
                outbox.append(event)
                items += 1
                if not first and items >= WARM_UP:
                    first = host.resident_mb()
            now = host.resident_mb()
            yield {
                "items": items,
                "resident_mb": now,
                "grown_mb": round(now - first, 2),
                "faults": pipeline.status().faults,
                "items_per_s": round(items / (time.perf_counter() - started)),
                "waiting": outbox.depth(),
                "threads": threading.active_count(),
            }
        uplink.stop()
