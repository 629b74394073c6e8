"""The lake that the settings name."""

from __future__ import annotations

from cluster.config import HubConfig
from cluster.lake.storage import remote_storage
from cluster.lake.store import Lake


def open_lake(config: HubConfig) -> Lake:
    """Return the lake of a hub.

    Raises:
        StorageError: its folder cannot be used.
    """
    storage = remote_storage(config.storage, config.storage_options) if config.storage else None
    return Lake(config.lake, storage)
