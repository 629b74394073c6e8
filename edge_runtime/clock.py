"""The one place on the bin where time is read. Everything else is given a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd and chrony's helper leave this mark once the clock was set from the network.
_SYNC_MARK = Path("/run/systemd/timesync/synchronized")


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading: wall clock (ms since 1970, UTC), monotonic clock (ms), and what the wall clock is worth."""

    wall_utc_ms: int
    monotonic_ms: float
    boot_id: str
    clock_synced: bool


class Clock(Protocol):
    """Gives the time; a test gives another one."""

    def now(self) -> Instant:
        """Return the time now."""


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self._boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"

    def now(self) -> Instant:
        """Return the machine's time."""
        return Instant(time.time_ns() // 1_000_000, time.monotonic() * 1000, self._boot_id, _SYNC_MARK.exists())
