"""Training on simulator pictures: it learns, it resumes exactly, and its bundle says what torch says."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from configs import load  # noqa: E402
from training import checkpoint  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.data import (  # noqa: E402
    FOREIGN,
    Pictures,
    ahead,
    epoch_batches,
    epoch_length,
    open_foreign_data,
    open_training_data,
)
from training.evaluate import evaluate, open_session, run_graph, with_foreign  # noqa: E402
from training.export import compare_with_torch, export  # noqa: E402
from training.models import build  # noqa: E402
from training.quantize import VIEWS, compare, quantize, views  # noqa: E402
from training.recipes.finetune import _parameter_groups, finetune, load_trained, predict_logits  # noqa: E402
from training.report import write_evaluation, write_report  # noqa: E402
from training.warmstart import warm_start  # noqa: E402
from vision.bundle import read_bundle, read_manifest, write_bundle  # noqa: E402
from vision.datasets import UNKNOWN, Dataset, Sample, open_dataset, read_image  # noqa: E402
from vision.errors import BundleError, ConfigError, DatasetError  # noqa: E402
from vision.preprocess import preprocess  # noqa: E402
from vision.simulator.dataset import simulator_dataset  # noqa: E402

NETWORK = "resnet18"  # learns from nothing within seconds
SMALL = [
    "model.weights=scratch",
    "model.size_px=48",
    "recipe.batch_size=16",
    "recipe.ema_decay=0.9",
    "recipe.mixup_alpha=0.2",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    simulator_dataset(root, 300, 1, ("cardboard", "organic", "e_waste"))
    return root


def _config(pictures: Path, out: Path, *more: str) -> TrainConfig:
    return load(TrainConfig, None, [*SMALL, f"data.root={pictures}", f"out={out}", f"model.name={NETWORK}", *more])


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    finetune(_config(pictures, out, "recipe.epochs=6", "recipe.learning_rate=0.001"))
    return out


@pytest.fixture(scope="module")
def bundles(run: Path) -> tuple[Path, Path]:
    export(run, run / "float.onnx")
    _, _, config = load_trained(run)
    train, val = open_training_data(config.data, config.seed, run / "pictures")
    # The gate has a test of its own; a network that saw 240 pictures may lose a lot to int8.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.quantize.MAX_ACCURACY_LOSS", 1.0)
        patch.setattr("training.quantize.MAX_LABEL_LOSS", 1.0)
        quantize(run / "float.onnx", run / "int8.onnx", train, val)
    return run / "float.onnx", run / "int8.onnx"


def test_it_learns(run: Path) -> None:
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(history) == 6
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[-1]["val_accuracy"] > 0.5  # chance is a third


def test_a_killed_run_ends_exactly_like_one_that_was_not(pictures: Path, tmp_path: Path) -> None:
    shipped_kind = (  # the ingredients of the recipe that ships
        "recipe.epochs=3", "recipe.calm_epochs=1", "recipe.cut_out=0.4", "recipe.freeze=2", "recipe.layer_decay=0.9",
        "recipe.foreign=0.2", "recipe.head_epochs=1", "data.foreign_simulated=30",
        "threads=1",
    )  # fmt: skip
    whole = _config(pictures, tmp_path / "whole", *shipped_kind)
    finetune(whole)
    arguments = ["train", "--out", str(tmp_path / "killed")]
    for key in (*SMALL, f"data.root={pictures}", f"model.name={NETWORK}", *shipped_kind):
        arguments += ["--set", key]
    process = subprocess.Popen(
        [sys.executable, "-m", "binsight", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "epoch   1" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    killed = whole.model_copy(update={"out": tmp_path / "killed"})
    assert 1 <= len((checkpoint.load(killed.out) or {})["history"]) < 3
    finetune(killed)
    a, b = checkpoint.load(whole.out), checkpoint.load(killed.out)
    assert a is not None
    assert b is not None
    timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in s["history"]] for s in (a, b)]
    assert timeless[0] == timeless[1]
    assert all(torch.equal(a["kept"][name], b["kept"][name]) for name in a["kept"])


def test_a_run_of_another_configuration_is_not_continued(run: Path, pictures: Path) -> None:
    with pytest.raises(ConfigError, match="another configuration"):
        finetune(_config(pictures, run, "recipe.epochs=9"))


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: not a readable checkpoint"):
        checkpoint.load(tmp_path)


def test_float_bundle_agrees_with_torch_and_both_precisions_are_stamped(bundles: tuple[Path, Path], run: Path) -> None:
    float_manifest, int8_manifest = (read_manifest(b) for b in bundles)
    assert (float_manifest.precision, int8_manifest.precision) == ("fp32", "int8")
    assert float_manifest.metrics["torch_logit_difference"] <= 1e-3
    model, labels, config = load_trained(run)
    _, val = open_training_data(config.data, config.seed, run / "pictures")
    result = evaluate(bundles[0], val)
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(preprocess(p, config.model.preprocess())))[0].numpy() for p in Pictures(val.samples)
        ]
    assert [labels[int(row.argmax())] for row in rows] == [p.label for p in result.predictions]
    assert np.abs(np.concatenate(rows) - result.outputs.logits_nk).max() <= 1e-3
    spoiled = replace(result.outputs, logits_nk=result.outputs.logits_nk + np.float32(0.002))
    with pytest.raises(BundleError, match="does not agree with torch: 0 of"):
        compare_with_torch(model, config.model.preprocess(), Pictures(val.samples), spoiled)
    assert int8_manifest.lineage["checkpoint_sha256"] == float_manifest.lineage["checkpoint_sha256"]
    assert "float_bundle_sha256" in int8_manifest.lineage
    assert int8_manifest.probe != float_manifest.probe  # measured anew, not inherited


def test_stamped_figures_are_those_of_the_bundle_itself(bundles: tuple[Path, Path], pictures: Path) -> None:
    val = open_dataset(pictures).select("val")
    for path in bundles:
        manifest, result = read_manifest(path), evaluate(path, val)
        assert result.figures["accuracy"] == manifest.metrics["val"]["accuracy"]
        assert result.figures["recall"] == manifest.metrics["val"]["recall"]
        assert result.figures["dataset_sha256"] == manifest.lineage["val_sha256"]


def test_an_int8_file_cannot_pass_as_float_nor_be_quantised_again(
    bundles: tuple[Path, Path], tmp_path: Path, pictures: Path
) -> None:
    float_path, int8_path = bundles
    with pytest.raises(BundleError, match="asked to stamp fp32"):
        write_bundle(tmp_path / "x.onnx", int8_path.read_bytes(), read_manifest(float_path))
    data = open_dataset(pictures)
    with pytest.raises(BundleError, match="is int8 already"):
        quantize(int8_path, tmp_path / "y.onnx", data.select("train"), data.select("val"))


def test_quantize_refuses_a_bundle_that_loses_too_much(
    bundles: tuple[Path, Path], tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(pictures)
    for key in ("MAX_ACCURACY_LOSS", "MAX_LABEL_LOSS"):
        with monkeypatch.context() as patch:
            patch.setattr("training.quantize.MAX_ACCURACY_LOSS", 1.0)
            patch.setattr("training.quantize.MAX_LABEL_LOSS", 1.0)
            patch.setattr(f"training.quantize.{key}", -1.0)
            with pytest.raises(BundleError, match=r"int8 loses too much(.|\n)*label +pictures +float +int8"):
                quantize(bundles[0], tmp_path / "y.onnx", data.select("train"), data.select("val"))
    assert not (tmp_path / "y.onnx").exists()


def test_what_int8_loses_is_counted_over_every_view(bundles: tuple[Path, Path], pictures: Path) -> None:
    (float_bytes, manifest), (int8_bytes, _) = (read_bundle(path) for path in bundles)
    val = open_dataset(pictures).select("val")
    few = replace(val, samples=val.samples[::6])
    loss = compare(open_session(float_bytes, 2), open_session(int8_bytes, 2), manifest, few)
    right = {"fp32": 0, "int8": 0}
    for data, name in ((float_bytes, "fp32"), (int8_bytes, "int8")):
        for sample in few.samples:
            seen = views(read_image(sample.path))
            assert len({view.tobytes() for view in seen}) == VIEWS
            logits = run_graph(open_session(data, 1), manifest.tensors, manifest.preprocess, seen).logits_nk
            right[name] += int((logits.argmax(1) == manifest.labels.index(sample.label)).sum())
    total = VIEWS * len(few.samples)
    assert loss.overall == pytest.approx((right["fp32"] - right["int8"]) / total)
    accuracy = [evaluate(path, few).figures["accuracy"] for path in bundles]
    assert loss.upright == pytest.approx(accuracy[0] - accuracy[1])
    assert sum(loss.pictures.values()) == len(few.samples)
    weighted = sum(loss.before[label] * n for label, n in loss.pictures.items())
    assert weighted == pytest.approx(right["fp32"] / VIEWS)


def test_training_may_begin_from_a_bundle_float_or_int8(bundles: tuple[Path, Path], pictures: Path) -> None:
    val = open_dataset(pictures).select("val")
    for path in bundles:
        manifest = read_manifest(path)
        model = build(NETWORK, len(manifest.labels), 0.0, "scratch")
        assert manifest.preprocess.colour_order == "bgr"  # as the bin's frames are; training reads RGB
        spec = replace(manifest.preprocess, colour_order="rgb")
        x_nhwc = torch.from_numpy(np.concatenate([preprocess(p, spec) for p in Pictures(val.samples)]))
        warm_start(model, manifest.labels, path, x_nhwc)
        with torch.inference_mode():
            logits = model.eval()(x_nhwc)[0].numpy()
        truth = np.array([manifest.labels.index(s.label) for s in val.samples])
        assert (logits.argmax(1) == truth).mean() >= manifest.metrics["val"]["accuracy"] - 0.05
        # In training mode the statistics are the batch's own: near the same function, or it could not learn.
        with torch.no_grad():
            assert (model.train()(x_nhwc)[0].argmax(1).numpy() == truth).mean() >= manifest.metrics["val"][
                "accuracy"
            ] - 0.1
    with pytest.raises(ConfigError, match="another network"):
        warm_start(build("resnet34", 3, 0.0, "scratch"), manifest.labels, bundles[0], x_nhwc)


def test_evaluation_counts_objects_near_duplicates_and_foreign_things(
    bundles: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    val = open_dataset(pictures).select("val")
    plain = evaluate(bundles[0], val)
    right = {s.name: s.label == p.label for s, p in zip(val.samples, plain.predictions, strict=True)}
    # The right ones are made one object that training has seen: what is left is only what is wrong.
    seen = replace(val, samples=tuple(replace(s, group="seen" if right[s.name] else s.name) for s in val.samples))
    figures = evaluate(bundles[0], seen, trained_groups={"seen"}).figures
    wrong = sum(not r for r in right.values())
    assert 0 < wrong < len(right)
    assert figures["accuracy"] == plain.figures["accuracy"] == pytest.approx(1 - wrong / len(right))
    assert figures["accuracy_by_object"] == pytest.approx(1 / (1 + wrong))
    assert figures["without_near_duplicates"]["accuracy"] == 0
    assert figures["without_near_duplicates"]["inflation"] == pytest.approx(figures["accuracy"])
    assert "without_near_duplicates" not in plain.figures
    others = simulator_dataset(tmp_path / "foreign", 30, 8, ("glass", "textile"))
    both = evaluate(bundles[0], with_foreign(val, others, bundles[0]))
    assert both.figures["accuracy"] == plain.figures["accuracy"]  # foreign things are not mistakes
    assert both.figures["pictures"] == len(val.samples)
    assert both.figures["unknown"]["pictures"] == len(others.select("val").samples)  # its train part may be learnt
    assert 0 <= both.figures["unknown"]["auroc"] <= 1
    for key in ("calibration_error", "dataset_sha256", "policy_fitted_on_these_pictures"):
        assert both.figures[key] == plain.figures[key]
    assert plain.figures["policy_fitted_on_these_pictures"]
    with pytest.raises(DatasetError, match="to 'unknown'"):
        evaluate(bundles[0], others)
    with pytest.raises(DatasetError, match="nothing is foreign"):
        with_foreign(val, val, bundles[0])
    alone = replace(others, samples=tuple(replace(s, label=UNKNOWN) for s in others.samples))
    with pytest.raises(DatasetError, match="nothing to be right about"):
        evaluate(bundles[0], alone)


def test_pictures_of_no_label_make_the_network_doubt(pictures: Path, run: Path, tmp_path: Path) -> None:
    simulator_dataset(tmp_path / "other", 120, 3, ("cardboard", "textile", "glass"))
    more = (f"data.foreign=[{tmp_path / 'other'}]", "recipe.epochs=5", "recipe.learning_rate=0.001")
    config = _config(pictures, tmp_path / "run", "recipe.foreign=0.5", "recipe.mixup_alpha=0", *more)
    finetune(config)
    foreign = open_foreign_data(config.data, ("cardboard", "organic", "e_waste"), "val", 0, tmp_path)
    assert foreign.labels() == {"textile", "glass"}
    val = open_dataset(pictures).select("val")

    def certainty(folder: Path, samples: tuple[Sample, ...]) -> float:
        logits = predict_logits(
            load_trained(folder)[0], Pictures(samples), config.model.preprocess(), torch.device("cpu")
        )
        return float(torch.softmax(torch.from_numpy(logits), 1).max(1).values.mean())

    doubts, trusts = (certainty(tmp_path / "run", d.samples) for d in (foreign, val))
    assert doubts < trusts - 0.04
    assert doubts < certainty(run, foreign.samples)  # a network that was not shown such pictures


def test_a_teacher_is_trained_first_and_its_student_follows_it(pictures: Path, tmp_path: Path) -> None:
    document = {
        "data": {"root": str(pictures)}, "out": str(tmp_path / "run"),
        "model": {"name": NETWORK, "weights": "scratch", "size_px": 48},
        "recipe": {"epochs": 2, "batch_size": 16, "teacher_weight": 1.0, "cutmix": 0.5, "freeze": 2, "cut_out": 0.3},
        "teacher": {
            "model": {"name": "efficientnet_b0", "weights": "scratch", "size_px": 64},
            "recipe": {"epochs": 1, "batch_size": 16},
        },
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(document))  # JSON is YAML
    config = load(TrainConfig, tmp_path / "c.yaml")
    finetune(config)
    _, labels, _ = load_trained(tmp_path / "run")
    taught, its_labels, _ = load_trained(tmp_path / "run" / "teacher")
    assert labels == its_labels
    assert taught.head.in_features == 1280
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2
    finetune(config)  # a finished run is left alone
    assert len((tmp_path / "run" / "teacher" / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "vit_b_16", "efficientnet_b0"])
def test_every_parameter_is_trained_exactly_once(name: str) -> None:
    model = build(name, 3, 0.0, "scratch")
    groups = _parameter_groups(model, TrainConfig().recipe)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters())


def test_frozen_stages_keep_their_weights_and_statistics(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = build(NETWORK, 3, 0.0, "scratch")
    torch.save(start.backbone.state_dict(), tmp_path / "w.pt")
    config = _config(
        pictures, tmp_path / "run", "recipe.epochs=1", "recipe.freeze=5", f"model.weights={tmp_path / 'w.pt'}"
    )
    finetune(config)
    trained, _, _ = load_trained(tmp_path / "run")
    same = {
        stage: all(torch.equal(a, b) for m, n in zip(old, new, strict=True) for a, b in zip(
            m.state_dict().values(), n.state_dict().values(), strict=True))
        for stage, (old, new) in enumerate(zip(start.stages(), trained.stages(), strict=True))
    }  # fmt: skip
    assert all(same[stage] for stage in range(5))
    assert not same[5]


def test_workers_together_make_exactly_the_batches_of_one(pictures: Path) -> None:
    train = open_dataset(pictures).select("train")
    labels = sorted(train.labels())
    targets = np.array([labels.index(s.label) for s in train.samples])
    targets[::7] = FOREIGN
    spec = TrainConfig().model.preprocess()

    def batches(worker: tuple[int, int]) -> list:
        made = epoch_batches(Pictures(train.samples), targets, spec, 16, (1, 2), 0.0, foreign=0.1, worker=worker)
        return list(ahead(made))

    whole, parts = batches((0, 1)), [batches((rank, 2)) for rank in range(2)]
    assert sum(len(y) for _, y in whole) == epoch_length(targets, 0.1) // 16 * 16  # a batch of one is left out
    assert len(parts[0]) == len(parts[1])
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *parts, strict=False):
        assert np.array_equal(x[0::2], x0)
        assert np.array_equal(x[1::2], x1)
        assert np.array_equal(np.concatenate([y[0::2], y[1::2]]), np.concatenate([y0, y1]))


def test_reports_are_self_contained_pages_with_the_mistakes(
    bundles: tuple[Path, Path], run: Path, pictures: Path, tmp_path: Path
) -> None:
    val = open_dataset(pictures).select("val")
    result = evaluate(bundles[1], val)
    mistakes = sum(p.label != s.label for p, s in zip(result.predictions, val.samples, strict=True))
    for page in (write_report(run), write_evaluation(tmp_path / "e", bundles[1], val, result)):
        text = page.read_text()
        assert "<svg" in text
        assert 'src="http' not in text
    assert text.count("<figure>") == min(mistakes, 24)
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text()) == result.figures


def test_epochs_are_equal_for_equal_keys_and_cover_every_picture(pictures: Path) -> None:
    samples = open_dataset(pictures).select("train").samples
    spec = TrainConfig().model.preprocess()
    targets = np.arange(len(samples))

    def epoch(seed: int, number: int) -> tuple[np.ndarray, list[int]]:
        batches = list(epoch_batches(Pictures(samples), targets, spec, 32, (seed, number), 1.0))
        return batches[0][0], [int(t) for _, ts in batches for t in ts]

    first, order = epoch(0, 0)
    assert sorted(order) == list(range(len(samples)))
    assert np.array_equal(first, epoch(0, 0)[0])
    assert not np.array_equal(first, epoch(0, 1)[0])
    assert epoch(1, 0)[1] != order


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "vit_b_16", "convnext_tiny", "densenet121"]
)
def test_any_torchvision_classifier_by_name(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 5, 0.0, "scratch")
    assert model.head.out_features == 5
    assert model.head.in_features >= 256


@pytest.mark.parametrize(
    ("name", "weights", "complaint"),
    [
        ("mobilenet_v99", "scratch", "no classifier 'mobilenet_v99'"),
        ("squeezenet1_0", "scratch", "does not end in a linear layer"),
        ("mobilenet_v3_small", "none.safetensors", r"no such file: none\.safetensors"),
    ],
)
def test_impossible_networks_and_weights_are_explained(name: str, weights: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(name, 5, 0.0, weights)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="does not fit mobilenet_v3_small"):
        build("mobilenet_v3_small", 5, 0.0, str(tmp_path / "w.pt"))


def test_evaluating_on_labels_that_the_bundle_lacks_is_an_error(
    bundles: tuple[Path, Path], picture_folder: Path
) -> None:
    with pytest.raises(DatasetError, match="does not know glass, paper"):
        evaluate(bundles[0], open_dataset(picture_folder))


def test_a_picture_that_cannot_be_read_stops_training_with_its_name(pictures: Path, tmp_path: Path) -> None:
    dataset = open_dataset(pictures)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(dataset.samples[0].path.read_bytes()[:500])
    with pytest.raises(Exception, match=r"broken\.jpg.*truncated"):
        Pictures(Dataset("x", (dataset.samples[0].__class__(broken, "b", "glass", "train", "g"),)).samples)[0]


def test_augmentation_keeps_type_and_leaves_the_original_alone() -> None:
    from training.augment import augment

    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8), (160, 120))
    before = picture.copy()
    differs = 0
    for seed in range(30):
        changed = augment(picture, np.random.default_rng(seed), 1.0)
        assert (changed.shape, changed.dtype) == (picture.shape, np.uint8)
        differs += not np.array_equal(changed, picture)
    assert np.array_equal(picture, before)
    assert differs == 30
    assert augment(picture, np.random.default_rng(0), 0.0) is picture
