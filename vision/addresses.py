"""Addresses as people may see them: what is shown ends in logs, in events and on pages.

It opens no connection.
"""

from __future__ import annotations

import re

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@?#\[\]]+)(:\d{1,5})?")


def without_secrets(address: str | None) -> str:
    """Return scheme, host, port and path of an address, and nothing that may be a secret.

    A user's name and password stand before an @; they may hold slashes, question marks and further
    @. Whatever may be one of them is left out, even if a harmless path goes with it. Queries,
    fragments, and what is named like a value in a path (cameras write `user=..._password=...`
    there) are left out too.
    """
    scheme, slashes, rest = (address or "").partition("://")
    if not slashes:
        device = not address or (address.startswith("/") and not address.startswith("//"))
        if device or ("@" not in (address or "") and "?" not in (address or "")):
            return address or ""  # a device, a number or a file
        return _path(re.split("[?#]", (address or "").rpartition("@")[2], maxsplit=1)[0])
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    query = re.search("[?#]", rest)
    if _HOST.fullmatch(authority) and query:
        if "@" in rest[query.start() :] and "/" not in rest[: query.start()]:
            # A host and its query, or a name and a password: nobody can say.
            return f"{scheme}://***"
        rest = rest[: query.start()]
    if "@" in rest:
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{_path(re.split('[?#]', rest, maxsplit=1)[0])}"


def _path(text: str) -> str:
    """Return host and path up to the first part that is named like a value."""
    parts = text.split("/")
    kept = next((i for i, part in enumerate(parts) if i and set(part) & set("=;")), len(parts))
    return "/".join(parts[:kept])
