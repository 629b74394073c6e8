"""A Ray cluster that is not there is reported at once."""

import os
import socket
import threading
import time

import pytest

from configs.ray_cluster import must_be_ray
from vision.errors import ConfigError


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_no_address_and_a_local_cluster_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in (None, "local", "auto"):
        must_be_ray(address)


@pytest.mark.parametrize(
    "nonsense", ["nonsense", "host:", ":1", "host:99999", "a b:1", "http://host"]
)
def test_nonsense_names_where_it_stands(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nonsense)
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS: .* is no address; write host:port"):
        must_be_ray(None)
    with pytest.raises(ConfigError, match=r"--ray-address: .* is no address"):
        must_be_ray(nonsense)
    assert os.environ["RAY_ADDRESS"] == nonsense


@pytest.mark.parametrize("host", ["..", "a" * 70, "ж" * 70])
def test_a_host_that_is_none_is_reported(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--ray-address: nobody answers"):
        must_be_ray(f"{host}:6379")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_reported_at_once(scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"nobody answers at .*leave it out"):
        must_be_ray(f"{scheme}127.0.0.1:{_closed_port()}")
    assert time.monotonic() - started < 20


def test_a_port_at_which_something_else_listens_is_reported_in_time() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: [silent.accept() for _ in range(9)], daemon=True).start()
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"no Ray cluster"):
            must_be_ray(f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 20
