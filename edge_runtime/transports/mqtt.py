"""MQTT 5 request and response, through a broker."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_runtime.clock import Clock
from edge_runtime.config import MqttUplinkConfig
from edge_runtime.transports.tls import check_dates, tls_context
from edge_runtime.transports.transport import Answer, Request
from vision.addresses import without_secrets
from vision.errors import UplinkError
from vision.signature import MQTT_METHOD
from vision.wire import ANSWERS_TOPIC, TOPICS, bearer


class MqttTransport:
    """MQTT 5 request and response.

    A batch to binsight/batches, the hub's own answer back to this client.

    The broker's acknowledgement says nothing of the hub's disk, so it is not waited for: the answer
    is.

    Args:
        config: with `url` set: mqtt://host:port or mqtts://host:port.
        clock: as for HttpTransport.
    """

    method = MQTT_METHOD

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

    def post(self, request: Request) -> Answer:
        """Send a request and wait for the hub's answer to it."""
        if not self._subscribed.wait(self._config.timeout_s):
            raise UplinkError(f"{without_secrets(self._config.url)}: no connection to the broker")
        number = uuid.uuid4().bytes
        with self._arrived:
            self._waiting = (number, None)
        # Not kept and sent again by paho, perhaps weeks later with an old time in it: the outbox
        # does that.
        topic = TOPICS[request.path]
        properties = self._properties(number, request.fields)
        self._client.publish(topic, request.body, qos=0, properties=properties)
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

    def _properties(self, number: bytes, fields: Mapping[str, str]) -> Properties:
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = self._answers
        properties.CorrelationData = number
        if self._config.token:
            properties.UserProperty = ("authorization", bearer(self._config.token))
        for pair in fields.items():
            properties.UserProperty = pair  # each is one more
        return cast(Properties, properties)

    def _on_answer(self, message: mqtt.MQTTMessage) -> None:
        with self._arrived:
            if getattr(message.properties, "CorrelationData", b"") != self._waiting[0]:
                return  # a late answer to an earlier batch
            fields = dict(getattr(message.properties, "UserProperty", []))
            # 0 is no status: the uplink backs off.
            answer = Answer(
                _number(fields.get("status", "")),
                bytes(message.payload),
                _number(fields.get("retry-after", "")),
            )
            self._waiting = (self._waiting[0], answer)
            self._arrived.notify()


def _number(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else 0
