"""Puts a bin together from its configuration and runs it; and classifies pictures with the same classifier."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2

from edge_runtime.actuate import SimulatedActuator
from edge_runtime.capture import open_camera
from edge_runtime.classify import Classifier
from edge_runtime.clock import SystemClock
from edge_runtime.config import EdgeConfig
from edge_runtime.health import Health
from edge_runtime.outbox import Outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from edge_runtime.uplink import HttpTransport, Uplink
from vision.datasets import image_paths, read_image
from vision.errors import BinsightError, ImageError, StorageError
from vision.frames import Pixels

log = logging.getLogger(__name__)

_HEALTH_EVERY_MS = 5000.0
_REFERENCE_EVERY_MS = 60_000.0


def run(config: EdgeConfig, drain_s: float = 30.0) -> Health:
    """Run a bin until its camera ends or it gets SIGTERM or SIGINT; return its last health.

    Args:
        config: the bin.
        drain_s: after the camera has ended, how long to wait for the hub to take what is left.

    Raises:
        BinsightError: the bin cannot start; the message says why.
    """
    rules, classifier = load_rules(config.rules), Classifier(config.bundle, config.threads)
    cv2.setNumThreads(1)  # pictures are small: threads cost more than they bring, and they are onnxruntime's
    clock, health = SystemClock(), Health(config.bin_id, model=classifier.manifest.model_id)
    try:
        config.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"state: {config.state} cannot be made ({error.strerror}); name a folder to write to"
        ) from error
    camera, world = open_camera(config.camera, config.state, clock)
    if world and world.ended:
        log.warning(
            "%s: all items of this camera were shown before; only what waits for the hub is sent. "
            "For new items name another folder with --set state=...", config.state / "truth.jsonl",
        )  # fmt: skip
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    with Outbox(config.state / "outbox.sqlite", config.bin_id, config.outbox.max_bytes) as outbox:
        uplink = Uplink(outbox, HttpTransport(config.uplink), config.uplink) if config.uplink.url else None
        trigger = Trigger(config.trigger, _load_reference(config.state))
        housekeeping = _Housekeeping(config.state, trigger, outbox, uplink, health, clock)
        pipeline = Pipeline(
            camera, trigger, classifier, rules, SimulatedActuator(tuple(rules.streams), world), outbox, clock, health,
            housekeeping,
        )  # fmt: skip
        log.info("bin %s: %s, rule book %s", config.bin_id, classifier.manifest.model_id, rules.id)
        if uplink:
            uplink.start()
        try:
            pipeline.run(stop)
            deadline = time.monotonic() + drain_s
            while uplink and outbox.depth() and time.monotonic() < deadline and not stop.is_set():
                stop.wait(0.1)
        finally:
            camera.close()
            if uplink:
                uplink.stop()
            try:
                housekeeping(force=True)
            except (BinsightError, OSError) as error:
                log.error("the last health could not be written: %s", error)
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


class _Housekeeping:
    """Keeps the health file and the picture of the empty chute up to date, rarely."""

    def __init__(
        self, state: Path, trigger: Trigger, outbox: Outbox, uplink: Uplink | None, health: Health, clock: SystemClock
    ) -> None:
        self._state, self._trigger, self._outbox, self._uplink = state, trigger, outbox, uplink
        self._health, self._clock = health, clock
        self._health_due_ms = self._reference_due_ms = 0.0

    def __call__(self, force: bool = False) -> None:
        now_ms = self._clock.now().monotonic_ms
        reference = self._trigger.reference
        if reference is not None and now_ms >= self._reference_due_ms:
            self._reference_due_ms = now_ms + _REFERENCE_EVERY_MS
            _save_reference(self._state, reference)
        if force or now_ms >= self._health_due_ms:
            self._health_due_ms = now_ms + _HEALTH_EVERY_MS
            health, outbox = self._health, self._outbox
            health.outbox_depth, health.dropped, health.quarantined = (
                outbox.depth(),
                outbox.dropped(),
                outbox.quarantined(),
            )
            if self._uplink:
                health.uplink, health.alarm = self._uplink.last_error or "ok", self._uplink.alarm
            health.write(self._state / "health.json")


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
