"""`binsight hub ...`: take events in, compute statistics, show them.

Each imports its part when it is called.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # each command imports its part when it is called
    from cluster.registry.store import Registry

app = typer.Typer(
    no_args_is_help=True, help="The hub: take events in, compute statistics, show them."
)

bins = typer.Typer(no_args_is_help=True, help="Who is who: register bins, give and end their keys.")
app.add_typer(bins, name="bins")
fleet = typer.Typer(no_args_is_help=True, help="A simulated fleet, to try a hub with.")

Config = Annotated[Path | None, typer.Option("--config", help="YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. port=8040."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="A running Ray cluster; a local one by default.")
]
BinId = Annotated[str, typer.Argument(metavar="BIN", help="Its id, unique in the hub.")]


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
        bool, typer.Option("--rebuild", help="Count all events again, not only new ones.")
    ] = False,
) -> None:
    """Compute the fleet's statistics; only what is new is counted."""
    from cluster.app import aggregate
    from cluster.config import HubConfig
    from configs import load

    done = aggregate(load(HubConfig, config, override or []), engine.value, ray_address, rebuild)
    print(
        f"{done.events} events of {done.parts} arrival dates, {done.computed} of them counted now "
        f"({done.engine}) in {done.seconds:.1f} s"
    )


@app.command("check")
def hub_check(config: Config = None, override: Overrides = None) -> None:
    """Show everything that is wrong with a hub, on one screen; ends with 1 if something is.

    It changes nothing.
    """
    from cluster.check import check
    from cluster.config import HubConfig
    from configs import load

    worst = "ok"
    for finding in check(load(HubConfig, config, override or []), _now_utc_ms()):
        print(f"{finding.state:<5} {finding.what:<12} {finding.message}")
        worst = "bad" if "bad" in (worst, finding.state) else worst
    if worst == "bad":
        raise typer.Exit(1)


@app.command("backup")
def hub_backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Not there, or empty.")],
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Copy events, ingest log and registry into a folder, also while the hub runs."""
    from cluster.backup import backup
    from cluster.config import HubConfig
    from configs import load

    hub = load(HubConfig, config, override or [])
    done = backup(hub.lake, hub.registry_url(), folder)
    bins_reported = "the registry is in PostgreSQL: pg_dump copies it"
    if done.bins >= 0:
        bins_reported = f"{done.bins} bins"
    events = f"{done.events} events"
    if hub.storage:
        events = f"the tables are in {hub.storage}: its own tools copy them"
    print(f"{folder}: {events}, {done.waiting_events} waiting in the log; {bins_reported}")


@app.command("restore")
def hub_restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="That 'backup' wrote.")],
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Put a backup in place of a lake that is not there; then start the hub."""
    from cluster.backup import restore
    from cluster.config import HubConfig
    from configs import load

    hub = load(HubConfig, config, override or [])
    done = restore(folder, hub.lake, hub.registry_url())
    print(
        f"{hub.lake}: {done.events} events of {done.taken_utc}; start it with 'binsight hub serve'"
    )


@bins.command("add")
def bins_add(
    bin_id: BinId,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose bin it is.")] = "city",
    district: Annotated[str, typer.Option("--district", help="Where it stands.")] = "",
    time_zone: Annotated[
        str, typer.Option("--time-zone", help="Of the district, e.g. Europe/Vienna.")
    ] = "",
    site: Annotated[str, typer.Option("--site", help="The place within the district.")] = "",
    latitude: Annotated[float | None, typer.Option("--latitude", help="Of the site.")] = None,
    longitude: Annotated[float | None, typer.Option("--longitude", help="Of the site.")] = None,
    capacity_l: Annotated[float | None, typer.Option("--capacity-l", help="Litres.")] = None,
    hours: Annotated[
        float, typer.Option("--hours", min=0.1, max=8760, help="How long the code is good.")
    ] = 168,
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Register a bin, or one that lost its key; prints a one-time code for its settings."""
    from cluster.registry.model import Place

    place = Place(bin_id, tenant, district, time_zone, site, latitude, longitude, capacity_l)
    with _registry(config, override) as registry:
        registry.place([place], _now_utc_ms())
        code = registry.issue_code(bin_id, _now_utc_ms(), hours)
    print(f"{bin_id} is registered. In its settings, within {hours:g} hours:")
    print(f"  uplink:\n    enrolment_code: {code}")


@bins.command("rotate")
def bins_rotate(bin_id: BinId, config: Config = None, override: Overrides = None) -> None:
    """Have a bin make a new key at its next batch; nobody has to go there."""
    with _registry(config, override) as registry:
        registry.ask_for_new_key(bin_id)
    print(f"{bin_id} makes a new key at its next batch; the old one ends with its first use")


@bins.command("revoke")
def bins_revoke(
    bin_id: BinId,
    key: Annotated[str | None, typer.Option("--key", help="This one only; all by default.")] = None,
    config: Config = None,
    override: Overrides = None,
) -> None:
    """End the keys of a bin: what it sends is refused within a second, and stays on the bin."""
    with _registry(config, override) as registry:
        count = registry.revoke(bin_id, _now_utc_ms(), key)
    print(
        f"{count} keys of {bin_id} are revoked; 'binsight hub bins add {bin_id}' gives a new code"
    )


@bins.command("list")
def bins_list(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant alone.")] = None,
    district: Annotated[str | None, typer.Option("--district", help="Of this district.")] = None,
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Show the bins, where they stand and how they sign."""
    from cluster.registry.model import Scope

    with _registry(config, override) as registry:
        found = registry.bins(Scope(tenant, district))
    rows = [("bin", "tenant", "district", "time zone", "site", "keys", "ids of keys in use")]
    rows += [
        (
            b.place.bin_id,
            b.place.tenant,
            b.place.district,
            b.place.time_zone,
            b.place.site,
            b.keys_reported(),
            " ".join(b.keys),
        )
        for b in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


@bins.command("import")
def bins_import(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .geojson file.")],
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Register the bins of a file, or move known ones; all of them or none.

    Columns: bin_id and tenant; as far as known district, time_zone, site, latitude, longitude and
    capacity_l.
    """
    from cluster.registry.exchange import read_places

    places = read_places(path)
    with _registry(config, override) as registry:
        new = registry.place(places, _now_utc_ms())
    print(f"{len(places)} bins read, {new} of them new")


@bins.command("export")
def bins_export(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .geojson file.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant alone.")] = None,
    config: Config = None,
    override: Overrides = None,
) -> None:
    """Write the bins to a file that 'import' reads."""
    from cluster.registry.exchange import write_places
    from cluster.registry.model import Scope

    with _registry(config, override) as registry:
        places = [found.place for found in registry.bins(Scope(tenant))]
    write_places(path, places)
    print(f"{len(places)} bins written to {path}")


@fleet.command("simulate")
def fleet_simulate(
    bins: Annotated[int, typer.Option("--bins", min=1, help="Bins.")] = 1000,
    days: Annotated[int, typer.Option("--days", min=1, help="Days.")] = 7,
    items: Annotated[float, typer.Option("--items", min=0, help="Items a bin and day.")] = 40.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything.")] = 0,
    lake: Annotated[Path, typer.Option("--lake", help="A hub in this process writes here.")] = Path(
        "runs/fleet/lake"
    ),
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="URL", help="Or send to a running hub.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="If that hub asks for one.")] = None,
    register: Annotated[
        bool, typer.Option(help="Register the bins with districts and coordinates.")
    ] = True,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Make the batches as Ray tasks; 'local' starts one."
        ),
    ] = None,
    truth: Annotated[Path, typer.Option("--truth", help="Where the true totals go.")] = Path(
        "runs/fleet/truth.json"
    ),
) -> None:
    """Send what a whole city throws away to a hub, and keep the true totals.

    With --lake the hub's log, lake and counting run here, by the city's clock, and what was
    counted is compared with the truth. With --hub all is sent to a running hub at once.
    """
    from cluster.simulator.city import Plan
    from cluster.simulator.fleet import simulate_against, simulate_here
    from cluster.simulator.run import write_truth

    plan = Plan(bins=bins, days=days, items_a_day=items, seed=seed)
    started = time.perf_counter()
    if hub:
        found = simulate_against(plan, hub, token, ray)
    else:
        found = simulate_here(plan, lake, register, ray)
    seconds = time.perf_counter() - started
    write_truth(found, truth)
    print(
        f"{found.delivered} events in {found.batches} batches ({found.repeated} sent twice, "
        f"{found.late} late), {int(found.dropped.sum())} dropped by full bins; {seconds:.1f} s"
    )
    if not hub:
        print(f"the hub counted the same, label by label: {lake}")
    print(f"the truth: {truth}")


@contextmanager
def _registry(config: Path | None, override: list[str] | None) -> Iterator[Registry]:
    from cluster.config import HubConfig
    from cluster.registry.store import Registry
    from configs import load

    registry = Registry(load(HubConfig, config, override or []).registry_url())
    try:
        yield registry
    finally:
        registry.close()


def _now_utc_ms() -> int:
    return time.time_ns() // 1_000_000
