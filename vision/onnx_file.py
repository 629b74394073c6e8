"""Walk and stamp an ONNX file's top level with the standard library alone.

An ONNX file is one protobuf message. Field 7 is the graph, field 14 a metadata entry (key = 1,
value = 2). The graph's bytes are never parsed into objects and never written again.
Source: onnx/onnx.proto, messages ModelProto, GraphProto, NodeProto, StringStringEntryProto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_GRAPH_FIELD = 7
_METADATA_FIELD = 14
_QUANTISING_NODES = (b"QuantizeLinear", b"QLinearConv")


def read_onnx(data: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the graph's bytes and the metadata of an ONNX file.

    Raises:
        ValueError: not an ONNX file, or damaged.
    """
    graph = b""
    metadata: dict[str, str] = {}
    try:
        for number, value in _fields(data):
            if number == _GRAPH_FIELD:
                if graph:
                    # protobuf would merge them into one that no digest covers
                    raise ValueError("two graphs")
                graph = value
            elif number == _METADATA_FIELD:
                entry = dict(_fields(value))
                metadata[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
    except IndexError as error:
        raise ValueError("cut short") from error
    if not graph:
        raise ValueError("no graph in it")
    return graph, metadata


def stamp(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return an ONNX file with this metadata in place of its own.

    A repeated protobuf field may follow any other, so the entries are appended and the graph's
    bytes stay as they are.
    """
    parts = []
    for number, value in _fields(data, keep_varints=True):
        if number == _METADATA_FIELD:
            continue
        if isinstance(value, bytes):
            parts.append(_delimited(number, value))
        else:
            parts.append(_key(number, 0) + _varint(value))
    for key, text in metadata.items():
        entry = _delimited(1, key.encode()) + _delimited(2, text.encode())
        parts.append(_delimited(_METADATA_FIELD, entry))
    return b"".join(parts)


def quantises(graph: bytes) -> bool:
    """Return whether a node of the graph quantises."""
    return any(
        number == 1
        and any(field == 4 and value in _QUANTISING_NODES for field, value in _fields(node))
        for number, node in _fields(graph)
    )


def _delimited(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _fields(data: bytes, keep_varints: bool = False) -> Iterator[tuple[int, Any]]:
    """Walk one protobuf message: (field number, bytes) for each length-delimited field."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number = key >> 3
        wire = key & 7
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
    value = 0
    shift = 0
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
