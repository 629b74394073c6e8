"""Puts a bin together from its configuration and runs it.

And classifies images with the same classifier.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import logging.handlers
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import cv2

from edge_runtime import host
from edge_runtime.actuate import Actuator, open_lid
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.capture import Recorder, open_camera
from edge_runtime.choose import Chosen, choose
from edge_runtime.clock import SystemClock
from edge_runtime.config import SHIPPED_BUNDLES, EdgeConfig
from edge_runtime.health import Health, remembered_hazard
from edge_runtime.keeper import Keeper
from edge_runtime.outbox import open_outbox
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from edge_runtime.trigger import Trigger
from edge_runtime.view import View
from vision.datasets import read_image, scan, shown
from vision.errors import BinsightError, BundleError, ConfigError, ImageError, StorageError
from vision.frames import Pixels

log = logging.getLogger(__name__)


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
        record: recording of what the camera sees, to be replayed.

    Raises:
        BinsightError: the bin cannot start; the message says why.
    """
    stop = threading.Event()
    reload_asked = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    rules = load_rules(config.rules)
    cv2.setNumThreads(
        1
    )  # images are small: threads cost more than they bring, and they are onnxruntime's
    claimed = _claim(config.state)
    chosen, refused = _chosen(config)
    host.give_memory_back()
    classifier = chosen.classifier
    clock = SystemClock()
    health = Health(config.bin_id, model=classifier.manifest.model_id, bundle=chosen.reason)
    try:
        _log_to_file(config)
    except OSError as error:
        health.settings = f"log.path: {config.log.path} cannot be written ({error.strerror}); no log is kept there"
        log.error("%s", health.settings)
    if refused:
        health.settings = refused
        log.error("%s", refused)
        config = config.model_copy(
            update={"bundle": SHIPPED_BUNDLES}
        )  # so that a reload tries the other again
    camera, world = open_camera(config.camera, config.state, clock)
    if record:
        camera = Recorder(camera, record, config.camera.fps or 10.0)
    if world and world.ended:
        log.warning(
            "%s: all items of this camera were shown before; only what waits for the hub is sent. "
            "For new items name another folder with --set state=...",
            config.state / "truth.jsonl",
        )
    actuator = Actuator(open_lid(config.actuator, tuple(rules.streams), world), rules.fallback)
    outbox, health.storage = open_outbox(
        config.state / "outbox.sqlite", config.bin_id, config.outbox.max_bytes
    )
    if health.storage:
        log.error("%s", health.storage)
    if reason := remembered_hazard(config.state):
        health.hazard = reason
        log.warning(
            "hazard before this start: %s; once it is out: binsight edge hazard-gone", reason
        )
    pipeline = Pipeline(
        camera,
        CameraMonitor(config.camera.stale_after_s, config.state / "lens.json"),
        Trigger(config.trigger, _load_reference(config.state)),
        classifier,
        rules,
        actuator,
        outbox,
        clock,
        health,
        config.max_frames_per_item,
        config.host_power_w,
    )
    if health.hazard:
        pipeline.give_alarm()
    keeper = Keeper(config, pipeline, reload_asked, reload)
    pipeline.every_frame = keeper.keep
    pipeline.on_hazard = keeper.take_hazard
    pipeline.without_disk = keeper.without_disk
    view = _view(config, pipeline)
    log.info("bin %s: %s (%s), rule book %s", config.bin_id, health.model, chosen.reason, rules.id)
    host.notify("READY=1")
    try:
        pipeline.run(stop)
        deadline = time.monotonic() + drain_s
        while (
            keeper.uplink and keeper.waiting() and time.monotonic() < deadline and not stop.is_set()
        ):
            stop.wait(0.1)
    finally:
        host.notify("STOPPING=1")
        camera.close()
        actuator.close()
        if view:
            view.close()
        try:
            keeper.write_health()
        except (BinsightError, OSError) as error:
            log.error("the last health could not be written: %s", error)
        keeper.close()
        if claimed:
            claimed.close()
    if world and world.missed:
        log.warning(
            "%d items lay in the chute unnoticed or could not be read; see truth.jsonl",
            world.missed,
        )
    return health


def classify_paths(
    paths: Iterable[Path], bundle: Path, threads: int = 2
) -> Iterator[dict[str, Any]]:
    """Classify images and folders of images, one row each.

    Yields:
        path, label, confidence, unknown_score, decision, probabilities; or path and error for what
        cannot be read.

    Raises:
        BundleError: the bundle must not be run.
    """
    classifier = choose(bundle, threads).classifier
    for path in paths:
        images, others = scan(path) if path.is_dir() else ([path], {})
        if others:
            log.warning(
                "%s: left out: %s",
                shown(path),
                ", ".join(f"{n} {what}" for what, n in sorted(others.items())),
            )
        if not images:
            yield {"path": str(path), "error": f"{path}: no image in this folder"}
        for image in images:
            try:
                pixels = read_image(image)
            except ImageError as error:
                yield {"path": str(image), "error": str(error)}
                continue
            result = classifier.classify(pixels)
            yield {
                "path": str(image),
                "label": result.prediction.label,
                "confidence": result.prediction.confidence,
                "unknown_score": result.prediction.unknown_score,
                "decision": result.decision.kind,
                "probabilities": dict(result.prediction.probabilities),
            }


def _claim(state: Path) -> TextIO | None:
    """Make the state folder and hold it for this bin alone, until the file that is returned is closed.

    A disk that takes nothing cannot be held, and need not be: the bin serves on and writes nothing
    there.

    Raises:
        StorageError: another bin runs on it, or it cannot be made.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / ".lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            f"state: a bin runs on {state} already; to look at it set view.port in its settings, "
            "or name another folder"
        ) from error
    except OSError as error:
        if state.is_dir() and error.errno in (errno.EROFS, errno.ENOSPC):
            log.error("state: %s cannot be written (%s)", state, error.strerror)
            return None
        raise StorageError(
            f"state: {state} cannot be written ({error.strerror}); name a folder to write to"
        ) from error
    return file


def _chosen(config: EdgeConfig) -> tuple[Chosen, str]:
    """Open the bundle, or what ships in place of a damaged one: a worn card must not close a bin.

    Returns:
        What runs, and "" or what the bundle that was asked for lacks.

    Raises:
        BundleError: nothing can be run.
    """
    try:
        chosen = choose(config.bundle, config.threads, config.state)
    except BundleError as error:
        if config.bundle == SHIPPED_BUNDLES:
            raise
        return choose(
            SHIPPED_BUNDLES, config.threads, config.state
        ), f"bundle: {error} What ships is run instead."
    return chosen, "; ".join(f"bundle: {message}" for message in chosen.refused)


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


def _load_reference(state: Path) -> Pixels | None:
    """Return the empty chute from before a restart, so that an item that lay there meanwhile is still seen as one."""
    path = state / "empty.png"
    if not path.is_file():
        return None
    try:
        return read_image(path)
    except ImageError as error:
        log.warning("%s; learning the empty chute again", error)
        return None
