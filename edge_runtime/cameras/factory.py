"""Opens the camera that the settings name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_runtime.cameras.live import LiveCamera
from edge_runtime.cameras.opencv import open_video
from edge_runtime.cameras.picamera import PiCamera
from edge_runtime.cameras.simulated import WorldCamera, folder_images
from edge_runtime.cameras.video_file import VideoFile
from edge_runtime.clock import Clock
from edge_runtime.config import (
    CameraConfig,
    DeviceCameraConfig,
    FileCameraConfig,
    FolderCameraConfig,
    PiCameraConfig,
    UrlCameraConfig,
)
from vision.frames import Camera
from vision.simulator.catalogue import CATALOGUE
from vision.simulator.world import Photographs, SimulatedItems, World
from vision.taxonomy import MATERIALS_1


def open_camera(config: CameraConfig, state: Path, clock: Clock) -> tuple[Camera, World | None]:
    """Open the configured camera; for folder and simulator also return the world before it.

    Args:
        config: of the camera.
        state: folder where a simulated world keeps its truth.
        clock: gives each frame its time.

    Raises:
        CameraError, DatasetError: it cannot be opened; the message says what to check.
    """
    match config:
        case FileCameraConfig():
            return VideoFile(config.source, clock), None
        case UrlCameraConfig():
            opener = partial(open_video, config.source)
            return LiveCamera(opener, config.source, config.stale_after_s, clock), None
        case DeviceCameraConfig():
            opener = partial(open_video, config.source, config.width_px, config.height_px)
            return LiveCamera(opener, config.source, config.stale_after_s, clock), None
        case PiCameraConfig():
            size_px = (config.width_px, config.height_px)
            picamera = partial(PiCamera, size_px)
            return LiveCamera(picamera, config.kind, config.stale_after_s, clock), None
    size_px = (config.width_px, config.height_px)
    truth = state / "truth.jsonl"
    if isinstance(config, FolderCameraConfig):
        images = folder_images(Path(config.source), config.split)
        count = config.items or len(images.samples)
        world = World(
            Photographs(images, config.seed), count, size_px, config.seed, truth, dark_floor=True
        )
    else:
        items = SimulatedItems(config.seed, MATERIALS_1.ordered(config.labels or CATALOGUE))
        world = World(items, config.items, size_px, config.seed, truth)
    return WorldCamera(world, config.fps, clock), world
