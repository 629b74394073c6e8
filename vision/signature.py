"""How a bin signs what it sends: the text that both ends build of a request.

The shape is RFC 9421 (HTTP Message Signatures) with RFC 9530 (Content-Digest), in one fixed form:
Ed25519 over method, path, body digest, outbox, event numbers, time and key. The path is the
protocol's own, not that of a proxy before the hub; over MQTT the same fields travel as user
properties, and the method is PUBLISH. So who sent a batch does not depend on who passed it on.

A replay changes nothing, for the hub takes each number of an outbox once; so the time in a
signature is no condition: a bin whose clock is wrong must still be heard.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vision.errors import WireError

CONTENT_DIGEST = "Content-Digest"
OUTBOX = "Binsight-Outbox"
NUMBERS = "Binsight-Numbers"
SIGNATURE_INPUT = "Signature-Input"
SIGNATURE = "Signature"
FIELDS = (CONTENT_DIGEST, OUTBOX, NUMBERS, SIGNATURE_INPUT, SIGNATURE)

HTTP_METHOD = "POST"
MQTT_METHOD = "PUBLISH"

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_COVERED = '("@method" "@path" "content-digest" "binsight-outbox" "binsight-numbers")'
_INPUT = re.compile(
    r"bin=" + re.escape(_COVERED) + r';created=(\d{1,15});keyid="([0-9a-f]{32})";alg="ed25519"'
)
_VALUE = re.compile(r"bin=:([A-Za-z0-9+/]{86}==):")
_NUMBERS = re.compile(r"(\d{1,16})-(\d{1,16})")
# A printable text without what ends a line or a field.
_OUTBOX = re.compile(r"[!-~]{0,128}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a signature is about, beside method, path and body.

    Attributes:
        outbox_id: of the batch; "" where a request has none.
        first, last: its event numbers; 0 where it has none.
    """

    outbox_id: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature as it came, not yet verified.

    Attributes:
        key_id: of the key that it is said to be made with.
        created_s: seconds since 1970 by the signer's clock.
        subject: what it is about.
        text: what was signed.
        signature: 64 bytes.
    """

    key_id: str
    created_s: int
    subject: Subject
    text: bytes
    signature: bytes


def key_id_of(public_key: bytes) -> str:
    """Return the id of a public key: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def content_digest(body: bytes) -> str:
    """Return the value of the Content-Digest field (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign(
    method: str,
    path: str,
    body: bytes,
    subject: Subject,
    key_id: str,
    created_s: int,
    signer: Callable[[bytes], bytes],
) -> dict[str, str]:
    """Return the fields that a signed request carries.

    Args:
        method: HTTP_METHOD or MQTT_METHOD.
        path: of the protocol, e.g. /v1/batches.
        body: as sent.
        subject: what it is about.
        key_id: of the key.
        created_s: now, in seconds since 1970.
        signer: text -> 64 bytes, with the private key.
    """
    digest = content_digest(body)
    numbers = f"{subject.first}-{subject.last}"
    parameters = f'{_COVERED};created={created_s};keyid="{key_id}";alg="ed25519"'
    text = _text(method, path, digest, subject.outbox_id, numbers, parameters)
    return {
        CONTENT_DIGEST: digest,
        OUTBOX: subject.outbox_id,
        NUMBERS: numbers,
        SIGNATURE_INPUT: f"bin={parameters}",
        SIGNATURE: f"bin=:{base64.b64encode(signer(text)).decode()}:",
    }


def read_signature(method: str, path: str, body: bytes, fields: Mapping[str, str]) -> Signed | None:
    """Return the signature that a request carries, not yet verified; None for an unsigned one.

    Args:
        method: HTTP_METHOD or MQTT_METHOD.
        path: of the protocol.
        body: as it came.
        fields: header fields or user properties, names in any case.

    Raises:
        WireError: a field is missing or malformed, or the digest is of another body.
    """
    given = {name.lower(): value for name, value in fields.items()}
    values = [given.get(name.lower()) for name in FIELDS]
    if values[3] is None and values[4] is None:
        return None
    if None in values:
        missing = ", ".join(n for n, v in zip(FIELDS, values, strict=True) if v is None)
        raise WireError(f"signature: field {missing} is missing")
    digest, outbox_id, numbers, parameters, signature = (str(value) for value in values)
    stated = _INPUT.fullmatch(parameters)
    value = _VALUE.fullmatch(signature)
    count = _NUMBERS.fullmatch(numbers)
    if not stated or not value or not count or not _OUTBOX.fullmatch(outbox_id):
        raise WireError(
            f"signature: {SIGNATURE_INPUT}, {SIGNATURE}, {NUMBERS} or {OUTBOX} is not of the form "
            "that a bin sends"
        )
    if digest != content_digest(body):  # no secret
        raise WireError(f"signature: {CONTENT_DIGEST} is of another body")
    try:
        raw = base64.b64decode(value[1], validate=True)
    except binascii.Error as error:
        raise WireError(f"signature: {SIGNATURE} is not base64") from error
    return Signed(
        key_id=stated[2],
        created_s=int(stated[1]),
        subject=Subject(outbox_id, int(count[1]), int(count[2])),
        text=_text(method, path, digest, outbox_id, numbers, parameters.removeprefix("bin=")),
        signature=raw,
    )


def _text(
    method: str, path: str, digest: str, outbox_id: str, numbers: str, parameters: str
) -> bytes:
    """Return the signature base (RFC 9421, section 2.5)."""
    return "\n".join(
        (
            f'"@method": {method}',
            f'"@path": {path}',
            f'"content-digest": {digest}',
            f'"binsight-outbox": {outbox_id}',
            f'"binsight-numbers": {numbers}',
            f'"@signature-params": {parameters}',
        )
    ).encode()
