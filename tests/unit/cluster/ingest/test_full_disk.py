"""A full disk: nothing is acknowledged that is not there, and all goes on when there is room."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from simulators.ingest import NOW, numbers

from cluster.ingest.commit import Ingest, Limits
from cluster.lake.store import Lake
from cluster.statistics.query import duplicates
from vision.errors import StorageError
from vision.events import Batch, Receipt

EVENTS = 200


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 12 MB, most of it taken by a file that can be removed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    (folder / "ballast").write_bytes(b"x" * 11_000_000)
    yield folder
    # Lazily: a test that failed may hold a file open, and must not leave a disk behind.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_and_loses_nothing_that_was_acknowledged(
    full_disk: Path, batch: Callable[..., Batch]
) -> None:
    lake = Lake(full_disk / "lake")
    ingest = Ingest(lake, lambda: NOW, Limits(commit_interval_s=0, lake_interval_s=10))
    acknowledged = 0
    refused = moves_failed = 0
    while refused < 5:
        some = batch(*range(acknowledged + 1, acknowledged + EVENTS + 1))
        try:
            [receipt] = ingest.commit([some])
            assert receipt == Receipt("o1", acknowledged + EVENTS)
            acknowledged += EVENTS
        except StorageError:
            refused += 1
        try:
            ingest.move()
        except StorageError:
            moves_failed += 1
            assert "does not take what waits" in ingest.lake_problem
        assert acknowledged < 1_000_000
    assert acknowledged > 0
    assert moves_failed
    (full_disk / "ballast").unlink()
    [receipt] = ingest.commit([batch(*range(acknowledged + 1, acknowledged + EVENTS + 1))])
    assert isinstance(receipt, Receipt)
    ingest.move()
    assert ingest.lake_problem == ""
    ingest.close()
    assert numbers(lake) == list(range(1, receipt.acked_seq + 1))
    assert duplicates(lake) == 0


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_hub_that_was_stopped_on_a_full_disk_goes_on_when_there_is_room(
    full_disk: Path, batch: Callable[..., Batch]
) -> None:
    lake = Lake(full_disk / "lake")
    ingest = Ingest(lake, lambda: NOW, Limits(commit_interval_s=0, lake_interval_s=10))
    ingest.commit([batch(1, 2)])
    _fill(full_disk / "more")
    ingest.close()  # what waits stays in the log
    with suppress(StorageError):  # it may be refused, and must not hang
        Ingest(Lake(full_disk / "lake"), lambda: NOW).close()
    (full_disk / "ballast").unlink()
    again = Ingest(Lake(full_disk / "lake"), lambda: NOW)
    assert again.commit([batch(2, 3)]) == [Receipt("o1", 3)]
    again.close()
    assert numbers(lake) == [1, 2, 3]
