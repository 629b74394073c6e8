"""The same recipe on a Ray cluster.

Several workers on one training, or many trainings to search its settings.

Training's only address of ray. Every worker runs `finetune` itself; what is here starts it, and
starts it again after a worker died: it then goes on from the checkpoint in the run folder. All
nodes must see that folder and the data by the same path (a shared file system).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from configs import with_values
from configs.ray_cluster import ray_cluster
from training.config import TrainConfig
from training.data import open_training_data
from training.device import Worker
from training.models import build
from training.recipes.finetune import finetune
from training.runs import Row, Run
from vision.errors import ConfigError

# Times that a training is started again after its workers died.
MAX_RESTARTS = 3
# What `tune` searches, by key of the configuration.
SEARCH_SPACE: Mapping[str, Any] = {
    "recipe.learning_rate": ray.tune.loguniform(2e-4, 3e-3),
    "recipe.weight_decay": ray.tune.loguniform(1e-3, 2e-1),
    "recipe.layer_decay": ray.tune.uniform(0.75, 1.0),
    "recipe.mixup_alpha": ray.tune.choice([0.0, 0.2, 0.8]),
    "recipe.cutmix": ray.tune.choice([0.0, 0.25, 0.5]),
    "recipe.background_swap": ray.tune.uniform(0.0, 0.8),
    "recipe.augment": ray.tune.uniform(0.5, 1.0),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a search.

    Attributes:
        settings: key -> value that it tried.
        val_accuracy: after its last epoch.
        epochs: how far it came before it was finished or stopped as hopeless.
    """

    settings: Mapping[str, Any]
    val_accuracy: float
    epochs: int


def train_with_ray(config: TrainConfig, workers: int, address: str | None = None) -> Row:
    """Train on `workers` Ray workers, each with its share of every batch.

    Return the last history row.

    Args:
        config: its paths must be reachable from every node.
        workers: processes; the cores of this machine are shared among them, a GPU each on a cluster
            that has them.
        address: of a running Ray cluster; None starts a local one.

    Raises:
        ConfigError: more workers than cores, or it failed more than MAX_RESTARTS times; the message
            says why.
    """
    config = _absolute(config)
    _check(config)
    with _ray(address) as resources, tempfile.TemporaryDirectory() as scratch:
        gpu = config.device != "cpu" and resources.get("GPU", 0) >= workers
        if workers > resources.get("CPU", 1):
            raise ConfigError(
                f"--workers {workers}: the cluster has {resources.get('CPU', 1):.0f} cores, one "
                "each is needed"
            )
        cpus = _cores_each(resources, workers)
        trainer = ray.train.torch.TorchTrainer(
            _work,
            train_loop_config={"config": config.model_dump_json(), "threads": cpus},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name=config.out.name,
                storage_path=scratch,  # of Ray's own notes; the checkpoint is in the run folder
                failure_config=ray.train.FailureConfig(
                    max_failures=MAX_RESTARTS,
                    controller_failure_limit=MAX_RESTARTS,  # type: ignore[call-arg]
                ),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise ConfigError(
                f"training on Ray failed {MAX_RESTARTS} times over: {_root_cause(error)}"
            ) from error
    return Run(config.out).history()[-1]


def tune(
    config: TrainConfig, trials: int, at_once: int = 1, address: str | None = None
) -> list[Trial]:
    """Search SEARCH_SPACE around a configuration; hopeless trials are stopped early. Best first.

    Each trial is a run of its own under `config.out`; the val split scores, so report another
    figure for the winner.

    Args:
        config: what is not searched stays as it is here.
        trials: settings to try.
        at_once: trials that run at the same time, each with its share of the cores.
        address: of a running Ray cluster; None starts a local one.
    """
    config = _absolute(config)
    with _ray(address) as resources, tempfile.TemporaryDirectory() as scratch:
        cpus = _cores_each(resources, at_once)
        gpus = min(1.0, resources.get("GPU", 0) / at_once) if config.device != "cpu" else 0
        trial = ray.tune.with_parameters(_try, config=config.model_dump_json(), threads=cpus)
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            param_space=dict(SEARCH_SPACE),
            tune_config=ray.tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                num_samples=trials,
                search_alg=BasicVariantGenerator(random_state=config.seed, max_concurrent=at_once),
                scheduler=ASHAScheduler(
                    max_t=config.recipe.epochs, grace_period=max(1, config.recipe.epochs // 4)
                ),
            ),
            run_config=ray.tune.RunConfig(name=config.out.name, storage_path=scratch, verbose=0),
        )
        results = tuner.fit()
        for error in results.errors:
            log.warning("a trial failed: %s", error)
        ended = [results[i] for i in range(len(results))]
        done = [
            Trial(
                result.config, float(result.metrics["val_accuracy"]), int(result.metrics["epoch"])
            )
            for result in ended
            if result.metrics and "val_accuracy" in result.metrics and result.config
        ]
    return sorted(done, key=lambda t: -t.val_accuracy)


def _cores_each(resources: Mapping[str, float], processes: int) -> int:
    """Return the cores that each of several processes gets.

    Its share of all, and no more than one machine has.
    """
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return max(
        1, min(int(resources.get("CPU", 1)) // processes, *(cores for cores in machines if cores))
    )


def _root_cause(error: BaseException) -> str:
    """Return the message of the worker's error, without Ray's layers around it."""
    failures = getattr(error, "worker_failures", None)
    cause: BaseException = next(iter(failures.values())) if failures else error
    while (below := getattr(cause, "cause", None) or cause.__cause__) is not None:
        cause = below
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else repr(cause)


def _work(task: dict[str, Any]) -> None:
    """Run on a Ray worker: the recipe, with torch's process group set up by Ray."""
    context = ray.train.get_context()
    config = TrainConfig.model_validate_json(task["config"])
    if not config.threads:
        config = config.model_copy(update={"threads": task["threads"]})
    finetune(
        config,
        Worker(
            context.get_world_rank(), context.get_world_size(), lambda row: ray.train.report(row)
        ),
    )


def _try(settings: dict[str, Any], config: str, threads: int) -> None:
    """Run on a Ray worker: one trial of a search."""
    base = TrainConfig.model_validate_json(config)
    folder = base.out / str(ray.tune.get_context().get_trial_id())
    own = with_values(base, {**settings, "out": str(folder), "threads": base.threads or threads})
    finetune(own, Worker(report=lambda row: ray.tune.report(row)))


def _check(config: TrainConfig) -> None:
    """Say here, at once, what would else fail on every worker, again and again."""
    if config.data.root is not None:
        open_training_data(config.data, config.seed, config.out)
    if config.model.weights != "pretrained" and not config.model.weights.endswith(".onnx"):
        build(config.model.name, 1, 0.0, config.model.weights)


def _absolute(config: TrainConfig) -> TrainConfig:
    """Workers run in folders of their own, so every path is made absolute."""
    data = config.data
    paths: dict[str, Any] = {
        "out": config.out,
        "data.root": data.root,
        "data.label_map": data.label_map,
        "data.also": data.also,
        "data.outliers": data.outliers,
        "model.weights": Path(config.model.weights),
        "teachers": config.teachers,
    }
    values: dict[str, Any] = {}
    for key, value in paths.items():
        if isinstance(value, tuple):
            values[key] = [str(path.absolute()) for path in value]
        elif value is not None and (
            value.exists() or key == "out"
        ):  # weights may be a word, not a file
            values[key] = str(value.absolute())
    return with_values(config, values)


@contextmanager
def _ray(address: str | None) -> Iterator[dict[str, float]]:
    """Join a cluster or start a local one, and yield what it has: CPU, GPU and so on."""
    with ray_cluster(address):
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
