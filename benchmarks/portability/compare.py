"""Print one JSON line for each graph and processor: how far it is from the exact computation.

python -m benchmarks.portability.compare FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import host


def main() -> None:
    """Compare what run.sh left in the folder; exit with 1 if a processor parts from the exact."""
    work = Path(sys.argv[1])
    parted = False
    truth = np.load(work / "truth.npy")
    for graph in ("int8", "float"):
        exact = np.load(work / f"{graph}-exact.npz")
        for path in sorted(work.glob(f"{graph}-*.npz")):
            processor = path.stem.removeprefix(f"{graph}-")
            here = np.load(path)
            count = len(here["logits"])
            a = here["embeddings"]
            b = exact["embeddings"][:count]
            cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
            other = int((here["logits"].argmax(1) != exact["logits"][:count].argmax(1)).sum())
            row: dict[str, Any] = {
                "graph": graph,
                "processor": f"{processor}: {host.cpu_name()}"
                if processor == "here"
                else processor,
                "images": count,
                "accuracy": round(float((here["logits"].argmax(1) == truth[:count]).mean()), 4),
                "other_label_than_exact": other,
                "greatest_logit_difference": round(
                    float(np.abs(here["logits"] - exact["logits"][:count]).max()), 5
                ),
                "least_cosine": round(float(cosines.min()), 5),
                "mean_cosine": round(float(cosines.mean()), 6),
                # Times of an emulated processor mean nothing.
                "ms_one_thread": None if "qemu" in processor else round(float(here["ms"]), 2),
            }
            parted |= bool(other > max(1, count // 200) or cosines.min() < 0.999)
            print(json.dumps(row), flush=True)
    sys.exit(int(parted))


if __name__ == "__main__":
    main()
