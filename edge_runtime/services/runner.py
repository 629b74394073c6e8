"""Runs the services of a bin, one after the other, in the loop's own thread.

A service that fails is counted, logged and tried again after a pause that doubles; the others and
the person at the bin do not notice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from edge_runtime.guard import Faults, failure_of

log = logging.getLogger(__name__)

_PAUSE_MS = 500.0
_PAUSE_MAX_MS = 60_000.0
# A disk that takes nothing is tried again so often: it may take something any time.
_DISK_PAUSE_MS = 5_000.0


class Service(Protocol):
    """Something that is done again and again between frames."""

    @property
    def period_ms(self) -> float:
        """Return how often; 0 is after each frame."""

    def step(self, now_ms: float) -> None:
        """Do what is due.

        Args:
            now_ms: monotonic clock.
        """


@dataclass(slots=True, eq=False)
class _Entry:
    """A service with what the runner knows of it."""

    service: Service
    due_ms: float = 0.0
    pause_ms: float = _PAUSE_MS
    problem: str = ""


class Runner:
    """Steps services when they are due.

    Args:
        services: in this order.
        faults: counts the steps that fail. A disk that takes nothing is no fault: it may be full
            for weeks, and the bin serves on.
    """

    def __init__(self, services: Sequence[Service], faults: Faults) -> None:
        self._entries = [_Entry(service) for service in services]
        self._faults = faults

    def step(self, now_ms: float) -> None:
        """Step what is due.

        Args:
            now_ms: monotonic clock.
        """
        for entry in self._entries:
            if now_ms < entry.due_ms:
                continue
            error = failure_of(partial(entry.service.step, now_ms))
            if error is None:
                entry.due_ms = now_ms + entry.service.period_ms
                entry.pause_ms = _PAUSE_MS
                entry.problem = ""
                continue
            self._note(entry.service, error, entry.problem)
            entry.problem = str(error)
            if isinstance(error, OSError):
                entry.due_ms = now_ms + max(entry.service.period_ms, _DISK_PAUSE_MS)
                continue
            entry.due_ms = now_ms + max(entry.service.period_ms, entry.pause_ms)
            entry.pause_ms = min(2 * entry.pause_ms, _PAUSE_MAX_MS)

    def hurry(self) -> None:
        """Make every service due."""
        for entry in self._entries:
            entry.due_ms = 0.0

    def step_now(self, service: Service, now_ms: float) -> None:
        """Step one service, due or not.

        Args:
            service: which.
            now_ms: monotonic clock.
        """
        error = failure_of(partial(service.step, now_ms))
        if error is not None:
            self._note(service, error, "")

    def attempt(self, name: str, step: Callable[[], object]) -> bool:
        """Run what is no service; whatever it throws is a fault. Return whether it went well."""
        error = failure_of(step)
        if error is not None:
            self._count(name, error)
        return error is None

    def _note(self, service: Service, error: Exception, before: str) -> None:
        name = type(service).__name__
        if not isinstance(error, OSError):
            self._count(name, error)
        elif str(error) != before:
            log.error("%s: %s", name, error)

    def _count(self, name: str, error: Exception) -> None:
        self._faults.count += 1
        log.error("fault in %s", name, exc_info=error)
