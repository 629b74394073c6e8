"""A city that throws things away: who, what, when, and what its bins make of it; seeded and pure.

Districts have a mix of materials, a time zone and a weekly rhythm of their own. A few bins are
cut off for days, have wrong clocks, look through a dirty lens, lose events for lack of room, or
lie. Half of the bins get a worse model half-way. All of it follows from the seed, whatever the
order in which it is asked for, and what really was thrown in is known beside what was reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cluster.registry.model import Place

LABELS = ("cardboard", "glass", "metal", "paper", "plastic", "trash")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

_ZONES = ("Europe/Vienna", "Asia/Kolkata", "America/New_York")
# Share of each label, in an office district, a residential one and an old town.
_MIXES = (
    (0.16, 0.06, 0.08, 0.46, 0.14, 0.10),
    (0.20, 0.14, 0.12, 0.18, 0.22, 0.14),
    (0.10, 0.28, 0.16, 0.12, 0.20, 0.14),
)
# Monday to Sunday.
_WEEK = (1.0, 1.0, 1.0, 1.05, 1.2, 1.1, 0.65)
# Items of each hour of the day, as a share of the day.
_HOURS = np.array(
    [1, 1, 1, 1, 1, 2, 4, 7, 8, 6, 5, 6, 8, 7, 5, 5, 6, 7, 7, 5, 4, 3, 2, 2], dtype=np.float64
)
# What a wrong answer says instead, label by label.
_CONFUSED = (3, 4, 4, 0, 1, 4)
_ACCURACY = 0.92
_WORSE_ACCURACY = 0.84


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a city, and how much goes wrong in it; shares are of its bins.

    Attributes:
        bins, days: size.
        items_a_day: of a bin, on average.
        seed: of everything.
        first_utc_ms: midnight UTC of the first day.
        cut_off: share of bin-days on which a bin loses its network until the day after the next.
        repeated: share of batches whose receipt is lost, so that they are sent again.
        wrong_clocks: bins whose wall clock nobody sets.
        dirty: bins whose lens gets dirty.
        full: bins that drop events because their outbox is full.
        liars: bins that call everything paper.
    """

    bins: int = 1000
    days: int = 7
    items_a_day: float = 40.0
    seed: int = 0
    first_utc_ms: int = 1_790_035_200_000
    cut_off: float = 0.01
    repeated: float = 0.03
    wrong_clocks: float = 0.02
    dirty: float = 0.03
    full: float = 0.005
    liars: float = 0.002


@dataclass(frozen=True, slots=True, eq=False)
class BinDay:
    """What one bin saw on one day; arrays have an element for each item, in order of time.

    Attributes:
        number: of the bin, from 0.
        day: from 0.
        utc_ms: true time.
        truth: index of the label that really was thrown in.
        reported: index of the label that the bin says.
        confidence: 0..1.
        unsure: the bin did not decide.
        dropped: the bin had no room for it: it has a number and never arrives.
        accuracy: share of right answers that the model had that day.
        brightness: mean grey level of the frames, 0..255.
        new_model: the bin ran the model of the second half.
    """

    number: int
    day: int
    utc_ms: NDArray[np.int64]
    truth: NDArray[np.int64]
    reported: NDArray[np.int64]
    confidence: NDArray[np.float64]
    unsure: NDArray[np.bool_]
    dropped: NDArray[np.bool_]
    accuracy: float
    brightness: float
    new_model: bool


class City:
    """Bins, their districts and their days.

    Args:
        plan: how large, and how much goes wrong.

    Attributes:
        plan: as given.
        wrong_clock, dirty, full, liar: by bin, whether it is such a one.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        rng = np.random.default_rng([plan.seed, 0])
        self.wrong_clock = rng.random(plan.bins) < plan.wrong_clocks
        self.dirty = rng.random(plan.bins) < plan.dirty
        self.full = rng.random(plan.bins) < plan.full
        self.liar = rng.random(plan.bins) < plan.liars
        self._dirty_from = rng.integers(0, max(1, plan.days), plan.bins)
        self._busy = rng.gamma(4.0, 0.25, plan.bins)
        self._new_model = rng.random(plan.bins) < 0.5
        self._places = rng.normal(0, 0.03, (plan.bins, 2))
        self._cut_off = rng.random((plan.bins, max(1, plan.days))) < plan.cut_off
        self._cut_off[:, -1] = False  # everything arrives in the end

    def bin_id(self, number: int) -> str:
        """Return the name of a bin."""
        return f"bin-{number:06d}"

    def district(self, number: int) -> int:
        """Return the district of a bin, 0..2."""
        return number % len(_MIXES)

    def place(self, number: int) -> Place:
        """Return where a bin stands, as the registry takes it."""
        district = self.district(number)
        north, east = self._places[number]
        return Place(
            bin_id=self.bin_id(number),
            tenant=f"city-{self.plan.seed}",
            district=f"district-{district}",
            time_zone=_ZONES[district],
            site=f"site-{number:06d}",
            latitude=round(48.2 + float(north), 6),
            longitude=round(16.37 + float(east), 6),
            capacity_l=240.0,
        )

    def sent_on(self, number: int, day: int) -> int:
        """Return the day on which a bin sends what it saw on a day: later if it was cut off."""
        while day + 1 < self.plan.days and self._cut_off[number, day]:
            day += 1
        return day

    def is_repeated(self, number: int, day: int) -> bool:
        """Return whether the receipt of that day's batch is lost, so that it is sent again."""
        rng = np.random.default_rng([self.plan.seed, 2, number, day])
        return bool(rng.random() < self.plan.repeated)

    def bin_day(self, number: int, day: int) -> BinDay:
        """Return what a bin saw on a day."""
        plan = self.plan
        rng = np.random.default_rng([plan.seed, 1, number, day])
        start_ms = plan.first_utc_ms + day * DAY_MS
        weekday = datetime.fromtimestamp(start_ms / 1000, UTC).weekday()
        district = self.district(number)
        items = int(rng.poisson(plan.items_a_day * self._busy[number] * _WEEK[weekday]))
        hours = rng.choice(24, items, p=_HOURS / _HOURS.sum())
        utc_ms = np.sort(start_ms + hours * HOUR_MS + rng.integers(0, HOUR_MS, items))
        truth = rng.choice(len(LABELS), items, p=_MIXES[district])
        new_model = bool(self._new_model[number]) and 2 * day >= plan.days
        accuracy = _WORSE_ACCURACY if new_model else _ACCURACY
        days_dirty = max(0, day - int(self._dirty_from[number])) if self.dirty[number] else 0
        accuracy = max(0.4, accuracy - 0.04 * days_dirty)
        right = rng.random(items) < accuracy
        reported = np.where(right, truth, np.array(_CONFUSED)[truth])
        confidence = np.where(right, rng.beta(14, 2, items), rng.beta(5, 4, items))
        if self.liar[number]:
            reported = np.full(items, LABELS.index("paper"))
            confidence = np.full(items, 0.99)
        dropped = (rng.random(items) < 0.2) if self.full[number] else np.zeros(items, dtype=bool)
        return BinDay(
            number=number,
            day=day,
            utc_ms=utc_ms.astype(np.int64),
            truth=truth.astype(np.int64),
            reported=reported.astype(np.int64),
            confidence=np.asarray(np.round(confidence, 4), dtype=np.float64),
            unsure=confidence < 0.6,
            dropped=dropped,
            accuracy=accuracy,
            brightness=round(max(20.0, 120.0 - 12.0 * days_dirty), 1),
            new_model=new_model,
        )
