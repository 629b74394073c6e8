"""Where events wait, and how they leave: the outbox on the disk, the one in memory, their uplinks.

A disk that takes nothing must not keep a bin from serving: events are then held in memory, and
new ones are stored on the disk again as soon as it takes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bin import Timing
from edge_runtime.clock import Clock
from edge_runtime.config import (
    EdgeConfig,
    HttpUplinkConfig,
    MqttUplinkConfig,
    NoUplinkConfig,
    UplinkConfig,
)
from edge_runtime.identity import FILE_NAME, Identity
from edge_runtime.outbox import Outbox, open_outbox
from edge_runtime.transports.factory import open_transport
from edge_runtime.transports.signed import SignedTransport
from edge_runtime.transports.transport import Transport
from edge_runtime.uplink import Uplink
from vision.errors import BinsightError, StorageError
from vision.events import ItemEvent
from vision.notes import Note

log = logging.getLogger(__name__)

# Two weeks of notes; older ones go.
_NOTES_BYTES = 1024 * 1024

Connect = Callable[[HttpUplinkConfig | MqttUplinkConfig, Clock], Transport]


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What the health file says of the events on their way; see `Health`."""

    storage: str
    outbox_depth: int
    outbox_full_share: float
    dropped: int
    quarantined: int
    unrecorded: int
    uplink: str
    alarm: str


@dataclass(slots=True, eq=False)
class _Channel:
    """An outbox and the uplink that empties it; None where there is none to be had."""

    outbox: Outbox
    uplink: Uplink | None = None


class Delivery:
    """Takes events and sees to it that they reach the hub. A service: see `step`.

    Args:
        config: of the bin: its id, state folder, outbox and uplink.
        clock: tells the hub when a batch was sent.
        timing: pauses between tries.
        connect: opens the way to the hub.
    """

    period_ms = 0.0

    def __init__(
        self,
        config: EdgeConfig,
        clock: Clock,
        timing: Timing = Timing(),
        connect: Connect = open_transport,
    ) -> None:
        self._bin_id = config.bin_id
        self._path: Path = config.state / "outbox.sqlite"
        self._identity_path = config.state / FILE_NAME
        self._max_bytes = config.outbox.max_bytes
        self._config: UplinkConfig = config.uplink
        self._clock = clock
        self._timing = timing
        self._connect = connect
        outbox, self._storage = open_outbox(self._path, self._bin_id, self._max_bytes)
        if self._storage:
            log.error("%s", self._storage)
        self._notes, problem = open_outbox(
            config.state / "notes.sqlite", self._bin_id, _NOTES_BYTES, Note
        )
        if problem:
            log.error("%s", problem)
        self._current = _Channel(outbox)
        # Events in memory that leave by their own uplink, while new ones are stored again.
        self._leaving: _Channel | None = None
        self._unrecorded = 0
        self._identity: Identity | None = None
        self._no_uplink = ""
        self._uplink_due_ms = 0.0
        self._disk_due_ms = 0.0
        self._current.uplink = self._started(outbox)

    @property
    def in_memory(self) -> bool:
        """Whether new events are held in memory."""
        return self._current.outbox.in_memory

    @property
    def connected(self) -> bool:
        """Whether there is a way to the hub for new events."""
        return self._current.uplink is not None

    def append(self, event: ItemEvent) -> None:
        """Store an event: on the disk, or else in memory, or else count it as unrecorded."""
        try:
            try:
                self._current.outbox.append(event)
            except StorageError as error:
                log.error("%s", error)
                self._hold_in_memory(error)
                self._current.outbox.append(event)
        except StorageError:
            self._unrecorded += 1

    def append_note(self, note: Note) -> None:
        """Store a note.

        Raises:
            StorageError: the disk does not take it.
        """
        self._notes.append(note)

    def last_event(self) -> tuple[str, int]:
        """Return the outbox that takes new events, and the number of its last one.

        Raises:
            StorageError: the disk cannot be read.
        """
        outbox = self._current.outbox
        return outbox.outbox_id, outbox.last_number()

    def hurry(self) -> None:
        """Send what waits now: something in it is urgent."""
        if self._current.uplink:
            self._current.uplink.hurry()

    def depth(self) -> int:
        """Return the number of events that wait for the hub.

        Raises:
            StorageError: the disk cannot be read.
        """
        return sum(channel.outbox.depth() for channel in self._channels())

    def step(self, now_ms: float) -> None:
        """Open, reopen and return to the disk what is due.

        Args:
            now_ms: monotonic clock.
        """
        current = self._current
        if current.uplink and current.uplink.died:
            log.error("uplink: its thread has ended; it is started again")
            current.uplink = None
            self._no_uplink = "the uplink's thread had ended"
            self._uplink_due_ms = now_ms + 1000.0
        if self._no_uplink and current.uplink is None and now_ms >= self._uplink_due_ms:
            current.uplink = self._started(current.outbox)
        if now_ms >= self._disk_due_ms:
            self._disk_due_ms = now_ms + self._timing.disk_retry_ms
            if self.in_memory:
                self._return_to_disk()
            if self._leaving and not self._leaving.outbox.depth():
                _close(self._leaving)
                self._leaving = None

    def open_uplink(self, config: UplinkConfig) -> Uplink | None:
        """Return a new way for what waits now, not yet started; None where none is configured.

        Raises:
            ConfigError: it cannot be opened.
        """
        return self._opened(config, self._current.outbox)

    def use_uplink(self, config: UplinkConfig, uplink: Uplink | None) -> None:
        """Send by a new uplink from now on; what both send in between, the hub takes once."""
        self._config = config
        self._no_uplink = ""
        if self._current.uplink:
            self._current.uplink.stop(wait=False)
        self._current.uplink = uplink
        if uplink:
            uplink.start()
        if self._leaving and self._leaving.uplink:
            self._leaving.uplink.stop(wait=False)
            self._leaving.uplink = self._started(self._leaving.outbox)

    def wants_uplink(self, config: UplinkConfig) -> bool:
        """Return whether these settings need a new uplink: they differ, or the old one failed."""
        return config != self._config or bool(self._no_uplink)

    def status(self) -> DeliveryStatus:
        """Return what the health file says of the events on their way."""
        outbox = self._current.outbox
        storage = self._storage
        depth = dropped = quarantined = 0
        full_share = 0.0
        try:
            full_share = outbox.full_share()
            depth = self.depth()
            dropped = outbox.dropped()
            quarantined = outbox.quarantined()
        except StorageError as error:  # all else must still be said
            storage = str(error)
        if self._leaving:
            waiting = self._leaving.outbox.depth()
            storage = f"{storage}; {waiting} events are only in memory".lstrip("; ")
        uplink = self._current.uplink
        return DeliveryStatus(
            storage=storage,
            outbox_depth=depth,
            outbox_full_share=full_share,
            dropped=dropped,
            quarantined=quarantined,
            unrecorded=self._unrecorded,
            uplink=(uplink.last_error or "ok") if uplink else (self._no_uplink or "off"),
            alarm=uplink.alarm if uplink else self._no_uplink,
        )

    def close(self) -> None:
        """Hang up and close the outboxes."""
        for channel in self._channels():
            if channel.uplink:
                channel.uplink.stop()
            if channel.outbox.in_memory and (lost := channel.outbox.depth()):
                log.error("%d events were in memory only and are lost", lost)
            channel.outbox.close()
        self._notes.close()

    def _channels(self) -> list[_Channel]:
        return [self._current, *([self._leaving] if self._leaving else [])]

    def _hold_in_memory(self, error: StorageError) -> None:
        """Begin an outbox in memory; what lies on the disk waits for the disk.

        Raises:
            StorageError: the one that refused is in memory already.
        """
        refusing = self._current
        if refusing.outbox.in_memory:
            raise error
        self._storage = f"{error}; events are held in memory and lost with the power"
        if self._leaving:
            self._current = self._leaving
            self._leaving = None
        else:
            memory = Outbox(None, self._bin_id, self._max_bytes)
            self._current = _Channel(memory, self._started(memory))
        _close(refusing)

    def _return_to_disk(self) -> None:
        """Store new events on the disk again, if it takes them now.

        Those in memory move there if there is no uplink. If there is one they leave by it, under
        the name by which the hub may know them: moved, they would get other numbers, and one whose
        receipt was lost would count twice.
        """
        memory = self._current
        disk, problem = open_outbox(self._path, self._bin_id, self._max_bytes)
        try:
            if disk.in_memory:
                raise StorageError(problem)
            if memory.uplink is None:
                disk.move_from(memory.outbox)
                memory.outbox.close()
            else:
                disk.try_to_write()  # a disk that is full opens too
        except StorageError:
            disk.close()
            return
        if memory.uplink:
            self._leaving = memory
        self._current = _Channel(disk, self._started(disk) if memory.uplink else None)
        self._storage = problem

    def _started(self, outbox: Outbox) -> Uplink | None:
        """Open the way to the hub and begin to send.

        A bin that cannot must still serve: it says why and tries again.
        """
        try:
            uplink = self._opened(self._config, outbox)
        except BinsightError as error:
            if str(error) != self._no_uplink:
                log.error("%s", error)
            self._no_uplink = str(error)
            self._uplink_due_ms = self._clock.now().monotonic_ms + self._timing.uplink_retry_ms
            return None
        self._no_uplink = ""
        if uplink:
            uplink.start()
        return uplink

    def _opened(self, config: UplinkConfig, outbox: Outbox) -> Uplink | None:
        if isinstance(config, NoUplinkConfig):
            return None
        transport = self._connect(config, self._clock)
        identity = self._opened_identity()
        if identity.enrolled or identity.renewing or config.enrolment_code:
            code = config.enrolment_code or ""
            transport = SignedTransport(transport, identity, code, self._clock)
        return Uplink(outbox, transport, config, self._clock, self._notes)

    def _opened_identity(self) -> Identity:
        """Return the bin's key, one for all its uplinks."""
        if self._identity is None:
            self._identity = Identity(self._identity_path, self._bin_id)
        return self._identity


def _close(channel: _Channel) -> None:
    if channel.uplink:
        # A batch in flight whose receipt it cannot note is sent again, and taken once.
        channel.uplink.stop(wait=False)
    channel.outbox.close()
