"""Flat and folded things: cardboard, paper, plastic film, wrappers, cloth."""

from __future__ import annotations

import cv2
import numpy as np

from vision.simulator.shapes import (
    Field,
    Patch,
    Rng,
    bgr,
    blob,
    clouds,
    creases,
    dome,
    graphics,
    grid,
    hsv_colour,
    lively,
    patch,
    polygon,
    revolve,
    rough_quad,
    text_lines,
)


def _brown(size: int, rng: Rng) -> Field:
    base = np.asarray(
        hsv_colour(rng.uniform(22, 36), rng.uniform(0.3, 0.55), rng.uniform(0.5, 0.8)),
        dtype=np.float32,
    )
    fibres = cv2.resize(
        rng.normal(0, 1, (size, max(4, size // 6))).astype(np.float32), (size, size)
    )
    return np.asarray(
        base * (1 + 0.02 * fibres + 0.05 * clouds(size, rng, 3, 3))[..., None], dtype=np.float32
    )


def _ribs(size: int, rng: Rng) -> Field:
    x, _ = grid(size)
    return np.asarray(
        np.sin(x * size / rng.uniform(1.4, 2.6)) * rng.uniform(0.05, 0.3), dtype=np.float32
    )


def card_panel(size: int, rng: Rng) -> Patch:
    """A piece of corrugated board: ribs, a crease or two, tape, one-colour print, torn edge."""
    half = rng.uniform(0.75, 1.35)  # large pieces run out of the image, as flattened boxes do
    alpha = polygon(
        size, rough_quad(rng, rng.uniform(0.5, 1.6), half, 0.08, int(rng.integers(0, 9)))
    )
    x, y = grid(size)
    height = _ribs(size, rng)
    for _ in range(int(rng.integers(0, 3))):
        angle = rng.uniform(0, np.pi)
        at = rng.uniform(-0.5, 0.5)
        distance = np.cos(angle) * x + np.sin(angle) * y - at
        height = (
            height
            + np.abs(distance) * size * rng.uniform(0.04, 0.22)
            - 3 * np.exp(-((distance / 0.02) ** 2))
        )
    albedo = _brown(size, rng)
    if rng.random() < 0.4:
        left, top = (int(v) for v in rng.integers(0, size // 2, 2))
        ink = (0.1, 0.1, 0.12) if rng.random() < 0.7 else lively(rng, 0.2, 0.6)
        text_lines(
            albedo, rng, (left, top, left + size // 3, top + size // 4), ink, max(5, size // 22)
        )
    if rng.random() < 0.4:
        at = rng.uniform(-0.5, 0.5)
        width = rng.uniform(0.06, 0.16)
        tape = np.abs(y - at) < width
        albedo[tape] = 0.75 * albedo[tape] + 0.25 * bgr(
            lively(rng, 0.6) if rng.random() < 0.3 else (0.6, 0.75, 0.8)
        )
    return patch(alpha, height.astype(np.float32), albedo, 0.08, 5)


def card_box(size: int, rng: Rng) -> Patch:
    """A carton in perspective: three faces, each with its own slope; plain or printed."""
    w = rng.uniform(0.4, 0.65)
    h = rng.uniform(0.3, 0.6)
    d = rng.uniform(0.15, 0.4)
    a = np.array([-w, -h + d])
    b = np.array([w - d, -h + d])
    c = np.array([w - d, h])
    e = np.array([-w, h])
    lift = np.array([d, -d])
    front = np.array([a, b, c, e])
    top = np.array([a, a + lift, b + lift, b])
    side = np.array([b, b + lift, c + lift, c])
    masks = [polygon(size, face) for face in (front, top, side)]
    alpha = np.maximum.reduce(masks)
    x, y = grid(size)
    slopes = [(0.0, 0.0), (0.1, 0.9), (-0.9, 0.1)]
    height = _ribs(size, rng)
    for mask, (sx, sy) in zip(masks, slopes, strict=True):
        height = np.where(mask > 0.5, height + (sx * x + sy * y) * size * 0.25, height)
    albedo = _brown(size, rng)
    if rng.random() < 0.4:
        printed = graphics(size, rng, lively(rng), 9)
        albedo = np.where((masks[0] > 0.5)[..., None], printed, albedo)
    return patch(alpha, height.astype(np.float32), albedo, 0.12, 6)


def card_tube(size: int, rng: Rng) -> Patch:
    """The core of a paper roll: a brown cylinder with a dark mouth."""
    body = rng.uniform(0.25, 0.45)
    mask, height, _ = revolve(size, [(-0.8, body), (0.8, body)])
    x, y = grid(size)
    mouth = np.hypot(x / body, (y + 0.8) / (body * 0.35)) < 1
    albedo = _brown(size, rng)
    albedo[mouth] *= 0.35
    return patch(np.maximum(mask, mouth.astype(np.float32)), height, albedo, 0.05, 4)


def paper_sheet(size: int, rng: Rng) -> Patch:
    """A sheet, letter, newspaper or flyer: white or printed, with soft folds."""
    half = rng.uniform(0.7, 1.2)
    alpha = polygon(
        size, rough_quad(rng, rng.uniform(0.6, 1.5), half, 0.07, int(rng.integers(0, 5)))
    )
    white = rng.uniform(0.78, 0.98)
    base = (white * rng.uniform(0.88, 1.0), white * rng.uniform(0.96, 1.0), white)
    kind = rng.random()
    albedo = np.empty((size, size, 3), dtype=np.float32)
    albedo[:] = base
    if kind < 0.45:
        columns = int(rng.integers(1, 5))
        line = max(3, size // int(rng.integers(25, 60)))
        for column in range(columns):
            left = int((0.08 + 0.86 * column / columns) * size)
            ink = (0.2, 0.2, 0.2) if rng.random() < 0.8 else lively(rng, 0.2, 0.6)
            text_lines(
                albedo,
                rng,
                (
                    left,
                    int(size * rng.uniform(0.05, 0.4)),
                    left + int(0.78 * size / columns),
                    int(0.95 * size),
                ),
                ink,
                line,
            )
    elif kind < 0.8:
        albedo = graphics(size, rng, base, 16)
        text_lines(
            albedo,
            rng,
            (size // 8, size // 2, size * 7 // 8, size * 7 // 8),
            (0.15, 0.15, 0.15),
            max(3, size // 45),
        )
    height = (
        creases(size, rng, 3) * size * rng.uniform(0.005, 0.04)
        + clouds(size, rng, 2, 2) * size * 0.02
    )
    return patch(alpha, height.astype(np.float32), albedo, rng.choice([0.03, 0.25]), 8)


def paper_ball(size: int, rng: Rng) -> Patch:
    """A crumpled sheet: matt facets."""
    alpha = blob(size, rng, 0.5, rng.uniform(0.7, 1))
    height = dome(alpha, 0.5) + creases(size, rng, 8) * size * 0.08
    white = rng.uniform(0.75, 0.97)
    albedo = (
        graphics(size, rng, (white, white, white), 14)
        if rng.random() < 0.35
        else (white * 0.96, white * 0.99, white)
    )
    return patch(alpha, height.astype(np.float32), albedo, 0.04, 4)


def film(size: int, rng: Rng) -> Patch:
    """A clear or milky bag: wrinkles that catch the light, floor showing through."""
    alpha = blob(size, rng, 0.55, rng.uniform(0.6, 1))
    height = creases(size, rng, 9) * size * 0.06 + clouds(size, rng, 6, 3) * size * 0.02
    clear = rng.uniform(0.45, 0.85)
    tint = (1.0, 1.0, 1.0) if rng.random() < 0.7 else lively(rng, 0.7)
    item = patch(
        alpha,
        height.astype(np.float32),
        np.asarray(tint) * 0.9,
        0.9,
        22,
        clear=clear,
        tint=tint,
        refraction=3,
    )
    if rng.random() < 0.3:
        printed = blob(size, rng, 0.3) * (clouds(size, rng, 4, 1) > 0.2)
        item.albedo_hwc[printed > 0.5] = lively(rng)
        item.clear_hw[printed > 0.5] *= 0.3
    return item


def wrapper(size: int, rng: Rng) -> Patch:
    """A snack wrapper: loud print on foil, crimped ends, small."""
    aspect = rng.uniform(0.25, 0.6)
    quad = rough_quad(rng, aspect, 0.9, 0.05)
    alpha = polygon(size, quad)
    x, _ = grid(size)
    ends = np.abs(x) > 0.74
    height = (
        dome(alpha, 0.35) * ~ends
        + np.sin(x * 90) * ends * size * 0.008
        + creases(size, rng, 7) * size * 0.03
    )
    albedo = graphics(size, rng, lively(rng), 10)
    return patch(alpha, height.astype(np.float32), albedo, 0.85, 16, metal=rng.uniform(0.1, 0.35))


def tissue(size: int, rng: Rng) -> Patch:
    """A used napkin: soft, matt, brownish or white, ragged."""
    alpha = blob(size, rng, 0.8, rng.uniform(0.5, 1))
    height = creases(size, rng, 7) * size * 0.06 + clouds(size, rng, 8, 3) * size * 0.03
    base = hsv_colour(rng.uniform(20, 40), rng.uniform(0.08, 0.4), rng.uniform(0.55, 0.9))
    stains = np.clip(clouds(size, rng, 3, 3), 0, 1)[..., None] * bgr((0.3, 0.2, 0.1))
    return patch(
        alpha,
        height.astype(np.float32),
        np.clip(bgr(base) - stains * rng.uniform(0, 1), 0, 1),
        0.02,
        3,
    )


def foam(size: int, rng: Rng) -> Patch:
    """Polystyrene: white, beaded, broken edge; or a squeezed tube."""
    if rng.random() < 0.4:
        mask, height, _ = revolve(
            size, [(-0.9, 0.1), (-0.78, 0.1), (-0.77, 0.16), (-0.6, 0.22), (0.9, 0.28)]
        )
        albedo = graphics(size, rng, (0.9, 0.9, 0.9), 7)
        return patch(mask, height * 0.6 + creases(size, rng, 3) * size * 0.02, albedo, 0.5, 14)
    alpha = polygon(size, rough_quad(rng, rng.uniform(0.4, 1), 0.75, 0.15, 8))
    height = clouds(size, rng, max(8, size // 10), 1) * 2.5 + dome(alpha, 0.15)
    return patch(alpha, height.astype(np.float32), (0.93, 0.95, 0.95), 0.1, 5)


def cloth(size: int, rng: Rng) -> Patch:
    """A garment or rag: long soft folds, weave, stripes or checks."""
    if rng.random() < 0.4:
        shirt = np.array(
            [
                [-0.4, -0.75],
                [-0.12, -0.68],
                [0.12, -0.68],
                [0.4, -0.75],
                [0.85, -0.35],
                [0.65, -0.1],
                [0.45, -0.3],
                [0.45, 0.8],
                [-0.45, 0.8],
                [-0.45, -0.3],
                [-0.65, -0.1],
                [-0.85, -0.35],
            ]
        )
        alpha = polygon(size, shirt + rng.normal(0, 0.03, shirt.shape))
    else:
        alpha = blob(size, rng, 0.6, rng.uniform(0.6, 1))
    x, y = grid(size)
    angle = rng.uniform(0, np.pi)
    bent = np.cos(angle) * x + np.sin(angle) * y + 0.25 * clouds(size, rng, 3, 2)
    height = (
        np.sin(bent * rng.uniform(6, 16)) * size * 0.02 + clouds(size, rng, 4, 3) * size * 0.035
    )
    weave = np.sin(x * size / 1.7) * np.sin(y * size / 1.7) * 0.35
    base = bgr(lively(rng, 0.1, 0.9) if rng.random() < 0.7 else (0.15, 0.13, 0.12))
    albedo = np.broadcast_to(base, (size, size, 3)).copy()
    if rng.random() < 0.45:
        albedo[np.sin(bent * rng.uniform(15, 40)) > rng.uniform(-0.3, 0.6)] = lively(rng)
    if rng.random() < 0.25:
        albedo[np.sin(np.roll(bent, size // 3) * 25 + y * 30) > 0.5] = lively(rng)
    return patch(alpha, (height + weave).astype(np.float32), albedo, 0.02, 3)
