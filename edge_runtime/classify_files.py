"""Classifies images on disk with the bin's own classifier."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edge_runtime.choose import choose
from vision.datasets import read_image, scan, shown
from vision.errors import ImageError

log = logging.getLogger(__name__)


def classify_paths(
    paths: Iterable[Path], bundle: Path, threads: int = 2
) -> Iterator[dict[str, Any]]:
    """Classify images and folders of images, one row each.

    Yields:
        path, label, confidence, unknown_score, decision, probabilities; or path and error for what
        cannot be read.

    Raises:
        BundleError: the bundle must not be run.
    """
    classifier = choose(bundle, threads).classifier
    for path in paths:
        images, others = scan(path) if path.is_dir() else ([path], {})
        if others:
            log.warning(
                "%s: left out: %s",
                shown(path),
                ", ".join(f"{n} {what}" for what, n in sorted(others.items())),
            )
        if not images:
            yield {"path": str(path), "error": f"{path}: no image in this folder"}
        for image in images:
            try:
                pixels = read_image(image)
            except ImageError as error:
                yield {"path": str(image), "error": str(error)}
                continue
            result = classifier.classify(pixels)
            yield {
                "path": str(image),
                "label": result.decision.label or result.prediction.label,
                "confidence": result.prediction.confidence,
                "unknown_score": result.prediction.unknown_score,
                "decision": result.decision.kind,
                "probabilities": dict(result.prediction.probabilities),
            }
