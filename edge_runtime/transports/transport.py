"""What a way to the hub is: send a request, return the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vision.signature import Subject
from vision.wire import INGEST_PATH


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


@dataclass(frozen=True, slots=True)
class Request:
    """What a bin asks the hub.

    Attributes:
        body: an encoded batch, or a key request.
        path: of the protocol.
        fields: header fields, or user properties: a signature.
        subject: what a signature says that the body is about.
    """

    body: bytes
    path: str = INGEST_PATH
    fields: Mapping[str, str] = field(default_factory=dict)
    subject: Subject = Subject()  # noqa: RUF009  frozen


class Transport(Protocol):
    """Send a request, return the answer.

    Attributes:
        method: what a signature names, see vision.signature.
    """

    method: str

    def post(self, request: Request) -> Answer:
        """Send a request.

        Raises:
            UplinkError: no answer came.
        """

    def close(self) -> None:
        """Hang up."""
