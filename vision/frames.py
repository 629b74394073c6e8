"""Frame: pixels plus where they stand in time; Camera: where frames come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image from a camera.

    Attributes:
        pixels_hwc: uint8, height x width x 3, BGR (OpenCV's order), 0..255.
        sequence: counts up by one for each frame the camera produced, seen or not.
        monotonic_ms: when it was taken, on the bin's monotonic clock.
        source: name of the image or device, for people and logs.
    """

    pixels_hwc: Pixels
    sequence: int
    monotonic_ms: float
    source: str = ""


class Camera(Protocol):
    """A source of frames; `read` is the one seam between a bin and the world."""

    @property
    def hung(self) -> bool:
        """Whether its driver does not come back: only a new process can help."""

    def read(self) -> Frame | None:
        """Return the newest frame, or None when the source has ended for good.

        Raises:
            CameraError: no frame can be had now; the caller may try again.
        """

    def restart(self) -> None:
        """Open the device again, in the background: it sends images that cannot be right."""

    def close(self) -> None:
        """Release the device. Closing twice is harmless."""
