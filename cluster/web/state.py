"""What the routes share: the parts of one running hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest
from cluster.ingest.front_end import FrontEnd
from cluster.lake.store import Lake
from cluster.web.schedule import Schedule

if TYPE_CHECKING:  # paho is in an extra of its own
    from cluster.ingest.mqtt import MqttConsumer


@dataclass(slots=True)
class Hub:
    """One running hub.

    Attributes:
        lake: events and statistics.
        ingest: the way into the lake.
        access: who may send what.
        front_end: answers bins.
        now_utc_ms: the hub's clock.
        schedule: its own aggregation.
        consumer: takes batches from a broker; None without one.
    """

    lake: Lake
    ingest: Ingest
    access: Access
    front_end: FrontEnd
    now_utc_ms: Callable[[], int]
    schedule: Schedule
    consumer: MqttConsumer | None = None

    def problems(self) -> list[str]:
        """Return what has ended and does not start again by itself, or does not work."""
        consumer = self.consumer.broken() if self.consumer else ""
        messages = (
            self.ingest.broken,
            self.ingest.lake_problem,
            self.access.problem,
            self.schedule.problem,
            consumer,
        )
        return [message for message in messages if message]


async def _hub(request: Request) -> Hub:
    hub = request.app.state.hub
    assert isinstance(hub, Hub)  # noqa: S101  narrows the type of a bag without types
    return hub


# A dependency that is no coroutine would cost each request a thread.
HubPart = Annotated[Hub, Depends(_hub)]
