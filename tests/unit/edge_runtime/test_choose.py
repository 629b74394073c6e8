"""A bin runs the fastest of its bundles that computes rightly here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundle import write_small_bundle
from typer.testing import CliRunner

from configs import load
from edge_runtime import choose, host
from edge_runtime.app import run
from edge_runtime.commands import app as edge
from edge_runtime.config import EdgeConfig
from vision.errors import BundleError


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A folder with both forms of the small model."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name, precision in (("int8", "int8"), ("float", "fp32")):
        write_small_bundle(folder / f"{name}.onnx", precision)
    return folder


def _note(state: Path) -> dict[str, dict[str, float]]:
    return dict(json.loads((state / "bundle-times.json").read_text()))


def _prefer(state: Path, name: str) -> None:
    note = _note(state)
    note["times"] = {other: 1.0 if other == name else 9.0 for other in note["times"]}
    (state / "bundle-times.json").write_text(json.dumps(note))


def test_the_faster_one_runs_and_both_times_are_reported(both: Path, tmp_path: Path) -> None:
    chosen = choose.choose(both, 1, tmp_path)
    times = _note(tmp_path)["times"]
    fastest = min(times, key=lambda name: times[name])
    assert set(times) == {"int8.onnx", "float.onnx"}
    assert chosen.reason.startswith(f"{fastest} takes ")
    assert "against" in chosen.reason
    assert chosen.classifier.manifest.precision == ("int8" if fastest == "int8.onnx" else "fp32")


@pytest.mark.parametrize("name", ["int8.onnx", "float.onnx"])
def test_it_is_measured_once_until_bundle_or_processor_change(
    both: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose.choose(both, 1, tmp_path)
    _prefer(tmp_path, name)
    for _ in range(2):
        assert choose.choose(both, 1, tmp_path).reason.startswith(
            f"{name} takes 1.0 ms here, against 9.0 ms"
        )
    before = _note(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(host, "cpu_name", lambda: "another processor")
        choose.choose(both, 1, tmp_path)
    assert _note(tmp_path)["times"] != before["times"]
    choose.choose(both, 1, tmp_path)
    _prefer(tmp_path, name)
    choose.choose(both, 2, tmp_path)  # other threads
    assert 9.0 not in _note(tmp_path)["times"].values()


@pytest.mark.parametrize("damaged", ["int8.onnx", "float.onnx"])
def test_the_other_one_runs_where_one_does_not_prove_itself(
    both: Path, tmp_path: Path, damaged: str
) -> None:
    choose.choose(both, 1, tmp_path)
    _prefer(tmp_path, damaged)
    path = both / damaged
    path.write_bytes(path.read_bytes()[:-9])
    chosen = choose.choose(both, 1, tmp_path)
    assert not chosen.reason.startswith(damaged)
    assert damaged in chosen.refused[0]
    config = load(
        EdgeConfig,
        None,
        [f"bundle={both}", f"state={tmp_path / 's'}", "camera.items=1", "camera.fps=0"],
    )
    health = run(config)
    assert (health.items, damaged in health.settings) == (1, True)
    assert not health.bundle.startswith(damaged)


def test_none_that_proves_itself_is_an_error_that_names_each(both: Path, tmp_path: Path) -> None:
    for path in both.iterdir():
        path.write_bytes(b"worn")
    with pytest.raises(
        BundleError, match=r"float\.onnx: not an ONNX file.*int8\.onnx: not an ONNX file"
    ):
        choose.choose(both, 1, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="no bundle"):
        choose.choose(tmp_path / "empty", 1)


def test_a_form_that_cannot_be_read_leaves_the_other(both: Path, tmp_path: Path) -> None:
    (both / "float.onnx").unlink()
    (both / "float.onnx").symlink_to("nowhere")
    chosen = choose.choose(both, 1, tmp_path)
    assert (chosen.reason.startswith("int8.onnx takes"), "float.onnx" in chosen.refused[0]) == (
        True,
        True,
    )


def test_a_folder_of_several_models_is_refused(
    both: Path, tmp_path: Path, restamp: Callable[..., Path]
) -> None:
    shutil.copy(restamp(lineage={"checkpoint_sha256": "another"}), both / "other.onnx")
    with pytest.raises(BundleError, match="are of different models; name one of them"):
        choose.choose(both, 1, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "x", "times": 3}'])
def test_a_damaged_note_is_measured_again(both: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle-times.json").write_text(text)
    choose.choose(both, 1, tmp_path)
    assert set(_note(tmp_path)["times"]) == {"int8.onnx", "float.onnx"}


def test_a_state_that_cannot_be_written_costs_no_start(both: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert choose.choose(both, 1, tmp_path / "file").reason


def test_bench_prints_the_processor_with_each_bundles_time(both: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(edge, ["bench", f"--set=bundle={both}", "--set=threads=1"])
    assert done.exit_code == 0
    assert host.cpu_name() in done.output
    assert done.output.count(" ms") == 2
    assert done.output.count("<- runs here") == 1
    (both / "int8.onnx").write_bytes(b"worn")
    done = CliRunner().invoke(edge, ["bench", f"--set=bundle={both}"])
    assert (done.exit_code, "may not run" in done.output) == (0, True)
    (both / "float.onnx").write_bytes(b"worn")
    assert CliRunner().invoke(edge, ["bench", f"--set=bundle={both}"]).exit_code == 1
