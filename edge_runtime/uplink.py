"""The way to the hub: peek, post, acknowledge; its own thread; retries for ever.

What an answer means:
    2xx with a receipt of this outbox    the events up to its number are forgotten
    400, 413, 422 with a refusal         halve the batch; a single event is quarantined
    401, 403                             keep everything, raise the alarm
    anything else, no answer, garbage    back off with jitter, try again

404 and its like speak of a wrong address or a captive portal, not of the events, so they never
quarantine.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import httpx2

from edge_runtime.clock import Clock
from edge_runtime.config import UplinkConfig
from edge_runtime.outbox import Outbox
from vision.addresses import without_secrets
from vision.errors import ConfigError, UplinkError, WireError
from vision.wire import decode_receipt, encode_batch, is_refusal

log = logging.getLogger(__name__)

INGEST_PATH = "/v1/batches"
MQTT_BATCHES = "binsight/batches"
MQTT_ANSWERS = "binsight/answers"
_MAX_ANSWER_BYTES = 64 * 1024
_CONTENT_REFUSED = (400, 413, 422)
_BACKOFF_FIRST_S = 0.5
# So many events refused in a row are not damaged events; from then on one is set aside so often.
_SUSPICIOUS = 5
_SUSPICIOUS_PAUSE_S = 3600.0
# Source: OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl does not name.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP status and body."""

    status: int
    body: bytes


class Transport(Protocol):
    """Send a body, return the answer."""

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch.

        Raises:
            UplinkError: no answer came.
        """

    def close(self) -> None:
        """Hang up."""


class HttpTransport:
    """HTTP or HTTPS POST.

    Args:
        config: with `url` set.
        clock: says whether the bin knows the time; a certificate's dates are not checked by a clock
            that nobody has set.
    """

    def __init__(self, config: UplinkConfig, clock: Clock) -> None:
        headers = {"Content-Type": "application/vnd.binsight.batch+json+zlib"}
        if config.token:
            headers["Authorization"] = f"Bearer {config.token}"
        self._url = f"{str(config.url).rstrip('/')}{INGEST_PATH}"
        self._timeout_s = config.timeout_s
        self._shown = without_secrets(self._url)
        self._clock = clock
        self._tls = _tls(config)
        self._connect = partial(
            httpx2.Client, timeout=config.timeout_s, headers=headers, verify=self._tls
        )
        self._client = self._connect()

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch."""
        _set_date_check(self._tls, self._clock)
        # httpx2 limits the wait for each piece; an answer that drips a byte at a time is cut off
        # here.
        if self._client.is_closed:  # it was cut off
            self._client = self._connect()
        client = self._client
        late = threading.Event()

        def cut_off() -> None:
            late.set()
            client.close()

        patience = threading.Timer(3 * self._timeout_s, cut_off)
        patience.daemon = True
        patience.start()
        try:
            with client.stream("POST", self._url, content=body) as response:
                answer = bytearray()
                for piece in response.iter_bytes():
                    answer += piece
                    if len(answer) > _MAX_ANSWER_BYTES:
                        raise UplinkError(f"{self._shown}: the answer is too long")
                return Answer(response.status_code, bytes(answer))
        except (
            httpx2.InvalidURL
        ) as error:  # its words hold what stands in the address, a password perhaps
            raise UplinkError(f"{self._shown}: uplink.url is not a valid address") from error
        except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: closed under us
            message = (
                "the answer comes too slowly" if late.is_set() else error or type(error).__name__
            )
            raise UplinkError(f"{self._shown}: {message}") from error
        finally:
            patience.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class MqttTransport:
    """MQTT 5 request and response.

    A batch to binsight/batches, the hub's own answer back to this client.

    The broker's acknowledgement says nothing of the hub's disk, so it is not waited for: the answer
    is.

    Args:
        config: with `url` set: mqtt://host:port or mqtts://host:port.
        clock: as for HttpTransport.
    """

    def __init__(self, config: UplinkConfig, clock: Clock) -> None:
        import paho.mqtt.client as mqtt  # noqa: PLC0415
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415
        from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415
        from paho.mqtt.properties import Properties  # noqa: PLC0415

        where = urlsplit(config.url or "")
        name = uuid.uuid4().hex
        self._config = config
        self._answers = f"{MQTT_ANSWERS}/{name}"
        self._waiting: tuple[bytes, Answer | None] = (b"", None)
        self._arrived = threading.Condition()

        def properties(number: bytes) -> Any:
            made: Any = Properties(PacketTypes.PUBLISH)
            made.ResponseTopic = self._answers
            made.CorrelationData = number
            if config.token:
                made.UserProperty = ("authorization", f"Bearer {config.token}")
            return made

        self._properties = properties
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5
        )
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            self._client.tls_set_context(tls := _tls(config))
            self._client.on_pre_connect = lambda *_: _set_date_check(tls, clock)
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
        self._client.publish(MQTT_BATCHES, body, qos=0, properties=self._properties(number))
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

    def _on_answer(self, message: Any) -> None:
        with self._arrived:
            if getattr(message.properties, "CorrelationData", b"") != self._waiting[0]:
                return  # a late answer to an earlier batch
            stated = dict(getattr(message.properties, "UserProperty", [])).get("status", "")
            status = (
                int(stated) if stated.isascii() and stated.isdigit() else 0
            )  # 0 is no status: it backs off
            self._waiting = (self._waiting[0], Answer(status, bytes(message.payload)))
            self._arrived.notify()


def _tls(config: UplinkConfig) -> ssl.SSLContext:
    return (
        ssl.create_default_context(cafile=config.ca) if config.ca else httpx2.create_ssl_context()
    )


def _set_date_check(tls: ssl.SSLContext, clock: Clock) -> None:
    """Let certificates of any date pass while the bin does not know the time.

    Chain and host name are still checked.

    A board without a battery would else never reach the hub that is to date its events.
    """
    flags = tls.verify_flags & ~_NO_CHECK_TIME
    tls.verify_flags = ssl.VerifyFlags(
        flags if clock.now().clock_synced else flags | _NO_CHECK_TIME
    )


def open_transport(config: UplinkConfig, clock: Clock) -> Transport:
    """Return the way that the URL's scheme names.

    Raises:
        ConfigError: it cannot be gone: no paho-mqtt, no such file of certificates, no such port.
    """
    try:
        return (MqttTransport if str(config.url).startswith("mqtt") else HttpTransport)(
            config, clock
        )
    except ImportError as error:
        raise ConfigError(
            "uplink.url: MQTT needs another package: pip install 'binsight[mqtt]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"uplink: {without_secrets(config.url)}, ca {config.ca}: {error}"
        ) from error


class Uplink:
    """Empties the outbox into a transport.

    Args:
        outbox: the queue.
        transport: the way.
        config: sizes and pauses.
        clock: tells the hub when a batch was sent.

    Attributes:
        alarm: what an operator must know ("" if nothing): refused key, wrong address.
        last_error: why the last attempt failed, "" after a success.
    """

    def __init__(
        self, outbox: Outbox, transport: Transport, config: UplinkConfig, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._config = config
        self._clock = clock
        self._limit = config.batch_events
        self._failures = 0
        self._quarantined = 0
        self._renewed_id = False
        self._urgent = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)
        self.alarm = self.last_error = ""

    def step(self) -> float:
        """Make one attempt; return how many seconds to wait before the next."""
        batch = self._outbox.peek(self._limit)
        if batch is None:
            return self._config.interval_s
        now = self._clock.now()
        sent = replace(batch, sent_monotonic_ms=int(now.monotonic_ms), sent_boot_id=now.boot_id)
        try:
            answer = self._transport.post(encode_batch(sent))
        except UplinkError as error:
            return self._back_off(str(error))
        if answer.status in _CONTENT_REFUSED:
            if not is_refusal(
                answer.body
            ):  # a proxy, a portal, a web server: it knows nothing of the events
                self.alarm = f"what answers ({answer.status}) is no binsight hub; check uplink.url"
                if answer.status == 413:  # or a proxy before it that takes less at once
                    self._limit = max(1, len(batch.events) // 2)
                return self._back_off(self.alarm)
            return self._refused([seq for seq, _ in batch.events], answer)
        if answer.status in (401, 403):
            self.alarm = f"the hub refuses this bin's token ({answer.status})"
            return self._back_off(self.alarm)
        if not 200 <= answer.status < 300:
            return self._back_off(f"the hub answers {answer.status}")
        try:
            receipt = decode_receipt(answer.body)
            if receipt.outbox_id != batch.outbox_id:
                raise WireError("the receipt is of another outbox")
        except WireError as error:
            return self._back_off(str(error))
        if receipt.acked_seq > self._outbox.last_number():
            # A restored or copied card gives numbers that the hub has seen: it would take new
            # events for repeats.
            if not self._renewed_id:  # an honest hub can say this once
                self._renewed_id = True
                self._outbox.renew_id()
            return self._back_off("the hub's receipt is of later events than this outbox ever held")
        if receipt.acked_seq < batch.events[0][0]:
            return self._back_off("the hub acknowledges nothing of what it was sent")
        self._outbox.ack(min(receipt.acked_seq, batch.events[-1][0]))
        self._failures = 0
        self._quarantined = 0
        self.alarm = ""
        self.last_error = ""
        self._limit = min(self._limit * 2, self._config.batch_events)
        return 0.0

    def start(self) -> None:
        """Begin sending in the background."""
        self._thread.start()

    @property
    def died(self) -> bool:
        """Whether its thread has ended without being told to.

        What is no Exception (a library's panic) ends it.
        """
        return (
            self._thread.ident is not None
            and not self._thread.is_alive()
            and not self._stop.is_set()
        )

    def hurry(self) -> None:
        """Try now: something that cannot wait is in the outbox."""
        self._urgent.set()

    def stop(self, wait: bool = True) -> None:
        """Stop after the attempt in hand; its own thread hangs up."""
        self._stop.set()
        self._urgent.set()
        if wait:
            self._thread.join(timeout=self._config.timeout_s + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause_s = self.step()
            except Exception as error:
                if self._stop.is_set():
                    break  # its outbox was closed
                log.exception("uplink")
                self.alarm = f"the uplink fails: {error!r}"
                pause_s = self._back_off(self.alarm)
            self._urgent.wait(pause_s)
            self._urgent.clear()
        self._transport.close()

    def _refused(self, numbers: list[int], answer: Answer) -> float:
        reason = f"{answer.status}: {answer.body[:200].decode(errors='replace')}"
        if len(numbers) > 1:
            self._limit = max(1, len(numbers) // 2)
            self.last_error = f"the hub refuses a batch of {len(numbers)} ({reason})"
            return 0.0
        log.error("uplink: event %d is quarantined: %s", numbers[0], reason)
        self._outbox.quarantine(numbers[0], reason)
        self._quarantined += 1
        if self._quarantined < _SUSPICIOUS:
            return 0.0
        # a person must look: bin or hub is of another version
        self.alarm = f"the hub refuses every event ({reason})"
        self._back_off(self.alarm)
        return _SUSPICIOUS_PAUSE_S

    def _back_off(self, reason: str) -> float:
        if reason != self.last_error:
            log.warning("uplink: %s; events are kept", reason)
        self.last_error = reason
        pause_s: float = min(_BACKOFF_FIRST_S * 2**self._failures, self._config.backoff_max_s)
        self._failures = min(self._failures + 1, 30)
        return pause_s * random.uniform(0.5, 1.0)
