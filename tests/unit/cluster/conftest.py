"""What the hub's tests share: a registry in each kind of database."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from simulators.postgres import postgres, programs

from cluster.registry.store import Registry


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL, one for all tests."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.sqlite'}"
        return
    import psycopg

    server = request.getfixturevalue("postgres_url")
    name = f"test_{next(_NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    """A registry in each kind of database."""
    opened = Registry(database_url)
    yield opened
    opened.close()


@pytest.fixture
def new_key() -> Callable[[], bytes]:
    """Make a public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return lambda: Ed25519PrivateKey.generate().public_key().public_bytes_raw()


_NUMBERS = count()
