"""The database: every hub finds its tables in their newest form, or says why it cannot."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from cluster.db.engine import open_database, reading, writing
from cluster.db.tables import Base, TenantRow
from vision.errors import ConfigError, StorageError


def test_migrations_make_the_tables_that_the_code_has(database_url: str) -> None:
    engine = open_database(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_two_hubs_may_bring_one_database_up_to_date_at_once(database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(open_database, [database_url] * 4):
            engine.dispose()


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    engine = open_database(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StorageError, match="9999"):
        open_database(database_url)


def test_a_change_is_all_or_nothing(database_url: str) -> None:
    engine = open_database(database_url)

    def fail_half_way() -> None:
        with writing(engine) as session:
            session.add(TenantRow(tenant_id="a", name="a"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    with reading(engine) as session:
        assert session.get(TenantRow, "a") is None
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://a/b", "no url", "oracle://x"])
def test_another_kind_of_database_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///FILE or postgresql"):
        open_database(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(StorageError, match=r"registry\.sqlite"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == b"something else" * 100


def test_no_password_is_shown() -> None:
    with pytest.raises(StorageError) as caught:
        open_database("postgresql://u:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
