"""Run a bundle over labelled images exactly as a bin would.

One image at a time, same preprocessing, same decision.

The session options are those of the bin.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from training.progress import Progress
from vision import metrics
from vision.bundle import bundle_digest, read_bundle, read_manifest
from vision.datasets import UNKNOWN, Dataset, Sample, read_image
from vision.decision import DecisionKind, Prediction, decide, to_prediction
from vision.errors import BundleError, DatasetError, ImageError
from vision.frames import Pixels
from vision.manifest import Manifest, Tensors
from vision.preprocess import PreprocessSpec, preprocess

Session: TypeAlias = ort.InferenceSession


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Raw answers of a graph for n images.

    Attributes:
        logits_nk, embeddings_nd: float32.
        milliseconds_n: time of the graph alone, each image.
        preprocess_ms_n: time from decoded image to the graph's input.
    """

    logits_nk: NDArray[np.float32]
    embeddings_nd: NDArray[np.float32]
    milliseconds_n: NDArray[np.float64]
    preprocess_ms_n: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a bundle does on a dataset.

    Attributes:
        figures: plain numbers for JSON and the manifest.
        predictions: one for each sample, in the dataset's order.
        matrix_kk: counts, row = truth, column = prediction, in the order of the bundle's labels.
        outputs: raw answers.
        dataset: what was measured: the one that was given, without what could not be read.
    """

    figures: dict[str, Any]
    predictions: list[Prediction]
    matrix_kk: NDArray[np.int64]
    outputs: Outputs
    dataset: Dataset


def open_session(bundle: bytes, threads: int, exact: bool = False) -> Session:
    """Return an onnxruntime session with the options that the bin uses.

    Args:
        bundle: the file's bytes.
        threads: of onnxruntime.
        exact: without graph optimisation: int8 is then computed in float, which saturates nowhere
            and is the same on every processor, at five times the time. It is the reference that a
            processor's own kernels must meet.

    Raises:
        BundleError: onnxruntime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return Session(bundle, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"onnxruntime refuses the graph: {error}") from error


def run_graph(
    session: Session,
    tensors: Tensors,
    spec: PreprocessSpec,
    images: Iterable[Pixels],
    progress: Progress = iter,
) -> Outputs:
    """Run BGR images through a graph, one by one."""
    logits = []
    embeddings = []
    times = []
    before = []
    for pixels in progress(images):
        began = time.perf_counter()
        x_nhwc = preprocess(pixels, spec)
        started = time.perf_counter()
        before.append(1000 * (started - began))
        row, embedding = session.run([tensors.logits, tensors.embedding], {tensors.input: x_nhwc})
        times.append(1000 * (time.perf_counter() - started))
        logits.append(row[0])
        embeddings.append(embedding[0])
    return Outputs(
        np.array(logits, np.float32),
        np.array(embeddings, np.float32),
        np.array(times),
        np.array(before),
    )


def evaluate(
    bundle: Path,
    dataset: Dataset,
    threads: int = 2,
    progress: Progress = iter,
    trained_groups: Collection[str] = (),
) -> Evaluation:
    """Evaluate a bundle on a dataset.

    Images that cannot be read are left out, and named in the figures.

    Args:
        bundle: verified before use.
        dataset: every label in it must be known to the bundle, or be UNKNOWN; select or map before.
        trained_groups: groups of the set's training part: images of theirs are near-duplicates of
            trained ones.
        threads: of onnxruntime.
        progress: wraps the images, for a progress bar.

    Raises:
        BundleError: the bundle must not be run.
        DatasetError: a label that the bundle does not know, or no image that can be read.
    """
    data, manifest = read_bundle(bundle)
    _must_know(manifest, dataset)
    unreadable: dict[Path, str] = {}

    def images() -> Iterator[Pixels]:
        for sample in progress(dataset.samples):
            try:
                yield read_image(sample.path)
            except ImageError as error:
                unreadable[sample.path] = str(error)

    outputs = run_graph(
        open_session(data, threads), manifest.tensors, manifest.preprocess, images()
    )
    if len(unreadable) == len(dataset.samples):
        raise DatasetError(
            f"{dataset.name}: no image can be read, e.g. {next(iter(unreadable.values()))}"
        )
    dataset = replace(
        dataset, samples=tuple(s for s in dataset.samples if s.path not in unreadable)
    )
    predictions, figures, matrix = score(manifest, dataset, outputs, trained_groups)
    figures |= {"bundle_sha256": bundle_digest(data), "unreadable": list(unreadable.values())}
    return Evaluation(figures, predictions, matrix, outputs, dataset)


def with_outliers(dataset: Dataset, outliers: Dataset, bundle: Path) -> Dataset:
    """Return the dataset with another's images of labels that the bundle lacks, labelled UNKNOWN.

    Of a set that has splits, the training part is left out: the bundle may have learnt from it what
    an outlier is.

    Raises:
        DatasetError: there are none.
    """
    known = set(read_manifest(bundle).labels)
    others = [s for s in outliers.samples if s.label not in known]
    held = [s for s in others if s.split != "train"] or others
    if not held:
        raise DatasetError(
            f"{outliers.name}: every label in it is one of the bundle's; it holds no outlier"
        )
    added = tuple(replace(s, label=UNKNOWN, group=f"{outliers.name}/{s.group}") for s in held)
    return replace(
        dataset, samples=dataset.samples + added, left_out=dataset.left_out + outliers.left_out
    )


def score(
    manifest: Manifest, dataset: Dataset, outputs: Outputs, trained_groups: Collection[str] = ()
) -> tuple[list[Prediction], dict[str, Any], NDArray[np.int64]]:
    """Turn raw outputs into predictions, figures and a confusion matrix.

    Images labelled UNKNOWN count in the figures under "unknown" alone.

    Raises:
        DatasetError: the dataset holds a label that the bundle does not know, or no other.
    """
    _must_know(manifest, dataset)
    labels = manifest.labels
    predictions = [
        to_prediction(row, embedding, labels, manifest.policy, manifest.stats)
        for row, embedding in zip(outputs.logits_nk, outputs.embeddings_nd, strict=True)
    ]
    kinds = [decide(p, manifest.policy, manifest.taxonomy).kind for p in predictions]
    # A hazard is decided too: its stream opens.
    decided_n = np.array([k in (DecisionKind.KNOWN, DecisionKind.HAZARD) for k in kinds])
    known_n = np.array([s.label != UNKNOWN for s in dataset.samples])
    if not known_n.any():
        raise DatasetError(
            f"{dataset.name}: no image has a label of the bundle; there is nothing to be right "
            "about"
        )
    samples = tuple(s for s in dataset.samples if s.label != UNKNOWN)
    of_known = [p for p, is_known in zip(predictions, known_n, strict=True) if is_known]
    truth_n = np.array([labels.index(s.label) for s in samples])
    predicted_n = np.array([labels.index(p.label) for p in of_known])
    matrix = metrics.confusion_matrix(truth_n, predicted_n, len(labels))
    correct_n = truth_n == predicted_n
    figures: dict[str, Any] = {
        **_provenance(manifest, replace(dataset, samples=samples)),
        "images": len(samples),
        "accuracy": metrics.accuracy(matrix),
        **_by_group(list(samples), correct_n, trained_groups),
        "macro_f1": metrics.macro_f1(matrix),
        "recall": _by_label(labels, metrics.recall_per_label(matrix)),
        "precision": _by_label(labels, metrics.precision_per_label(matrix)),
        **_of_confidence(of_known, correct_n, decided_n[known_n]),
        "ms_per_image": {
            "preprocess": round(float(np.median(outputs.preprocess_ms_n)), 3),
            "graph": round(float(np.median(outputs.milliseconds_n)), 3),
        },
    }
    if hazards := {label for label in labels if manifest.taxonomy.material(label).hazard}:
        figures["hazard"] = _of_alarm(kinds, [s.label in hazards for s in dataset.samples])
    if not known_n.all():
        familiar_n = -np.array([p.unknown_score for p in predictions])
        figures["unknown"] = {
            "images": int((~known_n).sum()),
            "auroc": metrics.auroc(familiar_n, known_n),
            "taken_for_known_at_95_recall": metrics.fpr_at_recall(familiar_n, known_n),
            "called_known": float(np.mean(decided_n[~known_n])),
        }
    return predictions, figures, matrix


def trained_groups(bundle: Path, whole: Dataset) -> set[str]:
    """Return the groups of the set's training part; none if the bundle was trained on others."""
    train = tuple(s for s in whole.samples if s.split == "train" and s.label != UNKNOWN)
    unsuspected = tuple(s for s in train if not s.suspect)
    digests = [replace(whole, samples=some).digest() for some in (train, unsuspected)]
    return (
        {s.group for s in train}
        if _lineage_digests(read_manifest(bundle), "train") & set(digests)
        else set()
    )


def _must_know(manifest: Manifest, dataset: Dataset) -> None:
    if unknown := dataset.labels() - set(manifest.labels) - {UNKNOWN}:
        raise DatasetError(
            f"{dataset.name}: the bundle does not know {', '.join(sorted(unknown))}; with "
            "--label-map, map them to "
            f"'{UNKNOWN}' (they then measure the unknown test) or to null (they are left out)"
        )


def _provenance(manifest: Manifest, known: Dataset) -> dict[str, Any]:
    """Return which images a figure is of, and whether the policy was fitted on them.

    Thresholds and temperature look better on the very images that they were fitted on. Whether
    other digests are of other images, or of the same under other names, nobody can say: None.

    Args:
        manifest: of the bundle.
        known: the images with a label of the bundle.
    """
    digest = known.digest()
    fitted = _lineage_digests(manifest, "val") & {digest, _digest(known.samples, "val")}
    return {
        "dataset": known.name,
        "dataset_sha256": digest,
        "splits": dict(Counter(s.split or "none" for s in known.samples)),
        "policy_fitted_on_these_images": bool(fitted) or None,
    }


def _of_confidence(
    predictions: list[Prediction], correct_n: NDArray[np.bool_], decided_n: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return what the confidence is worth: calibration, coverage, and what the policy decides.

    Args:
        predictions: for images of known labels.
        correct_n: whether each is right.
        decided_n: whether the policy decides it.
    """
    confidence_n = np.array([p.confidence for p in predictions])
    return {
        "calibration_error": metrics.calibration_error(confidence_n, correct_n),
        "coverage_at_risk": {
            str(r): metrics.coverage_at(confidence_n, correct_n, r) for r in (0.01, 0.02, 0.05)
        },
        "decided_share": float(decided_n.mean()),
        "decided_accuracy": float(correct_n[decided_n].mean()) if decided_n.any() else None,
    }


def _of_alarm(kinds: list[DecisionKind], shows_hazard: list[bool]) -> dict[str, float | None]:
    """Return the shares of images with a hazard, and without one, for which the bin alarms."""
    alarm_n = np.array([k == DecisionKind.HAZARD for k in kinds])
    shows_n = np.array(shows_hazard)
    return {
        "recall": float(alarm_n[shows_n].mean()) if shows_n.any() else None,
        "false_alarms": float(alarm_n[~shows_n].mean()) if not shows_n.all() else None,
    }


def _lineage_digests(manifest: Manifest, split: str) -> set[str]:
    """Return the digests of all that a bundle was trained or fitted on, and of each set in it."""
    lineage = manifest.lineage
    return {
        lineage.get(f"{split}_sha256", ""),
        *lineage.get(f"{split}_sets_sha256", "").split(),
    } - {""}


def _digest(samples: tuple[Sample, ...], split: str) -> str:
    return Dataset("", tuple(s for s in samples if s.split == split)).digest()


def _interval(groups: list[str], statistic: Callable[[Any], float]) -> list[float]:
    return list(metrics.group_bootstrap(groups, statistic))


def _by_label(
    labels: tuple[str, ...], shares_k: NDArray[np.floating[Any]]
) -> dict[str, float | None]:
    """Return label -> share; None where it is undefined: NaN is no JSON."""
    return {
        label: None if np.isnan(share) else float(share)
        for label, share in zip(labels, shares_k, strict=True)
    }


def _by_group(
    samples: list[Sample], correct_n: NDArray[np.bool_], trained_groups: Collection[str]
) -> dict[str, Any]:
    """Return intervals, each object counted once, and figures without near-duplicates of training.

    Args:
        samples: of known labels.
        correct_n: bool, whether each is right.
        trained_groups: groups whose images are near-duplicates of trained ones.
    """
    groups = [s.group for s in samples]
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    weight_n = 1 / np.bincount(index)[index]
    figures: dict[str, Any] = {
        "accuracy_95": _interval(groups, lambda some: float(correct_n[some].mean())),
        "accuracy_95_by_image": _interval(
            [str(i) for i in range(len(groups))], lambda some: float(correct_n[some].mean())
        ),
        "accuracy_by_object": float(np.average(correct_n, weights=weight_n)),
        "accuracy_by_object_95": _interval(
            groups, lambda some: float(np.average(correct_n[some], weights=weight_n[some]))
        ),
    }
    fresh_n = np.array([group not in trained_groups for group in groups])
    if trained_groups and fresh_n.any() and not fresh_n.all():

        def gap(some: NDArray[np.integer[Any]]) -> float:
            left = some[fresh_n[some]]
            return (
                float(correct_n[some].mean() - correct_n[left].mean())
                if len(left)
                else float("nan")
            )

        figures["without_near_duplicates"] = {
            "images": int(fresh_n.sum()),
            "accuracy": float(correct_n[fresh_n].mean()),
            "accuracy_95": _interval(
                [g for g, fresh in zip(groups, fresh_n, strict=True) if fresh],
                lambda some: float(correct_n[fresh_n][some].mean()),
            ),
            "inflation": gap(np.arange(len(groups))),
            "inflation_95": _interval(groups, gap),
        }
    return figures
