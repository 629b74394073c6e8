"""How the bin is: counters and plain words, one JSON file that is replaced every few seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Health:
    """What a technician wants to know first.

    Attributes:
        bin_id, model: who and with what.
        camera: "ok" or what is wrong, in words.
        frames, items, faults: since the start.
        unrecorded: items served whose event could not be stored since the start.
        decisions: items by kind of decision.
        outbox_depth, dropped, quarantined: of the outbox.
        uplink: "ok", or the last error; alarm: what needs a person.
    """

    bin_id: str
    model: str = ""
    camera: str = "starting"
    frames: int = 0
    items: int = 0
    faults: int = 0
    unrecorded: int = 0
    decisions: dict[str, int] = field(default_factory=dict)
    outbox_depth: int = 0
    dropped: int = 0
    quarantined: int = 0
    uplink: str = "off"
    alarm: str = ""

    def write(self, path: Path) -> None:
        """Replace the health file. Not synced: a flash disk is not worn out for a figure that is old in seconds."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)
