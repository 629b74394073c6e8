"""What comes in and what is answered, the same by HTTP and by MQTT.

Each error has its answer here, and nowhere else: what an answer means to a bin is in
`edge_runtime.sender`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.ingest.access import Access
from cluster.ingest.commit import Ingest
from cluster.ingest.decode import decode
from vision.enrolment import decode_key_request, encode_key_receipt
from vision.errors import (
    AccessError,
    BinsightError,
    BusyError,
    IdentityError,
    WireError,
)
from vision.wire import (
    INGEST_PATH,
    KEYS_PATH,
    MAX_BODY_BYTES,
    encode_receipt,
    encode_refusal,
)

# Seconds after which a bin that was not served may come again, from and to: not all at the same
# second, for a whole city may be waiting.
RETRY_AFTER_S = (5, 60)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a bin, however it came.

    Attributes:
        method: vision.signature.HTTP_METHOD or MQTT_METHOD.
        path: of the protocol.
        body: as it came, at most MAX_BODY_BYTES and one more.
        fields: header fields or user properties.
    """

    method: str
    path: str
    body: bytes
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """The hub's answer.

    Attributes:
        status: of HTTP.
        body: JSON.
        retry_after_s: seconds after which the bin may come again; 0 where it need not be told.
    """

    status: int
    body: bytes
    retry_after_s: int = 0


class FrontEnd:
    """Takes batches and keys.

    Args:
        ingest: where batches go.
        access: who may send them.
    """

    def __init__(self, ingest: Ingest, access: Access) -> None:
        self._ingest = ingest
        self._access = access

    async def answer(self, request: Request) -> Reply:
        """Return the answer to a request; 200 with a receipt means durable."""
        if len(request.body) > MAX_BODY_BYTES:
            return too_large(MAX_BODY_BYTES)
        try:
            if request.path == KEYS_PATH:
                return Reply(200, encode_key_receipt(await self._take_key(request)))
            return Reply(200, await self._take_batch(request))
        except WireError as error:
            return Reply(400, encode_refusal(str(error)))
        except IdentityError as error:
            return Reply(401, _reported(error))
        except AccessError as error:
            return Reply(403, _reported(error))
        except BusyError as error:
            return Reply(429, _reported(error), retry_after_s())
        except BinsightError as error:
            return Reply(503, _reported(error), retry_after_s())

    async def _take_batch(self, request: Request) -> bytes:
        principal, subject = self._access.identify(
            request.method, INGEST_PATH, request.body, request.fields
        )
        batch = decode(request.body)
        self._access.permit(batch, principal, subject)
        receipt = await self._ingest.accept(batch)
        if principal is not None:
            if not self._access.is_settled(principal):
                # This is the new key that was asked for.
                await self._access.settle(principal)
            elif principal.renew_key:
                receipt = replace(receipt, renew_key=True)
        return encode_receipt(receipt)

    async def _take_key(self, request: Request) -> str:
        asked = decode_key_request(request.body)
        principal = None
        if not asked.code:
            principal, _ = self._access.identify(
                request.method, KEYS_PATH, request.body, request.fields
            )
        return await self._access.take_key(asked, principal)


def too_large(most: int) -> Reply:
    """Return the answer to a body of more than so many bytes."""
    return Reply(413, encode_refusal(f"more than {most} bytes"))


def retry_after_s() -> int:
    """Return the seconds after which a bin that was not served may come again."""
    return random.randint(*RETRY_AFTER_S)


def _reported(error: BinsightError) -> bytes:
    return json.dumps({"error": str(error)}).encode()
