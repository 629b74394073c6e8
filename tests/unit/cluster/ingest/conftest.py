"""A lake, and batches for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.lake.store import Lake
from vision.events import Batch, ItemEvent

Make = Callable[..., ItemEvent]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def batch(make_event: Make) -> Callable[..., Batch]:
    return lambda *numbers, outbox="o1", **fields: Batch(
        outbox, "bin-1", 0, tuple((n, make_event(**fields)) for n in numbers)
    )
