"""Counts and estimates put together into answers. Pure: tables in, answers out.

Shares and intervals come from `cluster.estimation`; what is left here is adding up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from cluster.estimation.shares import wilson
from cluster.statistics.completeness import Completeness
from cluster.statistics.query import FleetCounts
from cluster.web.schemas import (
    CompletenessRow,
    DecisionsAnswer,
    DecisionSeries,
    HoursAnswer,
    HoursSeries,
    LabelAnswer,
    OverviewAnswer,
    ShareAnswer,
    StreamAnswer,
)
from vision.decision import DecisionKind

RESIDUAL = "residual"
# A hazard is a label that the bin was sure of.
CONFIDENT = (DecisionKind.KNOWN, DecisionKind.HAZARD)


def with_shares(counts: pa.Table) -> pa.Table:
    """Return counts with `share`, `share_low` and `share_high` of all items beside them.

    Args:
        counts: a column `items`, and others.
    """
    items = counts.column("items").to_numpy()
    shares = wilson(items, int(items.sum()))
    return (
        counts.append_column("share", pa.array(shares.share_n))
        .append_column("share_low", pa.array(shares.low_n))
        .append_column("share_high", pa.array(shares.high_n))
    )


def overview(
    counts: FleetCounts, outboxes: Sequence[Completeness], events_behind: int
) -> OverviewAnswer:
    """Return everything that the page draws.

    Args:
        counts: of the whole fleet.
        outboxes: every outbox that has sent events.
        events_behind: events received that the statistics lack.
    """
    streams = _sums(counts.streams, "stream")
    confident: Counter[str] = Counter()
    for row in counts.decisions.to_pylist():
        if row["decision"] in CONFIDENT:
            confident[row["label"]] += row["items"]
    total = streams.total()
    diverted = None
    # Some laws know no mixed waste (India: wet and dry): then nothing is kept out of it.
    if RESIDUAL in streams:
        diverted = _share(total - streams[RESIDUAL], total)
    return OverviewAnswer(
        events_behind=events_behind,
        items=total,
        bins=len({outbox.bin_id for outbox in outboxes}),
        missing=sum(outbox.missing for outbox in outboxes),
        diverted=diverted,
        known=_share(confident.total(), total),
        labels=_labels(confident),
        streams=[
            StreamAnswer(stream=stream, items=items, share=items / total)
            for stream, items in streams.items()
        ],
        hours=_hours(counts.hours),
        decisions=_decisions(counts.decisions),
        outboxes=[CompletenessRow.model_validate(outbox) for outbox in outboxes],
    )


def _share(count: int, total: int) -> ShareAnswer:
    shares = wilson([count], total)
    return ShareAnswer(
        count=count,
        total=total,
        share=float(shares.share_n[0]),
        low=float(shares.low_n[0]),
        high=float(shares.high_n[0]),
    )


def _labels(confident: Counter[str]) -> list[LabelAnswer]:
    ordered = sorted(confident.items(), key=lambda pair: pair[1])
    total = confident.total()
    shares = wilson([items for _, items in ordered], total)
    return [
        LabelAnswer(
            label=label,
            items=items,
            share=float(shares.share_n[i]),
            items_low=float(shares.low_n[i]) * total,
            items_high=float(shares.high_n[i]) * total,
        )
        for i, (label, items) in enumerate(ordered)
    ]


def _hours(counts: pa.Table) -> HoursAnswer:
    cells = {(r["hour_utc_ms"], r["stream"]): r["items"] for r in counts.to_pylist()}
    hours = sorted({hour for hour, _ in cells})
    streams = dict.fromkeys(stream for _, stream in cells)
    series = [
        HoursSeries(stream=stream, items=[cells.get((hour, stream), 0) for hour in hours])
        for stream in streams
    ]
    return HoursAnswer(hour_utc_ms=hours, series=series)


def _decisions(counts: pa.Table) -> DecisionsAnswer:
    cells = {(r["label"], r["decision"]): r["items"] for r in counts.to_pylist()}
    totals = _sums(counts, "label")
    seen = {decision for _, decision in cells}
    series = [
        DecisionSeries(
            decision=kind,
            shares=[cells.get((label, kind), 0) / totals[label] for label in totals],
        )
        for kind in DecisionKind
        if kind in seen
    ]
    return DecisionsAnswer(labels=list(totals), series=series)


def _sums(counts: pa.Table, column: str) -> Counter[str]:
    """Add up the items of each value of a column; in the order of the table."""
    sums: Counter[str] = Counter()
    for row in counts.to_pylist():
        sums[row[column]] += row["items"]
    return sums
