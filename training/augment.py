"""Augmentation of one picture before preprocessing: numpy and OpenCV, driven by one generator.

The generator is seeded by (seed, epoch, index), so a run that was killed continues with the very pictures it would
have seen, and no state of a random generator has to be stored. It works on the full picture; `preprocess` then takes
it to the network's size by the same code as on the bin.
"""

from __future__ import annotations

import cv2
import numpy as np

from vision.frames import Pixels


def augment(pixels_hwc: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Return a changed picture of any size: uint8, BGR.

    Geometry (crop, turn, flip, shear), light (gain, contrast, colour cast, saturation), camera (blur, noise), and a
    patch that hides a part.

    Args:
        strength: 0 returns the picture as it is; 1 is the full range.
    """
    if strength == 0:
        return pixels_hwc
    image = _geometry(pixels_hwc, rng, strength)
    image = _light(image, rng, strength)
    if rng.random() < 0.25 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.25 * strength:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4 * strength:
        image = _hide_part(image, rng)
    return image


def _geometry(image: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.5:
        image = image[::-1]
    turn = rng.uniform(-30, 30) if rng.random() < 0.7 else rng.uniform(-180, 180)
    # The crop's area is uniform and its aspect log-uniform, as in torchvision's RandomResizedCrop.
    area = rng.uniform(1 - 0.65 * strength, 1.15)
    aspect = np.exp(rng.uniform(-0.3, 0.3) * strength)
    crop_w, crop_h = width * np.sqrt(area * aspect), height * np.sqrt(area / aspect)
    centre_x = width / 2 + rng.uniform(-0.5, 0.5) * abs(width - crop_w)
    centre_y = height / 2 + rng.uniform(-0.5, 0.5) * abs(height - crop_h)
    angle, shear = np.deg2rad(turn) * strength, rng.uniform(-0.15, 0.15) * strength
    out_w, out_h = width, height
    scale_x, scale_y = crop_w / out_w, crop_h / out_h
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos * scale_x, (shear - sin) * scale_y], [sin * scale_x, cos * scale_y]])
    offset = np.array([centre_x, centre_y]) - matrix @ np.array([out_w / 2, out_h / 2])
    warped: Pixels = cv2.warpAffine(
        np.ascontiguousarray(image),
        np.hstack([matrix, offset[:, None]]),
        (out_w, out_h),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return warped


def _light(image: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    work = image.astype(np.float32)
    if rng.random() < 0.8:
        gain = np.exp(rng.uniform(-0.45, 0.35) * strength)
        cast = np.exp(rng.uniform(-0.15, 0.15, 3) * strength).astype(np.float32)
        work *= gain * cast
    if rng.random() < 0.6:
        mean = work.mean()
        work = mean + (work - mean) * np.float32(np.exp(rng.uniform(-0.4, 0.35) * strength))
    if rng.random() < 0.5:
        grey = work.mean(axis=2, keepdims=True)
        work = grey + (work - grey) * np.float32(rng.uniform(1 - 0.7 * strength, 1 + 0.5 * strength))
    return np.clip(work, 0, 255).astype(np.uint8)


def _hide_part(image: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    patch_h, patch_w = int(height * rng.uniform(0.1, 0.4)), int(width * rng.uniform(0.1, 0.4))
    top, left = rng.integers(height - patch_h), rng.integers(width - patch_w)
    out = image.copy()
    out[top : top + patch_h, left : left + patch_w] = rng.integers(0, 256, 3)
    return out
