"""What the registry knows, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """Who signed a request.

    Attributes:
        bin_id: the bin whose key it is.
        tenant_id: whose bin.
        key_id: the key.
        renew_key: the bin is to make a new key.
    """

    bin_id: str
    tenant_id: str
    key_id: str
    renew_key: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bin stands, as one line of an import or export.

    Attributes:
        bin_id: unique in the hub.
        tenant: id of it.
        district: id of it, within the tenant; "" for none.
        time_zone: of the district, an IANA name such as Asia/Kolkata.
        site: id of the place, within the tenant; "" for none.
        latitude, longitude: of the site, degrees WGS 84; None where not known.
        capacity_l: litres that the bin holds; None where not known.
    """

    bin_id: str
    tenant: str
    district: str = ""
    time_zone: str = ""
    site: str = ""
    latitude: float | None = None
    longitude: float | None = None
    capacity_l: float | None = None


@dataclass(frozen=True, slots=True)
class BinState:
    """A bin and its keys.

    Attributes:
        place: where it stands now.
        added_utc_ms: when it was registered.
        keys: ids of those in use.
        revoked: number of keys that are not.
        code_until_utc_ms: end of the code that was given out and not used; None without one.
        renew_key: it was asked to make a new key and has not yet.
    """

    place: Place
    added_utc_ms: int
    keys: tuple[str, ...]
    revoked: int
    code_until_utc_ms: int | None
    renew_key: bool

    def keys_reported(self) -> str:
        """Return in words how the bin signs."""
        parts = [f"{len(self.keys)} in use"] if self.keys else []
        parts += [f"{self.revoked} ended"] if self.revoked else []
        if self.code_until_utc_ms is not None:
            end = datetime.fromtimestamp(self.code_until_utc_ms / 1000, UTC)
            parts.append(f"code good until {end:%Y-%m-%d %H:%M} UTC")
        parts += ["asked to renew"] if self.renew_key else []
        return ", ".join(parts) or "none: unsigned"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a question may see.

    Attributes:
        tenant: id; None for all tenants (the operator of the hub).
        district: id within the tenant; None for all of it.
    """

    tenant: str | None = None
    district: str | None = None
