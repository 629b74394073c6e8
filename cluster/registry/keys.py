"""Keys and codes of bins; nothing here touches a disk. The hub's only address of cryptography."""

from __future__ import annotations

import base64
import hashlib
import secrets
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vision.enrolment import plain_code
from vision.errors import WireError
from vision.signature import PUBLIC_KEY_BYTES, Signed

# Of a one-time code: 16 bytes cannot be guessed, so nothing need count the guesses.
_CODE_BYTES = 16


def new_code() -> str:
    """Return a one-time code, in groups that a person can read out."""
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().rstrip("=")
    return "-".join(text[i : i + 5] for i in range(0, len(text), 5))


def code_digest(code: str) -> str:
    """Return what is kept of a code: SHA-256 of it without its dashes, in capitals."""
    return hashlib.sha256(plain_code(code).encode()).hexdigest()


def check_public_key(raw: bytes) -> None:
    """Check that bytes are an Ed25519 public key.

    Raises:
        WireError: they are not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise WireError(f"a public key is {PUBLIC_KEY_BYTES} bytes of Ed25519") from error


def verify(signed: Signed, public_key: bytes) -> bool:
    """Return whether a signature was made with the private half of a key."""
    try:
        _loaded(public_key).verify(signed.signature, signed.text)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=20_000)
def _loaded(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)
