"""A hazard in the bin: noted on the disk, the alarm given until it is given.

It lies there until a person takes it out and says so: `binsight edge hazard-gone`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bin import Timing
from edge_runtime.lids.actuator import Actuator
from vision.files import write_atomically

log = logging.getLogger(__name__)

_NAME = "hazard.txt"


@dataclass(frozen=True, slots=True)
class HazardStatus:
    """What the health file says of hazards; see `Health`."""

    hazards: int
    hazard: str
    alarm_failed: str


class Hazard:
    """Notes hazards and gives their alarm.

    A hazard from before this start is an alarm again, at once.

    Args:
        state: folder of the bin.
        actuator: gives the alarm.
        timing: pauses between tries to give an alarm that failed.
    """

    period_ms = 0.0

    def __init__(self, state: Path, actuator: Actuator, timing: Timing) -> None:
        self._state = state
        self._actuator = actuator
        self._timing = timing
        self._count = 0
        self._to_note = ""
        self._disk_problem = ""
        self._alarm_failed = ""
        self._alarm_due_ms = 0.0
        self._note_due_ms = 0.0
        self._pause_ms = timing.alarm_retry_ms
        self._reason = remembered_hazard(state)
        if self._reason:
            log.warning(
                "hazard before this start: %s; once it is out: binsight edge hazard-gone",
                self._reason,
            )
            self._give_alarm()

    def report(self, reason: str) -> None:
        """Note a new hazard and give its alarm.

        It is noted first: a controller that is silent takes seconds.
        """
        self._count += 1
        self._reason = reason
        self._to_note = reason
        self._alarm_due_ms = 0.0
        self._pause_ms = self._timing.alarm_retry_ms
        self._note()
        self._give_alarm()
        log.warning("hazard: %s %s", reason, self._alarm_failed)

    def step(self, now_ms: float) -> None:
        """Give an alarm again that failed, note again what the disk did not take.

        The pause doubles: a controller that is silent holds up the loop for seconds. The disk is
        tried apart from it: one that is full must not delay the alarm.
        """
        if self._alarm_failed and now_ms >= self._alarm_due_ms:
            self._give_alarm()
            self._alarm_due_ms = now_ms + self._pause_ms
            self._pause_ms = min(2 * self._pause_ms, self._timing.alarm_retry_max_ms)
        if now_ms >= self._note_due_ms:
            self._note_due_ms = now_ms + self._timing.disk_retry_ms
            self._note()

    def status(self) -> HazardStatus:
        """Return what the health file says of hazards."""
        return HazardStatus(self._count, self._reason, self._alarm_failed)

    def _note(self) -> None:
        """Write down what is not yet on the disk; `step` tries again what it does not take."""
        if not self._to_note:
            return
        try:
            remember_hazard(self._state, self._to_note)
        except OSError as error:
            if str(error) != self._disk_problem:  # once: a disk may be full for weeks
                log.error("hazard: %s", error)
            self._disk_problem = str(error)
            return
        self._to_note = ""
        self._disk_problem = ""

    def _give_alarm(self) -> None:
        failed = self._actuator.alarm(self._reason)
        self._alarm_failed = (
            f"the alarm for a hazard could not be given: {failed}" if failed else ""
        )


def remember_hazard(state: Path, reason: str) -> None:
    """Note a hazard so that a power cut does not forget it.

    Raises:
        OSError: the disk does not take it.
    """
    write_atomically(state / _NAME, reason.encode())


def remembered_hazard(state: Path) -> str:
    """Return the hazard that nobody has yet taken out; "" if there is none."""
    path = state / _NAME
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"perhaps one: {path} cannot be read ({error.strerror})"


def forget_hazard(state: Path) -> None:
    """Take note that a person has taken the hazard out."""
    (state / _NAME).unlink(missing_ok=True)
