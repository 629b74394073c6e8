"""The bundle: one ONNX file that carries its own manifest. Read and stamped with the standard library alone.

An ONNX file is one protobuf message. Its top-level fields are walked here without parsing the graph:
field 7 is the graph, field 14 a metadata entry (key = 1, value = 2).
Source: onnx/onnx.proto, messages ModelProto, GraphProto, NodeProto, StringStringEntryProto.

onnxruntime loads many corrupt files without complaint, so nothing is handed to it before `read_manifest` has compared
digests, and nothing is trusted before the bin has reproduced the manifest's known answer on `probe_frame()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vision.decision import DecisionPolicy, EmbeddingStats
from vision.errors import BundleError
from vision.frames import Pixels
from vision.preprocess import PreprocessSpec
from vision.taxonomy import TAXONOMIES, Taxonomy

SCHEMA = "binsight.bundle/1"
MANIFEST_KEY = "binsight.manifest"
DIGEST_KEY = "binsight.manifest.sha256"
PRECISIONS = ("fp32", "int8")
MAX_BUNDLE_BYTES = 512 * 1024 * 1024
_GRAPH_FIELD, _METADATA_FIELD = 7, 14


# Cosine between the known embedding and a bin's own that another CPU's rounding cannot bring about; it leaves 0.9997.
MIN_PROBE_COSINE = 0.995


@dataclass(frozen=True, slots=True)
class Probe:
    """The known answer: what the graph gave on `probe_frame()` where it was made.

    Attributes:
        logits: float, one per label.
        tolerance: greatest absolute difference of a logit that another CPU may show.
        embedding: float, the whole embedding. The probe shows none of the labels, so its logits are small and alone
            would prove little; the embedding's direction must be the same (see MIN_PROBE_COSINE).
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
        precision: one of PRECISIONS; must agree with the graph.
        taxonomy_id, labels: labels[i] is the meaning of logit i, in taxonomy order.
        metrics: what was measured, each with the digest of the dataset it was measured on.
        lineage: sha256 of every parent: dataset, initial weights, checkpoint, float bundle.
        data_licences: licence of each dataset that went into the weights.
        graph_sha256: digest of the graph's bytes; set by `write_bundle`.
    """

    model_id: str
    precision: str
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


def read_manifest(path: Path) -> Manifest:
    """Read and verify the manifest of a bundle: digests, schema, taxonomy, and precision against the graph.

    Raises:
        BundleError: the file must not be run; the message says why.
    """
    return parse_bundle(_read_bytes(path), str(path))


def read_bundle(path: Path) -> tuple[bytes, Manifest]:
    """Read a bundle once and verify it: what is run is then what was verified, whatever becomes of the file."""
    data = _read_bytes(path)
    return data, parse_bundle(data, str(path))


def bundle_digest(data: bytes | Path) -> str:
    """Return the sha256 of the whole file, hex: the identity of a model in events and reports."""
    return hashlib.sha256(data if isinstance(data, bytes) else _read_bytes(data)).hexdigest()


def parse_bundle(data: bytes, name: str) -> Manifest:
    """Verify a bundle held in memory; see `read_manifest`. `name` is used in messages."""
    graph, metadata = b"", {}
    try:
        for field_number, value in _fields(data):
            if field_number == _GRAPH_FIELD:
                if graph:
                    raise ValueError("two graphs")  # protobuf would merge them into one that no digest covers
                graph = value
            elif field_number == _METADATA_FIELD:
                entry = dict(_fields(value))
                metadata[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
    except (ValueError, IndexError) as error:
        raise BundleError(f"{name}: not an ONNX file, or damaged ({error}). Copy or export it again.") from error
    if not graph:
        raise BundleError(f"{name}: not an ONNX file, or damaged (no graph in it). Copy or export it again.")
    if MANIFEST_KEY not in metadata:
        raise BundleError(f"{name}: an ONNX file without a binsight manifest. Make a bundle with 'binsight export'.")
    text = metadata[MANIFEST_KEY]
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(DIGEST_KEY):
        raise BundleError(f"{name}: the manifest does not match its own digest; the file is damaged. Copy it again.")
    manifest = _manifest_from_json(text, name)
    if hashlib.sha256(graph).hexdigest() != manifest.graph_sha256:
        raise BundleError(f"{name}: the graph is not the one its manifest was made for. Export or quantise it again.")
    actual = graph_precision(graph)
    if actual != manifest.precision:
        raise BundleError(f"{name}: the manifest says {manifest.precision}, the graph is {actual}. Quantise it again.")
    return manifest


def write_bundle(path: Path, onnx_bytes: bytes, manifest: Manifest) -> Manifest:
    """Write an ONNX model with this manifest inside, atomically and durably; return the manifest as stored.

    Metadata of `onnx_bytes` is replaced: an int8 file made from a float bundle does not inherit its claims.
    A repeated protobuf field may follow any other, so the entries are appended and the graph's bytes stay untouched.
    """
    graph = next(value for number, value in _fields(onnx_bytes) if number == _GRAPH_FIELD)
    stamped = replace(manifest, graph_sha256=hashlib.sha256(graph).hexdigest(), precision=graph_precision(graph))
    if stamped.precision != manifest.precision:
        raise BundleError(f"{path}: asked to stamp {manifest.precision} on a graph that is {stamped.precision}")
    text = stamped.to_json().encode()
    body = b"".join(
        _key(number, 2) + _varint(len(value)) + value if isinstance(value, bytes) else _key(number, 0) + _varint(value)
        for number, value in _fields(onnx_bytes, keep_varints=True)
        if number != _METADATA_FIELD
    )
    digest = hashlib.sha256(text).hexdigest().encode()
    for key, value in ((MANIFEST_KEY.encode(), text), (DIGEST_KEY.encode(), digest)):
        entry = _key(1, 2) + _varint(len(key)) + key + _key(2, 2) + _varint(len(value)) + value
        body += _key(_METADATA_FIELD, 2) + _varint(len(entry)) + entry
    write_atomically(path, body)
    return stamped


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a power cut leaves the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def graph_precision(graph: bytes) -> str:
    """Return "int8" if a node of the graph quantises, else "fp32"."""
    for number, node in _fields(graph):
        if number == 1 and any(n == 4 and v in (b"QuantizeLinear", b"QLinearConv") for n, v in _fields(node)):
            return "int8"
    return "fp32"


def probe_frame() -> Pixels:
    """Return the fixed picture of the known-answer test: uint8, 240 x 320 x 3, BGR, smooth and colourful."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float64)
    waves = [128 + 100 * np.sin(x / (17 + 9 * c) + c) * np.cos(y / (23 - 5 * c) - c) for c in range(3)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def _manifest_from_json(text: str, name: str) -> Manifest:
    try:
        d = json.loads(text)
        if d.get("schema") != SCHEMA:
            raise BundleError(f"{name}: manifest schema {d.get('schema')!r}; this binsight reads {SCHEMA!r}")
        if d["precision"] not in PRECISIONS or d["taxonomy"] not in TAXONOMIES:
            raise BundleError(f"{name}: unknown precision {d['precision']!r} or taxonomy {d['taxonomy']!r}")
        labels = tuple(d["labels"])
        if not labels or labels != TAXONOMIES[d["taxonomy"]].ordered(labels):
            raise BundleError(f"{name}: labels are not distinct labels of {d['taxonomy']} in its order")
        raw = np.frombuffer(base64.b64decode(d["embedding"]["centroids_f16_base64"]), dtype="<f2")
        manifest = Manifest(
            model_id=d["model_id"],
            precision=d["precision"],
            taxonomy_id=d["taxonomy"],
            labels=labels,
            preprocess=PreprocessSpec(**d["preprocess"]),
            tensors=Tensors(**d["tensors"]),
            policy=DecisionPolicy(**d["policy"]),
            stats=EmbeddingStats(raw.reshape(-1, d["embedding"]["size"]).astype(np.float32)),
            probe=Probe(
                tuple(map(float, d["probe"]["logits"])),
                float(d["probe"]["tolerance"]),
                tuple(map(float, d["probe"]["embedding"])),
            ),
            metrics=d["metrics"],
            lineage=d["lineage"],
            data_licences=d["data_licences"],
            graph_sha256=d["graph_sha256"],
        )
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{name}: the manifest is incomplete or malformed ({error!r})") from error
    if not 0 <= manifest.probe.tolerance < 10:
        raise BundleError(f"{name}: a probe with tolerance {manifest.probe.tolerance} proves nothing")
    if len(manifest.probe.logits) != len(labels):
        raise BundleError(f"{name}: the probe has {len(manifest.probe.logits)} logits for {len(labels)} labels")
    if len(manifest.probe.embedding) != manifest.stats.centroids_kd.shape[1] or not any(manifest.probe.embedding):
        raise BundleError(f"{name}: the probe's embedding is empty or of another size than the statistics are for")
    return manifest


def _read_bytes(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_BUNDLE_BYTES:
            raise BundleError(f"{path}: {size} bytes is no bundle for a bin (at most {MAX_BUNDLE_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}). Name a bundle that is there.") from error


def _fields(data: bytes, keep_varints: bool = False) -> Iterator[tuple[int, Any]]:
    """Walk one protobuf message: (field number, bytes) for each length-delimited field."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise ValueError("a field runs past the end")
            yield number, data[at : at + length]
            at += length
        elif wire == 0:
            value, at = _read_varint(data, at)
            if keep_varints:
                yield number, value
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)
