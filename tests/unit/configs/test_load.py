"""YAML in, a strict model out, or an error with file, key and reason."""

from pathlib import Path

import pytest

from configs import CONFIG_FOLDER, load
from edge_runtime.config import EdgeConfig
from vision.errors import ConfigError


def test_file_and_overrides_are_read_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "bin.yaml").write_text("bin_id: b7\ncamera:\n  kind: folder\n  fps: 5\n")
    config = load(EdgeConfig, tmp_path / "bin.yaml", ["camera.fps=0", "uplink.url=http://hub"])
    assert (config.bin_id, config.camera.kind, config.camera.fps, config.uplink.url) == (
        "b7",
        "folder",
        0,
        "http://hub",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("camra: {}\n", r"bin\.yaml: camra: unknown key; known here: bin_id, state, .*camera"),
        ("camera: {kidn: file}\n", r"camera\.kidn: unknown key; known here: kind, source"),
        ("camera: {fps: fast}\n", r"camera\.fps: Input should be a valid number"),
        ("camera: {fps: -1}\n", r"camera\.fps: .*greater than or equal to 0"),
        ("- a\n", "expected keys and values"),
        ("a: [\n", "not valid YAML"),
        ("\tx", "not valid YAML"),
    ],
)
def test_errors_name_file_key_and_reason(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bin.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(EdgeConfig, tmp_path / "bin.yaml")


def test_missing_file_and_bad_overrides_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(EdgeConfig, tmp_path / "none.yaml")
    for bad in ("camera", "=1", "bin_id.x=1", "camera.fps=[", "nope=1"):
        with pytest.raises(ConfigError):
            load(EdgeConfig, None, ["bin_id=a", bad])


def test_every_training_file_that_ships_is_valid() -> None:
    pytest.importorskip("torch")
    from training.config import TrainConfig

    files = sorted(CONFIG_FOLDER.glob("*.yaml"))
    assert files
    for path in files:
        load(TrainConfig, path)
