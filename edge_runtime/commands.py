"""`binsight edge ...`: what is done on and for a bin.

Each command imports its part when it is called.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="On the bin: run it, check it, look at it, replay what it saw."
)

Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file; without one, a simulated bin.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace one value: --set camera.kind=device. Repeatable."),
]


@app.command("run")
def edge_run(
    config: Config = None,
    override: Overrides = None,
    drain_s: Annotated[
        float, typer.Option("--drain-s", help="After the camera ends: seconds to wait for the hub.")
    ] = 30.0,
    record: Annotated[
        Path | None, typer.Option("--record", help="Record what the camera sees, as .avi.")
    ] = None,
) -> None:
    """Run a bin until its camera ends or it is stopped. SIGHUP has it read its settings again."""
    from configs import load
    from edge_runtime.app import run
    from edge_runtime.config import EdgeConfig

    health = run(
        load(EdgeConfig, config, override or []),
        drain_s,
        lambda: load(EdgeConfig, config, override or []),
        record,
    )
    print(
        f"{health.bin_id}: {health.items} items, {health.outbox_depth} waiting for the hub, "
        f"{health.faults} faults"
    )


@app.command("view")
def edge_view(
    config: Config = None,
    override: Overrides = None,
    port: Annotated[int, typer.Option("--port", help="Of the page; 0 takes a free one.")] = 8041,
) -> None:
    """Run a bin and show it: image, the trigger's view, decision, stage times, health.

    Prints the page's address.

    A bin that runs as a service shows the same page with view.port in its settings.
    """
    edge_run(config, [*(override or []), f"view.port={port}"])


@app.command("check")
def edge_check(config: Config = None, override: Overrides = None) -> None:
    """Look at everything this bin needs and say what is wrong.

    Camera, bundle, processor, disk, clock, key, hub.

    Changes nothing, and may be run beside a running bin if the camera can be shared. Exits with 1
    if anything is bad.
    """
    from configs import load
    from edge_runtime.check import check
    from edge_runtime.config import EdgeConfig

    bad = 0
    for finding in check(load(EdgeConfig, config, override or [])):
        sign, colour = {
            "ok": ("ok  ", "green"),
            "warn": ("warn", "yellow"),
            "bad": ("BAD ", "red"),
        }[finding.state]
        typer.echo(
            f"{typer.style(sign, fg=colour, bold=finding.state == 'bad')}  {finding.what:<12} "
            f"{finding.message}"
        )
        bad += finding.state == "bad"
    if bad:
        raise typer.Exit(1)


@app.command("bench")
def edge_bench(config: Config = None, override: Overrides = None) -> None:
    """Time the bundles on this board, and say what its processor can.

    Which of them a bin here would run.

    Changes nothing. Exits with 1 if no bundle gives its expected output here.
    """
    from configs import load
    from edge_runtime import host
    from edge_runtime.choose import measure
    from edge_runtime.classify import runtime_version
    from edge_runtime.config import EdgeConfig

    settings = load(EdgeConfig, config, override or [])
    print(
        f"processor    {host.cpu_name()}\nruntime      onnxruntime {runtime_version()}, "
        f"{settings.threads} threads"
    )
    tried = measure(settings.bundle, settings.threads)
    good = sorted((t for t in tried if t.ms is not None), key=lambda t: t.ms or 0.0)
    for timed in tried:
        precision = timed.classifier.manifest.precision if timed.classifier else ""
        message = f"{timed.ms:.2f} ms" if timed.ms is not None else f"may not run: {timed.message}"
        print(
            f"{timed.path.name:<12} {precision:<5} "
            f"{message}{'   <- runs here' if good[:1] == [timed] else ''}"
        )
    if not good:
        raise typer.Exit(1)


@app.command("replay")
def edge_replay(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Recordings from 'edge run --record'.", metavar="RECORDING..."),
    ],
    config: Config = None,
    override: Overrides = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Make what comes out the reference.")
    ] = False,
) -> None:
    """Run a bin on recordings and compare its events with their references.

    Exit with 1 if any differs.
    """
    from configs import load
    from edge_runtime import replay
    from edge_runtime.config import EdgeConfig

    settings = load(EdgeConfig, config, override or [])
    wrong = 0
    for recording in recordings:
        rows = replay.replay(recording, settings)
        for row in rows:
            print(json.dumps({"recording": recording.name, **row}), flush=True)
        if accept:
            typer.echo(f"accepted: {replay.accept(recording, rows)}", err=True)
            continue
        for message in replay.differences(recording, rows):
            typer.echo(f"{recording.name}: {message}", err=True)
            wrong += 1
    if wrong:
        raise typer.Exit(1)


@app.command("hazard-gone")
def edge_hazard_gone(config: Config = None, override: Overrides = None) -> None:
    """Say that a person has taken a hazard out of the bin.

    Until then the alarm is given again at each start.

    The alarm of a running bin ends when it is restarted.
    """
    from configs import load
    from edge_runtime.config import EdgeConfig
    from edge_runtime.services.hazard import forget_hazard, remembered_hazard
    from vision.errors import ConfigError

    state = load(EdgeConfig, config, override or []).state
    if not (state / "health.json").is_file():
        raise ConfigError(f"state: no bin has run in {state}; name its settings with --config")
    reason = remembered_hazard(state)
    forget_hazard(state)
    print(
        f"{reason}: forgotten; restart the bin to end its alarm"
        if reason
        else f"{state}: no hazard is noted there"
    )


@app.command("emptied")
def edge_emptied(config: Config = None, override: Overrides = None) -> None:
    """Say that somebody has emptied the bin; the hub counts its items from there.

    For people, and for the script of a door switch. The bin passes it on within seconds, or when
    it is started next.
    """
    from configs import load
    from edge_runtime.config import EdgeConfig
    from edge_runtime.services.notes import ask_for_emptied
    from vision.errors import ConfigError, StorageError

    state = load(EdgeConfig, config, override or []).state
    if not (state / "outbox.sqlite").is_file():
        raise ConfigError(f"state: no bin has run in {state}; name its settings with --config")
    try:
        ask_for_emptied(state)
    except OSError as error:
        raise StorageError(f"{state}: it could not be noted ({error.strerror})") from error
    print(f"{state}: noted; the bin tells the hub")


@app.command("requeue")
def edge_requeue(
    config: Config = None,
    override: Overrides = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Not four but all: when the hub has taken the four.")
    ] = False,
) -> None:
    """Send events again that the hub refused and the bin set aside: after an update of either.

    Four at first: what is refused again is set aside again, and more than four of them would hold
    up new events.
    May be run beside a running bin.
    """
    from configs import load
    from edge_runtime.config import EdgeConfig
    from edge_runtime.outbox import Outbox
    from vision.errors import ConfigError

    settings = load(EdgeConfig, config, override or [])
    path = settings.state / "outbox.sqlite"
    if not path.is_file():
        raise ConfigError(
            f"state: no bin has run in {settings.state}; name its settings with --config"
        )
    with Outbox(path, None, settings.outbox.max_bytes) as outbox:
        back = outbox.requeue(outbox.quarantined() if everything else 4)
        print(
            f"put back: {back}; still set aside: {outbox.quarantined()}; waiting for the hub: "
            f"{outbox.depth()}"
        )


@app.command("unit")
def edge_unit() -> None:
    """Print the systemd unit that runs a bin, with how to install it."""
    print((Path(__file__).parent / "units" / "binsight-edge.service").read_text(), end="")
