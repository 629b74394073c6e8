"""Where bins stand: what a line of an import means to the tables, and back."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.db.tables import BinRow, DistrictRow, PlacementRow, SiteRow, TenantRow
from cluster.registry.model import Place, Scope
from vision.errors import ConfigError

# A bin whose placement has no beginning that anybody knows.
_ALWAYS = 0


def check_place(place: Place) -> None:
    """Check a place by itself.

    Raises:
        ConfigError: the message names bin and column.
    """

    def refuse(column: str, reason: str) -> ConfigError:
        return ConfigError(f"bin {place.bin_id!r}, column {column}: {reason}")

    ids = {"bin_id": place.bin_id, "tenant": place.tenant}
    ids |= {k: v for k, v in (("district", place.district), ("site", place.site)) if v}
    for column, value in ids.items():
        if not 1 <= len(value) <= 128 or not value.isprintable() or value != value.strip():
            raise refuse(column, f"{value!r} is not a name of 1 to 128 printable characters")
    if place.time_zone:
        try:
            ZoneInfo(place.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise refuse(
                "time_zone", f"{place.time_zone!r} is no time zone, such as Europe/Vienna"
            ) from error
    if (place.latitude is None) != (place.longitude is None):
        raise refuse("latitude", "latitude and longitude come together")
    for column, number, most in (
        ("latitude", place.latitude, 90),
        ("longitude", place.longitude, 180),
    ):
        if number is not None and not abs(number) <= most:
            raise refuse(column, f"{number} is not within -{most} to {most}")
    if place.latitude is not None and not place.site:
        raise refuse("site", "coordinates are a site's: name it")
    if place.capacity_l is not None and not 0 < place.capacity_l <= 100_000:
        raise refuse("capacity_l", f"{place.capacity_l} is not within 0 to 100000 litres")


def put(session: Session, place: Place, now_utc_ms: int) -> bool:
    """Write a place into the tables; return whether its bin is new.

    Raises:
        ConfigError: it contradicts what is known; the message names bin and column.
    """
    check_place(place)
    if session.get(TenantRow, place.tenant) is None:
        session.add(TenantRow(tenant_id=place.tenant, name=place.tenant))
        session.flush()
    if place.district:
        _put_district(session, place)
    if place.site:
        _put_site(session, place)
    row = session.get(BinRow, place.bin_id)
    new = row is None
    if row is None:
        row = BinRow(
            bin_id=place.bin_id, tenant_id=place.tenant, added_utc_ms=now_utc_ms, renew_key=False
        )
        session.add(row)
    elif row.tenant_id != place.tenant:
        raise ConfigError(
            f"bin {place.bin_id!r}, column tenant: it is {row.tenant_id}'s; a bin does not change "
            "its tenant, register it under another id"
        )
    row.site_id = place.site or row.site_id
    row.capacity_l = place.capacity_l if place.capacity_l is not None else row.capacity_l
    session.flush()
    if place.district:
        _move(session, place, now_utc_ms)
    return new


def _put_district(session: Session, place: Place) -> None:
    row = session.get(DistrictRow, (place.tenant, place.district))
    if row is None and not place.time_zone:
        raise ConfigError(
            f"bin {place.bin_id!r}, column time_zone: district {place.district} is new; its days "
            "and hours need a time zone, such as Europe/Vienna"
        )
    if row is None:
        session.add(
            DistrictRow(
                tenant_id=place.tenant,
                district_id=place.district,
                name=place.district,
                time_zone=place.time_zone,
            )
        )
        session.flush()
    elif place.time_zone and place.time_zone != row.time_zone:
        raise ConfigError(
            f"bin {place.bin_id!r}, column time_zone: district {place.district} has "
            f"{row.time_zone}, not {place.time_zone}"
        )


def _put_site(session: Session, place: Place) -> None:
    row = session.get(SiteRow, (place.tenant, place.site))
    if row is None:
        row = SiteRow(tenant_id=place.tenant, site_id=place.site, name=place.site)
        session.add(row)
    if place.latitude is not None:
        row.latitude = place.latitude
        row.longitude = place.longitude
    session.flush()


def _move(session: Session, place: Place, now_utc_ms: int) -> None:
    """Have a bin stand in a district from now on; its first one it has always stood in."""
    current = session.scalar(
        select(PlacementRow).where(
            PlacementRow.bin_id == place.bin_id, PlacementRow.to_utc_ms.is_(None)
        )
    )
    if current is not None and current.district_id == place.district:
        return
    since = _ALWAYS
    if current is not None:
        since = max(now_utc_ms, current.from_utc_ms + 1)
        current.to_utc_ms = since
    session.add(
        PlacementRow(
            bin_id=place.bin_id,
            from_utc_ms=since,
            tenant_id=place.tenant,
            district_id=place.district,
        )
    )
    session.flush()


def zones(session: Session) -> dict[tuple[str, str], str]:
    """Return the time zone of each (tenant, district)."""
    return {
        (row.tenant_id, row.district_id): row.time_zone
        for row in session.scalars(select(DistrictRow))
    }


def all_places(session: Session) -> list[Place]:
    """Return where each bin stands now, by bin."""
    zone_of = zones(session)
    sites = {(row.tenant_id, row.site_id): row for row in session.scalars(select(SiteRow))}
    districts = dict(
        session.execute(
            select(PlacementRow.bin_id, PlacementRow.district_id).where(
                PlacementRow.to_utc_ms.is_(None)
            )
        ).all()
    )
    places = []
    for row in session.scalars(select(BinRow).order_by(BinRow.bin_id)):
        district = districts.get(row.bin_id, "")
        site = sites.get((row.tenant_id, row.site_id or ""))
        places.append(
            Place(
                bin_id=row.bin_id,
                tenant=row.tenant_id,
                district=district,
                time_zone=zone_of.get((row.tenant_id, district), ""),
                site=row.site_id or "",
                latitude=site.latitude if site else None,
                longitude=site.longitude if site else None,
                capacity_l=row.capacity_l,
            )
        )
    return places


def within(place: Place, scope: Scope) -> bool:
    """Return whether a scope includes a place."""
    return (scope.tenant is None or place.tenant == scope.tenant) and (
        scope.district is None or place.district == scope.district
    )
