"""The same kernel as Ray tasks. The hub's only address of ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import ray

from cluster.statistics.aggregate import Statistics, aggregate_files, merge
from configs.ray_address import must_be_ray
from vision.errors import ConfigError, StorageError


def aggregate_with_ray(parts: Sequence[Sequence[str]], address: str | None = None) -> Statistics:
    """Aggregate each part of the lake in a Ray task and merge the results.

    Args:
        parts: lists of Parquet files; one task each. On a cluster every node must reach the lake by
            the same path.
        address: of a running Ray cluster; None starts a local one for this call.

    Raises:
        ConfigError: no Ray cluster is there; known within 20 seconds.
        StorageError: a task failed on a node.
    """
    must_be_ray(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--ray-address: Ray does not start or join: {error}") from error
    try:
        task = ray.remote(aggregate_files)
        return merge(ray.get([task.remote(list(files)) for files in parts]))
    except ray.exceptions.RayError as error:
        message = str(error).strip().splitlines()[-1]
        raise StorageError(
            f"Ray: a task failed ({message}); every node must reach the lake by the same path"
        ) from error
    finally:
        ray.shutdown()
