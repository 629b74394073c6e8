"""Adapt a bundle to a place by a few labelled images of it, without forgetting what it knew.

The images of the place and those of the sets that the bundle knows (the rehearsal) are trained on
together, in equal parts, from the bundle's weights. The policy is fitted on images of the place
that were held out, and the new bundle is refused if it forgets, or learns nothing. How much so many
images buy: docs/adaptation.md. Source of rehearsal: Robins, "Catastrophic forgetting, rehearsal
and pseudorehearsal", Connection Science, 1995.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs import dump, load
from training.config import DataConfig, ModelConfig, RecipeConfig, TrainConfig
from training.data import Images, open_training_data, set_name
from training.evaluate import open_session, run_graph
from training.export import export
from training.interpolate import between_the_places
from training.progress import Progress, on_terminal
from training.quantize import quantize
from training.recipes.finetune import finetune
from training.stamp import refit
from vision import metrics
from vision.bundle import bundle_digest, read_bundle, read_manifest
from vision.datasets import Dataset, Sample, read_label_map
from vision.errors import BundleError, ConfigError
from vision.files import write_atomically
from vision.manifest import Manifest
from vision.taxonomy import MATERIALS_1

# What a bundle may lose on a set that it knew, as a share of its val images.
MAX_FORGOTTEN = 0.015
# So many images of a set may be lost without a verdict.
FEW_IMAGES = 2
# The bundle's name until it is accepted.
CANDIDATE = "candidate-int8.onnx"
# Images that a network is shown in all, half of them of the place: what two old cores train on in
# ten minutes.
IMAGES_SHOWN = 4000
# The bundle has learnt to see already: its first stages stay, the others move a little.
RECIPE = RecipeConfig(
    epochs=4,
    batch_size=48,
    learning_rate=5e-4,
    warmup_epochs=1,
    mixup_alpha=0.2,
    mixup_off_epochs=1,
    ema_decay=0.98,
    freeze_stages=5,
    freeze_norms=True,
    outlier_share=0.05,
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a bundle got right before and after, on the val images of one set.

    Attributes:
        dataset: name of the set.
        labels: of its images, "all" or "known before".
        images: number of images.
        before, after: accuracy, 0..1.
        before_95, after_95: 95 % intervals by groups.
        change_95: 95 % interval of after minus before, both on the same images.
    """

    dataset: str
    labels: str
    images: int
    before: float
    before_95: tuple[float, float]
    after: float
    after_95: tuple[float, float]
    change_95: tuple[float, float]

    @property
    def lost(self) -> float:
        """Images right before and wrong after, less those the other way round."""
        return (self.before - self.after) * self.images


@dataclass(frozen=True, slots=True)
class Adaptation:
    """An adapted bundle.

    Attributes:
        bundle: the int8 file.
        manifest: of it.
        changes: of the place first, then of each set of the rehearsal.
    """

    bundle: Path
    manifest: Manifest
    changes: tuple[Change, ...]

    def table(self) -> str:
        """Return a table for people."""
        head = (
            f"{'val images of':<28}{'images':>7}  {'before (95 %)':<24}{'after (95 %)':<24}change"
        )
        rows = [head]
        for c in self.changes:
            what = c.dataset if c.labels == "all" else f"{c.dataset}, {c.labels}"
            before = _with_interval(c.before, c.before_95)
            after = _with_interval(c.after, c.after_95)
            change = f"{c.after - c.before:+.3f} ({c.change_95[0]:+.3f} to {c.change_95[1]:+.3f})"
            rows.append(f"{what:<28}{c.images:>7}  {before:<24}{after:<24}{change}")
        return "\n".join(rows)


def adapt(config: TrainConfig) -> Adaptation:
    """Train, export, quantise, fit the policy on the place, compare with the bundle of before.

    A stopped adaptation goes on where it was. Leaves in `config.out` what a training run leaves,
    and float.onnx, int8.onnx, adaptation.json.

    Args:
        config: from `plan`.

    Raises:
        BundleError: the new bundle forgets more than MAX_FORGOTTEN of a set, is worse on the place,
            or int8 loses too much; the message holds the table.
    """
    bundle = Path(config.model.weights)
    out = config.out
    train, val = open_training_data(config.data, config.seed, out / "images")
    finetune(config)
    between_the_places(config, train)
    float_path = out / "float.onnx"
    candidate = out / CANDIDATE
    export(out, float_path, progress=on_terminal("exporting"))
    quantize(float_path, candidate, train, val, progress=on_terminal("quantising"))
    of_site = of_set(val, set_name(config.data.root or Path()))
    licences = read_manifest(bundle).data_licences
    refit(float_path, train, of_site, {}, licences)
    parent = {"float_bundle_sha256": bundle_digest(float_path)}
    manifest = refit(candidate, train, of_site, parent, licences)
    changes = compare(bundle, candidate, val, on_terminal("comparing"))
    document = {"from": str(bundle), "changes": [asdict(c) for c in changes]}
    write_atomically(out / "adaptation.json", json.dumps(document, indent=1).encode())
    return accept(Adaptation(candidate, manifest, changes))


def plan(
    bundle: Path,
    site: Path,
    rehearsal: Sequence[Path],
    out: Path,
    label_map: Path | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """Return the training that adapts a bundle to a place.

    Place and rehearsal have equal parts in an epoch, whatever their sizes, and all epochs together
    show IMAGES_SHOWN images.

    Args:
        bundle: to start from, float or int8; its manifest names the network.
        site: labelled images of the place.
        rehearsal: sets that the bundle must not forget.
        out: run folder.
        label_map: JSON file, name in the data -> label; other names stand for themselves.
        overrides: "key=value" settings of the training, over `RECIPE`.

    Raises:
        ConfigError: the bundle's network is not known, the place has no train or no val images, or
            there are no images of a label that the bundle knows.
    """
    manifest = read_manifest(bundle)
    if bundle.resolve().parent == out.resolve():
        raise ConfigError(f"--out {out}: {bundle.name} lies there and would be replaced")
    _must_have_names_of_their_own([site, *rehearsal])
    out.mkdir(parents=True, exist_ok=True)
    spec = manifest.preprocess
    planned = TrainConfig(
        data=DataConfig(
            root=site,
            also=tuple(rehearsal),
            label_map=_label_map(label_map, bool(rehearsal), out),
            outliers_simulated=200,
            note=manifest.data_licences.get("note", ""),
        ),
        model=ModelConfig(
            name=_network(manifest, bundle, overrides),
            weights=str(bundle),
            size_px=spec.width_px,
            fit=spec.fit,
        ),
        recipe=RECIPE,
    )
    dump(planned, out / "adapt.yaml")
    config = load(TrainConfig, out / "adapt.yaml", overrides)
    train, val = open_training_data(config.data, config.seed, out / "images")
    _must_hold(manifest, train, val, set_name(site))
    half = IMAGES_SHOWN / config.recipe.epochs / 2
    own = len(of_set(train, set_name(site)).samples)
    repeat = {set_name(site): half / own}
    for root in rehearsal:
        repeat[set_name(root)] = half / (len(train.samples) - own)
    data = config.data.model_copy(update={"repeat": config.data.repeat or repeat})
    return config.model_copy(update={"data": data, "out": out})


def compare(
    before: Path, after: Path, val: Dataset, progress: Progress = iter
) -> tuple[Change, ...]:
    """Return what two bundles get right on the val images, set by set.

    An image of a label that the bundle of before lacks is wrong before.

    Args:
        before: a bundle.
        after: another.
        val: of one set, or of several merged ones.
        progress: wraps the images, for a progress bar.
    """
    right = [_right(bundle, val.samples, progress) for bundle in (before, after)]
    known = set(read_manifest(before).labels)
    sets = [val.set_of(s) for s in val.samples]
    changes = []
    for name in dict.fromkeys(sets):
        of_set = np.array([s == name for s in sets])
        of_known = of_set & np.array([s.label in known for s in val.samples])
        changes.append(_change(name, "all", val.samples, of_set, *right))
        if of_known.any() and (of_known != of_set).any():
            changes.append(_change(name, "known before", val.samples, of_known, *right))
    return tuple(changes)


def _right(bundle: Path, samples: Sequence[Sample], progress: Progress) -> NDArray[np.bool_]:
    data, manifest = read_bundle(bundle)
    images = Images(tuple(samples), 0)
    outputs = run_graph(
        open_session(data, 2), manifest.tensors, manifest.preprocess, images, progress
    )
    called = [manifest.labels[i] for i in outputs.logits_nk.argmax(1)]
    return np.array([name == s.label for name, s in zip(called, samples, strict=True)])


def _change(
    name: str,
    labels: str,
    samples: Sequence[Sample],
    chosen: NDArray[np.bool_],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
) -> Change:
    groups = [s.group for s, is_chosen in zip(samples, chosen, strict=True) if is_chosen]
    old = before[chosen].astype(np.float64)
    new = after[chosen].astype(np.float64)
    intervals = [_interval(groups, values) for values in (old, new, new - old)]
    return Change(
        name,
        labels,
        len(groups),
        float(old.mean()),
        intervals[0],
        float(new.mean()),
        *intervals[1:],
    )


def _interval(groups: list[str], values: NDArray[np.float64]) -> tuple[float, float]:
    return metrics.group_bootstrap(groups, lambda some: float(values[some].mean()))


def accept(done: Adaptation) -> Adaptation:
    """Give the file of a bundle its name, or refuse what is worse than the bundle of before.

    Where there are new labels, what the bundle of before knew is compared: they would hide a loss.
    A few images more or less of a small set are no evidence.

    Returns:
        the same, its bundle named int8.onnx; a refused one is named refused-int8.onnx.

    Raises:
        BundleError: it forgets, or is worse on the place.
    """
    compared = {c.dataset: c for c in done.changes}  # "known before" comes after "all"
    own, *others = compared.values()
    refusal = ""
    if own.lost > FEW_IMAGES:
        refusal = (
            f"is worse on {own.dataset} than before: check its labels with 'binsight data check', "
            "or add images"
        )
    for c in others:
        if c.before - c.after > MAX_FORGOTTEN and c.lost > FEW_IMAGES:
            refusal = (
                f"forgets {c.before - c.after:.3f} of {c.dataset} ({MAX_FORGOTTEN} allowed): train "
                "more gently, with --set recipe.learning_rate=0.0003"
            )
    name = "refused-int8.onnx" if refusal else "int8.onnx"
    bundle = done.bundle.replace(done.bundle.with_name(name))
    if refusal:
        raise BundleError(f"{bundle}: {refusal}\n{done.table()}")
    return replace(done, bundle=bundle)


def of_set(merged: Dataset, name: str) -> Dataset:
    """Return the samples of one of several merged sets; their names stay as they are there."""
    chosen = tuple(s for s in merged.samples if merged.set_of(s) == name)
    return replace(merged, name=name, samples=chosen)


def _network(manifest: Manifest, bundle: Path, overrides: Sequence[str]) -> str:
    named = [
        text.removeprefix("model.name=") for text in overrides if text.startswith("model.name=")
    ]
    network = manifest.lineage.get("network") or "".join(named[-1:])
    if not network:
        raise ConfigError(
            f"{bundle}: its manifest names no network, as of earlier versions; name it with "
            "--set model.name=timm:tf_efficientnet_lite2 or the like"
        )
    return network


def _label_map(label_map: Path | None, rehearsal: bool, out: Path) -> Path:
    """Write the label map that place and rehearsal share, and return its path.

    Raises:
        ConfigError: it changes a label that the rehearsal has, too.
    """
    named = read_label_map(label_map) if label_map else {}
    own = {label: label for label in MATERIALS_1.labels}
    if rehearsal and (changed := sorted(k for k, v in named.items() if own.get(k, v) != v)):
        raise ConfigError(
            f"{label_map}: {', '.join(changed)} would change in the sets of --rehearse, too; give "
            "the images of the place another name"
        )
    path = out / "labels.json"
    write_atomically(path, json.dumps({**own, **named}, indent=1).encode())
    return path


def _must_have_names_of_their_own(roots: Sequence[Path]) -> None:
    names = [set_name(root) for root in roots]
    if len(set(names)) < len(names) or any("+" in name for name in names):
        raise ConfigError(
            f"--data, --rehearse: sets are told apart by the names of their folders ("
            f"{', '.join(names)}): rename one; a name has no '+'"
        )


def _must_hold(manifest: Manifest, train: Dataset, val: Dataset, site: str) -> None:
    for part, split in (("train", train), ("val", val)):
        if not of_set(split, site).samples:
            raise ConfigError(
                f"{site}: no image in its {part} part; make splits with 'binsight data split'"
            )
    if missing := sorted(set(manifest.labels) - train.labels()):
        raise ConfigError(
            f"{train.name}: no image of {', '.join(missing)}, which the bundle knows and would "
            "forget. Add a set that has them with --rehearse, such as the one that it was trained "
            "on ('binsight data list')."
        )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
