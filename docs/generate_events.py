"""Print docs/events.md, the data dictionary of an event, from their dataclasses.

    python -m docs.generate_events > docs/events.md

A contract test holds the file to this output, so a field cannot come without its meaning.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields

from vision.events import Batch, ItemEvent, Receipt
from vision.notes import Note
from vision.record import MAX_TEXT_BYTES
from vision.wire import (
    BATCH_SCHEMA,
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    MAX_BODY_BYTES,
    RECEIPT_SCHEMA,
    REFUSAL_SCHEMA,
)

HEAD = f"""# The data dictionary of an event

Made from `vision/events.py` and `vision/notes.py` by `python -m docs.generate_events >
docs/events.md`; a test holds this page to it. Words: [glossary](glossary.md).

A bin sends batches of events; the hub answers each with a receipt. Both are JSON; a batch is
compressed with zlib. Over HTTP and over MQTT 5 they are the same (`vision/wire.py`).

- The key of an event is `(outbox_id, seq)`: the outbox numbers its events from 1 on. On the wire
  `seq` stands among the event's fields.
- A field that this version does not know is kept and passed on; in the lake it is JSON text in
  `extra`.
- A required field that is missing or of another type refuses its event, with the reason, and the
  rest is taken. Of a bin that does not take refusals of single events, or of a batch without a good
  event, it refuses the whole batch.
- An integer has 64 bits, a number is finite, a text has at most {MAX_TEXT_BYTES:,} bytes of UTF-8.
- No image is ever in an event."""

NOTE = """What a bin says of itself: how it is, every quarter of an hour and when something changes;
and that somebody has emptied it. Notes have an outbox of their own on the bin, and so numbers of
their own; a field is a column of the lake's table `notes`."""

BATCH = f"""A batch holds 1 to {MAX_BATCH_EVENTS:,} events, or as many notes, at most
{MAX_BODY_BYTES // 2**20} MiB as sent and {MAX_BATCH_BYTES // 2**20} MiB unpacked. Its JSON also
holds `schema`: `{BATCH_SCHEMA}`."""

RECEIPT = f"""Its JSON also holds `schema`: `{RECEIPT_SCHEMA}`. To content that it will never take,
the hub answers with a refusal instead: `schema`: `{REFUSAL_SCHEMA}`, and `error`, the reason."""

_TYPES = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Mapping[str, Any]": "object",
    "float | None": "number or null",
    "tuple[tuple[int, ItemEvent], ...]": "list",
    "tuple[tuple[int, Note], ...]": "list",
    "tuple[int, ...]": "list",
}


def main() -> None:
    """Print the page."""
    print(page(), end="")


def page() -> str:
    """Return the page as Markdown."""
    parts = [
        HEAD,
        "## Event (`ItemEvent`)\n\nOne item that a bin handled; a field is a column of the lake.",
        _table(ItemEvent),
        f"## Note (`Note`)\n\n{NOTE}",
        _table(Note),
        f"## Batch (`Batch`)\n\n{BATCH}",
        _table(Batch),
        f"## Receipt (`Receipt`)\n\n{RECEIPT}",
        _table(Receipt),
    ]
    return "\n\n".join(parts) + "\n"


def _table(contract: type) -> str:
    """Return a table of a dataclass's fields.

    Raises:
        KeyError: a field has no line in the Attributes section, or a type that is new here.
    """
    meanings = _meanings(contract)
    rows = ["| field | type | meaning | if absent |", "|---|---|---|---|"]
    for field in fields(contract):
        if not field.metadata.get("sent", True):
            continue
        kind = _TYPES[str(field.type)]
        rows.append(f"| `{field.name}` | {kind} | {meanings[field.name]} | {_default(field)} |")
    return "\n".join(rows)


def _meanings(contract: type) -> dict[str, str]:
    """Return field -> meaning, as the class's docstring gives them under Attributes."""
    text = inspect.cleandoc(contract.__doc__ or "").partition("Attributes:\n")[2]
    meanings: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if found := re.fullmatch(r" {4}(\w+): (.*)", line):
            name = found[1]
            meanings[name] = found[2]
        elif line.startswith(" " * 8):
            meanings[name] += f" {line.strip()}"
    return meanings


def _default(field: Field[object]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    if field.default is MISSING:
        return "empty"
    return f"`{field.default!r}`".replace("''", '""')


if __name__ == "__main__":
    main()
