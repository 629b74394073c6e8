"""Cut the power of a real hub at random instants, on a disk that forgets what nobody synced.

`power_cut/forgetful.c` notes at each fsync what a power cut would leave. A life of the hub ends
with SIGKILL; then its folder is put back as the disk would have it, and the next life begins there.
Clients send numbered events and remember what was acknowledged. At the end every event that was
acknowledged must be there once. The control forgets the ingest log's syncs, and must lose events:
a disk that forgets nothing would prove nothing. BINSIGHT_CUTS sets the number of cuts. It
prints nothing where gcc is missing.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.bench_hub_kill import OUTBOXES, Client
from cluster.ingest.move import LOG_NAME, move_waiting
from cluster.lake.store import Lake
from vision.errors import StorageError

CUTS = int(os.environ.get("BINSIGHT_CUTS", "25"))
LIFE_S = (2.5, 6.0)
_SOURCE = Path(__file__).parent / "power_cut" / "forgetful.c"


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for the hub, and one for the control."""
    if shutil.which("gcc") is None:
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        library = build(Path(folder))
        yield {"control": False, **cut(Path(folder) / "hub", library, CUTS)}
        yield {"control": True, **cut(Path(folder) / "control", library, 1, LOG_NAME)}


def build(folder: Path) -> Path:
    """Compile the forgetful disk, and return the library."""
    library = folder / "forgetful.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def cut(folder: Path, library: Path, cuts: int, control: str = "") -> dict[str, Any]:
    """Live and cut so often, and return what was lost.

    Args:
        folder: to work in.
        library: the forgetful disk.
        cuts: of the power.
        control: files whose path holds it are forgotten though they are synced.
    """
    rng = random.Random(0)
    # Where lakes and mirrors lie; a lake's own folder is part of what a power cut may forget.
    root = folder / "disk"
    root.mkdir(parents=True)
    lake = root / "lake"
    clients = [Client(number) for number in range(OUTBOXES)]
    worst_start_s = 0.0
    for number in range(cuts):
        mirror = folder / f"mirror-{number}"
        mirror.mkdir()
        started = time.perf_counter()
        hub, url = _hub(lake, root, mirror, library, control)
        worst_start_s = max(worst_start_s, time.perf_counter() - started)
        for client in clients:
            client.start(url)
        time.sleep(rng.uniform(*LIFE_S))
        hub.kill()
        hub.wait()
        left = folder / f"left-{number}"
        _as_the_disk_has_it(root, mirror, left)
        shutil.rmtree(root)
        left.rename(root)
        shutil.rmtree(mirror)
    for client in clients:
        client.close()
    acknowledged = {client._name: client.acknowledged for client in clients}
    rows = _stored(lake)
    return {
        "cuts": cuts,
        "acknowledged": sum(acknowledged.values()),
        "lost": _missing(rows, acknowledged),
        "twice": sum(events - distinct for events, distinct in rows.values()),
        "slowest_start_s": round(worst_start_s, 1),
    }


def _as_the_disk_has_it(root: Path, mirror: Path, to: Path) -> None:
    """Build the folder that a power cut leaves: folders and files as of their last sync."""
    if not (mirror / f"folder-{_identity(root)}").exists():
        to.mkdir()  # nobody synced the folder itself: nothing in it is there
        return
    _rebuild(mirror, "folder", _identity(root), to)


def _rebuild(mirror: Path, kind: str, identity: str, to: Path) -> None:
    noted = mirror / f"{kind}-{identity}"
    if kind == "file":
        to.write_bytes(noted.read_bytes() if noted.exists() else b"")
        return
    to.mkdir()
    for line in noted.read_text().splitlines() if noted.exists() else []:
        own_kind, own, name = line.split(" ", 2)
        _rebuild(mirror, own_kind, own, to / name)


def _identity(path: Path) -> str:
    """Return the library's name of a folder: its inode, and its time of birth."""
    done = subprocess.run(
        ["stat", "--format=%i %W %w", str(path)], capture_output=True, text=True, check=True
    ).stdout.split()
    return f"{done[0]}-{done[1]}-{int(done[3].partition('.')[2])}"


def _missing(rows: dict[str, tuple[int, int]], acknowledged: dict[str, int]) -> int:
    """Return how many acknowledged events are not there: numbers have no gaps."""
    return sum(max(0, last - rows.get(outbox, (0, 0))[1]) for outbox, last in acknowledged.items())


def _stored(lake: Path) -> dict[str, tuple[int, int]]:
    """Return events and different numbers of each outbox, once the log is moved."""
    try:
        move_waiting(Lake(lake))
        files = Lake(lake).files("events")
    except StorageError:
        return {}
    if not files:
        return {}
    with duckdb.connect() as db:
        counts = db.read_parquet(files, hive_partitioning=False).aggregate(
            "outbox_id, count(*), count(DISTINCT seq)", "outbox_id"
        )
        return {outbox: (events, distinct) for outbox, events, distinct in counts.fetchall()}


def _hub(
    lake: Path, root: Path, mirror: Path, library: Path, control: str
) -> tuple[subprocess.Popen[str], str]:
    settings = [f"--set=lake={lake}", "--set=port=0", "--set=lake_interval_s=0.5"]
    forgetful = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FORGETFUL_ROOT": str(root),
        "FORGETFUL_MIRROR": str(mirror),
    }
    # What an earlier life left is on the disk.
    subprocess.run(["sync"], env=forgetful, check=True)
    hub = subprocess.Popen(
        [sys.executable, "-m", "binsight", "hub", "serve", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**forgetful, "FORGETFUL_CONTROL": control},
    )
    assert hub.stdout is not None
    line = hub.stdout.readline()
    if not line.startswith("hub: "):
        raise RuntimeError("the hub did not start again after a power cut")
    return hub, line.removeprefix("hub: ").strip()
