"""What a way to the hub is: send a body, return the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        body: the answer.
        retry_after_s: seconds that the hub asks to be left alone; 0 if it does not.
    """

    status: int
    body: bytes
    retry_after_s: int = 0


class Transport(Protocol):
    """Send a body, return the answer."""

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch.

        Raises:
            UplinkError: no answer came.
        """

    def close(self) -> None:
        """Hang up."""
