"""What `binsight edge run --config` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs import CONFIG_FOLDER, StrictModel

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default.onnx"


class CameraConfig(StrictModel):
    """Where frames come from.

    Attributes:
        kind: "device" (V4L2 or USB number), "file" (video), "url" (RTSP or MJPEG), "folder" (pictures, each
            shown as one item), "simulator" (procedural items).
        source: device number, path or URL; for "folder" the folder (a splits.csv in it is used).
        split: of a folder with a splits.csv; "" takes all pictures.
        width_px, height_px: asked of a device; size of simulated frames.
        fps: pace of folder and simulator; 0 is as fast as the bin can.
        items: items that folder or simulator show before they end; None for ever. Counted in `state`: a bin that
            is started again goes on where it was.
        labels: labels that the simulator throws in; empty for all.
        seed: of folder order and simulator.
        stale_after_s: a device or URL without a new frame for so long is an error.
    """

    kind: Literal["device", "file", "url", "folder", "simulator"] = "simulator"
    source: str = "0"
    split: str = ""
    width_px: int = Field(default=640, ge=64, le=4096)
    height_px: int = Field(default=480, ge=48, le=4096)
    fps: float = Field(default=10.0, ge=0, le=120)
    items: int | None = Field(default=None, ge=1)
    labels: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)
    stale_after_s: float = Field(default=5.0, gt=0)


class TriggerConfig(StrictModel):
    """When a picture shows an item to classify.

    Attributes:
        pixel_change: difference in grey levels (0..255) that makes a pixel of the small picture "changed".
        item_share: share of changed pixels against the empty chute that means an item.
        motion_share: share of changed pixels against the last frame that means motion.
        settled_frames: still frames in a row before an item is taken as lying.
        empty_frames: still, empty frames in a row that end an item, and that the reference is learned from.
        stuck_frames: an unmoved scene after a capture is taken as the new empty chute after so many frames.
        adapt: share by which the empty reference follows each empty frame: slow light, dirt.
    """

    pixel_change: float = Field(default=14.0, gt=0)
    item_share: float = Field(default=0.006, gt=0, lt=1)
    motion_share: float = Field(default=0.004, gt=0, lt=1)
    settled_frames: int = Field(default=2, ge=1)
    empty_frames: int = Field(default=2, ge=1)
    stuck_frames: int = Field(default=100, ge=10)
    adapt: float = Field(default=0.05, ge=0, le=1)


class OutboxConfig(StrictModel):
    """The durable queue.

    Attributes:
        max_bytes: size of the database file at most; when full the oldest events go, counted.
    """

    max_bytes: int = Field(default=64 * 1024 * 1024, ge=256 * 1024)


class UplinkConfig(StrictModel):
    """The way to the hub.

    Attributes:
        url: of the hub, e.g. https://hub.example.org; None keeps everything in the outbox.
        token: bearer token, if the hub asks for one.
        batch_events: events in one request at most.
        interval_s: pause between looks into an empty outbox.
        timeout_s: of one request.
        backoff_max_s: longest pause after failures; pauses double, with jitter.
    """

    url: str | None = Field(default=None, pattern=r"^https?://[^\s/]+(/\S*)?$")
    token: str | None = Field(default=None, min_length=1)
    batch_events: int = Field(default=100, ge=1, le=10_000)
    interval_s: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)
    backoff_max_s: float = Field(default=300.0, gt=0)


class EdgeConfig(StrictModel):
    """The whole of one bin.

    Attributes:
        bin_id: the operator's name for this bin.
        state: folder of what must survive: outbox, empty reference, health, the simulator's truth.
        bundle: model bundle.
        rules: rule book: a file, or the name of one that ships, e.g. "eu-low".
        threads: of onnxruntime.
    """

    bin_id: str = Field(default="bin-001", min_length=1, max_length=128)
    state: Path = Path("runs/bin")
    bundle: Path = DEFAULT_BUNDLE
    rules: Path = CONFIG_FOLDER / "rules" / "eu-low.yaml"
    threads: int = Field(default=2, ge=1, le=64)
    camera: CameraConfig = CameraConfig()
    trigger: TriggerConfig = TriggerConfig()
    outbox: OutboxConfig = OutboxConfig()
    uplink: UplinkConfig = UplinkConfig()
