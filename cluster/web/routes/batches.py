"""The way in for bins: one batch a request, or a public key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer

from cluster.ingest import front_end
from cluster.web.schemas import ErrorAnswer, KeyAnswer, ReceiptAnswer, RefusalAnswer
from cluster.web.state import HubPart
from vision.enrolment import MAX_KEY_REQUEST_BYTES
from vision.signature import HTTP_METHOD
from vision.wire import INGEST_PATH, KEYS_PATH, MAX_BODY_BYTES, MEDIA_TYPE

router = APIRouter(tags=["bins"])
# For the description of the API; the front end compares it.
_TOKEN = HTTPBearer(
    auto_error=False, description="The hub's token, if it has one and the batch is not signed."
)
_BODY = {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
_KEY_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "token or signature is missing or wrong"},
    503: {"model": ErrorAnswer, "description": "not stored; send it again"},
}


@router.post(
    INGEST_PATH,
    response_model=ReceiptAnswer,
    responses={
        **_ANSWERS,
        400: {"model": RefusalAnswer, "description": "not a batch"},
        403: {"model": ErrorAnswer, "description": "bin or outbox is not the sender's"},
        413: {"model": RefusalAnswer, "description": f"more than {MAX_BODY_BYTES} bytes"},
        429: {"model": ErrorAnswer, "description": "too much waits; see Retry-After"},
    },
    openapi_extra={"requestBody": _BODY},
    dependencies=[Depends(_TOKEN)],
)
async def receive_batch(request: Request, hub: HubPart) -> Response:
    """Take one batch; 200 with a receipt means durable."""
    return await _answer(request, hub, INGEST_PATH, MAX_BODY_BYTES)


@router.post(
    KEYS_PATH,
    response_model=KeyAnswer,
    responses={
        **_ANSWERS,
        400: {"model": RefusalAnswer, "description": "not a key request"},
        403: {"model": ErrorAnswer, "description": "the code or the key is refused"},
    },
    openapi_extra={"requestBody": _KEY_BODY},
)
async def receive_key(request: Request, hub: HubPart) -> Response:
    """Take a bin's public key: its first for a one-time code, a later one signed with the last."""
    return await _answer(request, hub, KEYS_PATH, MAX_KEY_REQUEST_BYTES)


async def _answer(request: Request, hub: HubPart, path: str, most: int) -> Response:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return _response(front_end.too_large(most))
    asked = front_end.Request(HTTP_METHOD, path, bytes(body), request.headers)
    return _response(await hub.front_end.answer(asked))


def _response(reply: front_end.Reply) -> Response:
    headers = {}
    if reply.retry_after_s:
        headers["Retry-After"] = str(reply.retry_after_s)
    if reply.status == 413:
        headers["Connection"] = "close"  # or what is left of the body would be read to its end
    if reply.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(reply.body, reply.status, headers, media_type="application/json")
