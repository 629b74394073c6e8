"""A hub and a bin as people run them: registered by command, enrolled by code, renewed, revoked."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.config import HttpUplinkConfig
from edge_runtime.identity import FILE_NAME, Identity
from edge_runtime.outbox import Outbox
from edge_runtime.transports.http import HttpTransport
from edge_runtime.transports.signed import SignedTransport
from edge_runtime.uplink import Uplink
from vision.events import ItemEvent

BINSIGHT = [sys.executable, "-m", "binsight"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    command = [*BINSIGHT, "hub", "serve", "--set", f"lake={tmp_path / 'lake'}", "--set", "port=0"]
    command += ["--set", "require_signatures=true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("hub: ").strip()
        process.terminate()
        process.wait(30)


def _bins(tmp_path: Path, *arguments: str) -> str:
    command = [*BINSIGHT, "hub", "bins", *arguments, "--set", f"lake={tmp_path / 'lake'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_from_registration_to_revocation(
    tmp_path: Path, hub: str, make_event: Callable[..., ItemEvent]
) -> None:
    printed = _bins(tmp_path, "add", "b1", "--tenant", "wien")
    code = printed.split("enrolment_code:")[1].strip()
    config = HttpUplinkConfig(url=hub, enrolment_code=code)
    identity = Identity(tmp_path / FILE_NAME, "b1")
    outbox = Outbox(tmp_path / "o.sqlite", "b1")
    way = HttpTransport(config, SystemClock())
    uplink = Uplink(
        outbox, SignedTransport(way, identity, code, SystemClock()), config, SystemClock()
    )

    def sent(until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        done = False
        while not done:
            assert time.monotonic() < deadline
            outbox.append(make_event())
            uplink.step()
            threading.Event().wait(0.2)
            done = until()

    def key() -> str:
        return str(json.loads((tmp_path / FILE_NAME).read_text())["key"])

    sent(lambda: not outbox.depth())
    assert "1 in use" in _bins(tmp_path, "list")
    first = key()
    _bins(tmp_path, "rotate", "b1")
    sent(lambda: key() != first)
    sent(lambda: "1 in use, 1 ended" in _bins(tmp_path, "list"))
    assert (outbox.depth(), uplink.alarm) == (0, "")
    _bins(tmp_path, "revoke", "b1")
    sent(lambda: "(401)" in uplink.alarm)
    waiting = outbox.depth()
    assert waiting
    again = _bins(tmp_path, "add", "b1", "--tenant", "wien").split("enrolment_code:")[1].strip()
    identity = Identity(tmp_path / FILE_NAME, "b1")
    uplink = Uplink(
        outbox, SignedTransport(way, identity, again, SystemClock()), config, SystemClock()
    )
    uplink.step()
    assert (outbox.depth(), uplink.alarm) == (0, "")
    way.close()
    outbox.close()
