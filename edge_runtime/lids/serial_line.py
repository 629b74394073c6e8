"""A lid's controller on a serial line. The bin's only address of serial (pyserial)."""

from __future__ import annotations

import serial

from edge_runtime.config import SerialLidConfig
from vision.errors import ActuatorError


class SerialLid:
    r"""A controller on a serial line: a line of text out, "OK" back.

        OPEN <stream>\n  ->  OK\n | ERR <why>\n        ALARM <reason>\n  ->  OK\n

    Args:
        config: port, baud, timeout_s.
    """

    def __init__(self, config: SerialLidConfig) -> None:
        self._config = config
        # Opened when it is needed: a lid may be plugged in later.
        self._line: serial.Serial | None = None

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

    def _connected(self) -> serial.Serial:
        if self._line is None:
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
