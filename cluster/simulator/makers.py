"""Processes that make batches: on this machine's other cores, or as Ray tasks on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
# Calls a function elsewhere; what it returns gives the result when it is asked.
Submit = Callable[..., Callable[[], T]]


@contextmanager
def local_makers() -> Iterator[Submit[T]]:
    """Start a process for each core but the one that sends."""
    count = max(1, len(os.sched_getaffinity(0)) - 1)
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result


@contextmanager
def ray_makers(address: str | None) -> Iterator[Submit[T]]:
    """Use a Ray cluster; None starts a local one.

    Raises:
        ConfigError: no Ray cluster is there; known within 20 seconds.
    """
    import ray  # noqa: PLC0415  takes seconds to import

    from configs.ray_cluster import ray_cluster  # noqa: PLC0415  likewise

    with ray_cluster(address):

        def submit(function: Callable[..., T], *arguments: object) -> Callable[[], T]:
            reference = ray.remote(function).remote(*arguments)
            return lambda: ray.get(reference)

        yield submit
