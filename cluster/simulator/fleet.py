"""What `binsight fleet simulate` does: a whole city against a hub, with a progress bar."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from cluster.config import HubConfig
from cluster.lake.store import Lake
from cluster.registry.store import Registry
from cluster.simulator.city import DAY_MS, City, Plan
from cluster.simulator.local import LocalHub
from cluster.simulator.makers import Submit, local_makers, ray_makers
from cluster.simulator.run import HttpHub, Hub, Made, Truth, simulate
from cluster.statistics.query import query
from cluster.statistics.refresh import refresh
from vision.errors import ConfigError, StorageError


def simulate_here(plan: Plan, folder: Path, register: bool, ray_address: str | None) -> Truth:
    """Run a hub in this process against a fleet, and compare what it counts with the truth.

    Args:
        plan: of the city.
        folder: of the lake, which must hold no events.
        register: write the bins into the lake's registry.
        ray_address: makes the batches there, "local" on a Ray of its own; None without Ray.

    Raises:
        ConfigError: the lake holds events, or nobody is at the address.
        StorageError: what was counted is not what was sent.
    """
    lake = Lake(folder)
    if lake.has_events():
        raise ConfigError(f"--lake: {folder} holds events already; name an empty folder")
    registry = Registry(HubConfig(lake=folder).registry_url())
    try:
        if register:
            city = City(plan)
            registry.place([city.place(n) for n in range(plan.bins)], plan.first_utc_ms)
        hub = LocalHub(lake, registry)
        try:
            truth = _driven(plan, hub, False, ray_address)
        finally:
            hub.close()
    finally:
        registry.close()
    refresh(lake, "local")
    counted = {row["label"]: row["items"] for row in query(lake, ["label"]).to_pylist()}
    sent = {label: count for label, count in truth.labels().items() if count}
    if counted != sent:
        raise StorageError(f"the hub counted {counted}, the bins sent {sent}")
    return truth


def simulate_against(plan: Plan, url: str, token: str | None, ray_address: str | None) -> Truth:
    """Send a fleet's events to a running hub, all days at once; the last one ends now.

    Args:
        plan: of the city; its first day is moved.
        url: of the hub.
        token: if it asks for one.
        ray_address: see `simulate_here`.

    Raises:
        UplinkError: it refuses a batch, or nobody is there.
    """
    midnight = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    hub = HttpHub(url, token)
    try:
        return _driven(
            replace(plan, first_utc_ms=midnight - plan.days * DAY_MS), hub, True, ray_address
        )
    finally:
        hub.close()


def _driven(plan: Plan, hub: Hub, own_clock: bool, ray_address: str | None) -> Truth:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    address = None if ray_address == "local" else ray_address
    makers: AbstractContextManager[Submit[Made]] = (
        local_makers() if ray_address is None else ray_makers(address)
    )
    with (
        makers as submit,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("events", total=round(plan.bins * plan.days * plan.items_a_day))
        return simulate(
            plan, hub, submit, own_clock, lambda done: progress.update(bar, completed=done)
        )
