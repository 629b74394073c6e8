"""Empties a bin's outboxes into a transport: its own thread; retries for ever.

What an answer means is in `edge_runtime.sender`.
"""

from __future__ import annotations

import threading
import time

from edge_runtime.clock import Clock
from edge_runtime.config import HttpUplinkConfig, MqttUplinkConfig
from edge_runtime.guard import failure_of
from edge_runtime.outbox import Outbox
from edge_runtime.sender import Sender
from edge_runtime.transports.transport import Transport


class Uplink:
    """Empties the outbox, and that of the notes, into one transport.

    They wait apart: what the hub refuses of the one does not hold up the other.

    Args:
        outbox: of the events.
        transport: the way.
        config: sizes and pauses.
        clock: tells the hub when a batch was sent.
        notes: outbox of the notes; None sends none.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        config: HttpUplinkConfig | MqttUplinkConfig,
        clock: Clock,
        notes: Outbox | None = None,
    ) -> None:
        self._transport = transport
        self._timeout_s = config.timeout_s
        self._events = Sender(outbox, transport, config, clock)
        self._senders = [self._events]
        if notes is not None:
            self._senders.append(Sender(notes, transport, config, clock))
        self._urgent = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def step(self) -> float:
        """Make one attempt with the events; return how many seconds to wait before the next."""
        return self._events.step()

    @property
    def alarm(self) -> str:
        """Return what an operator must know, "" if nothing."""
        return next((sender.alarm for sender in self._senders if sender.alarm), "")

    @property
    def last_error(self) -> str:
        """Return why the last attempt with the events failed, "" after a success."""
        return self._events.last_error

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
        """Try now: something that cannot wait is in an outbox."""
        self._urgent.set()

    def stop(self, wait: bool = True) -> None:
        """Stop after the attempt in hand; its own thread hangs up."""
        self._stop.set()
        self._urgent.set()
        if wait:
            self._thread.join(timeout=self._timeout_s + 1)

    def _run(self) -> None:
        due_s = dict.fromkeys(self._senders, 0.0)
        while not self._stop.is_set():
            for sender in self._senders:
                if due_s[sender] <= time.monotonic() and not self._stop.is_set():
                    due_s[sender] = time.monotonic() + self._attempt(sender)
            self._urgent.wait(max(0.0, min(due_s.values()) - time.monotonic()))
            if self._urgent.is_set():
                due_s = dict.fromkeys(self._senders, 0.0)
                self._urgent.clear()
        self._transport.close()

    def _attempt(self, sender: Sender) -> float:
        """Return how many seconds to wait before the next attempt."""
        pause_s: list[float] = []
        error = failure_of(lambda: pause_s.append(sender.step()))
        if error is None:
            return pause_s[0]
        if self._stop.is_set():
            return 0.0  # its outbox may be closed
        return sender.failed(error)
