"""What `binsight edge run --config` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs import CONFIG_FOLDER, Name, StrictModel, Token, Topic

# Two forms of one model: which of them runs, each board finds out by itself
# (edge_runtime/choose.py).
SHIPPED_BUNDLES = Path(__file__).parent / "bundles"
INT8_BUNDLE = SHIPPED_BUNDLES / "int8.onnx"
FLOAT_BUNDLE = SHIPPED_BUNDLES / "float.onnx"


class CameraConfig(StrictModel):
    """Where frames come from.

    Attributes:
        kind: "device" (V4L2 or USB number), "url" (RTSP or MJPEG), "picamera" (Raspberry Pi),
            "file" (video), "folder" (images, each shown as one item), "simulator" (procedural
            items).
        source: device number or its path (/dev/video0, /dev/v4l/by-id/...), file or URL; for
            "folder" the folder (a splits.csv in it is used).
        split: of a folder with a splits.csv; "" takes all images.
        width_px, height_px: asked of a device; size of simulated frames.
        fps: pace of folder and simulator; 0 is as fast as the bin can.
        items: items that folder or simulator show before they end; None for ever. Counted in
            `state`: a bin that is started again goes on where it was.
        labels: labels that the simulator throws in; empty for all.
        seed: of folder order and simulator.
        stale_after_s: a camera without a new frame for so long, or with the same one, is at fault
            and is opened again.
    """

    kind: Literal["device", "url", "picamera", "file", "folder", "simulator"] = "simulator"
    source: str = "0"
    split: str = ""
    width_px: int = Field(default=640, ge=64, le=4096)
    height_px: int = Field(default=480, ge=48, le=4096)
    fps: float = Field(default=10.0, ge=0, le=120)
    items: int | None = Field(default=None, ge=1)
    labels: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)
    stale_after_s: float = Field(default=3.0, gt=0)


class TriggerConfig(StrictModel):
    """When an image shows an item to classify.

    Attributes:
        contrast: relative difference (0.08 is 8 %) of fine structure, or half of that of colour,
            that makes a pixel of the small image "changed"; light that changes smoothly does not
            count.
        noise_factor: the same, in standard deviations of that pixel's own noise; the larger limit
            holds.
        item_share: share of changed pixels against the empty chute that means an item.
        motion_share: share of changed pixels against the last frame that means motion.
        settled_frames: still frames in a row before an item is taken as lying.
        border_frames: the same, for what reaches over the border of the image: an arm rests only
            for a moment.
        empty_frames: still, empty frames in a row that end an item, and that the reference is
            learned from.
        stuck_frames: what lies unmoved after a capture is taken for the empty chute after so many
            frames.
        adapt: share by which the empty reference follows each empty frame: slow light, dirt.
    """

    contrast: float = Field(default=0.08, gt=0)
    noise_factor: float = Field(default=5.0, gt=0)
    item_share: float = Field(default=0.008, gt=0, lt=1)
    motion_share: float = Field(default=0.004, gt=0, lt=1)
    settled_frames: int = Field(default=2, ge=1)
    border_frames: int = Field(default=6, ge=1)
    empty_frames: int = Field(default=2, ge=1)
    stuck_frames: int = Field(default=15, ge=5)
    adapt: float = Field(default=0.05, ge=0, le=1)


class ActuatorConfig(StrictModel):
    """What moves the lid.

    Attributes:
        kind: "simulated", "gpio", "serial" or "mqtt"; extras "gpio", "serial" and "mqtt" bring what
            they need.
        pins: gpio: stream -> BCM number of its output pin; every stream of the rule book.
        alarm_pin: gpio: set when a hazard was thrown in; none if there is no such lamp.
        hold_s: gpio: how long a flap is held open.
        port, baud: serial: device and speed of the lid's controller.
        url, topic: mqtt: broker, e.g. mqtt://user:word@127.0.0.1:1883, and what the topics begin
            with.
        timeout_s: serial and mqtt: how long the controller may take to answer; then it is a fault.
    """

    kind: Literal["simulated", "gpio", "serial", "mqtt"] = "simulated"
    pins: Mapping[str, int] = Field(default_factory=dict)
    alarm_pin: int | None = None
    hold_s: float = Field(default=1.0, gt=0, le=30)
    port: str = "/dev/ttyUSB0"
    baud: int = Field(default=115200, ge=300)
    url: str | None = Field(default=None, pattern=r"^mqtts?://[^\s/]+$")
    topic: Topic = "binsight/lid"
    timeout_s: float = Field(default=5.0, gt=0)


class OutboxConfig(StrictModel):
    """The durable queue.

    Attributes:
        max_bytes: size of the database file at most; when full the oldest events go, counted.
    """

    max_bytes: int = Field(default=64 * 1024 * 1024, ge=256 * 1024)


class UplinkConfig(StrictModel):
    """The way to the hub.

    Attributes:
        url: of the hub, e.g. https://hub.example.org, or of a broker that the hub listens to, e.g.
            mqtts://broker.example.org (extra "mqtt"); None keeps everything in the outbox.
        token: bearer token, if the hub asks for one.
        ca: file of the certificates to trust, for a hub with one of its own; None trusts the public
            ones.
        batch_events: events in one request at most.
        interval_s: pause between looks into an empty outbox.
        timeout_s: of one request.
        backoff_max_s: longest pause after failures; pauses double, with jitter.
    """

    url: str | None = Field(default=None, pattern=r"^(https?|mqtts?)://[^\s/]+(/\S*)?$")
    token: Token | None = None
    ca: Path | None = None
    batch_events: int = Field(default=100, ge=1, le=10_000)
    interval_s: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)
    backoff_max_s: float = Field(default=300.0, gt=0)


class LogConfig(StrictModel):
    """Where the log goes beside standard error, which systemd's journal bounds by itself.

    Attributes:
        path: file; None for none.
        max_bytes, files: it is begun again at this size, and so many old ones are kept.
    """

    path: Path | None = None
    max_bytes: int = Field(default=1_000_000, ge=10_000)
    files: int = Field(default=3, ge=1, le=100)


class ViewConfig(StrictModel):
    """The page for a technician beside the bin.

    Attributes:
        port: it is served there; None serves none, 0 takes a free one.
        host: 127.0.0.1 shows it on the bin alone, to be reached through ssh; the page has no
            password.
    """

    port: int | None = Field(default=None, ge=0, le=65535)
    host: str = "127.0.0.1"


class EdgeConfig(StrictModel):
    """The whole of one bin.

    Attributes:
        bin_id: the operator's name for this bin.
        state: folder of what must survive: outbox, empty reference, health, the simulator's truth.
        bundle: model bundle, or a folder of several forms of one model: the fastest here that gives
            its expected output is run.
        rules: rule book: a file, or the name of one that ships, e.g. "eu-low".
        threads: of onnxruntime; two by default, one on a board of one core.
        max_frames_per_item: frames of one item that are classified at most; one that is clear at
            the first look is served at once.
        host_power_w: what the board draws while it computes, watts; energy per item is estimated
            with it.
    """

    bin_id: Name = Field(default="bin-001", min_length=1, max_length=128)
    state: Path = Path("runs/bin")
    bundle: Path = SHIPPED_BUNDLES
    rules: Path = CONFIG_FOLDER / "rules" / "eu-low.yaml"
    threads: int = Field(default_factory=lambda: min(2, os.cpu_count() or 1), ge=1, le=64)
    max_frames_per_item: int = Field(default=3, ge=1, le=10)
    host_power_w: float = Field(default=5.0, ge=0)
    camera: CameraConfig = CameraConfig()
    trigger: TriggerConfig = TriggerConfig()
    actuator: ActuatorConfig = ActuatorConfig()
    outbox: OutboxConfig = OutboxConfig()
    uplink: UplinkConfig = UplinkConfig()
    log: LogConfig = LogConfig()
    view: ViewConfig = ViewConfig()
