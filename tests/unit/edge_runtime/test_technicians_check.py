"""What a technician sees on one screen before leaving."""

import os
import subprocess
import sys
import time
from pathlib import Path

from small_bundle import small_bundle

from configs import load
from edge_runtime import check
from edge_runtime.app import run
from edge_runtime.config import EdgeConfig
from edge_runtime.outbox import Outbox

ROOT = Path(__file__).parents[3]
SMALL = ("camera.width_px=160", "camera.height_px=120", "camera.fps=0", f"bundle={small_bundle()}")


def _config(tmp_path: Path, *more: str, camera: str = "simulator") -> EdgeConfig:
    simulated = [*SMALL, "camera.items=6"] if camera == "simulator" else [SMALL[-1]]
    return load(EdgeConfig, None, [*simulated, f"state={tmp_path / 'state'}", *more])


def _found(config: EdgeConfig) -> dict[str, check.Finding]:
    return {finding.what: finding for finding in check.check(config, camera_s=0.3)}


def test_the_technician_hears_of_a_lid_that_is_not_there(tmp_path: Path) -> None:
    for lid in (
        {"kind": "serial", "port": "/dev/ttyNOPE"},
        {"kind": "mqtt", "url": "mqtt://127.0.0.1:1", "timeout_s": 0.2},
    ):
        found = _found(
            _config(tmp_path, *(f"actuator.{key}={value}" for key, value in lid.items())),
        )
        assert found["lid"].state == "bad"


def test_a_technician_sees_everything_wrong_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no bundle")
    config = _config(
        tmp_path,
        f"bundle={tmp_path / 'bad.onnx'}",
        "camera.kind=device",
        "camera.source=97",
        "camera.stale_after_s=0.2",
        "rules=nowhere",
        "uplink.url=http://127.0.0.1:1",
        "uplink.timeout_s=0.5",
        "threads=64",
        camera="device",
    )
    found = _found(config)
    assert list(found) == [
        "rule book",
        "bundle",
        "processor",
        "camera",
        "lid",
        "disk",
        "running bin",
        "clock",
        "hub and key",
        "temperature",
    ]
    assert {what for what, f in found.items() if f.state == "bad"} == {
        "rule book",
        "bundle",
        "camera",
        "lid",
        "hub and key",
    }
    assert "camera 97: cannot be opened" in found["camera"].message
    assert "bad.onnx" in found["bundle"].message
    assert "64 on" in found["processor"].message
    assert not (tmp_path / "state").exists()  # it looked, and left nothing behind


def test_a_bin_that_is_well_has_nothing_bad_to_tell(tmp_path: Path) -> None:
    config = _config(tmp_path)
    run(config)
    found = _found(config)
    assert not [f for f in found.values() if f.state == "bad"]
    assert "6 items, 6 events wait" in found["running bin"].message
    stale = config.state / "health.json"
    os.utime(stale, (time.time() - 3600, time.time() - 3600))
    assert _found(config)["running bin"].state == "bad"


def test_what_a_hub_refused_is_reported_and_can_be_sent_again(tmp_path: Path) -> None:
    config = _config(tmp_path)
    run(config)
    with Outbox(config.state / "outbox.sqlite", config.bin_id) as outbox:
        outbox.quarantine(2, "422: an older hub")
        outbox_id = outbox.outbox_id
    run(config)
    assert (
        "events set aside, refused or unreadable: 1 (after an update: binsight edge requeue)"
        in _found(config)["running bin"].message
    )
    requeue = [sys.executable, "-m", "binsight", "edge", "requeue", "--set"]
    done = subprocess.run(
        [*requeue, f"state={config.state}", "--set", "bin_id=forgotten"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "put back: 1; still set aside: 0; waiting for the hub: 6\n"
    with Outbox(config.state / "outbox.sqlite", None) as outbox:
        assert outbox.outbox_id == outbox_id  # the hub knows it by that name still
    nowhere = subprocess.run(
        [*requeue, f"state={tmp_path / 'no'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (nowhere.returncode, (tmp_path / "no").exists()) == (2, False)
    assert "no bin has run" in nowhere.stderr
