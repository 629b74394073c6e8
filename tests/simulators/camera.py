"""A camera over a simulated chute that fails when a script says so."""

from collections.abc import Callable

from simulators.clock import ManualClock
from vision.errors import CameraError
from vision.frames import Frame
from vision.simulator.world import World


class ScriptedCamera:
    """Sees the chute; time passes with each read.

    Args:
        world: the chute.
        clock: advanced by each read.
        fails: takes the number of the read, from 1 on, and returns what the camera says in place of
            a frame, or "". The chute goes on meanwhile.
        period_ms: between two reads.

    Attributes:
        hung: whether its driver does not come back.
        reads: how often it was read.
        restarts: how often it was opened again.
    """

    def __init__(
        self,
        world: World,
        clock: ManualClock,
        fails: Callable[[int], str] = lambda read: "",
        period_ms: float = 100.0,
    ) -> None:
        self._world = world
        self._clock = clock
        self._fails = fails
        self._period_ms = period_ms
        self.reads = 0
        self.hung = False
        self.restarts = 0

    def read(self) -> Frame | None:
        """Return the next frame, or None when the chute has seen its last item."""
        self.reads += 1
        self._clock.advance(self._period_ms)
        if problem := self._fails(self.reads):
            raise CameraError(problem)
        pixels = self._world.view()
        if pixels is None:
            return None
        return Frame(pixels, self.reads, self._clock.monotonic_ms, "script")

    def restart(self) -> None:
        """Count it."""
        self.restarts += 1

    def close(self) -> None:
        """Nothing to release."""
