"""Durable events a second of one hub process, by batch size.

Measured from the bytes of a request to the synced transaction of the ingest log.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.ingest.commit import Ingest
from cluster.ingest.decode import decode
from cluster.lake.store import Lake
from vision.events import Batch, ItemEvent
from vision.wire import encode_batch

EVENT = ItemEvent(
    1_790_000_000_000,
    5000,
    "boot",
    True,
    "m" * 64,
    "eu-low",
    "1",
    "glass",
    0.93,
    0.9,
    "plastic",
    0.05,
    "known",
    "glass",
    "glass at 0.93",
    "moved",
    0.2,
    2.1,
    2.6,
    120.0,
    300.0,
)


def _events(count: int, seed: int) -> tuple[tuple[int, ItemEvent], ...]:
    """Return numbered events whose figures differ as real ones do, so they compress no better."""
    rng = random.Random(seed)
    return tuple(
        (
            n + 1,
            replace(
                EVENT,
                wall_utc_ms=EVENT.wall_utc_ms + rng.randrange(10**8),
                monotonic_ms=rng.randrange(10**8),
                label=(label := rng.choice(("glass", "paper", "metal", "plastic"))),
                stream=label,
                reason=f"{label} at {(confidence := round(rng.random(), 5)):.2f}",
                confidence=confidence,
                margin=round(rng.random(), 5),
                unknown_score=round(rng.random(), 5),
                inference_ms=round(2 + rng.random(), 3),
                total_ms=round(2.5 + rng.random(), 3),
                brightness=round(255 * rng.random(), 2),
                sharpness=round(900 * rng.random(), 2),
            ),
        )
        for n in range(count)
    )


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row for each batch size; 50 bins share each commit, as in a group commit."""
    for size in (1, 10, 100):
        bodies = [encode_batch(Batch(f"o{b}", f"bin-{b}", 0, _events(size, b))) for b in range(50)]
        with tempfile.TemporaryDirectory() as folder:
            ingest = Ingest(Lake(Path(folder)), lambda: 1_790_000_000_000)
            ingest.commit([decode(body) for body in bodies])
            rounds = 10
            started = time.perf_counter()
            for k in range(rounds):
                shifted = [decode(body) for body in bodies]
                moved = [
                    Batch(
                        b.outbox_id,
                        b.bin_id,
                        0,
                        tuple((n + (k + 1) * size, e) for n, e in b.events),
                    )
                    for b in shifted
                ]
                ingest.commit(moved)
            seconds = time.perf_counter() - started
            ingest.close()
        yield {
            "batch_events": size,
            "bytes_per_event": round(len(bodies[0]) / size, 1),
            "events_per_second": round(50 * size * rounds / seconds),
            "commit_ms": round(1000 * seconds / rounds, 1),
        }
