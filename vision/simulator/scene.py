"""One image of the bin camera: floor, clutter, item with its shadow, lens, sensor.

Equal seeds give equal images.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vision.frames import Pixels
from vision.simulator.catalogue import make_item
from vision.simulator.shading import Light, random_light, shade, turn_patch
from vision.simulator.shapes import Field, Patch, Rng, clouds, hsv_colour, lively


@dataclass(slots=True, eq=False)
class Chute:
    """An empty chute with its lamp and camera: what stays the same while items come and go.

    Attributes:
        floor_hwc: float32, height x width x 3, BGR in 0..1, lit.
        light: the lamp.
        exposure: gain of the sensor.
        blur_px: of the lens, standard deviation.
        noise: standard deviation of the sensor's noise, grey levels.
        vignette_hw: fall-off towards the corners, 0..1.
        noise_bank: float32 noise, larger than a frame, from which each frame takes another part.
    """

    floor_hwc: Field
    light: Light
    exposure: float
    blur_px: float
    noise: float
    vignette_hw: Field
    noise_bank: Field


def random_chute(width_px: int, height_px: int, rng: Rng) -> Chute:
    """Return a chute with a random floor, dirt, lamp and camera.

    The floor is of board, plastic, steel, rubber or concrete.
    """
    size = max(width_px, height_px)
    floor = _floor(size, rng)[:height_px, :width_px]
    light = random_light(rng)
    y, x = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j].astype(np.float32)
    slope = rng.normal(0, 0.13, 2)
    lamp = 1 + slope[0] * x + slope[1] * y + 0.06 * clouds(size, rng, 2, 1)[:height_px, :width_px]
    if rng.random() < 0.35:  # the shadow of the flap or of a passer-by falls into the chute
        turn = rng.uniform(0, 6.3)
        edge = np.cos(turn) * x + np.sin(turn) * y - rng.uniform(0.1, 0.9)
        lamp *= 1 - rng.uniform(0.15, 0.5) / (1 + np.exp(-edge / rng.uniform(0.02, 0.2)))
    floor = floor * lamp[..., None] * np.asarray(light.colour, dtype=np.float32)
    return Chute(
        floor_hwc=np.asarray(_clutter(floor, rng), dtype=np.float32),
        light=light,
        exposure=float(np.exp(rng.normal(0, 0.16))),
        blur_px=float(
            rng.choice([0.0, rng.uniform(0.4, 1.0), rng.uniform(0.8, 2.0)], p=[0.4, 0.4, 0.2])
        ),
        noise=float(rng.uniform(0.8, 6.0)),
        vignette_hw=np.asarray(1 - rng.uniform(0, 0.3) * (x**2 + y**2) / 2, dtype=np.float32),
        noise_bank=rng.normal(0, 1, (height_px + 64, width_px + 64, 3)).astype(np.float32),
    )


def place_item(chute: Chute, label: str, rng: Rng) -> PlacedItem:
    """Make a random item of a label and light it where it will lie."""
    height_px, width_px = chute.floor_hwc.shape[:2]
    item = turn_patch(make_item(label, height_px, rng), rng.uniform(0, 360))
    size = item.alpha_hw.shape[0]
    centre = (width_px * (0.5 + 0.13 * rng.normal()), height_px * (0.5 + 0.13 * rng.normal()))
    left = int(np.clip(centre[0], 0.2 * width_px, 0.8 * width_px) - size / 2)
    top = int(np.clip(centre[1], 0.2 * height_px, 0.8 * height_px) - size / 2)
    behind = _window(chute.floor_hwc, left, top, size)
    return PlacedItem(label, item, shade(item, behind, chute.light), left, top)


@dataclass(slots=True, eq=False)
class PlacedItem:
    """An item with its lit image and its resting place (canvas corner, px)."""

    label: str
    item: Patch
    lit_hwc: Field
    left_px: int
    top_px: int


def expose(
    chute: Chute, placed: PlacedItem | None, rng: Rng, offset_px: tuple[int, int] = (0, 0)
) -> Pixels:
    """Take one image of a chute.

    Args:
        chute: the surroundings.
        placed: the item, or None for the empty chute.
        offset_px: the item's way (x, y) from its resting place, while it falls.
        rng: draws the noise.

    Returns:
        uint8, height x width x 3, BGR.
    """
    image = chute.floor_hwc.copy()
    if placed is not None:
        _paint(image, placed, chute.light, offset_px)
    image *= (chute.vignette_hw * chute.exposure)[..., None]
    if chute.blur_px > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), chute.blur_px)
    dy, dx = (int(v) for v in rng.integers(0, 64, 2))
    height_px, width_px = image.shape[:2]
    image *= 255
    image += chute.noise * chute.noise_bank[dy : dy + height_px, dx : dx + width_px]
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def render(label: str, width_px: int, height_px: int, seed: int) -> Pixels:
    """Return one still image of a random item of a label: uint8, BGR; equal for equal arguments."""
    rng = np.random.default_rng(seed)
    chute = random_chute(width_px, height_px, rng)
    return expose(chute, place_item(chute, label, rng), rng)


def _floor(size: int, rng: Rng) -> Field:
    kind = rng.choice(
        ["board", "plastic", "steel", "rubber", "concrete"], p=[0.4, 0.2, 0.15, 0.1, 0.15]
    )
    base = {
        "board": hsv_colour(rng.uniform(20, 50), rng.uniform(0, 0.18), rng.uniform(0.7, 0.95)),
        "plastic": hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.45), rng.uniform(0.25, 0.85)),
        "steel": (lambda v: (v, v, v * 0.99))(rng.uniform(0.45, 0.75)),
        "rubber": (lambda v: (v, v, v))(rng.uniform(0.05, 0.2)),
        "concrete": hsv_colour(rng.uniform(20, 60), rng.uniform(0, 0.2), rng.uniform(0.3, 0.6)),
    }[str(kind)]
    texture = {"board": 0.015, "plastic": 0.02, "steel": 0.04, "rubber": 0.1, "concrete": 0.16}[
        str(kind)
    ]
    grain = clouds(size, rng, max(4, size // 6), 1) + clouds(size, rng, 6, 3)
    if kind == "steel":  # brushed: noise drawn out along one direction
        lines = rng.normal(0, 1, (size, 6)).astype(np.float32)
        grain = cv2.resize(lines, (size, size), interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            grain = grain.T
    return np.asarray(
        np.asarray(base, dtype=np.float32) * (1 + texture * grain)[..., None], dtype=np.float32
    )


def _clutter(floor: Field, rng: Rng) -> Field:
    """Stains, scratches and crumbs."""
    height, width = floor.shape[:2]
    if rng.random() < 0.5:
        stain = np.clip(
            clouds(max(height, width), rng, 3, 4)[:height, :width] - rng.uniform(0.1, 0.7), 0, 1
        )
        floor = floor * (1 - rng.uniform(0.1, 0.6) * stain)[..., None]
    floor = np.ascontiguousarray(floor, dtype=np.float32)
    for _ in range(int(rng.integers(0, 6)) if rng.random() < 0.5 else 0):
        a, b = (tuple(int(v) for v in rng.uniform(0, 1, 2) * (width, height)) for _ in range(2))
        cv2.line(
            floor,
            a,
            b,
            (floor[a[1] % height, a[0] % width] * rng.uniform(0.75, 1.2)).tolist(),
            1,
            cv2.LINE_AA,
        )
    for _ in range(int(rng.integers(0, 12)) if rng.random() < 0.5 else 0):
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * (width, height))
        axes = tuple(int(v) for v in rng.uniform(0.003, 0.025, 2) * height + 1)
        ink = lively(rng) if rng.random() < 0.4 else hsv_colour(30, 0.3, rng.uniform(0.1, 0.8))
        cv2.ellipse(floor, centre, axes, float(rng.uniform(0, 180)), 0, 360, ink, -1, cv2.LINE_AA)
    return floor


def _window(image: Field, left: int, top: int, size: int) -> Field:
    rows = np.clip(np.arange(top, top + size), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + size), 0, image.shape[1] - 1)
    return np.ascontiguousarray(image[rows][:, columns])


def _paint(image: Field, placed: PlacedItem, light: Light, offset_px: tuple[int, int]) -> None:
    """Darken the floor by the item's shadow and lay the lit item over it, in place."""
    alpha = placed.item.alpha_hw
    size = placed.item.alpha_hw.shape[0]
    left = placed.left_px + offset_px[0]
    top = placed.top_px + offset_px[1]
    reach = 0.05 * size * (1 + 2 * np.hypot(*offset_px) / image.shape[0])
    density = (1 - light.ambient) * (1 - 0.6 * placed.item.clear_hw) * alpha
    shadow = cv2.GaussianBlur(np.asarray(density, dtype=np.float32), (0, 0), max(1.0, reach * 0.7))
    _blend(
        image,
        shadow * 0.9,
        None,
        left - int(light.direction[0] * reach * 2),
        top - int(light.direction[1] * reach * 2),
    )
    _blend(image, alpha, placed.lit_hwc, left, top)


def _blend(image: Field, alpha: Field, colour: Field | None, left: int, top: int) -> None:
    height, width = image.shape[:2]
    y0 = max(top, 0)
    y1 = min(top + alpha.shape[0], height)
    x0 = max(left, 0)
    x1 = min(left + alpha.shape[1], width)
    if y0 >= y1 or x0 >= x1:
        return
    a = alpha[y0 - top : y1 - top, x0 - left : x1 - left, None]
    under = image[y0:y1, x0:x1]
    under *= 1 - a
    if colour is not None:
        under += a * colour[y0 - top : y1 - top, x0 - left : x1 - left]
