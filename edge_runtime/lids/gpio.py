"""Flaps on pins of the host. The bin's only address of gpiozero."""

from __future__ import annotations

import time

import gpiozero

from edge_runtime.config import GpioLidConfig
from vision.errors import ActuatorError


class GpioLid:
    """One output pin a stream, high while its flap is open.

    Wire the flaps so that low is residual, with pull-downs of their own: what a pin does before the
    program runs and after it has ended is up to the board.

    Args:
        config: pins, alarm_pin, hold_s.

    Raises:
        ActuatorError: no GPIO on this machine, or a pin is taken.
    """

    def __init__(self, config: GpioLidConfig) -> None:
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
