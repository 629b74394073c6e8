"""Questions to the statistics: JSON, or CSV for a spreadsheet."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from cluster.estimation.shares import METHOD
from cluster.statistics.completeness import completeness
from cluster.statistics.query import GROUPINGS, counted_events, fleet_counts, query
from cluster.web.csv_text import csv_text
from cluster.web.overview import overview, with_shares
from cluster.web.schemas import (
    BinsAnswer,
    CompletenessRow,
    ErrorAnswer,
    OverviewAnswer,
    StatisticsAnswer,
    StatisticsRow,
)
from cluster.web.state import HubPart

router = APIRouter(
    prefix="/v1",
    tags=["statistics"],
    responses={503: {"model": ErrorAnswer, "description": "the lake cannot be read"}},
)
By = Annotated[
    list[str] | None, Query(description=f"One to three columns of {', '.join(GROUPINGS)}.")
]


@router.get(
    "/statistics",
    response_model=StatisticsAnswer,
    response_model_exclude_unset=True,
    responses={
        200: {"content": {"text/csv": {}}, "description": "counts with shares and intervals"},
        400: {"model": ErrorAnswer, "description": "an unknown column"},
    },
)
def statistics(
    hub: HubPart, by: By = None, format: Literal["json", "csv"] = "json"
) -> StatisticsAnswer | Response:
    """Count items by one to three columns."""
    columns = by or []
    table = with_shares(query(hub.lake, columns))
    if format == "csv":
        name = f"binsight-by-{'-'.join(columns)}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(csv_text(table), media_type="text/csv", headers=headers)
    rows = [StatisticsRow.model_validate(row) for row in table.to_pylist()]
    return StatisticsAnswer(by=columns, method=METHOD, rows=rows)


@router.get("/bins")
def bins(hub: HubPart) -> BinsAnswer:
    """Show the completeness of each bin's events."""
    rows = [CompletenessRow.model_validate(row) for row in completeness(hub.lake)]
    return BinsAnswer(rows=rows)


@router.get("/overview")
def show_overview(hub: HubPart) -> OverviewAnswer:
    """Show what the page draws: totals, shares and intervals, computed here."""
    received = hub.lake.event_count() + hub.ingest.waiting_events
    behind = received - counted_events(hub.lake)
    return overview(fleet_counts(hub.lake), completeness(hub.lake), behind)
