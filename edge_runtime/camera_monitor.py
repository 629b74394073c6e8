"""Does the camera see? Frozen, black, white, blurred: said in words, and kept from the trigger.

It checks images, not items. A camera that sends nothing at all is noticed by `cameras/live.py`.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2

from vision.frames import Frame, Pixels

# An image this dark or bright, mean grey level, shows nothing.
BLACK = 6.0
WHITE = 249.0
# What lasts shorter is an item that passes before the lens.
LASTS_MS = 2000.0
# Less than this share of the sharpness that the lens had at its best is blurred.
BLURRED_SHARE = 0.3
# A camera that shows nothing for so long is opened again, each time after twice as long: it may
# be the camera, or night.
_RESTART_MS = 60_000.0
_RESTART_MAX_MS = 960_000.0
# In an image darker than this the sensor's noise is sharper than the chute.
_DUSK = 40.0
_SMALL = (160, 120)
_SHARPEST_FORGETS = (
    1e-6  # a frame: two weeks at ten a second forget half of what a lucky frame promised
)


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """What was found in one frame.

    Attributes:
        fault: "" or what is wrong, in words, once it has lasted.
        blind: this frame must not be taken for an image of the chute.
        restart: the camera must be opened again.
        brightness: mean grey level, 0..255.
        sharpness: variance of the Laplacian of the grey levels.
    """

    fault: str
    blind: bool
    restart: bool
    brightness: float
    sharpness: float


class CameraMonitor:
    """Watches one camera.

    Args:
        frozen_after_s: equal images for so long are a frozen camera: a living sensor is never
            without noise.
        memory: file in which the sharpness of the clean lens outlives a restart; None keeps it in
            memory.
    """

    def __init__(self, frozen_after_s: float, memory: Path | None = None) -> None:
        self._frozen_after_ms = 1000 * frozen_after_s
        self._memory = memory
        self._digest = 0
        self._changed_ms = 0.0
        self._fault = ""
        self._since_ms = 0.0
        self._restart_after_ms = _RESTART_MS
        self._before: float | None = None
        self._sharpest = _remembered(memory)

    def check(self, frame: Frame, empty: bool) -> CameraStatus:
        """Check a frame.

        Args:
            frame: any.
            empty: the trigger saw the empty chute in the frame before: only then is sharpness
                compared, for items differ in it.
        """
        brightness, sharpness = measure(frame.pixels_hwc)
        # A lamp that is off gives equal black images all night: that is no frozen camera.
        frozen = self._is_frozen(frame) and BLACK <= brightness <= WHITE
        fault = ""
        blind = True
        best = self._before
        self._before = None
        if brightness < BLACK:
            fault = "black image: check lamp, lens cap and exposure"
        elif brightness > WHITE:
            fault = "white image: blinded by light, or the exposure is wrong"
        elif frozen:
            fault = "frozen image: the camera sends the same frame again and again"
        else:
            blind = False
            relative = sharpness / brightness**2  # it comes and goes with the light
            empty &= brightness >= _DUSK
            if empty:
                # Of the frame before, of which the trigger says it: this one may show the next item
                # already.
                self._sharpest = max(self._sharpest * (1 - _SHARPEST_FORGETS), best or 0.0)
                self._before = relative
            if empty and relative < BLURRED_SHARE * self._sharpest:
                fault = "blurred image: the lens is covered, dirty or out of focus"
        if fault != self._fault:
            self._fault = fault
            self._since_ms = frame.monotonic_ms
            self._restart_after_ms = _RESTART_MS
        lasted_ms = frame.monotonic_ms - self._since_ms
        restart = frozen or (blind and lasted_ms >= self._restart_after_ms)
        if blind and lasted_ms >= self._restart_after_ms:
            self._restart_after_ms = lasted_ms + min(lasted_ms, _RESTART_MAX_MS)
        return CameraStatus(
            fault if frozen or lasted_ms >= LASTS_MS else "", blind, restart, brightness, sharpness
        )

    def remember(self) -> None:
        """Write down how sharp the lens can be. Not synced: it is learnt again within a day."""
        if self._memory is not None and self._sharpest:
            temporary = self._memory.with_suffix(".tmp")
            temporary.write_text(json.dumps({"sharpest": self._sharpest}))
            temporary.replace(self._memory)

    def _is_frozen(self, frame: Frame) -> bool:
        # A sample of raw pixels: averaging would take out the very noise that tells a living image.
        digest = zlib.crc32(frame.pixels_hwc[::7, ::5].tobytes())
        if digest != self._digest:
            self._digest = digest
            self._changed_ms = frame.monotonic_ms
        return frame.monotonic_ms - self._changed_ms >= self._frozen_after_ms


def measure(pixels_hwc: Pixels) -> tuple[float, float]:
    """Return the mean of the grey levels and the variance of their Laplacian."""
    grey = cv2.cvtColor(
        cv2.resize(pixels_hwc, _SMALL, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY
    )
    return float(grey.mean()), float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _remembered(memory: Path | None) -> float:
    try:
        return (
            float(json.loads(memory.read_text())["sharpest"])
            if memory and memory.is_file()
            else 0.0
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # damaged: learnt again
