"""YAML in, a strict model out, or an error with file, key and reason."""

from pathlib import Path

import pytest

from cluster.config import HubConfig
from configs import CONFIG_FOLDER, load
from edge_runtime.config import (
    EdgeConfig,
    FolderCameraConfig,
    GpioLidConfig,
    HttpUplinkConfig,
    MqttLidConfig,
    SimulatorCameraConfig,
)
from vision.errors import ConfigError


def test_file_and_overrides_are_read_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "bin.yaml").write_text(
        "bin_id: b7\ncamera:\n  kind: folder\n  source: x\n  fps: 5\n"
    )
    config = load(EdgeConfig, tmp_path / "bin.yaml", ["camera.fps=0", "uplink.url=http://hub"])
    assert isinstance(config.camera, FolderCameraConfig)
    assert isinstance(config.uplink, HttpUplinkConfig)
    assert (config.bin_id, config.camera.fps, config.uplink.url) == ("b7", 0, "http://hub")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("camra: {}\n", r"bin\.yaml: camra: unknown key; known here: bin_id, state, .*camera"),
        ("camera: {kidn: file}\n", r"camera\.kidn: unknown key; known here: .*kind, labels"),
        ("camera: {kind: film}\n", r"camera: unknown kind; known: device, url, picamera"),
        ("camera: {kind: device, fps: 3}\n", r"camera\.fps: unknown key; known here: .*source"),
        ("actuator: {kind: gpio, baud: 9}\n", r"actuator\.baud: unknown key; .*pins"),
        ("uplink: {token: abc}\n", r"uplink\.token: unknown key; known here: kind, url"),
        ("camera: {fps: fast}\n", r"camera\.fps: Input should be a valid number"),
        ("camera: {fps: -1}\n", r"camera\.fps: .*greater than or equal to 0"),
        ("- a\n", "expected keys and values"),
        ("a: [\n", "not valid YAML"),
        ("\tx", "not valid YAML"),
        ("bin_id: a\nbin_id: b\n", "the key 'bin_id' stands twice"),
        ("camera: {fps: 1, fps: 2}\n", "the key 'fps' stands twice"),
        (
            "uplink:\n  token: #abc\n",
            "the key 'token' has no value: write null for none, and quote a text",
        ),
        ("camera:\n", "the key 'camera' has no value"),
        ('bin_id: "a\u2028b"\n', r"bin_id: .*one line"),
        (
            "uplink: {url: http://h, token: пароль-2026}\n",
            r"uplink\.token: .*HTTP header: take ASCII letters",
        ),
        ("uplink: {url: http://h, token: 'two words'}\n", r"uplink\.token: .*without spaces"),
        (
            "actuator: {kind: mqtt, url: mqtt://h, topic: 'lid/+'}\n",
            r"actuator\.topic: .*without \+ and #",
        ),
        ('bin_id: "a\\nb"\n', r"bin_id: .*one line"),
    ],
)
def test_errors_name_file_key_and_reason(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bin.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(EdgeConfig, tmp_path / "bin.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "0042",
        "34",
        "1_000",
        "12:30:45",
        "1.10",
        "no",
        "on",
        "yes",
        "2026-11-26",
        "0x1F",
        "0o17",
        "1e3",
        ".inf",
    ],
)
def test_a_text_is_taken_as_it_is_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "bin.yaml").write_text(
        f"bin_id: {text}\ncamera: {{kind: folder, source: {text}}}\n"
        f"uplink: {{url: http://h, token: {text}}}\nactuator: {{kind: mqtt, url: mqtt://h}}\n"
    )
    overrides = [f"actuator.topic={text}", f"camera.split={text}"]
    config = load(EdgeConfig, tmp_path / "bin.yaml", overrides)
    assert isinstance(config.camera, FolderCameraConfig)
    assert isinstance(config.uplink, HttpUplinkConfig)
    assert isinstance(config.actuator, MqttLidConfig)
    assert [config.bin_id, config.camera.source, config.uplink.token] == [text] * 3
    assert [config.actuator.topic, config.camera.split] == [text] * 2
    assert load(EdgeConfig, None, [f"bin_id={text}"]).bin_id == text
    (tmp_path / "hub.yaml").write_text(f"token: {text}\n")
    assert load(HubConfig, tmp_path / "hub.yaml").token == text


def test_an_override_is_taken_as_it_stands() -> None:
    for text in ("#abc", "abc#def", "a:b", "*x", "&y", "!z", "%", "@"):
        assert load(HubConfig, None, [f"token={text}"]).token == text
    assert load(HubConfig, None, ["token=null"]).token is None
    with pytest.raises(ConfigError, match="without spaces"):
        load(HubConfig, None, ["token=abc #def"])


def test_two_bins_of_numbered_names_stay_two(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("bin_id: 0042\n")
    (tmp_path / "b.yaml").write_text("bin_id: 34\n")
    assert [load(EdgeConfig, tmp_path / name).bin_id for name in ("a.yaml", "b.yaml")] == [
        "0042",
        "34",
    ]


def test_numbers_truth_values_and_nothing_are_read_where_the_model_asks_for_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin.yaml").write_text(
        "threads: 1\ncamera: {items: null, fps: 2.5, labels: [glass, paper]}\nuplink: {url: ~}\n"
        "actuator: {kind: gpio, pins: {glass: 17}}\nlog: {path: null}\n"
    )
    config = load(EdgeConfig, tmp_path / "bin.yaml", ["camera.seed=1_000", "trigger.adapt=5e-2"])
    assert isinstance(config.camera, SimulatorCameraConfig)
    assert isinstance(config.actuator, GpioLidConfig)
    assert (config.threads, config.camera.items, config.camera.fps) == (1, None, 2.5)
    assert (config.uplink.url, config.actuator.pins, config.log.path) == (None, {"glass": 17}, None)
    assert (config.camera.labels, config.camera.seed, config.trigger.adapt) == (
        ("glass", "paper"),
        1000,
        0.05,
    )
    pytest.importorskip("torch")
    from training.config import TrainConfig

    for text, value in (("auto", "auto"), ("true", True), ("no", False)):
        assert load(TrainConfig, None, [f"recipe.bf16={text}"]).recipe.bf16 == value


def test_missing_file_and_bad_overrides_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(EdgeConfig, tmp_path / "none.yaml")
    for bad in ("camera", "=1", "bin_id.x=1", "camera.fps=[", "nope=1"):
        with pytest.raises(ConfigError):
            load(EdgeConfig, None, ["bin_id=a", bad])


def test_every_training_file_that_ships_is_valid() -> None:
    pytest.importorskip("torch")
    from training.config import TrainConfig

    files = sorted([*CONFIG_FOLDER.glob("*.yaml"), *CONFIG_FOLDER.glob("teachers/*.yaml")])
    assert len(files) >= 6
    for path in files:
        load(TrainConfig, path)
