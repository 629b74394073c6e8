"""Makes the lid that the settings name.

Libraries of hardware are imported where they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.config import (
    GpioLidConfig,
    LidConfig,
    MqttLidConfig,
    SerialLidConfig,
)
from edge_runtime.lids.actuator import Lid
from edge_runtime.lids.simulated import SimulatedLid
from vision.errors import ConfigError
from vision.simulator.world import World


def open_lid(config: LidConfig, streams: Sequence[str], world: World | None) -> Lid:
    """Make the configured lid.

    Args:
        config: of the lid.
        streams: of the rule book; a lid with pins must have one for each.
        world: the simulated chute, if there is one.

    Raises:
        ActuatorError, ConfigError: it cannot be used; the message names the key.
    """
    match config:
        case GpioLidConfig():
            if missing := [s for s in streams if s not in config.pins]:
                raise ConfigError(
                    f"actuator.pins: no pin for {', '.join(missing)}, which the rule book uses"
                )
            from edge_runtime.lids.gpio import GpioLid  # noqa: PLC0415  extra "gpio"

            return GpioLid(config)
        case SerialLidConfig():
            from edge_runtime.lids.serial_line import SerialLid  # noqa: PLC0415  extra "serial"

            return SerialLid(config)
        case MqttLidConfig():
            from edge_runtime.lids.mqtt import MqttLid  # noqa: PLC0415  extra "mqtt"

            return MqttLid(config)
    return SimulatedLid(streams, world)
