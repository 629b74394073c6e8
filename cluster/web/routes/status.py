"""How each bin is, by its own last word."""

from __future__ import annotations

import json

from fastapi import APIRouter

from cluster.ingest.ingest_log import LastNote
from cluster.web.schemas import ErrorAnswer, StatusAnswer, StatusRow
from cluster.web.state import HubPart
from vision.notes import Note, NoteKind

router = APIRouter(
    prefix="/v1",
    tags=["bins"],
    responses={503: {"model": ErrorAnswer, "description": "the log cannot be read"}},
)


@router.get("/status")
def status(hub: HubPart) -> StatusAnswer:
    """Show the last status of each bin, and when it was emptied last.

    The earlier ones are in the lake's table "notes".
    """
    notes: dict[str, dict[str, LastNote]] = {}
    for last in hub.ingest.last_notes():
        notes.setdefault(last.bin_id, {})[last.kind] = last
    return StatusAnswer(rows=[_row(bin_id, by_kind) for bin_id, by_kind in notes.items()])


def _row(bin_id: str, by_kind: dict[str, LastNote]) -> StatusRow:
    last = by_kind.get(NoteKind.STATUS)
    emptied = by_kind.get(NoteKind.EMPTIED)
    note = Note.from_dict(json.loads(last.body)) if last else None
    return StatusRow(
        bin_id=bin_id,
        received_utc_ms=last.received_utc_ms if last else None,
        emptied_utc_ms=emptied.noted_utc_ms if emptied else None,
        problems=note.problems() if note else {},
        status=note.to_dict() if note else None,
    )
