"""A lake is refused where it could not work, and has one hub."""

from pathlib import Path

import pytest

from cluster.lake.store import Lake
from vision.errors import StorageError


def test_a_lake_where_deltalake_would_lose_its_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name another folder"):
        Lake(tmp_path / "a%20b")


def test_a_second_hub_on_the_same_lake_is_refused(tmp_path: Path) -> None:
    first = Lake(tmp_path / "lake")
    first.claim()
    with pytest.raises(StorageError, match="another hub"):
        Lake(tmp_path / "lake").claim()


@pytest.mark.parametrize("name", ["hub[1]", "hub*", "a?b", "{a,b}"])
def test_a_lake_whose_path_reads_as_a_pattern_is_refused_at_the_start(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(StorageError, match="as a pattern; name another folder"):
        Lake(tmp_path / name / "lake")
    assert list(tmp_path.iterdir()) == []
