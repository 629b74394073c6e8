"""A lid's controller behind an MQTT broker."""

from __future__ import annotations

import json
import threading
import time
import uuid
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge_runtime.config import MqttLidConfig
from vision.addresses import without_secrets
from vision.errors import ActuatorError


class MqttLid:
    """A controller behind an MQTT broker: a command out, its own acknowledgement back.

    The broker's is not enough.

        <topic>/open   {"id": "...", "stream": "glass"}
        <topic>/alarm  {"id": "...", "reason": "..."}
        <topic>/done   {"id": "...", "ok": true}           by the controller

    Args:
        config: url (mqtt://host:port), topic, timeout_s.
    """

    def __init__(self, config: MqttLidConfig) -> None:
        where = urlsplit(config.url)
        self._config = config
        self._done = dict[str, bool]()
        self._answered = threading.Condition()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = lambda client, *_: client.subscribe(f"{config.topic}/done", qos=1)
        self._client.on_message = lambda _client, _data, message: self._on_answer(
            bytes(message.payload)
        )
        self._client.reconnect_delay_set(1, 5)
        self._client.connect_async(
            where.hostname or "", where.port or (8883 if where.scheme == "mqtts" else 1883)
        )
        self._client.loop_start()

    def open(self, stream: str) -> None:
        """Send the command and wait for the controller."""
        self._ask("open", {"stream": stream})

    def alarm(self, reason: str) -> None:
        """Send the alarm and wait for the controller."""
        self._ask("alarm", {"reason": reason})

    def reach(self) -> None:
        """Wait for the broker."""
        end_s = time.monotonic() + self._config.timeout_s
        while not self._client.is_connected():
            if time.monotonic() > end_s:
                raise ActuatorError(
                    f"actuator.url: no connection to {without_secrets(self._config.url)}"
                )
            time.sleep(0.05)

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _ask(self, what: str, message: dict[str, str]) -> None:
        number = uuid.uuid4().hex
        if not self._client.is_connected():
            raise ActuatorError(
                f"actuator.url: no connection to {without_secrets(self._config.url)}"
            )
        # Not kept by paho: a command that is late would move a flap with somebody's hand in it.
        self._client.publish(
            f"{self._config.topic}/{what}", json.dumps({"id": number, **message}), qos=0
        )
        with self._answered:
            if not self._answered.wait_for(lambda: number in self._done, self._config.timeout_s):
                raise ActuatorError(
                    f"the lid's controller did not answer within {self._config.timeout_s:g} s"
                )
            if not self._done.pop(number):
                raise ActuatorError("the lid's controller refuses")

    def _on_answer(self, payload: bytes) -> None:
        try:
            answer = json.loads(payload)
            number = str(answer["id"])
            good = answer["ok"] is True
        except Exception:  # noqa: BLE001
            return  # not for us: the one that waits will say that nothing came
        with self._answered:
            self._done = {number: good}  # only one is ever waited for
            self._answered.notify()
