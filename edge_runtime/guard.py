"""The one `except Exception` of the bin: people wait before it, whatever a library throws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """How often a step failed since the start; one counter for the loop and all services."""

    count: int = 0


def failure_of(step: Callable[[], object]) -> Exception | None:
    """Run a step; return what it threw, or None.

    Args:
        step: what must not end the loop, the thread or the move that it is part of. The caller
            counts the failure, logs it or shows it to people.
    """
    try:
        step()
    except Exception as error:  # noqa: BLE001  whatever it is, the next person must be served
        return error
    return None
