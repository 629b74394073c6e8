"""Tells systemd that the loop lives, and what it does."""

from __future__ import annotations

from edge_runtime import host
from edge_runtime.bin import Timing
from edge_runtime.pipeline import Pipeline


class Watchdog:
    """Notifies systemd while the camera's driver comes back.

    A driver that never comes back from a read cannot be helped from here: systemd starts the
    process again.

    Args:
        pipeline: that lives.
        timing: how often.
    """

    def __init__(self, pipeline: Pipeline, timing: Timing) -> None:
        self._pipeline = pipeline
        self.period_ms = timing.watchdog_ms

    def step(self, now_ms: float) -> None:
        """Notify systemd."""
        if self._pipeline.parts.camera.hung:
            return
        status = self._pipeline.status()
        host.notify(f"WATCHDOG=1\nSTATUS=camera {status.camera}, {status.items} items")
