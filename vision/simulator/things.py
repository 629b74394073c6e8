"""Food and devices: organic and e_waste."""

from __future__ import annotations

import cv2
import numpy as np

from vision.simulator.shapes import (
    Patch,
    Rng,
    bgr,
    blob,
    clouds,
    creases,
    dome,
    grid,
    hsv_colour,
    lively,
    patch,
    polygon,
    rough_quad,
)


def fruit(size: int, rng: Rng) -> Patch:
    """An apple, orange, tomato or potato: a round body with blotches."""
    alpha = blob(size, rng, 0.15, rng.uniform(0.75, 1))
    hue, saturation, value = rng.choice(
        [(5, 0.85, 0.75), (28, 0.9, 0.95), (95, 0.6, 0.6), (48, 0.8, 0.9), (30, 0.5, 0.55)]
    )
    base = bgr(hsv_colour(hue + rng.uniform(-6, 6), saturation, value))
    other = bgr(hsv_colour(rng.uniform(20, 90), 0.6, 0.6))
    share = np.clip(clouds(size, rng, 3, 4) * 0.6, 0, 1)[..., None]
    pores = clouds(size, rng, max(8, size // 6), 1) * rng.uniform(0, 0.6)
    return patch(
        alpha,
        (dome(alpha, 0.9) + pores).astype(np.float32),
        base * (1 - share) + other * share,
        0.4,
        14,
    )


def banana(size: int, rng: Rng) -> Patch:
    """A banana or its peel: a bent body, yellow with brown spots."""
    turn = np.linspace(rng.uniform(0.1, 0.5), np.pi - rng.uniform(0.1, 0.5), 40)
    width = 0.17 * np.sin(np.linspace(0.25, np.pi - 0.15, 40)) ** 0.6 * rng.uniform(0.8, 1.3)
    outer = np.stack([np.cos(turn) * (0.7 + width), np.sin(turn) * (0.7 + width) - 0.4], axis=1)
    inner = np.stack([np.cos(turn) * (0.7 - width), np.sin(turn) * (0.7 - width) - 0.4], axis=1)
    alpha = polygon(size, np.concatenate([outer, inner[::-1]]))
    yellow = bgr(hsv_colour(rng.uniform(42, 58), 0.8, 0.85))
    brown = bgr((0.08, 0.16, 0.26))
    share = np.clip((clouds(size, rng, 10, 3) - rng.uniform(0, 0.8)) * 3, 0, 1)[..., None]
    return patch(alpha, dome(alpha, 0.9), yellow * (1 - share) + brown * share, 0.15, 8)


def leaves(size: int, rng: Rng) -> Patch:
    """Leaves: green to brown, with veins."""
    alpha = np.zeros((size, size), dtype=np.float32)
    albedo = np.zeros((size, size, 3), dtype=np.float32)
    height = np.zeros((size, size), dtype=np.float32)
    x, y = grid(size)
    for _ in range(int(rng.integers(1, 6))):
        angle = rng.uniform(0, 6.3)
        scale = rng.uniform(0.35, 0.7)
        cx = rng.uniform(-0.35, 0.35)
        cy = rng.uniform(-0.35, 0.35)
        u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / scale
        v = (-(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)) / scale
        leaf = (np.abs(u) < 1) & (np.abs(v) < 0.45 * (1 - u**2) * (1 + 0.06 * np.sin(u * 40)))
        veins = np.exp(-((v / 0.015) ** 2)) + 0.5 * (np.sin((u + np.abs(v)) * 22) > 0.93)
        colour = bgr(
            hsv_colour(rng.uniform(35, 120), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.65))
        )
        albedo[leaf] = (colour * (1 + 0.4 * veins)[..., None])[leaf]
        height[leaf] = (veins * 1.5 + np.abs(v) * size * 0.1)[leaf]
        alpha[leaf] = 1
    return patch(alpha, height, np.clip(albedo, 0, 1), 0.15, 8)


def scraps(size: int, rng: Rng) -> Patch:
    """Leftover food: a lumpy heap of mixed browns, greens and reds."""
    alpha = blob(size, rng, 0.7, rng.uniform(0.6, 1))
    albedo = np.zeros((size, size, 3), dtype=np.float32)
    height = dome(alpha, 0.3)
    for _ in range(14):
        piece = (clouds(size, rng, 7, 2) > 0.25)[..., None]
        colour = bgr(hsv_colour(rng.uniform(5, 100), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.85)))
        albedo = np.where(piece, colour, albedo)
    height = height + clouds(size, rng, 12, 3) * size * 0.03
    return patch(alpha, height.astype(np.float32), albedo, 0.3, 12)


def phone(size: int, rng: Rng) -> Patch:
    """A telephone or tablet: black glass in a thin frame."""
    quad = rough_quad(rng, rng.uniform(0.48, 0.75), 0.85, 0.02)
    alpha = cv2.GaussianBlur(polygon(size, quad), (0, 0), 3)
    alpha = np.clip((alpha - 0.4) * 6, 0, 1)
    screen = polygon(size, quad * 0.9) > 0.5
    albedo = np.full((size, size, 3), rng.uniform(0.1, 0.7), dtype=np.float32)
    albedo[screen] = rng.uniform(0.01, 0.07)
    height = dome(alpha, 0.06) + clouds(size, rng, 2, 1) * size * 0.01
    return patch(
        alpha.astype(np.float32),
        height.astype(np.float32),
        albedo,
        0.9,
        40,
        metal=np.where(screen, 0.12, 0.4),
    )


def circuit_board(size: int, rng: Rng) -> Patch:
    """A printed circuit board: chips, gold pads, traces."""
    alpha = polygon(size, rough_quad(rng, rng.uniform(0.5, 1), 0.85, 0.02))
    base = hsv_colour(rng.choice([130, 150, 215, 20]), 0.8, rng.uniform(0.2, 0.45))
    albedo = np.empty((size, size, 3), dtype=np.float32)
    albedo[:] = base
    height = np.zeros((size, size), dtype=np.float32)
    for _ in range(40):
        x0, y0, w, h = (
            int(v) for v in (*rng.integers(0, size, 2), *rng.integers(3, max(5, size // 7), 2))
        )
        kind = rng.random()
        ink = (
            (0.06, 0.06, 0.06)
            if kind < 0.5
            else (0.3, 0.65, 0.8)
            if kind < 0.8
            else (0.8, 0.8, 0.8)
        )
        cv2.rectangle(albedo, (x0, y0), (x0 + w, y0 + h), ink, -1)
        cv2.rectangle(height, (x0, y0), (x0 + w, y0 + h), float(rng.uniform(1, 6)), -1)
    for _ in range(25):
        a, b = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
        cv2.line(albedo, a, (b[0], a[1]), tuple(1.5 * c for c in base), 1)
    return patch(alpha, cv2.GaussianBlur(height, (3, 3), 0), albedo, 0.4, 20, metal=0.08)


def keyboard(size: int, rng: Rng) -> Patch:
    """A keyboard or remote control: rows of keys."""
    alpha = polygon(size, rough_quad(rng, rng.uniform(0.3, 0.5), 0.95, 0.02))
    x, y = grid(size)
    pitch = rng.uniform(0.09, 0.16)
    keys = (np.abs((x / pitch) % 1 - 0.5) < 0.4) & (np.abs((y / pitch) % 1 - 0.5) < 0.4)
    dark, light = sorted(rng.uniform(0.05, 0.85, 2))
    albedo = (
        np.where(keys, light, dark) if rng.random() < 0.4 else np.where(keys, dark, light * 0.8)
    )
    height = cv2.GaussianBlur(keys.astype(np.float32) * 4, (5, 5), 0)
    return patch(alpha, height, np.repeat(albedo[..., None], 3, axis=2), 0.25, 10)


def cable(size: int, rng: Rng) -> Patch:
    """A charger: a looped cable with a plug."""
    t = np.linspace(0, 1, 120)
    x = 0.6 * np.cos(t * rng.uniform(7, 16) + rng.uniform(0, 6)) * (0.5 + 0.5 * t)
    y = 0.6 * np.sin(t * rng.uniform(7, 16) + rng.uniform(0, 6)) * (0.5 + 0.5 * t)
    pixels = np.stack([(x + 1) / 2 * size, (y + 1) / 2 * size], axis=1).astype(np.int32)
    alpha = np.zeros((size, size), dtype=np.float32)
    cv2.polylines(
        alpha, [pixels], False, 1.0, max(3, size // int(rng.integers(22, 45))), cv2.LINE_AA
    )
    cx, cy = (int(v) for v in pixels[-1])
    w = int(size * rng.uniform(0.08, 0.16))
    h = int(size * rng.uniform(0.06, 0.12))
    cv2.rectangle(alpha, (cx - w, cy - h), (cx + w, cy + h), 1.0, -1)
    shade = rng.choice([0.05, 0.1, 0.9])
    return patch(alpha, dome(alpha, 0.9), (shade, shade, shade), 0.4, 16)


def mouse(size: int, rng: Rng) -> Patch:
    """A computer mouse or a small appliance: a smooth shell with seams."""
    x, y = grid(size)
    r = np.hypot(x / rng.uniform(0.45, 0.6), y / rng.uniform(0.75, 0.9))
    alpha = np.clip((1 - r) * size / 6, 0, 1).astype(np.float32)
    shade = bgr(lively(rng)) if rng.random() < 0.2 else bgr(rng.choice([0.07, 0.12, 0.85]))
    albedo = np.broadcast_to(shade, (size, size, 3)).copy()
    albedo[(np.abs(x) < 0.012) & (y < -0.1)] *= 0.4
    wheel = (np.abs(x) < 0.06) & (np.abs(y + 0.4) < 0.14)
    albedo[wheel] = 0.3
    height = dome(alpha, 0.8) + creases(size, rng, 1) * 0.5
    return patch(alpha, height.astype(np.float32), albedo, 0.4, 16)
