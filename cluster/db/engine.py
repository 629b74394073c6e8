"""Opens the hub's database, SQLite or PostgreSQL, and brings its tables up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from vision.errors import ConfigError, StorageError

_MIGRATIONS = Path(__file__).parent / "migrations"
# Seconds that a writer of SQLite waits for another one.
_BUSY_S = 10
# Whoever brings a PostgreSQL up to date holds this lock: two hubs may start at once.
_MIGRATION_LOCK = 7_265_409_187


def open_database(url: str, upgrade: bool = True) -> Engine:
    """Return the database behind a URL, with all tables in their newest form.

    Args:
        url: sqlite:///file.sqlite (made if missing) or postgresql://user:word@host/name.
        upgrade: make them so; otherwise older tables, or none, are an error.

    Raises:
        ConfigError: no such kind of database, or its driver is missing.
        StorageError: it cannot be opened, is damaged, or is of a newer version.
    """
    where = _with_driver(url)
    try:
        if where.drivername.startswith("sqlite") and where.database:
            Path(where.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(where, pool_pre_ping=True)
        if where.drivername.startswith("sqlite"):
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        if upgrade:
            _upgrade(engine)
        else:
            _must_be_newest(engine)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"registry: {error.name} is missing: pip install 'binsight[postgres]'"
        ) from error
    except (SQLAlchemyError, CommandError, OSError) as error:
        raise StorageError(f"the registry cannot be opened: {_shown(where)} ({error})") from error
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Open a session for questions; an error of the database becomes a StorageError."""
    with _mapped(engine), Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Open a session for one change, all or nothing, durable when the block ends."""
    with _mapped(engine), engine.connect() as connection:
        connection = connection.execution_options(writes=True)
        with Session(connection) as session, session.begin():
            yield session


def copy_sqlite(engine: Engine, path: Path) -> None:
    """Copy a SQLite database into a new file, also one that somebody writes."""
    with _mapped(engine), engine.connect() as connection:
        # By the driver's own cursor: SQLite wants it outside of a transaction.
        try:
            connection.connection.cursor().execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            raise StorageError(f"the registry cannot be copied to {path} ({error})") from error


def _with_driver(url: str) -> URL:
    try:
        where = make_url(url)
        if where.drivername == "postgresql":
            where = where.set(drivername="postgresql+psycopg")
        if where.drivername not in ("sqlite", "postgresql+psycopg"):
            raise NoSuchModuleError(where.drivername)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(
            "registry: not a database that the hub knows; use sqlite:///FILE or "
            "postgresql://USER:WORD@HOST/NAME"
        ) from error
    return where


def _shown(where: URL) -> str:
    return where.render_as_string(hide_password=True)


@contextmanager
def _mapped(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StorageError(f"registry: {_shown(engine.url)} fails ({error})") from error


def _set_up_sqlite(connection: Any, _: Any) -> None:  # noqa: ANN401  the driver's own
    # Python's driver begins transactions when it likes; `_begin_sqlite` does it.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_S * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _begin_sqlite(connection: Any) -> None:  # noqa: ANN401  the library's own
    # A reader that becomes a writer half way fails where another wrote meanwhile; so a writer
    # begins as one.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _must_be_newest(engine: Engine) -> None:
    newest = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != newest:
        raise CommandError(f"its tables are of version {found}, not {newest}; start the hub once")


def _upgrade(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.connect() as connection:
        connection = connection.execution_options(writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
