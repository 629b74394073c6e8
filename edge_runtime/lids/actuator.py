"""The lid as the bin uses it: whatever fails, it opens to the fallback stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from edge_runtime.guard import failure_of
from vision.events import Outcome


class Lid(Protocol):
    """What moves. Each method returns when it is done."""

    def open(self, stream: str) -> None:
        """Send what lies in the chute to a stream.

        Raises:
            ActuatorError: it did not move, or nobody knows whether it did.
        """

    def alarm(self, reason: str) -> None:
        """Call for help: lamp, buzzer. Without one, do nothing.

        Raises:
            ActuatorError: the alarm could not be given.
        """

    def reach(self) -> None:
        """Connect to the hardware, moving nothing; it is connected by itself when it is needed.

        Raises:
            ActuatorError: it is not there.
        """

    def close(self) -> None:
        """Let go of the hardware. Closing twice is harmless."""


class Move(NamedTuple):
    """What became of one order to the lid.

    Attributes:
        stream: where the item went.
        outcome: whether that is where it was sent.
        fault: "" or what went wrong, for people.
    """

    stream: str
    outcome: Outcome
    fault: str


class Actuator:
    """A lid that is safe: what fails opens to the fallback stream, and the outcome says so.

    Args:
        lid: what moves.
    """

    def __init__(self, lid: Lid) -> None:
        self._lid = lid

    def execute(self, stream: str, fallback: str) -> Move:
        """Send what lies in the chute to a stream, or else to the fallback.

        Never raises: a bin with a broken lid still counts.

        Args:
            stream: where to.
            fallback: stream of the safe state, residual. It is also where a lid rests, so that an
                item went there when nothing moved.
        """
        fault = self._failure(lambda: self._lid.open(stream))
        if not fault:
            return Move(stream, Outcome.MOVED, "")
        if stream == fallback:
            return Move(stream, Outcome.FAULT, fault)
        second = self._failure(lambda: self._lid.open(fallback)) or f"opened {fallback} instead"
        return Move(fallback, Outcome.FAULT, f"{fault}; {second}")

    def alarm(self, reason: str) -> str:
        """Call for help with a hazard; return "" or what failed. Never raises."""
        return self._failure(lambda: self._lid.alarm(reason))

    def close(self, fallback: str) -> None:
        """Leave the lid in its safe state and let go of it."""
        self._failure(lambda: self._lid.open(fallback))
        self._failure(self._lid.close)

    @staticmethod
    def _failure(move: Callable[[], None]) -> str:
        error = failure_of(move)
        # Two of them, in any script, must fit into an event.
        return "" if error is None else f"{error or type(error).__name__}"[:100]
