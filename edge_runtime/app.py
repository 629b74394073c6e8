"""Puts a bin together from its configuration and runs it; and classifies pictures with the same classifier."""

from __future__ import annotations

import errno
import fcntl
import logging
import logging.handlers
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import cv2

from edge_runtime import board
from edge_runtime.actuate import Actuator, open_lid
from edge_runtime.capture import Recorder, open_camera
from edge_runtime.classify import Classifier
from edge_runtime.clock import SystemClock
from edge_runtime.config import DEFAULT_BUNDLE, EdgeConfig
from edge_runtime.eyesight import Eyesight
from edge_runtime.health import Health, days_left, remember_hazard, remembered_hazard
from edge_runtime.outbox import open_outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from edge_runtime.uplink import Uplink, open_transport
from edge_runtime.view import View
from vision.datasets import image_paths, read_image
from vision.errors import BinsightError, BundleError, ConfigError, ImageError, StorageError
from vision.frames import Pixels

log = logging.getLogger(__name__)

_HEALTH_EVERY_S, _REFERENCE_EVERY_S, _WATCHDOG_EVERY_S = 5.0, 60.0, 5.0
# These belong to what is open; all other settings can change while the bin runs.
_FIXED = ("bin_id", "state", "camera", "actuator", "outbox", "log", "view")


def run(
    config: EdgeConfig,
    drain_s: float = 30.0,
    reload: Callable[[], EdgeConfig] | None = None,
    record: Path | None = None,
) -> Health:
    """Run a bin until its camera ends or it gets SIGTERM or SIGINT; return its last health.

    Args:
        config: the bin.
        drain_s: after the camera has ended, how long to wait for the hub to take what is left.
        reload: reads the settings again, at SIGHUP; None ignores it.
        record: film of what the camera sees, to be replayed.

    Raises:
        BinsightError: the bin cannot start; the message says why.
    """
    stop, reload_asked = threading.Event(), threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    rules, (classifier, refused) = load_rules(config.rules), _classifier(config)
    cv2.setNumThreads(1)  # pictures are small: threads cost more than they bring, and they are onnxruntime's
    clock, health = SystemClock(), Health(config.bin_id, model=classifier.manifest.model_id)
    claimed = _claim(config.state)
    try:
        _log_to_file(config)
    except OSError as error:
        health.settings = f"log.path: {config.log.path} cannot be written ({error.strerror}); no log is kept there"
        log.error("%s", health.settings)
    if refused:
        health.settings = refused
        log.error("%s", refused)
        config = config.model_copy(update={"bundle": DEFAULT_BUNDLE})  # so that a reload tries the other again
    camera, world = open_camera(config.camera, config.state, clock)
    if record:
        camera = Recorder(camera, record, config.camera.fps or 10.0)
    if world and world.ended:
        log.warning(
            "%s: all items of this camera were shown before; only what waits for the hub is sent. "
            "For new items name another folder with --set state=...", config.state / "truth.jsonl",
        )  # fmt: skip
    actuator = Actuator(open_lid(config.actuator, tuple(rules.streams), world), rules.fallback)
    outbox, health.storage = open_outbox(config.state / "outbox.sqlite", config.bin_id, config.outbox.max_bytes)
    if health.storage:
        log.error("%s", health.storage)
    if reason := remembered_hazard(config.state):
        health.hazard = reason
        log.warning("hazard before this start: %s; once it is out: binsight edge hazard-gone", reason)
    pipeline = Pipeline(
        camera, Eyesight(config.camera.stale_after_s, config.state / "lens.json"),
        Trigger(config.trigger, _load_reference(config.state)), classifier, rules, actuator, outbox, clock, health,
        config.looks, config.board_w,
    )  # fmt: skip
    if health.hazard:
        pipeline.give_alarm()
    keeper = _Keeper(config, pipeline, reload_asked, reload)
    pipeline.every_frame, pipeline.on_hazard = keeper.keep, keeper.take_hazard
    view = _view(config, pipeline)
    log.info("bin %s: %s, rule book %s", config.bin_id, classifier.manifest.model_id, rules.id)
    board.notify("READY=1")
    try:
        pipeline.run(stop)
        deadline = time.monotonic() + drain_s
        while keeper.uplink and pipeline.outbox.depth() and time.monotonic() < deadline and not stop.is_set():
            stop.wait(0.1)
    finally:
        board.notify("STOPPING=1")
        camera.close()
        actuator.close()
        if view:
            view.close()
        if keeper.uplink:
            keeper.uplink.stop()
        try:
            keeper.write_health()
        except (BinsightError, OSError) as error:
            log.error("the last health could not be written: %s", error)
        pipeline.outbox.close()
        if claimed:
            claimed.close()
    if world and world.missed:
        log.warning("%d items lay in the chute unnoticed or could not be read; see truth.jsonl", world.missed)
    return health


def classify_paths(paths: Iterable[Path], bundle: Path, threads: int = 2) -> Iterator[dict[str, Any]]:
    """Classify pictures and folders of pictures, one row each.

    Yields:
        path, label, confidence, unknown_score, decision, probabilities; or path and error for what cannot be read.

    Raises:
        BundleError: the bundle must not be run.
    """
    classifier = Classifier(bundle, threads)
    for path in paths:
        pictures = image_paths(path) if path.is_dir() else [path]
        if not pictures:
            yield {"path": str(path), "error": f"{path}: no picture in this folder"}
        for picture in pictures:
            try:
                pixels = read_image(picture)
            except ImageError as error:
                yield {"path": str(picture), "error": str(error)}
                continue
            result = classifier.classify(pixels)
            yield {
                "path": str(picture),
                "label": result.prediction.label,
                "confidence": result.prediction.confidence,
                "unknown_score": result.prediction.unknown_score,
                "decision": result.decision.kind,
                "probabilities": dict(result.prediction.probabilities),
            }


class _Keeper:
    """What a bin does between frames, rarely: health, the picture of the empty chute, systemd's watchdog, new settings.

    Attributes:
        uplink: the way to the hub, if one is configured.
    """

    def __init__(
        self,
        config: EdgeConfig,
        pipeline: Pipeline,
        reload_asked: threading.Event,
        reload: Callable[[], EdgeConfig] | None,
    ) -> None:
        self._config, self._pipeline, self._reload_asked, self._reload = config, pipeline, reload_asked, reload
        self._started_s = time.monotonic()
        self._health_due_s = self._reference_due_s = self._watchdog_due_s = 0.0
        self.uplink = self._new_uplink(config)
        if self.uplink:
            self.uplink.start()

    def keep(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        # A driver that never comes back from a read cannot be helped from here: systemd starts the process anew.
        if now_s >= self._watchdog_due_s and not getattr(self._pipeline.camera, "hung", False):
            self._watchdog_due_s = now_s + _WATCHDOG_EVERY_S
            board.notify(
                f"WATCHDOG=1\nSTATUS=camera {self._pipeline.health.camera}, {self._pipeline.health.items} items"
            )
        if self._reload_asked.is_set():
            self._reload_asked.clear()
            self._take_new_settings()
        reference = self._pipeline.trigger.reference
        if reference is not None and now_s >= self._reference_due_s:
            self._reference_due_s = now_s + _REFERENCE_EVERY_S
            _save_reference(self._config.state, reference)
            self._pipeline.eyesight.remember()
        if now_s >= self._health_due_s:
            self._health_due_s = now_s + _HEALTH_EVERY_S
            if self._pipeline.health.alarm_failed:
                self._pipeline.give_alarm()
            if self._pipeline.outbox.in_memory:
                self._return_to_disk()
            self.write_health()

    def take_hazard(self) -> None:
        """Send it without waiting, and note it for after a power cut."""
        if self.uplink:
            self.uplink.hurry()
        remember_hazard(self._config.state, self._pipeline.health.hazard)

    def write_health(self) -> None:
        """Read every gauge and replace the health file."""
        health, outbox, uptime_s = self._pipeline.health, self._pipeline.outbox, time.monotonic() - self._started_s
        try:
            full_share, health.outbox_depth = outbox.full_share(), outbox.depth()
            health.outbox_full_pct = round(100 * full_share, 2)
            health.outbox_days_left = days_left(full_share, health.outbox_depth, health.items, uptime_s)
            health.dropped, health.quarantined = outbox.dropped(), outbox.quarantined()
        except StorageError as error:  # all else must still be told
            health.storage = str(error)
        health.uplink, health.alarm = "off", ""
        if self.uplink:
            health.uplink, health.alarm = self.uplink.last_error or "ok", self.uplink.alarm
        health.clock_synced, health.uptime_s = self._pipeline.clock.now().clock_synced, int(uptime_s)
        health.resident_mb, health.disk_free_mb = (
            board.resident_mb(),
            shutil.disk_usage(self._config.state).free // 10**6,
        )
        health.temperature_c, health.throttled = board.temperature_c(), board.throttled()
        health.energy_wh = round(self._pipeline.board_w * time.process_time() / 3600, 4)
        health.write(self._config.state / "health.json")

    def _return_to_disk(self) -> None:
        """Move the events held in memory to the disk, if it takes them now."""
        pipeline, memory = self._pipeline, self._pipeline.outbox
        outbox, words = open_outbox(self._config.state / "outbox.sqlite", self._config.bin_id, memory.max_bytes)
        if outbox.in_memory:
            outbox.close()
            return
        if self.uplink:
            self.uplink.stop()
        try:
            while (batch := memory.peek(100)) is not None:
                for number, event in batch.events:
                    outbox.append(event)
                    memory.ack(number)
            pipeline.outbox, pipeline.health.storage = outbox, words
            memory.close()
        except StorageError as error:  # full again: the rest stays in memory
            pipeline.health.storage = str(error)
            outbox.close()
        self.uplink = self._new_uplink(self._config)
        if self.uplink:
            self.uplink.start()

    def _new_uplink(self, config: EdgeConfig) -> Uplink | None:
        if not config.uplink.url:
            return None
        pipeline = self._pipeline
        return Uplink(pipeline.outbox, open_transport(config.uplink), config.uplink, pipeline.clock)

    def _take_new_settings(self) -> None:
        """Put new settings in place of the old ones, all or none: what does not hold leaves the bin as it was."""
        if self._reload is None:
            return
        pipeline, old = self._pipeline, self._config
        try:
            new = self._reload()
            if later := [name for name in _FIXED if getattr(new, name) != getattr(old, name)]:
                raise ConfigError(f"{', '.join(later)}: cannot change while the bin runs; restart it")
            rules = load_rules(new.rules)
            if set(rules.streams) != set(pipeline.rules.streams):
                raise ConfigError("rules: the new book has other streams than the lid; restart the bin")
            same = (new.bundle, new.threads) == (old.bundle, old.threads)
            classifier = pipeline.classifier if same else Classifier(new.bundle, new.threads)
            uplink = self.uplink if new.uplink == old.uplink else self._new_uplink(new)
        except (BinsightError, OSError) as error:
            pipeline.health.settings = f"the old ones hold: {error}"
            log.error("settings: %s", pipeline.health.settings)
            return
        pipeline.rules, pipeline.classifier, pipeline.trigger.config = rules, classifier, new.trigger
        pipeline.actuator.fallback = rules.fallback
        pipeline.looks, pipeline.board_w = new.looks, new.board_w
        pipeline.health.model, pipeline.health.settings = classifier.manifest.model_id, "ok"
        if uplink is not self.uplink:
            if self.uplink:
                self.uplink.stop(wait=False)  # what both send in between the hub takes once
            if uplink:
                uplink.start()
            self.uplink = uplink
        self._config = new
        log.warning("settings: new ones hold now")


def _claim(state: Path) -> TextIO | None:
    """Make the state folder and hold it for this bin alone, until the file that is returned is closed.

    A disk that takes nothing cannot be held, and need not be: the bin serves on and writes nothing there.

    Raises:
        StorageError: another bin runs on it, or it cannot be made.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / ".lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            f"state: a bin runs on {state} already; to look at it set view.port in its settings, or name another folder"
        ) from error
    except OSError as error:
        if state.is_dir() and error.errno in (errno.EROFS, errno.ENOSPC):
            log.error("state: %s cannot be written (%s)", state, error.strerror)
            return None
        raise StorageError(f"state: {state} cannot be written ({error.strerror}); name a folder to write to") from error
    return file


def _classifier(config: EdgeConfig) -> tuple[Classifier, str]:
    """Open the bundle, or the one that ships in place of a damaged one: a worn card must not close a bin.

    Returns:
        The classifier, and "" or what the bundle that was asked for lacks.

    Raises:
        BundleError: neither can be run.
    """
    try:
        return Classifier(config.bundle, config.threads), ""
    except BundleError as error:
        if config.bundle == DEFAULT_BUNDLE:
            raise
        return Classifier(DEFAULT_BUNDLE, config.threads), f"bundle: {error} The bundle that ships is run instead."


def _view(config: EdgeConfig, pipeline: Pipeline) -> View | None:
    """Serve the page, if it is asked for; that its port is taken must not keep a bin from serving people."""
    if config.view.port is None:
        return None
    try:
        return View(config.view, pipeline)
    except ConfigError as error:
        pipeline.health.settings = str(error)
        log.error("%s", error)
        return None


def _log_to_file(config: EdgeConfig) -> None:
    if config.log.path is None:
        return
    config.log.path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        config.log.path, maxBytes=config.log.max_bytes, backupCount=config.log.files
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)


def _save_reference(state: Path, reference: Pixels) -> None:
    temporary = state / "empty.tmp.png"
    if cv2.imwrite(str(temporary), reference):
        temporary.replace(state / "empty.png")


def _load_reference(state: Path) -> Pixels | None:
    """Return the empty chute from before a restart, so that an item that lay there meanwhile is still seen as one."""
    path = state / "empty.png"
    if not path.is_file():
        return None
    try:
        return read_image(path)
    except ImageError as error:
        log.warning("%s; learning the empty chute anew", error)
        return None
