"""Pages for people: curves, confusion matrix, the worst mistakes as images.

One self-contained HTML file each.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("svg")
import matplotlib.pyplot as plt

from training.calibrate import fit_temperature
from training.data import open_training_data, prepare
from training.evaluate import Evaluation
from training.models import predict_logits
from training.runs import Run, load_trained
from vision import metrics
from vision.bundle import read_manifest
from vision.datasets import UNKNOWN, Dataset, Sample, read_image, shown
from vision.decision import softmax
from vision.files import write_atomically

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

WORST = 24

_PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{{ title }}</title><style>
body{font:15px/1.5 system-ui,sans-serif;color:#1c2a28;max-width:1080px;margin:28px auto;padding:0 20px}
h1{font-size:24px}h2{font-size:17px;margin-top:30px}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{border-top:1px solid #e2e9e6;padding:5px 14px 5px 0;text-align:left}.plots{display:flex;flex-wrap:wrap;gap:16px}
.plots svg{max-width:100%;height:auto}.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(160px,1fr));gap:12px}
figure{margin:0}figure img{width:100%;border-radius:6px}figcaption{font-size:13px;color:#667873}</style>
<h1>{{ title }}</h1>
<table>{% for key, value in rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<div class="plots">{% for plot in plots %}{{ plot|safe }}{% endfor %}</div>
<h2>The worst mistakes</h2>
{% if worst %}<div class="worst">{% for m in worst %}<figure><img alt="{{ m.name }}" src="data:image/jpeg;base64,{{ m.jpeg }}">
<figcaption>{{ m.truth }} predicted as <b>{{ m.label }}</b>, {{ m.confidence }}<br>{{ m.name }}</figcaption></figure>{% endfor %}</div>
{% else %}<p>None: every image was right.</p>{% endif %}
</html>""")


@dataclass(frozen=True, slots=True)
class _Mistake:
    name: str
    truth: str
    label: str
    confidence: str
    jpeg: str


def write_report(run: Path) -> Path:
    """Write `report.html` into a training run: curves, and its kept weights on the val images.

    Return its path.
    """
    model, labels, config = load_trained(run)
    _, val = open_training_data(config.data, config.seed, Run(run).images)
    logits = predict_logits(
        model, prepare(val.samples, config.model.bundle_preprocess()), torch.device("cpu")
    )
    truth = np.array([labels.index(s.label) for s in val.samples])
    probabilities = softmax(logits, fit_temperature(logits, truth))
    matrix = metrics.confusion_matrix(truth, probabilities.argmax(1), len(labels))
    history = Run(run).history()
    rows = [
        (
            "network",
            f"{config.model.name}, {config.model.size_px} px, weights "
            f"{Path(config.model.weights).name}",
        ),
        ("epochs", f"{len(history)}, {sum(h['seconds'] for h in history) / 60:.1f} minutes"),
        *_headline(matrix, labels),
    ]
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == truth
    plots = [
        _curves(history),
        _confusion(matrix, labels),
        _risk(confidence, correct),
        _reliability(confidence, correct),
    ]
    return _write(
        run / "report.html",
        f"Training of {run.name} on {val.name}",
        rows,
        plots,
        _worst(val.samples, labels, probabilities),
    )


def write_evaluation(out: Path, bundle: Path, dataset: Dataset, result: Evaluation) -> Path:
    """Write `evaluation.json` and `evaluation.html` into a folder; return the page's path."""
    manifest = read_manifest(bundle)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "evaluation.json", json.dumps(result.figures, indent=1).encode())
    probabilities = np.array(
        [[p.probabilities[label] for label in manifest.labels] for p in result.predictions]
    )
    rows = [
        (
            "bundle",
            f"{manifest.model_id}, {manifest.precision}, {result.figures['bundle_sha256'][:12]}",
        ),
        *_headline(result.matrix_kk, manifest.labels),
        (
            "accuracy, 95 % interval by groups",
            "{:.3f} to {:.3f}".format(*result.figures["accuracy_95"]),
        ),
        ("accuracy, each object once", f"{result.figures['accuracy_by_object']:.3f}"),
        ("calibration error", f"{result.figures['calibration_error']:.3f}"),
        ("decided", f"{result.figures['decided_share']:.1%} of images"),
    ]
    if fresh := result.figures.get("without_near_duplicates"):
        rows.append(
            ("accuracy without near-duplicates of training images", f"{fresh['accuracy']:.3f}")
        )
    known = np.array([s.label != UNKNOWN for s in dataset.samples])
    correct = np.array(
        [p.label == s.label for p, s in zip(result.predictions, dataset.samples, strict=True)]
    )
    confidence = probabilities.max(1)[known]
    plots = [
        _confusion(result.matrix_kk, manifest.labels),
        _risk(confidence, correct[known]),
        _reliability(confidence, correct[known]),
    ]
    if outliers := result.figures.get("unknown"):
        rows.append(
            (
                "unknown test, AUROC",
                f"{outliers['auroc']:.3f} over {outliers['images']} outlier images",
            )
        )
        scores = np.array([p.unknown_score for p in result.predictions])
        plots.append(_unknown(scores[known], scores[~known], manifest.policy.max_unknown_score))
    return _write(
        out / "evaluation.html",
        f"{manifest.model_id} on {dataset.name}",
        rows,
        plots,
        _worst(dataset.samples, manifest.labels, probabilities),
    )


def _reliability(confidence: Floats, correct: Bools) -> str:
    figure, axes = plt.subplots(figsize=(4.2, 3.8))
    bins = np.minimum((confidence * 10).astype(int), 9)
    filled = [b for b in range(10) if (bins == b).any()]
    axes.plot([0, 1], [0, 1], color="#c8d2ce", linewidth=1)
    axes.plot(
        [confidence[bins == b].mean() for b in filled],
        [correct[bins == b].mean() for b in filled],
        "o-",
        color="#1d7a5f",
    )
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    return _svg(figure)


def _unknown(known: Floats, outliers: Floats, threshold: float) -> str:
    figure, axes = plt.subplots(figsize=(4.8, 3.8))
    edges = np.histogram_bin_edges(np.concatenate([known, outliers]), 30).tolist()
    axes.hist(known, edges, alpha=0.7, density=True, color="#1d7a5f", label="known")
    axes.hist(outliers, edges, alpha=0.7, density=True, color="#b98552", label="outliers")
    axes.axvline(threshold, color="#1c2a28", linewidth=1)
    axes.set(xlabel="unknown score (line: threshold)", yticks=[])
    axes.legend(frameon=False)
    return _svg(figure)


def _headline(matrix: Counts, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    recall = zip(labels, metrics.recall_per_label(matrix), strict=True)
    return [
        ("images", str(int(matrix.sum()))),
        ("accuracy", f"{metrics.accuracy(matrix):.4f}"),
        ("macro F1", f"{metrics.macro_f1(matrix):.4f}"),
        ("recall", ", ".join(f"{label} {value:.2f}" for label, value in recall)),
    ]


def _worst(
    samples: tuple[Sample, ...], labels: tuple[str, ...], probabilities_nk: Floats
) -> list[_Mistake]:
    """Return the WORST mistakes at most, the most confident first; outliers are none.

    Args:
        samples: n images.
        labels: k, of the network.
        probabilities_nk: for each image, in the order of `labels`.
    """
    worst: list[_Mistake] = []
    predicted = probabilities_nk.argmax(1)
    confidence = probabilities_nk.max(1)
    for i in np.argsort(-confidence, kind="stable"):
        if len(worst) < WORST and samples[i].label not in (UNKNOWN, labels[predicted[i]]):
            s = samples[i]
            worst.append(
                _Mistake(
                    shown(s.name),
                    s.label,
                    labels[predicted[i]],
                    f"{confidence[i]:.0%}",
                    _thumbnail(s.path),
                )
            )
    return worst


def _write(
    path: Path,
    title: str,
    rows: list[tuple[str, str]],
    plots: list[str],
    worst: list[_Mistake],
) -> Path:
    page = _PAGE.render(title=shown(title), rows=rows, plots=plots, worst=worst)
    write_atomically(path, page.encode())
    return path


def _thumbnail(path: Path) -> str:
    pixels = read_image(path)
    scale = 200 / max(pixels.shape[:2])
    size_px = (max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0])))
    small = cv2.resize(pixels, size_px, interpolation=cv2.INTER_AREA)
    return base64.b64encode(
        cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    ).decode()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _curves(history: list[dict[str, Any]]) -> str:
    figure, left = plt.subplots(figsize=(5.4, 3.8))
    epochs = [h["epoch"] for h in history]
    left.plot(
        epochs,
        [h["train_loss"] for h in history],
        color="#4b86c6",
        label="train loss (mixed, smoothed)",
    )
    left.plot(epochs, [h["val_loss"] for h in history], color="#b98552", label="val loss")
    left.set(xlabel="epoch", ylabel="loss")
    right = left.twinx()
    right.plot(epochs, [h["val_accuracy"] for h in history], color="#1d7a5f", label="val accuracy")
    right.set(ylabel="accuracy", ylim=(0, 1))
    figure.legend(loc="upper center", ncols=3, fontsize=8, bbox_to_anchor=(0.5, 1.02))
    return _svg(figure)


def _confusion(matrix: Counts, labels: tuple[str, ...]) -> str:
    figure, axes = plt.subplots(figsize=(4.8, 4.2))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            axes.text(
                column,
                row,
                str(count),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shares[row, column] > 0.6 else "black",
            )
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    return _svg(figure)


def _risk(confidence: Floats, correct: Bools) -> str:
    coverage, risk = metrics.risk_coverage(confidence, correct)
    figure, axes = plt.subplots(figsize=(4.8, 3.8))
    axes.plot(coverage, risk, color="#1d7a5f")
    axes.set(
        xlabel="share of images decided, most confident first",
        ylabel="share of those wrong",
        xlim=(0, 1),
        ylim=(0, None),
    )
    return _svg(figure)
