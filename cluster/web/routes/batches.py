"""The way in for bins: one batch a request."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from cluster.ingest.decode import decode
from cluster.web.auth import require_token
from cluster.web.schemas import ErrorAnswer, ReceiptAnswer, RefusalAnswer
from cluster.web.state import HubPart
from vision.wire import (
    INGEST_PATH,
    MAX_BODY_BYTES,
    MEDIA_TYPE,
    encode_receipt,
    encode_refusal,
)

router = APIRouter(tags=["batches"])
_BODY = {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}


@router.post(
    INGEST_PATH,
    response_model=ReceiptAnswer,
    responses={
        400: {"model": RefusalAnswer, "description": "not a batch"},
        401: {"description": "the token is missing or wrong"},
        403: {"model": ErrorAnswer, "description": "the outbox is another bin's"},
        413: {"model": RefusalAnswer, "description": f"more than {MAX_BODY_BYTES} bytes"},
        429: {"model": ErrorAnswer, "description": "too much waits; see Retry-After"},
        503: {"model": ErrorAnswer, "description": "not stored; send it again"},
    },
    openapi_extra={"requestBody": _BODY},
    dependencies=[Depends(require_token)],
)
async def receive_batch(request: Request, hub: HubPart) -> Response:
    """Take one batch; 200 with a receipt means durable."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            refusal = encode_refusal(f"more than {MAX_BODY_BYTES} bytes")
            return Response(refusal, 413, media_type="application/json")
    receipt = await hub.ingest.accept(decode(bytes(body)))
    return Response(encode_receipt(receipt), media_type="application/json")
