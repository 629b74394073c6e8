"""Read, verify and write a bundle: one ONNX file that carries its own manifest.

onnxruntime loads many corrupt files without complaint, so nothing is handed to it before
`read_bundle` has compared digests, and nothing is trusted before the bin has reproduced the
manifest's expected output on `probe_frame()`, the self-test.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from vision.errors import BundleError
from vision.files import write_atomically
from vision.frames import Pixels
from vision.manifest import Manifest, Precision, parse_manifest
from vision.onnx_file import quantises, read_onnx, stamp

MANIFEST_KEY = "binsight.manifest"
DIGEST_KEY = "binsight.manifest.sha256"
MAX_BUNDLE_BYTES = 512 * 1024 * 1024
# Least cosine between the expected embedding of the self-test and a bin's own. The rounding of
# another CPU leaves 0.9997.
MIN_PROBE_COSINE = 0.995


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle and verify it.

    Compares digests, schema and taxonomy, and the precision with the graph's own.

    Raises:
        BundleError: the file must not be run; the message says why.
    """
    return parse_bundle(_read_bytes(path), str(path))


def read_bundle(path: Path) -> tuple[bytes, Manifest]:
    """Read a bundle once, verify it, and return its bytes and its manifest.

    What runs is then what was verified, whatever becomes of the file.
    """
    data = _read_bytes(path)
    return data, parse_bundle(data, str(path))


def bundle_digest(data: bytes | Path) -> str:
    """Return the sha256 of the whole file, hex: the identity of a model in events and reports."""
    return hashlib.sha256(data if isinstance(data, bytes) else _read_bytes(data)).hexdigest()


def parse_bundle(data: bytes, name: str) -> Manifest:
    """Verify a bundle held in memory; see `read_manifest`. Messages use `name`."""
    try:
        graph, metadata = read_onnx(data)
    except ValueError as error:
        raise BundleError(
            f"{name}: not an ONNX file, or damaged ({error}). Copy or export it again."
        ) from error
    if MANIFEST_KEY not in metadata:
        raise BundleError(
            f"{name}: an ONNX file without a binsight manifest. Make a bundle with "
            "'binsight export'."
        )
    text = metadata[MANIFEST_KEY]
    if _sha256(text.encode()) != metadata.get(DIGEST_KEY):
        raise BundleError(
            f"{name}: the manifest does not match its own digest; the file is damaged. "
            "Copy it again."
        )
    manifest = parse_manifest(text, name)
    if _sha256(graph) != manifest.graph_sha256:
        raise BundleError(
            f"{name}: the graph is not the one its manifest was made for. "
            "Export or quantise it again."
        )
    actual = graph_precision(graph)
    if actual != manifest.precision:
        raise BundleError(
            f"{name}: the manifest says {manifest.precision}, the graph is {actual}. "
            "Quantise it again."
        )
    return manifest


def write_bundle(path: Path, onnx_bytes: bytes, manifest: Manifest) -> Manifest:
    """Write an ONNX model with this manifest inside, atomically and durably.

    Metadata of `onnx_bytes` is replaced: an int8 file made from a float bundle does not inherit
    its claims.

    Returns:
        The manifest as stored.

    Raises:
        BundleError: the manifest claims another precision than the graph has.
    """
    graph, _ = read_onnx(onnx_bytes)
    stamped = replace(manifest, graph_sha256=_sha256(graph), precision=graph_precision(graph))
    if stamped.precision != manifest.precision:
        raise BundleError(
            f"{path}: asked to stamp {manifest.precision} on a graph that is {stamped.precision}"
        )
    text = stamped.to_json()
    digest = _sha256(text.encode())
    write_atomically(path, stamp(onnx_bytes, {MANIFEST_KEY: text, DIGEST_KEY: digest}))
    return stamped


def graph_precision(graph: bytes) -> Precision:
    """Return int8 if a node of the graph quantises, else fp32."""
    return Precision.INT8 if quantises(graph) else Precision.FP32


def probe_frame() -> Pixels:
    """Return the fixed image of the self-test: uint8, 240 x 320 x 3, BGR, smooth and colourful."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float64)
    waves = [
        128 + 100 * np.sin(x / (17 + 9 * c) + c) * np.cos(y / (23 - 5 * c) - c) for c in range(3)
    ]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BUNDLE_BYTES:
            raise BundleError(
                f"{path}: {size} bytes is no bundle for a bin (at most {MAX_BUNDLE_BYTES})"
            )
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Name a bundle that is there."
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
