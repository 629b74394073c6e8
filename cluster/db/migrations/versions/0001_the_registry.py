"""The registry."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of tenants, districts, sites, bins, placements and keys."""
    _first_tables()
    _next_tables()
    _last_tables()


def _first_tables() -> None:
    op.create_table(
        "model_seen",
        sa.Column("bin_id", sa.String(length=128), nullable=False),
        sa.Column("model_digest", sa.String(length=128), nullable=False),
        sa.Column("first_utc_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bin_id", "model_digest"),
    )
    op.create_table(
        "registry_change",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("one"),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "district",
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("district_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"],
            ["tenant.tenant_id"],
        ),
        sa.PrimaryKeyConstraint("tenant_id", "district_id"),
    )
    op.create_table(
        "site",
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("site_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("latitude", sa.Float(), nullable=True),
        sa.Column("longitude", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"],
            ["tenant.tenant_id"],
        ),
        sa.PrimaryKeyConstraint("tenant_id", "site_id"),
    )


def _next_tables() -> None:
    op.create_table(
        "bin",
        sa.Column("bin_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("site_id", sa.String(length=128), nullable=True),
        sa.Column("capacity_l", sa.Float(), nullable=True),
        sa.Column("added_utc_ms", sa.BigInteger(), nullable=False),
        sa.Column("renew_key", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "site_id"],
            ["site.tenant_id", "site.site_id"],
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"],
            ["tenant.tenant_id"],
        ),
        sa.PrimaryKeyConstraint("bin_id"),
    )
    op.create_index("ix_bin_tenant_id", "bin", ["tenant_id"])

    op.create_table(
        "bin_key",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("bin_id", sa.String(length=128), nullable=False),
        sa.Column("public_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=False),
        sa.Column("added_utc_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_utc_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["bin_id"],
            ["bin.bin_id"],
        ),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index("ix_bin_key_bin_id", "bin_key", ["bin_id"])


def _last_tables() -> None:
    op.create_table(
        "enrolment_code",
        sa.Column("code_sha256", sa.String(length=64), nullable=False),
        sa.Column("bin_id", sa.String(length=128), nullable=False),
        sa.Column("expires_utc_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_by_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["bin_id"],
            ["bin.bin_id"],
        ),
        sa.PrimaryKeyConstraint("code_sha256"),
    )
    op.create_index("ix_enrolment_code_bin_id", "enrolment_code", ["bin_id"])

    op.create_table(
        "placement",
        sa.Column("bin_id", sa.String(length=128), nullable=False),
        sa.Column("from_utc_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_utc_ms", sa.BigInteger(), nullable=True),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("district_id", sa.String(length=128), nullable=False),
        sa.CheckConstraint("to_utc_ms > from_utc_ms", name="placement_has_length"),
        sa.ForeignKeyConstraint(
            ["bin_id"],
            ["bin.bin_id"],
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "district_id"],
            ["district.tenant_id", "district.district_id"],
        ),
        sa.PrimaryKeyConstraint("bin_id", "from_utc_ms"),
    )
    # The one row that every change locks first.
    op.execute("INSERT INTO registry_change (one, number) VALUES (1, 0)")
