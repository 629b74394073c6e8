"""Bodies of revolution and discs: glass, metal, hard plastic, batteries and aerosols."""

from __future__ import annotations

import numpy as np

from vision.simulator.shapes import (
    Colour,
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
)

Profile = list[tuple[float, float]]


def glass_bottle(size: int, rng: Rng) -> Patch:
    """A lying bottle: thick glass that tints and bends what is behind it, dark edges, glints."""
    neck = rng.uniform(0.1, 0.16)
    body = rng.uniform(0.26, 0.4)
    shoulder = rng.uniform(-0.45, -0.1)
    profile = [
        (-0.95, neck * 1.15),
        (-0.87, neck * 1.15),
        (-0.86, neck),
        (shoulder - 0.25, neck),
        (shoulder, body),
        (0.9, body),
        (0.95, body * 0.85),
    ]
    return _glass(size, rng, profile, label=rng.random() < 0.55)


def glass_jar(size: int, rng: Rng) -> Patch:
    """A squat jar with a thread and perhaps a metal lid."""
    body = rng.uniform(0.42, 0.62)
    profile = [
        (-0.75, body * 0.8),
        (-0.62, body * 0.8),
        (-0.6, body * 0.86),
        (-0.56, body * 0.8),
        (-0.45, body),
        (0.7, body),
        (0.78, body * 0.9),
    ]
    item = _glass(size, rng, profile, label=rng.random() < 0.5)
    if rng.random() < 0.3:
        _, y = grid(size)
        lid = (y < -0.58) & (item.alpha_hw > 0.1)
        item.metal_hw[lid] = 0.5
        item.clear_hw[lid] = 0.0
        item.albedo_hwc[lid] = lively(rng)
    return item


def glass_bottom(size: int, rng: Rng) -> Patch:
    """A bottle or jar seen from its end: rings that bend the light."""
    x, y = grid(size)
    r = np.hypot(x, y * rng.uniform(0.85, 1.0))
    edge = rng.uniform(0.6, 0.85)
    alpha = np.clip((edge - r) * size / 4 + 0.5, 0, 1)
    rings = sum(
        np.exp(-(((r - edge * k) / 0.05) ** 2))
        for k in (0.97, rng.uniform(0.6, 0.8), rng.uniform(0.25, 0.4))
    )
    height = np.asarray(
        rings * size * 0.05 + np.sqrt(np.clip(edge**2 - r**2, 0, 1)) * size * 0.12, dtype=np.float32
    )
    tint, clear = _glass_tint(rng)
    return patch(alpha, height, tint, 0.9, 60, clear=clear, tint=tint, refraction=14)


def _glass_tint(rng: Rng) -> tuple[Colour, float]:
    kind = rng.random()
    if kind < 0.4:
        v = rng.uniform(0.82, 0.97)
        return (v, v, v * rng.uniform(0.9, 0.98)), 0.85
    if kind < 0.7:
        return hsv_colour(rng.uniform(85, 150), rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.6)), 0.7
    return hsv_colour(rng.uniform(18, 34), rng.uniform(0.75, 0.95), rng.uniform(0.2, 0.5)), 0.65


def _glass(size: int, rng: Rng, profile: Profile, label: bool) -> Patch:
    mask, height, across = revolve(size, profile)
    tint, clear = _glass_tint(rng)
    clear_hw = np.full((size, size), clear, dtype=np.float32)
    # Light through the wall's rim passes much more glass: the outline is dark and saturated.
    clear_hw *= 1 - 0.75 * np.clip(np.abs(across), 0, 1) ** 6
    item = patch(
        mask, height, np.asarray(tint) * 0.55, 1.0, 70, clear=clear_hw, tint=tint, refraction=16
    )
    if label:
        _label_band(item, rng, across, *sorted(rng.uniform(-0.05, 0.75, 2)))
    return item


def _label_band(item: Patch, rng: Rng, across: Field, low: float, high: float) -> None:
    size = item.alpha_hw.shape[0]
    _, y = grid(size)
    band = (y > low) & (y < max(high, low + 0.2)) & (np.abs(across) < rng.uniform(0.8, 1.2))
    base = (0.92, 0.92, 0.92) if rng.random() < 0.5 else lively(rng)
    item.albedo_hwc[band] = graphics(size, rng, base)[band]
    item.clear_hw[band] = 0.0
    item.metal_hw[band] = 0.0


def drinks_can(size: int, rng: Rng) -> Patch:
    """A printed aluminium can, whole or crushed, with bare ends."""
    body = rng.uniform(0.36, 0.5)
    profile = [
        (-0.82, body * 0.78),
        (-0.78, body * 0.8),
        (-0.68, body),
        (0.68, body),
        (0.78, body * 0.8),
        (0.82, body * 0.76),
    ]
    mask, height, _ = revolve(size, profile)
    _, y = grid(size)
    albedo = graphics(size, rng, lively(rng) if rng.random() < 0.8 else (0.8, 0.8, 0.8), 8)
    ends = np.abs(y) > 0.69
    albedo[ends] = 0.75
    metal = np.where(ends, 0.9, rng.uniform(0.35, 0.6)).astype(np.float32)
    if rng.random() < 0.45:
        height = height + creases(size, rng, 5) * size * rng.uniform(0.03, 0.09)
    return patch(mask, height, albedo, 0.9, 25, metal=metal)


def food_tin(size: int, rng: Rng) -> Patch:
    """A ribbed steel tin, bare or with a paper label."""
    body = rng.uniform(0.45, 0.65)
    mask, height, across = revolve(size, [(-0.7, body), (0.7, body)])
    _, y = grid(size)
    height = height + np.sin(y * rng.uniform(40, 70)) * (np.abs(y) < 0.5) * size * 0.006
    item = patch(mask, height.astype(np.float32), (0.72, 0.74, 0.76), 0.9, 20, metal=0.85)
    if rng.random() < 0.5:
        _label_band(item, rng, across * 0.5, -0.6, 0.6)
    return item


def metal_disc(size: int, rng: Rng) -> Patch:
    """A lid, a bottle cap or the end of a can from above: concentric rings, perhaps a pull tab."""
    x, y = grid(size)
    r = np.hypot(x, y)
    edge = rng.uniform(0.5, 0.85)
    alpha = np.clip((edge - r) * size / 4 + 0.5, 0, 1)
    height = sum(
        rng.uniform(0.5, 1) * np.exp(-(((r - edge * k) / 0.03) ** 2))
        for k in (0.95, *rng.uniform(0.2, 0.9, 3))
    )
    height = np.asarray(
        height * size * 0.03 + 0.02 * size * clouds(size, rng, 3, 2) * 0.3, dtype=np.float32
    )
    bare = rng.random() < 0.6
    item = patch(
        bgr(alpha),
        height,
        (0.75, 0.76, 0.78) if bare else lively(rng),
        0.9,
        22,
        metal=0.85 if bare else 0.35,
    )
    if bare and rng.random() < 0.5:
        tab = (
            polygon(size, np.array([[-0.1, -0.3], [0.1, -0.3], [0.12, 0.02], [-0.12, 0.02]]) * edge)
            > 0.5
        )
        hole = np.hypot(x / 0.16, (y - 0.25 * edge) / 0.22) < edge
        item.albedo_hwc[hole] = 0.04
        item.metal_hw[hole] = 0.05
        item.height_hw[tab] += size * 0.02
    return item


def foil(size: int, rng: Rng) -> Patch:
    """Crumpled aluminium foil: facets that mirror bright and dark at random."""
    alpha = blob(size, rng, 0.5, rng.uniform(0.5, 1))
    height = (
        dome(alpha, 0.4)
        + creases(size, rng, 12) * size * 0.09
        + clouds(size, rng, 12, 2) * size * 0.012
    )
    return patch(alpha, height.astype(np.float32), (0.78, 0.78, 0.8), 1.0, 18, metal=0.95)


def pet_bottle(size: int, rng: Rng) -> Patch:
    """A thin clear bottle: ribs, dents, a coloured cap, often a sleeve.

    It bends light far less than glass does.
    """
    neck = rng.uniform(0.09, 0.13)
    body = rng.uniform(0.26, 0.38)
    profile = [
        (-0.95, neck * 1.35),
        (-0.82, neck * 1.35),
        (-0.8, neck),
        (-0.72, neck),
        (-0.45, body),
        (0.88, body),
        (0.95, body * 0.75),
    ]
    mask, height, across = revolve(size, profile)
    _, y = grid(size)
    ribs = np.sin(y * rng.uniform(25, 60)) * (y > -0.45) * size * rng.uniform(0.002, 0.008)
    dents = creases(size, rng, 6) * size * rng.uniform(0.01, 0.07)
    haze = rng.uniform(0.55, 0.85)
    tint = (
        (1.0, 1.0, 1.0)
        if rng.random() < 0.65
        else hsv_colour(rng.uniform(90, 220), rng.uniform(0.2, 0.6), 0.9)
    )
    item = patch(
        mask,
        (height + ribs + dents).astype(np.float32),
        np.asarray(tint) * 0.8,
        0.8,
        30,
        clear=haze,
        tint=tint,
        refraction=5,
    )
    cap = y < -0.81
    item.albedo_hwc[cap] = lively(rng, 0.5)
    item.clear_hw[cap] = 0.0
    if rng.random() < 0.65:
        _label_band(item, rng, across * 0.6, *sorted(rng.uniform(-0.4, 0.6, 2)))
    return item


def opaque_bottle(size: int, rng: Rng) -> Patch:
    """A detergent or milk bottle: even colour, soft highlight, cap, label."""
    body = rng.uniform(0.35, 0.55)
    profile = [
        (-0.9, 0.14),
        (-0.72, 0.14),
        (-0.71, 0.12),
        (-0.62, 0.12),
        (-0.4, body),
        (0.85, body * rng.uniform(0.85, 1)),
        (0.92, body * 0.8),
    ]
    mask, height, across = revolve(size, profile)
    colour = (0.92, 0.93, 0.93) if rng.random() < 0.5 else lively(rng, 0.5)
    item = patch(mask, height * rng.uniform(0.5, 0.9), colour, 0.45, 14)
    _, y = grid(size)
    item.albedo_hwc[y < -0.71] = lively(rng, 0.4)
    if rng.random() < 0.7:
        _label_band(item, rng, across * 0.9, -0.25, 0.6)
    return item


def tub(size: int, rng: Rng) -> Patch:
    """A plastic cup, tray or lid seen from above: raised rim, flat floor."""
    x, y = grid(size)
    power = rng.choice([2.0, 5.0, 8.0])
    r = (np.abs(x) ** power + np.abs(y * rng.uniform(1, 1.5)) ** power) ** (1 / power)
    edge = rng.uniform(0.6, 0.85)
    alpha = np.clip((edge - r) * size / 4 + 0.5, 0, 1)
    height = size * 0.05 * np.exp(-(((r - edge * 0.94) / 0.04) ** 2)) + size * 0.03 * np.exp(
        -(((r - edge * 0.7) / 0.05) ** 2)
    )
    clear = rng.choice([0.0, 0.0, 0.7])
    colour = (
        (0.93, 0.93, 0.93)
        if rng.random() < 0.4
        else (0.08, 0.08, 0.08)
        if rng.random() < 0.2
        else lively(rng, 0.5)
    )
    return patch(
        alpha.astype(np.float32),
        height.astype(np.float32),
        colour,
        0.6,
        20,
        clear=clear,
        refraction=5,
    )


def battery(size: int, rng: Rng) -> Patch:
    """A round cell: two-tone sleeve, metal pole."""
    body = rng.uniform(0.2, 0.32)
    mask, height, _ = revolve(
        size, [(-0.92, 0.09), (-0.85, 0.09), (-0.845, body), (0.86, body), (0.9, body * 0.95)]
    )
    _, y = grid(size)
    dark = (0.06, 0.06, 0.07)
    bright = lively(rng, 0.5) if rng.random() < 0.6 else (0.25, 0.55, 0.8)
    albedo = np.where((y < rng.uniform(-0.4, 0.4))[..., None], bgr(bright), bgr(dark))
    albedo = np.where(rng.random() < 0.5, albedo[::-1], albedo)
    poles = (y < -0.84) | (y > 0.85)
    albedo[poles] = 0.75
    return patch(mask, height, albedo, 0.8, 25, metal=np.where(poles, 0.9, 0.2))


def aerosol(size: int, rng: Rng) -> Patch:
    """A spray can: shoulder, valve, print, orange hazard diamond."""
    body = rng.uniform(0.22, 0.32)
    mask, height, _ = revolve(
        size,
        [
            (-0.95, 0.06),
            (-0.82, 0.06),
            (-0.81, 0.14),
            (-0.7, body * 0.9),
            (-0.6, body),
            (0.9, body),
            (0.93, body * 0.9),
        ],
    )
    _, y = grid(size)
    albedo = graphics(size, rng, lively(rng), 7)
    albedo[y < -0.62] = 0.75
    diamond = polygon(size, np.array([[0, 0.3], [0.15, 0.45], [0, 0.6], [-0.15, 0.45]])) > 0.5
    albedo[diamond] = (0.1, 0.45, 0.95)
    return patch(mask, height, albedo, 0.9, 25, metal=np.where(y < -0.62, 0.85, 0.35))
