"""Notes beside events: the last one at once, all of them in the lake, each once."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from simulators.ingest import NOW, numbers, open_ingest

from cluster.ingest.commit import Ingest
from cluster.ingest.ingest_log import IngestLog
from cluster.ingest.move import LOG_NAME
from cluster.lake.schema import NOTES
from cluster.lake.store import Lake
from vision.events import Batch, Receipt
from vision.notes import Note

MakeNote = Callable[..., Note]


def _batch(*notes: tuple[int, Note], bin_id: str = "bin-1") -> Batch:
    return Batch(f"notes-{bin_id}", bin_id, 0, (), notes=notes)


def _stored(lake: Lake) -> list[tuple[object, ...]]:
    columns = "bin_id, seq, kind, camera, temperature_c"
    question = f"SELECT {columns} FROM read_parquet(?) ORDER BY bin_id, seq"
    return duckdb.execute(question, [lake.files(NOTES)]).fetchall()


def test_the_last_note_is_known_at_once_and_all_are_in_the_lake_once(
    lake: Lake, batch: Callable[..., Batch], make_note: MakeNote
) -> None:
    first = make_note(camera="it is dark")
    second = make_note(temperature_c=51.5, after_outbox_id="o1", after_seq=2)
    emptied = make_note(kind="emptied")
    with open_ingest(lake, lake_interval_s=10) as ingest:
        both = [batch(1, 2), _batch((1, first), (2, emptied))]
        assert ingest.commit(both) == [Receipt("o1", 2), Receipt("notes-bin-1", 2)]
        sent_again = _batch((2, emptied), (3, second))
        assert ingest.commit([sent_again]) == [Receipt("notes-bin-1", 3)]
        # They are no events: neither counted as such, nor as waiting for the lake.
        assert (ingest.counters.events, ingest.waiting_events) == (2, 2)
        last = {note.kind: note for note in ingest.last_notes()}
        assert last["status"].bin_id == "bin-1"
        assert '"temperature_c": 51.5' in last["status"].body
        assert last["emptied"].noted_utc_ms == 1_790_000_000_000
        assert ingest.move() == 5
    assert numbers(lake) == [1, 2]
    assert _stored(lake) == [
        ("bin-1", 1, "status", "it is dark", None),
        ("bin-1", 2, "emptied", "ok", None),
        ("bin-1", 3, "status", "ok", 51.5),
    ]


def test_kinds_that_a_bin_makes_up_do_not_fill_the_table_of_last_notes(
    lake: Lake, make_note: MakeNote
) -> None:
    with open_ingest(lake) as ingest:
        made_up = tuple((n, make_note(kind=f"kind-{n}")) for n in range(1, 50))
        ingest.commit([_batch(*made_up, (50, make_note()))])
        assert [note.kind for note in ingest.last_notes()] == ["status"]
    assert len(_stored(lake)) == 50  # all are in the lake


def test_a_kill_between_the_two_tables_leaves_each_row_once(
    lake: Lake,
    batch: Callable[..., Batch],
    make_note: MakeNote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingest = Ingest(lake, lambda: NOW)
    ingest.commit([batch(1, 2), _batch((1, make_note()))])
    with monkeypatch.context() as killed:
        real = IngestLog.trim

        def die(log: IngestLog, table: str, number: int) -> None:
            if table == NOTES and lake.files(NOTES):
                raise KeyboardInterrupt
            real(log, table, number)

        killed.setattr(IngestLog, "trim", die)
        with pytest.raises(KeyboardInterrupt):
            ingest.move()
    lake.claim.release()
    with open_ingest(Lake(tmp_path / "lake")) as again:
        again.commit([batch(3), _batch((1, make_note()), (2, make_note()))])
    assert numbers(lake) == [1, 2, 3]
    assert [row[1] for row in _stored(lake)] == [1, 2]


def test_a_lost_log_learns_the_marks_of_notes_from_the_lake(
    lake: Lake, make_note: MakeNote, tmp_path: Path
) -> None:
    with open_ingest(lake) as ingest:
        ingest.commit([_batch((1, make_note()))])
    (tmp_path / "lake" / LOG_NAME).unlink()
    with open_ingest(Lake(tmp_path / "lake")) as again:
        assert again.commit([_batch((1, make_note()))]) == [Receipt("notes-bin-1", 1)]
        again.commit([_batch((2, make_note()))])
    assert [row[1] for row in _stored(lake)] == [1, 2]


def test_a_log_of_a_hub_that_knew_no_notes_keeps_its_events(
    lake: Lake, batch: Callable[..., Batch], make_note: MakeNote, tmp_path: Path
) -> None:
    ingest = Ingest(lake, lambda: NOW)
    ingest.commit([batch(1, 2)])
    ingest._log.close()
    lake.claim.release()
    before = sqlite3.connect(tmp_path / "lake" / LOG_NAME)
    before.execute("ALTER TABLE entry DROP COLUMN lake_table")
    before.execute("DROP TABLE last_note")
    before.commit()
    before.close()
    with open_ingest(Lake(tmp_path / "lake")) as again:
        again.commit([_batch((1, make_note()))])
    assert numbers(lake) == [1, 2]
    assert len(_stored(lake)) == 1


def test_many_commits_of_notes_are_compacted(lake: Lake, make_note: MakeNote) -> None:
    with open_ingest(lake) as ingest:
        for number in range(1, 40):
            ingest.commit([_batch((number, make_note()))])
    assert len(lake.files(NOTES)) < 20
    assert [row[1] for row in _stored(lake)] == list(range(1, 40))
