"""The whole bin on one screen: open the parts, list the services, loop, close."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2

from edge_runtime import host
from edge_runtime.bin import Parts, Timing
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.cameras.factory import open_camera
from edge_runtime.cameras.recorder import Recorder
from edge_runtime.classify import Classifier
from edge_runtime.clock import Clock, SystemClock
from edge_runtime.config import EdgeConfig
from edge_runtime.delivery import Connect, Delivery
from edge_runtime.guard import Faults
from edge_runtime.lids.actuator import Actuator
from edge_runtime.lids.factory import open_lid
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import RuleBook, load_rules
from edge_runtime.services.hazard import Hazard
from edge_runtime.services.health import Health, HealthReport
from edge_runtime.services.notes import Notes
from edge_runtime.services.reference import Reference, read_reference
from edge_runtime.services.reload import Reload
from edge_runtime.services.runner import Runner, Service
from edge_runtime.services.watchdog import Watchdog
from edge_runtime.start import choose_bundle, claim_state, listen_to_signals, log_to_file
from edge_runtime.transports.factory import open_transport
from edge_runtime.trigger import Trigger
from edge_runtime.view.page import Page
from edge_runtime.view.server import open_view
from vision.decision import DecisionKind
from vision.errors import CameraError
from vision.events import ItemEvent
from vision.frames import Camera
from vision.simulator.world import World

log = logging.getLogger(__name__)


def run(
    config: EdgeConfig,
    drain_s: float = 30.0,
    reload: Callable[[], EdgeConfig] | None = None,
    record: Path | None = None,
    timing: Timing = Timing(),
    connect: Connect = open_transport,
) -> Health:
    """Run a bin until its camera ends or it gets SIGTERM or SIGINT; return its last health.

    Args:
        config: the bin.
        drain_s: after the camera has ended, how long to wait for the hub to take what is left.
        reload: reads the settings again, at SIGHUP; None ignores it.
        record: file for a recording of what the camera sees, to be replayed.
        timing: periods and pauses.
        connect: opens the way to the hub.

    Raises:
        BinsightError: the bin cannot start; the message says why.
    """
    stop, asked = listen_to_signals()
    rules = load_rules(config.rules)
    cv2.setNumThreads(1)  # images are small: threads cost more than they bring
    clock = SystemClock()
    faults = Faults()
    with ExitStack() as opened:
        claim_state(config.state, opened)
        chosen, config, problems = choose_bundle(config)
        problems += log_to_file(config)
        delivery = Delivery(config, clock, timing, connect)
        opened.callback(delivery.close)
        camera, world = _camera(config, clock, record, opened)
        actuator = Actuator(open_lid(config.actuator, tuple(rules.streams), world))
        parts = _parts(config, camera, actuator, chosen.classifier, rules, clock)
        pipeline = Pipeline(parts, timing)
        opened.callback(pipeline.close)
        hazard = Hazard(config.state, actuator, timing)
        view = open_view(config.view, opened, problems)
        settings = Reload(config, pipeline, delivery, chosen, problems, asked, reload)
        report = HealthReport(config, pipeline, delivery, hazard, settings, faults, timing)
        services: list[Service] = [Watchdog(pipeline, timing), settings, delivery, hazard]
        reference = Reference(pipeline, config.state, timing)
        services += [reference, report, Notes(config, pipeline, delivery, report, timing)]
        if view:
            view.show(pipeline.snapshot, report.current())
            services.append(Page(view, pipeline, report))
        runner = Runner(services, faults)
        log.info("bin %s: %s, rule book %s", config.bin_id, chosen.reason, rules.id)
        host.notify("READY=1")
        loop = Loop(pipeline, delivery, hazard, runner, timing)
        try:
            loop.run(stop)
            loop.drain(stop, drain_s)
        finally:
            host.notify("STOPPING=1")
            runner.step_now(report, clock.now().monotonic_ms)
    if world and world.missed:
        log.warning("%d items were not seen or not readable; see truth.jsonl", world.missed)
    return report.current()


class Loop:
    """One frame after the other; between frames, the services.

    Args:
        pipeline, delivery, hazard: what an item passes.
        runner: of the services.
        timing: pause after a frame that could not be had or served.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        delivery: Delivery,
        hazard: Hazard,
        runner: Runner,
        timing: Timing,
    ) -> None:
        self._pipeline = pipeline
        self._delivery = delivery
        self._hazard = hazard
        self._runner = runner
        self._timing = timing
        self._ended = False
        self._no_frame = False

    def run(self, stop: threading.Event) -> None:
        """Serve until the camera ends or `stop` is set; a fault is counted and the bin goes on."""
        while not (stop.is_set() or self._ended):
            good = self._runner.attempt("the bin's loop", self._serve)
            if not good:
                self._runner.attempt("the bin's loop", self._finish)
                self._runner.attempt("the bin's loop", self._pipeline.open_if_long_blind)
            if self._no_frame or not good:
                stop.wait(self._timing.retry_s)
            if not self._pipeline.busy:  # nothing slow while a person waits
                self._run_services()
        self._runner.attempt("the bin's loop", self._finish)

    def drain(self, stop: threading.Event, drain_s: float) -> None:
        """Wait for the hub to take what is left, `drain_s` seconds at most."""
        clock = self._pipeline.parts.clock
        end_ms = clock.now().monotonic_ms + 1000 * drain_s
        while self._delivery.connected and self._delivery.depth() and not stop.is_set():
            if clock.now().monotonic_ms >= end_ms:
                return
            stop.wait(0.1)
            self._run_services()

    def _serve(self) -> None:
        """Take in one frame, and store the event of the item that was served by it."""
        self._no_frame = False
        try:
            frame = self._pipeline.parts.camera.read()
        except CameraError as error:
            self._no_frame = True
            event = self._pipeline.without_frame(str(error))
        else:
            self._ended = frame is None
            event = self._pipeline.step(frame) if frame else self._pipeline.finish()
        self._store(event)

    def _finish(self) -> None:
        """Serve an item that waits for a frame which will not come."""
        self._store(self._pipeline.finish())

    def _store(self, event: ItemEvent | None) -> None:
        if event is None:
            return
        self._delivery.append(event)
        if event.decision == DecisionKind.HAZARD:  # stored before the alarm, which may take seconds
            self._delivery.hurry()
            self._hazard.report(event.reason)
            self._runner.hurry()

    def _run_services(self) -> None:
        self._runner.step(self._pipeline.parts.clock.now().monotonic_ms)


def _parts(
    config: EdgeConfig,
    camera: Camera,
    actuator: Actuator,
    classifier: Classifier,
    rules: RuleBook,
    clock: Clock,
) -> Parts:
    return Parts(
        camera=camera,
        monitor=CameraMonitor(config.camera.stale_after_s, config.state / "lens.json"),
        trigger=Trigger(config.trigger, read_reference(config.state)),
        classifier=classifier,
        rules=rules,
        actuator=actuator,
        clock=clock,
        max_frames_per_item=config.max_frames_per_item,
        host_power_w=config.host_power_w,
    )


def _camera(
    config: EdgeConfig, clock: Clock, record: Path | None, opened: ExitStack
) -> tuple[Camera, World | None]:
    camera, world = open_camera(config.camera, config.state, clock)
    if record:
        camera = Recorder(camera, record, getattr(config.camera, "fps", 0) or 10.0)
    opened.callback(camera.close)
    if world and world.ended:
        log.warning(
            "%s: all items of this camera were shown before; only what waits for the hub is sent. "
            "For new items name another folder with --set state=...",
            config.state / "truth.jsonl",
        )
    return camera, world
