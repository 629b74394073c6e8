"""A few of the cuts of `make bench ARGS=hub_power_cut`, and a control that must lose."""

import shutil
from pathlib import Path

import pytest

from benchmarks.bench_hub_power_cut import build, cut
from cluster.ingest.move import LOG_NAME

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    done = cut(tmp_path / "hub", build(tmp_path), 2)
    assert (done["lost"], done["twice"]) == (0, 0)
    assert done["acknowledged"] > 50


def test_a_disk_that_forgets_the_log_loses_events(tmp_path: Path) -> None:
    assert cut(tmp_path / "hub", build(tmp_path), 1, LOG_NAME)["lost"] > 0
