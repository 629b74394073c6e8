"""Everything that a technician must know before leaving, on one screen. Nothing is changed.

The state folder of a running bin is not opened a second time: what is inside is read from its
health file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from edge_runtime import host
from edge_runtime.camera_monitor import CameraMonitor
from edge_runtime.cameras.factory import open_camera
from edge_runtime.choose import measure
from edge_runtime.clock import SystemClock
from edge_runtime.config import EdgeConfig
from edge_runtime.guard import failure_of
from edge_runtime.identity import FILE_NAME, Identity
from edge_runtime.lids.factory import open_lid
from edge_runtime.rules import load_rules
from edge_runtime.services.health import Health
from edge_runtime.transports.factory import open_transport
from edge_runtime.transports.signed import SignedTransport
from edge_runtime.transports.transport import Request
from vision.addresses import without_secrets
from vision.errors import BinsightError, CameraError, StorageError
from vision.wire import KEY_REFUSED, is_refusal

# The camera is watched for so long: a frozen or covered one shows within it.
CAMERA_S = 4.0
_SLOW_MS = 500.0
_SLOW_SYNC_MS = 100.0
_LITTLE_ROOM_BYTES = 50_000_000
_HOT_C = 80.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the technician's screen.

    Attributes:
        what: was checked.
        state: "ok", "warn" or "bad".
        message: what is so, and what to do.
    """

    what: str
    state: str
    message: str


def check(config: EdgeConfig, camera_s: float = CAMERA_S) -> Iterator[Finding]:
    """Look at everything a bin needs, one finding each, as they come.

    Args:
        config: of the bin.
        camera_s: how long the camera is watched.
    """
    checks: dict[str, Callable[[EdgeConfig], Finding]] = {
        "rule book": _rules,
        "bundle": _bundle,
        "processor": _processor,
        "camera": partial(_camera, camera_s),
        "lid": _lid,
        "disk": _disk,
        "running bin": _running,
        "clock": _clock,
        "hub and key": _hub,
        "temperature": _temperature,
    }
    for what, find in checks.items():
        found: list[Finding] = []
        error = failure_of(partial(_add, found, find, config))
        if error is None:
            yield found[0]
        elif isinstance(error, BinsightError):
            yield Finding(what, "bad", str(error))
        else:
            yield Finding(what, "bad", f"{type(error).__name__}: {error}")


def _add(found: list[Finding], find: Callable[[EdgeConfig], Finding], config: EdgeConfig) -> None:
    found.append(find(config))


def _rules(config: EdgeConfig) -> Finding:
    book = load_rules(config.rules)
    return Finding(
        "rule book", "ok", f"{book.id} version {book.version}: {', '.join(book.streams)}"
    )


def _bundle(config: EdgeConfig) -> Finding:
    tried = measure(config.bundle, config.threads)
    good = sorted((t for t in tried if t.ms is not None), key=lambda t: t.ms or 0.0)
    lines = [f"{t.path.name} gives its expected output in {t.ms:.1f} ms" for t in good]
    lines += [t.message for t in tried if t.message]
    if not good or good[0].classifier is None or good[0].ms is None:
        return Finding("bundle", "bad", "; ".join(lines))
    model = good[0].classifier.manifest.model_id
    bad = len(good) < len(tried) or good[0].ms > _SLOW_MS
    return Finding(
        "bundle",
        "warn" if bad else "ok",
        f"{model}: {'; '.join(lines)}; {good[0].path.name} runs, with {config.threads} threads",
    )


def _processor(config: EdgeConfig) -> Finding:
    cores = os.cpu_count() or 1
    if config.threads > cores:
        return Finding(
            "processor", "warn", f"threads: {config.threads} on {cores} cores slow each other down"
        )
    return Finding("processor", "ok", f"{cores} cores; {host.cpu_name()}")


def _camera(camera_s: float, config: EdgeConfig) -> Finding:
    # A simulated camera writes its truth into a folder of its own, not into the bin's.
    with tempfile.TemporaryDirectory() as scratch:
        camera, _ = open_camera(config.camera, Path(scratch), SystemClock())
        try:
            monitor = CameraMonitor(camera_s / 2)
            frames = 0
            size = ""
            fault = ""
            end_s = time.monotonic() + camera_s
            while time.monotonic() < end_s and (frame := camera.read()) is not None:
                frames += 1
                size = f"{frame.pixels_hwc.shape[1]}x{frame.pixels_hwc.shape[0]}"
                fault = monitor.check(frame, True).fault
        except CameraError as error:
            return Finding("camera", "bad", str(error))
        finally:
            camera.close()
    if fault:
        return Finding("camera", "bad", fault)
    state = "warn" if config.camera.kind in ("simulator", "folder", "file") else "ok"
    return Finding(
        "camera",
        state,
        f"{config.camera.kind}: {frames / max(camera_s, 1e-9):.0f} frames a second, {size}",
    )


def _lid(config: EdgeConfig) -> Finding:
    if _age_s(config) < 60:
        return Finding("lid", "ok", "in the hands of the running bin; see there")
    if config.actuator.kind == "gpio" and (
        high := sorted(p for p in config.actuator.pins.values() if p <= 8)
    ):
        return Finding(
            "lid",
            "warn",
            "actuator.pins: a Raspberry Pi pulls GPIO 0 to 8 high until the program runs: "
            f"{high}; take others",
        )
    lid = open_lid(config.actuator, tuple(load_rules(config.rules).streams), None)
    try:
        lid.reach()
    finally:
        lid.close()
    if config.actuator.kind == "simulated":
        return Finding("lid", "warn", "simulated: nothing will move; set actuator.kind")
    return Finding("lid", "ok", f"{config.actuator.kind}: it is there; it was not moved")


def _disk(config: EdgeConfig) -> Finding:
    folder = next(
        p for p in (config.state.resolve(), *config.state.resolve().parents) if p.exists()
    )
    free = shutil.disk_usage(folder).free
    slowest = 0.0
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            for _ in range(5):
                started = time.perf_counter()
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                slowest = max(slowest, 1000 * (time.perf_counter() - started))
    except OSError as error:
        raise StorageError(
            f"state: {folder} cannot be written ({error.strerror}); free some room or name another"
        ) from error
    message = f"{folder}: {free // 10**6} MB free, a synced write takes {slowest:.0f} ms at most"
    outbox = config.state / "outbox.sqlite"
    wanted = (
        config.outbox.max_bytes
        - (outbox.stat().st_size if outbox.exists() else 0)
        + _LITTLE_ROOM_BYTES
    )
    if free < wanted:
        return Finding(
            "disk",
            "bad",
            f"{message}; the outbox may grow to {config.outbox.max_bytes // 10**6} MB: free some "
            "room",
        )
    return Finding("disk", "ok" if slowest < _SLOW_SYNC_MS else "warn", message)


def _running(config: EdgeConfig) -> Finding:
    path = config.state / "health.json"
    age_s = _age_s(config)
    if not path.is_file():
        return Finding(
            "running bin", "warn", f"no health in {config.state} yet: the bin has not run there"
        )
    try:
        health = {**asdict(Health("")), **json.loads(path.read_text())}
    except ValueError:
        return Finding(
            "running bin",
            "bad",
            f"{path} was cut short; it is written again within seconds of a start",
        )
    problems = [
        f"{key}: {health[key]}"
        for key in ("camera", "chute", "lid", "settings")
        if health[key] != "ok"
    ]
    problems += [f"uplink: {health['uplink']}"] if health["uplink"] not in ("ok", "off") else []
    problems += [
        f"{key}: {health[key]}"
        for key in ("hazard", "alarm_failed", "alarm", "storage")
        if health[key]
    ]
    if health["quarantined"]:
        problems.append(
            f"events set aside, refused or unreadable: {health['quarantined']} (after an update: "
            "binsight edge requeue)"
        )
    message = (
        f"{health['items']} items, {health['outbox_depth']} events wait "
        f"({health['outbox_full_pct']} % full), "
        f"{health['dropped']} dropped, {health['faults']} faults"
    )
    if age_s > 60:
        return Finding(
            "running bin",
            "bad",
            f"silent for {age_s / 60:.0f} minutes; {message}; journalctl -u binsight-edge",
        )
    worse = problems or any(
        health[key] for key in ("faults", "dropped", "unrecorded", "blind_openings")
    )
    return Finding("running bin", "warn" if worse else "ok", "; ".join([*problems, message]))


def _age_s(config: EdgeConfig) -> float:
    path = config.state / "health.json"
    # A clock that was set back makes files of the future: they are as old as they are young.
    return abs(time.time() - path.stat().st_mtime) if path.is_file() else float("inf")


def _clock(_: EdgeConfig) -> Finding:
    now = SystemClock().now()
    utc = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now.wall_utc_ms / 1000))
    if now.clock_synced:
        return Finding("clock", "ok", utc)
    return Finding(
        "clock",
        "warn",
        f"{utc}, not known to be set: the hub will date the events; enable systemd-timesyncd",
    )


def _hub(config: EdgeConfig) -> Finding:
    if not config.uplink.url:
        return Finding("hub and key", "warn", "uplink.url is not set: events stay on this bin")
    identity = Identity(config.state / FILE_NAME, config.bin_id)
    if config.uplink.enrolment_code and not identity.enrolled:
        return Finding("hub and key", "warn", "this bin enrols when it first runs")
    transport = open_transport(config.uplink, SystemClock())
    if identity.enrolled and not identity.renewing:  # a new key is the running bin's to hand over
        transport = SignedTransport(transport, identity, "", SystemClock())
    try:
        started = time.perf_counter()
        answer = transport.post(
            Request(b"")
        )  # no batch: a hub that takes the key refuses the content
        ms = 1000 * (time.perf_counter() - started)
    finally:
        transport.close()
    hub = without_secrets(config.uplink.url)
    if answer.status in KEY_REFUSED:
        return Finding(
            "hub and key", "bad", f"{hub} refuses this bin's token or key ({answer.status})"
        )
    if answer.status != 400 or not is_refusal(answer.body):
        message = f"{hub} answers {answer.status}: is that a binsight hub?"
        return Finding("hub and key", "bad", message)
    return Finding("hub and key", "ok", f"{hub} takes the key, {ms:.0f} ms away")


def _temperature(_: EdgeConfig) -> Finding:
    celsius = host.temperature_c()
    held = host.throttled()
    message = "no sensor tells" if celsius is None else f"{celsius:.0f} °C"
    return Finding(
        "temperature",
        "warn" if held or (celsius or 0) > _HOT_C else "ok",
        f"{message}{', ' + held if held else ''}",
    )
