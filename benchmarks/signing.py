"""A bin's key, for benchmarks that send signed batches."""

import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vision.signature import HTTP_METHOD, Subject, key_id_of, sign
from vision.wire import INGEST_PATH


class Signer:
    """Signs as one bin.

    Args:
        bin_id: of the bin.
    """

    def __init__(self, bin_id: str) -> None:
        self.bin_id = bin_id
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self._key_id = key_id_of(self.public)

    def fields(self, body: bytes, subject: Subject) -> dict[str, str]:
        """Return the header fields of a signed batch."""
        now = int(time.time())
        return sign(HTTP_METHOD, INGEST_PATH, body, subject, self._key_id, now, self.key.sign)
