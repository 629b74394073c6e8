"""Signs what goes to the hub; before the first batch it enrols the bin, and renews its key."""

from __future__ import annotations

import json
import logging

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

        The answer to a key that the hub refuses is the answer to the request, so that nothing is
        sent unsigned.

        Raises:
            UplinkError: no answer came, or the key cannot be kept.
        """
        try:
            refusal = self._settle_key()
            if refusal is not None:
                return refusal
            answer = self._transport.post(self._signed(request, request.subject))
            if answer.status == 200 and _asks_for_new_key(answer.body):
                self._identity.offer()  # on the disk now, sent before the next batch
        except StorageError as error:
            raise UplinkError(str(error)) from error
        return answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _settle_key(self) -> Answer | None:
        """Have the hub take a key that waits; return its answer if it does not."""
        identity = self._identity
        first = not identity.enrolled or not identity.fits(self._code)
        if not first and not identity.renewing:
            return None
        code = self._code if first else ""
        request = Request(identity.offer(code), KEYS_PATH)
        answer = self._transport.post(request if code else self._signed(request, Subject()))
        if answer.status == 200:
            try:
                decode_key_receipt(answer.body)
            except WireError as error:
                raise UplinkError(str(error)) from error
            identity.taken(code)
            log.info("uplink: the hub has taken this bin's new key")
            return None
        if not first and answer.status in KEY_REFUSED:
            # It is not the new key's turn; the one that the hub knows is tried as it is.
            log.error("uplink: the hub refuses the new key (%d); the old one stays", answer.status)
            identity.refused()
            return None
        return answer

    def _signed(self, request: Request, subject: Subject) -> Request:
        created_s = self._clock.now().wall_utc_ms // 1000
        fields = self._identity.sign(self.method, request.path, request.body, subject, created_s)
        return Request(request.body, request.path, {**request.fields, **fields}, subject)


def _asks_for_new_key(body: bytes) -> bool:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("renew_key") is True
