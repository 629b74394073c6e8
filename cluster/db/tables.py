"""The tables of the registry; times are milliseconds UTC.

A change here needs a migration beside it: a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    LargeBinary,
    String,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Of every id; 128 as on the wire.
_ID = String(128)
_TIME = BigInteger


class Base(DeclarativeBase):
    """All tables."""


class TenantRow(Base):
    """A city, or whoever else has bins and figures of its own."""

    __tablename__ = "tenant"
    tenant_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(250))


class DistrictRow(Base):
    """A part of a tenant's ground; its figures are by its own days and hours."""

    __tablename__ = "district"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.tenant_id"), primary_key=True)
    district_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(250))
    time_zone: Mapped[str] = mapped_column(String(64))


class SiteRow(Base):
    """A place where bins stand."""

    __tablename__ = "site"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.tenant_id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(250))
    latitude: Mapped[float | None] = mapped_column(Float)
    longitude: Mapped[float | None] = mapped_column(Float)


class BinRow(Base):
    """A bin. Its id is unique in the whole hub: the lake knows bins by nothing else."""

    __tablename__ = "bin"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "site_id"], ["site.tenant_id", "site.site_id"]),
    )
    bin_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.tenant_id"), index=True)
    site_id: Mapped[str | None] = mapped_column(_ID)
    capacity_l: Mapped[float | None] = mapped_column(Float)
    added_utc_ms: Mapped[int] = mapped_column(_TIME)
    renew_key: Mapped[bool] = mapped_column(default=False)


class PlacementRow(Base):
    """In which district a bin stood, from..to; a moved bin does not rewrite what was before."""

    __tablename__ = "placement"
    __table_args__ = (
        CheckConstraint("to_utc_ms > from_utc_ms", name="placement_has_length"),
        ForeignKeyConstraint(
            ["tenant_id", "district_id"], ["district.tenant_id", "district.district_id"]
        ),
    )
    bin_id: Mapped[str] = mapped_column(ForeignKey("bin.bin_id"), primary_key=True)
    from_utc_ms: Mapped[int] = mapped_column(_TIME, primary_key=True)
    to_utc_ms: Mapped[int | None] = mapped_column(_TIME)
    tenant_id: Mapped[str] = mapped_column(_ID)
    district_id: Mapped[str] = mapped_column(_ID)


class KeyRow(Base):
    """A public key of a bin (Ed25519). A revoked one stays, so that it is never taken again."""

    __tablename__ = "bin_key"
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    bin_id: Mapped[str] = mapped_column(ForeignKey("bin.bin_id"), index=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary(32))
    # By it keys are older and newer: a clock may be set back.
    change_number: Mapped[int] = mapped_column(BigInteger)
    added_utc_ms: Mapped[int] = mapped_column(_TIME)
    revoked_utc_ms: Mapped[int | None] = mapped_column(_TIME)


class CodeRow(Base):
    """A one-time code for a bin's first key; only its digest is kept."""

    __tablename__ = "enrolment_code"
    code_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    bin_id: Mapped[str] = mapped_column(ForeignKey("bin.bin_id"), index=True)
    expires_utc_ms: Mapped[int] = mapped_column(_TIME)
    used_by_key: Mapped[str | None] = mapped_column(String(64))


class ModelSeenRow(Base):
    """A bundle that a bin was seen to decide by."""

    __tablename__ = "model_seen"
    bin_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    model_digest: Mapped[str] = mapped_column(_ID, primary_key=True)
    first_utc_ms: Mapped[int] = mapped_column(_TIME)


class ChangeRow(Base):
    """One row, whose number rises with each change of bins or keys: a running hub looks at it."""

    __tablename__ = "registry_change"
    one: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
