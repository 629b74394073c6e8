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
            entry.due_ms = now_ms + max(entry.service.period_ms, entry.pause_ms)
            entry.pause_ms = min(2 * entry.pause_ms, _PAUSE_MAX_MS)
            self._count(entry, error)

    def hurry(self) -> None:
        """Make every service due."""
        for entry in self._entries:
            entry.due_ms = 0.0

    def attempt(self, name: str, step: Callable[[], object]) -> bool:
        """Run what is no service in the same way; return whether it went well."""
        error = failure_of(step)
        if error is not None:
            self._faults.count += 1
            log.error("fault in %s", name, exc_info=error)
        return error is None

    def _count(self, entry: _Entry, error: Exception) -> None:
        name = type(entry.service).__name__
        if isinstance(error, OSError):
            if str(error) != entry.problem:
                log.error("%s: %s", name, error)
        else:
            self._faults.count += 1
            log.error("fault in %s", name, exc_info=error)
        entry.problem = str(error)
