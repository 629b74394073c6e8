"""The one place on the bin where time is read. Everything else is given a clock."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd leaves this mark once the clock was set from the network; chrony and ntpd tell
# the kernel.
_SYNC_MARK = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading: wall clock (ms since 1970, UTC), monotonic clock (ms).

    And what the wall clock is worth.
    """

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
        return Instant(
            time.time_ns() // 1_000_000, time.monotonic() * 1000, self._boot_id, _is_synced()
        )


def _is_synced() -> bool:
    # Source: adjtimex(2): all zero asks without changing; TIME_ERROR is a clock that nobody keeps.
    # struct timex has 208 bytes on 64-bit machines and fewer on others.
    adjtimex = getattr(_LIBC, "adjtimex", lambda _: -1)  # Linux has it
    return _SYNC_MARK.exists() or adjtimex(ctypes.create_string_buffer(512)) not in (
        -1,
        _TIME_ERROR,
    )
