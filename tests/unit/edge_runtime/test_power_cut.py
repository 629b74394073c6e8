"""The outbox on a disk that forgets what was not synced.

And tears what was being written, at any instant.

A virtual file system under SQLite notes every write and every sync of the database and its WAL. A
power cut at any of these instants is then played: what was synced is there; of what was not, any
512-byte sectors may be, in any mixture.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge_runtime.outbox import SYNCHRONOUS, Outbox
from vision.errors import StorageError
from vision.events import ItemEvent

Make = Callable[..., ItemEvent]
SECTOR_BYTES = 512
CUTS = 400


class _Noting(apsw.VFS):
    """SQLite's own file system, which also notes what is done to the database and its WAL."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []
        super().__init__("noting", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _NotingFile(self.notes, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.notes.append(("delete", Path(filename).name))
        super().xDelete(filename, syncdir)


class _NotingFile(apsw.VFSFile):
    def __init__(self, notes: list[tuple[Any, ...]], name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._notes = notes
        self._name = Path(path).name if path else ""
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._notes.append(("write", self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._notes.append(("truncate", self._name, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._notes.append(("sync", self._name))


@pytest.fixture
def disk() -> Iterator[_Noting]:
    disk = _Noting()
    yield disk
    disk.unregister()
    assert "noting" not in apsw.vfs_names()


def _apply(content: bytearray, note: tuple[Any, ...]) -> None:
    if note[0] == "truncate":
        del content[note[2] :]
        return
    _, _, offset, data = note
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


def _after_cut(notes: list[tuple[Any, ...]], instant: int, rng: random.Random) -> dict[str, bytes]:
    """Return the files that a power cut after so many notes leaves."""
    durable: dict[str, bytearray] = {}
    pending: dict[str, list[tuple[Any, ...]]] = {}
    for note in notes[:instant]:
        kind = note[0]
        name = note[1]
        if kind == "delete":
            durable.pop(name, None)
            pending.pop(name, None)
        elif kind == "sync":
            content = durable.setdefault(name, bytearray())
            for earlier in pending.pop(name, []):
                _apply(content, earlier)
        elif kind in ("write", "truncate"):
            pending.setdefault(name, []).append(note)
    for name, rest in pending.items():
        for note in rest:
            if note[0] == "truncate":
                continue
            for start in range(0, len(note[3]), SECTOR_BYTES):
                if rng.random() < 0.5:
                    sector = note[3][start : start + SECTOR_BYTES]
                    _apply(
                        durable.setdefault(name, bytearray()),
                        ("write", name, note[2] + start, sector),
                    )
    return {name: bytes(content) for name, content in durable.items()}


def _work(
    path: Path,
    disk: _Noting,
    make_event: Make,
    promise: Callable[[int], None],
    synchronous: str = SYNCHRONOUS,
) -> None:
    with Outbox(path, "b", synchronous=synchronous) as outbox:
        disk.notes.append(("opened", 0))
        for i in range(1, 301):
            number = outbox.append(make_event(monotonic_ms=i))
            disk.notes.append(("promised", number))
            promise(number)
            if i % 40 == 0:
                disk.notes.append(("acknowledging", i - 20))
                outbox.ack(i - 20)


def _lost(notes: list[tuple[Any, ...]], folder: Path, cuts: int) -> tuple[int, int]:
    """Play power cuts; return (events promised and lost, outboxes that cannot be opened)."""
    rng = random.Random(1)
    lost = 0
    broken = 0
    begun = notes.index(("opened", 0))
    for cut in range(cuts):
        instant = rng.randrange(begun + 1, len(notes))
        seen = notes[:instant]
        promised = max((n[1] for n in seen if n[0] == "promised"), default=0)
        asked = max((n[1] for n in seen if n[0] == "acknowledging"), default=0)
        home = folder / str(cut)
        home.mkdir()
        for name, content in _after_cut(notes, instant, rng).items():
            (home / name).write_bytes(content)
        try:
            with Outbox(home / "o.sqlite", "b") as outbox:
                batch = outbox.peek(1000)
                numbers = [seq for seq, _ in batch.events] if batch else []
                assert all(
                    event.monotonic_ms == seq for seq, event in (batch.events if batch else ())
                )
                assert numbers == sorted(set(numbers))
                missing = set(range(asked + 1, promised + 1)) - set(numbers)
                lost += len(missing)
                if batch and not missing:
                    assert outbox.append(batch.events[-1][1]) > promised  # no number is given twice
        except StorageError:
            broken += 1
    return lost, broken


def test_no_power_cut_costs_an_event_that_was_promised(
    tmp_path: Path, disk: _Noting, make_event: Make
) -> None:
    promised: list[int] = []
    _work(tmp_path / "o.sqlite", disk, make_event, promised.append)
    notes = list(disk.notes)
    assert promised == list(range(1, 301))
    assert sum(n[0] == "sync" for n in notes) >= 300
    assert _lost(notes, tmp_path, CUTS) == (0, 0)


def test_without_the_sync_the_same_cuts_do_cost_events(
    tmp_path: Path, disk: _Noting, make_event: Make
) -> None:
    _work(tmp_path / "o.sqlite", disk, make_event, lambda number: None, synchronous="OFF")
    lost, broken = _lost(list(disk.notes), tmp_path, 60)
    assert lost + broken > 50
