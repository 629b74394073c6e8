"""Augmentation of one image on its way to the network's input.

Numpy and OpenCV, driven by one generator.

The generator is seeded by (seed, epoch, index), so a run that was killed continues with the very
images it would have seen, and no state of a random generator has to be stored. Crop, turn, flip and
resize are one warp straight to the network's size, and what follows works on that many pixels and
no more.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.frames import Pixels
from vision.preprocess import Fit, PreprocessSpec, centre_crop, preprocess


def augmented_input(
    pixels_hwc: Pixels, spec: PreprocessSpec, rng: np.random.Generator, strength: float
) -> Pixels:
    """Return a changed image as network input.

    Uint8, 1 x height x width x 3, in the spec's colour order.

    Geometry (crop, turn, flip, shear), light (gain, contrast, colour cast, saturation), camera
    (blur, noise), and a patch that hides a part.

    Args:
        pixels_hwc: uint8, BGR, any size.
        spec: size, fit and colour order; as `preprocess` does, images twice too large are first
            halved by area.
        rng: decides everything that is random here.
        strength: 0 is `preprocess` alone; 1 is the full range.
    """
    if strength == 0:
        return preprocess(pixels_hwc, spec)
    image = _geometry(pixels_hwc, spec, rng, strength)
    image = _light(image, rng, strength)
    if rng.random() < 0.25 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.25 * strength:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 10))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4 * strength:
        image = _hide_part(image, rng)
    if spec.colour_order == "rgb":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image, dtype=np.uint8)[None]


def _geometry(
    image: Pixels, spec: PreprocessSpec, rng: np.random.Generator, strength: float
) -> Pixels:
    if spec.fit is Fit.CROP:
        image = centre_crop(image, spec.width_px / spec.height_px)
    height, width = image.shape[:2]
    flip_x, flip_y = (-1 if rng.random() < 0.5 else 1 for _ in range(2))
    turn = rng.uniform(-30, 30) if rng.random() < 0.7 else rng.uniform(-180, 180)
    # The crop's area is uniform and its aspect log-uniform, as in torchvision's RandomResizedCrop.
    area = rng.uniform(1 - 0.65 * strength, 1.15)
    aspect = np.exp(rng.uniform(-0.3, 0.3) * strength)
    crop_w = width * np.sqrt(area * aspect)
    crop_h = height * np.sqrt(area / aspect)
    centre_x = width / 2 + rng.uniform(-0.5, 0.5) * abs(width - crop_w)
    centre_y = height / 2 + rng.uniform(-0.5, 0.5) * abs(height - crop_h)
    angle = np.deg2rad(turn) * strength
    shear = rng.uniform(-0.15, 0.15) * strength
    scale_x = flip_x * crop_w / spec.width_px
    scale_y = flip_y * crop_h / spec.height_px
    cos = np.cos(angle)
    sin = np.sin(angle)
    matrix = np.array([[cos * scale_x, (shear - sin) * scale_y], [sin * scale_x, cos * scale_y]])
    centre = np.array([centre_x, centre_y])
    while width >= 4 and height >= 4 and np.hypot(*matrix).min() >= 2:
        height = height // 2
        width = width // 2
        matrix = matrix / 2
        centre = centre / 2
        image = cv2.resize(
            image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
        )
    return _warp(image, matrix, centre, spec)


def _warp(
    image: Pixels, matrix: NDArray[np.float64], centre: NDArray[np.float64], spec: PreprocessSpec
) -> Pixels:
    """Return the network's square around `centre`.

    Pixels are areas, so their middles lie at a half.
    """
    offset = centre - 0.5 - matrix @ np.array([spec.width_px / 2 - 0.5, spec.height_px / 2 - 0.5])
    warped: Pixels = cv2.warpAffine(
        np.ascontiguousarray(image),
        np.hstack([matrix, offset[:, None]]),
        (spec.width_px, spec.height_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return warped


def _light(image: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Change gain, colour cast, contrast and saturation.

    All linear in a pixel's colours, so one matrix does it.
    """
    matrix = np.eye(3)
    offset = np.zeros(3)
    mean = np.array(cv2.mean(image)[:3])
    if rng.random() < 0.8:
        gain = np.exp(rng.uniform(-0.45, 0.35) * strength)
        matrix = np.diag(gain * np.exp(rng.uniform(-0.15, 0.15, 3) * strength))
    if rng.random() < 0.6:
        contrast = np.exp(rng.uniform(-0.4, 0.35) * strength)
        offset = np.full(3, (1 - contrast) * (matrix @ mean).mean())
        matrix = contrast * matrix
    if rng.random() < 0.5:
        share = rng.uniform(1 - 0.7 * strength, 1 + 0.5 * strength)
        saturation = share * np.eye(3) + (1 - share) / 3
        matrix = saturation @ matrix
        offset = saturation @ offset
    return np.asarray(cv2.transform(image, np.hstack([matrix, offset[:, None]])), dtype=np.uint8)


def _hide_part(image: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    patch_h = int(height * rng.uniform(0.1, 0.4))
    patch_w = int(width * rng.uniform(0.1, 0.4))
    top = rng.integers(height - patch_h)
    left = rng.integers(width - patch_w)
    out = image.copy()
    out[top : top + patch_h, left : left + patch_w] = rng.integers(0, 256, 3)
    return out
