"""The front door: one command line for the three programs.

Each sub-command imports its program only when it is called.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cluster.commands import app as hub
from cluster.commands import fleet
from edge_runtime.commands import app as edge
from training.commands import LabelMap, progress
from training.commands import app as training
from vision.errors import BinsightError

if TYPE_CHECKING:
    from training.evaluate import Evaluation
    from vision.datasets import Dataset

__version__ = "0.1.0"

app = typer.Typer(
    name="binsight",
    help="Eyes for smart bins, and one honest set of numbers for the city.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(training)  # train, tune, export, quantize, card, data
app.add_typer(edge, name="edge")
app.add_typer(hub, name="hub")
app.add_typer(fleet, name="fleet")

Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="Model bundle; what ships by default.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=64, help="Threads of onnxruntime.")]


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    jsonl = "jsonl"


Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with a splits.csv, or class folders.")
]
Index = Annotated[
    Path | None,
    typer.Option("--index", help="Or a CSV: path, label, and if you have them group and split."),
]
Outliers = Annotated[
    Path | None,
    typer.Option(
        "--outliers",
        help="A set of other things (not its train split): does the bundle find them unknown?",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split to measure, empty for all; by default val, of an index all but train.",
    ),
]
ReportFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder for evaluation.json and a report page.")
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions", help="JSON lines: path, truth, label, confidence, unknown_score."
    ),
]


@app.command()
def evaluate(
    data: Data = None,
    index: Index = None,
    outliers: Outliers = None,
    bundle: Bundle = None,
    split: Split = None,
    label_map: LabelMap = None,
    out: ReportFolder = None,
    predictions: Predictions = None,
    threads: Threads = 2,
) -> None:
    """Measure a bundle on labelled images, exactly as a bin would see them.

    Things that are none of the bundle's labels measure the unknown test: name a set of them with
    --outliers, or map their names to "unknown" in the label map.
    """
    from training.evaluate import evaluate as evaluate_bundle
    from training.evaluate import trained_groups, with_outliers
    from training.report import write_evaluation
    from vision.datasets import UNKNOWN, open_dataset, read_label_map
    from vision.errors import ConfigError

    if (source := data or index) is None or (data and index):
        raise ConfigError("name the images with --data FOLDER or with --index CSV, one of them")
    names = read_label_map(label_map) if label_map else None
    whole = open_dataset(source, names)
    dataset = _measured_part(whole, split, bool(index))
    chosen = _bundle(bundle, one=True)
    trained = (
        trained_groups(chosen, whole) if all(s.split != "train" for s in dataset.samples) else set()
    )
    if outliers:
        dataset = with_outliers(dataset, open_dataset(outliers, names, unmapped=UNKNOWN), chosen)
    result = evaluate_bundle(chosen, dataset, threads, progress("evaluating"), trained)
    result.figures["left_out"] = dict(dataset.left_out)
    dataset = result.dataset
    for reason in result.figures["unreadable"]:
        print(f"left out: {reason}", file=sys.stderr)
    print(json.dumps(result.figures, indent=1), flush=True)
    if predictions:
        _write_predictions(predictions, result)
    if out:
        print(f"report: {write_evaluation(out, chosen, dataset, result)}", file=sys.stderr)


def _measured_part(whole: Dataset, split: str | None, from_index: bool) -> Dataset:
    """Return the samples to measure; say so where a part was drawn that the set does not name."""
    from dataclasses import replace

    if split is None and from_index:
        held = tuple(s for s in whole.samples if s.split != "train")
        return replace(whole, samples=held) if held else whole
    wanted = "val" if split is None else split
    dataset = whole.select(wanted) if wanted else whole
    if whole.drawn and wanted:
        print(
            f"note: the set names no splits; {len(dataset.samples)} of its {len(whole.samples)} "
            "images, which training would hold out, are measured. --split '' takes all.",
            file=sys.stderr,
        )
    return dataset


def _write_predictions(path: Path, result: Evaluation) -> None:
    """Write one JSON line for each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "path": str(s.path),
            "truth": s.label,
            "label": p.label,
            "confidence": p.confidence,
            "unknown_score": p.unknown_score,
        }
        for s, p in zip(result.dataset.samples, result.predictions, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@app.command()
def classify(
    paths: Annotated[
        list[Path], typer.Argument(help="Images and folders of images.", metavar="PATH...")
    ],
    bundle: Bundle = None,
    format: Annotated[
        Format, typer.Option("--format", help="Rows for people or JSON lines.")
    ] = Format.table,
    threads: Threads = 2,
) -> None:
    """Say what is on each image, one row or one JSON line each.

    An image that cannot be read is a line with its error. Exits with 1 only if none could be read.
    """
    from edge_runtime.classify_files import classify_paths

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
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG or JPEG) here.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a labelled set of images into this folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=10, help="Images in the set.")] = 1000,
    labels: Annotated[str, typer.Option("--labels", help="Comma-separated; all by default.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal images.")] = 0,
) -> None:
    """Render images with the procedural bin camera."""
    import cv2

    from vision.errors import ConfigError
    from vision.simulator.catalogue import CATALOGUE
    from vision.simulator.dataset import contact_sheet, simulator_dataset
    from vision.taxonomy import MATERIALS_1

    chosen = (
        MATERIALS_1.ordered(label.strip() for label in labels.split(","))
        if labels
        else tuple(CATALOGUE)
    )
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        image = contact_sheet(8, seed, chosen)
        if not cv2.haveImageWriter(str(sheet)) or not cv2.imwrite(str(sheet), image):
            raise ConfigError(
                f"--sheet {sheet}: could not be written; name a .png or .jpg in a folder you may "
                "write to"
            )
        print(sheet)
    if out:
        dataset = simulator_dataset(out, images, seed, chosen)
        print(f"{out}: {len(dataset.samples)} images, {dict(dataset.counts())}")
    if not sheet and not out:
        raise ConfigError("nothing to do: name --sheet or --out")


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Train on and show these photographs instead of the simulator's."
        ),
    ] = None,
    bins: Annotated[int, typer.Option("--bins", min=1, help="Simulated bins.")] = 10,
    items: Annotated[int, typer.Option("--items", min=2, help="Items dropped into each bin.")] = 12,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="'scratch', 'pretrained' or a file; the shipped bundle by default."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Of the hub; 0 takes a free one.")] = 8040,
    folder: Annotated[
        Path, typer.Option("--folder", help="Everything is written here; begun again each time.")
    ] = Path("runs/demo"),
    exit: Annotated[
        bool, typer.Option("--exit", help="End when done; non-zero if anything did not add up.")
    ] = False,
) -> None:
    """Show the whole line, from photographs to statistics.

    It trains, exports and quantises a model, runs ten bins and kills one hard, and serves a hub
    with statistics and a page.
    """
    from binsight_demo import Demo, run_demo

    if not run_demo(Demo(data, bins, items, weights, port, folder, exit)):
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be in the terminal's alphabet.
            stream.reconfigure(errors="backslashreplace")
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
        print(
            f"error: this command needs {error.name}: pip install 'binsight[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except ImportError as error:
        if "ray.train" not in str(error) and "ray.tune" not in str(error):
            raise
        print(
            "error: this command needs Ray Train and Tune: pip install 'binsight[launch]'",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(0)


_EXTRAS = {
    **dict.fromkeys(
        (
            "torch",
            "torchvision",
            "timm",
            "onnx",
            "onnxscript",
            "safetensors",
            "matplotlib",
            "jinja2",
        ),
        "train",
    ),
    **dict.fromkeys(("onnxruntime", "apsw", "httpx2"), "edge"),
    **dict.fromkeys(("gpiozero", "lgpio"), "gpio"),
    "serial": "serial",
    "paho": "mqtt",
    **dict.fromkeys(("pandas", "tensorboardX", "fsspec"), "launch"),
    **dict.fromkeys(("fastapi", "uvicorn", "deltalake", "duckdb", "ray", "pyarrow"), "cluster"),
}


def _bundle(bundle: Path | None, one: bool = False) -> Path:
    """Return the bundle named, or what ships: all forms of it, or its int8."""
    from edge_runtime.config import INT8_BUNDLE, SHIPPED_BUNDLES

    return bundle or (INT8_BUNDLE if one else SHIPPED_BUNDLES)


if __name__ == "__main__":
    main()
