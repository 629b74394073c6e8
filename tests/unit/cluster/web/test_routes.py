"""The hub's front_end: what it takes, what it refuses, what it answers."""

import csv
import io
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cluster.app import aggregate
from cluster.config import HubConfig
from cluster.ingest.commit import Ingest
from cluster.lake.store import Lake
from cluster.web.app import create_app
from vision.events import Batch, ItemEvent, Receipt
from vision.notes import Note
from vision.wire import MAX_BODY_BYTES, decode_receipt, encode_batch

Make = Callable[..., ItemEvent]


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    return HubConfig(lake=tmp_path / "lake", commit_interval_s=0, lake_interval_s=0)


@pytest.fixture
def client(config: HubConfig) -> Iterator[TestClient]:
    with TestClient(create_app(config, Lake(config.lake), lambda: 1_790_000_000_000)) as client:
        yield client


def test_a_batch_is_acknowledged_with_a_receipt_and_counted(
    client: TestClient, config: HubConfig, make_event: Make
) -> None:
    body = encode_batch(
        Batch("o1", "bin-1", 0, ((1, make_event()), (2, make_event(label="paper", stream="paper"))))
    )
    for _ in range(2):
        answer = client.post("/v1/batches", content=body)
        assert answer.status_code == 200
        assert decode_receipt(answer.content) == Receipt("o1", 2)
    health = client.get("/v1/health").json()
    assert health["ingest"] == {"batches": 2, "events": 2, "repeated_events": 2, "commits": 1}
    found = (health["waiting_events"], health["lake_events"], health["statistics_events"])
    assert found == (0, 2, 0)
    aggregate(config, "local")
    rows = client.get("/v1/statistics", params={"by": ["label", "stream"]}).json()["rows"]
    assert [(r["label"], r["items"]) for r in rows] == [("glass", 1), ("paper", 1)]
    text = client.get("/v1/statistics", params={"by": "label", "format": "csv"}).text
    assert text.splitlines()[1].startswith('"glass",1,0.5,')
    assert client.get("/v1/statistics", params={"by": "label", "format": "xslx"}).status_code == 422
    assert client.get("/v1/bins").json()["rows"][0]["missing"] == 0


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"not zlib", 400, "not zlib"),
        (zlib.compress(b"not json"), 400, "not JSON"),
        (zlib.compress(b'{"schema": "binsight.batch/99"}'), 400, "binsight.batch/99"),
        (zlib.compress(bytes(64 * 1024 * 1024)), 400, "unpacks to more"),
        (bytes(MAX_BODY_BYTES + 1), 413, "more than"),
    ],
)
def test_bad_batches_are_refused_and_nothing_is_stored(
    client: TestClient, config: HubConfig, body: bytes, status: int, complaint: str
) -> None:
    answer = client.post("/v1/batches", content=body)
    assert answer.status_code == status
    assert complaint in answer.text
    assert Lake(config.lake).files("events") == []


@pytest.mark.parametrize(
    "change",
    [
        {"monotonic_ms": 2**70},
        {"label": "\ud800"},
        {"confidence": float("1e999")},
        {"reason": "x" * 5000},
    ],
)
def test_one_bad_event_is_refused_and_good_batches_are_still_taken(
    client: TestClient, make_event: Make, change: dict[str, object]
) -> None:
    document = {"schema": "binsight.batch/1", "outbox_id": "o", "bin_id": "b", "dropped": 0}
    document["events"] = [{**make_event().to_dict(), **change, "seq": 1}]  # type: ignore[assignment]
    text = json.dumps(document).replace("Infinity", "1e999")
    assert client.post("/v1/batches", content=zlib.compress(text.encode())).status_code == 400
    assert (
        client.post(
            "/v1/batches", content=encode_batch(Batch("o", "b", 0, ((1, make_event()),)))
        ).status_code
        == 200
    )


def test_a_defect_in_the_committer_costs_one_group_and_not_the_hub(
    client: TestClient, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = encode_batch(Batch("o", "b", 0, ((1, make_event()),)))
    with monkeypatch.context() as broken:
        broken.setattr("cluster.ingest.commit.events_table", lambda *_: 1 / 0)
        assert client.post("/v1/batches", content=body).status_code == 503
    assert client.post("/v1/batches", content=body).status_code == 200


def test_a_lake_that_cannot_store_answers_503_and_no_receipt(
    client: TestClient, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.lake.durable.os.fsync", refuse)
    answer = client.post(
        "/v1/batches", content=encode_batch(Batch("o1", "b", 0, ((1, make_event()),)))
    )
    assert answer.status_code == 503
    assert "No space left" in answer.text


def test_a_hub_with_a_token_takes_only_bins_that_bring_it(tmp_path: Path, make_event: Make) -> None:
    config = HubConfig(lake=tmp_path / "lake", token="secret", commit_interval_s=0)
    body = encode_batch(Batch("o1", "b", 0, ((1, make_event()),)))
    with TestClient(create_app(config, Lake(config.lake), lambda: 0)) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer s\u00e9cret".encode()},
        ):
            assert client.post("/v1/batches", content=body, headers=headers).status_code == 401
        assert (
            client.post(
                "/v1/batches", content=body, headers={"Authorization": "Bearer secret"}
            ).status_code
            == 200
        )


def test_page_and_its_script_come_from_the_hub_itself(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "https://" not in page.text.replace(
        "http://www.w3.org", ""
    )  # nothing is loaded from elsewhere
    assert client.get("/static/vendor/echarts.common.min.js").status_code == 200
    assert client.get("/v1/statistics", params={"by": "colour"}).status_code == 400


def test_no_text_of_a_bin_is_a_formula_to_a_spreadsheet(
    client: TestClient, config: HubConfig, make_event: Make
) -> None:
    names = (
        '=HYPERLINK("http://evil")',
        "+1",
        "-1",
        "@SUM(A1)",
        " =1",
        "＝1+1",
        "\u200b=2",
        "\u00a0@x",
        "Müller, Straße 5",
    )
    for number, name in enumerate(names):
        client.post(
            "/v1/batches", content=encode_batch(Batch(f"o{number}", name, 0, ((1, make_event()),)))
        )
    aggregate(config, "local")
    answer = client.get("/v1/statistics", params={"by": "bin_id", "format": "csv"})
    assert answer.headers["content-disposition"] == 'attachment; filename="binsight-by-bin_id.csv"'
    assert answer.content.startswith("\ufeff".encode())
    cells = {
        row["bin_id"] for row in csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
    }
    assert cells == {*("'" + name for name in names[:-1]), names[-1]}


def test_a_background_task_that_dies_makes_health_red_and_leaves_nobody_waiting(
    client: TestClient, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        """What no `except Exception` holds."""

    def dies(*_: object) -> None:
        raise Dead("a part broke")

    body = encode_batch(Batch("o1", "bin-1", 0, ((1, make_event()),)))
    assert client.post("/v1/batches", content=body).status_code == 200
    assert client.get("/v1/health").json()["problems"] == []
    monkeypatch.setattr(Ingest, "commit", dies)
    second = encode_batch(Batch("o1", "bin-1", 0, ((2, make_event()),)))
    for _ in range(2):  # the one that met it, and those after it
        answer = client.post("/v1/batches", content=second)
        assert answer.status_code == 503
        assert "takes no events any more" in answer.json()["error"]
    health = client.get("/v1/health")
    assert health.status_code == 503
    assert "a part broke" in health.json()["problems"][0]


def test_a_panic_of_the_lake_is_an_error_like_others_and_the_hub_goes_on(
    client: TestClient, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    panic = type("PanicException", (BaseException,), {})

    def panics(*_: object, **__: object) -> None:
        raise panic("called `Option::unwrap()` on a `None` value")

    body = encode_batch(Batch("o1", "bin-1", 0, ((1, make_event()),)))
    with monkeypatch.context() as patch:
        patch.setattr("cluster.lake.store.write_deltalake", panics)
        answer = client.post("/v1/batches", content=body)
        assert (answer.status_code, "deltalake broke down" in answer.json()["error"]) == (503, True)
    assert client.post("/v1/batches", content=body).status_code == 200
    assert client.get("/v1/health").status_code == 200


def test_the_hub_counts_new_events_by_itself_and_says_when_it_cannot(
    config: HubConfig, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = config.model_copy(update={"lake_interval_s": 60, "aggregate_interval_s": 0.05})
    with TestClient(create_app(often, Lake(config.lake), lambda: 1_790_000_000_000)) as client:
        for n in (1, 2):
            body = encode_batch(Batch("o1", "bin-1", 0, ((n, make_event()),)))
            assert client.post("/v1/batches", content=body).status_code == 200
            _wait(lambda n=n: client.get("/v1/overview").json()["items"] == n)
        _wait(lambda: list(client.app.state.hub.access.registry.models("bin-1")) == ["m" * 64])  # type: ignore[attr-defined]
        with monkeypatch.context() as broken:
            broken.setattr("cluster.web.schedule.Schedule.refresh", lambda _: 1 / 0)
            _wait(lambda: client.get("/v1/health").status_code == 503)
            assert "not up to date" in client.get("/v1/health").json()["problems"][0]
        _wait(lambda: client.get("/v1/health").status_code == 200)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_statistics_of_an_earlier_version_are_counted_again_without_a_new_event(
    config: HubConfig, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(config, Lake(config.lake), lambda: 1_790_000_000_000)) as client:
        body = encode_batch(Batch("o1", "bin-1", 0, ((1, make_event()),)))
        assert client.post("/v1/batches", content=body).status_code == 200
    with monkeypatch.context() as earlier:
        earlier.setattr("cluster.statistics.refresh.KERNEL_VERSION", 1)
        keys = ("bin_id", "hour_utc_ms", "model_digest", "rule_book", "label", "decision", "stream")
        earlier.setattr("cluster.statistics.aggregate.KEYS", keys)
        aggregated = "cluster.statistics.aggregate._TIME_KEY"
        earlier.setattr(aggregated, "hour_utc_ms")
        aggregate(config, "local")
    with TestClient(create_app(config, Lake(config.lake), lambda: 1_790_000_000_000)) as client:
        _wait(lambda: client.get("/v1/overview").status_code == 200)
        assert client.get("/v1/overview").json()["items"] == 1


def test_another_bins_outbox_is_forbidden_and_too_much_is_answered_with_when_to_come_again(
    client: TestClient, config: HubConfig, make_event: Make
) -> None:
    bodies = [encode_batch(Batch("o1", b, 0, ((n, make_event()),))) for n, b in enumerate("ab", 1)]
    answers = [client.post("/v1/batches", content=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 403]
    assert "another bin" in answers[1].json()["error"]
    lake = Lake(config.lake.with_name("small"))
    limits = config.model_copy(update={"lake": lake.folder, "waiting_events": 1})
    with TestClient(create_app(limits, lake, lambda: 1_790_000_000_000)) as small:
        state = small.app.state.hub.ingest  # type: ignore[attr-defined]
        state._queued_events = 1
        busy = small.post("/v1/batches", content=bodies[0])
        state._queued_events = 0
        assert (busy.status_code, busy.headers["Retry-After"].isdigit()) == (429, True)
        assert small.post("/v1/batches", content=bodies[0]).status_code == 200


def test_every_address_in_the_page_is_relative(client: TestClient) -> None:
    for path in ("/", "/docs", "/static/hub.js", "/static/hub.css"):
        assert not re.findall(
            r"""(?:src|href|ask\(|fetch\(|url:)\s*=?\s*["'`]/[^/]""", client.get(path).text
        )


def test_an_empty_lake_answers_with_empty_statistics(client: TestClient) -> None:
    assert client.get("/v1/statistics", params={"by": "label"}).json()["rows"] == []
    assert client.get("/v1/statistics", params={"by": "label", "format": "csv"}).text == ""
    assert client.get("/v1/bins").json() == {"rows": []}
    overview = client.get("/v1/overview").json()
    assert (overview["items"], overview["streams"], overview["diverted"]) == (0, [], None)


def test_every_answer_of_the_api_is_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {
        path: operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        for path, operations in paths.items()
        for operation in operations.values()
        if path.startswith("/v1/")
    }
    assert {path: name.rpartition("/")[2] for path, name in described.items()} == {
        "/v1/batches": "ReceiptAnswer",
        "/v1/keys": "KeyAnswer",
        "/v1/statistics": "StatisticsAnswer",
        "/v1/bins": "BinsAnswer",
        "/v1/status": "StatusAnswer",
        "/v1/overview": "OverviewAnswer",
        "/v1/health": "HealthAnswer",
    }
    assert paths["/v1/batches"]["post"]["security"] == [{"HTTPBearer": []}]


def test_the_last_status_of_each_bin_is_shown_with_what_is_wrong(
    client: TestClient, make_note: Callable[..., Note]
) -> None:
    dark = make_note(camera="it is dark", items_since_emptied=12)
    emptied = make_note(kind="emptied")
    for bin_id, notes in (("bin-1", ((1, emptied), (2, dark))), ("bin-2", ((1, emptied),))):
        body = encode_batch(Batch(f"notes-{bin_id}", bin_id, 0, (), notes=notes))
        assert client.post("/v1/batches", content=body).status_code == 200
    rows = client.get("/v1/status").json()["rows"]
    assert [row["bin_id"] for row in rows] == ["bin-1", "bin-2"]
    assert rows[0]["problems"] == {"camera": "it is dark"}
    assert rows[0]["status"]["items_since_emptied"] == 12
    assert rows[0]["emptied_utc_ms"] == 1_790_000_000_000
    assert (rows[1]["status"], rows[1]["received_utc_ms"]) == (None, None)


def test_the_overview_of_a_fleet_holds_totals_and_intervals(
    client: TestClient, config: HubConfig, make_event: Make
) -> None:
    glass = tuple((n, make_event()) for n in range(1, 9))
    doubt = (9, make_event(decision="unsure", stream="residual"))
    hazard = (12, make_event(label="battery", decision="hazard", stream="hazardous"))
    body = encode_batch(Batch("o1", "bin-1", 0, (*glass, doubt, hazard)))
    assert client.post("/v1/batches", content=body).status_code == 200
    aggregate(config, "local")
    overview = client.get("/v1/overview").json()
    assert (overview["items"], overview["bins"], overview["missing"]) == (10, 1, 2)
    assert overview["events_behind"] == 0
    for name in ("diverted", "known"):
        share = overview[name]
        assert (share["count"], share["total"], share["share"]) == (9, 10, 0.9)
        assert (round(share["low"], 3), round(share["high"], 3)) == (0.596, 0.982)
    assert [(row["label"], row["items"]) for row in overview["labels"]] == [
        ("battery", 1),
        ("glass", 8),
    ]
    assert all(row["items_low"] < row["items"] < row["items_high"] for row in overview["labels"])
    assert {row["stream"]: row["items"] for row in overview["streams"]} == {
        "glass": 8,
        "hazardous": 1,
        "residual": 1,
    }
    assert sum(sum(series["items"]) for series in overview["hours"]["series"]) == 10
    decisions = overview["decisions"]
    assert decisions["labels"] == ["battery", "glass"]
    assert [(row["decision"], row["shares"]) for row in decisions["series"]] == [
        ("known", [0.0, 8 / 9]),
        ("unsure", [0.0, 1 / 9]),
        ("hazard", [1.0, 0.0]),
    ]
    assert overview["outboxes"] == client.get("/v1/bins").json()["rows"]


def test_where_no_stream_is_residual_nothing_is_kept_out_of_it(
    client: TestClient, config: HubConfig, make_event: Make
) -> None:
    body = encode_batch(Batch("o1", "bin-1", 0, ((1, make_event(stream="dry")),)))
    assert client.post("/v1/batches", content=body).status_code == 200
    aggregate(config, "local")
    assert client.get("/v1/overview").json()["diverted"] is None
