"""The one pixel path of training, calibration, evaluation and bin: BGR frame to network input.

The network's input is uint8. Scaling to 0..1, mean and standard deviation are not here: they are
folded into the graph of the bundle, so that a bin cannot get them wrong.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np

from vision.errors import BundleError
from vision.frames import Pixels


class Fit(StrEnum):
    """How a frame of another aspect ratio becomes the network's square."""

    STRETCH = "stretch"
    CROP = "crop"


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How a frame becomes a network input. No defaults: it travels in the bundle's manifest.

    Attributes:
        width_px, height_px: size of the network input.
        fit: "stretch" keeps the whole frame and gives up its aspect ratio; "crop" keeps the aspect
            ratio and cuts the centre.
        colour_order: "rgb" or "bgr", the order of the network's channels.
    """

    width_px: int
    height_px: int
    fit: Fit
    colour_order: str

    def __post_init__(self) -> None:
        if not (8 <= self.width_px <= 2048 and 8 <= self.height_px <= 2048):
            raise BundleError(
                f"preprocess size {self.width_px}x{self.height_px} is outside 8..2048 px"
            )
        if self.fit not in list(Fit):
            raise BundleError(f"preprocess.fit is {self.fit!r}; known: {', '.join(Fit)}")
        object.__setattr__(self, "fit", Fit(self.fit))  # a manifest and a test write it as text
        if self.colour_order not in ("rgb", "bgr"):
            raise BundleError(f"preprocess.colour_order is {self.colour_order!r}; known: rgb, bgr")

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a manifest stores."""
        return asdict(self)


def preprocess(pixels_hwc: Pixels, spec: PreprocessSpec) -> Pixels:
    """Resize and reorder one frame for the network.

    Halves the image with an area filter while it is at least twice too large, then resizes
    bilinearly: no aliasing, at a sixth of the time of a single area resize to a size that does not
    divide the frame.

    Args:
        pixels_hwc: uint8, any height x any width x 3, BGR.
        spec: the bundle's preprocessing.

    Returns:
        uint8, 1 x height_px x width_px x 3, in `spec.colour_order`, contiguous.
    """
    image = pixels_hwc
    if spec.fit is Fit.CROP:
        image = centre_crop(image, spec.width_px / spec.height_px)
    height, width = image.shape[:2]
    while width >= 2 * spec.width_px and height >= 2 * spec.height_px:
        height = height // 2
        width = width // 2
        # An odd last row or column is dropped: the fast path of the area filter needs a factor of
        # exactly two.
        image = cv2.resize(
            image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
        )
    if (width, height) != (spec.width_px, spec.height_px):
        image = cv2.resize(image, (spec.width_px, spec.height_px), interpolation=cv2.INTER_LINEAR)
    if spec.colour_order == "rgb":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image, dtype=np.uint8)[None]


def centre_crop(image: Pixels, aspect: float) -> Pixels:
    """Return the largest centred part whose width is `aspect` times its height.

    The result is a view, not a copy.
    """
    height, width = image.shape[:2]
    crop_w = min(width, max(1, round(height * aspect)))
    crop_h = min(height, max(1, round(width / aspect)))
    top = (height - crop_h) // 2
    left = (width - crop_w) // 2
    return image[top : top + crop_h, left : left + crop_w]
