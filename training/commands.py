"""`binsight train`, `tune`, `export`, `quantize` and `binsight data ...`.

Each imports its part when it is called.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.progress import Progress

app = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Sets of labelled images: list, fetch, check, split.")
app.add_typer(data, name="data")

Config = Annotated[Path | None, typer.Option("--config", help="YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. recipe.epochs=5."),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder with a splits.csv or with one sub-folder for each label, or a CSV."
    ),
]
LabelMap = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        help='JSON file: {"name in the data": "label", "unknown" or null}; other names are left '
        "out.",
    ),
]
FromBundle = Annotated[
    Path | None,
    typer.Option("--from", metavar="BUNDLE", help="Adapt this bundle to the place of --data."),
]
Place = Annotated[
    Path | None,
    typer.Option(
        "--data", help="With --from: labelled photographs of the place, 5 or more a label."
    ),
]
Rehearse = Annotated[
    list[Path] | None,
    typer.Option("--rehearse", help="With --from: a set that must not be forgotten; repeatable."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="A running Ray cluster; a local one by default.")
]


class Launcher(StrEnum):
    """Where a training runs."""

    local = "local"
    ray = "ray"


@app.command()
def train(
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; a stopped run in it is continued.")
    ] = None,
    override: Overrides = None,
    launcher: Annotated[
        Launcher, typer.Option("--launcher", help="In this process, or on Ray workers.")
    ] = Launcher.local,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="With ray: processes that train together.")
    ] = 2,
    ray_address: RayAddress = None,
    from_bundle: FromBundle = None,
    data: Place = None,
    rehearse: Rehearse = None,
    label_map: LabelMap = None,
) -> None:
    """Fine-tune a classifier on labelled photographs; continues where a killed run stopped.

    With --from BUNDLE --data PLACE it adapts a bundle to a place by a few photographs of it, and
    says what it got right before and after: docs/adaptation.md.

    With --launcher ray the same recipe runs on several workers, each with its share of every batch;
    a worker that dies is replaced and the run goes on from its last checkpoint. All nodes must see
    data and run folder by the same path.
    """
    from configs import load
    from training.config import TrainConfig
    from training.recipes.finetune import finetune
    from training.report import write_report
    from vision.errors import ConfigError

    if from_bundle:
        if config or launcher is not Launcher.local:
            raise ConfigError("--from: goes without --config and Ray; change settings with --set")
        _adapt(from_bundle, data, rehearse or [], out, label_map, override or [])
        return
    if data or rehearse or label_map:
        raise ConfigError("--data, --rehearse, --label-map: go with --from; else --set data.root=")
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
    out: Annotated[Path, typer.Option("--out", help="Folder; each trial is a run in it.")] = Path(
        "runs/tune"
    ),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings to try.")] = 20,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Trials at the same time; they share the cores.")
    ] = 1,
    override: Overrides = None,
    ray_address: RayAddress = None,
) -> None:
    """Search the recipe's settings with Ray Tune; trials that fall behind are stopped early.

    Writes trials.json, best first, and best.yaml to train with. The val split is what the search
    looks at: measure the winner on something else.
    """
    from dataclasses import asdict

    from configs import dump, load, with_values
    from training.config import TrainConfig
    from training.launch import tune as search
    from vision.errors import ConfigError

    settings = load(TrainConfig, config, override or []).model_copy(update={"out": out})
    done = search(settings, trials, at_once, ray_address)
    if not done:
        raise ConfigError(
            f"{out}: every trial failed; try one alone with 'binsight train' to see why"
        )
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
    """Export a run as a float bundle.

    ONNX, manifest inside, checked against torch on every val image.
    """
    from training.export import export as export_run

    manifest = export_run(run, out, progress=progress("exporting"))
    val = manifest.metrics["val"]
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {manifest.precision}, val accuracy "
        f"{val['accuracy']:.4f}, "
        f"greatest logit difference to torch {manifest.metrics['torch_logit_difference']:.1e}"
    )


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="Float bundle.")],
    run: Annotated[
        Path,
        typer.Option(
            "--run", help="The training run it came from: its data calibrates and measures."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Int8 bundle to write.")],
) -> None:
    """Quantise a float bundle to int8, measure it again and stamp what was measured."""
    from training.data import open_training_data
    from training.quantize import quantize as quantize_bundle
    from training.runs import Run, load_trained
    from vision.bundle import read_manifest
    from vision.errors import ConfigError

    _, _, settings = load_trained(run)
    if read_manifest(bundle).lineage.get("checkpoint_sha256") != Run(run).digest():
        raise ConfigError(
            f"{bundle}: was not exported from {run} as it is now; name its run with --run, or "
            "export it again"
        )
    train_set, val = open_training_data(settings.data, settings.seed, Run(run).images)
    Run(run).must_be_of(train_set, val)
    manifest = quantize_bundle(bundle, out, train_set, val, progress=progress("quantising"))
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, int8, val accuracy "
        f"{manifest.metrics['val']['accuracy']:.4f}"
    )


@app.command()
def card(
    bundle: Annotated[Path, typer.Argument(help="Float or int8 bundle.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the two files.")] = Path(),
) -> None:
    """Write a bundle's model card and data card, in Markdown, from its manifest."""
    from training.cards import write_cards

    for path in write_cards(bundle, out):
        print(path)


@data.command("list")
def data_list() -> None:
    """Show the public sets that can be fetched, with their licences.

    And what the licence allows.
    """
    from training.public import PUBLIC_SETS

    for name, s in PUBLIC_SETS.items():
        ship = (
            "models may ship"
            if s.shippable
            else "measuring only: no shipped model may be trained on it"
        )
        print(f"{name:<12} {s.licence:<16} {ship}\n             {s.title}\n             {s.source}")


@data.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a public set; see 'binsight data list'.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to unpack into; must be new or empty.")
    ],
    url: Annotated[
        str | None, typer.Option("--url", help="A mirror instead of the set's own address.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What the archive must be.")
    ] = None,
) -> None:
    """Download a public set, compare its checksum, show its licence, unpack it."""
    from training.progress import byte_bar
    from training.public import fetch

    with byte_bar("downloading") as advance:
        done = fetch(name, out, url, sha256, advance)
    print(
        f"{out}: {done.files} files, sha256 {done.sha256} ({done.verified})\nlicence: "
        f"{done.licence}"
    )


@data.command("check")
def data_check(
    data: Data,
    label_map: LabelMap = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write every finding here.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Findings of each kind to print.")
    ] = 10,
) -> None:
    """Find unreadable images, duplicates, label conflicts and leaks between splits.

    Duplicates may be exact or near.

    Exits with 1 if there is anything that falsifies a measurement: unreadable files, label
    conflicts or leaks.
    """
    from dataclasses import asdict

    from vision.datasets import open_dataset, read_label_map
    from vision.datasets.check import check, label_counts

    dataset = open_dataset(data, read_label_map(label_map) if label_map else None)
    found = check(dataset, progress("checking"))
    for split, counts in label_counts(dataset).items():
        print(f"{split:<8}" + "  ".join(f"{label} {number}" for label, number in counts.items()))
    if dataset.left_out:
        print("left out: " + ", ".join(f"{name} ({number})" for name, number in dataset.left_out))
    for key, number in found.summary().items():
        print(f"{key.replace('_', ' '):<26}{number}")
    for title, lines in {
        "unreadable": [reason for _, reason in found.unreadable],
        "label conflicts": [f"{p.first} = {p.second}" for p in found.pairs if p.conflict],
        "leaks between splits": [
            f"{p.first} ~ {p.second}, {p.bits} bits apart" for p in found.pairs if p.leak
        ],
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


@data.command("split")
def data_split(
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; splits.csv in the folder itself.")
    ] = None,
    label_map: LabelMap = None,
    val_share: Annotated[
        float, typer.Option("--val-share", min=0.05, max=0.5, help="Share of each label.")
    ] = 0.2,
) -> None:
    """Write a splits.csv in which no near-duplicate and no group of the set is on both sides.

    Splits that the set has already are replaced.
    """
    from vision.datasets import open_dataset, read_label_map
    from vision.datasets.check import check, label_counts, regroup, write_index
    from vision.errors import ConfigError

    target = out or (data if data.is_dir() else data.parent) / "splits.csv"
    if target.exists():
        raise ConfigError(f"{target}: is there already; name another file with --out, or remove it")
    dataset = open_dataset(data, read_label_map(label_map) if label_map else None)
    found = check(dataset, progress("comparing"))
    done = regroup(dataset, found, val_share)
    write_index(done, target)
    for _, reason in found.unreadable:
        print(f"left out: {reason}")
    for split, counts in label_counts(done).items():
        print(f"{split:<8}" + "  ".join(f"{label} {number}" for label, number in counts.items()))
    print(
        f"{target}: its labels are binsight's own, so it is used without a label map"
        if label_map
        else target
    )


def _adapt(
    bundle: Path,
    site: Path | None,
    rehearse: list[Path],
    out: Path | None,
    label_map: Path | None,
    overrides: list[str],
) -> None:
    from training.adapt import adapt, plan
    from training.report import write_report
    from vision.errors import ConfigError

    if site is None:
        raise ConfigError("--from: name the photographs of the place with --data")
    out = out or Path("runs/adapted")
    done = adapt(plan(bundle, site, rehearse, out, label_map, overrides))
    print(f"{done.table()}\n{done.bundle}; report: {write_report(out)}")


def progress(description: str) -> Progress:
    """Return what shows progress on a terminal and nothing elsewhere."""
    from training.progress import on_terminal

    return on_terminal(description)
