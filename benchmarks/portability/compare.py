"""Print one JSON line for each graph and processor: accuracy, and how far it is from the same graph on this machine."""

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Argument: the folder that run.sh filled."""
    work = Path(sys.argv[1])
    truth = np.load(work / "truth.npy")
    for graph in ("u8s8", "s8s8", "u8s7"):
        native = np.load(work / f"{graph}-native.npy")
        for processor in ("native", "arm", "haswell"):
            logits = np.load(work / f"{graph}-{processor}.npy")
            row = {
                "graph": graph,
                "processor": processor,
                "pictures": len(truth),
                "accuracy": round(float((logits.argmax(1) == truth).mean()), 4),
                "other_label_than_native": int((logits.argmax(1) != native.argmax(1)).sum()),
                "greatest_logit_difference": round(float(np.abs(logits - native).max()), 4),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
