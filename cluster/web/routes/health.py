"""Whether the hub works."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cluster.statistics.query import counted_events
from cluster.web.schemas import CountersAnswer, HealthAnswer
from cluster.web.state import HubPart

router = APIRouter(tags=["health"])


@router.get("/v1/health", responses={503: {"model": HealthAnswer, "description": "a part died"}})
def health(response: Response, hub: HubPart) -> HealthAnswer:
    """Show what the hub has taken since its start, and how far the statistics are behind.

    503 if a part has died.
    """
    problems = hub.problems()
    if problems:
        response.status_code = 503
    return HealthAnswer(
        problems=problems,
        ingest=CountersAnswer.model_validate(hub.ingest.counters),
        waiting_events=hub.ingest.waiting_events,
        lake_events=hub.lake.event_count(),
        statistics_events=counted_events(hub.lake),
        now_utc_ms=hub.now_utc_ms(),
    )
