"""What `binsight hub --config` reads."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from configs import StrictModel, Token


class HubConfig(StrictModel):
    """The whole of one hub.

    Attributes:
        lake: folder of the Delta tables.
        host, port: where the hub listens; port 0 takes a free one and prints it.
        token: bearer token that bins must bring; None takes every bin (for a closed network).
        mqtt: broker to take batches from as well, e.g. mqtt://user:word@127.0.0.1:1883 (extra
            "mqtt"); None for none.
        commit_interval_s: batches that arrive within it share one durable commit.
        commit_events: a commit is not made larger than this.
    """

    lake: Path = Path("runs/hub/lake")
    host: str = "127.0.0.1"
    port: int = Field(default=8040, ge=0, le=65535)
    token: Token | None = None
    mqtt: str | None = Field(default=None, pattern=r"^mqtts?://[^\s/]+$")
    commit_interval_s: float = Field(default=0.25, ge=0, le=10)
    commit_events: int = Field(default=50_000, ge=1)
