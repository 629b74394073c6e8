"""The outbox keeps what it took, through kills, full disks and damage."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.outbox import Outbox, open_outbox
from vision.errors import StorageError
from vision.events import ItemEvent

Make = Callable[..., ItemEvent]


def test_outbox_behaves_like_a_list(tmp_path: Path, make_event: Make) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    step = st.one_of(
        st.just("append"), st.just("reopen"), st.tuples(st.just("ack"), st.integers(0, 12))
    )
    counter = iter(range(1_000_000))

    @hypothesis.settings(max_examples=40, deadline=None)
    @hypothesis.given(st.lists(step, max_size=25))
    def run(steps: list[object]) -> None:
        path = tmp_path / f"{next(counter)}.sqlite"
        outbox = Outbox(path, "b")
        model = []
        last = 0
        for action in steps:
            if action == "append":
                last += 1
                assert outbox.append(make_event(monotonic_ms=last)) == last
                model.append(last)
            elif action == "reopen":
                outbox.close()
                outbox = Outbox(path, "b")
            else:
                assert isinstance(action, tuple)
                outbox.ack(action[1])
                model = [seq for seq in model if seq > action[1]]
        batch = outbox.peek(100)
        assert (
            [(seq, event.monotonic_ms) for seq, event in batch.events]
            if batch
            else [(s, s) for s in model] == []
        )
        assert outbox.depth() == len(model)
        outbox.close()

    run()


def test_numbers_are_never_used_again_and_the_identity_stays(
    tmp_path: Path, make_event: Make
) -> None:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        identity = outbox.outbox_id
        assert [outbox.append(make_event()) for _ in range(3)] == [1, 2, 3]
        outbox.ack(3)
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        assert outbox.append(make_event()) == 4
        assert outbox.outbox_id == identity


def test_outbox_keeps_unacked_events_after_kill(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from edge_runtime.outbox import Outbox\n"
        "from vision.events import ItemEvent\n"
        "outbox = Outbox(Path(sys.argv[1]), 'b')\n"
        "event = ItemEvent(0, 0, '', True, '', '', '', 'glass', 1.0, 1.0, 'paper', 0.0, 'known', "
        "'glass', '', 'moved', "
        "0.0, 0.0, 0.0, 0.0, 0.0)\n"
        "while True: print(outbox.append(event), flush=True)\n"
    )
    path = tmp_path / "o.sqlite"
    root = str(Path(__file__).parents[3])
    promised = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path), root], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(20):
            promised = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        for line in process.stdout.read().splitlines():
            promised = int(line) if line else promised
        process.wait()
        process.stdout.close()
    with Outbox(path, "b") as outbox:
        batch = outbox.peek(1_000_000)
        assert batch is not None
        numbers = [seq for seq, _ in batch.events]
    assert promised >= 100
    assert numbers[:promised] == list(range(1, promised + 1))


def test_full_outbox_drops_the_oldest_and_says_how_many(tmp_path: Path, make_event: Make) -> None:
    with Outbox(tmp_path / "o.sqlite", "b", max_bytes=256 * 1024) as outbox:
        for _ in range(1500):
            outbox.append(make_event(reason="x" * 200))
        batch = outbox.peek(10_000)
        assert batch is not None
        numbers = [seq for seq, _ in batch.events]
        assert numbers == list(range(numbers[0], 1501))  # the newest are there without a gap
        assert batch.dropped == outbox.dropped() == numbers[0] - 1 > 0
        assert (tmp_path / "o.sqlite").stat().st_size <= 256 * 1024
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        assert outbox.dropped() == numbers[0] - 1


def test_quarantine_keeps_the_event_out_of_the_way(tmp_path: Path, make_event: Make) -> None:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for _ in range(3):
            outbox.append(make_event())
        outbox.quarantine(1, "422: no")
        batch = outbox.peek(10)
        assert batch is not None
        assert [seq for seq, _ in batch.events] == [2, 3]
        assert (outbox.depth(), outbox.quarantined()) == (2, 1)


def test_what_was_set_aside_goes_again_after_an_update_under_new_numbers(
    tmp_path: Path, make_event: Make
) -> None:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for reason in "abc":
            outbox.append(make_event(reason=reason))
        outbox.quarantine(1, "422: no")
        outbox.quarantine(3, "422: no")
        assert (outbox.requeue(1), outbox.requeue(9)) == (1, 1)
        batch = outbox.peek(10)
        assert batch is not None
        assert [(seq, event.reason) for seq, event in batch.events] == [
            (2, "b"),
            (4, "a"),
            (5, "c"),
        ]
        assert (outbox.depth(), outbox.quarantined(), outbox.requeue(9)) == (3, 0, 0)


def test_a_full_outbox_can_still_quarantine_and_what_cannot_be_read_holds_nothing_up(
    tmp_path: Path, make_event: Make
) -> None:
    with Outbox(tmp_path / "o.sqlite", "b", max_bytes=256 * 1024) as outbox:
        for _ in range(1500):
            outbox.append(make_event(reason="x" * 200))
        for _ in range(100):
            batch = outbox.peek(1)
            assert batch is not None
            outbox.quarantine(batch.events[0][0], "400: " + "y" * 900)
        before = (outbox.depth(), outbox.quarantined(), outbox.dropped())
        back = outbox.requeue(50)  # costs none of those that wait
        assert back == 50
        assert (outbox.depth() - back, outbox.quarantined() + back, outbox.dropped()) == before
        outbox.append(make_event())
        outbox._db.execute(
            "UPDATE event SET body = '{\"label\": 1}' WHERE seq = (SELECT min(seq) FROM event)"
        )
        depth = outbox.depth()
        batch = outbox.peek(10)
        assert batch is not None
        assert len(batch.events) == 9
        assert outbox.depth() == depth - 1


def test_a_file_that_is_no_outbox_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"o\.sqlite"):
        Outbox(path, "b")
    assert path.read_bytes() == b"not a database" * 100  # it is left for whoever wants to rescue it


def test_a_bin_whose_outbox_is_damaged_sets_it_aside_and_goes_on(
    tmp_path: Path, make_event: Make
) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"not a database" * 1000)
    path.with_name("o.sqlite-wal").write_bytes(b"nor this")
    outbox, message = open_outbox(path, "b", 2**20)
    with outbox:
        assert outbox.append(make_event()) == 1
    assert "set aside as o.damaged" in message
    assert (tmp_path / "o.damaged").read_bytes() == b"not a database" * 1000
    again, message = open_outbox(path, "b", 2**20)
    with again:
        assert (again.depth(), message) == (1, "")


def test_damage_inside_the_file_is_found_at_the_start(tmp_path: Path, make_event: Make) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path, "b") as outbox:
        for _ in range(200):
            outbox.append(make_event())
    content = bytearray(path.read_bytes())
    assert len(content) > 4096 * 20
    content[4096 * 10 : 4096 * 14] = b"\xa5" * (
        4096 * 4
    )  # events; what is read at the start is whole
    path.write_bytes(content)
    outbox, message = open_outbox(path, "b", 2**20)
    with outbox:
        assert (outbox.append(make_event()), outbox.depth()) == (1, 1)
    assert "set aside" in message


def test_a_damaged_event_is_quarantined_and_holds_nothing_up(
    tmp_path: Path, make_event: Make
) -> None:
    with Outbox(tmp_path / "o.sqlite", "b") as outbox:
        for _ in range(3):
            outbox.append(make_event())
        outbox._db.execute("UPDATE event SET body = CAST(x'7b83ff' AS TEXT) WHERE seq = 2")
        batch = outbox.peek(10)
        assert batch is not None
        assert [seq for seq, _ in batch.events] == [1, 3]
        assert outbox.quarantined() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_full_disk_is_reported_counted_and_survived(tmp_path: Path, make_event: Make) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with Outbox(mount / "o.sqlite", "b") as outbox:
            stored = [outbox.append(make_event()) for _ in range(5)]
            (mount / "ballast").write_bytes(
                bytes(1024 * 1024 - sum(f.stat().st_size for f in mount.iterdir()) - 40_960)
            )
            lost = 0
            for _ in range(400):
                try:
                    stored.append(outbox.append(make_event()))
                except StorageError:
                    lost += 1
            assert lost > 0
            assert outbox.dropped() == lost  # counted while the disk is full ...
            (mount / "ballast").unlink()
            stored.append(outbox.append(make_event()))
            assert outbox.dropped() == lost
            batch = outbox.peek(10_000)
            assert batch is not None
            assert batch.dropped == lost  # ... and told to the hub afterwards
            assert [seq for seq, _ in batch.events] == stored
    finally:
        subprocess.run(["umount", str(mount)], check=True)
