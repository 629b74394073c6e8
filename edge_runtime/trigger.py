"""Item or no item: a small state machine over small images.

One capture for each item that comes to rest.

    LEARNING -> EMPTY -> MOVING -> (settled: capture) -> SERVED -> EMPTY

It does not know what an item is; it knows what the empty chute looks like, in a form that light
does not change: fine structure of the log luminance, and colour ratios. A lamp that goes on, a
cloud or the soft shadow of a passer-by multiply large areas smoothly, and so fall out of it; an
item brings edges and colours of its own. Measured by `make bench ARGS=trigger`.
"""

from __future__ import annotations

import copy
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.config import TriggerConfig
from vision.frames import Frame, Pixels

WIDTH_PX = 80
HEIGHT_PX = 60
# Structure larger than this is light, not an item.
_STRUCTURE_PX = 9
# Added to grey levels before the logarithm: sensor noise in the dark is not structure.
_DARK = 12.0
# Residue of a served item, as a share of the image: larger than this it is the next item.
_RESIDUE_SHARE = 0.05
# Standard deviation of a pixel of the small image, grey levels: before any was measured, and at
# least (rounding).
_NOISE_FIRST = 1.5
_LEAST_NOISE = 0.4
# From this grey level on a pixel of the small image may hold clipped ones: it shows neither noise
# nor colour as they are. Noise and lamps are measured on the others, if those are at least so much
# of the image.
_CLIPPED = 240
_FEW = 0.05
# Looks of the empty chute that are remembered beside the present one, and one of so many frames
# ago, or twice as many: what was never seen, and became part of the chute, leaves it again.
_REMEMBERED = 3
_AGO_FRAMES = 100
# A changed pixel counts if so many of the nine around it have changed, itself among them: an edge
# has them, noise not.
_NEIGHBOURS = 4

# Motion must rise so many times higher above the noise than presence: cloth has more of it than the
# floor that it is measured on, and would move for ever.
_MOTION = 4 / 3
# Light between two images that changes by more than this factor's logarithm is no light but a
# thing: e is 2.7 times.
_LIGHT_JUMP = 1.0
# Colour ratios carry more noise and more of a lamp's colour than structure does.
_CHANNELS = np.array([1.0, 2.0, 2.0], np.float32)

Features = NDArray[np.float32]
Mask = NDArray[np.uint8]


class State(Enum):
    """Where the trigger stands."""

    LEARNING = "learning"
    EMPTY = "empty"
    MOVING = "moving"
    SERVED = "served"


class Trigger:
    """Watches frames and says when one shows an item at rest.

    Args:
        config: thresholds; may be replaced while running.
        reference: image of the empty chute from before a restart, HEIGHT_PX x WIDTH_PX x 3, uint8;
            without one the first still frames are taken for the empty chute.

    Attributes:
        state: where it stands.
        mask: what differed from the empty chute in the last frame, HEIGHT_PX x WIDTH_PX, 0 or 1;
            for people to look at.
    """

    def __init__(self, config: TriggerConfig, reference: Pixels | None = None) -> None:
        self.config = config
        self.state = State.LEARNING
        self.mask: Mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        self._image = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.float32)
        self._empty: Features = np.zeros((HEIGHT_PX, WIDTH_PX, 6), np.float32)
        self._served: Features = self._empty
        self._served_mask: Mask = self.mask
        self._last: Features | None = None
        self._still = self._served_still = 0
        self._before: list[Features] = []
        self._ago: list[Features] = []
        self._followed = 0
        self._noise = _NOISE_FIRST
        if (
            reference is not None and reference.shape == self._image.shape
        ):  # of another version: learnt again
            self._learn(reference, _features(reference))

    def with_config(self, config: TriggerConfig) -> Trigger:
        """Return one with other thresholds that knows what this one knows."""
        other = copy.copy(self)
        other.config = config
        return other

    @property
    def reference(self) -> Pixels | None:
        """The empty chute as it is known now, HEIGHT_PX x WIDTH_PX x 3, uint8.

        None while learning.
        """
        return (
            None if self.state is State.LEARNING else np.clip(self._image, 0, 255).astype(np.uint8)
        )

    def step(self, frame: Frame) -> bool:
        """Take in a frame; return True if it shows an item that has just come to rest."""
        small = np.asarray(
            cv2.resize(frame.pixels_hwc, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA),
            np.uint8,
        )
        features = _features(small)
        if self._last is None:
            self._last = features
            return False
        moving = self._changed(features, self._last, _MOTION).mean() > self.config.motion_share
        self._still = 0 if moving else self._still + 1
        self._last = features
        if self.state is State.LEARNING:
            if self._still >= self.config.empty_frames:
                self._learn(small, features)
            return False
        self.mask = self._without_single_pixels(self._changed(features, self._empty))
        if self.mask.mean() <= self.config.item_share:
            if self._still >= self.config.empty_frames or self.state is State.EMPTY:
                self.state = State.EMPTY
                self._follow(small, features, self.config.adapt)
            return False
        if self._still >= self.config.empty_frames and self._looks_as_before(features):
            self._learn(small, features)
            return False
        if self.state is State.SERVED:
            if not self._is_another(small, features):
                return False
        else:
            if self.state is State.EMPTY:
                self._still = 0  # the empty chute rested, not what came into it
            self.state = State.MOVING
            if self._still < (
                self.config.border_frames if _at_border(self.mask) else self.config.settled_frames
            ):
                return False
        self.state = State.SERVED
        self._served = features
        self._served_mask = self.mask
        self._served_still = 0
        return True

    def _is_another(self, small: Pixels, features: Features) -> bool:
        """After a capture: learn the chute when the item is gone or stuck.

        Return whether another one lies there.
        """
        gone = (self.mask & self._served_mask).sum() < 0.5 * self._served_mask.sum()
        stays = self._changed(features, self._served).mean() <= self.config.item_share
        self._served_still += stays
        if gone and self._still >= self.config.empty_frames and self.mask.mean() <= _RESIDUE_SHARE:
            self._learn(small, features)  # the item is gone and has left a stain
        elif self._served_still >= self.config.stuck_frames:
            self._learn(small, features)  # this is what the empty chute looks like now
        else:  # the lid has moved, and what has rested here since is not what it moved for
            return not stays and self._still >= self.config.stuck_frames
        return False

    def relearn(self) -> None:
        """Forget the empty chute; the first still frames are taken for it."""
        self.state = State.LEARNING
        self._before = []
        self._ago = []
        self._still = 0

    def _looks_as_before(self, features: Features) -> bool:
        """Return whether the empty chute looked so before.

        The lamp is off again, a stuck or unseen item is out.
        """
        return any(
            self._without_single_pixels(self._changed(features, old)).mean()
            <= self.config.item_share
            for old in (*self._before, *self._ago[:1])
        )

    def _learn(self, small: Pixels, features: Features) -> None:
        if self.state is not State.LEARNING:
            self._before = [*self._before, self._empty][-_REMEMBERED:]
        self._image = small.astype(np.float32)
        self._empty = features
        self.state = State.EMPTY

    def _follow(self, small: Pixels, features: Features, share: float) -> None:
        seen = np.abs(features[..., 0] - self._empty[..., 0]) / features[..., 3]
        unclipped = seen[~_clipped(features)]
        if unclipped.size > _FEW * seen.size:
            # The median absolute deviation of a normal is 0.67 sigma; three channels were averaged.
            self._noise += share * (np.sqrt(3) * float(np.median(unclipped)) / 0.6745 - self._noise)
        self._followed += 1
        if self._followed % _AGO_FRAMES == 0:
            self._ago = [*self._ago, self._empty][-2:]
        self._empty = self._empty + share * (features - self._empty)
        self._image = self._image + share * (small - self._image)

    def _changed(self, a: Features, b: Features, quieter: float = 1.0) -> Mask:
        """Return where two images differ by more than light and so many times the noise: 0 or 1."""
        difference = np.abs(a - b)
        noise = self.config.noise_factor * max(self._noise, _LEAST_NOISE) * b[..., 3:4]
        limit = np.maximum(self.config.contrast, quieter * noise) * _CHANNELS
        jump = difference[..., 4] > _LIGHT_JUMP
        clipped = _clipped(a) | _clipped(b)
        lamp = _middle((a - b)[::3, ::3], ~clipped[::3, ::3])
        # A lamp of another colour moves the colour ratios of all pixels alike ...
        difference[..., 1:3] = np.abs((a - b)[..., 1:3] - lamp[1:3])
        # ... but of those where a colour is clipped: they may be off by all that the lamp has
        # changed.
        limit[clipped, 1:3] += abs(lamp[4]) + np.abs(lamp[1:3])
        return np.asarray((difference[..., :3] > limit).any(axis=2) | jump, dtype=np.uint8)

    def _without_single_pixels(self, mask: Mask) -> Mask:
        around = cv2.boxFilter(mask, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(mask & (around >= _NEIGHBOURS), np.uint8)


def _at_border(mask: Mask) -> bool:
    """Return whether a change reaches over the border, as every arm does."""
    return bool(mask[2].any() or mask[-3].any() or mask[:, 2].any() or mask[:, -3].any())


def _clipped(features: Features) -> NDArray[np.bool_]:
    return np.asarray(features[..., 5] >= np.log(_CLIPPED + _DARK), bool)


def _middle(features: Features, where: NDArray[np.bool_]) -> Features:
    """Return the median of each feature over the pixels named, or over all if those are few."""
    pixels = features[where] if where.mean() > _FEW else features.reshape(-1, features.shape[2])
    return np.asarray(np.median(pixels, axis=0), np.float32)


def _features(small: Pixels) -> Features:
    """Return height x width x 6.

    Fine structure of the log luminance, log blue/green, log red/green, what a grey level of noise
    is in them (the logarithm makes it large in the dark), log luminance, and the log of the
    brightest colour.
    """
    log = cv2.log(small.astype(np.float32) + _DARK)
    light = log.mean(axis=2)
    # Continued over the border as it came: the slope of a shadow has no structure there either.
    wide = np.pad(light, _STRUCTURE_PX // 2, mode="reflect", reflect_type="odd")
    inside = slice(_STRUCTURE_PX // 2, -(_STRUCTURE_PX // 2))
    structure = light - cv2.blur(wide, (_STRUCTURE_PX, _STRUCTURE_PX))[inside, inside]
    blue, green, red = cv2.split(log)
    brightest = np.maximum(np.maximum(blue, green), red)
    return np.dstack([structure, blue - green, red - green, np.exp(-light), light, brightest])
