"""Join a Ray cluster, or start a local one: the same for training and for the hub.

Ray itself waits for minutes where nobody answers and prints nothing, so the address is checked
first, in a process of its own. Ray is imported only when a cluster is wanted.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vision.errors import ConfigError

_CONNECT_S = 3.0
_ANSWER_S = 15.0


def must_be_ray(address: str | None) -> None:
    """Ask the cluster at `address`, or at RAY_ADDRESS if that is set, whether it is there.

    It takes 18 s at most.

    Args:
        address: host:port of the cluster's head, or ray://host:port; None and "local" start a
            cluster and are fine, and "auto" finds the one on this machine.

    Raises:
        ConfigError: nobody is there, or no Ray.
    """
    key = "--ray-address" if address else "RAY_ADDRESS"
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    if not wanted or wanted in ("local", "auto"):
        return
    found = re.fullmatch(r"(ray://)?(?:\[([^\]]+)\]|([^:/\[\]\s]+)):(\d{1,5})", wanted)
    if not found or int(found[4]) > 65535:
        raise ConfigError(
            f"{key}: {wanted!r} is no address; write host:port, as 'ray start --head' prints it"
        )
    host = found[2] or found[3]
    port = int(found[4])
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{key}: nobody answers at {wanted} ({error}); start the cluster with "
            "'ray start --head', or leave it out to use a local one"
        ) from error
    if found[1]:
        ask = [
            sys.executable,
            "-c",
            "import sys, ray; ray.init(sys.argv[1], logging_level='ERROR')",
            wanted,
        ]
    else:
        ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", wanted]
    try:
        answer = subprocess.run(ask, capture_output=True, timeout=_ANSWER_S, check=False).returncode
    except subprocess.TimeoutExpired:
        answer = -1
    if answer:
        raise ConfigError(
            f"{key}: something answers at {wanted}, but it is no Ray cluster of this version"
        )


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Join a cluster or start a local one, and leave it at the end.

    Args:
        address: of the cluster's head, as for `must_be_ray`; None starts a local one.

    Raises:
        ConfigError: nobody is there, or no Ray; known within 20 seconds.
    """
    import ray  # noqa: PLC0415  takes seconds to import, and the bin has none

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    must_be_ray(address)
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
        yield
    finally:
        ray.shutdown()
