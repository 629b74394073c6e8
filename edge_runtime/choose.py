"""Which of the bundles that a bin has it runs.

One that computes rightly here, and of those the fastest here.

A processor decides which form of a network is faster, and whether it computes it rightly; so each
form is asked, once.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import host
from edge_runtime.classify import Classifier, runtime_version
from vision.bundle import bundle_digest, probe_frame
from vision.errors import BundleError
from vision.files import write_atomically

log = logging.getLogger(__name__)

# Classifications before the clock counts, and those that it counts.
_WARM_UP = 5
_TIMED = 25
_NOTE = "bundle-times.json"
_PARENT = "checkpoint_sha256"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The classifier that runs, and why that one.

    Attributes:
        classifier: of the bundle chosen.
        reason: for people, with the times of all.
        refused: what each bundle that may not run lacks.
    """

    classifier: Classifier
    reason: str
    refused: tuple[str, ...]

    @property
    def problem(self) -> str:
        """What people must know of the bundles that may not run; "" if all may."""
        return "; ".join(f"bundle: {message}" for message in self.refused)


@dataclass(frozen=True, slots=True)
class Timed:
    """One bundle on this board.

    Attributes:
        path: of the bundle.
        ms: median time of a classification, preprocessing included; None if it may not run.
        message: "", or why it may not run.
        classifier: None if it may not run.
    """

    path: Path
    ms: float | None
    message: str
    classifier: Classifier | None


def bundles_in(bundle: Path) -> list[Path]:
    """Return the bundle, or all bundles of a folder, sorted.

    Raises:
        BundleError: a folder without any.
    """
    if not bundle.is_dir():
        return [bundle]
    if not (found := sorted(bundle.glob("*.onnx"))):
        raise BundleError(f"{bundle}: no bundle (.onnx) in this folder")
    return found


def choose(bundle: Path, threads: int, state: Path | None = None) -> Chosen:
    """Open the bundle, or of a folder's bundles the fastest that gives its expected output here.

    Args:
        bundle: a file, or a folder with several forms of a model.
        threads: of onnxruntime.
        state: folder where times are kept, until a bundle, the processor or onnxruntime is another;
            None measures again.

    Raises:
        BundleError: none may run; the message says why of each.
    """
    paths = bundles_in(bundle)
    if len(paths) == 1:
        return Chosen(Classifier(paths[0], threads), f"{paths[0].name} is the only one", ())
    known = _remembered(state, _key(paths, threads))
    if known:
        refused: list[str] = []
        for path in sorted((p for p in paths if p.name in known), key=lambda p: known[p.name]):
            try:
                return Chosen(Classifier(path, threads), _reason(path, known), tuple(refused))
            except BundleError as error:
                refused.append(str(error))
    tried = measure(bundle, threads)
    good = sorted((t for t in tried if t.ms is not None), key=lambda t: t.ms or 0.0)
    if not good or good[0].classifier is None:
        raise BundleError("; ".join(t.message for t in tried))
    times = {t.path.name: t.ms for t in good if t.ms is not None}
    if state is not None and len(good) == len(
        tried
    ):  # a damaged file is looked at again at each start
        _remember(state, _key(paths, threads), times)
    return Chosen(
        good[0].classifier,
        _reason(good[0].path, times),
        tuple(t.message for t in tried if t.message),
    )


def measure(bundle: Path, threads: int) -> list[Timed]:
    """Open each bundle, have it prove itself, and time it.

    Raises:
        BundleError: a folder without any bundle, or with several models.
    """
    tried: list[Timed] = []
    for path in bundles_in(bundle):
        try:
            classifier = Classifier(path, threads)
        except BundleError as error:
            tried.append(Timed(path, None, str(error), None))
            continue
        if first := next((t for t in tried if t.classifier), None):
            _must_be_one_model(first, path, classifier)
        frame = probe_frame()
        times = []
        for turn in range(_WARM_UP + _TIMED):
            started = time.perf_counter()
            classifier.classify(frame)
            if turn >= _WARM_UP:
                times.append(1000 * (time.perf_counter() - started))
        tried.append(Timed(path, round(statistics.median(times), 2), "", classifier))
    return tried


def _must_be_one_model(first: Timed, path: Path, classifier: Classifier) -> None:
    """Refuse a folder whose bundles are no forms of one model.

    What a bin says must not hang on which is faster.
    """
    manifests = [c.manifest for c in (first.classifier, classifier) if c]
    if len({(m.labels, m.lineage.get(_PARENT)) for m in manifests}) > 1:
        raise BundleError(
            f"{path.parent}: {first.path.name} and {path.name} are of different models; name one "
            "of them"
        )


def _reason(path: Path, times: dict[str, float]) -> str:
    others = ", ".join(f"{ms:.1f} ms for {name}" for name, ms in times.items() if name != path.name)
    return f"{path.name} takes {times[path.name]:.1f} ms here" + (
        f", against {others}" if others else ""
    )


def _key(paths: list[Path], threads: int) -> str:
    digests = ",".join(f"{path.name}={_digest(path)}" for path in paths)
    return f"{host.cpu_name()}; {threads} threads; onnxruntime {runtime_version()}; {digests}"


def _digest(path: Path) -> str:
    try:
        return bundle_digest(path)
    except BundleError:  # a worn card: this form cannot run, and the others can
        return "unreadable"


def _remembered(state: Path | None, key: str) -> dict[str, float]:
    """Return bundle name -> milliseconds as noted before; empty if never, or of something else."""
    try:
        note = json.loads((state / _NOTE).read_text()) if state else {}
        return (
            {str(k): float(v) for k, v in note["times"].items()} if note.get("key") == key else {}
        )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        log.warning("%s: not readable (%s); the bundles are timed again", _NOTE, error)
        return {}


def _remember(state: Path, key: str, times: dict[str, float]) -> None:
    try:
        write_atomically(state / _NOTE, json.dumps({"key": key, "times": times}, indent=1).encode())
    except OSError as error:  # a disk that takes nothing: they are timed again at the next start
        log.warning("%s: cannot be written (%s)", state / _NOTE, error)
