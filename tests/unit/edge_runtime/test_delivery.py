"""Disks that refuse, uplinks that cannot be opened or die: no event is lost, and the bin serves."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulators import HubDouble, ManualClock

from configs import load
from edge_runtime.bin import Timing
from edge_runtime.config import EdgeConfig, HttpUplinkConfig, MqttUplinkConfig, NoUplinkConfig
from edge_runtime.delivery import Delivery
from edge_runtime.outbox import Outbox
from edge_runtime.transports.transport import Answer, Request
from vision.events import ItemEvent

Make = Callable[..., ItemEvent]
TIMING = Timing(disk_retry_ms=1000.0, uplink_retry_ms=60_000.0)
HUB = ("uplink.url=http://hub", "uplink.interval_s=0.01", "uplink.backoff_max_s=0.01")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _delivery(
    tmp_path: Path, clock: ManualClock, hub: HubDouble | None = None, *more: str
) -> Delivery:
    ways = HUB if hub else ()
    config = load(EdgeConfig, None, [f"state={tmp_path / 'state'}", *ways, *more])
    (tmp_path / "state").mkdir(exist_ok=True)
    return Delivery(config, clock, TIMING, lambda *_: hub or HubDouble())


def _pass_time(delivery: Delivery, clock: ManualClock, ms: float) -> None:
    clock.advance(ms)
    delivery.step(clock.monotonic_ms)


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a thread of the bin's; the test's own limit of time ends it."""
    while not condition():
        pass


def test_a_disk_that_takes_nothing_has_events_held_in_memory_until_it_does(
    tmp_path: Path, clock: ManualClock, make_event: Make
) -> None:
    """A folder where the outbox should be: SQLite cannot open it, as on a read-only disk."""
    (tmp_path / "state" / "outbox.sqlite").mkdir(parents=True)
    delivery = _delivery(tmp_path, clock)
    for _ in range(3):
        delivery.append(make_event())
    assert delivery.in_memory
    assert "held in memory" in delivery.status().storage
    (tmp_path / "state" / "outbox.sqlite").rmdir()
    _pass_time(delivery, clock, 1000)
    for _ in range(3):
        delivery.append(make_event())
    status = delivery.status()
    assert (delivery.in_memory, status.storage, status.unrecorded) == (False, "", 0)
    delivery.close()
    with Outbox(tmp_path / "state" / "outbox.sqlite", None) as outbox:
        assert outbox.depth() == 6


@pytest.mark.parametrize("has_hub", [False, True], ids=["no hub", "a hub"])
def test_a_disk_that_is_full_while_the_bin_runs_costs_no_event(
    small_disk: Path, tmp_path: Path, clock: ManualClock, make_event: Make, has_hub: bool
) -> None:
    hub = HubDouble() if has_hub else None
    if hub:
        hub.down = True
    delivery = _delivery(tmp_path, clock, hub)
    in_memory = []
    for item in range(6):
        if item == 2:
            filler = ["dd", "if=/dev/zero", f"of={small_disk / 'filler'}"]
            subprocess.run(filler, check=False, capture_output=True)
        elif item == 4:
            assert "held in memory" in delivery.status().storage
            (small_disk / "filler").unlink()
            _pass_time(delivery, clock, 1000)
        delivery.append(make_event())
        in_memory.append(delivery.in_memory)
    assert in_memory == [False, False, True, True, False, False]
    assert delivery.status().unrecorded == 0
    if hub:
        assert "2 events are only in memory" in delivery.status().storage
        hub.down = False
        _wait_for(lambda: delivery.depth() == 0)
        _pass_time(delivery, clock, 1000)
        assert delivery.status().storage == ""
        names = {outbox_id for outbox_id, _ in hub.by_outbox}
        assert (len(hub.by_outbox), len(names)) == (6, 2)
    delivery.close()
    with Outbox(small_disk / "outbox.sqlite", None) as outbox:
        assert outbox.depth() == (0 if hub else 6)


def test_a_bin_with_a_read_only_disk_and_a_damaged_outbox_holds_events_in_memory(
    small_disk: Path, tmp_path: Path, clock: ManualClock, make_event: Make
) -> None:
    (small_disk / "outbox.sqlite").write_bytes(b"damaged" * 1000)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    delivery = _delivery(tmp_path, clock)
    delivery.append(make_event())
    status = delivery.status()
    assert (status.unrecorded, status.outbox_depth) == (0, 1)
    assert "held in memory" in status.storage
    delivery.close()


@pytest.mark.parametrize("setting", ["ca=/no/such/ca.pem", "url=mqtts://hub:99999"])
def test_an_uplink_that_cannot_be_opened_is_an_alarm_and_tried_again(
    tmp_path: Path, clock: ManualClock, make_event: Make, setting: str
) -> None:
    config = load(
        EdgeConfig, None, [f"state={tmp_path}", "uplink.url=https://hub", f"uplink.{setting}"]
    )
    delivery = Delivery(config, clock, TIMING)
    delivery.append(make_event())
    alarm = delivery.status().alarm
    # Without the package for MQTT that is reported instead of the port.
    assert setting.partition("=")[2] in alarm or "pip install 'binsight[mqtt]'" in alarm
    assert (delivery.connected, delivery.depth()) == (False, 1)
    _pass_time(delivery, clock, 61_000)
    assert delivery.status().alarm == alarm
    delivery.close()


def test_an_uplink_that_is_there_a_minute_later_takes_what_waited(
    tmp_path: Path, clock: ManualClock, make_event: Make
) -> None:
    hub = HubDouble()
    tries: list[int] = []

    def connect(config: HttpUplinkConfig | MqttUplinkConfig, _: object) -> HubDouble:
        tries.append(1)
        if len(tries) == 1:
            from vision.errors import ConfigError

            raise ConfigError("uplink: no such file of certificates")
        return hub

    config = load(EdgeConfig, None, [f"state={tmp_path}", *HUB])
    delivery = Delivery(config, clock, TIMING, connect)
    delivery.append(make_event())
    _pass_time(delivery, clock, 59_000)
    assert not delivery.connected
    _pass_time(delivery, clock, 2_000)
    _wait_for(lambda: delivery.depth() == 0)
    assert (hub.received, delivery.status().alarm) == ([1], "")
    delivery.close()


class _Panic(BaseException):
    """What a library of another language throws: no Exception."""


class _PanicsOnce(HubDouble):
    """A transport whose library breaks down at its first use."""

    def post(self, request: Request) -> Answer:
        if not self.posts:
            self.posts = 1
            raise _Panic
        return super().post(request)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_uplink_whose_thread_dies_is_started_again(
    tmp_path: Path, clock: ManualClock, make_event: Make
) -> None:
    hub = _PanicsOnce()
    delivery = _delivery(tmp_path, clock, hub)
    for _ in range(6):
        delivery.append(make_event())
    _wait_for(lambda: hub.posts == 1)

    def restarted() -> bool:
        _pass_time(delivery, clock, 500)
        return delivery.depth() == 0

    _wait_for(restarted)
    assert hub.received == [1, 2, 3, 4, 5, 6]
    delivery.close()


def test_a_new_uplink_takes_over_and_no_event_is_counted_twice(
    tmp_path: Path, clock: ManualClock, make_event: Make
) -> None:
    hub = HubDouble()
    hub.down = True
    delivery = _delivery(tmp_path, clock, hub)
    for _ in range(6):
        delivery.append(make_event())
    other = HttpUplinkConfig(url="http://other", interval_s=0.01, backoff_max_s=0.01)
    assert delivery.wants_uplink(other)
    delivery.use_uplink(other, delivery.open_uplink(other))
    hub.down = False
    _wait_for(lambda: delivery.depth() == 0)
    assert hub.received == [1, 2, 3, 4, 5, 6]
    assert not delivery.wants_uplink(other)
    delivery.use_uplink(NoUplinkConfig(), None)
    assert (delivery.connected, delivery.status().uplink) == (False, "off")
    delivery.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    import threading

    yield
    for thread in threading.enumerate():
        if thread.name == "uplink":
            thread.join(5)
            assert not thread.is_alive()
