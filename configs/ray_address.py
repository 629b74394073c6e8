"""Check that a Ray cluster answers where a setting says that one does.

Ray itself waits for minutes and prints nothing. Ray is asked in a process of its own and not
imported here.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

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
