"""A lid that jams and an alarm that fails as a test wants."""

from collections.abc import Iterable

from vision.errors import ActuatorError
from vision.simulator.world import World


class FakeLid:
    """Opens for its streams and clears the chute.

    Args:
        streams: compartments there are.
        world: the chute to clear; None for none.

    Attributes:
        stuck: streams for which its flap does not move.
        alarms: reasons of the alarms that were given.
        failing_alarms: so many alarms fail from now on.
        opened: streams that it was opened for.
        closed: whether it was let go of.
    """

    def __init__(self, streams: Iterable[str], world: World | None = None) -> None:
        self._streams = tuple(streams)
        self._world = world
        self.stuck: set[str] = set()
        self.alarms: list[str] = []
        self.failing_alarms = 0
        self.opened: list[str] = []
        self.closed = False

    def open(self, stream: str) -> None:
        """Open for a stream and clear the chute."""
        if stream not in self._streams:
            raise ActuatorError(f"no compartment for {stream}")
        if stream in self.stuck:
            raise ActuatorError("the flap is stuck")
        self.opened.append(stream)
        if self._world is not None:
            self._world.clear(stream)

    def alarm(self, reason: str) -> None:
        """Give the alarm, or fail."""
        if self.failing_alarms:
            self.failing_alarms -= 1
            raise ActuatorError("no controller answers")
        self.alarms.append(reason)

    def reach(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """Note it."""
        self.closed = True
