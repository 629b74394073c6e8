"""The same kernel as Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from cluster.statistics.aggregate import Statistics, aggregate_files
from configs.ray_cluster import ray_cluster
from vision.errors import StorageError


def aggregate_with_ray(
    parts: Sequence[Sequence[str]], address: str | None = None
) -> list[Statistics]:
    """Aggregate each part of the lake in a Ray task; return the results in the order of the parts.

    Args:
        parts: lists of Parquet files; one task each. On a cluster every node must reach the lake by
            the same path.
        address: of a running Ray cluster; None starts a local one for this call.

    Raises:
        ConfigError: no Ray cluster is there; known within 20 seconds.
        StorageError: a task failed on a node.
    """
    with ray_cluster(address):
        try:
            task = ray.remote(aggregate_files)
            return list(ray.get([task.remote(list(files)) for files in parts]))
        except ray.exceptions.RayError as error:
            message = str(error).strip().splitlines()[-1]
            raise StorageError(
                f"Ray: a task failed ({message}); every node must reach the lake by the same path"
            ) from error
