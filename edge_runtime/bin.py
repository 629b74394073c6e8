"""What a bin is made of: one frozen value. A reload builds a new one and swaps it whole."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.classify import Classifier
from edge_runtime.clock import Clock
from edge_runtime.lids.actuator import Actuator
from edge_runtime.rules import RuleBook
from edge_runtime.trigger import Trigger
from vision.frames import Camera


@dataclass(frozen=True, slots=True)
class Timing:
    """Periods and pauses of a bin.

    Attributes:
        retry_s: after a frame that could not be had or served.
        blind_opens_ms: a bin that does not see, or before which nothing rests, empties its chute to
            the fallback so often: people go on throwing, and flaps wear.
        watchdog_ms: systemd hears so often that the loop lives.
        health_ms: the health file is written so often.
        reference_ms: the image of the empty chute is written so often.
        disk_retry_ms: a disk that refused is tried again so often.
        uplink_retry_ms: an uplink that could not be opened is tried again after it.
        alarm_retry_ms: an alarm that failed is given again after it; the pause doubles.
        alarm_retry_max_ms: longest such pause.
    """

    retry_s: float = 0.5
    blind_opens_ms: float = 300_000.0
    watchdog_ms: float = 5_000.0
    health_ms: float = 5_000.0
    reference_ms: float = 60_000.0
    disk_retry_ms: float = 5_000.0
    uplink_retry_ms: float = 60_000.0
    alarm_retry_ms: float = 5_000.0
    alarm_retry_max_ms: float = 600_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts that an item passes, each given from outside.

    Attributes:
        camera: where frames come from.
        monitor: whether they show anything.
        trigger: whether an item rests there.
        classifier: what it is.
        rules: where it goes.
        actuator: moves it there.
        clock: gives the time.
        max_frames_per_item: frames of one item that are classified at most.
        host_power_w: what the host draws while it computes, watts.
    """

    camera: Camera
    monitor: CameraMonitor
    trigger: Trigger
    classifier: Classifier
    rules: RuleBook
    actuator: Actuator
    clock: Clock
    max_frames_per_item: int = 3
    host_power_w: float = 0.0
