"""A lid with rules, over a simulated chute."""

from __future__ import annotations

from collections.abc import Sequence

from vision.errors import ActuatorError
from vision.simulator.world import World


class SimulatedLid:
    """A lid with rules.

    It has the streams it has, and what it opens for is gone from the simulated chute.

    Args:
        streams: compartments there are.
        world: the chute to clear; None for a lid without one.
    """

    def __init__(self, streams: Sequence[str], world: World | None) -> None:
        self._streams = streams
        self._world = world
        self.alarms: list[str] = []

    def open(self, stream: str) -> None:
        """Open for a stream and clear the chute."""
        if stream not in self._streams:
            raise ActuatorError(f"no compartment for {stream}")
        if self._world is not None:
            self._world.clear(stream)

    def alarm(self, reason: str) -> None:
        """Note the alarm."""
        self.alarms.append(reason)

    def reach(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """Nothing to let go of."""
