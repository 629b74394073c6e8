"""`binsight hub ...`: take events in, compute statistics, show them.

Each imports its part when it is called.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="The hub: take events in, compute statistics, show them."
)

Config = Annotated[Path | None, typer.Option("--config", help="YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. port=8040."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="A running Ray cluster; a local one by default.")
]


class Engine(StrEnum):
    """Where aggregation runs."""

    ray = "ray"
    local = "local"


@app.command("serve")
def hub_serve(config: Config = None, override: Overrides = None) -> None:
    """Take batches in and show the statistics; prints its address."""
    from cluster.app import serve
    from cluster.config import HubConfig
    from configs import load

    serve(load(HubConfig, config, override or []))


@app.command("aggregate")
def hub_aggregate(
    config: Config = None,
    override: Overrides = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Ray tasks, or the same kernel in this process.")
    ] = Engine.ray,
    ray_address: RayAddress = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Count arrival dates without new events again, too.")
    ] = False,
) -> None:
    """Compute the fleet's statistics; only arrival dates with new events are counted again."""
    from cluster.app import aggregate
    from cluster.config import HubConfig
    from configs import load

    done = aggregate(load(HubConfig, config, override or []), engine.value, ray_address, rebuild)
    print(
        f"{done.events} events of {done.parts} arrival dates, {done.computed} of them counted now "
        f"({done.engine}) in {done.seconds:.1f} s"
    )
