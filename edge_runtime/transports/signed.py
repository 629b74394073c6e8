"""Signs what goes to the hub; before the first batch it enrols the bin, and renews its key."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from edge_runtime.clock import Clock
from edge_runtime.identity import Identity
from edge_runtime.transports.transport import Answer, Request, Transport
from vision.enrolment import decode_key_receipt
from vision.errors import StorageError, UplinkError, WireError
from vision.signature import Subject
from vision.wire import KEY_REFUSED, KEYS_PATH, decode_receipt

log = logging.getLogger(__name__)


class SignedTransport:
    """A transport whose requests carry the bin's signature.

    Args:
        transport: the way to the hub.
        identity: of the bin.
        code: one-time code; a new one enrols the bin again. "" for a bin that has its key.
        clock: tells when a request was signed.
    """

    def __init__(self, transport: Transport, identity: Identity, code: str, clock: Clock) -> None:
        self.method = transport.method
        self._transport = transport
        self._identity = identity
        self._code = code
        self._clock = clock
        # A key that was refused is replaced once: each new one is a write to a flash disk.
        self._refused = False

    def post(self, request: Request) -> Answer:
        """Send a signed request.

        Nothing is sent before the bin is enrolled: what the hub answers to its code is the answer.
        A renewal comes after the request and never holds it up.

        Raises:
            UplinkError: no answer came, or the first key cannot be kept.
        """
        identity = self._identity
        try:
            if self._code and not (identity.enrolled and identity.fits(self._code)):
                refusal = self._enrol()
                if refusal is not None:
                    return refusal
            answer = self._sent(request)
        except StorageError as error:
            raise UplinkError(str(error)) from error
        if answer.status == 200:
            asked = _field(answer.body, "renew_key") is True and not self._refused
            self._renew(asked)
        return answer

    def _sent(self, request: Request) -> Answer:
        """Send a request with the key that the hub should know, or with the one it was offered.

        The hub has perhaps taken that one, and its answer was lost.
        """
        identity = self._identity
        if identity.enrolled:
            answer = self._transport.post(self._signed(request, request.subject))
            if answer.status != 401 or not identity.renewing:
                return answer
        with identity.changing:
            answer = self._transport.post(self._signed(request, request.subject, offered=True))
            if answer.status == 200 and _is_receipt(answer.body, request.subject):
                self._keep(identity.taken)
        return answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _enrol(self) -> Answer | None:
        """Have the hub take a first key for the code; return its answer if it does not."""
        identity = self._identity
        with identity.changing:
            if identity.enrolled and identity.fits(self._code):  # by another uplink, meanwhile
                return None
            answer = self._transport.post(Request(identity.offer(self._code), KEYS_PATH))
            if answer.status == 200:
                try:
                    decode_key_receipt(answer.body)
                except WireError as error:
                    raise UplinkError(str(error)) from error
                identity.taken(self._code)
                self._refused = False
                log.info("uplink: the hub has taken this bin's key")
                return None
            if answer.status == 403 and _field(answer.body, "error") and not self._refused:
                self._refused = True
                identity.refused()  # another key may be taken: this one was ended, perhaps
        if answer.status in KEY_REFUSED or answer.status == 429 or answer.status >= 500:
            return answer
        # It is no answer to the events of a batch.
        raise UplinkError(
            f"{answer.status} is the answer to this bin's code: {answer.body[:200]!r}"
        )

    def _renew(self, asked: bool) -> None:
        """Hand a new key to the hub, signed with the last one, if one waits or is asked for."""
        identity = self._identity
        try:
            with identity.changing:
                if not (asked or identity.renewing):
                    return
                request = Request(identity.offer(), KEYS_PATH)
                answer = self._transport.post(self._signed(request, Subject()))
                if answer.status == 200 and _field(answer.body, "key_id"):
                    identity.taken()
                    log.info("uplink: the hub has taken this bin's new key")
                elif answer.status == 403 and _field(answer.body, "error"):
                    log.error("uplink: the hub refuses the new key (%r)", answer.body[:200])
                    self._refused = True
                    identity.refused()
        except (StorageError, UplinkError):
            log.exception("uplink: the bin's key is not renewed; it is tried again")

    @staticmethod
    def _keep(change: Callable[[], object]) -> None:
        """Change the bin's keys on the disk; one that takes nothing must not hold events up."""
        try:
            change()
        except StorageError:
            log.exception("uplink: the bin's key stays as it is")

    def _signed(self, request: Request, subject: Subject, offered: bool = False) -> Request:
        created_s = self._clock.now().wall_utc_ms // 1000
        fields = self._identity.sign(
            self.method, request.path, request.body, subject, created_s, offered
        )
        return Request(request.body, request.path, {**request.fields, **fields}, subject)


def _is_receipt(body: bytes, subject: Subject) -> bool:
    try:
        return decode_receipt(body).outbox_id == subject.outbox_id
    except WireError:
        return False


def _field(body: bytes, name: str) -> object:
    """Return a field of a JSON answer; None where it is something else, a portal's page say."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None
