"""A chute on a bad day: what a trigger must count, and what it must not.

Hands, shadows, lamps, flicker and dirt come between the items, and the truth of every frame is
known. `World` is the calm chute of demos; this one is for measuring.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from vision.frames import Pixels
from vision.simulator.scene import expose, random_chute
from vision.simulator.shapes import Rng
from vision.simulator.world import Items

FALL_FRAMES = 4
PATIENCE_FRAMES = 80
INCIDENTS = ("hand", "passing shadow", "standing shadow", "lamp", "dirt")


class Street:
    """Items and incidents in front of one camera at ten frames a second.

    Args:
        items: what is thrown in.
        count: number of items.
        size_px: width, height of the images.
        seed: of everything.
        incidents: what else happens, of INCIDENTS.

    Attributes:
        counted: how often each item was cleared while it lay there.
        false: how often the lid was called to an empty chute, by what went on at that moment.
        empty_frames: frames without an item.
    """

    def __init__(
        self,
        items: Items,
        count: int,
        size_px: tuple[int, int],
        seed: int,
        incidents: tuple[str, ...] = INCIDENTS,
    ) -> None:
        self._items = items
        self._size_px = size_px
        self._incidents = incidents
        self._rng = np.random.default_rng([seed, 5])
        self._chute = random_chute(*size_px, np.random.default_rng([seed, 6]))
        self._base = self._chute.exposure
        self._gain = 1.0
        self._target = 1.0
        self._cast = np.ones(3)
        self._lies: int | None = None
        self._clearing = False
        self._now = "quiet"
        self.counted = [0] * count
        self.false = dict.fromkeys(("quiet", *incidents), 0)
        self.empty_frames = 0
        self._frames = self._play(count)

    def view(self) -> Pixels | None:
        """Return the next image, uint8 BGR, or None at the end."""
        return next(self._frames, None)

    def clear(self) -> None:
        """Call the lid to clear the chute; the item goes a moment later."""
        if self._lies is None:
            self.false[self._now] += 1
        else:
            self.counted[self._lies] += 1
            self._clearing = True

    def _play(self, count: int) -> Iterator[Pixels]:
        rng = self._rng
        yield from (self._empty() for _ in range(10))
        for index in range(count):
            if rng.random() < 0.75:
                for _ in range(int(rng.integers(1, 3))):
                    yield from (self._empty() for _ in range(int(rng.integers(3, 25))))
                    if self._incidents and rng.random() < 0.6:
                        self._now = str(rng.choice(self._incidents))
                        yield from self._incident()
                        # What an incident leaves behind still belongs to it.
                        yield from (self._empty() for _ in range(3))
                        self._now = "quiet"
            yield from (self._empty() for _ in range(3))
            yield from self._item(index)

    def _item(self, index: int) -> Iterator[Pixels]:
        rng = self._rng
        height = self._size_px[1]
        limb = (
            _Limb(self._size_px, rng) if "hand" in self._incidents and rng.random() < 0.5 else None
        )
        for step in range(FALL_FRAMES, 0, -1):
            image = self._draw(index, (0, -int(0.8 * height * step / FALL_FRAMES)))
            yield limb.paint(image, 1 - 0.6 * step / FALL_FRAMES) if limb else image
        self._lies = index
        for step in range(int(rng.integers(0, 4))):  # it bounces
            yield self._draw(index, (0, -int(0.06 * height * rng.random() / (step + 1))))
        if limb:
            for reach in (0.8, 0.5, 0.2):
                yield limb.paint(self._draw(index, (0, 0)), reach)
        for _ in range(PATIENCE_FRAMES):
            yield self._draw(index, (0, 0))
            if self._clearing:
                break
        for step in range(3):  # the lid takes a moment, then it slides away
            yield self._draw(index, (0, int(0.5 * height * max(0, step - 1))))
        self._lies = None
        self._clearing = False

    def _incident(self) -> Iterator[Pixels]:
        rng = self._rng
        width, height = self._size_px
        if self._now == "hand":
            limb = _Limb(self._size_px, rng)
            deepest = rng.uniform(0.3, 0.9)
            hover = int(rng.integers(3, 15))
            for reach in np.concatenate(
                [np.linspace(0, deepest, 4), np.full(hover, deepest), np.linspace(deepest, 0, 4)]
            ):
                yield limb.paint(self._empty(), float(reach + 0.01 * rng.normal()))
        elif self._now in ("passing shadow", "standing shadow"):
            passing = self._now == "passing shadow"
            depth = rng.uniform(0.25, 0.6)
            soft = rng.uniform(0.05, 0.2) * width
            side = rng.choice([-1, 1])
            x = np.arange(width, dtype=np.float32)
            stop = rng.uniform(0.2, 0.8) * width
            way = np.linspace(-0.3 * width, 1.3 * width, int(rng.integers(6, 20)))
            stands = np.full(int(rng.integers(20, 60)), stop)
            for edge in way if passing else [*way[way < stop], *stands, *way[way < stop][::-1]]:
                dark = 1 / (1 + np.exp((x - edge) / soft * side))
                shade = (1 - depth * dark)[None, :, None]
                yield np.clip(self._empty() * shade, 0, 255).astype(np.uint8)
        elif self._now == "lamp":
            self._target = float(np.exp(rng.uniform(-0.5, 0.4)))
            self._cast = np.exp(rng.normal(0, 0.05, 3))
            yield from (self._empty() for _ in range(10))
        else:
            floor = self._chute.floor_hwc
            at = tuple(int(v) for v in rng.uniform(0.1, 0.9, 2) * (width, height))
            axes = tuple(int(v) for v in rng.uniform(0.01, 0.03, 2) * height + 1)
            cv2.ellipse(
                floor,
                at,
                axes,
                float(rng.uniform(0, 180)),
                0,
                360,
                (floor[at[1], at[0]] * 0.6).tolist(),
                -1,
            )
            yield self._empty()

    def _empty(self) -> Pixels:
        self.empty_frames += 1
        self._light()
        return self._coloured(expose(self._chute, None, self._rng))

    def _draw(self, index: int, offset_px: tuple[int, int]) -> Pixels:
        self._light()
        return self._coloured(self._items.draw(index, self._chute, offset_px, self._rng))

    def _light(self) -> None:
        """Daylight drifts, a lamp settles in a few frames, mains flicker is left over."""
        self._target = float(np.clip(self._target * np.exp(0.004 * self._rng.normal()), 0.5, 1.5))
        self._gain += 0.4 * (self._target - self._gain)
        self._chute.exposure = self._base * self._gain * (1 + 0.01 * self._rng.normal())

    def _coloured(self, pixels: Pixels) -> Pixels:
        return np.clip(pixels * self._cast.astype(np.float32), 0, 255).astype(np.uint8)


class _Limb:
    """A hand on an arm that comes in from above; skin or sleeve, never quite still."""

    def __init__(self, size_px: tuple[int, int], rng: Rng) -> None:
        self._rng = rng
        width, self._height = size_px
        self._x = rng.uniform(0.25, 0.75) * width
        self._thick = rng.uniform(0.12, 0.25) * width
        tone = rng.uniform(0.35, 1.0)
        self._skin = np.array([120, 150, 205]) * tone
        self._sleeve = rng.uniform(20, 200, 3)

    def paint(self, pixels: Pixels, reach: float) -> Pixels:
        """Return the image with the hand that far into it, 0..1 of the height."""
        out = pixels.copy()
        x = self._x + self._rng.normal(0, 0.006) * self._height
        tip = reach * self._height + self._rng.normal(0, 0.006) * self._height
        wrist = tip - 1.5 * self._thick
        cv2.line(
            out,
            (int(x), -50),
            (int(x), int(wrist)),
            self._sleeve.tolist(),
            int(self._thick),
            cv2.LINE_AA,
        )
        centre = (int(x), int(tip - 0.7 * self._thick))
        cv2.ellipse(
            out,
            centre,
            (int(0.5 * self._thick), int(0.7 * self._thick)),
            0,
            0,
            360,
            self._skin.tolist(),
            -1,
        )
        return out
