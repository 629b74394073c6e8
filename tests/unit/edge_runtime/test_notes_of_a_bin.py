"""A bin tells the hub how it is: at the start, now and then, at once when something changes."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from simulators import HubDouble, ManualClock
from small_bundle import small_bundle
from typer.testing import CliRunner

from configs import load
from edge_runtime.app import run
from edge_runtime.bin import Timing
from edge_runtime.commands import app as edge
from edge_runtime.config import EdgeConfig, HttpUplinkConfig
from edge_runtime.delivery import Delivery
from edge_runtime.outbox import Outbox
from edge_runtime.services.health import Health
from edge_runtime.services.notes import Notes
from edge_runtime.uplink import Uplink
from vision.events import ItemEvent
from vision.notes import Note

SMALL = ("camera.width_px=160", "camera.height_px=120", "camera.fps=0", f"bundle={small_bundle()}")


class _Bin:
    """A bin without a camera: its notes, and what they are made of."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.health = Health("b", camera="ok")
        self.config = load(EdgeConfig, None, [f"state={folder / 'state'}"])
        self.config.state.mkdir(exist_ok=True)
        self.delivery = Delivery(self.config, self.clock)
        self.notes = self.opened()

    def opened(self) -> Notes:
        rules = SimpleNamespace(id="eu-low", version="1")
        classifier = SimpleNamespace(digest="d" * 64)
        parts = SimpleNamespace(clock=self.clock, rules=rules, classifier=classifier)
        report = SimpleNamespace(current=lambda: self.health)
        pipeline = SimpleNamespace(parts=parts)
        return Notes(self.config, cast(Any, pipeline), self.delivery, cast(Any, report), Timing())

    def after(self, seconds: float) -> None:
        self.clock.advance(1000 * seconds)
        self.notes.step(self.clock.monotonic_ms)

    def stored(self) -> list[Note]:
        batch = self.delivery._notes.peek(1000)
        return [note for _, note in batch.notes] if batch else []


@pytest.fixture
def waste_bin(tmp_path: Path) -> _Bin:
    return _Bin(tmp_path)


def test_a_status_is_due_at_the_start_and_every_quarter_of_an_hour(waste_bin: _Bin) -> None:
    waste_bin.health = Health("b", camera="starting")
    waste_bin.after(5)
    assert waste_bin.stored() == []  # nothing is known yet
    waste_bin.health = Health("b", camera="ok", outbox_depth=7, temperature_c=50.0)
    for _ in range(200):
        waste_bin.after(10)
    statuses = waste_bin.stored()
    assert [note.monotonic_ms for note in statuses] == [15_000, 915_000, 1_815_000]
    assert (statuses[0].waiting_events, statuses[0].temperature_c) == (7, 50.0)
    assert statuses[0].rule_book == "eu-low"


def test_a_change_is_reported_at_once_and_a_flicker_once_a_minute(waste_bin: _Bin) -> None:
    waste_bin.after(0)
    for second in range(1, 301):
        dark = second % 2 == 1
        waste_bin.health = replace(waste_bin.health, camera="it is dark" if dark else "ok")
        waste_bin.after(1)
    statuses = waste_bin.stored()
    assert len(statuses) in (5, 6)
    assert statuses[1].camera == "it is dark"
    gaps = [b.monotonic_ms - a.monotonic_ms for a, b in pairwise(statuses)]
    assert min(gaps) >= 60_000


def test_emptying_is_noted_with_the_items_before_it_and_survives_a_restart(
    waste_bin: _Bin, make_event: Any, tmp_path: Path
) -> None:
    def emptied() -> None:
        done = CliRunner().invoke(edge, ["emptied", f"--set=state={tmp_path / 'state'}"])
        assert done.exit_code == 0, done.output

    waste_bin.after(0)
    for _ in range(3):
        waste_bin.delivery.append(make_event())
    emptied()
    waste_bin.after(5)
    waste_bin.after(5)
    waste_bin.delivery.append(make_event())
    waste_bin.notes = waste_bin.opened()  # as after a restart
    waste_bin.after(900)
    start, note, after, later = waste_bin.stored()
    assert [n.kind for n in (start, note, after, later)] == ["status", "emptied", *["status"] * 2]
    assert (note.after_seq, note.items_since_emptied) == (3, 3)
    assert (after.items_since_emptied, later.items_since_emptied) == (0, 1)
    assert later.after_outbox_id == waste_bin.delivery.last_event()[0]


def test_emptied_names_the_remedy_where_no_bin_has_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(edge, ["emptied", f"--set=state={tmp_path}"])
    assert done.exit_code != 0
    assert "no bin has run in" in str(done.exception)


def test_an_interval_of_zero_sends_no_status(tmp_path: Path) -> None:
    quiet = _Bin(tmp_path)
    quiet.config = load(EdgeConfig, None, [f"state={tmp_path / 'state'}", "status_interval_s=0"])
    quiet.notes = quiet.opened()
    quiet.after(1000)
    assert quiet.stored() == []


def test_a_running_bin_sends_its_events_and_its_status(tmp_path: Path) -> None:
    hub = HubDouble()
    settings = [*SMALL, "camera.items=3", f"state={tmp_path / 'state'}"]
    settings += ["uplink.url=http://hub", "uplink.interval_s=0.01"]
    run(load(EdgeConfig, None, settings), connect=lambda *_: hub)
    assert hub.received == [1, 2, 3]
    assert hub.notes
    assert hub.notes[0].problems() == {}
    assert hub.notes[0].model


def test_a_hub_that_refuses_notes_gets_every_event(
    tmp_path: Path, make_event: Any, make_note: Any
) -> None:
    hub = HubDouble()
    hub.notes = None
    config = HttpUplinkConfig(url="http://hub", interval_s=0.01)
    with (
        Outbox(tmp_path / "o", "b") as outbox,
        Outbox(tmp_path / "n", "b", holds=Note) as notes,
    ):
        for _ in range(20):
            notes.append(make_note())
        uplink = Uplink(outbox, hub, config, ManualClock(), notes)
        uplink.start()
        for _ in range(20):
            event: ItemEvent = make_event()
            outbox.append(event)
            time.sleep(0.02)
        deadline = time.monotonic() + 20
        while outbox.depth() and time.monotonic() < deadline:
            time.sleep(0.01)
        uplink.stop()
        assert hub.received == list(range(1, 21))
        assert notes.quarantined() < 10  # a person must look
        assert "event after event" in uplink.alarm
