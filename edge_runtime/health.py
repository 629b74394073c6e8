"""How the bin is: counters and plain words, one JSON file that is replaced every few seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vision.files import write_atomically

_HAZARD_NAME = "hazard.txt"


@dataclass(slots=True)
class Health:
    """What a technician wants to know first.

    Attributes:
        bin_id, model: who and with what; bundle: which form of the model runs, and why that one.
        camera: "ok" or what is wrong, in words; chute: the same of what lies before it.
        frames, items, faults: since the start.
        unrecorded: items served whose event could not be stored since the start.
        decisions: items by kind of decision.
        blind_openings: how often the chute was emptied to residual, uncounted, because for long the
            camera did not see or nothing rested before it.
        hazards: hazards since the start; hazard: the last one that nobody has said to be gone, in
            words; alarm_failed: "" or why its alarm could not be given yet.
        lid: "ok" or what went wrong with it last.
        outbox_depth, dropped, quarantined: of the outbox; storage: "" or what happened to it.
        outbox_full_pct: how full it is; outbox_days_left: days until it is, at the pace since the
            start and with no hub in reach; None while that pace is not known.
        uplink: "ok", or the last error; alarm: what needs a person.
        settings: "ok", or which of them do not hold, and why.
        clock_synced: whether the wall clock is known to be set.
        uptime_s, resident_mb, disk_free_mb, temperature_c, throttled: of process and board.
        energy_wh: estimate of what computing has drawn since the start.
    """

    bin_id: str
    model: str = ""
    bundle: str = ""
    camera: str = "starting"
    chute: str = "ok"
    frames: int = 0
    items: int = 0
    faults: int = 0
    unrecorded: int = 0
    decisions: dict[str, int] = field(default_factory=dict)
    blind_openings: int = 0
    hazards: int = 0
    hazard: str = ""
    alarm_failed: str = ""
    lid: str = "ok"
    storage: str = ""
    outbox_depth: int = 0
    outbox_full_pct: float = 0.0
    outbox_days_left: float | None = None
    dropped: int = 0
    quarantined: int = 0
    uplink: str = "off"
    alarm: str = ""
    settings: str = "ok"
    clock_synced: bool = False
    uptime_s: int = 0
    resident_mb: float = 0.0
    disk_free_mb: int = 0
    temperature_c: float | None = None
    throttled: str = ""
    energy_wh: float = 0.0

    def write(self, path: Path) -> None:
        """Replace the health file.

        Not synced: a flash disk is not worn out for a figure that is old in seconds.
        """
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)


def remember_hazard(state: Path, reason: str) -> None:
    """Note a hazard so that a power cut does not forget it.

    It lies in the bin until a person takes it out.

    Raises:
        OSError: the disk does not take it.
    """
    write_atomically(state / _HAZARD_NAME, reason.encode())


def remembered_hazard(state: Path) -> str:
    """Return the hazard that nobody has yet said to be gone; "" if there is none."""
    path = state / _HAZARD_NAME
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"perhaps one: {path} cannot be read ({error.strerror})"


def forget_hazard(state: Path) -> None:
    """Take note that a person has taken the hazard out."""
    (state / _HAZARD_NAME).unlink(missing_ok=True)


def days_left(full_share: float, waiting: int, items: int, uptime_s: float) -> float | None:
    """Return in how many days an outbox is full if nothing leaves it.

    Args:
        full_share: how full it is, 0..1.
        waiting: events in it.
        items: served since the start; uptime_s: since then.

    Returns:
        None while the pace is not known: too little waits, or the bin runs for less than an hour.
    """
    if waiting < 20 or items < 20 or uptime_s < 3600:
        return None
    events_more = waiting * (1 - full_share) / max(full_share, 1e-9)
    return round(events_more / (items / uptime_s * 86_400), 1)
