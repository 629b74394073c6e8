"""Cutting items out of plain backgrounds and laying them elsewhere."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.background import WORK_H, WORK_W, backgrounds, item_mask, paste
from vision.datasets import open_dataset, read_image

SIDE = 200


def _board(height: int = 240, width: int = 320) -> np.ndarray:
    """A white board with uneven light and a soft shadow in one corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 215 - 30 * x - 15 * y - 50 * np.exp(-((x - 1) ** 2 + (y - 1) ** 2) / 0.05)
    noise = np.random.default_rng(0).normal(0, 1.5, (height, width, 3))
    return np.clip(light[..., None] * np.array([0.97, 1.0, 1.0]) + noise, 0, 255).astype(np.uint8)


def test_an_item_is_found_on_an_unevenly_lit_board_and_its_shadow_is_not() -> None:
    image = _board()
    truth = np.zeros((240, 320), np.uint8)
    cv2.ellipse(truth, (140, 110), (70, 45), 30, 0, 360, 1, -1)
    image[truth > 0] = (40, 140, 60)
    mask = item_mask(image)
    assert mask is not None
    assert mask.shape == (WORK_H, WORK_W)
    small = cv2.resize(truth, (WORK_W, WORK_H), interpolation=cv2.INTER_AREA)
    assert (mask & small).sum() / (mask | small).sum() > 0.93


@pytest.mark.parametrize(
    "image", [_board(), np.full((240, 320, 3), (60, 110, 160), np.uint8)], ids=["empty", "brown"]
)
def test_no_mask_is_found_where_there_is_no_item_or_no_board(image: np.ndarray) -> None:
    assert item_mask(image) is None


def test_most_photographs_have_a_mask(shared: Path) -> None:
    samples = open_dataset(shared / "data/trashnet").select("val").samples[::12]
    found = [item_mask(read_image(s.path)) is not None for s in samples]
    assert np.mean(found) > 0.7
    sheets = [item_mask(read_image(s.path)) is None for s in samples if s.label == "cardboard"]
    assert (
        np.mean(sheets) > 0.3
    )  # cardboard often fills the image, and is then no board with something on it


def test_a_laid_item_keeps_its_colours_and_the_rest_is_floor() -> None:
    image = _board()
    mask = np.zeros((WORK_H, WORK_W), np.uint8)
    image[80:160, 100:220] = (30, 30, 200)
    mask[40:80, 50:110] = 1
    floor = np.full((SIDE, SIDE, 3), (120, 20, 20), np.uint8)
    for seed in range(20):
        laid = paste(image, mask, floor, False, np.random.default_rng(seed)).astype(int)
        assert laid.shape == (SIDE, SIDE, 3)
        red = (laid[..., 2] > 3 * laid[..., 0]).mean()
        blue = (laid[..., 0] > 3 * laid[..., 2]).mean()
        assert 0.02 < red < 0.8
        assert red + blue > 0.9
    first, again = (paste(image, mask, floor, True, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)


def test_floors_are_varied_and_repeatable() -> None:
    others = [np.random.default_rng(9).integers(0, 255, (90, 160, 3), dtype=np.uint8)]
    made, again = (backgrounds(3, others, SIDE, np.random.default_rng(1)) for _ in range(2))
    assert len(made) == 4
    assert all(f.shape == (SIDE, SIDE, 3) and f.dtype == np.uint8 for f in made)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert not np.array_equal(made[0], made[1])
