"""`binsight demo`: the whole line from photographs to statistics.

It runs the same commands that a user types. It drives the three programs from outside and knows
only their commands, their files and the hub's address. At the end it compares the truth that the
simulated chutes kept on disk with what the hub publishes.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge_runtime.config import FLOAT_BUNDLE
from vision.errors import BinsightError, ConfigError
from vision.simulator.world import LedgerLine, read_ledger

# A minute or two on two cores of any kind: it begins from the bundle that ships, takes small images
# and leaves the first stages as they are.
RECIPE = (
    "model.name=timm:tf_efficientnet_lite2",
    "model.size_px=128",
    "recipe.epochs=2",
    "recipe.freeze_stages=4",
    "recipe.learning_rate=0.001",
    "recipe.ema_decay=0.95",
    "recipe.augment=0.6",
    # What the whole recipe has and two epochs are too short for.
    "data.outliers_simulated=0",
    "recipe.background_swap=0",
    "recipe.cutmix=0",
    "recipe.layer_decay=1",
    "recipe.mixup_alpha=0",
    "recipe.warmup_epochs=1",
    "recipe.class_weighted=true",
)
SIMULATOR_IMAGES = 1000
BIN_FPS = 8.0

console = Console(highlight=False)


@dataclass(slots=True)
class _Bin:
    """One simulated bin: its files and its process."""

    name: str
    config: Path
    state: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.state.parent / f"{self.name}.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                _command("edge", "run", "--config", str(self.config)), stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def ledger(self) -> list[LedgerLine]:
        return read_ledger(self.state / "truth.jsonl")


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo is asked for.

    Attributes:
        data: photographs to train on and to show; None for the simulator's.
        bins: number of bins.
        items: number of items dropped into each bin.
        weights: initial weights as `binsight train` takes them; None begins from the bundle that
            ships.
        port: of the hub; 0 takes a free one.
        folder: where everything is written; what an earlier demo left there is removed.
        exit_when_done: end instead of serving the page until Ctrl-C.
    """

    data: Path | None
    bins: int
    items: int
    weights: str | None
    port: int
    folder: Path
    exit_when_done: bool


def run_demo(demo: Demo) -> bool:
    """Run the demo; return True if every item dropped in is in the statistics exactly once.

    Raises:
        BinsightError: a step failed; the message names it and its log.
    """
    began = time.monotonic()
    # Hub and bins are then stopped as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _check_port(demo.port)
    _clear_folder(demo.folder)
    data = demo.data
    folder = demo.folder
    items = demo.items
    console.rule("1 · train")
    source = f"data.root={data.resolve()}" if data else f"data.simulator_images={SIMULATOR_IMAGES}"
    settings = [
        part
        for key in (source, *RECIPE, f"model.weights={demo.weights or FLOAT_BUNDLE}")
        for part in ("--set", key)
    ]
    _step("train", "--out", str(folder / "run"), *settings)
    console.rule("2 · export and quantise")
    _step("export", str(folder / "run"), "--out", str(folder / "float.onnx"))
    bundle = _quantized(folder)
    with _hub(folder, demo.port) as address:
        console.rule(f"3 · {demo.bins} bins, {items} items each")
        fleet = [_make_bin(demo, bundle, index, address) for index in range(demo.bins)]
        try:
            killed = _run_fleet(fleet, items)
        finally:
            for member in fleet:
                member.kill()
        console.rule("4 · aggregate with Ray")
        _step("hub", "aggregate", "--set", f"lake={folder / 'lake'}")
        console.rule("5 · does it add up?")
        adds_up = _check(fleet, folder, items, killed)
        console.print(f"the page: [bold]{address}[/]   ({time.monotonic() - began:.0f} s in all)")
        if not demo.exit_when_done:
            console.print("serving until Ctrl-C")
            _serve_until_interrupted()
    return adds_up


def _check_port(port: int) -> None:
    """Refuse, before minutes of training, a port that another hub holds; perhaps an older demo."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"--port {port} is taken ({error.strerror}); stop what listens there, or name "
                "another"
            ) from error


def _clear_folder(folder: Path) -> None:
    mark = folder / ".binsight-demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise ConfigError(
            f"--folder {folder}: holds files that are not a demo's; name an empty or a new folder"
        )
    # Simulator images are kept: rendering them is the same work each time.
    images = folder / "run" / "images"
    kept = folder.with_name(f".{folder.name}-images")
    if images.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        images.rename(kept)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
    if kept.is_dir():
        images.parent.mkdir()
        kept.rename(images)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "binsight", *arguments]


def _step(*arguments: str) -> None:
    """Run one of our own commands in the foreground."""
    console.print(f"[dim]$ binsight {' '.join(arguments)}[/]", soft_wrap=True)
    done = subprocess.run(_command(*arguments), check=False)
    if done.returncode:
        raise BinsightError(
            f"'binsight {' '.join(arguments[:2])}' failed with exit code {done.returncode}; see "
            "above"
        )


def _quantized(folder: Path) -> Path:
    """Return the int8 bundle, or the float one where int8 is refused.

    After a minute's training int8 may lose too much.
    """
    float_bundle = folder / "float.onnx"
    int8_bundle = folder / "int8.onnx"
    try:
        _step(
            "quantize", str(float_bundle), "--run", str(folder / "run"), "--out", str(int8_bundle)
        )
    except BinsightError:
        console.print(
            "int8 was refused, for the reason above, and the bins run the float bundle: two "
            "epochs leave labels so close together that rounding moves some; the bundle that "
            "ships was trained for 80, and loses 0.2 points"
        )
        return float_bundle
    return int8_bundle


@contextmanager
def _hub(folder: Path, port: int) -> Iterator[str]:
    with (folder / "hub.log").open("wb") as log:
        settings = [f"--set=lake={folder / 'lake'}", f"--set=port={port}"]
        settings.append("--set=lake_interval_s=0")  # the statistics are asked for at once
        process = subprocess.Popen(
            _command("hub", "serve", *settings), stdout=subprocess.PIPE, stderr=log
        )
    try:
        line = process.stdout.readline().decode() if process.stdout else ""
        if not line.startswith("hub: "):
            raise BinsightError(
                f"the hub did not start: {(folder / 'hub.log').read_text().strip()[-400:]}"
            )
        yield line.removeprefix("hub: ").strip()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _make_bin(demo: Demo, bundle: Path, index: int, address: str) -> _Bin:
    name = f"bin-{index + 1:02}"
    camera: dict[str, Any] = {
        "width_px": 320,
        "height_px": 240,
        "fps": BIN_FPS,
        "items": demo.items,
        "seed": index,
    }
    if demo.data:
        camera |= {"kind": "folder", "source": str(demo.data.resolve()), "split": "val"}
    else:
        camera |= {"kind": "simulator"}
    bins = demo.folder / "bins"
    member = _Bin(name, bins / f"{name}.yaml", bins / name)
    member.config.parent.mkdir(exist_ok=True)
    document = {
        "bin_id": name,
        "state": str(member.state),
        "bundle": str(bundle),
        "threads": 1,
        "camera": camera,
        "uplink": {"url": address},
    }
    member.config.write_text(json.dumps(document, indent=1))  # every JSON file is YAML
    return member


def _run_fleet(fleet: list[_Bin], items: int) -> str:
    """Start the bins, kill one with SIGKILL while an item lies in it, and wait for all.

    Returns:
        One line that says what was killed and when; empty if nothing was.
    """
    for member in fleet:
        member.start()
    victim = fleet[min(1, len(fleet) - 1)]
    story = ""
    # An item takes about two seconds at BIN_FPS where the machine keeps up.
    patience_s = 120 + 6 * items * max(1.0, len(fleet) / 10)
    deadline = time.monotonic() + patience_s
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("items served", total=items * len(fleet))
        while any(member.process and member.process.poll() is None for member in fleet):
            lines = victim.ledger()
            if (
                not story
                and lines
                and lines[-1].what == "dropped"
                and lines[-1].index >= items // 2
            ):
                victim.kill()
                story = (
                    f"{victim.name} was killed (SIGKILL) while item {lines[-1].index + 1} lay in "
                    "it, and started again"
                )
                progress.console.print(f"[yellow]{story}[/]")
                victim.start()
            progress.update(
                bar, completed=sum(line.what == "cleared" for m in fleet for line in m.ledger())
            )
            if time.monotonic() > deadline:
                raise BinsightError(
                    f"the bins are not done after {patience_s:.0f} s; see "
                    f"{victim.state.parent}/*.log"
                )
            time.sleep(0.05)
        progress.update(
            bar, completed=sum(line.what == "cleared" for m in fleet for line in m.ledger())
        )
    if failed := [m.name for m in fleet if m.process and m.process.returncode]:
        raise BinsightError(f"{', '.join(failed)} failed; see {victim.state.parent}/*.log")
    return story


def _check(fleet: list[_Bin], folder: Path, items: int, killed: str) -> bool:
    """Compare the truth of every chute with the hub's statistics; print what was found."""
    from cluster.lake.store import Lake  # noqa: PLC0415  extra "cluster"
    from cluster.statistics import query as stats  # noqa: PLC0415  extra "cluster"
    from cluster.statistics.completeness import completeness  # noqa: PLC0415  extra "cluster"

    lake = Lake(folder / "lake")
    counted = {row["bin_id"]: row["items"] for row in stats.query(lake, ["bin_id"]).to_pylist()}
    gaps = {row.bin_id: row.missing for row in completeness(lake)}
    seen = stats.labels_in_order(lake)
    duplicates = stats.duplicates(lake)
    table = Table(
        "bin",
        "dropped in",
        "in the statistics",
        "missing",
        "label right",
        title="truth of the chutes against the hub",
    )
    adds_up = duplicates == 0 and bool(killed)
    right = 0
    total = 0
    for member in fleet:
        truth = [line.label for line in member.ledger() if line.what == "dropped"]
        unserved = [line for line in member.ledger() if line.what == "missed"]
        hits = sum(a == b for a, b in zip(truth, seen.get(member.name, []), strict=False))
        good = (
            len(truth) == items == counted.get(member.name, 0)
            and gaps.get(member.name) == 0
            and not unserved
        )
        adds_up = adds_up and good
        right += hits
        total += len(truth)
        cells = (
            member.name,
            len(truth),
            counted.get(member.name, 0),
            gaps.get(member.name, "-"),
            f"{hits} of {len(truth)}",
        )
        table.add_row(*map(str, cells), style="" if good else "bold red")
    console.print(table)
    console.print(killed or "[red]no bin was killed[/]")
    console.print(
        f"{total} items dropped in, {sum(counted.values())} in the statistics, {duplicates} "
        f"twice; label right: {right}"
    )
    console.print("[green]it adds up[/]" if adds_up else "[bold red]it does not add up[/]")
    return adds_up


def _serve_until_interrupted() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
