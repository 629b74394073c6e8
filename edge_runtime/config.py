"""What `binsight edge run --config` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from configs import CONFIG_FOLDER, Name, StrictModel, Token, Topic, by_kind, kind_or
from vision.enrolment import MAX_CODE_CHARACTERS

# Two forms of one model: which of them runs, each board finds out by itself
# (edge_runtime/choose.py).
SHIPPED_BUNDLES = Path(__file__).parent / "bundles"
INT8_BUNDLE = SHIPPED_BUNDLES / "int8.onnx"
FLOAT_BUNDLE = SHIPPED_BUNDLES / "float.onnx"


class _CameraConfig(StrictModel):
    """What every camera has.

    Attributes:
        stale_after_s: a camera without a new frame for so long, or with the same one, is at fault
            and is opened again.
    """

    stale_after_s: float = Field(default=3.0, gt=0)


class DeviceCameraConfig(_CameraConfig):
    """A camera at the host: V4L2, USB.

    Attributes:
        source: number of the device, or its path (/dev/video0, /dev/v4l/by-id/...).
        width_px, height_px: asked of it.
    """

    kind: Literal["device"] = "device"
    source: str = "0"
    width_px: int = Field(default=640, ge=64, le=4096)
    height_px: int = Field(default=480, ge=48, le=4096)


class UrlCameraConfig(_CameraConfig):
    """A camera in the network.

    Attributes:
        source: its address, RTSP or MJPEG.
    """

    kind: Literal["url"] = "url"
    source: str


class PiCameraConfig(_CameraConfig):
    """The Raspberry Pi's camera.

    Attributes:
        width_px, height_px: asked of it.
    """

    kind: Literal["picamera"] = "picamera"
    width_px: int = Field(default=640, ge=64, le=4096)
    height_px: int = Field(default=480, ge=48, le=4096)


class FileCameraConfig(_CameraConfig):
    """A video file, each frame once.

    Attributes:
        source: path of the file.
    """

    kind: Literal["file"] = "file"
    source: str


class _SimulatedCameraConfig(_CameraConfig):
    """A camera over a simulated chute.

    Attributes:
        width_px, height_px: of the frames.
        fps: pace; 0 is as fast as the bin can.
        items: items that are shown before the camera ends; None for ever, or once through a
            folder. Counted in `state`: a bin that is started again goes on where it was.
        seed: of the order and of all that is drawn.
    """

    width_px: int = Field(default=640, ge=64, le=4096)
    height_px: int = Field(default=480, ge=48, le=4096)
    fps: float = Field(default=10.0, ge=0, le=120)
    items: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)


class FolderCameraConfig(_SimulatedCameraConfig):
    """Images of a folder, each shown as one item.

    Attributes:
        source: the folder; a splits.csv in it is used.
        split: of a folder with a splits.csv; "" takes all images.
    """

    kind: Literal["folder"] = "folder"
    source: str
    split: str = ""


class SimulatorCameraConfig(_SimulatedCameraConfig):
    """Procedural items.

    Attributes:
        labels: labels that are thrown in; empty for all.
    """

    kind: Literal["simulator"] = "simulator"
    labels: tuple[str, ...] = ()


CameraConfig = Annotated[
    Annotated[DeviceCameraConfig, Tag("device")]
    | Annotated[UrlCameraConfig, Tag("url")]
    | Annotated[PiCameraConfig, Tag("picamera")]
    | Annotated[FileCameraConfig, Tag("file")]
    | Annotated[FolderCameraConfig, Tag("folder")]
    | Annotated[SimulatorCameraConfig, Tag("simulator")],
    by_kind(kind_or("simulator"), "device", "url", "picamera", "file", "folder", "simulator"),
]


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


class SimulatedLidConfig(StrictModel):
    """A lid that clears the simulated chute; on a real bin nothing moves."""

    kind: Literal["simulated"] = "simulated"


class GpioLidConfig(StrictModel):
    """Flaps on pins of the host; extra "gpio".

    Attributes:
        pins: stream -> BCM number of its output pin; every stream of the rule book.
        alarm_pin: set when a hazard was thrown in; None if there is no such lamp.
        hold_s: how long a flap is held open.
    """

    kind: Literal["gpio"] = "gpio"
    pins: Mapping[str, int] = Field(default_factory=dict)
    alarm_pin: int | None = None
    hold_s: float = Field(default=1.0, gt=0, le=30)


class SerialLidConfig(StrictModel):
    """A controller on a serial line; extra "serial".

    Attributes:
        port, baud: device and speed.
        timeout_s: how long the controller may take to answer; then it is a fault.
    """

    kind: Literal["serial"] = "serial"
    port: str = "/dev/ttyUSB0"
    baud: int = Field(default=115200, ge=300)
    timeout_s: float = Field(default=5.0, gt=0)


class MqttLidConfig(StrictModel):
    """A controller behind an MQTT broker; extra "mqtt".

    Attributes:
        url: broker, e.g. mqtt://user:word@127.0.0.1:1883.
        topic: what the topics begin with.
        timeout_s: how long the controller may take to answer; then it is a fault.
    """

    kind: Literal["mqtt"] = "mqtt"
    url: str = Field(pattern=r"^mqtts?://[^\s/]+$")
    topic: Topic = "binsight/lid"
    timeout_s: float = Field(default=5.0, gt=0)


LidConfig = Annotated[
    Annotated[SimulatedLidConfig, Tag("simulated")]
    | Annotated[GpioLidConfig, Tag("gpio")]
    | Annotated[SerialLidConfig, Tag("serial")]
    | Annotated[MqttLidConfig, Tag("mqtt")],
    by_kind(kind_or("simulated"), "simulated", "gpio", "serial", "mqtt"),
]


class OutboxConfig(StrictModel):
    """The durable queue.

    Attributes:
        max_bytes: size of the database file at most; when full the oldest events go, counted.
    """

    max_bytes: int = Field(default=64 * 1024 * 1024, ge=256 * 1024)


class _UplinkConfig(StrictModel):
    """What every way to the hub has.

    Attributes:
        token: bearer token, if the hub asks for one.
        enrolment_code: one-time code from 'binsight hub bins add': the bin makes a key of its own,
            has the hub take it, and signs all that it sends from then on. The code may stay here.
        ca: file of the certificates to trust, for a hub with one of its own; None trusts the
            public ones.
        batch_events: events in one request at most.
        interval_s: pause before an empty outbox is asked again.
        timeout_s: of one request.
        backoff_max_s: longest pause after failures; pauses double, with jitter.
    """

    token: Token | None = None
    enrolment_code: Token | None = Field(default=None, max_length=MAX_CODE_CHARACTERS)
    ca: Path | None = None
    batch_events: int = Field(default=100, ge=1, le=10_000)
    interval_s: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)
    backoff_max_s: float = Field(default=300.0, gt=0)


class NoUplinkConfig(_UplinkConfig):
    """No way to the hub: everything stays in the outbox. The other keys may stand and wait."""

    kind: Literal["none"] = "none"
    url: None = None


class HttpUplinkConfig(_UplinkConfig):
    """HTTP or HTTPS.

    Attributes:
        url: of the hub, e.g. https://hub.example.org.
    """

    kind: Literal["http"] = "http"
    url: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$")


class MqttUplinkConfig(_UplinkConfig):
    """Through a broker that the hub listens to; extra "mqtt".

    Attributes:
        url: of the broker, e.g. mqtts://broker.example.org.
    """

    kind: Literal["mqtt"] = "mqtt"
    url: str = Field(pattern=r"^mqtts?://[^\s/]+(/\S*)?$")


def _uplink_kind(section: Any) -> object:  # noqa: ANN401  whatever stands in a file
    """Return the kind that is named, or the one that the URL's scheme names."""
    if not isinstance(section, Mapping):
        return getattr(section, "kind", None)
    url = section.get("url")
    scheme = "" if url is None else str(url).partition(":")[0]
    by_url = "none" if url is None else "mqtt" if scheme.startswith("mqtt") else "http"
    return section.get("kind", by_url)


UplinkConfig = Annotated[
    Annotated[NoUplinkConfig, Tag("none")]
    | Annotated[HttpUplinkConfig, Tag("http")]
    | Annotated[MqttUplinkConfig, Tag("mqtt")],
    by_kind(_uplink_kind, "none", "http", "mqtt"),
]


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
        status_interval_s: the hub hears so often how the bin is, and at once when something
            changes; 0 tells it nothing. The hub takes a bin for silent after two hours.
    """

    bin_id: Name = Field(default="bin-001", min_length=1, max_length=128)
    state: Path = Path("runs/bin")
    bundle: Path = SHIPPED_BUNDLES
    rules: Path = CONFIG_FOLDER / "rules" / "eu-low.yaml"
    threads: int = Field(default_factory=lambda: min(2, os.cpu_count() or 1), ge=1, le=64)
    max_frames_per_item: int = Field(default=3, ge=1, le=10)
    host_power_w: float = Field(default=5.0, ge=0)
    status_interval_s: float = Field(default=900.0, ge=0, le=3600)
    camera: CameraConfig = SimulatorCameraConfig()
    trigger: TriggerConfig = TriggerConfig()
    actuator: LidConfig = SimulatedLidConfig()
    outbox: OutboxConfig = OutboxConfig()
    uplink: UplinkConfig = NoUplinkConfig()
    log: LogConfig = LogConfig()
    view: ViewConfig = ViewConfig()
