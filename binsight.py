"""The front door: one command line. Each sub-command imports its program only when it is called."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from edge_runtime.commands import app as edge
from vision.errors import BinsightError

__version__ = "0.1.0"

app = typer.Typer(
    name="binsight",
    help="Eyes for smart bins, and one honest set of numbers for the city.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(no_args_is_help=True, help="Sets of labelled pictures: list, fetch, check, split.")
hub = typer.Typer(no_args_is_help=True, help="The hub: take events in, compute statistics, show them.")
app.add_typer(data_app, name="data")
app.add_typer(edge, name="edge")
app.add_typer(hub, name="hub")

Config = Annotated[Path | None, typer.Option("--config", help="YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. recipe.epochs=5.")
]
Data = Annotated[Path, typer.Option("--data", help="Folder with a splits.csv, or with one sub-folder for each label.")]
LabelMap = Annotated[Path | None, typer.Option("--label-map", help='JSON file: {"name in the data": "label" or null}.')]
Bundle = Annotated[Path | None, typer.Option("--bundle", help="Model bundle; the one that ships by default.")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster; a local one by default.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=64, help="Threads of onnxruntime.")]


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    jsonl = "jsonl"


class Launcher(StrEnum):
    """Where a training runs."""

    local = "local"
    ray = "ray"


class Engine(StrEnum):
    """Where aggregation runs."""

    ray = "ray"
    local = "local"


@app.command()
def train(
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; a stopped run in it is continued.")] = None,
    override: Overrides = None,
    launcher: Annotated[
        Launcher, typer.Option("--launcher", help="In this process, or on Ray workers.")
    ] = Launcher.local,
    workers: Annotated[int, typer.Option("--workers", min=1, help="With ray: processes that train together.")] = 2,
    ray_address: RayAddress = None,
) -> None:
    """Fine-tune a classifier on labelled photographs; continues where a killed run stopped.

    With --launcher ray the same recipe runs on several workers, each with its share of every batch; a worker that dies
    is replaced and the run goes on from its last checkpoint. All nodes must see data and run folder by the same path.
    """
    from configs import load
    from training.config import TrainConfig
    from training.recipes.finetune import finetune
    from training.report import write_report

    settings = load(TrainConfig, config, override or [])
    settings = settings.model_copy(update={"out": out}) if out else settings
    if launcher is Launcher.ray:
        from training.launch import train_with_ray

        last = train_with_ray(settings, workers, ray_address)
    else:
        last = finetune(settings)
    page = write_report(settings.out)
    print(
        f"val accuracy {last['val_accuracy']:.4f}; report: {page}; "
        f"next: binsight export {settings.out} --out float.onnx"
    )


@app.command()
def tune(
    config: Config = None,
    out: Annotated[Path, typer.Option("--out", help="Folder; each trial is a run in it.")] = Path("runs/tune"),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings to try.")] = 20,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Trials at the same time; they share the cores.")
    ] = 1,
    override: Overrides = None,
    ray_address: RayAddress = None,
) -> None:
    """Search the recipe's settings with Ray Tune; trials that fall behind are stopped early.

    Writes trials.json, best first, and best.yaml to train with. The val split is what the search looks at: measure the
    winner on something else.
    """
    from dataclasses import asdict

    from configs import dump, load, with_values
    from training.config import TrainConfig
    from training.launch import tune as search
    from vision.errors import ConfigError

    settings = load(TrainConfig, config, override or []).model_copy(update={"out": out})
    done = search(settings, trials, at_once, ray_address)
    if not done:
        raise ConfigError(f"{out}: every trial failed; try one alone with 'binsight train' to see why")
    out.mkdir(parents=True, exist_ok=True)
    (out / "trials.json").write_text(json.dumps([asdict(trial) for trial in done], indent=1))
    dump(with_values(settings, {**done[0].settings, "out": "runs/best"}), out / "best.yaml")
    for trial in done[:10]:
        tried = ", ".join(f"{key} {value:.3g}" for key, value in trial.settings.items())
        print(f"{trial.val_accuracy:.4f} after {trial.epochs} epochs: {tried}")
    print(f"next: binsight train --config {out / 'best.yaml'}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.")],
) -> None:
    """Export a run as a float bundle: ONNX, manifest inside, checked against torch on every val picture."""
    from training.export import export as export_run

    manifest = export_run(run, out, watch=_bar("exporting"))
    val = manifest.metrics["val"]
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {manifest.precision}, val accuracy {val['accuracy']:.4f}, "
        f"greatest logit difference to torch {manifest.metrics['torch_logit_difference']:.1e}"
    )


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="Float bundle.")],
    run: Annotated[
        Path, typer.Option("--run", help="The training run it came from: its data calibrates and measures.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Int8 bundle to write.")],
) -> None:
    """Quantise a float bundle to int8, measure it anew and stamp what was measured."""
    from training.data import open_training_data
    from training.quantize import quantize as quantize_bundle
    from training.recipes.finetune import load_trained

    _, _, settings = load_trained(run)
    train_set, val = open_training_data(settings.data, settings.seed, run / "pictures")
    manifest = quantize_bundle(bundle, out, train_set, val, watch=_bar("quantising"))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, int8, val accuracy {manifest.metrics['val']['accuracy']:.4f}")


@app.command()
def evaluate(
    data: Annotated[Path | None, typer.Option("--data", help="Folder with a splits.csv, or class folders.")] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Or a CSV: path, label, and if you have them group and split.")
    ] = None,
    foreign: Annotated[
        Path | None,
        typer.Option("--foreign", help="A set of other things (not its train split): are they told to be unknown?"),
    ] = None,
    bundle: Bundle = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split to measure, empty for all; by default val, of an index all but train."),
    ] = None,
    label_map: LabelMap = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for evaluation.json and a report page.")] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="JSON lines: path, truth, label, confidence, unknown_score.")
    ] = None,
    threads: Threads = 2,
) -> None:
    """Measure a bundle on labelled pictures, exactly as a bin would see them.

    Things that are none of the bundle's labels measure the unknown test: name a set of them with --foreign, or map
    their names to "unknown" in the label map.
    """
    from dataclasses import replace

    from training.evaluate import evaluate as evaluate_bundle
    from training.evaluate import with_foreign
    from training.report import write_evaluation
    from vision.datasets import UNKNOWN, open_dataset, read_label_map
    from vision.errors import ConfigError

    if (source := data or index) is None or (data and index):
        raise ConfigError("name the pictures with --data FOLDER or with --index CSV, one of them")
    names = read_label_map(label_map) if label_map else None
    whole = open_dataset(source, names)
    held = tuple(s for s in whole.samples if s.split != "train")
    if split is None and index:
        dataset = replace(whole, samples=held) if held else whole
    else:
        wanted = "val" if split is None else split
        dataset = whole.select(wanted) if wanted else whole
    measured = {s.split for s in dataset.samples}
    trained = {s.group for s in whole.samples if s.split == "train"} if "train" not in measured else set()
    chosen = _bundle(bundle)
    if foreign:
        dataset = with_foreign(dataset, open_dataset(foreign, names, unmapped=UNKNOWN), chosen)
    result = evaluate_bundle(chosen, dataset, threads, _bar("evaluating"), trained)
    print(json.dumps({**result.figures, "left_out": dict(dataset.left_out)}, indent=1), flush=True)
    if predictions:
        predictions.parent.mkdir(parents=True, exist_ok=True)
        rows = zip(dataset.samples, result.predictions, strict=True)
        lines = [
            {
                "path": str(s.path), "truth": s.label, "label": p.label, "confidence": p.confidence,
                "unknown_score": p.unknown_score,
            }
            for s, p in rows
        ]  # fmt: skip
        predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if out:
        print(f"report: {write_evaluation(out, chosen, dataset, result)}", file=sys.stderr)


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Pictures and folders of pictures.", metavar="PATH...")],
    bundle: Bundle = None,
    format: Annotated[Format, typer.Option("--format", help="Rows for people or JSON lines.")] = Format.table,
    threads: Threads = 2,
) -> None:
    """Say what is on each picture: a row, or a JSON line, each.

    A picture that cannot be read is a line with its error. Exits with 1 only if none could be read.
    """
    from edge_runtime.app import classify_paths

    read = 0
    for row in classify_paths(paths, _bundle(bundle), threads):
        read += "error" not in row
        if format is Format.jsonl:
            print(json.dumps(row), flush=True)
        elif "error" in row:
            print(f"{row['path']}  error: {row['error']}", flush=True)
        else:
            print(
                f"{row['path']}  {row['label']:<10} {row['confidence']:6.1%}  "
                f"{row['decision']:<8} unknown {row['unknown_score']:.3f}",
                flush=True,
            )
    if not read:
        raise typer.Exit(1)


@app.command()
def simulate(
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG or JPEG) here.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a labelled set of pictures into this folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=10, help="Pictures in the set.")] = 1000,
    labels: Annotated[str, typer.Option("--labels", help="Comma-separated; all by default.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal pictures.")] = 0,
) -> None:
    """Render pictures with the procedural bin camera."""
    import cv2

    from vision.errors import ConfigError
    from vision.simulator.catalogue import CATALOGUE
    from vision.simulator.dataset import contact_sheet, simulator_dataset
    from vision.taxonomy import MATERIALS_1

    chosen = MATERIALS_1.ordered(label.strip() for label in labels.split(",")) if labels else tuple(CATALOGUE)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture = contact_sheet(8, seed, chosen)
        if not cv2.haveImageWriter(str(sheet)) or not cv2.imwrite(str(sheet), picture):
            raise ConfigError(
                f"--sheet {sheet}: could not be written; name a .png or .jpg in a folder you may write to"
            )
        print(sheet)
    if out:
        dataset = simulator_dataset(out, images, seed, chosen)
        print(f"{out}: {len(dataset.samples)} pictures, {dict(dataset.counts())}")
    if not sheet and not out:
        raise ConfigError("nothing to do: name --sheet or --out")


@data_app.command("list")
def data_list() -> None:
    """Show the public sets that can be fetched, with their licences, and what the licence allows."""
    from vision.datasets.public import PUBLIC_SETS

    for name, s in PUBLIC_SETS.items():
        ship = "models may ship" if s.shippable else "measuring only: no shipped model may be trained on it"
        print(f"{name:<12} {s.licence:<16} {ship}\n             {s.title}\n             {s.source}")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a public set; see 'binsight data list'.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to unpack into; must be new or empty.")],
    url: Annotated[str | None, typer.Option("--url", help="A mirror instead of the set's own address.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the archive must be.")] = None,
) -> None:
    """Download a public set, compare its checksum, show its licence, unpack it."""
    from vision.datasets.public import fetch

    done = fetch(name, out, url, sha256, _bar("downloading"))
    print(f"{out}: {done.files} files, sha256 {done.sha256} ({done.verified})\nlicence: {done.licence}")


@data_app.command("check")
def data_check(
    data: Data,
    label_map: LabelMap = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every finding here.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Findings of each kind to print.")] = 10,
) -> None:
    """Find unreadable pictures, duplicates, near-duplicates, label conflicts and leaks between splits.

    Exits with 1 if there is anything that falsifies a measurement: unreadable files, label conflicts or leaks.
    """
    from dataclasses import asdict

    from vision.datasets import open_dataset, read_label_map
    from vision.datasets.check import check, label_counts

    dataset = open_dataset(data, read_label_map(label_map) if label_map else None)
    found = check(dataset, _bar("checking"))
    for split, counts in label_counts(dataset).items():
        print(f"{split:<8}" + "  ".join(f"{label} {number}" for label, number in counts.items()))
    if dataset.left_out:
        print("left out: " + ", ".join(f"{name} ({number})" for name, number in dataset.left_out))
    for key, number in found.summary().items():
        print(f"{key.replace('_', ' '):<26}{number}")
    for title, lines in {
        "unreadable": [why for _, why in found.unreadable],
        "label conflicts": [f"{p.first} = {p.second}" for p in found.pairs if p.conflict],
        "leaks between splits": [f"{p.first} ~ {p.second}, {p.bits} bits apart" for p in found.pairs if p.leak],
        "groups in several splits": list(found.group_leaks),
    }.items():
        for line in lines[:limit]:
            print(f"{title}: {line}")
        if limit and len(lines) > limit:
            print(f"{title}: and {len(lines) - limit} more; --json FILE has all")
    if json_out:
        json_out.write_text(json.dumps({"summary": found.summary(), **asdict(found)}, indent=1))
    bad = ("unreadable", "label_conflicts", "leaks_between_splits", "groups_in_several_splits")
    if any(found.summary()[key] for key in bad):
        raise typer.Exit(1)


@data_app.command("split")
def data_split(
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; splits.csv in the folder itself.")] = None,
    label_map: LabelMap = None,
    val_share: Annotated[float, typer.Option("--val-share", min=0.05, max=0.5, help="Share of each label.")] = 0.2,
) -> None:
    """Write a splits.csv in which no near-duplicate, and no group of the set's own, is on both sides.

    Splits that the set has already are replaced.
    """
    from vision.datasets import open_dataset, read_label_map
    from vision.datasets.check import check, label_counts, regroup, write_index
    from vision.errors import ConfigError

    if not data.is_dir():
        raise ConfigError(f"{data}: no such folder")
    target = out or data / "splits.csv"
    if target.exists():
        raise ConfigError(f"{target}: is there already; name another file with --out, or remove it")
    dataset = open_dataset(data, read_label_map(label_map) if label_map else None)
    done = regroup(dataset, check(dataset, _bar("comparing")), val_share)
    write_index(done, target)
    for split, counts in label_counts(done).items():
        print(f"{split:<8}" + "  ".join(f"{label} {number}" for label, number in counts.items()))
    print(target)


@hub.command("serve")
def hub_serve(config: Config = None, override: Overrides = None) -> None:
    """Take batches in and show the statistics; prints its address."""
    from cluster.app import serve
    from cluster.config import HubConfig
    from configs import load

    serve(load(HubConfig, config, override or []))


@hub.command("aggregate")
def hub_aggregate(
    config: Config = None,
    override: Overrides = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Ray tasks, or the same kernel in this process.")
    ] = Engine.ray,
    ray_address: RayAddress = None,
) -> None:
    """Compute the fleet's statistics from all events."""
    from cluster.app import aggregate
    from cluster.config import HubConfig
    from configs import load

    done = aggregate(load(HubConfig, config, override or []), engine.value, ray_address)
    print(f"{done.events} events in {done.parts} parts -> {done.rows} rows with {done.engine} in {done.seconds:.1f} s")


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="Train on and show these photographs instead of the simulator's.")
    ] = None,
    bins: Annotated[int, typer.Option("--bins", min=1, help="Simulated bins.")] = 10,
    items: Annotated[int, typer.Option("--items", min=2, help="Items dropped into each bin.")] = 12,
    weights: Annotated[
        str | None, typer.Option("--weights", help="'scratch', 'torchvision' or a file; the shipped bundle by default.")
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Of the hub; 0 takes a free one.")] = 8040,
    folder: Annotated[Path, typer.Option("--folder", help="Everything is written here; begun anew each time.")] = Path(
        "runs/demo"
    ),
    exit: Annotated[bool, typer.Option("--exit", help="End when done; non-zero if anything did not add up.")] = False,
) -> None:
    """Show the whole line: train, export, quantise, ten bins, one killed hard, a hub, statistics, a page."""
    from binsight_demo import run_demo

    if not run_demo(data, bins, items, weights, port, folder, exit):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    if version:
        print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; errors that a user can act on are one line and exit code 2."""
    try:
        app()
    except BinsightError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"error: this command needs {error.name}: pip install 'binsight[{extra}]'", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        if "ray.train" not in str(error) and "ray.tune" not in str(error):
            raise
        print("error: this command needs Ray Train and Tune: pip install 'binsight[launch]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


_EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "onnx", "onnxscript", "safetensors", "matplotlib", "jinja2"), "train"),
    **dict.fromkeys(("onnxruntime", "apsw", "httpx2"), "edge"),
    **dict.fromkeys(("gpiozero", "lgpio"), "gpio"),
    "serial": "serial",
    "paho": "mqtt",
    **dict.fromkeys(("pandas", "tensorboardX", "fsspec"), "launch"),
    **dict.fromkeys(("fastapi", "uvicorn", "deltalake", "duckdb", "ray", "pyarrow"), "cluster"),
}


def _bundle(bundle: Path | None) -> Path:
    from edge_runtime.config import DEFAULT_BUNDLE

    return bundle or DEFAULT_BUNDLE


def _bar(what: str) -> Any:
    """Return a watcher that shows progress on a terminal and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return lambda pictures: track(pictures, what, console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    main()
