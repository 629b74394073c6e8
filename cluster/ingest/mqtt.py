"""The hub's second way in: MQTT 5, for fleets whose network lets nothing else through.

A batch comes in on a topic shared by all hubs, and goes the same way as one that came by HTTP. The
answer goes to the topic that the bin named, and only after the commit. What a broker acknowledges
or keeps is never relied on.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from cluster.ingest.front_end import FrontEnd, Request
from vision.signature import MQTT_METHOD
from vision.wire import ANSWER_TOPIC, ANSWERS_TOPIC, TOPICS

log = logging.getLogger(__name__)

# Hubs that share a broker share the work; the bins publish to what stands after the group's name.
_GROUP = "$share/binsight-hubs"
_PATHS = {topic: path for path, topic in TOPICS.items()}
# Batches of this hub that wait for their commit: more are not taken in, and their bins send them
# again.
MAX_WAITING = 1000


class MqttConsumer:
    """Takes batches from a broker while it is open.

    Args:
        url: mqtt://host:port or mqtts://host:port, with user:word@ if the broker asks.
        front_end: answers what comes.
        loop: that it runs in.
    """

    def __init__(self, url: str, front_end: FrontEnd, loop: asyncio.AbstractEventLoop) -> None:
        where = urlsplit(url)
        self._front_end = front_end
        self._loop = loop
        self._waiting = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            self._client.tls_set()
        topics = [(f"{_GROUP}/{topic}", SubscribeOptions(qos=1)) for topic in _PATHS]
        self._client.on_connect = lambda client, *_: client.subscribe(topics)
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
        fields = dict(getattr(message.properties, "UserProperty", []))
        path = _PATHS.get(message.topic, "")
        asked = Request(MQTT_METHOD, path, bytes(message.payload), fields)
        reply = await self._front_end.answer(asked)
        answer: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        answer.CorrelationData = getattr(message.properties, "CorrelationData", b"")
        answer.UserProperty = ("status", str(reply.status))
        if reply.retry_after_s:
            answer.UserProperty = ("retry-after", str(reply.retry_after_s))
        self._client.publish(topic, reply.body, qos=1, properties=answer)
