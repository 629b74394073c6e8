"""What several tests of the bin need."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.outbox import Outbox
from vision.events import ItemEvent


@pytest.fixture
def outbox(tmp_path: Path, make_event: Callable[..., ItemEvent]) -> Iterator[Outbox]:
    """An outbox with 20 events."""
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for _ in range(20):
            outbox.append(make_event())
        yield outbox


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A bin's state folder on a disk of its own of 4 MB."""
    state = tmp_path / "state"
    state.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(state)], check=False
        ).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    yield state
    # Lazily: a test that failed may hold a file open, and must not leave a disk behind.
    subprocess.run(["umount", "--lazy", str(state)], check=True)
