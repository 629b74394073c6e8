"""Bins in bulk: CSV for a spreadsheet, GeoJSON for a map; in and out, the same columns.

Source of GeoJSON: RFC 7946.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cluster.registry.model import Place
from cluster.registry.places import check_place
from vision.errors import ConfigError

_COLUMNS = tuple(f.name for f in fields(Place))
_NUMBERS = ("latitude", "longitude", "capacity_l")
_REQUIRED = ("bin_id", "tenant")
FORMATS = (".csv", ".geojson")


def read_places(path: Path) -> list[Place]:
    """Read bins from a file; its name ends in .csv or .geojson.

    Raises:
        ConfigError: it cannot be read; the message names file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet begins with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows = _geojson_rows(path, text) if _format(path) == ".geojson" else _csv_rows(path, text)
    places: dict[str, Place] = {}
    for where, row in rows:
        try:
            place = _place(row)
            check_place(place)
            if place.bin_id in places:
                raise ConfigError(f"bin {place.bin_id!r} stands twice in the file")
        except ConfigError as error:
            raise ConfigError(f"{path}, {where}: {error}") from error
        places[place.bin_id] = place
    if not places:
        raise ConfigError(f"{path}: no bin in it; columns: {', '.join(_COLUMNS)}")
    return list(places.values())


def write_places(path: Path, places: Sequence[Place]) -> None:
    """Write bins to a file that `read_places` reads; its name ends in .csv or .geojson.

    Raises:
        ConfigError: another ending, or the file cannot be written.
    """
    kind = _format(path)
    try:
        path.write_text(to_geojson(places) if kind == ".geojson" else to_csv(places), "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def to_csv(places: Sequence[Place]) -> str:
    """Return bins as CSV, a header line first."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(place) for place in places)
    return file.getvalue()


def to_geojson(places: Sequence[Place]) -> str:
    """Return bins as a FeatureCollection; a bin without coordinates has no geometry."""
    features = []
    for place in places:
        properties = asdict(place)
        latitude = properties.pop("latitude")
        longitude = properties.pop("longitude")
        known = latitude is not None
        point = {"type": "Point", "coordinates": [longitude, latitude]} if known else None
        features.append({"type": "Feature", "geometry": point, "properties": properties})
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, ensure_ascii=False, indent=1) + "\n"


def _format(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the name of the file ends in {' or '.join(FORMATS)}")
    return path.suffix.lower()


def _csv_rows(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows: list[tuple[str, Mapping[str, Any]]] = [
            (f"line {reader.line_num}", row) for row in reader
        ]
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    _check_columns(path, reader.fieldnames or ())
    for where, row in rows:
        if None in row or None in row.values():
            raise ConfigError(f"{path}, {where}: {len(reader.fieldnames or ())} columns expected")
    return rows


def _geojson_rows(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    try:
        features = json.loads(text)["features"]
        for number, feature in enumerate(features, 1):
            row = dict(feature["properties"])
            point = feature.get("geometry")
            if point is not None:
                if point["type"] != "Point":
                    raise ConfigError(f"{path}, feature {number}: a bin is a Point")
                row["longitude"], row["latitude"] = point["coordinates"][:2]
            _check_columns(path, tuple(row))
            rows.append((f"feature {number}", row))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a GeoJSON FeatureCollection ({error!r})") from error
    return rows


def _check_columns(path: Path, names: Sequence[str]) -> None:
    unknown = [str(name) for name in names if name not in _COLUMNS]
    missing = [name for name in _REQUIRED if name not in names]
    if unknown or missing:
        what = f"unknown column {', '.join(unknown)}" if unknown else f"no column {missing[0]}"
        raise ConfigError(f"{path}: {what}; columns: {', '.join(_COLUMNS)}")


def _place(row: Mapping[str, Any]) -> Place:
    values: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _NUMBERS:
            values[name] = "" if value is None else str(value).strip()
        elif value is None or str(value).strip() == "":
            values[name] = None
        else:
            try:
                values[name] = float(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(
                    f"bin {row.get('bin_id')!r}, column {name}: {value!r} is no number (a dot for "
                    "the decimals)"
                ) from error
    return Place(**values)
