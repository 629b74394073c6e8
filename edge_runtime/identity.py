"""The bin's own key: made on the board, never leaves it. The bin's only address of cryptography.

identity.json in the state folder, readable by its owner alone:

    key        private key that the hub knows; null before enrolment
    next       private key that the hub has been or will be asked to take
    code       digest of the one-time code that `key` was taken for

A new key is on the disk before the hub is asked to take it, so that a power cut or a lost answer in
between costs nothing: the same key is offered again, and a hub answers that alike.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vision.enrolment import encode_key_request, plain_code
from vision.errors import StorageError
from vision.files import write_atomically
from vision.signature import Subject, key_id_of, sign

FILE_NAME = "identity.json"


class Identity:
    """Signs what the bin sends.

    Args:
        path: its file; made when a key is made.
        bin_id: name that the hub knows the bin by.

    Attributes:
        changing: held by whoever offers a key until it is taken or refused: a bin may have two
            uplinks.

    Raises:
        StorageError: the file is damaged or cannot be read: the bin needs a new code.
    """

    def __init__(self, path: Path, bin_id: str) -> None:
        self._path = path
        self._bin_id = bin_id
        self._lock = threading.Lock()
        self.changing = threading.Lock()
        self._key: Ed25519PrivateKey | None = None
        self._next: Ed25519PrivateKey | None = None
        self._code = ""
        if path.exists():
            self._read()

    @property
    def enrolled(self) -> bool:
        """Whether the hub knows a key of this bin."""
        return self._key is not None

    @property
    def renewing(self) -> bool:
        """Whether a new key waits for the hub to take it."""
        return self._next is not None

    def fits(self, code: str) -> bool:
        """Return whether the key was taken for this one-time code, or no code is given."""
        return not code or self._code == _digest(code)

    def sign(
        self,
        method: str,
        path: str,
        body: bytes,
        subject: Subject,
        created_s: int,
        offered: bool = False,
    ) -> dict[str, str]:
        """Return the fields of a request, signed with the key that the hub knows.

        Args:
            method: see `vision.signature.sign`, as for all of them.
            path: of the protocol.
            body: as sent.
            subject: what it is about.
            created_s: now, in seconds since 1970.
            offered: with the key that was offered, instead.

        Raises:
            StorageError: there is no such key.
        """
        with self._lock:
            key = self._next if offered else self._key
        if key is None:
            raise StorageError(f"{self._path}: the bin has no key")
        key_id = key_id_of(_public(key))
        return sign(method, path, body, subject, key_id, created_s, key.sign)

    def offer(self, code: str = "") -> bytes:
        """Return a key request with a new key; the same key until the hub has taken or refused it.

        Args:
            code: one-time code, for the first key.

        Raises:
            StorageError: the key cannot be kept, so it is not offered.
        """
        with self._lock:
            if self._next is None:
                new = Ed25519PrivateKey.generate()
                self._write(self._key, new, self._code)
                self._next = new
            return encode_key_request(self._bin_id, _public(self._next), self._next.sign, code)

    def taken(self, code: str = "") -> None:
        """Use the offered key from now on: the hub has taken it.

        Raises:
            StorageError: it cannot be noted; the key is offered again, and a hub answers that
                alike.
        """
        with self._lock:
            if self._next is not None:
                noted = _digest(code) if code else self._code
                self._write(self._next, None, noted)
                self._key = self._next
                self._next = None
                self._code = noted

    def refused(self) -> None:
        """Forget the offered key: the hub has refused it.

        Raises:
            StorageError: it cannot be noted, and is not forgotten.
        """
        with self._lock:
            self._write(self._key, None, self._code)
            self._next = None

    def _read(self) -> None:
        try:
            document = json.loads(self._path.read_bytes())
            self._key = _private(document["key"])
            self._next = _private(document["next"])
            self._code = str(document["code"])
        except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
            raise StorageError(
                f"{self._path}: the bin's key cannot be read ({error}); remove the file and give "
                "the bin a new code (uplink.enrolment_code)"
            ) from error

    def _write(
        self, key: Ed25519PrivateKey | None, offered: Ed25519PrivateKey | None, code: str
    ) -> None:
        """Write the file; memory is changed only after it."""
        document = {"key": _text(key), "next": _text(offered), "code": code}
        try:
            write_atomically(self._path, json.dumps(document).encode(), 0o600)
        except OSError as error:
            raise StorageError(
                f"{self._path}: the bin's key cannot be kept ({error.strerror})"
            ) from error


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _text(key: Ed25519PrivateKey | None) -> str | None:
    return None if key is None else base64.b64encode(key.private_bytes_raw()).decode()


def _private(text: object) -> Ed25519PrivateKey | None:
    if text is None:
        return None
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(str(text), validate=True))


def _digest(code: str) -> str:
    return hashlib.sha256(plain_code(code).encode()).hexdigest()
