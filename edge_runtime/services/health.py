"""How the bin is: one flat record, asked of its parts, one JSON file replaced every few seconds."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace

from edge_runtime import host
from edge_runtime.bin import Timing
from edge_runtime.config import EdgeConfig
from edge_runtime.delivery import Delivery
from edge_runtime.guard import Faults
from edge_runtime.pipeline import Pipeline
from edge_runtime.services.hazard import Hazard
from edge_runtime.services.reload import Reload
from vision.files import replace_unsynced

NAME = "health.json"


@dataclass(frozen=True, slots=True)
class Health:
    """What a technician wants to know first.

    Attributes:
        bin_id, model: who and with what; bundle: which form of the model runs, and why that one.
        camera: "ok" or what is wrong; chute: the same of what lies before it.
        frames, items, faults: since the start.
        unrecorded: items served whose event could not be stored since the start.
        decisions: items by kind of decision.
        blind_openings: how often the chute was emptied to residual, uncounted, because for long the
            camera did not see or nothing rested before it.
        hazards: hazards since the start; hazard: the last one that nobody has taken out;
            alarm_failed: "" or why its alarm could not be given yet.
        lid: "ok" or what went wrong with it last.
        outbox_depth, dropped, quarantined: of the outbox; storage: "" or what happened to it.
        outbox_full_pct: how full it is; outbox_days_left: days until it is, at the pace since the
            start and with no hub in reach; None while that pace is not known.
        uplink: "ok", "off" or the last error; alarm: what needs a person.
        settings: "ok", or which of them do not hold, and why.
        clock_synced: whether the wall clock is known to be set.
        uptime_s, resident_mb, disk_free_mb, temperature_c, throttled: of process and host.
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


class HealthReport:
    """Asks each part for its status; nobody else writes the health.

    Args:
        config: of the bin: its id and state folder.
        pipeline, delivery, hazard, reload: asked for their status.
        faults: of the loop and the services.
        timing: how often.
    """

    def __init__(
        self,
        config: EdgeConfig,
        pipeline: Pipeline,
        delivery: Delivery,
        hazard: Hazard,
        reload: Reload,
        faults: Faults,
        timing: Timing,
    ) -> None:
        self._path = config.state / NAME
        self._pipeline = pipeline
        self._delivery = delivery
        self._hazard = hazard
        self._reload = reload
        self._started_ms = pipeline.parts.clock.now().monotonic_ms
        self._gauges = Health(config.bin_id)
        self.period_ms = timing.health_ms
        self._faults = faults

    def step(self, now_ms: float) -> None:
        """Read every gauge and replace the health file.

        Raises:
            OSError: the disk does not take it.
        """
        self._read_gauges(now_ms)
        text = json.dumps(asdict(self.current()), indent=1)
        replace_unsynced(self._path, text.encode())

    def current(self) -> Health:
        """Return the health, the gauges as they were read last."""
        status = self._pipeline.status()
        settings = self._reload.status()
        hazard = self._hazard.status()
        return replace(
            self._gauges,
            camera=status.camera,
            chute=status.chute,
            frames=status.frames,
            items=status.items,
            faults=status.faults + self._faults.count,
            decisions=status.decisions,
            blind_openings=status.blind_openings,
            lid=status.lid,
            hazards=hazard.hazards,
            hazard=hazard.hazard,
            alarm_failed=hazard.alarm_failed,
            settings=settings.settings,
            bundle=settings.bundle,
            model=self._pipeline.parts.classifier.manifest.model_id,
        )

    def _read_gauges(self, now_ms: float) -> None:
        uptime_s = (now_ms - self._started_ms) / 1000
        events = self._delivery.status()
        share = events.outbox_full_share
        items = self._pipeline.status().items
        self._gauges = replace(
            self._gauges,
            storage=events.storage,
            outbox_depth=events.outbox_depth,
            outbox_full_pct=round(100 * share, 2),
            outbox_days_left=days_left(share, events.outbox_depth, items, uptime_s),
            dropped=events.dropped,
            quarantined=events.quarantined,
            unrecorded=events.unrecorded,
            uplink=events.uplink,
            alarm=events.alarm,
            clock_synced=self._pipeline.parts.clock.now().clock_synced,
            uptime_s=int(uptime_s),
            resident_mb=host.resident_mb(),
            disk_free_mb=shutil.disk_usage(self._path.parent).free // 10**6,
            temperature_c=host.temperature_c(),
            throttled=host.throttled(),
            energy_wh=round(self._pipeline.parts.host_power_w * time.process_time() / 3600, 4),
        )


def days_left(full_share: float, waiting: int, items: int, uptime_s: float) -> float | None:
    """Return in how many days an outbox is full if nothing leaves it.

    Args:
        full_share: how full it is, 0..1.
        waiting: events in it.
        items: served since the start.
        uptime_s: since the start.

    Returns:
        None while the pace is not known: too little waits, or the bin runs for less than an hour.
    """
    if waiting < 20 or items < 20 or uptime_s < 3600:
        return None
    events_more = waiting * (1 - full_share) / max(full_share, 1e-9)
    return round(events_more / (items / uptime_s * 86_400), 1)
