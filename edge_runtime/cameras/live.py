"""A device or a network stream, read by a thread of its own: the newest frame wins.

A camera that is absent is no reason for a bin not to start: it is looked for until it is there, and
meanwhile the bin says so.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.guard import failure_of
from vision.addresses import without_secrets
from vision.errors import CameraError
from vision.frames import Frame

_REOPEN_S = 0.5


class Device(Protocol):
    """What `LiveCamera` reads from: cv2.VideoCapture's own two methods."""

    def read(self) -> tuple[bool, Any]:
        """Wait for an image; return (whether there is one, uint8 height x width x 3, BGR)."""

    def release(self) -> None:
        """Let go of the device."""


class LiveCamera:
    """A device or a network stream.

    Its own thread reads, the newest frame wins, an unread one is dropped.

    Args:
        open_device: opens it; raises CameraError while it cannot be opened.
        source: its name, for people.
        stale_after_s: longest wait for a new frame.
        clock: gives each frame its time.
        hung_after_s: a driver that does not come back for so long never will.
    """

    def __init__(
        self,
        open_device: Callable[[], Device],
        source: str,
        stale_after_s: float,
        clock: Clock,
        hung_after_s: float = 120.0,
    ) -> None:
        self._open_device = open_device
        self._clock = clock
        self._source = without_secrets(source)
        self._stale_after_s = stale_after_s
        self._hung_after_s = hung_after_s
        self._newest: Frame | None = None
        self._reason = ""
        self._busy_since_s = math.inf
        self._arrived = threading.Condition()
        self._closed = threading.Event()
        self._restart = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="capture", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """Return the newest frame not yet read, waiting for one.

        Raises:
            CameraError: none came in time; the camera is opened again in the background.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._newest is not None, self._stale_after_s):
                raise CameraError(
                    self._reason
                    or f"camera {self._source}: no frame for {self._stale_after_s:g} s; check "
                    "cable, power, address"
                )
            frame = self._newest
            self._newest = None
        return frame

    @property
    def hung(self) -> bool:
        """Whether the driver has not come back for minutes (opening, reading, releasing).

        Or the thread has ended.
        """
        stuck = time.monotonic() - self._busy_since_s > self._hung_after_s
        return stuck or not (self._thread.is_alive() or self._closed.is_set())

    def restart(self) -> None:
        """Open the device again."""
        self._restart.set()

    def close(self) -> None:
        """Stop reading and release the device."""
        self._closed.set()
        self._thread.join(timeout=self._stale_after_s)

    def _pump(self) -> None:
        """Open, read, and open again, until closed.

        The thread that reads also releases: a device that is taken away under a read can crash the
        process.
        """
        sequence = 0
        while not self._closed.is_set():
            device = self._opened()
            if device is not None:
                sequence = self._read_until_it_fails(device, sequence)
                self._driver(device.release)
            self._closed.wait(_REOPEN_S)

    def _opened(self) -> Device | None:
        opened: list[Device] = []
        if not self._driver(lambda: opened.append(self._open_device())):
            return None
        self._reason = ""
        self._restart.clear()
        return opened[0]

    def _read_until_it_fails(self, device: Device, sequence: int) -> int:
        """Pass on frames; return the number of the last one."""
        answer: list[tuple[bool, Any]] = []
        while not (self._closed.is_set() or self._restart.is_set()):
            answer.clear()
            if not self._driver(lambda: answer.append(device.read())) or not answer[0][0]:
                break
            sequence += 1
            now_ms = self._clock.now().monotonic_ms
            frame = Frame(np.asarray(answer[0][1], np.uint8), sequence, now_ms, self._source)
            with self._arrived:
                self._newest = frame
                self._arrived.notify()
        return sequence

    def _driver(self, call: Callable[[], object]) -> bool:
        """Time what the driver does; return whether it went well, and note why not for people."""
        self._busy_since_s = time.monotonic()
        error = failure_of(call)
        self._busy_since_s = math.inf
        if error is not None:
            self._reason = str(error) or repr(error)
        return error is None
