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
from vision.wire import KEY_REFUSED, KEYS_PATH

log = logging.getLogger(__name__)


class SignedTransport:
    """A transport whose requests carry the bin's signature.

    Args:
        transport: the way to the hub.
        identity: of the bin.
        code: one-time code; a new one enrols the bin anew. "" for a bin that has its key.
        clock: tells when a request was signed.
    """

    def __init__(self, transport: Transport, identity: Identity, code: str, clock: Clock) -> None:
        self.method = transport.method
        self._transport = transport
        self._identity = identity
        self._code = code
        self._clock = clock

    def post(self, request: Request) -> Answer:
        """Send a signed request.

        Nothing is sent before the bin is enrolled: what the hub answers to its code is the answer.
        A renewal never holds a batch up.

        Raises:
            UplinkError: no answer came, or the first key cannot be kept.
        """
        identity = self._identity
        if not identity.enrolled or not identity.fits(self._code):
            refusal = self._enrol()
            if refusal is not None:
                return refusal
        elif identity.renewing:
            self._renew()
        answer = self._transport.post(self._signed(request, request.subject))
        if answer.status == 401 and identity.renewing:
            # The hub has perhaps taken the new key already, and its answer was lost.
            answer = self._transport.post(self._signed(request, request.subject, offered=True))
            if answer.status == 200:
                self._keep(identity.taken)
        if answer.status == 200 and _field(answer.body, "renew_key") is True:
            self._keep(identity.offer)  # on the disk now, sent before the next batch
        return answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _enrol(self) -> Answer | None:
        """Have the hub take a first key for the code; return its answer if it does not."""
        try:
            body = self._identity.offer(self._code)
            answer = self._transport.post(Request(body, KEYS_PATH))
            if answer.status == 200:
                decode_key_receipt(answer.body)
                self._identity.taken(self._code)
                log.info("uplink: the hub has taken this bin's key")
                return None
            if answer.status == 403 and _field(answer.body, "error"):
                self._identity.refused()  # another key may be taken: this one was ended, perhaps
        except (StorageError, WireError) as error:
            raise UplinkError(str(error)) from error
        if answer.status in KEY_REFUSED or answer.status == 429 or answer.status >= 500:
            return answer
        # It is no answer to the events of a batch.
        raise UplinkError(
            f"{answer.status} is the answer to this bin's code: {answer.body[:200]!r}"
        )

    def _renew(self) -> None:
        """Hand a new key to the hub, signed with the last one."""
        request = Request(self._identity.offer(), KEYS_PATH)
        answer = self._transport.post(self._signed(request, Subject()))
        if answer.status == 200 and _field(answer.body, "key_id"):
            self._keep(self._identity.taken)
            log.info("uplink: the hub has taken this bin's new key")
        elif answer.status == 403 and _field(answer.body, "error"):
            log.error("uplink: the hub refuses the new key (%r)", answer.body[:200])
            self._keep(self._identity.refused)

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


def _field(body: bytes, name: str) -> object:
    """Return a field of a JSON answer; None where it is something else, a portal's page say."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None
