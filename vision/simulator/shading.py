"""Light on a material: one model for all items.

Diffuse, highlight, mirror and see-through parts add up. Matt cardboard and paper show only the first; metal mirrors an environment of bright and dark bands;
glass and film let the floor through, bent by their relief, and reflect more the more they are
tilted (Fresnel).

Source of the reflectance: Schlick, "An Inexpensive BRDF Model for Physically-based Rendering", 1994.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vision.simulator.shapes import Field, Patch, Rng


@dataclass(frozen=True, slots=True)
class Light:
    """Where the light comes from.

    Attributes:
        direction: unit vector towards the lamp; z points at the camera.
        ambient: share of light from all sides, 0..1.
        colour: BGR gain.
        bands: phases and frequencies of what metal mirrors.
    """

    direction: tuple[float, float, float]
    ambient: float
    colour: tuple[float, float, float]
    bands: tuple[tuple[float, float, float], ...]


def random_light(rng: Rng) -> Light:
    """Return a lamp above the chute, cool to warm, hard to soft."""
    turn = rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(0.15, 0.9)
    warm = rng.normal(0, 0.09)
    bands = tuple(
        (float(rng.uniform(2, 8)), float(rng.uniform(0, 6.3)), float(rng.uniform(0, np.pi)))
        for _ in range(3)
    )
    x = np.cos(turn) * np.sin(tilt)
    y = np.sin(turn) * np.sin(tilt)
    z = np.cos(tilt)
    return Light(
        (float(x), float(y), float(z)),
        rng.uniform(0.3, 0.75),
        (float(np.exp(-warm)), 1.0, float(np.exp(warm))),
        bands,
    )


def turn_patch(item: Patch, angle_deg: float) -> Patch:
    """Return the item turned in the plane; what is drawn stays, light is applied afterwards."""
    size = item.alpha_hw.shape[0]
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle_deg, 1.0)

    def turn(field: Field, border: int) -> Field:
        return np.asarray(
            cv2.warpAffine(field, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border),
            dtype=np.float32,
        )

    return Patch(
        turn(item.alpha_hw, cv2.BORDER_CONSTANT), turn(item.height_hw, cv2.BORDER_REPLICATE),
        turn(item.albedo_hwc, cv2.BORDER_REPLICATE), item.gloss, item.shine, turn(item.metal_hw, cv2.BORDER_REPLICATE),
        turn(item.clear_hw, cv2.BORDER_REPLICATE), item.tint, item.refraction,
    )  # fmt: skip


def shade(item: Patch, behind_hwc: Field, light: Light) -> Field:
    """Return the lit item; where it is clear, the background shows through, bent and tinted.

    Args:
        item: as drawn.
        behind_hwc: float32, same size as the item's canvas, BGR in 0..1: the floor under it.
        light: the lamp.

    Returns:
        float32, BGR, about 0..1 (highlights may exceed 1).
    """
    slope_x = cv2.Sobel(item.height_hw, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    slope_y = cv2.Sobel(item.height_hw, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    inverse = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    nx = -slope_x * inverse
    ny = -slope_y * inverse
    nz = inverse
    lx, ly, lz = light.direction
    lambert = np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
    half = np.array([lx, ly, lz + 1]) / np.linalg.norm([lx, ly, lz + 1])
    highlight = item.gloss * np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1) ** item.shine
    mirror = np.zeros_like(nz)
    for frequency, phase, turn in light.bands:
        mirror += np.sin(frequency * (np.cos(turn) * nx + np.sin(turn) * ny) * 2 + phase + 2 * nz)
    mirror = np.clip(0.5 + 0.28 * mirror, 0.03, 1.15)
    fresnel = 0.04 + 0.96 * np.clip(1 - nz, 0, 1) ** 5

    colour = np.asarray(light.colour, dtype=np.float32)
    lit = item.albedo_hwc * ((light.ambient + (1 - light.ambient) * lambert)[..., None] * colour)
    metal = item.metal_hw[..., None]
    lit = lit * (1 - metal) + metal * (0.25 + 0.75 * item.albedo_hwc) * mirror[..., None] * colour
    if item.clear_hw.any():
        size = item.height_hw.shape[0]
        rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
        bent = cv2.remap(
            behind_hwc, columns + item.refraction * slope_x, rows + item.refraction * slope_y, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        through = bent * np.asarray(item.tint, dtype=np.float32)
        clear = (item.clear_hw * (1 - 0.8 * fresnel))[..., None]
        lit = (
            lit * (1 - clear)
            + through * clear
            + (fresnel * mirror * item.gloss * 0.8 * (item.clear_hw > 0))[..., None]
        )
    return np.asarray(lit + highlight[..., None] * colour, dtype=np.float32)
