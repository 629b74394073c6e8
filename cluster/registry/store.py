"""The registry: register, place, enrol, renew and revoke; the hub's answer to "who is that".

Every change is one transaction, and raises the change number that running hubs look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session

from cluster.db.engine import copy_sqlite, open_database, reading, writing
from cluster.db.tables import (
    BinRow,
    ChangeRow,
    CodeRow,
    KeyRow,
    ModelSeenRow,
    PlacementRow,
)
from cluster.registry.keys import check_public_key, code_digest, new_code
from cluster.registry.model import BinState, Place, Principal, Scope
from cluster.registry.places import all_places, put, within, zones
from vision.errors import AccessError, ConfigError
from vision.signature import key_id_of

# How long a one-time code is good.
CODE_HOURS = 7 * 24
_HOUR_MS = 3_600_000


class Registry:
    """Tenants, districts, sites, bins and keys in one database.

    Args:
        url: see `open_database`.
        upgrade: bring its tables up to date; see there.

    Raises:
        ConfigError, StorageError: see `open_database`.
    """

    def __init__(self, url: str, upgrade: bool = True) -> None:
        self._engine: Engine = open_database(url, upgrade)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        """Change bins or keys, one change after the other, whoever makes it."""
        with writing(self._engine) as session:
            change = session.get_one(ChangeRow, 1, with_for_update=True)
            change.number += 1
            session.info["change_number"] = change.number
            yield session

    def change_number(self) -> int:
        """Return a number that rises with each change of bins or keys."""
        with reading(self._engine) as session:
            return session.scalar(select(ChangeRow.number)) or 0

    def principals(self) -> dict[str, tuple[Principal, bytes]]:
        """Return who signs with each key in use, and its public half, by key id; oldest first."""
        with reading(self._engine) as session:
            rows = session.execute(
                select(
                    KeyRow.key_id,
                    KeyRow.public_key,
                    BinRow.bin_id,
                    BinRow.tenant_id,
                    BinRow.renew_key,
                )
                .join(BinRow, BinRow.bin_id == KeyRow.bin_id)
                .where(KeyRow.revoked_utc_ms.is_(None))
                .order_by(KeyRow.change_number)
            )
            return {
                key_id: (Principal(bin_id, tenant_id, key_id, renew), bytes(public_key))
                for key_id, public_key, bin_id, tenant_id, renew in rows
            }

    def bins_with_keys(self) -> frozenset[str]:
        """Return the bins that ever had a key: nobody else may speak in their name without one."""
        with reading(self._engine) as session:
            return frozenset(session.scalars(select(KeyRow.bin_id).distinct()))

    def bins(self, scope: Scope) -> list[BinState]:
        """Return the bins of a scope, by id."""
        with reading(self._engine) as session:
            places = [p for p in all_places(session) if within(p, scope)]
            added = dict(session.execute(select(BinRow.bin_id, BinRow.added_utc_ms)).all())
            renew = dict(session.execute(select(BinRow.bin_id, BinRow.renew_key)).all())
            used: dict[str, list[str]] = {}
            revoked: dict[str, int] = {}
            for key in session.scalars(select(KeyRow).order_by(KeyRow.change_number)):
                if key.revoked_utc_ms is None:
                    used.setdefault(key.bin_id, []).append(key.key_id)
                else:
                    revoked[key.bin_id] = revoked.get(key.bin_id, 0) + 1
            unused = CodeRow.used_by_key.is_(None)
            codes = select(CodeRow.bin_id, CodeRow.expires_utc_ms).where(unused)
            until = dict(session.execute(codes).all())
        return [
            BinState(
                place=place,
                added_utc_ms=added[place.bin_id],
                keys=tuple(used.get(place.bin_id, ())),
                revoked=revoked.get(place.bin_id, 0),
                code_until_utc_ms=until.get(place.bin_id),
                renew_key=renew[place.bin_id],
            )
            for place in places
        ]

    def place(self, places: Sequence[Place], now_utc_ms: int) -> int:
        """Register bins, or say where known ones stand from now on; all of them or none.

        Tenants, districts and sites that a place names are made. A known bin that comes with
        another district has moved: its figures of before stay with the old one.

        Args:
            places: one a bin.
            now_utc_ms: the hub's clock.

        Returns:
            How many bins are new.

        Raises:
            ConfigError: a place contradicts what is known; the message names bin and column.
        """
        new = 0
        with self._changing() as session:
            for place in places:
                new += put(session, place, now_utc_ms)
        return new

    def issue_code(self, bin_id: str, now_utc_ms: int, hours: float = CODE_HOURS) -> str:
        """Return a new one-time code for a bin's first key; earlier unused ones end.

        Args:
            bin_id: a registered bin.
            now_utc_ms: the hub's clock.
            hours: how long it is good.

        Raises:
            ConfigError: no such bin.
        """
        code = new_code()
        with self._changing() as session:
            _known(session, bin_id)
            session.execute(
                delete(CodeRow).where(CodeRow.bin_id == bin_id, CodeRow.used_by_key.is_(None))
            )
            session.add(
                CodeRow(
                    code_sha256=code_digest(code),
                    bin_id=bin_id,
                    expires_utc_ms=now_utc_ms + round(hours * _HOUR_MS),
                )
            )
        return code

    def enrol(self, code: str, bin_id: str, public_key: bytes, now_utc_ms: int) -> str:
        """Take a bin's first key for a one-time code, and return the key's id.

        The same key with the same code is answered alike again: the first answer may have been
        lost. What keys the bin had before end: its card was replaced, or somebody copied it.

        Raises:
            AccessError: the code is unknown, of another bin, used, or too old; or the key was
                revoked.
            WireError: not a public key.
        """
        check_public_key(public_key)
        key_id = key_id_of(public_key)
        with self._changing() as session:
            row = session.get(CodeRow, code_digest(code))
            if row is None or row.bin_id != bin_id:
                raise AccessError(f"the enrolment code is not one of bin {bin_id}")
            if row.used_by_key not in (None, key_id):
                raise AccessError("the enrolment code was used before, with another key")
            if row.used_by_key is None:
                if now_utc_ms >= row.expires_utc_ms:
                    raise AccessError("the enrolment code is too old; ask for a new one")
                session.execute(
                    update(KeyRow)
                    .where(
                        KeyRow.bin_id == bin_id,
                        # It may be registered already, and the bin not know it.
                        KeyRow.key_id != key_id,
                        KeyRow.revoked_utc_ms.is_(None),
                    )
                    .values(revoked_utc_ms=now_utc_ms)
                )
                row.used_by_key = key_id
            _add_key(session, bin_id, public_key, now_utc_ms)
        return key_id

    def add_key(self, principal: Principal, public_key: bytes, now_utc_ms: int) -> str:
        """Take a further key of a bin that signed for it with the one it has; return its id.

        The old one is good until the first batch that is signed with the new one. A key that was
        taken before and never used ends: the bin has lost the answer, and the key.

        Raises:
            AccessError: the key is another bin's or was revoked.
            WireError: not a public key.
        """
        check_public_key(public_key)
        key_id = key_id_of(public_key)
        with self._changing() as session:
            _add_key(session, principal.bin_id, public_key, now_utc_ms)
            session.execute(
                update(KeyRow)
                .where(
                    KeyRow.bin_id == principal.bin_id,
                    KeyRow.key_id.not_in((key_id, principal.key_id)),
                    KeyRow.revoked_utc_ms.is_(None),
                )
                .values(revoked_utc_ms=now_utc_ms)
            )
        return key_id

    def settle_key(self, principal: Principal, now_utc_ms: int) -> None:
        """End the other keys of a bin that has used its newest one."""
        with self._changing() as session:
            newest = session.scalar(
                select(KeyRow.key_id)
                .where(KeyRow.bin_id == principal.bin_id, KeyRow.revoked_utc_ms.is_(None))
                .order_by(KeyRow.change_number.desc())
                .limit(1)
            )
            if newest != principal.key_id:
                return
            session.execute(
                update(KeyRow)
                .where(
                    KeyRow.bin_id == principal.bin_id,
                    KeyRow.key_id != principal.key_id,
                    KeyRow.revoked_utc_ms.is_(None),
                )
                .values(revoked_utc_ms=now_utc_ms)
            )
            session.execute(
                update(BinRow).where(BinRow.bin_id == principal.bin_id).values(renew_key=False)
            )

    def ask_for_new_key(self, bin_id: str) -> None:
        """Have a bin make a new key at its next batch.

        Raises:
            ConfigError: no such bin, or one without a key.
        """
        with self._changing() as session:
            row = _known(session, bin_id)
            if not session.scalar(_used_keys(bin_id)):
                raise ConfigError(
                    f"bin {bin_id} has no key to be renewed: give it a code by "
                    f"'binsight hub bins add {bin_id}'"
                )
            row.renew_key = True

    def revoke(self, bin_id: str, now_utc_ms: int, key_id: str | None = None) -> int:
        """End the keys of a bin, or one of them, and its unused codes; return how many keys.

        Raises:
            ConfigError: no such bin, or no such key in use.
        """
        with self._changing() as session:
            _known(session, bin_id)
            chosen = [KeyRow.bin_id == bin_id, KeyRow.revoked_utc_ms.is_(None)]
            if key_id is not None:
                chosen.append(KeyRow.key_id == key_id)
            keys = list(session.scalars(select(KeyRow).where(*chosen)))
            if key_id is not None and not keys:
                raise ConfigError(f"bin {bin_id} has no key {key_id} in use")
            for key in keys:
                key.revoked_utc_ms = now_utc_ms
            session.execute(
                delete(CodeRow).where(CodeRow.bin_id == bin_id, CodeRow.used_by_key.is_(None))
            )
            return len(keys)

    def saw_models(self, seen: Iterable[tuple[str, str]], now_utc_ms: int) -> None:
        """Note bundles that bins decided by, (bin, digest); known ones keep their first time."""
        with reading(self._engine) as session:
            pairs = session.execute(select(ModelSeenRow.bin_id, ModelSeenRow.model_digest))
            known = {(bin_id, digest) for bin_id, digest in pairs}
        new = [
            ModelSeenRow(bin_id=bin_id, model_digest=digest, first_utc_ms=now_utc_ms)
            for bin_id, digest in dict.fromkeys(seen)
            # What a bin says of itself may be longer than a digest is.
            if (bin_id, digest) not in known and len(digest) <= 128 and digest.isprintable()
        ]
        if new:
            with writing(self._engine) as session:
                session.add_all(new)

    def models(self, bin_id: str) -> dict[str, int]:
        """Return the bundles that a bin was seen with, and since when (ms UTC)."""
        with reading(self._engine) as session:
            rows = session.scalars(select(ModelSeenRow).where(ModelSeenRow.bin_id == bin_id))
            return {row.model_digest: row.first_utc_ms for row in rows}

    def copy_to(self, path: Path) -> int:
        """Copy a SQLite registry into a new file, and return how many bins it has.

        Raises:
            StorageError: it cannot be read or written.
        """
        with reading(self._engine) as session:
            bins = session.scalar(select(func.count()).select_from(BinRow))
        copy_sqlite(self._engine, path)
        return bins or 0

    def placements(self, scope: Scope) -> list[tuple[str, int, int | None, Place]]:
        """Return where bins stood: (bin, from, to or None, place), ms UTC, by bin and time."""
        with reading(self._engine) as session:
            now = {place.bin_id: place for place in all_places(session)}
            zone_of = zones(session)
            rows = session.scalars(
                select(PlacementRow).order_by(PlacementRow.bin_id, PlacementRow.from_utc_ms)
            )
            found = [
                (
                    row.bin_id,
                    row.from_utc_ms,
                    row.to_utc_ms,
                    replace(
                        now[row.bin_id],
                        tenant=row.tenant_id,
                        district=row.district_id,
                        time_zone=zone_of[row.tenant_id, row.district_id],
                    ),
                )
                for row in rows
            ]
        return [entry for entry in found if within(entry[3], scope)]


def _add_key(session: Session, bin_id: str, public_key: bytes, now_utc_ms: int) -> None:
    key_id = key_id_of(public_key)
    row = session.get(KeyRow, key_id)
    if row is None:
        session.add(
            KeyRow(
                key_id=key_id,
                bin_id=bin_id,
                public_key=public_key,
                change_number=session.info["change_number"],
                added_utc_ms=now_utc_ms,
            )
        )
        session.flush()
    elif row.bin_id != bin_id:
        raise AccessError("the key is another bin's")
    elif row.revoked_utc_ms is not None:
        raise AccessError("the key was revoked; a bin makes a new one")


def _known(session: Session, bin_id: str) -> BinRow:
    row = session.get(BinRow, bin_id)
    if row is None:
        raise ConfigError(f"no bin is registered as {bin_id!r}; see 'binsight hub bins list'")
    return row


def _used_keys(bin_id: str) -> Select[str]:
    return select(KeyRow.key_id).where(KeyRow.bin_id == bin_id, KeyRow.revoked_utc_ms.is_(None))
