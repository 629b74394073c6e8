"""Drives a simulated fleet against a hub, day after day, and keeps the true totals.

Bodies are made in processes of their own, in order of bins; what is sent is the same whoever
makes it. A hub in this process lives by the city's clock; one behind an address by its own, and
takes the whole time at once.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from cluster.simulator.city import DAY_MS, LABELS, City, Plan
from cluster.simulator.makers import Submit
from cluster.simulator.wire import Parcel, parcels
from vision.errors import UplinkError
from vision.wire import INGEST_PATH, MEDIA_TYPE, bearer

# Bins whose bodies are made together.
_TOGETHER = 250
# Connections to a hub behind an address.
_CONNECTIONS = 16
# A hub that is busy is asked again so often.
_TRIES = 60


class Hub(Protocol):
    """Takes parcels."""

    def send(self, some: Sequence[Parcel], now_utc_ms: int) -> None:
        """Deliver batches; all of them are acknowledged when it returns.

        Raises:
            UplinkError: one was refused.
        """


@dataclass(slots=True)
class Truth:
    """What really happened, to be compared with what a hub says.

    Attributes:
        plan: of the city.
        thrown: district x true label x reported label, items.
        by_bin: bin x reported label, items that were delivered.
        dropped: items that never arrive, by bin.
        batches: sent, without repeats.
        repeated: batches that were sent twice.
        late: batches that were sent on a later day.
    """

    plan: Plan
    thrown: NDArray[np.int64]
    by_bin: NDArray[np.int64]
    dropped: NDArray[np.int64]
    batches: int = 0
    repeated: int = 0
    late: int = 0

    @property
    def delivered(self) -> int:
        """Return the number of items that a hub must hold."""
        return int(self.by_bin.sum())

    def labels(self) -> dict[str, int]:
        """Return delivered items by the label that was reported."""
        return dict(zip(LABELS, self.by_bin.sum(0).tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "plan": asdict(self.plan),
            "labels": list(LABELS),
            "delivered": self.delivered,
            "delivered_by_label": self.labels(),
            "dropped": int(self.dropped.sum()),
            "batches": self.batches,
            "repeated_batches": self.repeated,
            "late_batches": self.late,
            "thrown_by_district_true_reported": self.thrown.tolist(),
        }


def empty_truth(plan: Plan) -> Truth:
    """Return the truth before the first day."""
    n = len(LABELS)
    return Truth(
        plan,
        np.zeros((3, n, n), dtype=np.int64),
        np.zeros((plan.bins, n), dtype=np.int64),
        np.zeros(plan.bins, dtype=np.int64),
    )


@dataclass(slots=True)
class Made:
    """The batches of some bins, made elsewhere, and what is true of them."""

    parcels: list[Parcel] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    late: int = 0
    thrown: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((3, len(LABELS), len(LABELS)), dtype=np.int64)
    )
    by_bin: list[NDArray[np.int64]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)


def simulate(
    plan: Plan,
    hub: Hub,
    submit: Submit[Made],
    own_clock: bool = False,
    note: Callable[[int], None] = lambda events: None,
) -> Truth:
    """Send everything that the bins of a city see, and return the truth.

    Args:
        plan: of the city.
        hub: where it goes.
        submit: makes batches elsewhere, see `makers`.
        own_clock: the hub's clock is not the city's: all is sent at the end of the last day.
        note: called with the number of events that were taken so far.

    Raises:
        UplinkError: the hub refuses a batch.
    """
    city = City(plan)
    truth = empty_truth(plan)
    next_seq = np.ones(plan.bins, dtype=np.int64)
    unsent_from = np.zeros(plan.bins, dtype=np.int64)
    end_utc_ms = plan.first_utc_ms + plan.days * DAY_MS - 1
    for day in range(plan.days):
        now_utc_ms = plan.first_utc_ms + (day + 1) * DAY_MS - 1
        sent_utc_ms = end_utc_ms if own_clock else now_utc_ms
        sending = [n for n in range(plan.bins) if city.sent_on(n, day) == day]
        chunks = [sending[i : i + _TOGETHER] for i in range(0, len(sending), _TOGETHER)]
        coming = []
        for some in chunks:
            state = (unsent_from[some], next_seq[some], truth.dropped[some])
            coming.append(submit(_make, plan, some, *state, day, sent_utc_ms))
        for some, made in zip(chunks, coming, strict=True):
            _deliver(truth, some, made(), hub, sent_utc_ms, next_seq)
            note(int(truth.by_bin.sum()))
        unsent_from[sending] = day + 1
    return truth


def _deliver(
    truth: Truth,
    numbers: Sequence[int],
    made: Made,
    hub: Hub,
    now_utc_ms: int,
    next_seq: NDArray[np.int64],
) -> None:
    hub.send(made.parcels, now_utc_ms)
    if made.repeats:  # their receipts were lost
        hub.send([made.parcels[i] for i in made.repeats], now_utc_ms)
    truth.thrown += made.thrown
    truth.by_bin[numbers] += np.array(made.by_bin)
    truth.dropped[numbers] += np.array(made.dropped)
    truth.batches += len(made.parcels)
    truth.repeated += len(made.repeats)
    truth.late += made.late
    next_seq[numbers] += np.array(made.items)


def _make(
    plan: Plan,
    numbers: Sequence[int],
    first_days: NDArray[np.int64],
    next_seq: NDArray[np.int64],
    dropped: NDArray[np.int64],
    day: int,
    sent_utc_ms: int,
) -> Made:
    """Make what some bins send on a day; pure, for a process of its own."""
    city = _city(plan)
    made = Made()
    for i, number in enumerate(numbers):
        seq = int(next_seq[i])
        lost = int(dropped[i])
        reported = np.zeros(len(LABELS), dtype=np.int64)
        for seen_on in range(int(first_days[i]), day + 1):
            seen = city.bin_day(number, seen_on)
            lost += int(seen.dropped.sum())
            some = parcels(city, seen, seq, lost, sent_utc_ms)
            if city.is_repeated(number, seen_on):
                made.repeats += range(len(made.parcels), len(made.parcels) + len(some))
            made.parcels += some
            made.late += len(some) if seen_on < day else 0
            pairs = len(LABELS) * seen.truth + seen.reported
            counts = np.bincount(pairs, minlength=len(LABELS) ** 2)
            made.thrown[city.district(number)] += counts.reshape(len(LABELS), len(LABELS))
            reported += np.bincount(seen.reported[~seen.dropped], minlength=len(LABELS))
            seq += len(seen.truth)
        made.by_bin.append(reported)
        made.items.append(seq - int(next_seq[i]))
        made.dropped.append(lost - int(dropped[i]))
    return made


_CITIES: dict[Plan, City] = {}


def _city(plan: Plan) -> City:
    """Return a city, built once in each process."""
    if plan not in _CITIES:
        _CITIES.clear()
        _CITIES[plan] = City(plan)
    return _CITIES[plan]


class HttpHub:
    """A hub behind an address.

    Args:
        url: http://host:port or https://..., with a path if it stands behind one.
        token: if it asks for one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._where = urlsplit(url)
        self._headers = {"Content-Type": MEDIA_TYPE}
        if token:
            self._headers["Authorization"] = bearer(token)
        self._pool = ThreadPoolExecutor(_CONNECTIONS)

    def send(self, some: Sequence[Parcel], now_utc_ms: int) -> None:
        """Deliver batches over several connections; one outbox stays in its order."""
        del now_utc_ms  # its clock is its own
        outboxes: dict[str, list[Parcel]] = {}
        for parcel in some:
            outboxes.setdefault(parcel.subject.outbox_id, []).append(parcel)
        shares = [list(outboxes.values())[i::_CONNECTIONS] for i in range(_CONNECTIONS)]
        for done in self._pool.map(self._send_share, shares):
            del done

    def close(self) -> None:
        """End the connections."""
        self._pool.shutdown()

    def _send_share(self, share: list[list[Parcel]]) -> None:
        secure = self._where.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._where.hostname or "", self._where.port, timeout=60)
        try:
            for outbox in share:
                for parcel in outbox:
                    self._post(connection, parcel)
        except OSError as error:
            raise UplinkError(f"{self._where.geturl()}: {error}") from error
        finally:
            connection.close()

    def _post(self, connection: http.client.HTTPConnection, parcel: Parcel) -> None:
        path = f"{self._where.path.rstrip('/')}{INGEST_PATH}"
        for _ in range(_TRIES):
            connection.request("POST", path, parcel.body, self._headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return
            if answer.status not in (429, 503):
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        raise UplinkError(f"{self._where.geturl()} answers {answer.status}: {text[:200]!r}")


def write_truth(truth: Truth, path: Path) -> None:
    """Write the truth as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(truth.to_dict(), indent=1) + "\n")
