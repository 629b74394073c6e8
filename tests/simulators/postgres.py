"""A real PostgreSQL for tests, in a folder of its own; Debian's package."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
_USER = "postgres"


def programs() -> Path | None:
    """Return the folder of initdb and pg_ctl, or None where PostgreSQL is not installed."""
    if _BIN:
        return _BIN[-1]
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server on a socket in a new folder; its URL. It refuses to run as root, so it does
    not."""
    folder = programs()
    assert folder is not None
    # A socket's path must be short, and readable by another user.
    where = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(where, _USER)
        as_user = ["runuser", "-u", _USER, "--"]
    data = where / "data"

    def run(*command: str) -> None:
        subprocess.run(
            [*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd=where, timeout=120
        )

    options = f"-c listen_addresses= -k {where} -c fsync=off"
    run(str(folder / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "--no-sync")
    control = [str(folder / "pg_ctl"), "-D", str(data)]
    run(*control, "-l", str(where / "log"), "-o", options, "-w", "start")
    try:
        yield f"postgresql://{_USER}@/postgres?host={where}"
    finally:
        run(*control, "-m", "immediate", "-w", "stop")
        shutil.rmtree(where, ignore_errors=True)
