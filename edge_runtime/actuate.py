"""Lids. `execute` is the moment at which a person is served.

Whatever fails, the lid opens to residual.

A lid that moves is behind one small protocol: simulated, GPIO pins, a controller on a serial line,
or one behind MQTT. The libraries of the last three are imported where they are used: most bins need
none of them.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from edge_runtime.config import ActuatorConfig
from vision.addresses import without_secrets
from vision.errors import ActuatorError, ConfigError
from vision.simulator.world import World


class Lid(Protocol):
    """What moves. Each method returns when it is done."""

    def open(self, stream: str) -> None:
        """Send what lies in the chute to a stream.

        Raises:
            ActuatorError: it did not move, or nobody knows whether it did.
        """

    def alarm(self, reason: str) -> None:
        """Call for help: lamp, buzzer. Without one, do nothing.

        Raises:
            ActuatorError: the alarm could not be given.
        """

    def reach(self) -> None:
        """Connect to the hardware, moving nothing; it is connected by itself when it is needed.

        Raises:
            ActuatorError: it is not there.
        """

    def close(self) -> None:
        """Let go of the hardware. Closing twice is harmless."""


class Actuator:
    """A lid that is safe: what fails opens to the fallback stream, and the outcome says so.

    Args:
        lid: what moves.
        fallback: stream of the safe state, residual.
    """

    def __init__(self, lid: Lid, fallback: str) -> None:
        self._lid = lid
        self.fallback = fallback

    def execute(self, stream: str) -> tuple[str, str]:
        """Send what lies in the chute to a stream, or else to the fallback.

        Returns:
            The stream that it went to (the fallback too when nothing moved: that is where a lid
            rests), and "moved" or "fault: ..." in words. Never raises: a bin with a broken lid
            still counts.
        """
        reason = self._try(lambda: self._lid.open(stream))
        if not reason:
            return stream, "moved"
        if stream == self.fallback:
            return stream, f"fault: {reason}"
        again = self._try(lambda: self._lid.open(self.fallback))
        return self.fallback, f"fault: {reason}; {again or f'opened {self.fallback} instead'}"

    def alarm(self, reason: str) -> str:
        """Call for help with a hazard; return "" or what failed, in words. Never raises."""
        return self._try(lambda: self._lid.alarm(reason))

    def close(self) -> None:
        """Leave the lid in its safe state and let go of it."""
        self._try(lambda: self._lid.open(self.fallback))
        self._try(self._lid.close)

    @staticmethod
    def _try(move: Callable[[], None]) -> str:
        try:
            move()
        except Exception as error:  # noqa: BLE001
            return f"{error or type(error).__name__}"[
                :100
            ]  # two of them, in any script, must fit into an event
        return ""


class SimulatedLid:
    """A lid with rules.

    It has the streams it has, and what it opens for is gone from the simulated chute.

    Args:
        streams: compartments there are.
        world: the chute to clear; None for a lid without one.
    """

    def __init__(self, streams: tuple[str, ...], world: World | None) -> None:
        self._streams = streams
        self._world = world
        self.alarms: list[str] = []

    def open(self, stream: str) -> None:
        """Open for a stream and clear the chute."""
        if stream not in self._streams:
            raise ActuatorError(f"no compartment for {stream}")
        if self._world is not None:
            self._world.clear(stream)

    def alarm(self, reason: str) -> None:
        """Note the alarm."""
        self.alarms.append(reason)

    def reach(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """Nothing to let go of."""


class GpioLid:
    """One output pin a stream, high while its flap is open.

    Wire the flaps so that low is residual, with pull-downs of their own: what a pin does before the
    program runs and after it has ended is up to the board.

    Args:
        config: pins, alarm_pin, hold_s.

    Raises:
        ActuatorError: no GPIO on this machine, or a pin is taken.
    """

    def __init__(self, config: ActuatorConfig) -> None:
        import gpiozero  # noqa: PLC0415

        try:
            self._pins = {
                s: gpiozero.DigitalOutputDevice(pin, initial_value=False)
                for s, pin in config.pins.items()
            }
            self._alarm = (
                None if config.alarm_pin is None else gpiozero.DigitalOutputDevice(config.alarm_pin)
            )
        except Exception as error:  # lgpio's own errors are of no common kind
            raise ActuatorError(
                f"actuator.pins: {error}; is this a board with GPIO, and is the pin free?"
            ) from error
        self._hold_s = config.hold_s

    def open(self, stream: str) -> None:
        """Hold the stream's pin high for a moment.

        A stream without a pin is the one that falls through, or none.
        """
        pin = self._pins.get(stream)
        if pin is None:
            raise ActuatorError(f"actuator.pins: no pin for {stream}")
        for other in self._pins.values():
            other.off()
        pin.on()
        time.sleep(self._hold_s)
        pin.off()

    def alarm(self, reason: str) -> None:
        """Set the alarm pin; it stays until the bin is restarted."""
        if self._alarm is not None:
            self._alarm.on()

    def reach(self) -> None:
        """The pins were taken when it was made."""

    def close(self) -> None:
        """Free the pins."""
        for pin in (*self._pins.values(), *([self._alarm] if self._alarm else [])):
            pin.close()


class SerialLid:
    """A controller on a serial line: a line of text out, "OK" back.

        OPEN <stream>\\n  ->  OK\\n | ERR <why>\\n        ALARM <reason>\\n  ->  OK\\n

    Args:
        config: port, baud, timeout_s.
    """

    def __init__(self, config: ActuatorConfig) -> None:
        self._config = config
        self._line = None  # opened when it is needed: a lid may be plugged in later

    def open(self, stream: str) -> None:
        """Tell the controller and wait for its answer."""
        self._ask(f"OPEN {stream}")

    def alarm(self, reason: str) -> None:
        """Tell the controller."""
        self._ask(f"ALARM {reason}")

    def reach(self) -> None:
        """Open the line."""
        self._connected()

    def close(self) -> None:
        """Close the line."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _connected(self) -> Any:
        if self._line is None:
            import serial  # noqa: PLC0415

            try:
                self._line = serial.Serial(
                    self._config.port,
                    self._config.baud,
                    timeout=self._config.timeout_s,
                    write_timeout=self._config.timeout_s,
                )
            except (serial.SerialException, ValueError) as error:
                raise ActuatorError(f"actuator.port: {error}") from error
        return self._line

    def _ask(self, message: str) -> None:
        line = self._connected()
        try:
            line.reset_input_buffer()  # a late answer to an earlier question
            line.write(message.replace("\n", " ").encode() + b"\n")
            answer = line.read_until(b"\n", 200).decode(errors="replace").strip()
        except Exception as error:
            # a plug was pulled, which termios tells in its own way: the next one opens it again
            self.close()
            raise ActuatorError(f"actuator.port: {self._config.port}: {error}") from error
        if answer != "OK":
            raise ActuatorError(
                f"the lid's controller answers {answer!r}"
                if answer
                else "the lid's controller is silent"
            )


class MqttLid:
    """A controller behind an MQTT broker: a command out, its own acknowledgement back.

    The broker's is not enough.

        <topic>/open   {"id": "...", "stream": "glass"}
        <topic>/alarm  {"id": "...", "reason": "..."}
        <topic>/done   {"id": "...", "ok": true}           by the controller

    Args:
        config: url (mqtt://host:port), topic, timeout_s.
    """

    def __init__(self, config: ActuatorConfig) -> None:
        import paho.mqtt.client as mqtt  # noqa: PLC0415
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        where = urlsplit(config.url or "")
        self._config = config
        self._done = dict[str, bool]()
        self._answered = threading.Condition()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if where.username:
            self._client.username_pw_set(unquote(where.username), unquote(where.password or ""))
        if where.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = lambda client, *_: client.subscribe(f"{config.topic}/done", qos=1)
        self._client.on_message = lambda _client, _data, message: self._on_answer(
            bytes(message.payload)
        )
        self._client.reconnect_delay_set(1, 5)
        self._client.connect_async(
            where.hostname or "", where.port or (8883 if where.scheme == "mqtts" else 1883)
        )
        self._client.loop_start()

    def open(self, stream: str) -> None:
        """Send the command and wait for the controller."""
        self._ask("open", {"stream": stream})

    def alarm(self, reason: str) -> None:
        """Send the alarm and wait for the controller."""
        self._ask("alarm", {"reason": reason})

    def reach(self) -> None:
        """Wait for the broker."""
        end_s = time.monotonic() + self._config.timeout_s
        while not self._client.is_connected():
            if time.monotonic() > end_s:
                raise ActuatorError(
                    f"actuator.url: no connection to {without_secrets(self._config.url)}"
                )
            time.sleep(0.05)

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _ask(self, what: str, message: dict[str, str]) -> None:
        number = uuid.uuid4().hex
        if not self._client.is_connected():
            raise ActuatorError(
                f"actuator.url: no connection to {without_secrets(self._config.url)}"
            )
        # Not kept by paho: a command that is late would move a flap with somebody's hand in it.
        self._client.publish(
            f"{self._config.topic}/{what}", json.dumps({"id": number, **message}), qos=0
        )
        with self._answered:
            if not self._answered.wait_for(lambda: number in self._done, self._config.timeout_s):
                raise ActuatorError(
                    f"the lid's controller did not answer within {self._config.timeout_s:g} s"
                )
            if not self._done.pop(number):
                raise ActuatorError("the lid's controller refuses")

    def _on_answer(self, payload: bytes) -> None:
        try:
            answer = json.loads(payload)
            number = str(answer["id"])
            good = answer["ok"] is True
        except Exception:  # noqa: BLE001
            return  # not for us: the one that waits will say that nothing came
        with self._answered:
            self._done = {number: good}  # only one is ever waited for
            self._answered.notify()


def open_lid(config: ActuatorConfig, streams: tuple[str, ...], world: World | None) -> Lid:
    """Make the configured lid.

    Args:
        streams: of the rule book; a lid with pins must have one for each.
        world: the simulated chute, if there is one.

    Raises:
        ActuatorError, ConfigError: it cannot be used; the message names the key.
    """
    if config.kind == "gpio":
        if missing := [s for s in streams if s not in config.pins]:
            raise ConfigError(
                f"actuator.pins: no pin for {', '.join(missing)}, which the rule book uses"
            )
        return GpioLid(config)
    if config.kind == "serial":
        return SerialLid(config)
    if config.kind == "mqtt":
        return MqttLid(config)
    return SimulatedLid(streams, world)
