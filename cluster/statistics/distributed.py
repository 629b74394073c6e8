"""The same kernel as Ray tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import ray

from cluster.statistics.aggregate import Statistics, aggregate_files
from configs.ray_cluster import ray_cluster
from vision.errors import StorageError


def aggregate_with_ray(
    parts: Sequence[Sequence[str]],
    address: str | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> list[Statistics]:
    """Aggregate each part of the lake in a Ray task; return the results in the order of the parts.

    Args:
        parts: lists of Parquet files; one task each. On a cluster every node must reach the lake by
            the same path, or have its storage's credentials.
        address: of a running Ray cluster; None starts a local one for this call.
        options: of the lake's storage.

    Raises:
        ConfigError: no Ray cluster is there; known within 20 seconds.
        StorageError: a task failed on a node.
    """
    with ray_cluster(address):
        try:
            task = ray.remote(_count)
            return list(ray.get([task.remote(list(files), dict(options)) for files in parts]))
        except ray.exceptions.RayError as error:
            message = str(error).strip().splitlines()[-1]
            raise StorageError(
                f"Ray: a task failed ({message}); every node must reach the lake by the same path"
            ) from error


def _count(files: list[str], options: dict[str, str]) -> Statistics:
    return aggregate_files(files, options)
