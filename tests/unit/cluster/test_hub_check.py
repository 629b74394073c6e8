"""One screen for an operator: each thing that can be wrong is named, and what to do."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.ingest import NOW, open_ingest

from cluster.app import aggregate
from cluster.check import Finding, check
from cluster.config import HubConfig
from cluster.ingest.move import LOG_NAME
from cluster.lake.schema import ITEMS, OUTBOXES
from cluster.lake.store import Lake
from cluster.registry.model import Place
from cluster.registry.store import Registry
from vision.events import Batch, ItemEvent
from vision.notes import Note

Make = Callable[..., ItemEvent]
DAY_MS = 86_400_000


@pytest.fixture
def config(tmp_path: Path, make_event: Make) -> HubConfig:
    config = HubConfig(lake=tmp_path / "lake", port=1)
    registry = Registry(config.registry_url())
    registry.place([Place("b", "city")], NOW)
    registry.close()
    with open_ingest(Lake(config.lake)) as ingest:
        ingest.commit([Batch("o1", "b", 2, ((1, make_event()), (4, make_event())))])
    aggregate(config, "local")
    return config


def _found(config: HubConfig, now: int = NOW) -> dict[str, Finding]:
    return {finding.what: finding for finding in check(config, now)}


def test_a_sound_hub_is_ok_but_for_not_running(config: HubConfig) -> None:
    found = _found(config)
    assert {what: f.state for what, f in found.items()} == {
        "settings": "ok",
        "disk": "ok",
        "hub": "warn",
        "log": "ok",
        "lake": "ok",
        "statistics": "ok",
        "registry": "ok",
        "bins": "ok",
        "status": "ok",
    } | {"disk": found["disk"].state}
    assert "2 events are missing, 2 of them dropped" in found["bins"].message


def test_what_is_wrong_is_named(config: HubConfig, make_event: Make) -> None:
    open_to_all = config.model_copy(update={"host": "0.0.0.0"})
    assert "whoever reaches" in _found(open_to_all)["settings"].message
    signed = config.model_copy(update={"require_signatures": True})
    assert "refused without a key: b" in _found(signed)["registry"].message
    assert "silent for a day: b" in _found(config, NOW + 2 * DAY_MS)["bins"].message
    with open_ingest(Lake(config.lake)) as ingest:
        ingest.commit([Batch("o1", "b", 2, ((5, make_event()),))])
        # A hub has the lake, and does not answer where the settings say.
        assert "does not answer" in _found(config)["hub"].message
    assert "1 events are not counted yet" in _found(config)["statistics"].message


def test_bins_that_say_that_something_is_wrong_or_nothing_are_named(
    config: HubConfig, make_note: Callable[..., Note]
) -> None:
    with open_ingest(Lake(config.lake)) as ingest:
        for bin_id, camera in (("b", "it is dark"), ("c", "ok")):
            note = make_note(camera=camera)
            ingest.commit([Batch(f"notes-{bin_id}", bin_id, 0, (), notes=((1, note),))])
    found = _found(config)["status"]
    assert (found.state, found.message) == (
        "warn",
        "2 bins send one; 1 say that something is wrong: b (camera: it is dark)",
    )
    assert "none for two hours: b, c" in _found(config, NOW + DAY_MS)["status"].message


@pytest.mark.parametrize(("name", "what"), [(LOG_NAME, "log"), ("registry.sqlite", "registry")])
def test_a_damaged_file_is_bad_and_the_rest_is_still_shown(
    config: HubConfig, name: str, what: str
) -> None:
    for rest in ("-wal", "-shm"):
        (config.lake / f"{name}{rest}").unlink(missing_ok=True)
    (config.lake / name).write_bytes(b"no database" * 1000)
    found = _found(config)
    assert (found[what].state, name in found[what].message) == ("bad", True)
    assert found["bins"].state == "ok"


def test_damaged_statistics_are_bad_and_the_rest_is_still_shown(config: HubConfig) -> None:
    for name in (ITEMS, OUTBOXES):
        for file in Lake(config.lake).files(name):
            Path(file).write_bytes(b"no parquet")
    found = _found(config)
    assert (found["bins"].state, found["statistics"].state) == ("bad", "bad")
    assert found["registry"].state == "ok"


def test_damaged_entries_of_the_log_are_bad(config: HubConfig) -> None:
    db = sqlite3.connect(config.lake / LOG_NAME)
    db.execute("INSERT INTO damaged VALUES (9, 3, x'00')")
    db.commit()
    db.close()
    assert "1 entries are damaged" in _found(config)["log"].message


def test_nothing_is_changed(config: HubConfig, tmp_path: Path) -> None:
    (config.lake / "registry.sqlite").unlink()
    assert "is not there" in _found(config)["registry"].message
    assert not (config.lake / "registry.sqlite").exists()
    (config.lake / ".hub.lock").unlink()
    _found(config)
    assert not (config.lake / ".hub.lock").exists()
    nowhere = config.model_copy(update={"lake": tmp_path / "nowhere"})
    assert "is not there" in _found(nowhere)["lake"].message
    assert not (tmp_path / "nowhere").exists()


def test_the_command_ends_with_1_where_something_is_bad(config: HubConfig) -> None:
    command = [sys.executable, "-m", "binsight", "hub", "check", "--set", f"lake={config.lake}"]
    command += ["--set", "port=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "no hub runs on this lake" in done.stdout) == (0, True)
    (config.lake / LOG_NAME).write_bytes(b"no database" * 1000)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
