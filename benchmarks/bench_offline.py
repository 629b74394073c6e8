"""Thirty days offline at 2,000 items a day, then the hub: what arrives, how large the disk grew.

It runs once more with a small outbox, from which the oldest events must go and be counted. The
bin's clocks jump meanwhile.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from cluster.ingest.commit import Ingest
from cluster.lake.store import Lake
from edge_runtime.clock import Instant
from edge_runtime.config import HttpUplinkConfig, OutboxConfig
from edge_runtime.outbox import Outbox
from edge_runtime.transports.transport import Answer, Request
from edge_runtime.uplink import Uplink
from vision.errors import AccessError, UplinkError
from vision.events import ItemEvent
from vision.signature import HTTP_METHOD
from vision.wire import decode_batch, encode_receipt

DAYS = 30
ITEMS_A_DAY = 2000
DAY_MS = 86_400_000
BEGIN_UTC_MS = 1_780_000_000_000


@dataclass
class Month:
    """A bin's clocks over a month: the true time, and a wall clock that jumps."""

    true_utc_ms: int = BEGIN_UTC_MS
    wall_off_ms: int = 0
    synced: bool = True

    def now(self) -> Instant:
        """Return what the bin's clocks say."""
        up_ms = self.true_utc_ms - BEGIN_UTC_MS
        return Instant(self.true_utc_ms + self.wall_off_ms, float(up_ms), "boot", self.synced)


class Network:
    """The way to a real ingest; down for the month."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self.up = False

    method = HTTP_METHOD

    def post(self, request: Request) -> Answer:
        """Deliver, if the network is up."""
        if not self.up:
            raise UplinkError("no network")
        [receipt] = self._ingest.commit([decode_batch(request.body)])
        if isinstance(receipt, AccessError):
            raise receipt
        return Answer(200, encode_receipt(receipt))

    def close(self) -> None:
        """Do nothing: there is no connection."""


def offline(folder: Path, max_bytes: int, days: int = DAYS) -> dict[str, Any]:
    """Live a month without a hub, then send everything; return what came of it."""
    month = Month()
    ten_years_ms = 3650 * DAY_MS
    ingest = Ingest(Lake(folder / "lake"), lambda: month.true_utc_ms)
    network = Network(ingest)
    largest = 0
    true: dict[int, int] = {}
    with Outbox(folder / "outbox.sqlite", "bin", max_bytes) as outbox:
        uplink = Uplink(
            outbox, network, HttpUplinkConfig(url="http://hub", batch_events=1000), month
        )
        started = time.perf_counter()
        for day in range(days):
            # Set right; ten years back; ten years ahead; no clock at all.
            clocks = ((0, True), (-ten_years_ms, True), (ten_years_ms, True), (0, False))
            month.wall_off_ms, month.synced = clocks[day % 4]
            for _ in range(ITEMS_A_DAY):
                month.true_utc_ms += DAY_MS // ITEMS_A_DAY
                true[outbox.append(_event(month))] = month.true_utc_ms
            uplink.step()
            largest = max(largest, sum(f.stat().st_size for f in folder.glob("outbox.sqlite*")))
        appended_s = time.perf_counter() - started
        full_pct = 100 * outbox.full_share()
        network.up = True
        started = time.perf_counter()
        while outbox.depth():
            uplink.step()
        sent_s = time.perf_counter() - started
        dropped = outbox.dropped()
    ingest.close()
    with duckdb.connect() as db:
        rows = (
            db.read_parquet(Lake(folder / "lake").files("events"))
            .project("seq, event_utc_ms")
            .fetchall()
        )
    return {
        "items": days * ITEMS_A_DAY,
        "arrived": len(rows),
        "double": len(rows) - len({seq for seq, _ in rows}),
        "dropped_and_counted": dropped,
        "unaccounted": days * ITEMS_A_DAY - len(rows) - dropped,
        "bound_mb": max_bytes / 1e6,
        "largest_mb": round(largest / 1e6, 2),
        "full_pct": round(full_pct, 1),
        "worst_date_error_ms": max(abs(dated - true[seq]) for seq, dated in rows),
        "append_ms": round(1000 * appended_s / (days * ITEMS_A_DAY), 3),
        "sent_s": round(sent_s, 1),
    }


def _event(month: Month) -> ItemEvent:
    now = month.now()
    return ItemEvent(
        now.wall_utc_ms,
        int(now.monotonic_ms),
        now.boot_id,
        now.clock_synced,
        "m" * 64,
        "eu-low",
        "2015-06-01",
        "glass",
        0.93,
        0.9,
        "plastic",
        0.05,
        "known",
        "glass",
        "glass at 0.93, 0.60 needed",
        "moved",
        0.2,
        2.1,
        2.6,
        120.0,
        300.0,
    )


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for the outbox as it ships, one for one of 4 MB."""
    for max_bytes in (OutboxConfig().max_bytes, 4 * 2**20):
        with tempfile.TemporaryDirectory() as folder:
            yield offline(Path(folder), max_bytes)
