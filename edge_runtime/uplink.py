"""The way to the hub: peek, post, acknowledge; its own thread; retries for ever.

What an answer means:
    2xx with a receipt of this outbox    the events up to its number are forgotten
    400, 413, 422                        the hub judged the content: halve the batch; a single event is quarantined
    401, 403                             keep everything, raise the alarm: a refused key is no delivered batch
    anything else, no answer, garbage    back off with jitter, try again

404 and its like speak of a wrong address or a captive portal, not of the events, so they never quarantine.
"""

from __future__ import annotations

import logging
import random
import threading
from dataclasses import dataclass
from typing import Protocol

import httpx2

from edge_runtime.config import UplinkConfig
from edge_runtime.outbox import Outbox
from vision.errors import UplinkError, WireError
from vision.events import decode_receipt, encode_batch

log = logging.getLogger(__name__)

INGEST_PATH = "/v1/batches"
_CONTENT_REFUSED = (400, 413, 422)
_BACKOFF_FIRST_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP status and body."""

    status: int
    body: bytes


class Transport(Protocol):
    """One method: send a body, return the answer."""

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch.

        Raises:
            UplinkError: no answer came.
        """


class HttpTransport:
    """HTTP or HTTPS POST.

    Args:
        config: with `url` set.
    """

    def __init__(self, config: UplinkConfig) -> None:
        headers = {"Content-Type": "application/vnd.binsight.batch+json+zlib"}
        if config.token:
            headers["Authorization"] = f"Bearer {config.token}"
        self._url = f"{str(config.url).rstrip('/')}{INGEST_PATH}"
        self._client = httpx2.Client(timeout=config.timeout_s, headers=headers)

    def post(self, body: bytes) -> Answer:
        """Send one encoded batch."""
        try:
            response = self._client.post(self._url, content=body)
            return Answer(response.status_code, response.content)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise UplinkError(f"{self._url}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Uplink:
    """Empties the outbox into a transport.

    Args:
        outbox: the queue.
        transport: the way.
        config: sizes and pauses.

    Attributes:
        alarm: what an operator must know ("" if nothing): refused key, wrong address.
        last_error: why the last attempt failed, "" after a success.
    """

    def __init__(self, outbox: Outbox, transport: Transport, config: UplinkConfig) -> None:
        self._outbox, self._transport, self._config = outbox, transport, config
        self._limit, self._failures = config.batch_events, 0
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, name="uplink", daemon=True)
        self.alarm = self.last_error = ""

    def step(self) -> float:
        """Make one attempt; return how many seconds to wait before the next."""
        batch = self._outbox.peek(self._limit)
        if batch is None:
            return self._config.interval_s
        try:
            answer = self._transport.post(encode_batch(batch))
        except UplinkError as error:
            return self._back_off(str(error))
        if answer.status in _CONTENT_REFUSED:
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
        self._outbox.ack(min(receipt.acked_seq, batch.events[-1][0]))
        self._failures, self.alarm, self.last_error = 0, "", ""
        self._limit = min(self._limit * 2, self._config.batch_events)
        return 0.0

    def start(self) -> None:
        """Begin sending in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the attempt in hand."""
        self._stop.set()
        self._thread.join(timeout=self._config.timeout_s + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause_s = self.step()
            except Exception as error:
                log.exception("uplink")
                self.alarm = f"the uplink fails: {error!r}"
                pause_s = self._back_off(self.alarm)
            self._stop.wait(pause_s)

    def _refused(self, numbers: list[int], answer: Answer) -> float:
        reason = f"{answer.status}: {answer.body[:200].decode(errors='replace')}"
        if len(numbers) > 1:
            self._limit = max(1, len(numbers) // 2)
            self.last_error = f"the hub refuses a batch of {len(numbers)} ({reason})"
            return 0.0
        log.error("uplink: event %d is quarantined: %s", numbers[0], reason)
        self._outbox.quarantine(numbers[0], reason)
        return 0.0

    def _back_off(self, reason: str) -> float:
        if reason != self.last_error:
            log.warning("uplink: %s; events are kept", reason)
        self.last_error = reason
        pause_s: float = min(_BACKOFF_FIRST_S * 2**self._failures, self._config.backoff_max_s)
        self._failures = min(self._failures + 1, 30)
        return pause_s * random.uniform(0.5, 1.0)
