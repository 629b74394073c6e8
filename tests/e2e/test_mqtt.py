"""Bin and hub over a real broker: an event leaves the bin only when the hub itself has it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("paho.mqtt.client")

from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest
from cluster.ingest.front_end import FrontEnd
from cluster.ingest.mqtt import MqttConsumer
from cluster.lake.store import Lake
from cluster.registry.model import Place
from cluster.registry.store import Registry
from cluster.statistics.completeness import completeness
from edge_runtime.clock import SystemClock
from edge_runtime.config import MqttUplinkConfig
from edge_runtime.identity import FILE_NAME, Identity
from edge_runtime.outbox import Outbox
from edge_runtime.transports.mqtt import MqttTransport
from edge_runtime.transports.signed import SignedTransport
from edge_runtime.transports.transport import Request
from edge_runtime.uplink import Uplink
from vision.errors import UplinkError
from vision.events import ItemEvent

NOW_MS = 1_790_000_100_000


class Hub:
    """The hub's ingest with its MQTT consumer, in a thread of its own."""

    def __init__(self, lake: Path, broker: str, token: str | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._ingest = Ingest(Lake(lake), lambda: NOW_MS)
        asyncio.run_coroutine_threadsafe(self._ingest.run(), self._loop)
        self.registry = Registry(f"sqlite:///{lake / 'registry.sqlite'}")
        access = Access(self.registry, lambda: NOW_MS, token)
        asyncio.run_coroutine_threadsafe(access.run(), self._loop)
        self._consumer = MqttConsumer(broker, FrontEnd(self._ingest, access), self._loop)

    def close(self) -> None:
        self._consumer.close()
        asyncio.run_coroutine_threadsafe(self._end_tasks(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._ingest.close()
        self.registry.close()

    @staticmethod
    async def _end_tasks() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def outbox(tmp_path: Path, make_event: Callable[..., ItemEvent]) -> Iterator[Outbox]:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for _ in range(250):
            outbox.append(make_event())
        yield outbox


def _drain(uplink: Uplink, outbox: Outbox, attempts: int) -> None:
    for _ in range(attempts):
        uplink.step()
        if not outbox.depth():
            return


def test_every_event_arrives_once_and_leaves_the_bin_only_then(
    tmp_path: Path, broker: str, outbox: Outbox
) -> None:
    config = MqttUplinkConfig(url=broker, batch_events=100, timeout_s=1.0, token="word")
    transport = MqttTransport(config, SystemClock())
    uplink = Uplink(outbox, transport, config, SystemClock())
    uplink.step()  # the broker takes it, and nobody is there: that is no acknowledgement
    assert outbox.depth() == 250
    assert "no answer from the hub" in uplink.last_error
    hub = Hub(tmp_path / "lake", broker, "word")
    try:
        _drain(uplink, outbox, 12)
    finally:
        hub.close()
        transport.close()
    assert outbox.depth() == 0
    aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    rows = completeness(Lake(tmp_path / "lake"))
    assert [(r.bin_id, r.events, r.max_seq, r.missing) for r in rows] == [("b", 250, 250, 0)]


def test_a_wrong_key_over_mqtt_keeps_everything_and_raises_the_alarm(
    tmp_path: Path, broker: str, outbox: Outbox
) -> None:
    config = MqttUplinkConfig(url=broker, timeout_s=3.0, token="wrong")
    hub = Hub(tmp_path / "lake", broker, "word")
    transport = MqttTransport(config, SystemClock())
    uplink = Uplink(outbox, transport, config, SystemClock())
    try:
        _drain(uplink, outbox, 3)
    finally:
        hub.close()
        transport.close()
    assert outbox.depth() == 250
    assert "refuses this bin's token or key (401)" in uplink.alarm


def test_a_bin_enrols_signs_and_renews_its_key_through_a_broker(
    tmp_path: Path, broker: str, outbox: Outbox, make_event: Callable[..., ItemEvent]
) -> None:
    config = MqttUplinkConfig(url=broker, batch_events=50, timeout_s=10.0)
    hub = Hub(tmp_path / "lake", broker, "a word that the bin does not have")
    hub.registry.place([Place("b", "city")], NOW_MS)
    code = hub.registry.issue_code("b", NOW_MS)
    identity = Identity(tmp_path / FILE_NAME, "b")
    transport = SignedTransport(MqttTransport(config, SystemClock()), identity, code, SystemClock())
    uplink = Uplink(outbox, transport, config, SystemClock())
    try:
        uplink.step()
        first = set(hub.registry.principals())
        hub.registry.ask_for_new_key("b")
        deadline = time.monotonic() + 20
        while first & set(hub.registry.principals()) and time.monotonic() < deadline:
            outbox.append(make_event())
            uplink.step()  # the hub looks at its registry every second
            threading.Event().wait(0.2)
        _drain(uplink, outbox, 12)
        last = set(hub.registry.principals())
    finally:
        hub.close()
        transport.close()
    assert (len(first), len(last), first & last, outbox.depth()) == (1, 1, set(), 0)


def test_a_broker_that_is_not_there_is_named_within_the_timeout(outbox: Outbox) -> None:
    transport = MqttTransport(
        MqttUplinkConfig(url="mqtt://127.0.0.1:1", timeout_s=0.2), SystemClock()
    )
    with pytest.raises(UplinkError, match=r"mqtt://127\.0\.0\.1:1: no connection to the broker"):
        transport.post(Request(b"x"))
    transport.close()
