"""Cut an item out of its plain background and lay it on another floor.

A set photographed on one white board teaches the board along with the item, and the network fails
on any other floor. Here the item's mask is found once for each image, and in training the item is
laid, at any size and turn, on backgrounds of the simulator and on stretches of the other images.
Why, and what it buys: docs/training.md.

The mask: a smooth background is fitted to the border, what differs from it (shadows apart) begins a
GrabCut. Source of GrabCut: Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004; OpenCV's
implementation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data import Images
from training.progress import Progress
from vision.frames import Pixels
from vision.simulator.scene import expose, random_chute

Mask = NDArray[np.uint8]

# The mask is found at this size; images of the set are four times as large.
WORK_W = 160
WORK_H = 120
# A mask outside these shares of the image is a failed one.
SMALLEST_ITEM = 0.01
LARGEST_ITEM = 0.8
# A board's colour differs from grey by at most this (chroma in Lab); beyond it, the "board" is
# brown cardboard.
MOST_BOARD_CHROMA = 17.0
# Empty chutes rendered, and as many stretches of images at most.
BACKGROUNDS = 250
# Materials that come as sheets: any piece of such an image is an item. Materials that light passes
# through.
SHEETS = ("cardboard", "paper")
CLEAR = ("glass", "plastic")


def item_mask(pixels_hwc: Pixels) -> Mask | None:
    """Find the one item on a plain background.

    Args:
        pixels_hwc: uint8, BGR.

    Returns:
        uint8, WORK_H x WORK_W, 1 on the item; None where no plain background is seen around an
        item.
    """
    small = cv2.resize(pixels_hwc, (WORK_W, WORK_H), interpolation=cv2.INTER_AREA)
    distance, threshold = _distance_from_board(small)
    if distance is None:
        return None
    clear = (distance > threshold).astype(np.uint8)
    core = cv2.erode(
        cv2.morphologyEx(clear, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)),
        np.ones((5, 5), np.uint8),
    )
    if core.sum() < 40:
        return None
    state = np.full((WORK_H, WORK_W), cv2.GC_PR_BGD, np.uint8)
    state[clear > 0] = cv2.GC_PR_FGD
    state[core > 0] = cv2.GC_FGD
    state[distance < 0.4 * threshold] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(small, state, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    mask = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = _filled(
        _largest_parts(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)))
    )
    return mask if SMALLEST_ITEM < mask.mean() < LARGEST_ITEM else None


def backgrounds(
    count: int, others: Sequence[Pixels], size_px: int, rng: np.random.Generator
) -> list[Pixels]:
    """Return backgrounds, uint8, `size_px` square.

    Empty chutes of the simulator, then one stretch of each of `others`.

    The stretches, blurred at random, carry the colours and textures of the other sets: a floor that
    comes with one label only would give that label away.
    """
    made = [expose(random_chute(size_px, size_px, rng), None, rng) for _ in range(count)]
    for image in others:
        height, width = image.shape[:2]
        side = int(min(height, width) * rng.uniform(0.25, 0.6))
        top = rng.integers(height - side + 1)
        left = rng.integers(width - side + 1)
        stretch = cv2.resize(image[top : top + side, left : left + side], (size_px, size_px))
        made.append(
            np.asarray(cv2.GaussianBlur(stretch, (0, 0), rng.uniform(0.1, 3.0)), dtype=np.uint8)
        )
    return made


def paste(
    pixels_hwc: Pixels,
    mask: Mask | None,
    background_hwc: Pixels,
    see_through: bool,
    rng: np.random.Generator,
) -> Pixels | None:
    """Lay an item on a floor: any turn, longest side 0.3 to 1.0 of the image, with a shadow.

    Args:
        pixels_hwc: the image, uint8, BGR.
        mask: from `item_mask`; None takes a rough quadrangle of the image as a sheet of its
            material.
        background_hwc: uint8, square; what is returned has its size.
        see_through: let the floor shine through in part, as through clear glass and plastic.
        rng: decides everything that is random here.

    Returns:
        uint8, BGR; None if nothing is left of the mask in so small an image.
    """
    height, width = pixels_hwc.shape[:2]
    side = background_hwc.shape[0]
    whole = _quadrangle(height, width, rng) if mask is None else cv2.resize(mask, (width, height))
    soft = cv2.GaussianBlur((whole > 0).astype(np.float32), (0, 0), 1.2)
    alpha = np.clip((soft - 0.35) / 0.5, 0, 1)
    left, top, box_w, box_h = cv2.boundingRect((alpha > 0.5).astype(np.uint8))
    if not box_w:
        return None
    longest = side * np.exp(rng.uniform(np.log(0.3), 0))
    scale = longest / max(box_w, box_h)
    while scale < 0.5:  # as in preprocess: halves by area, so that nothing aliases
        height = height // 2
        width = width // 2
        scale = scale * 2
        left = left / 2
        top = top / 2
        box_w = box_w / 2
        box_h = box_h / 2
        pixels_hwc = cv2.resize(pixels_hwc, (width, height), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)
    turn = rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.12, 0.12, 2)) * scale
    stretch[0] *= rng.choice([-1, 1])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
        stretch
    )
    centre = side / 2 + rng.uniform(-0.4, 0.4, 2) * (side - longest)
    offset = centre - matrix @ np.array([left + box_w / 2, top + box_h / 2])
    move = np.hstack([matrix, offset[:, None]])
    size = (side, side)
    item = cv2.warpAffine(pixels_hwc, move, size, borderMode=cv2.BORDER_REFLECT_101)
    cover = cv2.warpAffine(alpha, move, size)
    floor = np.ascontiguousarray(np.rot90(background_hwc, int(rng.integers(4))))
    if rng.random() < 0.7:
        floor = _shadowed(floor, cover, longest, rng)
    if see_through and mask is not None and rng.random() < 0.6:
        item = _shone_through(item, floor, pixels_hwc, rng)
    item = cv2.convertScaleAbs(item, alpha=np.exp(rng.uniform(-0.25, 0.2)))
    return np.asarray(cv2.blendLinear(floor, item, 1 - cover, cover), dtype=np.uint8)


class BackgroundSwap:
    """What `item_mask` finds on training images, and the backgrounds to lay the items on.

    Args:
        images: the training images.
        labels: of each; None for an image of no label.
        size_px: of the backgrounds, and so of the items laid on them.
        seed: of the backgrounds.
        progress: wraps the images, for a progress bar.
    """

    def __init__(
        self,
        images: Images,
        labels: Sequence[str | None],
        size_px: int,
        seed: int,
        progress: Progress = iter,
    ) -> None:
        rng = np.random.default_rng([seed, 3])
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of Python while it works
            coming = [pool.submit(lambda i: item_mask(images[i]), i) for i in range(len(images))]
            self.masks = [mask.result() for mask in progress(coming)]
        # An image without a plain background shows a place; one with it shows the board that is to
        # be unlearnt. A place from a labelled image would bring its item along.
        places = [i for i, mask in enumerate(self.masks) if mask is None and labels[i] is None]
        chosen = rng.permutation(places)[:BACKGROUNDS]
        self._backgrounds = backgrounds(BACKGROUNDS, [images[int(i)] for i in chosen], size_px, rng)
        self._labels = labels

    def apply(self, index: int, pixels_hwc: Pixels, rng: np.random.Generator) -> Pixels | None:
        """Return the item of image `index` on some floor; None if it cannot be cut out."""
        mask = self.masks[index]
        label = self._labels[index]
        if mask is None and label not in SHEETS:
            return None
        floor = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        return paste(pixels_hwc, mask, floor, label in CLEAR, rng)


def _shadowed(
    floor: Pixels, cover: NDArray[np.float32], longest: float, rng: np.random.Generator
) -> Pixels:
    """Return a floor with the shadow of what lies on it.

    Args:
        floor: uint8, height x width x 3.
        cover: float32, height x width, 0..1: how much of a pixel the item covers.
        longest: side of the item, pixels.
        rng: of offset, softness and depth.
    """
    shadow = cv2.GaussianBlur(cover, (0, 0), max(0.8, longest * rng.uniform(0.01, 0.06)))
    shift = np.hstack([np.eye(2), rng.uniform(-0.06, 0.06, (2, 1)) * longest])
    size = (floor.shape[1], floor.shape[0])
    dark = np.float32(rng.uniform(0.1, 0.6)) * cv2.warpAffine(shadow, shift, size)
    return np.asarray(cv2.blendLinear(floor, np.zeros_like(floor), 1 - dark, dark), dtype=np.uint8)


def _shone_through(
    item: Pixels, floor: Pixels, pixels_hwc: Pixels, rng: np.random.Generator
) -> Pixels:
    """Return an item with a share of the floor's light in it, as far as its board's light passed.

    Args:
        item: uint8, height x width x 3, where it lies now.
        floor: uint8, of the same shape.
        pixels_hwc: the image that the item comes from, whose border is its board.
        rng: of the share.
    """
    border = np.concatenate([pixels_hwc[:6].reshape(-1, 3), pixels_hwc[-6:].reshape(-1, 3)])
    board = np.median(border, axis=0) + 1.0
    share = rng.uniform(0, 0.8)
    passes = share * np.clip(np.arange(256)[:, None, None] / board, 0, 1.6)
    through = cv2.multiply(floor.astype(np.float32), cv2.LUT(item, passes.astype(np.float32)))
    lit: Pixels = np.clip((1 - share) * item + through, 0, 255).astype(np.uint8)
    return lit


def _distance_from_board(small: Pixels) -> tuple[NDArray[np.float32], float] | tuple[None, float]:
    """Return how far each pixel is from a smooth background fitted to the border.

    And the threshold of "clearly".
    """
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : WORK_H * 1j, -1 : 1 : WORK_W * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    flat = lab.reshape(-1, 3)
    edge = WORK_H // 13
    ring = np.ones((WORK_H, WORK_W), bool)
    ring[edge:-edge, edge:-edge] = False
    near_ring = ring.ravel()
    keep = near_ring & (
        flat[:, 0] > np.percentile(flat[near_ring, 0], 35)
    )  # the board is the bright part
    for turn in range(6):
        if keep.sum() < 100:
            return None, 0.0
        coefficients, *_ = np.linalg.lstsq(terms[keep], flat[keep], rcond=None)
        fit = terms @ coefficients
        distance = np.sqrt(
            (((flat - fit) * (1 / 1.6, 1.3, 1.3)) ** 2).sum(1)
        )  # shading counts less than colour
        spread = 1.48 * np.median(distance[keep]) + 1.0
        keep = distance < min(3 * spread, 9)
        if turn < 2:
            keep &= near_ring | (distance < 2 * spread)
    threshold = max(3.0 * spread, 7.0)
    light, *chroma = coefficients[0]
    plain = np.hypot(chroma[0] - 128, chroma[1] - 128) <= MOST_BOARD_CHROMA and light >= 90
    if not plain or keep.sum() < 400 or (distance[near_ring] < threshold).mean() < 0.5:
        return None, 0.0
    distance = np.where(_in_shadow(small, fit, lab[..., 0]), np.minimum(distance, spread), distance)
    return distance.reshape(WORK_H, WORK_W).astype(np.float32), float(threshold)


def _in_shadow(
    small: Pixels, fit: NDArray[np.float64], light: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Darker than the board, of its colour, and smooth: not the item."""
    board_lab = np.clip(fit, 0, 255).astype(np.uint8).reshape(WORK_H, WORK_W, 3)
    board = cv2.cvtColor(board_lab, cv2.COLOR_LAB2BGR).reshape(-1, 3).astype(np.float32) + 4
    ratio = np.log((small.reshape(-1, 3).astype(np.float32) + 4) / board)
    mean = ratio.mean(1)
    tint = np.abs(ratio - mean[:, None]).max(1)
    slope = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)) / 8
    shadow: NDArray[np.bool_] = (
        (mean > -0.9) & (mean < 0.05) & (tint < 0.1) & (cv2.blur(slope, (7, 7)).ravel() < 2.2)
    )
    return shadow


def _largest_parts(mask: Mask) -> Mask:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = [i for i in range(1, count) if areas[i] > 0.15 * areas[1:].max()]
    return np.asarray(np.isin(parts, kept), dtype=np.uint8)


def _filled(mask: Mask) -> Mask:
    """Fill small holes; a large one is a bottle's handle or a ring."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(1 - mask)
    outside = set(
        np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])).tolist()
    )
    holes = [
        i
        for i in range(1, count)
        if i not in outside and stats[i, cv2.CC_STAT_AREA] < 0.15 * max(int(mask.sum()), 1)
    ]
    return np.where(np.isin(parts, holes), 1, mask).astype(np.uint8)


def _quadrangle(height: int, width: int, rng: np.random.Generator) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    corners = np.array([[0.05, 0.05], [0.95, 0.05], [0.95, 0.95], [0.05, 0.95]])
    corners += rng.uniform(-0.05, 0.12, (4, 2)) * np.sign(0.5 - corners)
    cv2.fillPoly(mask, [(corners * [width, height]).astype(np.int32)], 1)
    return mask
