"""Writes down what the bin has learned of its view: the empty chute, and how sharp the lens can be.

So an item that came to lie there during a restart is still seen as one.
"""

from __future__ import annotations

import logging
from pathlib import Path

import cv2

from edge_runtime.bin import Timing
from edge_runtime.pipeline import Pipeline
from vision.datasets import read_image
from vision.errors import ImageError
from vision.frames import Pixels

log = logging.getLogger(__name__)

_NAME = "empty.png"


class Reference:
    """Writes the empty chute, at once when it is learned: a kill may come next.

    Args:
        pipeline: whose trigger knows it.
        state: folder of the bin.
        timing: how often.
    """

    period_ms = 0.0

    def __init__(self, pipeline: Pipeline, state: Path, timing: Timing) -> None:
        self._pipeline = pipeline
        self._state = state
        self._every_ms = timing.reference_ms
        self._due_ms = 0.0

    def step(self, now_ms: float) -> None:
        """Write it if it is due.

        Raises:
            OSError: the disk does not take it.
        """
        if now_ms < self._due_ms:
            return
        parts = self._pipeline.parts
        reference = parts.trigger.reference
        if reference is None:
            return
        self._due_ms = now_ms + self._every_ms
        temporary = self._state / "empty.tmp.png"
        if cv2.imwrite(str(temporary), reference):
            temporary.replace(self._state / _NAME)
        parts.monitor.remember()


def read_reference(state: Path) -> Pixels | None:
    """Return the empty chute from before a restart; None if there is none that can be read."""
    path = state / _NAME
    if not path.is_file():
        return None
    try:
        return read_image(path)
    except ImageError as error:
        log.warning("%s; the empty chute is learned again", error)
        return None
