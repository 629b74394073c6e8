"""A bundle says what torch says, its figures are its own.

And int8 is refused where it loses too much.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from configs import load
from edge_runtime.classify import Classifier
from training.commands import app
from training.config import TrainConfig
from training.data import Images, open_training_data
from training.evaluate import (
    Outputs,
    evaluate,
    open_session,
    run_graph,
    trained_groups,
    with_outliers,
)
from training.export import compare_with_torch, export
from training.gate import VIEWS, compare, part, views
from training.models import build
from training.quantize import quantize
from training.recipes.finetune import finetune
from training.report import write_evaluation, write_report
from training.runs import Run, load_trained
from training.warmstart import warm_start
from vision.bundle import read_bundle, read_manifest, write_bundle
from vision.datasets import UNKNOWN, open_dataset, read_image
from vision.errors import BundleError, ConfigError, DatasetError
from vision.preprocess import preprocess
from vision.simulator.dataset import simulator_dataset
from vision.simulator.scene import render


def test_float_bundle_agrees_with_torch_and_both_precisions_are_stamped(
    bundles: tuple[Path, Path], run: Path
) -> None:
    float_manifest, int8_manifest = (read_manifest(b) for b in bundles)
    assert (float_manifest.precision, int8_manifest.precision) == ("fp32", "int8")
    assert float_manifest.metrics["torch_logit_difference"] <= 1e-3
    model, labels, config = load_trained(run)
    _, val = open_training_data(config.data, config.seed, run / "images")
    result = evaluate(bundles[0], val)
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(preprocess(p, config.model.preprocess())))[0].numpy()
            for p in Images(val.samples)
        ]
    assert [labels[int(row.argmax())] for row in rows] == [p.label for p in result.predictions]
    torch_nk = np.concatenate(rows)
    assert np.abs(torch_nk - result.outputs.logits_nk).max() <= 0.02  # its weights have 16 bits
    spoiled = replace(result.outputs, logits_nk=torch_nk + np.float32(0.002))
    with pytest.raises(BundleError, match="does not agree with torch: 0 of"):
        compare_with_torch(model, config.model.preprocess(), Images(val.samples), spoiled)
    assert int8_manifest.lineage["checkpoint_sha256"] == float_manifest.lineage["checkpoint_sha256"]
    assert "float_bundle_sha256" in int8_manifest.lineage
    assert int8_manifest.probe != float_manifest.probe  # measured again, not inherited


def test_stamped_figures_are_those_of_the_bundle_itself(
    bundles: tuple[Path, Path], images: Path
) -> None:
    val = open_dataset(images).select("val")
    for path in bundles:
        manifest = read_manifest(path)
        result = evaluate(path, val)
        assert result.figures["accuracy"] == manifest.metrics["val"]["accuracy"]
        assert result.figures["recall"] == manifest.metrics["val"]["recall"]
        assert result.figures["dataset_sha256"] == manifest.lineage["val_sha256"]


def test_an_int8_file_cannot_pass_as_float_nor_be_quantised_again(
    bundles: tuple[Path, Path], tmp_path: Path, images: Path
) -> None:
    float_path, int8_path = bundles
    with pytest.raises(BundleError, match="asked to stamp fp32"):
        write_bundle(tmp_path / "x.onnx", int8_path.read_bytes(), read_manifest(float_path))
    data = open_dataset(images)
    with pytest.raises(BundleError, match="is int8 already"):
        quantize(int8_path, tmp_path / "y.onnx", data.select("train"), data.select("val"))


def test_quantize_refuses_a_bundle_that_loses_too_much(
    bundles: tuple[Path, Path], tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(images)
    for key in ("MAX_ACCURACY_LOSS", "MAX_LABEL_LOSS"):
        with monkeypatch.context() as patch:
            patch.setattr("training.gate.MAX_ACCURACY_LOSS", 1.0)
            patch.setattr("training.gate.MAX_LABEL_LOSS", 1.0)
            patch.setattr(f"training.gate.{key}", -1.0)
            with pytest.raises(
                BundleError, match=r"int8 loses too much(.|\n)*label +images +float +int8"
            ):
                quantize(bundles[0], tmp_path / "y.onnx", data.select("train"), data.select("val"))
    assert not (tmp_path / "y.onnx").exists()


def test_what_int8_loses_is_counted_over_every_view(
    bundles: tuple[Path, Path], images: Path
) -> None:
    (float_bytes, manifest), (int8_bytes, _) = (read_bundle(path) for path in bundles)
    val = open_dataset(images).select("val")
    few = replace(val, samples=val.samples[::6])
    loss = compare(open_session(float_bytes, 2), open_session(int8_bytes, 2), manifest, few)
    right = {"fp32": 0, "int8": 0}
    upright: dict[str, list[bool]] = {"fp32": [], "int8": []}
    for data, name in ((float_bytes, "fp32"), (int8_bytes, "int8")):
        for sample in few.samples:
            seen = views(read_image(sample.path))
            assert len({view.tobytes() for view in seen}) == VIEWS
            logits = run_graph(
                open_session(data, 1), manifest.tensors, manifest.preprocess, seen
            ).logits_nk
            seen_right = logits.argmax(1) == manifest.labels.index(sample.label)
            right[name] += int(seen_right.sum())
            upright[name].append(bool(seen_right[0]))
    total = VIEWS * len(few.samples)
    assert loss.overall == pytest.approx((right["fp32"] - right["int8"]) / total)
    only_one = sum(a != b for a, b in zip(*upright.values(), strict=True))
    assert loss.upright_error == pytest.approx(only_one**0.5 / len(few.samples))
    accuracy = [evaluate(path, few).figures["accuracy"] for path in bundles]
    assert loss.upright == pytest.approx(accuracy[0] - accuracy[1])
    assert sum(loss.images.values()) == len(few.samples)
    weighted = sum(loss.before[label] * n for label, n in loss.images.items())
    assert weighted == pytest.approx(right["fp32"] / VIEWS)


def test_training_may_begin_from_a_bundle_float_or_int8(
    bundles: tuple[Path, Path], images: Path
) -> None:
    val = open_dataset(images).select("val")
    for path in bundles:
        manifest = read_manifest(path)
        model = build("resnet18", len(manifest.labels), 0.0, "scratch")
        assert (
            manifest.preprocess.colour_order == "bgr"
        )  # as the bin's frames are; training reads RGB
        spec = replace(manifest.preprocess, colour_order="rgb")
        x_nhwc = torch.from_numpy(
            np.concatenate([preprocess(p, spec) for p in Images(val.samples)])
        )
        warm_start(model, manifest.labels, path, x_nhwc)
        with torch.inference_mode():
            logits = model.eval()(x_nhwc)[0].numpy()
        truth = np.array([manifest.labels.index(s.label) for s in val.samples])
        assert (logits.argmax(1) == truth).mean() >= manifest.metrics["val"]["accuracy"] - 0.05
        # In training mode the statistics are the batch's own: near the same function, or it could
        # not learn.
        with torch.no_grad():
            assert (model.train()(x_nhwc)[0].argmax(1).numpy() == truth).mean() >= manifest.metrics[
                "val"
            ]["accuracy"] - 0.1
    with pytest.raises(ConfigError, match="another network"):
        warm_start(build("resnet34", 3, 0.0, "scratch"), manifest.labels, bundles[0], x_nhwc)


def test_evaluation_counts_objects_near_duplicates_and_outliers(
    bundles: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    val = open_dataset(images).select("val")
    plain = evaluate(bundles[0], val)
    right = {
        s.name: s.label == p.label for s, p in zip(val.samples, plain.predictions, strict=True)
    }
    # The right ones are made one object that training has seen: what is left is only what is wrong.
    seen = replace(
        val,
        samples=tuple(replace(s, group="seen" if right[s.name] else s.name) for s in val.samples),
    )
    figures = evaluate(bundles[0], seen, trained_groups={"seen"}).figures
    wrong = sum(not r for r in right.values())
    assert 0 < wrong < len(right)
    assert figures["accuracy"] == plain.figures["accuracy"] == pytest.approx(1 - wrong / len(right))
    assert figures["accuracy_by_object"] == pytest.approx(1 / (1 + wrong))
    assert figures["without_near_duplicates"]["accuracy"] == 0
    assert figures["without_near_duplicates"]["inflation"] == pytest.approx(figures["accuracy"])
    assert "without_near_duplicates" not in plain.figures
    others = simulator_dataset(tmp_path / "outliers", 30, 8, ("glass", "textile"))
    both = evaluate(bundles[0], with_outliers(val, others, bundles[0]))
    assert both.figures["accuracy"] == plain.figures["accuracy"]  # outliers are not mistakes
    assert both.figures["images"] == len(val.samples)
    assert both.figures["unknown"]["images"] == len(
        others.select("val").samples
    )  # its train part may be learnt
    assert 0 <= both.figures["unknown"]["auroc"] <= 1
    for key in ("calibration_error", "dataset_sha256", "policy_fitted_on_these_images"):
        assert both.figures[key] == plain.figures[key]
    assert plain.figures["policy_fitted_on_these_images"]
    with pytest.raises(DatasetError, match="to 'unknown'"):
        evaluate(bundles[0], others)
    with pytest.raises(DatasetError, match="it holds no outlier"):
        with_outliers(val, val, bundles[0])
    alone = replace(others, samples=tuple(replace(s, label=UNKNOWN) for s in others.samples))
    with pytest.raises(DatasetError, match="nothing to be right about"):
        evaluate(bundles[0], alone)


def test_reports_are_self_contained_pages_with_the_mistakes(
    bundles: tuple[Path, Path], run: Path, images: Path, tmp_path: Path
) -> None:
    val = open_dataset(images).select("val")
    result = evaluate(bundles[1], val)
    mistakes = sum(p.label != s.label for p, s in zip(result.predictions, val.samples, strict=True))
    for page in (write_report(run), write_evaluation(tmp_path / "e", bundles[1], val, result)):
        text = page.read_text()
        assert "<svg" in text
        assert 'src="http' not in text
    assert text.count("<figure>") == min(mistakes, 24)
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text()) == result.figures


def test_only_a_set_that_the_bundle_was_trained_on_has_near_duplicates_in_training(
    bundles: tuple[Path, Path], images: Path
) -> None:
    whole = open_dataset(images)
    train = {s.group for s in whole.samples if s.split == "train"}
    assert trained_groups(bundles[1], whole) == train
    other = replace(whole, samples=tuple(s for s in whole.samples if s.label != "organic"))
    assert trained_groups(bundles[1], other) == set()
    figures = evaluate(bundles[1], whole).figures
    assert figures["policy_fitted_on_these_images"]  # among others
    assert figures["splits"] == {"train": 240, "val": 60}


def test_a_run_is_exported_and_quantised_with_the_data_it_was_trained_on_and_no_other(
    bundles: tuple[Path, Path], run: Path, images: Path, tmp_path: Path
) -> None:
    """An image that moves from train to val would be measured as one not seen in training."""
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = str(tmp_path / "images")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    export(tmp_path / "run", tmp_path / "same.onnx")
    index = tmp_path / "images" / "splits.csv"
    index.write_text(index.read_text().replace(",train", ",val", 1))
    with pytest.raises(
        ConfigError, match="trained on other data: images has another train split now"
    ):
        export(tmp_path / "run", tmp_path / "other.onnx")
    done = CliRunner().invoke(
        app,
        [
            "quantize",
            str(tmp_path / "same.onnx"),
            "--run",
            str(tmp_path / "run"),
            "--out",
            str(tmp_path / "q"),
        ],
    )
    assert "trained on other data" in str(done.exception)
    # It was trained again.
    Run(tmp_path / "run").save({**(Run(run).checkpoint() or {}), "history": []})
    done = CliRunner().invoke(
        app,
        ["quantize", str(bundles[0]), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "q")],
    )
    assert "name its run with --run" in str(done.exception)


def test_what_cannot_be_read_is_left_out_of_a_measurement_and_named(
    bundles: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    val = open_dataset(images).select("val")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(val.samples[0].path.read_bytes()[:300])
    damaged = replace(val, samples=(replace(val.samples[0], path=broken), *val.samples[1:]))
    result = evaluate(bundles[0], damaged)
    rest = replace(val, samples=val.samples[1:])
    assert [s.name for s in result.dataset.samples] == [s.name for s in rest.samples]
    assert result.figures["accuracy"] == evaluate(bundles[0], rest).figures["accuracy"]
    assert len(result.figures["unreadable"]) == 1
    assert "broken.jpg" in result.figures["unreadable"][0]
    with pytest.raises(DatasetError, match="no image can be read"):
        evaluate(bundles[0], replace(val, samples=damaged.samples[:1]))


def test_evaluating_on_labels_that_the_bundle_lacks_is_an_error(
    bundles: tuple[Path, Path], image_folder: Path
) -> None:
    with pytest.raises(DatasetError, match="does not know glass, paper"):
        evaluate(bundles[0], open_dataset(image_folder))


def test_no_sum_of_two_products_of_int8_can_saturate_in_16_bits(bundles: tuple[Path, Path]) -> None:
    """An x86 without VNNI adds, in 16 bits, two products of a uint8 activation and a weight."""
    graph = onnx.load(str(bundles[1])).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = [a for a in arrays.values() if a.dtype == np.int8 and a.ndim > 1]
    assert len(weights) >= 20
    assert all(2 * 255 * int(np.abs(w.astype(int)).max()) < 2**15 for w in weights)


def test_what_this_processor_computes_may_not_part_from_the_exact_computation() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (400, 6)).astype(np.float32)
    embeddings = rng.normal(0, 1, (400, 64)).astype(np.float32)
    exact = Outputs(logits, embeddings, np.zeros(400), np.zeros(400))
    rounded = replace(
        exact, logits_nk=logits + 0.01, embeddings_nd=embeddings + rng.normal(0, 0.01, (400, 64))
    )
    assert not part(rounded, exact).too_much()
    moved = embeddings.copy()
    moved[:40] = rng.normal(0, 1, (40, 64))  # one in ten saturates
    gap = part(replace(exact, embeddings_nd=moved), exact)
    assert gap.too_much()
    assert gap.least_cosine < 0.5
    other = logits.copy()
    other[:8] = other[:8, ::-1]
    assert part(replace(exact, logits_nk=other), exact).too_much()
    assert "of 400 labels differ from the exact computation" in gap.message()


def test_a_graph_that_this_processor_computes_wrongly_is_no_bundle(
    bundles: tuple[Path, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, config = load_trained(run)
    train, val = open_training_data(config.data, config.seed, run / "images")
    monkeypatch.setattr("training.gate.MAX_ACCURACY_LOSS", 1.0)
    monkeypatch.setattr("training.gate.MAX_LABEL_LOSS", 1.0)
    monkeypatch.setattr("training.gate.MIN_MEAN_COSINE", 1.1)
    with pytest.raises(
        BundleError, match=r"this processor computes the int8 graph wrongly: .*labels differ"
    ):
        quantize(bundles[0], tmp_path / "int8.onnx", train, val)
    assert not (tmp_path / "int8.onnx").exists()


def test_weights_are_stored_in_16_bits_and_computed_with_in_32(bundles: tuple[Path, Path]) -> None:
    graph = onnx.load(str(bundles[0])).graph
    halves = [i for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(i.dims) for i in halves) > 10_000_000  # resnet18's
    assert bundles[0].stat().st_size < 24_000_000
    manifest = read_manifest(bundles[0])
    assert 0 < manifest.metrics["half_weights_logit_difference"] < 0.1


@pytest.mark.parametrize(
    "sizes", [{"glass": 3, "metal": 3, "paper": 1}, {"glass": 2, "metal": 2}], ids=str
)
def test_one_or_two_images_of_a_label_give_a_bundle(
    settings: list[str], tmp_path: Path, sizes: dict[str, int]
) -> None:
    for label, count in sizes.items():
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(tmp_path / "set" / label / f"{i}.png"), render(label, 96, 72, i))
    own = [s for s in settings if not s.startswith("data.root")]
    own += [f"data.root={tmp_path / 'set'}", f"out={tmp_path / 'run'}", "recipe.epochs=1"]
    finetune(load(TrainConfig, None, own))
    assert export(tmp_path / "run", tmp_path / "float.onnx").labels == tuple(sizes)
    assert (
        Classifier(tmp_path / "float.onnx").classify(render("glass", 96, 72, 9)).prediction.label
        in sizes
    )


def test_a_set_of_one_label_is_reported_before_training(
    settings: list[str], tmp_path: Path
) -> None:
    (tmp_path / "set" / "glass").mkdir(parents=True)
    for i in range(8):
        cv2.imwrite(str(tmp_path / "set" / "glass" / f"{i}.png"), render("glass", 96, 72, i))
    own = [s for s in settings if not s.startswith("data.root")]
    with pytest.raises(DatasetError, match="training knows one label, glass; it needs two or more"):
        finetune(
            load(
                TrainConfig,
                None,
                [*own, f"data.root={tmp_path / 'set'}", f"out={tmp_path / 'run'}"],
            )
        )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_bundle_may_look_at_a_larger_input_than_training_did(run: Path, tmp_path: Path) -> None:
    larger = tmp_path / "run"
    shutil.copytree(run, larger)
    document = json.loads((larger / "config.json").read_text())
    document["model"]["export_px"] = 64
    (larger / "config.json").write_text(json.dumps(document))
    manifest = export(larger, tmp_path / "float.onnx")
    assert (manifest.preprocess.width_px, manifest.preprocess.height_px) == (64, 64)
    assert read_manifest(tmp_path / "float.onnx").metrics["torch_logit_difference"] <= 1e-3
