"""What the hub answers: one model for each answer, shown in the API's description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ErrorAnswer(BaseModel):
    """What went wrong: 400 for a question the hub does not know, 503 for a lake that fails."""

    error: str


class RefusalAnswer(BaseModel):
    """The hub will never take this content; written by `vision.wire.encode_refusal`."""

    schema_: str = Field(alias="schema", examples=["binsight.refusal/1"])
    error: str


class ReceiptAnswer(BaseModel):
    """The events are durable; written by `vision.wire.encode_receipt`."""

    schema_: str = Field(alias="schema", examples=["binsight.receipt/1"])
    outbox_id: str
    acked_seq: int = Field(description="All numbers up to this one are stored, or refused.")
    refused: list[int] = Field(description="Numbers of events that the hub will never take.")
    refusal: str = Field(description="Why, of the first of them.")
    renew_key: bool = Field(description="The bin is asked to make a new key.")


class KeyAnswer(BaseModel):
    """The key is registered; written by `vision.enrolment.encode_key_receipt`."""

    schema_: str = Field(alias="schema", examples=["binsight.key-receipt/1"])
    key_id: str


class StatisticsRow(BaseModel):
    """One group: the columns that were asked for, and its items."""

    label: str | None = None
    stream: str | None = None
    decision: str | None = None
    bin_id: str | None = None
    quarter_utc_ms: int | None = None
    hour_utc_ms: int | None = None
    day_utc_ms: int | None = None
    model_digest: str | None = None
    rule_book: str | None = None
    items: int
    share: float = Field(description="Of all items.")
    share_low: float
    share_high: float


class StatisticsAnswer(BaseModel):
    """Item counts by the columns of `by`."""

    by: list[str]
    method: str
    rows: list[StatisticsRow]


class CompletenessRow(BaseModel):
    """One outbox of one bin: what it has numbered, and what is here."""

    model_config = ConfigDict(from_attributes=True)

    bin_id: str
    outbox_id: str
    events: int
    max_seq: int
    missing: int = Field(description="Numbers up to max_seq that never arrived.")
    dropped: int = Field(description="Events that a full outbox dropped, by the bin's own count.")
    first_received_utc_ms: int
    last_received_utc_ms: int


class BinsAnswer(BaseModel):
    """Completeness of each bin's events."""

    rows: list[CompletenessRow]


class StatusRow(BaseModel):
    """How a bin is."""

    bin_id: str
    received_utc_ms: int | None = Field(description="When its last status arrived.")
    emptied_utc_ms: int | None = Field(description="When it was emptied last, if it says so.")
    problems: dict[str, str] = Field(description="What is not as it should be, part by part.")
    status: dict[str, Any] | None = Field(description="Its fields are in docs/events.md, Note.")


class StatusAnswer(BaseModel):
    """The last status of each bin."""

    rows: list[StatusRow]


class CountersAnswer(BaseModel):
    """What the hub has taken since its start."""

    model_config = ConfigDict(from_attributes=True)

    batches: int
    events: int
    repeated_events: int
    commits: int


class HealthAnswer(BaseModel):
    """Whether all parts run, and how far the statistics are behind."""

    problems: list[str]
    ingest: CountersAnswer
    waiting_events: int = Field(description="Acknowledged, durable, and not in the lake yet.")
    lake_events: int = Field(description="Events in the lake.")
    statistics_events: int = Field(description="Events that the statistics hold.")
    now_utc_ms: int


class ShareAnswer(BaseModel):
    """A share of a total, with its 95 % interval."""

    count: int
    total: int
    share: float
    low: float
    high: float


class LabelAnswer(BaseModel):
    """A label among the confident items: its count, and the count's interval."""

    label: str
    items: int
    share: float = Field(description="Of all confident items.")
    items_low: float
    items_high: float


class StreamAnswer(BaseModel):
    """A stream among all items."""

    stream: str
    items: int
    share: float


class HoursSeries(BaseModel):
    """Items of one stream, one count for each hour."""

    stream: str
    items: list[int]


class HoursAnswer(BaseModel):
    """Items by hour and stream."""

    hour_utc_ms: list[int]
    series: list[HoursSeries]


class DecisionSeries(BaseModel):
    """The share of one decision in the items of each label."""

    decision: str
    shares: list[float]


class DecisionsAnswer(BaseModel):
    """Shares of decisions by the label that the model preferred."""

    labels: list[str]
    series: list[DecisionSeries]


class OverviewAnswer(BaseModel):
    """Everything that the page draws, from one version of the statistics."""

    events_behind: int = Field(description="Events received that the statistics lack.")
    items: int
    bins: int
    missing: int = Field(description="Numbered by the bins, not received here.")
    diverted: ShareAnswer | None = Field(
        description="Kept out of residual waste; null where no stream has that name."
    )
    known: ShareAnswer = Field(description="Decided with confidence.")
    labels: list[LabelAnswer] = Field(description="Confident items, the smallest count first.")
    streams: list[StreamAnswer]
    hours: HoursAnswer
    decisions: DecisionsAnswer
    outboxes: list[CompletenessRow]
