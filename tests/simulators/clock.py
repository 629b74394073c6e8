"""A clock that moves when it is told to."""

from edge_runtime.clock import Instant


class ManualClock:
    """Time in a test's hands.

    Attributes:
        monotonic_ms: since the start.
        wall_utc_ms: wall clock; moves with the monotonic one.
        synced: whether the wall clock is known to be set.
        boot_id: of this start.
    """

    def __init__(self, wall_utc_ms: int = 1_800_000_000_000) -> None:
        self.monotonic_ms = 0.0
        self.wall_utc_ms = wall_utc_ms
        self.synced = True
        self.boot_id = "boot"

    def now(self) -> Instant:
        """Return the time."""
        return Instant(self.wall_utc_ms, self.monotonic_ms, self.boot_id, self.synced)

    def advance(self, ms: float) -> None:
        """Let time pass."""
        self.monotonic_ms += ms
        self.wall_utc_ms += int(ms)
