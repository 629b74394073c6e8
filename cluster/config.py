"""What `binsight hub --config` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from configs import StrictModel, Token


class HubConfig(StrictModel):
    """The whole of one hub.

    Attributes:
        lake: folder of the ingest log, and of the Delta tables.
        host, port: where the hub listens; port 0 takes a free one and prints it.
        storage: S3-compatible storage for the tables, s3://bucket/prefix; None keeps them in the
            lake's folder.
        storage_options: of the storage, e.g. AWS_ENDPOINT_URL, AWS_REGION. What is not named comes
            from the environment; leave AWS_SECRET_ACCESS_KEY there.
        registry: database of tenants, districts, sites, bins and keys:
            postgresql://user:word@host/name, or sqlite:///file; None is registry.sqlite in the
            lake's folder.
        token: bearer token that unsigned batches must bring; None takes them without (for a closed
            network). A bin that has a key signs its batches, and needs no token.
        require_signatures: take signed batches only.
        mqtt: broker to take batches from as well, e.g. mqtt://user:word@127.0.0.1:1883 (extra
            "mqtt"); None for none.
        commit_interval_s: batches that arrive within it share one durable transaction of the ingest
            log, and so one fsync.
        lake_interval_s: time between two commits to the lake, and so how late the statistics are at
            most; 0 moves each group to the lake before it is acknowledged.
        aggregate_interval_s: time between two aggregations in the hub itself, if there are new
            events; 0 leaves them to 'binsight hub aggregate'.
        waiting_events: events that wait in memory for their transaction at most; beyond it a bin is
            told to come again later (429).
    """

    lake: Path = Path("runs/hub/lake")
    host: str = "127.0.0.1"
    port: int = Field(default=8040, ge=0, le=65535)
    storage: str | None = Field(default=None, pattern=r"^s3://[a-z0-9.-]+(/[A-Za-z0-9._=-]+)*/?$")
    storage_options: Mapping[str, str] = Field(default_factory=dict)
    registry: str | None = None
    token: Token | None = None
    require_signatures: bool = False
    mqtt: str | None = Field(default=None, pattern=r"^mqtts?://[^\s/]+$")
    commit_interval_s: float = Field(default=0.05, ge=0, le=10)
    lake_interval_s: float = Field(default=10, ge=0, le=3600)
    aggregate_interval_s: float = Field(default=600, ge=0, le=86_400)
    waiting_events: int = Field(default=200_000, ge=1)

    def registry_url(self) -> str:
        """Return where the registry is."""
        return self.registry or f"sqlite:///{self.lake.absolute() / 'registry.sqlite'}"
