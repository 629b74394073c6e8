"""The hub's second door: MQTT 5, for fleets whose network lets nothing else through.

A batch comes in on a topic shared by all hubs, and goes the same way as one that came by HTTP. The
answer goes to the topic that the bin named, and only after the commit. What a broker acknowledges
or keeps is never relied on.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cluster.ingest.commit import Ingest
from cluster.ingest.decode import decode
from vision.errors import AccessError, BinsightError, BusyError, WireError
from vision.wire import (
    ANSWER_TOPIC,
    ANSWERS_TOPIC,
    BATCHES_TOPIC,
    MAX_BODY_BYTES,
    bearer,
    encode_receipt,
    encode_refusal,
)

log = logging.getLogger(__name__)

# Hubs that share a broker share the work; the bins publish to what stands after the group's name.
SUBSCRIPTION = f"$share/binsight-hubs/{BATCHES_TOPIC}"
# Batches of this hub that wait for their commit: more are not taken in, and their bins send them
# again.
MAX_WAITING = 1000


class MqttConsumer:
    """Takes batches from a broker while it is open.

    Args:
        url: mqtt://host:port or mqtts://host:port, with user:word@ if the broker asks.
        ingest: where batches go.
        token: bearer token that a batch must bring; None takes all.
        loop: that `ingest` runs in.
    """

    def __init__(
        self, url: str, ingest: Ingest, token: str | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        where = urlsplit(url)
        self._ingest = ingest
        self._token = token
        self._loop = loop
        self._waiting = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = lambda client, *_: client.subscribe(SUBSCRIPTION, qos=1)
        self._client.on_message = lambda _client, _data, message: self._hand_over(message)
        self._client.connect_async(
            where.hostname or "", where.port or (8883 if where.scheme == "mqtts" else 1883)
        )
        self._client.loop_start()

    def broken(self) -> str:
        """Return "", or that nothing is taken from the broker any more, in words."""
        thread = self._client._thread  # paho shows it nowhere else
        if thread is not None and thread.is_alive():
            return ""
        return "mqtt: its thread has ended; start the hub again"

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _hand_over(self, message: mqtt.MQTTMessage) -> None:
        topic = getattr(message.properties, "ResponseTopic", "")
        if not ANSWER_TOPIC.fullmatch(topic):  # the hub publishes nowhere else, whoever asks
            log.warning("mqtt: a batch that names no topic under %s for the answer", ANSWERS_TOPIC)
        elif self._waiting >= MAX_WAITING:
            log.warning(
                "mqtt: %d batches wait; a further one is left to be sent again", self._waiting
            )
        else:
            self._waiting += 1
            done = asyncio.run_coroutine_threadsafe(self._answer(message, topic), self._loop)
            done.add_done_callback(self._answered)

    def _answered(self, done: Future[None]) -> None:
        self._waiting -= 1
        if not done.cancelled() and (error := done.exception()):
            log.error("mqtt: an answer failed", exc_info=error)

    async def _answer(self, message: mqtt.MQTTMessage, topic: str) -> None:
        status, body = await self._receive(message)
        answer: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        answer.CorrelationData = getattr(message.properties, "CorrelationData", b"")
        answer.UserProperty = ("status", str(status))
        self._client.publish(topic, body, qos=1, properties=answer)

    async def _receive(self, message: mqtt.MQTTMessage) -> tuple[int, bytes]:
        given = dict(getattr(message.properties, "UserProperty", [])).get("authorization", "")
        if self._token is not None and not hmac.compare_digest(
            given.encode(), bearer(self._token).encode()
        ):
            return 401, b"this hub asks for a token"
        if len(message.payload) > MAX_BODY_BYTES:
            return 413, encode_refusal(f"more than {MAX_BODY_BYTES} bytes")
        try:
            return 200, encode_receipt(await self._ingest.accept(decode(bytes(message.payload))))
        except WireError as error:
            return 400, encode_refusal(str(error))
        except AccessError as error:
            return 403, json.dumps({"error": str(error)}).encode()
        except BusyError as error:
            return 429, json.dumps({"error": str(error)}).encode()
        except BinsightError as error:
            return 503, json.dumps({"error": str(error)}).encode()
