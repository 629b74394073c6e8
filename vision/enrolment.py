"""How a bin hands its public key to the hub: its first by a one-time code, a later one by the last.

Each request proves that the sender has the private half: the new key signs the text `proof_text`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass

from vision.errors import WireError
from vision.record import storable
from vision.signature import PUBLIC_KEY_BYTES, SIGNATURE_BYTES

KEY_REQUEST_SCHEMA = "binsight.key-request/1"
KEY_RECEIPT_SCHEMA = "binsight.key-receipt/1"
MAX_KEY_REQUEST_BYTES = 4096
MAX_CODE_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a bin asks with a new key.

    Attributes:
        bin_id: its name.
        public_key: 32 bytes, Ed25519.
        proof: 64 bytes, the new key's signature of `proof_text`.
        code: one-time code; "" where the request is signed with an earlier key.
    """

    bin_id: str
    public_key: bytes
    proof: bytes
    code: str = ""


def proof_text(bin_id: str, public_key: bytes) -> bytes:
    """Return what a new key signs."""
    return f"{KEY_REQUEST_SCHEMA}\n{bin_id}\n".encode() + public_key


def encode_key_request(
    bin_id: str, public_key: bytes, signer: Callable[[bytes], bytes], code: str = ""
) -> bytes:
    """Return the JSON form of a request.

    Args:
        bin_id: name of the bin.
        public_key: 32 bytes.
        signer: text -> 64 bytes, with the new private key.
        code: one-time code, if any.
    """
    document = {
        "schema": KEY_REQUEST_SCHEMA,
        "bin_id": bin_id,
        "public_key": base64.b64encode(public_key).decode(),
        "proof": base64.b64encode(signer(proof_text(bin_id, public_key))).decode(),
        "code": code,
    }
    return json.dumps(document).encode()


def decode_key_request(body: bytes) -> KeyRequest:
    """Check and build a request from untrusted bytes; the proof is not verified here.

    Raises:
        WireError: not such a request.
    """
    if len(body) > MAX_KEY_REQUEST_BYTES:
        raise WireError(f"a key request has at most {MAX_KEY_REQUEST_BYTES} bytes")
    try:
        document = json.loads(body)
        if document["schema"] != KEY_REQUEST_SCHEMA:
            raise WireError(f"key request schema is {document['schema']!r}")
        bin_id = document["bin_id"]
        code = document["code"]
        if not all(
            isinstance(text, str) and len(text) <= MAX_CODE_CHARACTERS and storable(text)
            for text in (bin_id, code)
        ):
            raise WireError(
                f"a key request's bin_id and code are texts of up to {MAX_CODE_CHARACTERS} "
                "characters"
            )
        return KeyRequest(
            bin_id,
            _raw(document["public_key"], PUBLIC_KEY_BYTES),
            _raw(document["proof"], SIGNATURE_BYTES),
            code,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"not a key request ({error!r})") from error


def plain_code(code: str) -> str:
    """Return a one-time code as it is compared: without dashes and spaces, in capitals."""
    return code.strip().replace("-", "").replace(" ", "").upper()


def encode_key_receipt(key_id: str) -> bytes:
    """Return what a hub answers once a key is registered."""
    return json.dumps({"schema": KEY_RECEIPT_SCHEMA, "key_id": key_id}).encode()


def decode_key_receipt(body: bytes) -> str:
    """Return the id of the key that a hub has registered.

    Raises:
        WireError: not such a receipt: a portal's page, say.
    """
    try:
        document = json.loads(body)
        if document["schema"] != KEY_RECEIPT_SCHEMA:
            raise WireError("not a key receipt")
        return str(document["key_id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"the answer is not a key receipt: {body[:80]!r}") from error


def _raw(text: object, size: int) -> bytes:
    try:
        raw = base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise WireError("a key request's keys are base64") from error
    if len(raw) != size:
        raise WireError(f"{len(raw)} bytes where {size} are expected")
    return raw
