"""Whatever a lid does, a person is served, and a fault opens to residual."""

import json
import os
import select
import threading
import tty
from pathlib import Path

import pytest

from edge_runtime.config import GpioLidConfig, MqttLidConfig, SerialLidConfig
from edge_runtime.lids.actuator import Actuator
from edge_runtime.lids.factory import open_lid
from edge_runtime.lids.simulated import SimulatedLid
from vision.errors import ConfigError
from vision.events import Outcome


def _order(actuator: Actuator, stream: str) -> tuple[str, str]:
    """Return where the item went, and "moved" or what went wrong."""
    move = actuator.execute(stream, "residual")
    return move.stream, move.fault or move.outcome.value


class _Recorded:
    """A lid whose flaps may be stuck."""

    def __init__(self, *stuck: str) -> None:
        self.opened: list[str] = []
        self.stuck = stuck

    def open(self, stream: str) -> None:
        if stream in self.stuck:
            raise OSError(f"the flap of {stream} is stuck")
        self.opened.append(stream)

    def alarm(self, reason: str) -> None:
        raise OSError("no lamp")

    def close(self) -> None:
        self.opened.append("closed")


def test_a_fault_opens_to_residual_and_says_so() -> None:
    lid = _Recorded("glass")
    actuator = Actuator(lid)
    assert _order(actuator, "paper")[1] == "moved"
    assert _order(actuator, "glass") == (
        "residual",
        "the flap of glass is stuck; opened residual instead",
    )
    assert lid.opened == ["paper", "residual"]


def test_a_lid_that_is_dead_raises_nothing() -> None:
    actuator = Actuator(_Recorded("glass", "residual"))
    assert _order(actuator, "glass") == (
        "residual",
        "the flap of glass is stuck; the flap of residual is stuck",
    )
    assert _order(actuator, "residual") == ("residual", "the flap of residual is stuck")
    assert actuator.alarm("battery") == "no lamp"


def test_a_bin_that_stops_leaves_the_lid_at_residual() -> None:
    lid = _Recorded()
    Actuator(lid).close("residual")
    assert lid.opened == ["residual", "closed"]


def test_a_stream_without_a_compartment_is_a_fault_and_no_exception() -> None:
    assert _order(Actuator(SimulatedLid(("residual",), None)), "glass")[1] == (
        "no compartment for glass; opened residual instead"
    )


def test_gpio_pins_go_high_one_at_a_time_and_low_again() -> None:
    gpiozero = pytest.importorskip("gpiozero")
    from gpiozero.pins.mock import MockFactory

    gpiozero.Device.pin_factory = MockFactory()
    try:
        config = GpioLidConfig(pins={"glass": 17, "residual": 27}, alarm_pin=22, hold_s=0.01)
        lid = open_lid(config, ("glass", "residual"), None)
        pins = {
            name: gpiozero.Device.pin_factory.pin(n)
            for name, n in (("glass", 17), ("residual", 27), ("alarm", 22))
        }
        assert _order(Actuator(lid), "glass")[1] == "moved"
        states = {name: [s.state for s in pin.states] for name, pin in pins.items()}
        assert states["glass"][-3:] == [False, True, False]
        assert True not in states["residual"]
        lid.alarm("battery at 0.9")
        assert pins["alarm"].state
        assert _order(Actuator(lid), "paper")[1].startswith("actuator.pins: no pin for paper")
        lid.close()
        with pytest.raises(ConfigError, match=r"actuator\.pins: no pin for paper"):
            open_lid(config, ("glass", "paper", "residual"), None)
    finally:
        gpiozero.Device.pin_factory = None


class _Controller:
    """A lid's controller at the other end of a serial line (a pseudo terminal)."""

    def __init__(self, *answers: bytes) -> None:
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        self.heard = list[str]()
        self._answers = list(answers)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def pull(self) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._master)

    def _serve(self) -> None:
        line = b""
        while not self._over.is_set():
            if not select.select([self._master], [], [], 0.02)[0]:
                continue
            line += os.read(self._master, 100)
            if line.endswith(b"\n"):
                self.heard.append(line.decode().strip())
                line = b""
                os.write(self._master, self._answers.pop(0) if self._answers else b"")


def test_a_controller_on_a_serial_line_is_asked_and_believed_only_when_it_says_ok() -> None:
    pytest.importorskip("serial")
    controller = _Controller(b"OK\n", b"ERR jammed\n", b"OK\n", b"OK\n")
    lid = open_lid(SerialLidConfig(port=controller.port, timeout_s=0.5), ("glass",), None)
    actuator = Actuator(lid)
    assert _order(actuator, "glass")[1] == "moved"
    assert (
        _order(actuator, "paper")[1]
        == "the lid's controller answers 'ERR jammed'; opened residual instead"
    )
    assert actuator.alarm("a battery\nat 0.9") == ""
    assert _order(actuator, "glass")[1].startswith("the lid's controller is silent")
    assert controller.heard[:4] == [
        "OPEN glass",
        "OPEN paper",
        "OPEN residual",
        "ALARM a battery at 0.9",
    ]


def test_a_serial_line_may_be_plugged_in_later_and_pulled_out(tmp_path: Path) -> None:
    pytest.importorskip("serial")
    port = tmp_path / "tty"
    actuator = Actuator(open_lid(SerialLidConfig(port=str(port), timeout_s=0.5), ("glass",), None))
    assert "could not open port" in _order(actuator, "glass")[1]
    first = _Controller(b"OK\n")
    port.symlink_to(first.port)
    assert _order(actuator, "glass")[1] == "moved"
    first.pull()
    assert actuator.execute("glass", "residual").outcome is Outcome.FAULT
    port.unlink()
    port.symlink_to(_Controller(b"OK\n").port)
    assert _order(actuator, "glass")[1] == "moved"


def test_a_controller_behind_mqtt_must_answer_itself(broker: str) -> None:
    mqtt = pytest.importorskip("paho.mqtt.client")
    from paho.mqtt.enums import CallbackAPIVersion

    ready = threading.Event()
    heard = list[dict[str, str]]()
    controller = mqtt.Client(CallbackAPIVersion.VERSION2)

    def obey(client: object, _data: object, message: object) -> None:
        message = json.loads(message.payload)  # type: ignore[attr-defined]
        heard.append(message)
        if message.get("stream") != "silent":
            controller.publish(
                "bin/done",
                json.dumps({"id": message["id"], "ok": message.get("stream") != "paper"}),
            )

    controller.on_connect = lambda client, *_: client.subscribe([("bin/open", 1), ("bin/alarm", 1)])
    controller.on_subscribe = lambda *_: ready.set()
    controller.on_message = obey
    controller.connect("127.0.0.1", int(broker.rpartition(":")[2]))
    controller.loop_start()
    assert ready.wait(5)
    lid = open_lid(MqttLidConfig(url=broker, topic="bin", timeout_s=1.0), ("glass",), None)
    actuator = Actuator(lid)
    try:
        end = threading.Event()
        while _order(actuator, "glass")[1] != "moved" and not end.wait(0.05):
            assert len(heard) < 100
        assert (
            _order(actuator, "paper")[1] == "the lid's controller refuses; opened residual instead"
        )
        assert _order(actuator, "silent")[1].startswith(
            "the lid's controller did not answer within 1 s"
        )
        assert actuator.alarm("battery") == ""
        assert heard[-1]["reason"] == "battery"
    finally:
        lid.close()
        controller.disconnect()
        controller.loop_stop()
