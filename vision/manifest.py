"""The manifest: all that a bin or an evaluation must know of a model, as JSON in the ONNX file.

It reads and writes text alone; digests and the graph are vision.bundle's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from vision.decision import DecisionPolicy, EmbeddingStats
from vision.errors import BundleError
from vision.preprocess import PreprocessSpec
from vision.taxonomy import TAXONOMIES, Taxonomy

SCHEMA = "binsight.bundle/1"


class Precision(StrEnum):
    """How a graph computes."""

    FP32 = "fp32"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Probe:
    """The expected output: what the graph gave on `probe_frame()` where it was made.

    Attributes:
        logits: float, one per label.
        tolerance: greatest absolute difference of a logit that another CPU may show.
        embedding: float, the whole embedding. The probe shows none of the labels, so its logits are
            small and prove little by themselves; the embedding's direction must be the same (see
            MIN_PROBE_COSINE).
    """

    logits: tuple[float, ...]
    tolerance: float
    embedding: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tensors:
    """Names of the graph's input and outputs.

    Attributes:
        input: uint8, 1 x height x width x 3.
        logits: float32, 1 x labels.
        embedding: float32, 1 x size.
    """

    input: str
    logits: str
    embedding: str


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """All that a bin or an evaluation has to know of a model.

    Attributes:
        model_id: name for people, e.g. "mobilenet_v2-trashnet".
        precision: must agree with the graph.
        taxonomy_id, labels: labels[i] is the meaning of logit i, in taxonomy order.
        metrics: what was measured, each with the digest of the dataset it was measured on.
        lineage: sha256 of every parent: dataset, initial weights, checkpoint, float bundle.
        data_licences: licence of each dataset that went into the weights.
        graph_sha256: digest of the graph's bytes; set by `write_bundle`.
    """

    model_id: str
    precision: Precision
    taxonomy_id: str
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    tensors: Tensors
    policy: DecisionPolicy
    stats: EmbeddingStats
    probe: Probe
    metrics: Mapping[str, Any]
    lineage: Mapping[str, str]
    data_licences: Mapping[str, str]
    graph_sha256: str = ""
    schema: str = SCHEMA

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that `labels` are taken from."""
        return TAXONOMIES[self.taxonomy_id]

    def to_json(self) -> str:
        """Return the canonical JSON text (sorted keys), as stored in the file."""
        centroids = self.stats.centroids_kd.astype("<f2")
        document = {
            "schema": self.schema,
            "model_id": self.model_id,
            "precision": self.precision,
            "taxonomy": self.taxonomy_id,
            "labels": list(self.labels),
            "preprocess": self.preprocess.to_dict(),
            "tensors": asdict(self.tensors),
            "policy": self.policy.to_dict(),
            "embedding": {
                "size": int(centroids.shape[1]),
                "centroids_f16_base64": base64.b64encode(centroids.tobytes()).decode(),
            },
            "probe": asdict(self.probe),
            "metrics": self.metrics,
            "lineage": dict(self.lineage),
            "data_licences": dict(self.data_licences),
            "graph_sha256": self.graph_sha256,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"))


def parse_manifest(text: str, name: str) -> Manifest:
    """Check and build a manifest from its JSON text.

    Args:
        text: as stored in the file.
        name: of the file, for messages.

    Raises:
        BundleError: another schema, or a part that is missing or malformed.
    """
    try:
        d = json.loads(text)
        if d.get("schema") != SCHEMA:
            raise BundleError(
                f"{name}: manifest schema {d.get('schema')!r}; this binsight reads {SCHEMA!r}"
            )
        if d["precision"] not in list(Precision) or d["taxonomy"] not in TAXONOMIES:
            raise BundleError(
                f"{name}: unknown precision {d['precision']!r} or taxonomy {d['taxonomy']!r}"
            )
        labels = tuple(d["labels"])
        if not labels or labels != TAXONOMIES[d["taxonomy"]].ordered(labels):
            raise BundleError(
                f"{name}: labels are not distinct labels of {d['taxonomy']} in its order"
            )
        manifest = Manifest(
            model_id=d["model_id"],
            precision=Precision(d["precision"]),
            taxonomy_id=d["taxonomy"],
            labels=labels,
            preprocess=PreprocessSpec(**d["preprocess"]),
            tensors=Tensors(**d["tensors"]),
            policy=DecisionPolicy(**d["policy"]),
            stats=_stats(d["embedding"]),
            probe=_probe(d["probe"]),
            metrics=d["metrics"],
            lineage=d["lineage"],
            data_licences=d["data_licences"],
            graph_sha256=d["graph_sha256"],
        )
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{name}: the manifest is incomplete or malformed ({error!r})") from error
    _check_probe(manifest, name)
    return manifest


def _stats(section: Mapping[str, Any]) -> EmbeddingStats:
    raw = np.frombuffer(base64.b64decode(section["centroids_f16_base64"]), dtype="<f2")
    return EmbeddingStats(raw.reshape(-1, section["size"]).astype(np.float32))


def _probe(section: Mapping[str, Any]) -> Probe:
    return Probe(
        tuple(map(float, section["logits"])),
        float(section["tolerance"]),
        tuple(map(float, section["embedding"])),
    )


def _check_probe(manifest: Manifest, name: str) -> None:
    """Refuse a probe that would pass whatever the graph computes."""
    if not 0 <= manifest.probe.tolerance < 10:
        raise BundleError(
            f"{name}: a probe with tolerance {manifest.probe.tolerance} proves nothing"
        )
    count = len(manifest.labels)
    if len(manifest.probe.logits) != count:
        raise BundleError(
            f"{name}: the probe has {len(manifest.probe.logits)} logits for {count} labels"
        )
    if len(manifest.probe.embedding) != manifest.stats.centroids_kd.shape[1] or not any(
        manifest.probe.embedding
    ):
        raise BundleError(
            f"{name}: the probe's embedding is empty or of another size than the statistics are for"
        )
