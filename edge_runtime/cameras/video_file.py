"""A video file: every frame once, in order, as fast as it is asked for."""

from __future__ import annotations

import numpy as np

from edge_runtime.cameras.opencv import open_video
from edge_runtime.clock import Clock
from vision.addresses import without_secrets
from vision.frames import Frame


class VideoFile:
    """Every frame of a video file, once, in order.

    Args:
        source: path of the file.
        clock: gives each frame its time.

    Attributes:
        sequence: number of the image last read.

    Raises:
        CameraError: the file cannot be opened.
    """

    def __init__(self, source: str, clock: Clock) -> None:
        self._video = open_video(source)
        self._clock = clock
        self.sequence = 0
        self._source = without_secrets(source)

    def read(self) -> Frame | None:
        """Return the next frame, or None after the last."""
        good, pixels = self._video.read()
        if not good:
            return None
        self.sequence += 1
        return Frame(
            np.asarray(pixels, np.uint8),
            self.sequence,
            self._clock.now().monotonic_ms,
            self._source,
        )

    @property
    def hung(self) -> bool:
        """Never."""
        return False

    def restart(self) -> None:
        """Do nothing: a recording that shows the same for long is no fault."""

    def close(self) -> None:
        """Release the file."""
        self._video.release()
