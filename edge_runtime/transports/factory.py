"""Opens the way to the hub that the settings name."""

from __future__ import annotations

from edge_runtime.clock import Clock
from edge_runtime.config import HttpUplinkConfig, MqttUplinkConfig
from edge_runtime.transports.http import HttpTransport
from edge_runtime.transports.transport import Transport
from vision.addresses import without_secrets
from vision.errors import ConfigError


def open_transport(config: HttpUplinkConfig | MqttUplinkConfig, clock: Clock) -> Transport:
    """Return the way to the hub.

    Args:
        config: of the uplink.
        clock: says whether the bin knows the time.

    Raises:
        ConfigError: no paho-mqtt, no such file of certificates, no such port.
    """
    try:
        if isinstance(config, HttpUplinkConfig):
            return HttpTransport(config, clock)
        from edge_runtime.transports.mqtt import MqttTransport  # noqa: PLC0415  extra "mqtt"

        return MqttTransport(config, clock)
    except ImportError as error:
        raise ConfigError(
            "uplink.url: MQTT needs another package: pip install 'binsight[mqtt]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"uplink: {without_secrets(config.url)}, ca {config.ca}: {error}"
        ) from error
