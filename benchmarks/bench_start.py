"""From the start of the process to the first decision, and the memory that the bin then holds."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STARTS = 15
RECORDING = Path("tests/replay/six-items.avi")
# The bin's own parts in a fresh interpreter, as systemd starts them. The camera is a recording, six
# items in nine seconds, played at once; the first decision falls at its fourteenth image.
_PROGRAM = """
import json, sys, time
from pathlib import Path
from edge_runtime import host
from edge_runtime.app import run
from edge_runtime.config import EdgeConfig
from configs import load
state = sys.argv[1]
first = []
from edge_runtime.outbox import Outbox
append = Outbox.append
def noting(outbox, event):
    if not first:
        # Since the kernel made this process: ticks since boot, of which there are a hundred a
        # second.
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        first.append(float(Path("/proc/uptime").read_text().split()[0]) - ticks / 100)
    return append(outbox, event)
Outbox.append = noting
settings = [f"state={state}", "camera.kind=file", f"camera.source={sys.argv[2]}"]
run(load(EdgeConfig, None, settings), 0.0)
print(json.dumps({"start_s": first[0], "resident_mb": host.resident_mb()}))
"""


def measure() -> Iterator[dict[str, Any]]:
    """Yield one row: medians and worst of several starts, with files in the page cache."""
    rows = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as state:
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, state, str(RECORDING)],
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).parent.parent,
            )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    starts, memory = ([row[key] for row in rows] for key in ("start_s", "resident_mb"))
    yield {
        "starts": STARTS,
        "start_to_first_decision_s_median": round(float(np.median(starts)), 2),
        "worst_s": round(max(starts), 2),
        "resident_mb_median": round(float(np.median(memory)), 1),
    }
