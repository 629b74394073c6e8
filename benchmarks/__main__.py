"""Run the benchmarks named on the command line, or all of them but the longest.

`python -m benchmarks [frame_to_decision ingest ...]`.
"""

import importlib
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from edge_runtime import host


def main() -> None:
    """Print one JSON line for the machine and one for each measurement."""
    known = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    # Half an hour each: they run only when named.
    chosen = sys.argv[1:] or [
        name for name in known if name not in ("ablation", "adaptation", "crash", "soak")
    ]
    if unknown := sorted(set(chosen) - set(known)):
        sys.exit(f"error: no benchmark {', '.join(unknown)}; known: {', '.join(known)}")
    machine = {
        "cpu": host.cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "ray": version("ray"),
        "duckdb": version("duckdb"),
    }
    print(json.dumps({"bench": "machine", **machine}), flush=True)
    for name in chosen:
        for row in importlib.import_module(f"benchmarks.bench_{name}").measure():
            print(json.dumps({"bench": name, **row}), flush=True)


if __name__ == "__main__":
    main()
