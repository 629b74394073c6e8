"""How a flat record is read from untrusted JSON: types checked, unknown fields kept in `extra`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from vision.errors import WireError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_TEXT_BYTES = 1000
_MAX_INT = 2**63 - 1
_LARGEST_FLOAT = int(sys.float_info.max)
_KINDS: dict[str, type] = {"int": int, "str": str, "bool": bool, "float": float}
_OR_NONE = " | None"


@dataclass(frozen=True, slots=True)
class RecordFields:
    """The fields of a record but for `extra`.

    Attributes:
        kinds: the type of each.
        defaults: of those that older bins do not send.
        nullable: names of those that may be null.
    """

    kinds: Mapping[str, type]
    defaults: Mapping[str, Any]
    nullable: frozenset[str]


def record_fields(record: type[DataclassInstance]) -> RecordFields:
    """Return the fields of a dataclass of whole numbers, numbers, texts and truth values."""
    own = [f for f in fields(record) if f.name != "extra"]
    return RecordFields(
        {f.name: _KINDS[str(f.type).removesuffix(_OR_NONE)] for f in own},
        {f.name: f.default for f in own if f.default is not MISSING},
        frozenset(f.name for f in own if str(f.type).endswith(_OR_NONE)),
    )


def to_document(record: DataclassInstance) -> dict[str, Any]:
    """Return the flat wire form of a record, unknown fields included."""
    document = asdict(record)
    return {**document.pop("extra"), **document}


def read_record(document: Mapping[str, Any], known: RecordFields, what: str) -> dict[str, Any]:
    """Return the values of a record, checked; `extra` among them.

    Args:
        document: as it came.
        known: fields of the record.
        what: it is called in messages.

    Raises:
        WireError: a field is missing or of the wrong type.
    """
    values: dict[str, Any] = {}
    for name, kind in known.kinds.items():
        value = document.get(name, known.defaults.get(name))
        if kind is float and type(value) is int and abs(value) <= _LARGEST_FLOAT:
            value = float(value)
        if value is None and name in known.nullable:
            values[name] = None
            continue
        if type(value) is not kind or not storable(value):
            raise WireError(
                f"{what} field {name!r} is {str(value)[:80]!r}; {kind.__name__} expected"
            )
        values[name] = value
    extra = {}
    if len(document) > len(known.kinds) or not document.keys() <= known.kinds.keys():
        extra = {k: v for k, v in document.items() if k not in known.kinds and k != "extra"}
    if extra and not _json_storable(extra):
        raise WireError(f"an unknown {what} field cannot be stored as JSON text")
    values["extra"] = extra
    return values


def _json_storable(extra: Mapping[str, Any]) -> bool:
    try:
        return (
            len(json.dumps(extra, ensure_ascii=False, allow_nan=False).encode())
            <= 16 * MAX_TEXT_BYTES
        )
    except (ValueError, RecursionError):
        return False


def storable(value: object) -> bool:
    """Return whether a lake's column can hold a value.

    It holds 64-bit integers, finite numbers, and short text that encodes as UTF-8.
    """
    if isinstance(value, str) and value.isascii() and len(value) <= MAX_TEXT_BYTES:
        return True  # nearly all are such, and there are millions
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= _MAX_INT
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= MAX_TEXT_BYTES
    except UnicodeEncodeError:
        return False
