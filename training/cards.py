"""A model card and a data card, in Markdown, from what a bundle's manifest holds and nothing else.

Source of the forms: Mitchell et al., "Model Cards for Model Reporting", FAccT 2019; Gebru et al.,
"Datasheets for Datasets", Communications of the ACM 64(12), 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vision.bundle import bundle_digest, read_bundle
from vision.files import write_atomically
from vision.manifest import Manifest

USE = """For a bin's camera that looks at one item in a chute, and for the sorting lid of that bin.
It says which label an item most probably has and how sure it is; what it is not sure of, or does
not know, it says is unsure or unknown.

Not for: several items in one image, people, litter counts from a street camera, safety without a
person (a hazard that it misses is missed), or a place that it was never measured in. Adapt it to a
place with a few labelled images of it, `binsight train --from`, and measure there."""


def write_cards(bundle: Path, out: Path) -> tuple[Path, Path]:
    """Write model-card.md and data-card.md of a bundle into a folder, and return their paths.

    Raises:
        BundleError: the file must not be run.
    """
    data, manifest = read_bundle(bundle)
    out.mkdir(parents=True, exist_ok=True)
    cards = {
        out / "model-card.md": model_card(manifest, len(data), bundle_digest(data)),
        out / "data-card.md": data_card(manifest),
    }
    for path, text in cards.items():
        write_atomically(path, text.encode())
    model, of_data = cards
    return model, of_data


def model_card(manifest: Manifest, size_bytes: int, digest: str) -> str:
    """Return the model card of a bundle.

    Args:
        manifest: of the bundle.
        size_bytes: of the file.
        digest: sha256 of the file, hex.
    """
    spec = manifest.preprocess
    lineage = manifest.lineage
    rows = {
        "network": lineage.get("network", manifest.model_id),
        "input": f"{spec.width_px} x {spec.height_px} pixels, {spec.fit}",
        "precision": manifest.precision,
        "size": f"{size_bytes / 1e6:.2f} MB",
        "labels": ", ".join(manifest.labels),
        "taxonomy": manifest.taxonomy_id,
        "first weights": lineage.get("initial_weights", "not recorded"),
        "teachers": lineage.get("teachers", "none"),
        "sha256": digest,
    }
    return (
        "\n\n".join(
            [
                f"# Model card: {manifest.model_id}, {manifest.precision}",
                _table(("what", "is"), rows.items()),
                f"## What it is for\n\n{USE}",
                f"## What was measured\n\n{_measured(manifest)}",
                f"## When it decides\n\n{_policy(manifest)}",
                "## What it was trained on\n\nSee the data card beside this file.",
            ]
        )
        + "\n"
    )


def data_card(manifest: Manifest) -> str:
    """Return the data card of a bundle: what it was trained, fitted and measured on."""
    parts = [f"# Data card: {manifest.model_id}"]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]] = manifest.metrics.get("data", {})
    titles = {
        "train": "Trained on",
        "val": "Fitted and measured on",
        "outliers": "Shown in training as things of no label",
    }
    for part, title in titles.items():
        if sets := counts.get(part):
            labels = list(dict.fromkeys(label for by_label in sets.values() for label in by_label))
            rows = [(name, *(by.get(label, 0) for label in labels)) for name, by in sets.items()]
            parts.append(f"## {title}\n\nImages.\n\n{_table(('set', *labels), rows)}")
    licences = {k: v for k, v in manifest.data_licences.items() if k != "note"}
    parts.append(f"## Licences\n\n{_table(('data', 'licence'), licences.items())}")
    if note := manifest.data_licences.get("note"):
        parts.append(note)
    digests = {k: v for k, v in manifest.lineage.items() if k.endswith("sha256")}
    parts.append(
        "## Digests\n\nEqual images, labels and splits give an equal sha256 on every machine.\n\n"
        + _table(("what", "sha256"), digests.items())
    )
    return "\n\n".join(parts) + "\n"


def _measured(manifest: Manifest) -> str:
    val = manifest.metrics["val"]
    low, high = val["accuracy_95"]
    rows: dict[str, Any] = {
        "images": val.get("images", val.get("pictures")),
        "accuracy": f"{val['accuracy']:.3f} ({low:.3f} to {high:.3f})",
        "accuracy, each object once": f"{val['accuracy_by_object']:.3f}",
    }
    if fresh := val.get("without_near_duplicates"):
        low, high = fresh["accuracy_95"]
        rows["accuracy without near-duplicates of training images"] = (
            f"{fresh['accuracy']:.3f} ({low:.3f} to {high:.3f})"
        )
    rows["macro F1"] = f"{val['macro_f1']:.3f}"
    rows |= {
        name: _share(val.get(key))
        for key, name in {
            "calibration_error": "calibration error",
            "decided_share": "items that it decides by itself",
            "decided_accuracy": "of these right",
            "hazard_recall": "hazards recognised",
            "hazard_false_alarms": "false alarms, of harmless items",
        }.items()
        if key in val
    }
    if lost := manifest.metrics.get("int8_against_float"):
        rows["accuracy that int8 costs"] = f"{lost['lost']:.4f}"
    by_label = [
        (label, _share(val["recall"][label]), _share(val["precision"][label]))
        for label in manifest.labels
    ]
    return "\n\n".join(
        [
            f"On the val images of {val['dataset']}; intervals are 95 %, by groups of one object.",
            _table(("what", "is"), rows.items()),
            _table(("label", "recall", "precision"), by_label),
            "Another place costs accuracy, and how much is known only once it is measured there.",
        ]
    )


def _policy(manifest: Manifest) -> str:
    policy = manifest.policy
    rows = [
        (label, f"{policy.min_confidence[label]:.3f}")
        for label in manifest.labels
        if label in policy.min_confidence
    ]
    alarm = (
        ""
        if policy.min_hazard is None
        else "\n\nIt gives the alarm from a probability of all hazards together of "
        f"{policy.min_hazard:.3f} on."
    )
    return (
        f"{_table(('label', 'confidence that it needs'), rows)}\n\nAn unknown score above "
        f"{policy.max_unknown_score:.3f} makes an item unknown.{alarm}"
    )


def _share(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
