"""A bundle of a few kilobytes with the labels of the one that ships, for tests of the bin.

It is written with the standard library, because the bare environment has no onnx. Its nodes are
Cast, Reshape, QuantizeLinear, DequantizeLinear, MatMul, Relu and MatMul; its weights are random and
seeded, and its policy finds no item unknown.

Source of the field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vision.bundle import probe_frame, write_bundle
from vision.decision import DecisionPolicy, EmbeddingStats
from vision.manifest import Manifest, Probe, Tensors
from vision.onnx_file import _key, _varint
from vision.preprocess import PreprocessSpec, preprocess

LABELS = ("cardboard", "glass", "metal", "paper", "plastic", "trash")
SIDE = 16
EMBEDDING = 32
_TYPES = {"f": 1, "B": 2, "b": 3, "l": 7}


@cache
def small_bundle(precision: str = "int8") -> Path:
    """Return the path of the small bundle; the file goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="binsight-small-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_small_bundle(folder / f"{precision}.onnx", precision)


def write_small_bundle(path: Path, precision: str = "int8") -> Path:
    """Write the small bundle."""
    graph = _graph(precision)
    spec = PreprocessSpec(SIDE, SIDE, "stretch", "bgr")
    tensors = Tensors("pixels", "logits", "embedding")
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits, embedding = session.run(
        ["logits", "embedding"], {"pixels": preprocess(probe_frame(), spec)}
    )
    manifest = Manifest(
        model_id="small",
        precision=precision,
        taxonomy_id="materials-1",
        labels=LABELS,
        preprocess=spec,
        tensors=tensors,
        policy=DecisionPolicy(1.0, dict.fromkeys(LABELS, 0.6), 2.0),
        stats=EmbeddingStats(np.eye(6, EMBEDDING, dtype=np.float32)),
        probe=Probe(tuple(map(float, logits[0])), 0.25, tuple(map(float, embedding[0]))),
        metrics={},
        lineage={},
        data_licences={"random numbers": "CC0-1.0"},
    )
    write_bundle(path, graph, replace(manifest))
    return path


def _graph(precision: str) -> bytes:
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.05, (SIDE * SIDE * 3, EMBEDDING)).astype(np.float32)
    second = rng.normal(0, 0.5, (EMBEDDING, len(LABELS))).astype(np.float32)
    weights = {
        "flat": np.array([1, SIDE * SIDE * 3], np.int64),
        "first": first,
        "second": second,
        "scale": np.array(1.0, np.float32),
        "zero": np.array(0, np.uint8),
        "unit": np.array(1 / 64, np.float32),
    }
    steps = [("Cast", ["pixels"], "float", {"to": 1}), ("Reshape", ["float", "flat"], "row", {})]
    if precision == "int8":
        steps += [("QuantizeLinear", ["row", "scale", "zero"], "q", {})]
        steps += [("DequantizeLinear", ["q", "scale", "zero"], "dq", {})]
    steps += [("Mul", ["dq" if precision == "int8" else "row", "unit"], "scaled", {})]
    steps += [("MatMul", ["scaled", "first"], "hidden", {}), ("Relu", ["hidden"], "embedding", {})]
    steps += [("MatMul", ["embedding", "second"], "logits", {})]
    graph = b"".join(_field(1, _node(*step)) for step in steps) + _field(2, b"small")
    graph += b"".join(_field(5, _tensor(name, array)) for name, array in weights.items())
    graph += _field(11, _value("pixels", 2, (1, SIDE, SIDE, 3)))
    graph += _field(12, _value("logits", 1, (1, len(LABELS)))) + _field(
        12, _value("embedding", 1, (1, EMBEDDING))
    )
    return _number(1, 10) + _field(7, graph) + _field(8, _number(2, 20))


def _node(kind: str, inputs: list[str], output: str, attributes: Mapping[str, int]) -> bytes:
    body = (
        b"".join(_field(1, name.encode()) for name in inputs)
        + _field(2, output.encode())
        + _field(4, kind.encode())
    )
    for name, value in attributes.items():
        body += _field(5, _field(1, name.encode()) + _number(3, value) + _number(20, 2))
    return body


def _tensor(name: str, array: np.ndarray[Any, Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return (
        dims
        + _number(2, _TYPES[array.dtype.char])
        + _field(8, name.encode())
        + _field(9, array.tobytes())
    )


def _value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _number(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, dims)))


def _field(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)
