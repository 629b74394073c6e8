"""Item or no item: a small state machine over small pictures. One capture for each item that comes to rest.

    LEARNING -> EMPTY -> MOVING -> (settled: capture) -> SERVED -> EMPTY

It does not know what an item is; it knows what the empty chute looks like.
"""

from __future__ import annotations

from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import TriggerConfig
from vision.frames import Frame, Pixels

WIDTH_PX, HEIGHT_PX = 80, 60


class State(Enum):
    """Where the trigger stands."""

    LEARNING = "learning"
    EMPTY = "empty"
    MOVING = "moving"
    SERVED = "served"


class Trigger:
    """Watches frames and says when one shows an item at rest.

    Args:
        config: thresholds.
        reference: picture of the empty chute from before a restart, HEIGHT_PX x WIDTH_PX x 3, uint8; without one the
            first still frames are taken for the empty chute.
    """

    def __init__(self, config: TriggerConfig, reference: Pixels | None = None) -> None:
        self._config = config
        self._reference = None if reference is None else reference.astype(np.float32)
        self._last: NDArray[np.float32] | None = None
        self._still = self._served_still = 0
        self.state = State.LEARNING if reference is None else State.EMPTY

    @property
    def reference(self) -> Pixels | None:
        """The empty chute as it is known now, HEIGHT_PX x WIDTH_PX x 3, uint8; None while learning."""
        return None if self._reference is None else np.clip(self._reference, 0, 255).astype(np.uint8)

    def step(self, frame: Frame) -> bool:
        """Take in a frame; return True if it shows an item that has just come to rest."""
        small = cv2.resize(frame.pixels_hwc, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        moving = self._last is not None and self._changed(small, self._last) > self._config.motion_share
        first, self._last = self._last is None, small
        self._still = 0 if moving or first else self._still + 1
        if self._reference is None:
            if self._still >= self._config.empty_frames:
                self._reference, self.state = small.copy(), State.EMPTY
            return False
        if self._changed(small, self._reference) <= self._config.item_share:
            self._see_empty(small, self._reference)
            return False
        return self._see_something(small)

    def _see_empty(self, small: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
        if self._still >= self._config.empty_frames or self.state is State.EMPTY:
            self.state = State.EMPTY
            reference += self._config.adapt * (small - reference)

    def _see_something(self, small: NDArray[np.float32]) -> bool:
        if self.state is State.SERVED:
            # The lid has moved and the scene does not change back: this is what the empty chute looks like now.
            self._served_still = self._served_still + 1 if self._still else 0
            if self._served_still >= self._config.stuck_frames:
                self._reference, self.state = small.copy(), State.EMPTY
            return False
        self.state = State.MOVING
        if self._still < self._config.settled_frames:
            return False
        self.state, self._served_still = State.SERVED, 0
        return True

    def _changed(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        difference = np.abs(a - b).max(axis=2)
        return float(np.count_nonzero(difference > self._config.pixel_change) / difference.size)
