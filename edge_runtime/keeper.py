"""What a bin does between frames, rarely.

Health, the image of the empty chute, systemd's watchdog, new settings, the way to the hub, and
another place for events when the disk takes none.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_runtime import host
from edge_runtime.choose import choose
from edge_runtime.config import EdgeConfig
from edge_runtime.health import days_left, remember_hazard
from edge_runtime.outbox import Outbox, open_outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.uplink import Uplink, open_transport
from vision.errors import BinsightError, ConfigError, StorageError
from vision.frames import Pixels

log = logging.getLogger(__name__)

_HEALTH_EVERY_S = 5.0
_REFERENCE_EVERY_S = 60.0
_WATCHDOG_EVERY_S = 5.0
_UPLINK_AGAIN_S = 60.0
# Pauses between tries to give an alarm that failed.
_ALARM_FIRST_S = 5.0
_ALARM_MOST_S = 600.0
# These belong to what is open; all other settings can change while the bin runs.
_FIXED = ("bin_id", "state", "camera", "actuator", "outbox", "log", "view")


class Keeper:
    """Keeps one bin.

    Args:
        config: of the bin.
        pipeline: its parts; replaced by new ones here, between frames.
        reload_asked: set when the settings are to be read again.
        reload: reads them; None ignores it.

    Attributes:
        uplink: the way to the hub for what is in the pipeline's outbox; None where none is
            configured or none can be opened.
    """

    def __init__(
        self,
        config: EdgeConfig,
        pipeline: Pipeline,
        reload_asked: threading.Event,
        reload: Callable[[], EdgeConfig] | None,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._reload_asked = reload_asked
        self._reload = reload
        self._started_s = time.monotonic()
        self._health_due_s = self._reference_due_s = self._watchdog_due_s = self._alarm_due_s = 0.0
        self._alarm_pause_s = _ALARM_FIRST_S
        self._hazard_to_note = ""
        self._unwritten = ""
        self._storage = pipeline.health.storage
        self._rest: tuple[Outbox, Uplink | None] | None = (
            None  # events in memory, while new ones are stored again
        )
        self._no_uplink = ""
        self._uplink_due_s = 0.0
        self._refused = (
            pipeline.health.settings if pipeline.health.settings.startswith("bundle: ") else ""
        )
        self.uplink = self._start_uplink(pipeline.outbox)

    def keep(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        # A driver that never comes back from a read cannot be helped from here: systemd starts the
        # process again.
        if now_s >= self._watchdog_due_s and not getattr(self._pipeline.camera, "hung", False):
            self._watchdog_due_s = now_s + _WATCHDOG_EVERY_S
            host.notify(
                f"WATCHDOG=1\nSTATUS=camera {self._pipeline.health.camera}, "
                f"{self._pipeline.health.items} items"
            )
        if self._reload_asked.is_set():
            self._reload_asked.clear()
            self._take_new_settings()
        if self.uplink and self.uplink.died:
            log.error("uplink: its thread has ended; it is started again")
            self.uplink = None
            self._no_uplink = "the uplink's thread had ended"
            self._uplink_due_s = now_s + 1.0
        if self._no_uplink and self.uplink is None and now_s >= self._uplink_due_s:
            self.uplink = self._start_uplink(self._pipeline.outbox)
        if self._pipeline.health.alarm_failed and now_s >= self._alarm_due_s:
            self._try_alarm_again()
        try:
            self._write_down(now_s)
        except OSError as error:  # the bin serves on; told once, for a disk may be full for weeks
            if str(error) != self._unwritten:
                self._unwritten = str(error)
                log.error("state: %s", error)

    def take_hazard(self) -> None:
        """Send it without waiting, and note it for after a power cut."""
        if self.uplink:
            self.uplink.hurry()
        self._hazard_to_note = self._pipeline.health.hazard
        self._health_due_s = 0.0
        self._alarm_due_s = 0.0
        self._alarm_pause_s = _ALARM_FIRST_S
        try:
            self._note_hazard()
        except OSError as error:  # tried again with the health
            log.error("hazard: %s", error)

    def without_disk(self, error: StorageError) -> Outbox:
        """Return an outbox in memory that leaves by an uplink of its own.

        What lies on the disk waits for the disk.

        Raises:
            StorageError: the one that refused is in memory.
        """
        old = self._pipeline.outbox
        stopped = self.uplink
        if old.in_memory:
            raise error
        self._storage = self._pipeline.health.storage = (
            f"{error}; events are held in memory and lost with the power"
        )
        if self._rest:
            memory, self.uplink = self._rest
            self._rest = None
        else:
            memory = Outbox(None, self._config.bin_id, old.max_bytes)
            self.uplink = self._start_uplink(memory)
        self._close(old, stopped)
        return memory

    def waiting(self) -> int:
        """Return the number of events that wait for the hub.

        Raises:
            StorageError: the disk cannot be read.
        """
        return self._pipeline.outbox.depth() + (self._rest[0].depth() if self._rest else 0)

    def write_health(self) -> None:
        """Read every gauge and replace the health file."""
        health = self._pipeline.health
        outbox = self._pipeline.outbox
        uptime_s = time.monotonic() - self._started_s
        health.storage = self._storage
        try:
            full_share = outbox.full_share()
            health.outbox_depth = self.waiting()
            health.outbox_full_pct = round(100 * full_share, 2)
            health.outbox_days_left = days_left(
                full_share, health.outbox_depth, health.items, uptime_s
            )
            health.dropped = outbox.dropped()
            health.quarantined = outbox.quarantined()
        except StorageError as error:  # all else must still be told
            health.storage = str(error)
        if self._rest:
            health.storage = (
                f"{health.storage}; {self._rest[0].depth()} events are only in memory".lstrip("; ")
            )
        health.uplink = self._no_uplink or "off"
        health.alarm = self._no_uplink
        if self.uplink:
            health.uplink = self.uplink.last_error or "ok"
            health.alarm = self.uplink.alarm
        health.clock_synced = self._pipeline.clock.now().clock_synced
        health.uptime_s = int(uptime_s)
        health.resident_mb = host.resident_mb()
        health.disk_free_mb = shutil.disk_usage(self._config.state).free // 10**6
        health.temperature_c = host.temperature_c()
        health.throttled = host.throttled()
        health.energy_wh = round(self._pipeline.host_power_w * time.process_time() / 3600, 4)
        health.write(self._config.state / "health.json")

    def close(self) -> None:
        """Hang up and close the outboxes."""
        pipeline = self._pipeline
        for outbox, uplink in (
            (pipeline.outbox, self.uplink),
            *([self._rest] if self._rest else []),
        ):
            if uplink:
                uplink.stop()
            if outbox.in_memory and outbox.depth():
                log.error("%d events were in memory only and are lost", outbox.depth())
            outbox.close()

    def _write_down(self, now_s: float) -> None:
        reference = self._pipeline.trigger.reference
        if (
            reference is not None and now_s >= self._reference_due_s
        ):  # at once when it is learnt: a kill may come next
            self._reference_due_s = now_s + _REFERENCE_EVERY_S
            _save_reference(self._config.state, reference)
            self._pipeline.camera_monitor.remember()
        if now_s >= self._health_due_s:
            self._health_due_s = now_s + _HEALTH_EVERY_S
            if self._pipeline.outbox.in_memory:
                self._return_to_disk()
            if self._rest and not self._rest[0].depth():
                self._close(*self._rest)
                self._rest = None
            self._note_hazard()
            self.write_health()
            self._unwritten = ""

    def _note_hazard(self) -> None:
        if self._hazard_to_note:
            remember_hazard(self._config.state, self._hazard_to_note)
            self._hazard_to_note = ""

    def _try_alarm_again(self) -> None:
        """Try it, and next after a pause that duplicates.

        A controller that is silent holds up the loop for seconds.
        """
        self._pipeline.give_alarm()
        self._alarm_due_s = time.monotonic() + self._alarm_pause_s
        self._alarm_pause_s = min(2 * self._alarm_pause_s, _ALARM_MOST_S)

    def _return_to_disk(self) -> None:
        """Store new events on the disk again, if it takes them now.

        Those in memory move there if there is no uplink. If there is one they leave by it, under
        the name by which the hub may know them: moved, they would get other numbers, and one whose
        receipt was lost would count twice.
        """
        pipeline = self._pipeline
        memory = self._pipeline.outbox
        config = self._config
        disk, message = open_outbox(config.state / "outbox.sqlite", config.bin_id, memory.max_bytes)
        try:
            if disk.in_memory:
                raise StorageError(message)
            if self.uplink is None:
                disk.move_from(memory)
                memory.close()
            else:
                disk.try_to_write()  # a disk that is full opens too
        except StorageError:
            disk.close()
            return
        if self.uplink:
            self._rest = (memory, self.uplink)
            self.uplink = self._start_uplink(disk)
        self._storage = message
        pipeline.outbox = disk

    def _start_uplink(self, outbox: Outbox) -> Uplink | None:
        """Open the way to the hub.

        A bin that cannot must still serve, so it says why and tries again each minute.
        """
        try:
            uplink = self._new_uplink(self._config, outbox)
        except BinsightError as error:
            if str(error) != self._no_uplink:
                log.error("%s", error)
            self._no_uplink = str(error)
            self._uplink_due_s = time.monotonic() + _UPLINK_AGAIN_S
            return None
        self._no_uplink = ""
        if uplink:
            uplink.start()
        return uplink

    def _new_uplink(self, config: EdgeConfig, outbox: Outbox) -> Uplink | None:
        if not config.uplink.url:
            return None
        clock = self._pipeline.clock
        return Uplink(outbox, open_transport(config.uplink, clock), config.uplink, clock)

    @staticmethod
    def _close(outbox: Outbox, uplink: Uplink | None) -> None:
        if uplink:
            uplink.stop(
                wait=False
            )  # a batch in flight whose receipt it cannot note is sent again, and taken once
        outbox.close()

    def _take_new_settings(self) -> None:
        """Put new settings in place of the old ones, all or none.

        What does not hold leaves the bin as it was.
        """
        if self._reload is None:
            return
        pipeline = self._pipeline
        old = self._config
        try:
            new = self._reload()
            if later := [name for name in _FIXED if getattr(new, name) != getattr(old, name)]:
                raise ConfigError(
                    f"{', '.join(later)}: cannot change while the bin runs; restart it"
                )
            rules = load_rules(new.rules)
            if set(rules.streams) != set(pipeline.rules.streams):
                raise ConfigError(
                    "rules: the new book has other streams than the lid; restart the bin"
                )
            same = (new.bundle, new.threads) == (old.bundle, old.threads)
            chosen = None if same else choose(new.bundle, new.threads, new.state)
            same_way = new.uplink == old.uplink and not self._no_uplink
            uplink = self.uplink if same_way else self._new_uplink(new, pipeline.outbox)
        except (BinsightError, OSError) as error:
            pipeline.health.settings = f"the old ones hold: {error}"
            log.error("settings: %s", pipeline.health.settings)
            return
        if chosen:
            pipeline.classifier = chosen.classifier
            pipeline.health.bundle = chosen.reason
        pipeline.rules = rules
        pipeline.trigger.config = new.trigger
        pipeline.actuator.fallback = rules.fallback
        pipeline.max_frames_per_item = new.max_frames_per_item
        pipeline.host_power_w = new.host_power_w
        pipeline.health.model = pipeline.classifier.manifest.model_id
        if chosen:
            self._refused = "; ".join(f"bundle: {message}" for message in chosen.refused)
        pipeline.health.settings = self._refused or "ok"
        if uplink is not self.uplink:
            if self.uplink:
                self.uplink.stop(wait=False)  # what both send in between the hub takes once
            if uplink:
                uplink.start()
            self.uplink = uplink
            self._no_uplink = ""
            self._config = new
            if self._rest and self._rest[1]:
                self._rest[1].stop(wait=False)
                self._rest = (self._rest[0], self._start_uplink(self._rest[0]))
        self._config = new
        log.warning("settings: new ones hold now")


def _save_reference(state: Path, reference: Pixels) -> None:
    temporary = state / "empty.tmp.png"
    if cv2.imwrite(str(temporary), reference):
        temporary.replace(state / "empty.png")
