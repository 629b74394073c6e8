"""The whole line on real photographs, and the page in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vision.datasets import open_dataset
from vision.simulator.world import read_ledger

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.shared_data
def test_demo_on_real_photographs_adds_up(shared: Path, tmp_path: Path) -> None:
    # Every third of TrashNet's photographs: a slow machine trains on all of them for ten minutes.
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    rows = [
        f"{os.path.relpath(s.path, photographs)},{s.label},{s.split},{s.group}"
        for s in open_dataset(shared / "data" / "trashnet").samples[::3]
    ]
    (photographs / "splits.csv").write_text("\n".join(["path,label,split,group", *rows]))
    arguments = [
        "demo",
        "--data",
        str(photographs),
        "--exit",
        "--port",
        "0",
        "--folder",
        str(tmp_path / "demo"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "binsight", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "was killed (SIGKILL) while item" in done.stdout
    assert "120 items dropped in, 120 in the statistics, 0 twice" in done.stdout
    assert "it adds up" in done.stdout
    ledgers = sorted((tmp_path / "demo" / "bins").glob("bin-*/truth.jsonl"))
    assert [sum(line.what == "cleared" for line in read_ledger(path)) for path in ledgers] == [
        12
    ] * 10
    assert (tmp_path / "demo" / "run" / "report.html").is_file()
    right = re.search(r"label right: (\d+)", done.stdout)
    assert right is not None
    assert int(right[1]) > 120 / 6 * 2  # twice as often as chance


def test_demo_notices_what_does_not_add_up(tmp_path: Path) -> None:
    from binsight_demo import _Bin, _check
    from cluster.app import aggregate
    from cluster.config import HubConfig
    from cluster.ingest.commit import Ingest
    from cluster.lake.store import Lake
    from vision.events import Batch, ItemEvent

    event = ItemEvent(
        0,
        0,
        "",
        False,
        "",
        "",
        "",
        "glass",
        1.0,
        1.0,
        "paper",
        0.0,
        "known",
        "glass",
        "",
        "moved",
        *[0.0] * 5,
    )
    ingest = Ingest(Lake(tmp_path / "lake"), lambda: 1)
    ingest.commit([Batch("o", "bin-01", 0, ((1, event), (2, event)))])
    ingest.close()
    aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    member = _Bin("bin-01", tmp_path / "x.yaml", tmp_path / "bin-01")
    member.state.mkdir()
    for dropped, good in ((2, True), (3, False), (1, False)):
        lines = [
            {"index": i, "label": "glass", "what": what}
            for i in range(dropped)
            for what in ("dropped", "cleared")
        ]
        (member.state / "truth.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
        assert _check([member], tmp_path, dropped, "bin-01 was killed") is good
    # A demo in which nothing was killed proves nothing.
    assert not _check([member], tmp_path, 1, "")


def test_demo_does_not_delete_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "binsight", "demo", "--exit", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "name an empty or a new folder" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def hub_with_statistics(tmp_path: Path) -> Iterator[str]:
    from cluster.app import aggregate
    from cluster.config import HubConfig

    hub = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "binsight",
            "hub",
            "serve",
            "--set",
            f"lake={tmp_path / 'lake'}",
            "--set",
            "port=0",
            "--set",
            "lake_interval_s=0",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hub.stdout is not None
    url = hub.stdout.readline().removeprefix("hub: ").strip()
    for index in range(3):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "binsight",
                "edge",
                "run",
                "--set",
                f"bin_id=bin-{index}",
                "--set",
                f"state={tmp_path / str(index)}",
                "--set",
                f"camera.seed={index}",
                "--set",
                "camera.fps=0",
                "--set",
                "camera.items=15",
                "--set",
                f"uplink.url={url}",
            ],
            check=True,
            capture_output=True,
        )
    aggregate(HubConfig(lake=tmp_path / "lake"), "local")
    yield url
    hub.kill()
    hub.wait()
    hub.stdout.close()


@pytest.fixture
def behind_a_path(hub_with_statistics: str) -> Iterator[str]:
    """The hub behind a city's proxy: at /binsight of another address, with nothing at its root."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            inside = self.path.removeprefix("/binsight") or "/"
            if inside == self.path:
                self.send_error(404)
                return
            with urllib.request.urlopen(hub_with_statistics + inside) as answer:
                body = answer.read()
                kind = answer.headers["Content-Type"]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/binsight"
        server.shutdown()


@pytest.mark.page
def test_page_shows_the_statistics_in_a_real_browser_behind_a_path_too(
    hub_with_statistics: str, behind_a_path: str, tmp_path: Path
) -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda message: troubles.append(message.text) if message.type == "error" else None,
        )
        page.goto(hub_with_statistics)
        page.wait_for_selector("#bins tbody tr")
        assert page.inner_text("#items") == "45"
        assert page.locator("#bins tbody tr").count() == 3
        assert page.inner_text("#missing") == "0"
        assert re.fullmatch(r"\d+\.\d %", page.inner_text("#diverted"))
        assert page.locator("#labels svg path").count() > 5
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(300)
        # A telephone shows it without scrolling sideways.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        def without_residual(route: Any) -> None:
            answer = route.fetch()
            route.fulfill(response=answer, json={**answer.json(), "diverted": None})

        page.route("**/v1/overview", without_residual)
        page.reload()
        page.wait_for_selector("#bins tbody tr")
        # Where the law knows no mixed waste, nothing is kept out of it.
        assert page.inner_text("#diverted") == "–"
        page.unroute("**/v1/overview")
        for address in (behind_a_path, behind_a_path + "/"):
            page.goto(address)
            page.wait_for_selector("#bins tbody tr")
            assert page.inner_text("#items") == "45"
        browser.close()
    assert troubles == []
    assert threading.active_count() < 50
