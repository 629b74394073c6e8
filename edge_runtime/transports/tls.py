"""TLS for both transports: whom to trust, and what a clock that nobody set is worth."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx2

from edge_runtime.clock import Clock

# Source: OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl does not name.
_NO_CHECK_TIME = 0x200000


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the certificates in `ca`, or the public ones."""
    return ssl.create_default_context(cafile=ca) if ca else httpx2.create_ssl_context()


def check_dates(tls: ssl.SSLContext, clock: Clock) -> None:
    """Let certificates of any date pass while the bin does not know the time.

    Chain and host name are still checked.

    A board without a battery would else never reach the hub that is to date its events.
    """
    flags = tls.verify_flags & ~_NO_CHECK_TIME
    tls.verify_flags = ssl.VerifyFlags(
        flags if clock.now().clock_synced else flags | _NO_CHECK_TIME
    )
