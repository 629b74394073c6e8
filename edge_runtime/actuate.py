"""Lids. `execute` is the moment at which a person is served."""

from __future__ import annotations

from typing import Protocol

from vision.simulator.world import World


class Actuator(Protocol):
    """Moves the lid or flap."""

    def execute(self, stream: str) -> str:
        """Send what lies in the chute to a stream.

        Returns:
            "moved", or "fault: ..." in words. Never raises: a bin with a broken lid still counts.
        """


class SimulatedActuator:
    """A lid with rules: it has the streams it has, and what it opens for is gone from the simulated chute.

    Args:
        streams: compartments there are.
        world: the chute to clear; None for a lid without one.
    """

    def __init__(self, streams: tuple[str, ...], world: World | None) -> None:
        self._streams, self._world = streams, world

    def execute(self, stream: str) -> str:
        """Open for a stream and clear the chute."""
        if stream not in self._streams:
            return f"fault: no compartment for {stream}"
        if self._world is not None:
            self._world.clear(stream)
        return "moved"
