"""Empties one outbox into a transport: peek, post, acknowledge.

What an answer means:

    2xx with a receipt of this outbox    what has a number up to its own is forgotten; what it
                                         refuses is quarantined
    400, 413, 422 with a refusal         halve the batch; a single event is quarantined
    401, 403                             keep everything, raise the alarm
    anything else, no answer, garbage    back off with jitter, try again

404 and its like speak of a wrong address or a captive portal, not of the events, so they never
quarantine.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace

from edge_runtime.clock import Clock
from edge_runtime.config import HttpUplinkConfig, MqttUplinkConfig
from edge_runtime.outbox import Outbox
from edge_runtime.transports.transport import Answer, Request, Transport
from vision.errors import UplinkError, WireError
from vision.events import Batch
from vision.signature import Subject
from vision.wire import CONTENT_REFUSED, KEY_REFUSED, decode_receipt, encode_batch, is_refusal

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.5
# No answer keeps a bin silent for longer.
_RETRY_AFTER_MAX_S = 600.0
# So many events refused, with no batch taken whole in between, are not damaged events; from then on
# one is set aside so often.
_SUSPICIOUS = 5
_SUSPICIOUS_PAUSE_S = 3600.0


class Sender:
    """Sends what one outbox holds, a batch at a time.

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
        self,
        outbox: Outbox,
        transport: Transport,
        config: HttpUplinkConfig | MqttUplinkConfig,
        clock: Clock,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._config = config
        self._clock = clock
        self._limit = config.batch_events
        self._failures = 0
        self._quarantined = 0
        self._renewed_id = False
        self.alarm = ""
        self.last_error = ""

    def step(self) -> float:
        """Make one attempt; return how many seconds to wait before the next."""
        batch = self._outbox.peek(self._limit)
        if batch is None:
            return self._config.interval_s
        now = self._clock.now()
        sent = replace(
            batch,
            sent_monotonic_ms=int(now.monotonic_ms),
            sent_boot_id=now.boot_id,
            takes_refusals=True,
        )
        try:
            subject = Subject(batch.outbox_id, batch.numbers[0], batch.last_seq)
            answer = self._transport.post(Request(encode_batch(sent), subject=subject))
        except UplinkError as error:
            return self._back_off(str(error))
        if answer.status in CONTENT_REFUSED:
            return self._content_refused(batch, answer)
        if answer.status in KEY_REFUSED:
            self.alarm = (
                "the hub refuses this bin's token or key (401)"
                if answer.status == 401
                else "the hub refuses this bin (403): its code, or an outbox that is another bin's"
            )
            return self._back_off(self.alarm)
        if not 200 <= answer.status < 300:
            return self._back_off(f"the hub answers {answer.status}", answer.retry_after_s)
        return self._acknowledged(batch, answer)

    def _acknowledged(self, batch: Batch, answer: Answer) -> float:
        try:
            receipt = decode_receipt(answer.body)
            if receipt.outbox_id != batch.outbox_id:
                raise WireError("the receipt is of another outbox")
        except WireError as error:
            return self._back_off(str(error))
        if receipt.acked_seq > self._outbox.last_number():
            # A restored or copied card gives numbers that the hub has seen: it would take new
            # events for repeats. An honest hub can answer so once.
            if not self._renewed_id:
                self._renewed_id = True
                self._outbox.renew_id()
            return self._back_off("the hub's receipt is of later events than this outbox ever held")
        if receipt.acked_seq < batch.numbers[0]:
            return self._back_off("the hub acknowledges nothing of what it was sent")
        refused = sorted(set(batch.numbers).intersection(receipt.refused))
        for seq in refused:
            log.error("uplink: event %d is quarantined: %s", seq, receipt.refusal)
            self._outbox.quarantine(seq, receipt.refusal)
        self._outbox.ack(min(receipt.acked_seq, batch.numbers[-1]))
        self._failures = 0
        self._limit = min(self._limit * 2, self._config.batch_events)
        if refused:
            self._quarantined += len(refused)
            return self._after_quarantine(receipt.refusal)
        self._quarantined = 0
        self.alarm = ""
        self.last_error = ""
        return 0.0

    def _content_refused(self, batch: Batch, answer: Answer) -> float:
        if not is_refusal(answer.body):
            # A proxy, a portal, a web server: it knows nothing of the events.
            self.alarm = f"what answers ({answer.status}) is no binsight hub; check uplink.url"
            if answer.status == 413:  # or a proxy before it that takes less at once
                self._limit = max(1, len(batch.numbers) // 2)
            return self._back_off(self.alarm)
        return self._refused(batch.numbers, answer)

    def failed(self, error: Exception) -> float:
        """Note what nobody foresaw; return how many seconds to wait before the next attempt."""
        log.error("uplink", exc_info=error)
        self.alarm = f"the uplink fails: {error!r}"
        return self._back_off(self.alarm)

    def _refused(self, numbers: tuple[int, ...], answer: Answer) -> float:
        reason = f"{answer.status}: {answer.body[:200].decode(errors='replace')}"
        if len(numbers) > 1:
            self._limit = max(1, len(numbers) // 2)
            self.last_error = f"the hub refuses a batch of {len(numbers)} ({reason})"
            return 0.0
        log.error("uplink: event %d is quarantined: %s", numbers[0], reason)
        self._outbox.quarantine(numbers[0], reason)
        self._quarantined += 1
        return self._after_quarantine(reason)

    def _after_quarantine(self, reason: str) -> float:
        if self._quarantined < _SUSPICIOUS:
            return 0.0
        # a person must look: bin or hub is of another version
        self.alarm = f"the hub refuses event after event ({reason})"
        self._back_off(self.alarm)
        return _SUSPICIOUS_PAUSE_S

    def _back_off(self, reason: str, at_least_s: float = 0.0) -> float:
        if reason != self.last_error:
            log.warning("uplink: %s; events are kept", reason)
        self.last_error = reason
        pause_s: float = min(_BACKOFF_FIRST_S * 2**self._failures, self._config.backoff_max_s)
        self._failures = min(self._failures + 1, 30)
        asked_s = min(at_least_s, _RETRY_AFTER_MAX_S)
        return max(pause_s * random.uniform(0.5, 1.0), asked_s * random.uniform(1.0, 1.5))
