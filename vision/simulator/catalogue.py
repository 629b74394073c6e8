"""Which items stand for which label, and how large they are beside one another."""

from __future__ import annotations

from collections.abc import Callable

from vision.simulator import containers as c
from vision.simulator import sheets as s
from vision.simulator import things as t
from vision.simulator.shapes import Patch, Rng

Maker = Callable[[int, Rng], Patch]

# label -> (maker, frequency, canvas size as a share of the frame's height)
CATALOGUE: dict[str, tuple[tuple[Maker, float, float], ...]] = {
    "cardboard": ((s.card_panel, 4, 1.15), (s.card_box, 3, 1.15), (s.card_tube, 1, 0.7)),
    "glass": ((c.glass_bottle, 4, 1.2), (c.glass_jar, 3, 1.0), (c.glass_bottom, 2, 0.75)),
    "metal": ((c.drinks_can, 4, 0.95), (c.food_tin, 3, 0.95), (c.metal_disc, 3, 0.75), (c.foil, 3, 0.85)),
    "paper": ((s.paper_sheet, 6, 1.05), (s.paper_ball, 2, 0.8)),
    "plastic": ((c.pet_bottle, 5, 1.2), (c.opaque_bottle, 3, 1.1), (c.tub, 3, 0.9), (s.film, 2, 1.0)),
    "trash": ((s.wrapper, 4, 0.8), (s.tissue, 4, 0.95), (s.foam, 3, 0.8), (s.film, 1, 0.8)),
    "organic": ((t.fruit, 3, 0.7), (t.banana, 2, 0.9), (t.leaves, 2, 0.9), (t.scraps, 2, 0.85)),
    "textile": ((s.cloth, 1, 1.15),),
    "e_waste": ((t.phone, 2, 0.8), (t.circuit_board, 2, 0.85), (t.keyboard, 2, 1.1), (t.cable, 2, 0.9), (t.mouse, 2, 0.75)),
    "hazardous": ((c.battery, 1, 0.6), (c.aerosol, 1, 1.0)),
}  # fmt: skip


def make_item(label: str, frame_height_px: int, rng: Rng) -> Patch:
    """Return a random item of a label, on a canvas sized for a frame of this height."""
    makers = CATALOGUE[label]
    weights = [weight for _, weight, _ in makers]
    maker, _, scale = makers[int(rng.choice(len(makers), p=[w / sum(weights) for w in weights]))]
    size = int(frame_height_px * scale * rng.uniform(0.65, 1.25))
    return maker(max(32, size), rng)
