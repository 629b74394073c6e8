"""A camera that does not see is noticed within five seconds, said in words.

And seen again when it sees.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.camera_monitor import CameraMonitor
from vision.frames import Frame, Pixels
from vision.simulator.scene import expose, random_chute

FPS = 10


def _chute(seconds: float, change: str = "", seed: int = 3) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    chute = random_chute(320, 240, np.random.default_rng(seed))
    images = [expose(chute, None, rng) for _ in range(int(seconds * FPS))]
    if change == "frozen":
        images = [images[0]] * len(images)
    return [
        {
            "black": lambda p: (p // 60).astype(np.uint8),
            "white": lambda p: np.full_like(p, 252) + (p & 3),
            "blurred": lambda p: np.asarray(cv2.GaussianBlur(p, (0, 0), 9), np.uint8),
        }.get(change, lambda p: p)(p)
        for p in images
    ]


def _watch(monitor: CameraMonitor, images: list[Pixels], start_s: float) -> list[str]:
    frames = [Frame(p, i, 1000 * (start_s + i / FPS)) for i, p in enumerate(images)]
    return [monitor.check(frame, True).fault for frame in frames]


@pytest.mark.parametrize("change", ["frozen", "black", "white", "blurred"])
def test_a_camera_that_does_not_see_is_noticed_within_five_seconds_and_so_is_its_recovery(
    change: str,
) -> None:
    monitor = CameraMonitor(3.0)
    assert set(_watch(monitor, _chute(20), 0)) == {""}
    bad = _watch(monitor, _chute(6, change), 20)
    noticed = next(i for i, fault in enumerate(bad) if fault)
    assert noticed / FPS < 5
    assert change in bad[noticed]
    assert set(bad[noticed:]) == {bad[noticed]}
    assert _watch(monitor, _chute(3, seed=3), 26)[-1] == ""


def test_items_do_not_teach_the_monitor_how_sharp_the_chute_is() -> None:
    monitor = CameraMonitor(3.0)
    blank = _chute(60, "blurred")
    item = _chute(1)[0]
    for i, chute in enumerate(blank):
        shows_item = i % 50 >= 45
        # The trigger knows of an item one frame later than it is first seen.
        status = monitor.check(
            Frame(item + i % 3 if shows_item else chute, i, 1000 * i / FPS), i % 50 < 46
        )
        assert not status.fault


@pytest.mark.parametrize("change", ["black", "white"])
def test_a_camera_that_shows_nothing_for_long_is_opened_again_ever_less_often(change: str) -> None:
    monitor = CameraMonitor(3.0)
    nothing = _chute(1, change)[0]
    restart = [s for s in range(3600) if monitor.check(Frame(nothing, s, 1000.0 * s), True).restart]
    assert restart == [60, 120, 240, 480, 960, 1920, 2880]


def test_a_dark_moment_is_not_a_fault_but_is_kept_from_the_trigger() -> None:
    monitor = CameraMonitor(3.0)
    _watch(monitor, _chute(3), 0)
    dark = [
        monitor.check(Frame(p, i, 3000 + 100.0 * i), True) for i, p in enumerate(_chute(1, "black"))
    ]
    assert all(status.blind and not status.fault for status in dark)


def test_what_a_clean_lens_can_is_remembered_over_a_restart(tmp_path: Path) -> None:
    before = CameraMonitor(3.0, tmp_path / "lens.json")
    _watch(before, _chute(3), 0)
    before.remember()
    assert (
        "blurred" in _watch(CameraMonitor(3.0, tmp_path / "lens.json"), _chute(4, "blurred"), 0)[-1]
    )
    assert (
        _watch(CameraMonitor(3.0), _chute(4, "blurred"), 0)[-1] == ""
    )  # without it nobody can know
    (tmp_path / "lens.json").write_text("{")
    assert _watch(CameraMonitor(3.0, tmp_path / "lens.json"), _chute(1), 0)[-1] == ""


@pytest.mark.parametrize("gain", [0.4, 1.1])
def test_light_alone_does_not_blur(gain: float) -> None:
    monitor = CameraMonitor(3.0)
    _watch(monitor, _chute(3), 0)
    lit = [np.clip(p * gain, 0, 255).astype(np.uint8) for p in _chute(4)]
    assert set(_watch(monitor, lit, 3)) == {""}


def test_dusk_does_not_teach_the_monitor_that_noise_is_sharpness() -> None:
    monitor = CameraMonitor(3.0)
    rng = np.random.default_rng(3)
    chute = random_chute(320, 240, np.random.default_rng(3))
    day = chute.exposure
    start_s = 0.0
    for exposure in (1.0, 0.4, 0.15, 0.07, 0.15, 0.4, 1.0):
        chute.exposure = day * exposure
        images = [expose(chute, None, rng) for _ in range(40)]
        assert "blurred image: the lens is covered, dirty or out of focus" not in _watch(
            monitor, images, start_s
        )
        start_s += len(images) / FPS
    assert (
        "blurred" in _watch(monitor, _chute(4, "blurred"), start_s)[-1]
    )  # and it still knows a dirty lens
