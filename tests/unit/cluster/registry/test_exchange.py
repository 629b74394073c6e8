"""Bins in bulk: what goes out comes in again, and a mistake is named by line and column."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.registry.exchange import read_places, to_csv, to_geojson, write_places
from cluster.registry.model import Place
from vision.errors import ConfigError

NAMES = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
PLACES = st.builds(
    Place,
    bin_id=NAMES,
    tenant=NAMES,
    district=st.one_of(st.just(""), NAMES),
    time_zone=st.sampled_from(("", "Asia/Kolkata", "Europe/Vienna")),
    site=NAMES,
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    capacity_l=st.one_of(st.none(), st.floats(1, 1000)),
)


@pytest.mark.parametrize("ending", ["csv", "geojson"])
def test_what_goes_out_comes_in_again(
    ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("exchange") / f"bins.{ending}"

    @given(st.lists(PLACES, min_size=1, unique_by=lambda p: p.bin_id))
    def check(places: list[Place]) -> None:
        write_places(path, places)
        assert read_places(path) == places

    check()


def test_a_map_can_read_it() -> None:
    [feature] = json.loads(to_geojson([Place("b", "t", site="s", latitude=1.0, longitude=2.0)]))[
        "features"
    ]
    assert feature["geometry"] == {"type": "Point", "coordinates": [2.0, 1.0]}
    [feature] = json.loads(to_geojson([Place("b", "t")]))["features"]
    assert feature["geometry"] is None
    assert to_csv([Place("b", "t", capacity_l=240.0)]).splitlines()[1] == "b,t,,,,,,240.0"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "bin_id,tenant\n", "no bin in it"),
        ("x.csv", "bin,tenant\nb,t\n", "unknown column bin"),
        ("x.csv", "bin_id\nb\n", "no column tenant"),
        ("x.csv", "bin_id,tenant,latitude\nb,t,4\n", "line 2: .*come together"),
        (
            "x.csv",
            'bin_id,tenant,site,latitude,longitude\nb,t,s,"48,2",1\n',
            "line 2: .*column latitude: '48,2' is no number",
        ),
        ("x.csv", "bin_id,tenant\nb,t\nb,t\n", "line 3: .*twice"),
        ("x.csv", "bin_id,tenant\nb\n", "line 2: 2 columns expected"),
        ("x.csv", "bin_id,tenant\nb,t,u\n", "line 2: 2 columns expected"),
        ("x.csv", 'bin_id,tenant\n"b,t\n', "not CSV"),
        (
            "x.geojson",
            '{"features": [{"properties": {"bin_id": "b", "tenant": "t", "capacity_l": 1'
            + "0" * 400
            + "}}]}",
            "is no number",
        ),
        ("x.geojson", "{", "not a GeoJSON"),
        ("x.geojson", "[]", "not a GeoJSON"),
        ("x.geojson", '{"features": [{"geometry": null}]}', "not a GeoJSON"),
        (
            "x.geojson",
            '{"features": [{"geometry": {"type": "Polygon"}, "properties": {}}]}',
            "feature 1: a bin is a Point",
        ),
        ("x.xlsx", "", "ends in .csv or .geojson"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_places(tmp_path / name)


def test_a_spreadsheets_mark_and_order_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_bytes("﻿tenant,bin_id\r\nwien,b1\r\n".encode())
    assert read_places(path) == [Place("b1", "wien")]


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_places(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_places(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_places(tmp_path / "no" / "x.csv", [])
