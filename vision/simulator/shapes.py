"""Masks, height fields and prints on a square canvas: the raw material of simulated items.

All arrays are float32. A height is in pixels, so its gradient is a slope; colours are BGR in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]
Colour = tuple[float, float, float]
Rng = np.random.Generator


@dataclass(slots=True)
class Patch:
    """An item before light falls on it, on a square canvas.

    Attributes:
        alpha_hw: coverage, 0..1.
        height_hw: relief in pixels.
        albedo_hwc: own colour, 0..1.
        gloss: strength of highlights, 0..1.
        shine: exponent of highlights; high is a hard, small glint.
        metal_hw: share of light that mirrors the surroundings, 0..1.
        clear_hw: share of light that comes through from behind, 0..1.
        tint: colour of what comes through.
        refraction: how strongly the relief bends the background, px for a slope of one.
    """

    alpha_hw: Field
    height_hw: Field
    albedo_hwc: Field
    gloss: float
    shine: float
    metal_hw: Field
    clear_hw: Field
    tint: Colour = (1.0, 1.0, 1.0)
    refraction: float = 0.0


class Surface(TypedDict, total=False):
    """What only some items have; see Patch. Numbers stand for the whole item."""

    metal: ArrayLike
    clear: ArrayLike
    tint: Colour
    refraction: float


def patch(
    alpha: Field,
    height: Field,
    albedo: ArrayLike,
    gloss: float,
    shine: float,
    **surface: Unpack[Surface],
) -> Patch:
    """Build a patch; `metal` and `clear` may be numbers or fields, `albedo` a colour or an image."""
    size = alpha.shape[0]
    return Patch(
        alpha,
        height,
        np.broadcast_to(bgr(albedo), (size, size, 3)).copy(),
        gloss,
        shine,
        np.broadcast_to(bgr(surface.get("metal", 0.0)), (size, size)).copy(),
        np.broadcast_to(bgr(surface.get("clear", 0.0)), (size, size)).copy(),
        surface.get("tint", (1.0, 1.0, 1.0)),
        surface.get("refraction", 0.0),
    )


def bgr(colour: ArrayLike) -> Field:
    """Return a colour (or a single grey level, or a field of them) as float32."""
    return np.asarray(colour, dtype=np.float32)


def grid(size: int) -> tuple[Field, Field]:
    """Return (x, y), each size x size, from -1 to 1."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def clouds(size: int, rng: Rng, cells: int = 4, octaves: int = 3) -> Field:
    """Return smooth noise, about -1..1: the sum of random grids, each finer than the last."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        n = min(cells * 2**octave, size)
        coarse = rng.uniform(-1, 1, (n, n)).astype(np.float32)
        total += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return total


def creases(size: int, rng: Rng, folds: int) -> Field:
    """Return a crumpled relief, mean about 0, size about 1: facets between straight folds."""
    x, y = grid(size)
    # Bending the coordinates keeps the folds from running through the whole item as ruled lines.
    x = x + 0.25 * clouds(size, rng, 3, 2)
    y = y + 0.25 * clouds(size, rng, 3, 2)
    total = np.zeros((size, size), dtype=np.float32)
    for _ in range(folds):
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(0.25, 1.1)
        along = (np.cos(angle) * x + np.sin(angle) * y) / period + rng.uniform(0, 1)
        total += np.abs(along - np.floor(along) - 0.5) * np.float32(period * rng.uniform(0.4, 1.0))
    total = total - total.mean()
    return bgr(total / (max(folds, 1) ** 0.5 * 0.35))


def polygon(size: int, points_xy: ArrayLike) -> Field:
    """Return the antialiased mask of a polygon; points in -1..1."""
    mask = np.zeros((size, size), dtype=np.uint8)
    pixels = np.round((np.asarray(points_xy, dtype=np.float64) + 1) / 2 * (size - 1) * 16).astype(
        np.int32
    )
    cv2.fillPoly(mask, [pixels], 255, cv2.LINE_AA, shift=4)
    return bgr(mask / 255.0)


def rough_quad(
    rng: Rng, aspect: float, half: float = 0.8, jitter: float = 0.06, notches: int = 0
) -> NDArray[np.float64]:
    """Return corner points of a skewed rectangle; with notches, of one with torn edges."""
    w, h = (half, half * aspect) if aspect <= 1 else (half / aspect, half)
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) + rng.uniform(-jitter, jitter, (4, 2))
    if not notches:
        return corners
    points = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        t = np.sort(rng.uniform(0, 1, notches))[:, None]
        points += [a[None], a + (b - a) * t + rng.normal(0, jitter * 0.35, (notches, 2))]
    return np.concatenate(points)


def blob(size: int, rng: Rng, roughness: float = 0.25, squash: float = 1.0) -> Field:
    """Return the soft-edged mask of an irregular round shape."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = np.full(90, 0.72)
    for k in range(2, 9):
        radius *= 1 + roughness * rng.normal(0, 0.5) / k * np.cos(k * angles + rng.uniform(0, 6.3))
    points = np.stack([np.cos(angles), squash * np.sin(angles)], axis=1) * radius[:, None]
    return polygon(size, np.clip(points, -0.97, 0.97))


def dome(mask: Field, height: float) -> Field:
    """Return the relief of a cushion with this outline."""
    distance = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    top = max(float(distance.max()), 1.0)
    return np.asarray(
        height * top * np.sqrt(np.clip(1 - (1 - distance / top) ** 2, 0, 1)), dtype=np.float32
    )


def revolve(size: int, profile_ty: ArrayLike) -> tuple[Field, Field, Field]:
    """Return (mask, relief, across) of a body of revolution that lies along the canvas.

    Args:
        size: of the canvas, pixels.
        profile_ty: (position along the axis -1..1, half width 0..1), rising positions.

    Returns:
        mask; relief; position across the body, -1..1 inside.
    """
    profile = np.asarray(profile_ty, dtype=np.float32)
    x, y = grid(size)
    widths = np.interp(y[:, 0], profile[:, 0], profile[:, 1], left=0, right=0)
    columns = np.repeat(widths.astype(np.float32)[:, None], 3, axis=1)
    half = bgr(cv2.GaussianBlur(columns, (1, 5), 0)[:, :1])
    across = np.clip(x / np.maximum(half, 1e-3), -1.5, 1.5)
    mask = np.clip((half - np.abs(x)) * size / 4 + 0.5, 0, 1) * (half > 0.01)
    relief = half * np.sqrt(np.clip(1 - across**2, 0, 1)) * size / 2
    return mask.astype(np.float32), relief.astype(np.float32), across.astype(np.float32)


def lively(rng: Rng, low: float = 0.15, high: float = 1.0) -> Colour:
    """Return a saturated print colour."""
    hsv = np.array(
        [[[rng.uniform(0, 180), rng.uniform(110, 255), 255 * rng.uniform(low, high)]]],
        dtype=np.uint8,
    )
    b, g, r = (cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] / 255.0).tolist()
    return float(b), float(g), float(r)


def hsv_colour(hue_deg: float, saturation: float, value: float) -> Colour:
    """Return a colour from hue in degrees, saturation and value in 0..1."""
    hsv = np.array([[[hue_deg, saturation, value]]], dtype=np.float32)
    b, g, r = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return float(b), float(g), float(r)


def text_lines(
    image: Field, rng: Rng, box: tuple[int, int, int, int], ink: Colour, height_px: int
) -> None:
    """Draw lines of word-like marks into an image, in place.

    Args:
        image: float32, BGR.
        rng: draws widths and gaps.
        box: left, top, right, bottom of the text, pixels.
        ink: its colour.
        height_px: of a line.
    """
    left, top, right, bottom = box
    for y in range(top, bottom - height_px, max(2, int(height_px * 1.8))):
        x = left
        while x < right:
            width = int(height_px * rng.uniform(0.8, 4))
            if rng.random() < 0.85:
                cv2.rectangle(
                    image, (x, y), (min(x + width, right), y + max(1, height_px // 2)), ink, -1
                )
            x += width + max(2, height_px // 2)


def _grey(value: float) -> Colour:
    return value, value, value


def graphics(size: int, rng: Rng, base: Colour, busy: int = 10) -> Field:
    """Return a printed surface: colour fields, discs, bands and text on a base colour."""
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = base
    for _ in range(int(rng.integers(busy // 2, busy + 1))):
        ink = lively(rng) if rng.random() < 0.7 else _grey(float(rng.uniform(0, 1)))
        x0, y0 = (int(v) for v in rng.integers(0, size, 2))
        w, h = (int(v) for v in rng.uniform(0.08, 0.5, 2) * size)
        kind = rng.integers(4)
        if kind == 0:
            cv2.rectangle(image, (x0, y0), (x0 + w, y0 + h), ink, -1)
        elif kind == 1:
            cv2.ellipse(
                image,
                (x0, y0),
                (max(2, w // 2), max(2, h // 3)),
                float(rng.uniform(0, 180)),
                0,
                360,
                ink,
                -1,
            )
        elif kind == 2:
            cv2.rectangle(image, (0, y0), (size, y0 + h // 3), ink, -1)
        else:
            text_lines(
                image, rng, (x0, y0, x0 + w, y0 + h), ink, max(3, size // int(rng.integers(16, 60)))
            )
    return image
