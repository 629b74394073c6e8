"""MQTT 5 request and response, through a broker."""

from __future__ import annotations

import threading
import uuid
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_runtime.clock import Clock
from edge_runtime.config import MqttUplinkConfig
from edge_runtime.transports.tls import check_dates, tls_context
from edge_runtime.transports.transport import Answer
from vision.addresses import without_secrets
from vision.errors import UplinkError
from vision.wire import ANSWERS_TOPIC, BATCHES_TOPIC, bearer


class MqttTransport:
    """MQTT 5 request and response.

    A batch to binsight/batches, the hub's own answer back to this client.

    The broker's acknowledgement says nothing of the hub's disk, so it is not waited for: the answer
    is.

    Args:
        config: with `url` set: mqtt://host:port or mqtts://host:port.
        clock: as for HttpTransport.
    """

    def __init__(self, config: MqttUplinkConfig, clock: Clock) -> None:
        where = urlsplit(config.url)
        name = uuid.uuid4().hex
        self._config = config
        self._answers = f"{ANSWERS_TOPIC}/{name}"
        self._waiting: tuple[bytes, Answer | None] = (b"", None)
        self._arrived = threading.Condition()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5
        )
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            tls = tls_context(config.ca)
            self._client.tls_set_context(tls)
            self._client.on_pre_connect = lambda *_: check_dates(tls, clock)
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(self._answers, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = lambda _client, _data, message: self._on_answer(message)
        self._client.reconnect_delay_set(1, int(max(1, config.backoff_max_s)))
        self._client.connect_async(
            where.hostname or "", where.port or (8883 if where.scheme == "mqtts" else 1883)
        )
        self._client.loop_start()

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch and wait for the hub's answer to it."""
        if not self._subscribed.wait(self._config.timeout_s):
            raise UplinkError(f"{without_secrets(self._config.url)}: no connection to the broker")
        number = uuid.uuid4().bytes
        with self._arrived:
            self._waiting = (number, None)
        # Not kept and sent again by paho, perhaps weeks later with an old time in it: the outbox
        # does that.
        self._client.publish(BATCHES_TOPIC, body, qos=0, properties=self._properties(number))
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting[1] is not None, self._config.timeout_s)
            answer = self._waiting[1]
        if answer is None:
            where = without_secrets(self._config.url)
            raise UplinkError(
                f"{where}: no answer from the hub within {self._config.timeout_s:g} s"
            )
        return answer

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _properties(self, number: bytes) -> Properties:
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = self._answers
        properties.CorrelationData = number
        if self._config.token:
            properties.UserProperty = ("authorization", bearer(self._config.token))
        return cast(Properties, properties)

    def _on_answer(self, message: mqtt.MQTTMessage) -> None:
        with self._arrived:
            if getattr(message.properties, "CorrelationData", b"") != self._waiting[0]:
                return  # a late answer to an earlier batch
            stated = dict(getattr(message.properties, "UserProperty", [])).get("status", "")
            # 0 is no status: the uplink backs off.
            status = int(stated) if stated.isascii() and stated.isdigit() else 0
            self._waiting = (self._waiting[0], Answer(status, bytes(message.payload)))
            self._arrived.notify()
