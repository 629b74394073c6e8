"""What so many labelled images of a place buy: the shipped bundle adapted to RealWaste's floor.

`binsight train --from` with 5, 20 and 80 images a label of RealWaste's training part, one in five
of which the command holds out to fit the policy on; TrashNet and open2 are its rehearsal. Measured
is the int8 bundle on RealWaste's val part, a refused one, too; where int8 loses so much that there
is none, the float one. RealWaste is non-commercial: nothing of this ships. It takes about a quarter
of an hour a row on two cores; what was done when it was stopped is kept in runs/adaptation. It
prints nothing where ../shared is missing.

RealWaste has nine labels and the taxonomy has food and garden waste as one, so vegetation stands
here under the name of a label that RealWaste lacks.
"""

import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.adapt import adapt, compare, plan
from training.data import Images
from training.evaluate import open_session, run_graph
from vision.bundle import read_bundle, read_manifest
from vision.datasets import Dataset, Sample, open_dataset, split_by_group
from vision.errors import BundleError
from vision.metrics import group_bootstrap

SHARED = Path("../shared/data")
OUT = Path("runs/adaptation")
BUNDLE = Path("edge_runtime/bundles/float.onnx")
IMAGES_A_LABEL = (5, 20, 80)
HELD_OUT = 0.2
NAMES = {
    "food_organics": "organic",
    "miscellaneous_trash": "trash",
    "textile_trash": "textile",
    "vegetation": "e_waste",
}
MATERIALS = ("cardboard", "glass", "metal", "paper", "plastic")


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for the shipped bundle, and one for each number of images."""
    if not SHARED.is_dir():
        return
    realwaste = open_dataset(SHARED / "realwaste_nc", {**NAMES, **{m: m for m in MATERIALS}})
    val = realwaste.select("val")
    yield {"images_a_label": 0, **_figures(BUNDLE, val)}
    for count in IMAGES_A_LABEL:
        out = OUT / str(count)
        site = _site(realwaste, count, out)
        started = time.perf_counter()
        refused = out / "refused-int8.onnx"
        try:
            config = plan(BUNDLE, site, [SHARED / "trashnet", SHARED / "open2"], out)
            bundle = adapt(config).bundle
        except BundleError:
            bundle = refused if refused.exists() else out / "float.onnx"
        minutes = (time.perf_counter() - started) / 60
        (trashnet,) = compare(BUNDLE, bundle, open_dataset(SHARED / "trashnet").select("val"))[:1]
        yield {
            "images_a_label": count,
            "accepted": bundle.name == "int8.onnx",
            "precision": read_manifest(bundle).precision.value,
            **_figures(bundle, val),
            "trashnet_val_before": round(trashnet.before, 4),
            "trashnet_val_after": round(trashnet.after, 4),
            "minutes": round(minutes, 1),
        }


def _site(realwaste: Dataset, count: int, out: Path) -> Path:
    """Write the index of a place: so many images of each label, some of them held out."""
    rng = np.random.default_rng(0)
    train = realwaste.select("train").samples
    chosen: list[Sample] = []
    for label in sorted(realwaste.labels()):
        own = [s for s in train if s.label == label]
        chosen += [own[i] for i in rng.permutation(len(own))[:count]]
    index = out / "site" / "splits.csv"
    index.parent.mkdir(parents=True, exist_ok=True)
    with index.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group"))
        for s in split_by_group(chosen, HELD_OUT):
            writer.writerow((os.path.relpath(s.path, index.parent), s.label, s.split, s.group))
    return index.parent


def _figures(bundle: Path, val: Dataset) -> dict[str, Any]:
    data, manifest = read_bundle(bundle)
    outputs = run_graph(
        open_session(data, 2), manifest.tensors, manifest.preprocess, Images(val.samples, 0)
    )
    truth = np.array([s.label for s in val.samples])
    labels = np.array(manifest.labels)
    among = np.isin(labels, MATERIALS)
    of_five = np.isin(truth, MATERIALS)
    right = labels[outputs.logits_nk.argmax(1)] == truth
    asked = labels[among][outputs.logits_nk[:, among].argmax(1)] == truth
    groups = np.array([s.group for s in val.samples])
    return {
        "images": len(truth),
        **_rounded("nine_labels", right, groups),
        **_rounded("five_materials", right[of_five], groups[of_five]),
        **_rounded("asked_among_five", asked[of_five], groups[of_five]),
    }


def _rounded(name: str, right: NDArray[np.bool_], groups: NDArray[np.str_]) -> dict[str, Any]:
    interval = group_bootstrap(groups.tolist(), lambda some: float(right[some].mean()))
    return {name: round(float(right.mean()), 4), f"{name}_95": np.round(interval, 3).tolist()}
